"""The committed stream verifies every entry against what it already holds."""

import pytest

from cluster.shard.stream import CommittedStream, StreamDiverged, decode_header, encode_effects, extend_crc
from cluster.types import Index, Offset


def test_header_round_trip() -> None:
    assert decode_header(encode_effects(Offset(7), 99, b"abc")) == (7, 99, 10)


def test_a_gap_is_refused() -> None:
    stream = CommittedStream()
    stream.extend(Index(1), encode_effects(Offset(0), 0, b"abc"))
    with pytest.raises(StreamDiverged):
        stream.extend(Index(2), encode_effects(Offset(4), stream.crc, b"d"))


def test_a_different_history_is_refused() -> None:
    stream = CommittedStream()
    stream.extend(Index(1), encode_effects(Offset(0), 0, b"abc"))
    with pytest.raises(StreamDiverged):
        stream.extend(Index(2), encode_effects(Offset(3), extend_crc(0, b"abd"), b"d"))


def test_an_unknown_format_stops_the_node() -> None:
    payload = b"\x02" + encode_effects(Offset(0), 0, b"abc")[1:]
    with pytest.raises(StreamDiverged, match="format 2"):
        CommittedStream().extend(Index(1), payload)


def test_finds_the_entry_that_holds_an_offset() -> None:
    stream = CommittedStream()
    stream.skip(Index(1))
    stream.extend(Index(2), encode_effects(Offset(0), 0, b"abc"))
    stream.skip(Index(3))
    stream.extend(Index(4), encode_effects(Offset(3), stream.crc, b"defg"))
    assert stream.index == 4 and stream.offset == 7
    assert [stream.last_index_within(Offset(at)) for at in (0, 2, 3, 6, 7)] == [0, 0, 2, 2, 4]
