"""Did the cluster keep its promises? One pure function over what clients did and what was read at the end.

Rules. Every operation is classed by its client, and each class is a promise:

* `OK`: acknowledged. Its effect must be there at the end, exactly once.
* `REFUSED`: a definite error (CLUSTERDOWN, MOVED without end, connection refused …). Its effect must never be
  seen.
* `IN_DOUBT`: INDOUBT, a lost connection, a timeout. It may be there, at most once.

Values and members are unique, so the data set at the end is its own witness and the check is linear:

| kind     | operation             | what must hold at the end                                              |
|----------|-----------------------|------------------------------------------------------------------------|
| string   | SET key value, once   | acked: present with that value; refused: absent                        |
| register | SET key value, again  | the last acked value, or one in doubt; reads in between likewise       |
| list     | RPUSH key member → n  | acked at place n and nowhere else; in doubt at most once; nothing else |
| hash     | HSET key field value  | acked fields with their value; nothing refused or unknown              |
| zset     | ZADD key score member | acked members with their score; likewise                               |
| geo      | GEOADD key … member   | acked members at their place, as the geohash that is its score         |
| counter  | INCR key → n          | acked ≤ final ≤ acked + in doubt; acked replies distinct and ≤ final   |

Assumptions: a register is written and read by one client that waits for each answer, and all final reads
follow the end of all writes. An in-doubt write may take effect late, so it stays allowed for good.
Left out: order between clients (the zone checker of the simulator's issue does that).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Literal, get_args

Kind = Literal["string", "register", "list", "hash", "zset", "geo", "counter"]
KINDS: tuple[Kind, ...] = get_args(Kind)

GEO_STEPS = 26  # bits of each coordinate
GEO_LATITUDE_MAX = 85.05112878  # of Web Mercator
EXAMPLES_MAX = 20  # findings kept word for word; the counts are always complete


class Outcome(IntEnum):
    OK = 0
    REFUSED = 1
    IN_DOUBT = 2


@dataclass(frozen=True, slots=True)
class Op:
    """One write, or one read of a register, as its client saw it."""

    kind: Kind
    key: str
    member: str  # the unique value (string, register, list), field or member; "" for a counter
    value: str  # a hash field's value, a member's score (of a place see geo_score); else ""
    outcome: Outcome
    reply: int = 0  # RPUSH, INCR: the number answered; else 0
    read: bool = False  # a GET of a register that answered `member` ("" for nil)


# What was read at the end, by (kind, key): a str for string and register (None if absent), the int of a
# counter (0 if absent), the elements of a list, {field: value} of a hash, {member: score} of zset and geo.
Final = Mapping[tuple[Kind, str], "str | int | list[str] | dict[str, str] | None"]


@dataclass(slots=True)
class Verdict:
    """Counts and up to EXAMPLES_MAX findings in words. `ok` is the whole question."""

    acked: int = 0  # writes acknowledged
    in_doubt: int = 0  # writes of unknown fate
    refused: int = 0  # writes that certainly did not happen
    lost: int = 0  # acked effects that are not there
    duplicated: int = 0  # effects applied more than once
    ghosts: int = 0  # effects of refused writes, or of none
    reads_checked: int = 0  # final reads (one a key, string or collection) and reads in between
    findings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.lost == 0 and self.duplicated == 0 and self.ghosts == 0

    def add_lost(self, text: str, count: int = 1) -> None:
        self.lost += count
        self._note(f"lost: {text}")

    def add_duplicated(self, text: str, count: int = 1) -> None:
        self.duplicated += count
        self._note(f"applied twice: {text}")

    def add_ghost(self, text: str) -> None:
        self.ghosts += 1
        self._note(f"not written by anyone who was told so: {text}")

    def _note(self, text: str) -> None:
        if len(self.findings) < EXAMPLES_MAX:
            self.findings.append(text)


def check(ops: Iterable[Op], final: Final) -> Verdict:
    """Judge a whole run. `ops` of one client and key must be in the order they were done.

    Raises KeyError if a written key was not read at the end: a check that did not look proves nothing.
    """
    verdict = Verdict()
    by_key: dict[tuple[Kind, str], list[Op]] = {}
    for op in ops:
        by_key.setdefault((op.kind, op.key), []).append(op)
        if op.read:
            verdict.reads_checked += 1
        elif op.outcome is Outcome.OK:
            verdict.acked += 1
        elif op.outcome is Outcome.IN_DOUBT:
            verdict.in_doubt += 1
        else:
            verdict.refused += 1
    for place in sorted(by_key):
        verdict.reads_checked += 1
        check_key(verdict, place, by_key[place], final[place])
    return verdict


def check_key(
    verdict: Verdict,
    place: tuple[Kind, str],
    ops: list[Op],
    found: "str | int | list[str] | dict[str, str] | None",
) -> None:
    kind, key = place
    if kind in ("string", "register"):
        assert found is None or isinstance(found, str)
        check_register(verdict, key, ops, found)
    elif kind == "list":
        assert isinstance(found, list)
        check_list(verdict, key, ops, found)
    elif kind == "counter":
        assert isinstance(found, int)
        check_counter(verdict, key, ops, found)
    else:
        assert isinstance(found, dict)
        check_members(verdict, key, ops, found)


def check_register(verdict: Verdict, key: str, ops: list[Op], found: str | None) -> None:
    """One client's SETs and GETs in order, then the final GET as one more read."""
    doubtful: set[str] = set()
    current = ""  # the last acked value; "" = none yet
    for op in [*ops, Op("register", key, found or "", "", Outcome.OK, read=True)]:
        if op.read:
            if op.outcome is Outcome.OK and op.member != current and op.member not in doubtful:
                judge_wrong_value(verdict, key, ops, current, op.member)
                # One loss is one finding: go on from what is there.
                current = op.member
        elif op.outcome is Outcome.OK:
            current = op.member
        elif op.outcome is Outcome.IN_DOUBT:
            doubtful.add(op.member)


