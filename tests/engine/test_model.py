"""What only the model has: its command table, its clock, its crashes."""

import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.engine.model import CommandReader, ModelEngine, pack
from cluster.engine.model_commands import COMMAND_TABLE
from cluster.engine.model_data import HANDLERS, encode
from cluster.errors import EngineError
from cluster.types import Offset
from tests.engine.driving import engines, run


class HandClock:
    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        return self.us


class Later:
    """A `defer` that runs what it holds when told to."""

    def __init__(self) -> None:
        self.acts: deque[Callable[[], None]] = deque()

    def __call__(self, act: Callable[[], None]) -> None:
        self.acts.append(act)

    def run(self) -> None:
        while self.acts:
            self.acts.popleft()()


class Events:
    """`EngineEvents` as a plain list."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def on_booted(self, version: str, command_table: object) -> None:
        self.seen.append(("booted",))

    def on_feed_requested(self, offset: Offset | None) -> None:
        self.seen.append(("feed_requested", offset))

    def on_feed_drained(self) -> None:
        self.seen.append(("feed_drained",))

    def on_feed_lost(self) -> None:
        self.seen.append(("feed_lost",))

    def on_offset(self, offset: Offset) -> None:
        self.seen.append(("offset", offset))

    def on_promoted(self, offset: Offset) -> None:
        self.seen.append(("promoted", offset))

    def on_effects(self, data: bytes) -> None:
        self.seen.append(("effects", data))

    def on_tap_lost(self) -> None:
        self.seen.append(("tap_lost",))

    def on_died(self, reason: str) -> None:
        self.seen.append(("died", reason))


class Bench:
    """A model engine under full control."""

    def __init__(self) -> None:
        self.clock, self.later, self.events = HandClock(), Later(), Events()
        self.engine = ModelEngine(events=self.events, clock=self.clock, defer=self.later)

    def promoted(self) -> "Bench":
        self.engine.boot()
        self.later.run()
        self.engine.feed_full(Offset(0), b"")
        self.engine.promote()
        self.later.run()
        self.events.seen.clear()
        return self

    def client(self) -> tuple[list[bytes], Callable[..., None]]:
        replies: list[bytes] = []
        lane = self.engine.open_lane(replies.append, lambda: replies.append(b"closed"))

        def send(*words: bytes) -> None:
            lane.write(pack(words))
            self.later.run()

        return replies, send


def test_the_command_table_is_valkeys_word_for_word(tmp_path: Path) -> None:
    async def story() -> None:
        async with engines("valkey", tmp_path) as make:
            _, recorder = await make()
            assert isinstance(recorder.command_table, list)
            real = {entry[0]: entry for entry in recorder.command_table}
            for entry in COMMAND_TABLE:
                name = entry[0]
                assert isinstance(name, bytes)
                assert entry[:9] == real[name][:9]
                inner = {sub[0]: sub for sub in real[name][9]}
                assert isinstance(entry[9], list)
                for sub in entry[9]:
                    assert sub == inner[sub[0]]

    run(story())


def test_every_handler_is_in_the_table() -> None:
    assert set(HANDLERS) <= {entry[0] for entry in COMMAND_TABLE}


def test_the_timer_deletes_what_has_expired_in_key_order() -> None:
    bench = Bench().promoted()
    _, send = bench.client()
    for key in (b"b", b"a"):
        send(b"SET", key, b"v", b"PX", b"10")
    send(b"SET", b"c", b"v", b"PX", b"1000")
    bench.events.seen.clear()
    bench.engine.tick()
    bench.later.run()
    assert bench.events.seen == []
    bench.clock.us += 11_000
    bench.engine.tick()
    bench.later.run()
    assert bench.events.seen == [("effects", pack([b"UNLINK", b"a"])), ("effects", pack([b"UNLINK", b"b"]))]


def test_a_replica_never_expires() -> None:
    bench = Bench()
    bench.engine.boot()
    bench.later.run()
    bench.engine.feed_full(Offset(0), b"")
    bench.engine.feed(pack([b"SET", b"k", b"v", b"PXAT", b"1"]))
    replies, send = bench.client()
    bench.engine.tick()
    send(b"GET", b"k")
    send(b"DBSIZE")
    assert replies == [b"$-1\r\n", b":1\r\n"]


def test_nothing_is_called_from_inside_a_method() -> None:
    bench = Bench().promoted()
    closed: list[str] = []
    lane = bench.engine.open_lane(lambda data: closed.append("data"), lambda: closed.append("closed"))
    lane.write(pack([b"SET", b"k", b"v"]))
    bench.engine.demote()
    bench.engine.ask_offset()
    bench.engine.ask_digest(lambda offset, digest: closed.append("digest"))
    assert (closed, bench.events.seen) == ([], [])
    bench.later.run()
    assert closed == ["closed", "digest"]
    assert bench.events.seen == [("feed_requested", 0), ("offset", 0)]


def test_a_crash_is_reported_once_and_closes_lanes_silently() -> None:
    bench = Bench().promoted()
    replies, send = bench.client()
    bench.engine.crash("power")
    send(b"PING")
    bench.later.run()
    assert bench.events.seen == [("died", "power")]
    assert replies == []
    bench.engine.boot()
    bench.later.run()
    assert bench.events.seen[1:] == [("booted",), ("feed_requested", None)]


def test_a_broken_feed_forgets_a_dangling_transaction() -> None:
    bench = Bench()
    bench.engine.boot()
    bench.later.run()
    bench.engine.feed_full(Offset(0), b"")
    whole = pack([b"SET", b"k", b"1"])
    bench.engine.feed(whole + pack([b"MULTI"]) + pack([b"SET", b"k", b"2"]) + b"*2\r\n$3")
    bench.engine.break_feed()
    bench.later.run()
    assert bench.events.seen[-2:] == [("feed_lost",), ("feed_requested", len(whole))]
    bench.engine.feed_continue(Offset(len(whole)))
    bench.engine.feed(pack([b"APPEND", b"k", b"x"]))
    replies, send = bench.client()
    send(b"GET", b"k")
    assert replies == [b"$2\r\n1x\r\n"]


def test_bytes_that_are_no_command_close_the_lane() -> None:
    bench = Bench().promoted()
    replies: list[bytes] = []
    lane = bench.engine.open_lane(replies.append, lambda: replies.append(b"closed"))
    lane.write(b"GET k\r\n")
    bench.later.run()
    assert replies == [b"closed"]


def test_a_snapshot_is_refused() -> None:
    bench = Bench()
    bench.engine.boot()
    with pytest.raises(EngineError):
        bench.engine.feed_full(Offset(0), b"REDIS")


@given(
    st.lists(st.lists(st.binary(max_size=30), min_size=1, max_size=5), max_size=8),
    st.lists(st.integers(min_value=0, max_value=300), max_size=10),
)
def test_the_command_reader_finds_the_same_commands_however_they_are_cut(
    commands: list[list[bytes]], cuts: list[int]
) -> None:
    stream = b"".join(pack(argv) for argv in commands)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    reader, found = CommandReader(), []
    for start, end in itertools.pairwise(edges):
        reader.feed(stream[start:end])
        while (argv := reader.next()) is not None:
            found.append(argv)
    assert found == commands
    assert reader.consumed == len(stream)


@pytest.mark.parametrize(
    ("reply", "resp2", "resp3"),
    [
        (None, b"$-1\r\n", b"_\r\n"),
        (1.5, b"$3\r\n1.5\r\n", b",1.5\r\n"),
        (float("-inf"), b"$4\r\n-inf\r\n", b",-inf\r\n"),
        ({b"a": b"b"}, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"%1\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ([1, [b"x"]], b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n"),
    ],
)
def test_replies_are_encoded_for_both_protocols(reply: object, resp2: bytes, resp3: bytes) -> None:
    assert encode(reply) == resp2  # type: ignore[arg-type]  # parametrize loses the type
    assert encode(reply, resp3=True) == resp3  # type: ignore[arg-type]
