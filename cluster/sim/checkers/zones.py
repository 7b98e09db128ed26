"""Workload register: `SET k v` and `GET k` on unique values, by zones (Gibbons and Korach 1997, section 3).

A value's *zone* runs from the earliest end to the latest begin among its write and its reads. Where it runs
forward, the register held the value all that time; where it runs backward, all of them overlap and one
instant between is enough. A history is linearizable iff

1. every read shows a value that somebody wrote, and does not end before that write begins;
2. no two forward zones overlap; 3. no backward zone lies within a forward one.

Both 2 and 3 say: of two values, each would have to be older than the other. Most often one of the reads is
plainly wrong: value b was written after a had been seen and was itself seen before a read began that still
shows a. Such reads are named one by one and then left out; what remains in conflict is blamed on nobody.

Ends that coincide with begins are concurrent. A write in doubt may take effect at any time after it began;
unless its value was read, it counts as never made. The first value, None, was written before everything.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from cluster.sim.checkers.findings import BEFORE_ALL_US, Findings, shown, writes_of
from cluster.sim.history import (
    ABORTED_READ,
    LOST_WRITE,
    NEVER_US,
    NOT_LINEARIZABLE,
    STALE_READ,
    Op,
    Result,
    Violation,
)


@dataclass(slots=True, eq=False)
class Zone:
    """One value, or a run of operations that must stand together (chain.py)."""

    write: Op | None  # None wrote the first value
    began_us: int  # of the write
    first_end_us: int = NEVER_US  # it was in effect by then; NEVER_US: perhaps it never was
    last_begin_us: int = BEFORE_ALL_US
    first: Op | None = None  # the operation that ended first
    last: Op | None = None  # the operation that began last

    def include(self, op: Op) -> None:
        """Lets one operation count, which has an end only if it is acknowledged."""
        if op.result is Result.OK and op.ended_us < self.first_end_us:
            self.first_end_us, self.first = op.ended_us, op
        if op.began_us > self.last_begin_us:
            self.last_begin_us, self.last = op.began_us, op


def first_zone() -> Zone:
    """The zone of a state that was there before everything."""
    return Zone(None, BEFORE_ALL_US, first_end_us=BEFORE_ALL_US)


def conflicts(zones: Iterable[Zone]) -> Iterator[tuple[Zone, Zone]]:
    """Pairs of zones each of which must precede the other, at most one pair for each zone: O(n log n)."""
    zones = list(zones)
    forward = [zone for zone in zones if zone.first_end_us < zone.last_begin_us]
    forward.sort(key=attrgetter("first_end_us", "last_begin_us"))
    furthest: list[Zone] = []  # furthest[i]: which of forward[: i + 1] lasts longest
    for zone in forward:
        longest = furthest[-1] if furthest else zone
        if zone.first_end_us < longest.last_begin_us and longest is not zone:
            yield longest, zone
        furthest.append(zone if zone.last_begin_us > longest.last_begin_us else longest)
    starts = [zone.first_end_us for zone in forward]
    for zone in zones:
        if zone.first_end_us >= zone.last_begin_us:
            before = bisect_left(starts, zone.last_begin_us)
            if before and zone.first_end_us < furthest[before - 1].last_begin_us:
                yield furthest[before - 1], zone


def check_register(key: str, ops: Sequence[Op]) -> list[Violation]:
    """All violations on one key: O(n log n)."""
    findings = Findings(key)
    zones = _zones(ops, findings)
    reads = _reads(ops, zones, findings)
    seen = [zone for zone in zones.values() if zone.first_end_us < NEVER_US]
    for op, zone in _fresh_reads(reads, seen, findings):
        if op.began_us > zone.last_begin_us:
            zone.last_begin_us, zone.last = op.began_us, op
    for one, other in conflicts(seen):
        text = f"{_name(one)} and {_name(other)} were each seen after the other"
        findings.add(NOT_LINEARIZABLE, text, one.first, one.last, other.first, other.last)
    return findings.violations


def _zones(ops: Sequence[Op], findings: Findings) -> dict[str | None, Zone]:
    """A zone for every value that was written, from its write alone."""
    zones: dict[str | None, Zone] = {None: first_zone()}
    for value, op in writes_of(ops, "SET", findings).items():
        zone = Zone(op, op.began_us, last_begin_us=op.began_us, last=op)
        if op.result is Result.OK:
            if op.reply is not None:
                findings.odd_reply(op)
            zone.first_end_us, zone.first = op.ended_us, op
        zones[value] = zone
    return zones


def _reads(ops: Sequence[Op], zones: dict[str | None, Zone], findings: Findings) -> list[tuple[Op, Zone]]:
    """Every read with the zone of its value, which it may make start earlier, except impossible ones."""
    reads: list[tuple[Op, Zone]] = []
    for op in ops:
        if op.command != "GET":
            if op.command != "SET":
                findings.odd_command(op)
            continue
        if op.result is not Result.OK:
            continue
        value = op.reply
        if value is not None and not isinstance(value, str):
            findings.odd_reply(op)
            continue
        zone = zones.get(value)
        if zone is None:
            findings.add(ABORTED_READ, f"#{op.number} shows {shown(value)}, which nobody wrote", op)
        elif zone.write is not None and zone.write.result is Result.FAIL:
            text = f"#{op.number} shows {shown(value)}, of #{zone.write.number}, which failed"
            findings.add(ABORTED_READ, text, zone.write, op)
        elif op.ended_us < zone.began_us:
            text = f"#{op.number} shows {shown(value)} {zone.began_us - op.ended_us} µs before it was written"
            findings.add(ABORTED_READ, text, op, zone.write)
        else:
            if op.ended_us < zone.first_end_us:
                zone.first_end_us, zone.first = op.ended_us, op
            reads.append((op, zone))
    return reads


def _fresh_reads(
    reads: list[tuple[Op, Zone]], seen: list[Zone], findings: Findings
) -> Iterator[tuple[Op, Zone]]:
    """Reads that are not plainly stale; the others become findings.

    Plainly: there is a newer value whose write began after the shown one was in effect (`first_end_us`), and
    which was in effect itself before the read began.
    """
    seen = sorted(seen, key=attrgetter("first_end_us"))
    newest = newest_acked = first_zone()  # the last written of those that are in effect
    lost: set[int] = set()
    at, count = 0, len(seen)
    for op, zone in sorted(reads, key=lambda read: read[0].began_us):
        began_us = op.began_us
        while at < count and seen[at].first_end_us < began_us:
            other = seen[at]
            if other.began_us > newest.began_us:
                newest = other
            if other.began_us > newest_acked.began_us and other.write and other.write.result is Result.OK:
                newest_acked = other
            at += 1
        if newest.began_us <= zone.first_end_us:
            yield op, zone
        elif op.final and newest_acked.began_us > zone.first_end_us and newest_acked.write:
            write = newest_acked.write
            if write.number not in lost:
                lost.add(write.number)
                text = (
                    f"final #{op.number} shows {_name(zone)}, not {_name(newest_acked)}, acknowledged later"
                )
                findings.add(LOST_WRITE, text, write, op)
        else:
            late_us = began_us - newest.first_end_us
            text = f"#{op.number} shows {_name(zone)}, {late_us} µs after {_name(newest)} had replaced it"
            findings.add(STALE_READ, text, newest.write, newest.first, op)


def _name(zone: Zone) -> str:
    return "nothing" if zone.write is None else f"{shown(zone.write.argument)} of #{zone.write.number}"
