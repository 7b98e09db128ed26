"""The log's writer thread and the real directory under it."""

import asyncio
import errno
import os
import random
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import ConfigError, WalCorrupt, WalFailed
from cluster.raft.durable_log import RecentEntries
from cluster.raft.journal import segment_name
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.raft.storage import MemoryStorage
from cluster.runtime.files import RealDirectory, RealFile
from cluster.runtime.wal import Wal
from cluster.types import Index, NodeId, NullLog, Term
from tests.runtime.memory_disk import MemoryDisk, MemoryFile

IDENTITY = "c/0001-001"


def entry(index: int, term: int = 1, payload: bytes = b"") -> Entry:
    return Entry(Index(index), Term(term), EntryKind.EFFECTS, payload or b"payload of %d/%d" % (index, term))


class Loop:
    """Stands for the event loop: callbacks queue up until the test runs them on its own thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.scheduled = 0

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        with self._condition:
            self._calls.append((callback, args))
            self.scheduled += 1
            self._condition.notify_all()

    def run_until(self, done: Callable[[], bool]) -> None:
        while not done():
            with self._condition:
                assert self._condition.wait_for(lambda: self._calls, timeout=30)
                callback, args = self._calls.pop(0)
            callback(*args)


def open_wal(
    path: Path, *, identity: str = IDENTITY, segment_bytes: int = 64 << 10, cache_bytes: int = 0
) -> Wal:
    return Wal.open(
        path, identity=identity, segment_bytes=segment_bytes, log=NullLog(), cache_bytes=cache_bytes
    )


def append_durably(wal: Wal, loop: Loop, hard_state: HardState | None, entries: list[Entry]) -> None:
    done: list[bool] = []
    wal.append(hard_state, entries, lambda: done.append(True))
    loop.run_until(lambda: bool(done))


def never_fails(error: BaseException) -> None:
    raise AssertionError(f"the log failed: {error}")


class SlowDisk(MemoryDisk):
    """Each durable write waits at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.arrived = threading.Event()
        self.gate.set()

    def create(self, name: str, size: int) -> MemoryFile:
        disk = self

        class SlowFile(MemoryFile):
            def write_durable(self, position: int, data: bytes) -> None:
                disk.arrived.set()
                assert disk.gate.wait(30)
                super().write_durable(position, data)

        self.names[name] = SlowFile(self, size)
        return self.names[name]


def test_appends_are_there_after_reopening(tmp_path: Path) -> None:
    loop = Loop()
    wal = open_wal(tmp_path / "deep" / "log")
    wal.start(loop.call_soon_threadsafe, never_fails)
    state = HardState(Term(3), NodeId("0001-002"))
    append_durably(wal, loop, state, [entry(1), entry(2, 3)])
    append_durably(wal, loop, None, [entry(3, 3, b"z" * 100_000)])
    wal.close()
    again = open_wal(tmp_path / "deep" / "log")
    assert again.hard_state == state
    assert (again.first_index, again.last_index) == (1, 3)
    assert [again.term(Index(index)) for index in range(4)] == [0, 1, 3, 3]
    assert again.entries(Index(1), Index(3), 1 << 20) == [entry(1), entry(2, 3), entry(3, 3, b"z" * 100_000)]
    assert again.entries(Index(1), Index(3), 1) == [entry(1)]
    again.close()
    again.close()


def test_what_gathers_during_a_sync_becomes_one_batch_and_one_wakeup() -> None:
    disk = SlowDisk()
    loop = Loop()
    wal = Wal(disk, IDENTITY, 64 << 10, NullLog(), 1 << 20)
    wal.start(loop.call_soon_threadsafe, never_fails)
    append_durably(wal, loop, HardState(Term(1), None), [])
    disk.gate.clear()
    disk.arrived.clear()
    order: list[int] = []
    wal.append(None, [entry(1)], lambda: order.append(1))
    assert disk.arrived.wait(30)
    for index in range(2, 12):
        wal.append(None, [entry(index)], lambda index=index: order.append(index))  # type: ignore[misc]
    before, wakeups = dict(wal.counters), loop.scheduled
    assert (wal.last_index, order) == (0, [])
    disk.gate.set()
    loop.run_until(lambda: len(order) == 11)
    assert order == list(range(1, 12))
    assert wal.counters["batches"] <= before["batches"] + 2
    assert loop.scheduled <= wakeups + 2
    assert wal.last_index == 11
    wal.close()


def test_nothing_is_visible_before_it_is_durable() -> None:
    disk = SlowDisk()
    loop = Loop()
    wal = Wal(disk, IDENTITY, 64 << 10, NullLog(), 1 << 20)
    wal.start(loop.call_soon_threadsafe, never_fails)
    append_durably(wal, loop, HardState(Term(1), NodeId("0001-001")), [entry(1)])
    disk.gate.clear()
    done: list[bool] = []
    wal.append(HardState(Term(2), NodeId("0001-003")), [entry(2, 2)], lambda: done.append(True))
    assert wal.hard_state == HardState(Term(1), NodeId("0001-001"))
    assert wal.last_index == 1
    with pytest.raises(KeyError):
        wal.term(Index(2))
    disk.gate.set()
    loop.run_until(lambda: bool(done))
    assert wal.hard_state == HardState(Term(2), NodeId("0001-003"))
    assert wal.term(Index(2)) == 2
    wal.close()


