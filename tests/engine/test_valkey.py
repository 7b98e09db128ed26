"""What only a real process can do: die, hang, be orphaned, be the wrong program."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import EngineError
from cluster.runtime.engine_trial import try_engine
from cluster.runtime.valkey import SOCKET_NAME, ValkeyEngine, check_engine, find_engine
from cluster.runtime.valkey_binary import checked_version
from cluster.types import NullLog, Offset
from tests.engine.driving import (
    DEADLINE_S,
    REPLICATION_ID,
    Client,
    Recorder,
    digest_of,
    engines,
    feed_empty,
    new_primary,
    pack,
    promoted,
    run,
    until_offset,
)

HOST = """
import asyncio, sys
from pathlib import Path
from tests.engine.driving import Recorder, new_engine

async def main():
    recorder = Recorder()
    engine = new_engine("valkey", Path(sys.argv[1]), recorder, guard=sys.argv[2])
    engine.boot()
    await recorder.until_event("booted")
    print(engine.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def valkey(engine: object) -> ValkeyEngine:
    assert isinstance(engine, ValkeyEngine)
    return engine


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while is_running(pid):  # noqa: ASYNC110 (not our child)
            await asyncio.sleep(0.005)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose name leaves room for a socket: nobody tidies up after a SIGKILLed node."""
    with tempfile.TemporaryDirectory(prefix="az-test-") as directory:
        yield Path(directory)


def fake_engine(directory: Path, output: str) -> Path:
    path = directory / "fake"
    path.write_text(f"#!/bin/sh\necho '{output}'\n")
    path.chmod(0o755)
    return path


# ---------------------------------------------------------------- death


@pytest.mark.parametrize("guard", ["signal", "pipe"])
def test_a_killed_process_is_reported_once_and_its_lanes_close(tmp_path: Path, guard: str) -> None:
    if guard == "signal" and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")

    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder, _ = await new_primary(make, guard=guard)
            pid = valkey(engine).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            _, reason = await recorder.until_event("died")
            assert "SIGKILL" in str(reason) or "137" in str(reason)
            assert valkey(engine).pid is None
            closed = Client(engine)
            await asyncio.wait_for(closed.closed.wait(), DEADLINE_S)
            engine.boot()
            await recorder.until_event("booted")
            assert ("died",) not in [event[:1] for event in recorder.log]

    run(story())


@pytest.mark.parametrize("guard", ["signal", "pipe"])
def test_kill_ends_the_process_and_is_reaped(tmp_path: Path, guard: str) -> None:
    if guard == "signal" and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")

    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make(guard=guard)
            pid = valkey(engine).pid
            assert pid is not None
            recorder.log.clear()
            engine.kill()
            await valkey(engine).wait_ended()
            await until_gone(pid)
            assert recorder.log == []

    run(story())


def test_a_stopped_process_is_killed_as_hung(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make(hung_after_s=0.2, ping_interval_s=0.02)
            pid = valkey(engine).pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            _, reason = await recorder.until_event("died")
            assert str(reason).startswith("hung")
            await valkey(engine).wait_ended()
            await until_gone(pid)

    run(story())


def test_a_process_that_answers_is_not_hung(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder, client = await new_primary(make, hung_after_s=1.0, ping_interval_s=0.005)
            for n in range(200):
                assert await client.call("SET", "k", n) == b"OK"
                await asyncio.sleep(0)
            assert valkey(engine).pid is not None
            assert recorder.log == []

    run(story())


@pytest.mark.parametrize("guard", ["signal", "pipe"])
def test_an_engine_dies_with_its_killed_node(short_path: Path, guard: str) -> None:
    if guard == "signal" and sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(short_path), guard],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    try:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        assert is_running(pid)
        host.kill()
        host.wait()
        run(until_gone(pid))
    finally:
        host.kill()
        host.wait()


def test_the_guard_does_not_start_a_program_for_a_dead_parent(tmp_path: Path) -> None:
    guard = Path(find_engine.__code__.co_filename).with_name("guard.py")
    mark = tmp_path / "started"
    argv = [sys.executable, "-I", "-S", str(guard), "signal", "1", "/usr/bin/touch", str(mark)]
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    assert subprocess.run(argv, check=False).returncode == 113
    assert not mark.exists()


# ---------------------------------------------------------------- starting


def test_a_long_directory_gets_a_short_private_socket_directory(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path / ("d" * 120)) as make:
            engine, _, client = await new_primary(make)
            assert await client.call("PING") == b"PONG"
            assert not (tmp_path / ("d" * 120) / "0" / SOCKET_NAME).exists()
            assert valkey(engine).directory.stat().st_mode & 0o777 == 0o700

    run(story())


def test_the_socket_directory_of_a_killed_node_is_removed_at_the_next_boot(tmp_path: Path) -> None:
    async def story() -> None:
        long = tmp_path / ("d" * 120)
        async with engines("valkey", long) as make:
            left = Path(tempfile.mkdtemp(prefix="azimuth-"))
            (long / "0").mkdir(parents=True)
            (long / "0" / "socket").symlink_to(left)
            await make()
            assert not left.exists()
            used = (long / "0" / "socket").resolve()
            assert (used / SOCKET_NAME).exists()
        assert not used.exists()

    run(story())


def test_the_directory_is_private_and_the_command_line_holds_no_secret(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, _, client = await new_primary(make)
            pid = valkey(engine).pid
            secret = (await client.call("CONFIG", "GET", "masterauth"))[1].decode()
            assert len(secret) == 64
            assert secret not in " ".join(psutil.Process(pid).cmdline())
            assert secret not in (tmp_path / "0" / "engine.log").read_text()
            assert (tmp_path / "0").stat().st_mode & 0o777 == 0o700
            assert psutil.Process(pid).net_connections("tcp") == [
                connection
                for connection in psutil.Process(pid).net_connections("tcp")
                if connection.status != psutil.CONN_LISTEN
            ]

    run(story())


def test_data_left_in_the_directory_is_not_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            _, _, client = await new_primary(make)
            await client.call("SET", "k", 1)
            await client.call("SAVE")
            assert (tmp_path / "0" / "dump.rdb").exists()
            old = tmp_path / "1"
            old.mkdir()
            (tmp_path / "0" / "dump.rdb").rename(old / "dump.rdb")
            engine, recorder = await make()
            assert await Client(engine).call("DBSIZE") == 0
            await recorder.until_event("feed_requested", None)

    run(story())


def test_a_program_that_is_no_engine_is_reported_as_dead(tmp_path: Path) -> None:
    async def story() -> None:
        recorder = Recorder()
        engine = ValkeyEngine(
            binary=fake_engine(tmp_path, "I am no engine"),
            directory=tmp_path / "e",
            replication_id=REPLICATION_ID,
            events=recorder,
            log=NullLog(),
            loop=asyncio.get_running_loop(),
        )
        engine.boot()
        _, reason = await recorder.until_event("died")
        assert "exit code 0" in str(reason)
        await engine.wait_ended()

    run(story())


def test_a_start_that_fails_says_what_the_engine_said(tmp_path: Path) -> None:
    async def story() -> None:
        recorder = Recorder()
        engine = ValkeyEngine(
            binary=find_engine(None),
            directory=tmp_path / "e",
            replication_id=REPLICATION_ID,
            events=recorder,
            log=NullLog(),
            loop=asyncio.get_running_loop(),
            backlog="nonsense",
        )
        engine.boot()
        _, reason = await recorder.until_event("died")
        assert "exit code 1; it said: " in str(reason)
        await engine.wait_ended()

    run(story())


def test_a_directory_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "file").write_text("")
        recorder = Recorder()
        engine = ValkeyEngine(
            binary=find_engine(None),
            directory=tmp_path / "file" / "e",
            replication_id=REPLICATION_ID,
            events=recorder,
            log=NullLog(),
            loop=asyncio.get_running_loop(),
        )
        engine.boot()
        _, reason = await recorder.until_event("died")
        assert "Not a directory" in str(reason)

    run(story())


# ---------------------------------------------------------------- which binary


def test_the_bundled_engine_is_found_and_good() -> None:
    assert check_engine(find_engine(None)).startswith("Valkey ")


def test_a_missing_engine_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no such file"):
        find_engine(str(tmp_path / "nothing"))
    with pytest.raises(EngineError, match="no such file"):
        find_engine("no-such-engine-on-path")
    with pytest.raises(EngineError, match="is a directory"):
        find_engine(str(tmp_path))


def test_a_program_that_goes_by_its_name_is_run_under_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's redis-server is a symbolic link to redis-check-rdb: one file, told apart by argv[0]."""
    real = tmp_path / "redis-check-rdb"
    real.write_text(
        '#!/bin/sh\n[ "$(basename "$0")" = redis-server ] && echo "Redis server v=7.2.4 sha=0:0"\n'
    )
    real.chmod(0o755)
    link = tmp_path / "redis-server"
    link.symlink_to(real.name)
    assert check_engine(find_engine(str(link))) == "Redis 7.2.4"
    monkeypatch.chdir(tmp_path)
    assert find_engine("./redis-server") == link
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_engine("redis-server") == link


def test_a_file_that_cannot_be_executed_is_one_clear_line(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(EngineError, match="not executable"):
        find_engine(str(plain))


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        ("Redis server v=6.2.14 sha=0", "Redis 6.2.14, at least Redis 7.0 is needed"),
        ("Valkey server v=7.2.5 sha=0", "Valkey 7.2.5, at least Valkey 8.0 is needed"),
        ("hello", "neither a Valkey nor a Redis"),
    ],
)
def test_an_old_or_foreign_program_is_refused(tmp_path: Path, output: str, complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        check_engine(fake_engine(tmp_path, output))


def test_versions_are_compared_as_numbers() -> None:
    assert checked_version("Valkey", "10.0.1") == "Valkey 10.0.1"
    assert checked_version("Redis", "7.0.0") == "Redis 7.0.0"
    with pytest.raises(EngineError):
        checked_version("Redis", "6.10.0")


def test_a_program_that_cannot_run_is_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)
    with pytest.raises(EngineError, match="did not run"):
        check_engine(broken)


