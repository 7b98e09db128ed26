"""A lane gives every reply to whom it belongs, in order, and a batch to the gate with the offset that
covers it.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.front.lane import ClientLane, role_offset
from cluster.types import Offset


class FakeEngine:
    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def open_lane(self, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> "FakeEngine":
        return self

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True


class FakeGate:
    def __init__(self) -> None:
        self.parked: list[tuple[Offset, Callable[[], None]]] = []

    def submit(self, offset: Offset, deliver: Callable[[], None]) -> None:
        self.parked.append((offset, deliver))


class Receiver:
    def __init__(self) -> None:
        self.data = b""
        self.count = 0

    def deliver(self, data: bytes, count: int) -> None:
        self.data += data
        self.count += count


def make(gate: FakeGate | None) -> tuple[ClientLane, FakeEngine, list[Offset]]:
    engine = FakeEngine()
    boundaries: list[Offset] = []
    soon: list[Callable[[], None]] = []
    lane = ClientLane(
        engine=engine,  # type: ignore[arg-type]  # only open_lane is used
        protocol=2,
        gate=gate,
        on_boundary=boundaries.append,
        on_lost=lambda: None,
        call_soon=soon.append,
    )
    return lane, engine, boundaries


ROLE_100 = b"*3\r\n$6\r\nmaster\r\n:100\r\n*1\r\n*3\r\n$0\r\n\r\n$1\r\n0\r\n$2\r\n90\r\n"


def test_role_offset() -> None:
    assert role_offset(ROLE_100) == 100
    assert role_offset(b"*5\r\n$5\r\nslave\r\n") is None


def test_a_batch_waits_in_the_gate_with_the_offset_of_its_role() -> None:
    gate = FakeGate()
    lane, engine, boundaries = make(gate)
    one, two = Receiver(), Receiver()
    lane.submit(one, b"A")
    lane.submit(two, b"B")
    lane.submit(one, b"C")
    lane.flush()
    assert engine.sent == b"ABC*1\r\n$4\r\nROLE\r\n"
    lane.on_data(b"+OK\r\n$3\r\nfoo\r\n:5\r\n")
    assert gate.parked == [] and one.count == 0
    lane.on_data(ROLE_100)
    assert boundaries == [100]
    assert [offset for offset, _ in gate.parked] == [100]
    assert one.count == two.count == 0
    gate.parked[0][1]()
    assert (one.data, one.count) == (b"+OK\r\n:5\r\n", 2)
    assert (two.data, two.count) == (b"$3\r\nfoo\r\n", 1)


def test_a_large_batch_has_a_boundary_in_its_middle() -> None:
    """An entry of the log ends only at a boundary; what is too large for one can't be replicated at all."""
    gate = FakeGate()
    lane, engine, boundaries = make(gate)
    one = Receiver()
    large = b"x" * 700_000
    for _ in range(3):
        lane.submit(one, large)
    lane.flush()
    role = b"*1\r\n$4\r\nROLE\r\n"
    assert engine.sent == large + large + role + large + role
    lane.submit(one, b"next")
    lane.flush()
    assert b"next" not in engine.sent  # the engine is still busy with this one
    lane.on_data(b"+1\r\n+2\r\n" + ROLE_100 + b"+3\r\n" + ROLE_100.replace(b"100", b"200"))
    assert boundaries == [100, 200]
    assert [offset for offset, _ in gate.parked] == [100, 200]
    for _, deliver in gate.parked:
        deliver()
    assert one.data == b"+1\r\n+2\r\n+3\r\n"
    lane.flush()
    assert engine.sent.endswith(b"next" + role)


def test_a_closed_lane_delivers_nothing_that_was_parked() -> None:
    gate = FakeGate()
    lane, engine, _ = make(gate)
    one = Receiver()
    lane.submit(one, b"A")
    lane.flush()
    lane.on_data(b"+OK\r\n" + ROLE_100)
    lane.close()
    gate.parked[0][1]()
    assert one.count == 0 and engine.closed


def test_the_fronts_own_replies_keep_their_turn() -> None:
    lane, _, _ = make(None)
    one = Receiver()
    lane.submit(one, b"A")
    lane.submit_local(one, b"+LOCAL\r\n")
    lane.submit(one, b"B")
    lane.flush()
    lane.on_data(b"+1\r\n")
    assert one.data == b"+1\r\n+LOCAL\r\n"
    lane.on_data(b"+2\r\n")
    assert one.data == b"+1\r\n+LOCAL\r\n+2\r\n"


def test_only_the_last_reply_of_a_block_is_delivered() -> None:
    lane, _, _ = make(None)
    one = Receiver()
    lane.submit_block(one, b"MULTI..EXEC", skipped=3)
    lane.flush()
    lane.on_data(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n:2\r\n")
    assert (one.data, one.count) == (b"*2\r\n:1\r\n:2\r\n", 1)


@given(
    replies=st.lists(
        st.sampled_from(
            [
                b"+OK\r\n",
                b"$-1\r\n",
                b"$5\r\nhe\r\no\r\n",
                b"*2\r\n$1\r\na\r\n*1\r\n:7\r\n",
                b"%1\r\n+a\r\n_\r\n",
                b"$5000\r\n" + b"x" * 5000 + b"\r\n",
                b"*-1\r\n",
            ]
        ),
        min_size=1,
        max_size=12,
    ),
    owners=st.lists(st.integers(0, 2), min_size=12, max_size=12),
    cuts=st.lists(st.integers(1, 6000), max_size=20),
)
def test_replies_reach_their_owners_however_they_are_cut(
    replies: list[bytes], owners: list[int], cuts: list[int]
) -> None:
    gate = FakeGate()
    lane, _, _ = make(gate)
    receivers = [Receiver(), Receiver(), Receiver()]
    for index in range(len(replies)):
        lane.submit(receivers[owners[index]], b"X")
    lane.flush()
    stream = b"".join(replies) + ROLE_100
    position = 0
    for cut in [*cuts, len(stream)]:
        lane.on_data(stream[position : position + cut])
        position += cut
    assert len(gate.parked) == 1
    gate.parked[0][1]()
    for number, receiver in enumerate(receivers):
        mine = [reply for index, reply in enumerate(replies) if owners[index] == number]
        assert (receiver.data, receiver.count) == (b"".join(mine), len(mine))


@pytest.mark.parametrize("piece", [1000, 70_000, 1 << 20])
def test_a_huge_reply_in_pieces_is_whole_and_what_follows_too(piece: int) -> None:
    lane, _, _ = make(None)
    one, two = Receiver(), Receiver()
    lane.submit(one, b"A")
    lane.submit(two, b"B")
    lane.flush()
    huge = b"*30000\r\n" + b"$10\r\n0123456789\r\n" * 30_000
    stream = huge + b"+OK\r\n"
    for position in range(0, len(stream), piece):
        lane.on_data(stream[position : position + piece])
    assert one.data == huge and two.data == b"+OK\r\n"
    lane.submit(two, b"C")
    lane.flush()
    lane.on_data(b":1\r\n")
    assert two.data == b"+OK\r\n:1\r\n"