@pytest.mark.parametrize("again", [errno.EIO, errno.ENOSPC])
def test_a_failed_write_is_final(again: int) -> None:
    disk = MemoryDisk()
    loop = Loop()
    wal = Wal(disk, IDENTITY, 64 << 10, NullLog(), 1 << 20)
    failures: list[BaseException] = []
    wal.start(loop.call_soon_threadsafe, failures.append)
    append_durably(wal, loop, HardState(Term(1), None), [entry(1)])
    disk.trip = OSError(again, os.strerror(again))
    disk.trip_at = 0
    acked: list[int] = []
    wal.append(None, [entry(2)], lambda: acked.append(2))
    loop.run_until(lambda: bool(failures))
    disk.trip_at = None  # the next fsync would say that all is well
    wal.append(None, [entry(3)], lambda: acked.append(3))
    wal.seal()
    wal.close()
    assert acked == []
    assert len(failures) == 1 and isinstance(failures[0], WalFailed)
    assert os.strerror(again) in str(failures[0])
    assert wal.last_index == 1


def test_close_writes_what_was_appended_and_seals_it(tmp_path: Path) -> None:
    loop = Loop()
    wal = open_wal(tmp_path)
    wal.start(loop.call_soon_threadsafe, never_fails)
    wal.append(HardState(Term(1), None), [], lambda: None)
    for index in range(1, 50):
        wal.append(None, [entry(index)], lambda: None)
    wal.close()
    wal.append(None, [entry(50)], lambda: None)
    assert "wal" not in {thread.name for thread in threading.enumerate()}
    again = open_wal(tmp_path)
    assert again.last_index == 49
    assert again._journal.recovered.sealed
    again.close()


def test_a_seal_is_written_once_for_everything_before_it() -> None:
    disk = MemoryDisk()
    loop = Loop()
    wal = Wal(disk, IDENTITY, 64 << 10, NullLog(), 1 << 20)
    wal.start(loop.call_soon_threadsafe, never_fails)
    append_durably(wal, loop, HardState(Term(1), None), [entry(1)])
    assert not Wal(disk.copy(), IDENTITY, 64 << 10, NullLog(), 0)._journal.recovered.sealed
    for _ in range(3):
        wal.seal()
    deadline = time.monotonic() + 30
    while wal.counters["syncs"] < 2 and time.monotonic() < deadline:
        wal.seal()
        time.sleep(0.001)
    wal.seal()
    append_durably(wal, loop, None, [])
    assert wal.counters["syncs"] == 2
    assert Wal(disk.copy(), IDENTITY, 64 << 10, NullLog(), 0)._journal.recovered.sealed
    wal.close()


def test_two_cannot_open_one_log(tmp_path: Path) -> None:
    wal = open_wal(tmp_path)
    with pytest.raises(ConfigError, match="in use"):
        open_wal(tmp_path)
    wal.close()
    open_wal(tmp_path).close()


def test_another_identity_is_refused_and_the_lock_given_back(tmp_path: Path) -> None:
    open_wal(tmp_path).close()
    with pytest.raises(ConfigError, match="0001-009"):
        open_wal(tmp_path, identity="c/0001-009")
    open_wal(tmp_path).close()


def test_a_corrupt_log_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    loop = Loop()
    wal = open_wal(tmp_path)
    wal.start(loop.call_soon_threadsafe, never_fails)
    append_durably(wal, loop, HardState(Term(1), None), [entry(1), entry(2)])
    append_durably(wal, loop, None, [entry(3)])
    wal.close()
    path = tmp_path / segment_name(1)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"payload of 1/1")] ^= 1
    path.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(WalCorrupt, match=segment_name(1)):
            open_wal(tmp_path)
    assert path.read_bytes() == damaged


def test_files_are_private_and_links_are_not_followed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    open_wal(log).close()
    assert stat.S_IMODE(log.stat().st_mode) == 0o700
    for path in log.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(log)
    with pytest.raises(ConfigError, match="link"):
        open_wal(tmp_path / "link")
    segment = log / segment_name(1)
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WalFailed):
        open_wal(log)


def test_a_file_in_place_of_the_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("not a directory")
    with pytest.raises(ConfigError, match="log directory"):
        open_wal(tmp_path / "log")
    with pytest.raises(ConfigError, match="log directory"):
        open_wal(tmp_path / "log" / "deeper")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = RealDirectory(tmp_path)
    file = directory.create("x", 4096)
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, data, at, flags: real(fd, [bytes(data[0])[:7]], at, flags))
    file.write_durable(5, b"0123456789" * 3)
    assert file.read(5, 30) == b"0123456789" * 3
    assert file.read(4000, 200) == bytes(96)
    file.close()
    directory.close()


