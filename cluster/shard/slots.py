"""Slots: which one a key hashes to, and how ranges of them are written and divided.

The hash is CRC16/XMODEM modulo 16384, over the part of the key between the first `{` and the next `}` if
there is something in between (the hash tag), else over the whole key. `binascii.crc_hqx` is that CRC, in C.

A range is written `0-5460` or `42`, as in CLUSTER NODES. Who owns what is `shard_map`'s business.
"""

import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Final

from cluster.az.topology import SlotRange
from cluster.az.topology import even_slot_ranges as even_slot_ranges
from cluster.errors import ConfigError
from cluster.types import SLOT_COUNT, Slot

_MASK: Final = SLOT_COUNT - 1
_RANGE: Final = re.compile(r"(0|[1-9][0-9]{0,4})(?:-(0|[1-9][0-9]{0,4}))?")
_crc = binascii.crc_hqx

__all__ = ["SlotRange", "check_coverage", "even_slot_ranges", "key_slot", "parse_slot_range", "ranges_of"]


def key_slot(key: bytes) -> Slot:
    """The slot of a key, hash tags observed."""
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            key = key[opening + 1 : closing]
    return Slot(_crc(key, 0) & _MASK)


def parse_slot_range(text: str) -> SlotRange:
    """`0-5460` or `42`. ConfigError (one line) otherwise."""
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no slot range; write 0-5460 or 42")
    first = int(found[1])
    last = int(found[2]) if found[2] is not None else first
    if not first <= last < SLOT_COUNT:
        raise ConfigError(f"slot range {text} is not within 0-{SLOT_COUNT - 1} in ascending order")
    return SlotRange(Slot(first), Slot(last))


def ranges_of(slots: Iterable[int]) -> list[SlotRange]:
    """The fewest ranges that hold exactly these slots, ascending."""
    ranges: list[SlotRange] = []
    for slot in sorted(set(slots)):
        if ranges and ranges[-1].last + 1 == slot:
            ranges[-1] = SlotRange(ranges[-1].first, Slot(slot))
        else:
            ranges.append(SlotRange(Slot(slot), Slot(slot)))
    return ranges


def check_coverage(ranges: Sequence[SlotRange]) -> None:
    """ConfigError unless every slot is in exactly one of the ranges."""
    expected = 0
    for first, last in sorted(ranges):
        if first > last:
            raise ConfigError(f"slot range {first}-{last} is not in ascending order")
        if first < expected:
            raise ConfigError(f"slot {first} is in two ranges")
        if first > expected:
            raise ConfigError(f"slot {expected} is in no range")
        expected = last + 1
    if expected != SLOT_COUNT:
        raise ConfigError(
            f"slot {expected} is in no range" if expected < SLOT_COUNT else "there are 16384 slots"
        )
