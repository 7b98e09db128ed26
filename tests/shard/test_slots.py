"""Slots against the specification's own vectors, a bit-by-bit twin, and a real set."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.shard.slots import (
    SlotRange,
    check_coverage,
    even_slot_ranges,
    key_slot,
    parse_slot_range,
    ranges_of,
)
from cluster.types import SLOT_COUNT, Slot


def slow_crc(data: bytes) -> int:
    """CRC16/XMODEM, bit by bit: polynomial 0x1021, nothing reflected, starts at 0."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
            crc &= 0xFFFF
    return crc


def slow_slot(key: bytes) -> int:
    """As the Redis Cluster specification says it, in words of one syllable."""
    for i in range(len(key)):
        if key[i] == ord("{"):
            for j in range(i + 1, len(key)):
                if key[j] == ord("}"):
                    if j > i + 1:
                        return slow_crc(key[i + 1 : j]) % SLOT_COUNT
                    break
            break
    return slow_crc(key) % SLOT_COUNT


def test_the_vector_of_the_specification() -> None:
    assert key_slot(b"123456789") == 0x31C3 & 16383


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"{user1000}.following", b"user1000"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"{}foo", b"{}foo"),
        (b"foo{bar", b"foo{bar"),
        (b"foo}bar{", b"foo}bar{"),
        (b"}{a}", b"a"),
        (b"{a}", b"a"),
        (b"{}", b"{}"),
        (b"", b""),
    ],
)
def test_hash_tags(key: bytes, hashed: bytes) -> None:
    assert key_slot(key) == slow_crc(hashed) % SLOT_COUNT


def test_known_slots() -> None:
    assert [key_slot(key) for key in (b"foo", b"bar", b"hello", b"somekey")] == [12182, 5061, 866, 11058]


@given(
    st.one_of(
        st.binary(max_size=40), st.lists(st.sampled_from([b"{", b"}", b"a", b""]), max_size=9).map(b"".join)
    )
)
@settings(deadline=None)
def test_the_same_as_bit_by_bit(key: bytes) -> None:
    assert key_slot(key) == slow_slot(key)


@pytest.mark.slow
@given(st.integers(1, 600))
@settings(deadline=None)
def test_even_ranges_cover_everything_once_and_are_even(shards: int) -> None:
    ranges = even_slot_ranges(shards)
    check_coverage(ranges)
    assert len(ranges) == shards
    sizes = {last - first + 1 for first, last in ranges}
    assert max(sizes) - min(sizes) <= 1


def test_three_shards_have_the_usual_ranges() -> None:
    assert [str(each) for each in even_slot_ranges(3)] == ["0-5460", "5461-10921", "10922-16383"]


@pytest.mark.parametrize(
    ("text", "expected"), [("0-5460", (0, 5460)), ("42", (42, 42)), ("0-16383", (0, 16383))]
)
def test_a_range_is_read_and_written(text: str, expected: tuple[int, int]) -> None:
    assert parse_slot_range(text) == expected
    assert str(parse_slot_range(text)) == text


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "0-16384", "16384", "5-4", "01-2", "1 - 2", "a", "1-2-3", "+1", "٣", "1\n"]
)
def test_what_is_no_range_is_one_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match="slot range") as error:
        parse_slot_range(text)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@given(st.sets(st.integers(0, SLOT_COUNT - 1), max_size=60))
@settings(deadline=None)
def test_ranges_of_a_set_hold_exactly_the_set(slots: set[int]) -> None:
    ranges = ranges_of(slots)
    assert [slot for first, last in ranges for slot in range(first, last + 1)] == sorted(slots)
    assert all(a.last + 1 < b.first for a, b in itertools.pairwise(ranges)), "no two could be one"


def span(first: int, last: int) -> SlotRange:
    return SlotRange(Slot(first), Slot(last))


@pytest.mark.parametrize(
    ("ranges", "error"),
    [
        ([], "slot 0 is in no range"),
        ([span(0, 16382)], "slot 16383 is in no range"),
        ([span(0, 5), span(5, 16383)], "slot 5 is in two ranges"),
        ([span(7, 16383), span(0, 5)], "slot 6 is in no range"),
        ([span(0, 16384)], "there are 16384 slots"),
        ([span(5, 4)], "not in ascending order"),
    ],
)
def test_coverage_is_checked(ranges: list[SlotRange], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        check_coverage(ranges)