@pytest.mark.parametrize("cache_bytes", [0, 300, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_the_log_equals_its_twin_through_overwrites_and_restarts(
    tmp_path: Path, seed: int, cache_bytes: int
) -> None:
    rng = random.Random(seed)
    twin = MemoryStorage()
    for _ in range(4):
        loop = Loop()
        wal = open_wal(tmp_path, segment_bytes=4096, cache_bytes=cache_bytes)
        wal.start(loop.call_soon_threadsafe, never_fails)
        for _ in range(25):
            state = None
            term = Term(twin.hard_state.term)
            if term == 0 or rng.random() < 0.2:
                term = Term(term + 1)
                state = HardState(term, rng.choice([None, NodeId("0001-002")]))
            low = twin.last_index + 1
            if state is not None:
                low = rng.randint(max(1, low - 5), low)
            entries = [
                entry(low + n, term, rng.randbytes(rng.choice([1, 30, 500, 2000])))
                for n in range(rng.randint(0, 4))
            ]
            append_durably(wal, loop, state, entries)
            twin.append(state, entries)
            assert (wal.hard_state, wal.last_index) == (twin.hard_state, twin.last_index)
            if twin.last_index:
                first = Index(rng.randint(1, twin.last_index))
                last = Index(rng.randint(first, twin.last_index))
                bytes_max = rng.choice([0, 100, 5000, 1 << 20])
                assert list(wal.entries(first, last, bytes_max)) == list(twin.entries(first, last, bytes_max))
                assert wal.term(last) == twin.term(last)
        assert wal.bytes_on_disk >= 4096
        wal.close()


def test_recent_entries_forget_the_oldest_and_what_was_replaced() -> None:
    recent = RecentEntries(100)
    for index in range(1, 11):
        recent.put(entry(index, 1, bytes(20)))
    assert recent.entries(5, 10, 1000) is None
    assert [one.index for one in recent.entries(6, 10, 1000) or ()] == [6, 7, 8, 9, 10]
    assert [one.index for one in recent.entries(7, 10, 45) or ()] == [7, 8]
    recent.put(entry(8, 2, bytes(20)))
    assert [(one.index, one.term) for one in recent.entries(6, 10, 1000) or ()] == [(6, 1), (7, 1), (8, 2)]
    recent.put(entry(5, 3, bytes(500)))
    assert recent.entries(5, 5, 1000) is None, "larger than the whole cache"


def test_callbacks_run_on_the_event_loops_thread(tmp_path: Path) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        wal = open_wal(tmp_path)
        wal.start(loop.call_soon_threadsafe, never_fails)
        done: asyncio.Future[str] = loop.create_future()
        wal.append(
            HardState(Term(1), None), [entry(1)], lambda: done.set_result(threading.current_thread().name)
        )
        assert await asyncio.wait_for(done, 30) == threading.current_thread().name
        wal.close()

    asyncio.run(test())


CHILD = """
import sys, threading
from pathlib import Path
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.runtime.wal import Wal
from cluster.types import NullLog
wal = Wal.open(Path(sys.argv[1]), identity="c/0001-001", segment_bytes=16384, log=NullLog())
wal.start(lambda callback, *args: callback(*args), lambda error: print("failed", error, flush=True))
index = wal.last_index
wal.append(HardState(wal.hard_state.term + 1, None), [], lambda: None)
while True:
    index += 1
    durable = threading.Event()
    payload = index.to_bytes(8, "little") * (index % 60 + 1)
    wal.append(None, [Entry(index, 1, EntryKind.EFFECTS, payload)], durable.set)
    durable.wait()
    print(index, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    acked = 0
    for round_ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                acked = int(line)
                if acked >= 120 * (round_ + 1):
                    break
        finally:
            child.kill()
            rest = child.stdout.read().split()
            child.stdout.close()
            child.wait()
        acked = max([acked, *map(int, rest)])
        wal = open_wal(tmp_path, segment_bytes=16384)
        assert wal.last_index in (acked, acked + 1)
        assert wal.hard_state.term == round_ + 1
        for one in wal.entries(Index(1), wal.last_index, 1 << 30):
            assert one.payload == one.index.to_bytes(8, "little") * (one.index % 60 + 1)
        wal.close()


def test_a_real_file_and_a_simulated_one_agree(tmp_path: Path) -> None:
    real = RealDirectory(tmp_path / "real")
    fake = MemoryDisk()
    for directory in (real, fake):
        file = directory.create("a.tmp", 100)
        assert file.size() == 100
        assert file.read(0, 200) == bytes(100)
        file.write(90, b"x" * 20)
        file.write_durable(3, b"abc")
        file.sync()
        file.close()
        directory.rename("a.tmp", "a")
        directory.sync_dir()
        assert list(directory.list()) == ["a"]
        file = directory.open("a")
        assert (file.size(), file.read(2, 5), file.read(108, 50)) == (110, b"\0abc\0", b"xx")
        assert file.read(500, 10) == b""
        file.close()
        directory.unlink("a")
        assert list(directory.list()) == []
    with pytest.raises(FileExistsError):
        real.create("b", 10)
        real.create("b", 10)
    assert isinstance(real.open("b"), RealFile)
    real.close()