@pytest.mark.slow
def test_a_sound_engine_passes_its_trial() -> None:
    try_engine(find_engine(None))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "complaint"),
    [
        ("echo 1; echo '12:M 01 Jan 2026 00:00:00.000 # no such option'; exit 1", "code 1; it said: no such"),
        ("kill -SEGV $$", "was killed by SIGSEGV"),
        ("exec sleep 600", r"does not answer within 0\.3 s of its start"),
    ],
    ids=["ends", "crashes", "hangs"],
)
def test_an_engine_that_cannot_start_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, complaint: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    engine = tmp_path / "engine"
    engine.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "Valkey server v=9.1.2 sha=0" && exit\n{does}\n'
    )
    engine.chmod(0o755)
    assert check_engine(engine) == "Valkey 9.1.2"
    with pytest.raises(EngineError, match=complaint) as caught:
        try_engine(engine, timeout_s=0.3 if "sleep" in does else 30)
    assert str(caught.value).startswith(f"engine '{engine}': ")
    assert list((tmp_path / "t").iterdir()) == []
    assert not [p for p in psutil.Process().children(recursive=True) if "sleep" in p.name()]


# ---------------------------------------------------------------- feed and tap


async def feed_port(engine: object) -> int:
    """Where the engine looks for its primary, as INFO tells."""
    info = (await Client(valkey(engine)).call("INFO", "replication")).decode()
    return int(info.split("master_port:")[1].split("\r\n")[0])


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (pack("AUTH", "guess"), b""),
        (pack("REPLCONF", "capa", "psync2"), b""),
        (pack("PSYNC", "?", "-1"), b""),
        (pack("PING") + pack("PSYNC", "?", "-1"), b"-NOAUTH Authentication required.\r\n"),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"*1\r\n$100\r\n" + bytes(5000), b""),
    ],
)
def test_a_stranger_on_the_feed_port_gets_nothing(tmp_path: Path, sent: bytes, answer: bytes) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make()
            await recorder.until_event("feed_requested", None)
            reader, writer = await asyncio.open_connection("127.0.0.1", await feed_port(engine))
            writer.write(sent)
            got = b""
            try:
                while piece := await asyncio.wait_for(reader.read(1000), DEADLINE_S):
                    got += piece
            except ConnectionResetError:
                pass
            assert got in (answer, b"")
            writer.close()
            assert recorder.log == []

    run(story())