def judge_wrong_value(verdict: Verdict, key: str, ops: list[Op], wanted: str, found: str) -> None:
    written = any(not op.read and op.member == found and op.outcome is Outcome.OK for op in ops)
    if wanted:
        verdict.add_lost(f"{key} should be {wanted!r}, is {found!r}")
    if found and not written:
        verdict.add_ghost(f"{key} is {found!r}")


def check_list(verdict: Verdict, key: str, ops: list[Op], found: list[str]) -> None:
    outcomes = {op.member: op for op in ops}
    for member, times in sorted(Counter(found).items()):
        known = outcomes.get(member)
        if known is None or known.outcome is Outcome.REFUSED:
            verdict.add_ghost(f"{member!r} in list {key}")
        if times > 1:
            verdict.add_duplicated(f"{member!r} is {times} times in list {key}", times - 1)
    for op in ops:
        if op.outcome is not Outcome.OK:
            continue
        at_place = 0 < op.reply <= len(found) and found[op.reply - 1] == op.member
        if not at_place:
            where = "elsewhere" if op.member in found else "not there"
            verdict.add_lost(f"{op.member!r} acked at place {op.reply} of list {key} is {where}")


def check_members(verdict: Verdict, key: str, ops: list[Op], found: dict[str, str]) -> None:
    allowed = {op.member: op.value for op in ops if op.outcome is not Outcome.REFUSED}
    for member in sorted(found):
        if allowed.get(member) != found[member]:
            verdict.add_ghost(f"{member!r} = {found[member]!r} in {key}")
    for op in ops:
        if op.outcome is Outcome.OK and found.get(op.member) != op.value:
            verdict.add_lost(f"{op.member!r} = {op.value!r} of {key}")


def check_counter(verdict: Verdict, key: str, ops: list[Op], found: int) -> None:
    acked = [op.reply for op in ops if op.outcome is Outcome.OK]
    in_doubt = sum(1 for op in ops if op.outcome is Outcome.IN_DOUBT)
    if found < len(acked):
        verdict.add_lost(f"counter {key} is {found} after {len(acked)} acked increments", len(acked) - found)
    if found > len(acked) + in_doubt:
        extra = found - len(acked) - in_doubt
        verdict.add_duplicated(
            f"counter {key} is {found} after {len(acked)} acked and {in_doubt} in doubt", extra
        )
    for reply, times in sorted(Counter(acked).items()):
        if times > 1:
            verdict.add_lost(f"counter {key} answered {reply} to {times} increments", times - 1)
    if acked and max(acked) > found:
        verdict.add_lost(f"counter {key} answered {max(acked)} and is {found}")


def geo_score(longitude: float, latitude: float) -> int:
    """The score under which the engine keeps a place: each coordinate as a fraction of its range, in bits,
    and the bits interleaved."""
    x = int((longitude + 180.0) / 360.0 * (1 << GEO_STEPS))
    y = int((latitude + GEO_LATITUDE_MAX) / (2 * GEO_LATITUDE_MAX) * (1 << GEO_STEPS))
    return sum((y >> bit & 1) << 2 * bit | (x >> bit & 1) << (2 * bit + 1) for bit in range(GEO_STEPS))


def longest_gaps_ms(ack_times_us: Mapping[str, Iterable[int]], start_us: int, end_us: int) -> dict[str, int]:
    """Longest time without an acked write per shard, ms, between the start and the end of the writing."""
    gaps: dict[str, int] = {}
    for shard in sorted(ack_times_us):
        times = [start_us, *sorted(t for t in ack_times_us[shard] if start_us <= t <= end_us), end_us]
        gaps[shard] = max(later - earlier for earlier, later in pairwise(times)) // 1000
    return gaps
