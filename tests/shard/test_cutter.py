"""Entries end only where a command ends, whatever order taps and boundaries come in."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.shard.cutter import EffectCutter
from cluster.shard.stream import HEADER_BYTES, CommittedStream, decode_header
from cluster.types import Index, Offset, Term

T = Term(1)


class Proposals:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.accept = True

    def __call__(self, payload: bytes) -> Index | None:
        if not self.accept:
            return None
        self.payloads.append(payload)
        return Index(len(self.payloads))


def test_nothing_is_cut_before_a_boundary_is_known() -> None:
    log = Proposals()
    cutter = EffectCutter(log)
    cutter.on_effects(b"set a 1", T)
    assert log.payloads == []
    assert cutter.wants_boundary
    cutter.on_boundary(Offset(7), T)
    assert [payload[HEADER_BYTES:] for payload in log.payloads] == [b"set a 1"]
    assert not cutter.wants_boundary


def test_a_boundary_waits_for_its_bytes() -> None:
    log = Proposals()
    cutter = EffectCutter(log)
    cutter.on_boundary(Offset(4), T)
    cutter.on_effects(b"ab", T)
    assert log.payloads == []
    cutter.on_effects(b"cdef", T)
    assert log.payloads[0][HEADER_BYTES:] == b"abcd"
    assert not cutter.idle


def test_while_the_window_is_full_everything_gathers() -> None:
    log = Proposals()
    cutter = EffectCutter(log, inflight_max=1)
    for number in range(1, 5):
        cutter.on_effects(b"x", T)
        cutter.on_boundary(Offset(number), T)
    assert [payload[HEADER_BYTES:] for payload in log.payloads] == [b"x"]
    cutter.on_committed(Offset(1), T)
    assert [payload[HEADER_BYTES:] for payload in log.payloads] == [b"x", b"xxx"]


def test_a_refused_proposal_loses_nothing() -> None:
    log = Proposals()
    log.accept = False
    cutter = EffectCutter(log)
    cutter.on_effects(b"abc", T)
    cutter.on_boundary(Offset(2), T)
    assert cutter.proposed == 0
    log.accept = True
    assert cutter.maybe_propose(T)
    assert log.payloads[0][HEADER_BYTES:] == b"ab"


@given(
    commands=st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=30),
    data=st.data(),
)
def test_entries_join_to_the_stream_and_end_at_command_boundaries(
    commands: list[bytes], data: st.DataObject
) -> None:
    log = Proposals()
    cutter = EffectCutter(log, inflight_max=2, gather_bytes=8, entry_bytes_target=64)
    stream = b"".join(commands)
    ends: list[int] = []
    for command in commands:
        ends.append((ends[-1] if ends else 0) + len(command))
    sent = told = committed = 0
    while committed < len(log.payloads) or sent < len(stream) or told < len(ends):
        choices = [
            name
            for name, possible in (
                ("tap", sent < len(stream)),
                ("boundary", told < len(ends)),
                ("commit", committed < len(log.payloads)),
            )
            if possible
        ]
        choice = data.draw(st.sampled_from(choices))
        if choice == "tap":
            size = data.draw(st.integers(1, len(stream) - sent))
            cutter.on_effects(stream[sent : sent + size], T)
            sent += size
        elif choice == "boundary":
            told = data.draw(st.integers(told + 1, len(ends)))
            cutter.on_boundary(Offset(ends[told - 1]), T)
        else:
            cutter.on_committed(decode_header(log.payloads[committed])[2], T)
            committed += 1
    assert cutter.idle
    assert b"".join(payload[HEADER_BYTES:] for payload in log.payloads) == stream
    replica = CommittedStream()
    for index, payload in enumerate(log.payloads, 1):
        assert replica.extend(Index(index), payload) in ends
    assert replica.crc == cutter.crc