def test_an_engine_whose_feed_breaks_asks_again_from_where_it_stands(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make()
            await feed_empty(engine, recorder)
            stream = pack("SELECT", 0) + pack("SET", "k", 1)
            engine.feed(stream + pack("MULTI") + pack("SET", "k", 2))
            await until_offset(engine, recorder, len(stream))
            client = Client(engine)
            killed = await client.call("CLIENT", "KILL", "TYPE", "master")
            assert killed == 1
            await recorder.until_event("feed_lost")
            assert await recorder.until_event("feed_requested") == ("feed_requested", len(stream))
            engine.feed_continue(Offset(len(stream)))
            engine.feed(pack("SET", "k", 3))
            await until_offset(engine, recorder, len(stream + pack("SET", "k", 3)))
            assert await client.call("GET", "k") == b"3"

    run(story())


def test_an_answer_to_an_older_request_makes_it_ask_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make()
            await recorder.until_event("feed_requested", None)
            engine.feed_continue(Offset(17))
            await recorder.until_event("feed_lost")
            await feed_empty(engine, recorder)
            await until_offset(engine, recorder, 0)

    run(story())


def test_a_broken_tap_resumes_without_a_gap(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            _, recorder, client = await new_primary(make)
            await client.call("SET", "k", 0)
            client.lane.write(
                b"".join(pack("INCR", "k") for _ in range(100))
                + pack("CLIENT", "KILL", "TYPE", "replica")
                + b"".join(pack("INCR", "k") for _ in range(100))
            )
            for _ in range(201):
                await client.reply()
            offset = await client.role_offset()
            await recorder.until(lambda: recorder.position >= offset)
            expected = pack("SELECT", 0) + pack("SET", "k", 0) + pack("INCR", "k") * 200
            assert bytes(recorder.effects) == expected
            assert recorder.log == []

    run(story())


def test_a_tap_that_cannot_resume_is_lost(tmp_path: Path) -> None:
    """A backlog of the smallest size (16 kB) cannot bridge a megabyte."""

    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder, client = await new_primary(make, backlog="16kb")
            value = bytes(100_000)
            client.lane.write(
                pack("CLIENT", "KILL", "TYPE", "replica")
                + b"".join(pack("SET", "k", value) for _ in range(10))
            )
            await recorder.until_event("tap_lost")
            engine.demote()
            event = await recorder.until_event("feed_requested")
            assert isinstance(event[1], int)
            assert event[1] > recorder.position
            engine.feed_full(Offset(0), b"")
            await until_offset(engine, recorder, 0)
            assert (await digest_of(engine))[0] == 0
            await promoted(engine, recorder)

    run(story())


def test_expiry_is_not_the_replicas_business(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make()
            await feed_empty(engine, recorder)
            stream = pack("SELECT", 0) + pack("SET", "old", 1, "PXAT", 1)
            engine.feed(stream)
            await until_offset(engine, recorder, len(stream))
            client = Client(engine)
            assert await client.call("DBSIZE") == 1
            assert await client.call("GET", "old") is None
            assert await client.call("DBSIZE") == 1

    run(story())


def test_a_script_cannot_migrate_keys_away(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            _, _, client = await new_primary(make)
            script = "return server.call('MIGRATE', '127.0.0.1', '1', 'k', '0', '10')"
            reply = await client.call("EVAL", script, 0)
            assert isinstance(reply, Exception) and "Unknown command" in str(reply)

    run(story())


@pytest.mark.parametrize("order", ["promote", "demote"])
def test_orders_to_an_engine_whose_life_is_already_over_are_harmless(tmp_path: Path, order: str) -> None:
    """It is dead, and `on_died` is about to say so."""

    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder, _ = await new_primary(make)
            life = valkey(engine)._life
            assert life is not None
            life.doom("the test")
            getattr(engine, order)()
            await recorder.until_event("died")

    run(story())


def test_effects_meant_for_an_older_feed_do_not_come_before_the_answer_on_a_new_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            engine, recorder = await make()
            await recorder.until_event("feed_requested", None)
            engine.feed(pack("SELECT", 0) + pack("SET", "k", "wrong"))
            engine.feed_full(Offset(0), b"")
            engine.feed(pack("SELECT", 0) + pack("SET", "k", "right"))
            await until_offset(engine, recorder, len(pack("SELECT", 0) + pack("SET", "k", "right")))
            assert await Client(engine).call("GET", "k") == b"right"

    run(story())
