"""Workload set: `SADD k v` → 1, `SMEMBERS k` → all members. Values are unique and never removed.

Reads of a growing set contain one another, and adding commutes, so it is enough that

1. a read shows no member whose SADD failed, never was, or began after the read had ended;
2. it shows every member whose SADD was acknowledged before the read *must have begun*, and every member of a
   read that had ended before that. A read that shows a member cannot be older than the begin of its SADD, so
   its effective begin may be later than its own;
3. of two reads that overlap, one contains the other.

Cost: O(n log n) and once over every read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.sim.checkers.findings import Findings, elements, is_count, shown, writes_of
from cluster.sim.history import (
    ABORTED_READ,
    DOUBLE_APPLY,
    LOST_WRITE,
    NOT_LINEARIZABLE,
    ORDER,
    STALE_READ,
    Op,
    Result,
    Violation,
)


@dataclass(slots=True, eq=False)
class Read:
    op: Op
    members: set[str]
    began_us: int  # when it must have begun at the earliest
    newest: Op | None = None  # the SADD that says so, if it isn't the read itself
    fresh: bool = True


def check_set(key: str, ops: Sequence[Op]) -> list[Violation]:
    """All violations on one key."""
    findings = Findings(key)
    adds = writes_of(ops, "SADD", findings)
    for op in ops:
        if op.command not in ("SADD", "SMEMBERS"):
            findings.odd_command(op)
        elif op.command == "SADD" and op.result is Result.OK:
            if is_count(op.reply, 0) and op.reply == 0:
                text = f"#{op.number} found its own member {shown(op.argument)} there already"
                findings.add(DOUBLE_APPLY, text, op)
            elif not is_count(op.reply, 1) or op.reply > 1:
                findings.odd_reply(op)
    reads = _reads(ops, adds, findings)
    _check_freshness(reads, adds, findings)
    _check_containment([read for read in reads if read.fresh], findings)
    return findings.violations


def _reads(ops: Sequence[Op], adds: dict[str, Op], findings: Findings) -> list[Read]:
    """Acknowledged reads with the members that they can have seen; the others become findings."""
    reads: list[Read] = []
    told: set[str] = set()
    for op in ops:
        if op.command != "SMEMBERS" or op.result is not Result.OK:
            continue
        values = list(op.reply) if isinstance(op.reply, set | frozenset) else elements(op.reply)
        if values is None:
            findings.odd_reply(op)
            continue
        read = Read(op, set(), op.began_us)
        for value in values:
            add = adds.get(value) if isinstance(value, str) else None
            if add is None or add.result is Result.FAIL:
                if shown(value) not in told:
                    told.add(shown(value))
                    whose = f"of #{add.number}, which failed" if add else "which nobody added"
                    findings.add(ABORTED_READ, f"#{op.number} shows {shown(value)}, {whose}", add, op)
                continue
            assert isinstance(value, str)
            if value in read.members:
                text = f"{shown(value)} of #{add.number} stands twice in #{op.number}"
                findings.add(DOUBLE_APPLY, text, add, op)
            elif add.began_us > op.ended_us:
                early_us = add.began_us - op.ended_us
                text = f"#{op.number} shows {shown(value)} {early_us} µs before #{add.number} began"
                findings.add(ABORTED_READ, text, op, add)
            else:
                read.members.add(value)
                if add.began_us > read.began_us:
                    read.began_us, read.newest = add.began_us, add
        reads.append(read)
    return reads


def _check_freshness(reads: list[Read], adds: dict[str, Op], findings: Findings) -> None:
    """Rule 2, in the order in which the reads must have begun."""
    added = sorted((op for op in adds.values() if op.result is Result.OK), key=lambda op: op.ended_us)
    ended = sorted(reads, key=lambda read: read.op.ended_us)
    visible: dict[str, Op] = {}  # member -> what proves it: its SADD, or a read
    names: set[str] = set()
    lost: set[str] = set()
    next_add = next_read = 0
    for read in sorted(reads, key=lambda read: (read.began_us, read.op.number)):
        while next_add < len(added) and added[next_add].ended_us < read.began_us:
            op = added[next_add]
            assert isinstance(op.argument, str)
            visible[op.argument] = op
            names.add(op.argument)
            next_add += 1
        while next_read < len(ended) and ended[next_read].op.ended_us < read.began_us:
            seen = ended[next_read]
            for member in sorted(seen.members - names):
                visible[member] = seen.op
            names |= seen.members
            next_read += 1
        if not names <= read.members:
            read.fresh = False
            _blame(read, sorted(names - read.members), visible, adds, lost, findings)


def _blame(
    read: Read,
    missing: list[str],
    visible: dict[str, Op],
    adds: dict[str, Op],
    lost: set[str],
    findings: Findings,
) -> None:
    op = read.op
    if op.final:
        acked = [
            member
            for member in missing
            if adds[member].result is Result.OK and adds[member].ended_us < read.began_us
        ]
        for member in acked:
            if member not in lost:
                lost.add(member)
                add = adds[member]
                text = f"{shown(member)} of #{add.number} is acknowledged and not in final read #{op.number}"
                findings.add(LOST_WRITE, text, add, op)
        if acked:
            return
    first = min(missing, key=lambda member: (visible[member].ended_us, member))
    proof = visible[first]
    story = (
        f"#{op.number} lacks {len(missing)} members, one is {shown(first)} of #{adds[first].number}, which"
    )
    if proof.ended_us < op.began_us:
        text = f"{story} #{proof.number} had proved {op.began_us - proof.ended_us} µs before"
        findings.add(STALE_READ, text, proof, op)
    else:
        assert read.newest is not None
        text = f"{story} #{proof.number} had proved before #{read.newest.number} began, whose member it shows"
        findings.add(ORDER, text, proof, read.newest, op)


def _check_containment(reads: list[Read], findings: Findings) -> None:
    """Rule 3: in the order of size each contains the one before."""
    smaller: Read | None = None
    for read in sorted(reads, key=lambda read: (len(read.members), read.op.number)):
        if smaller is not None and not smaller.members <= read.members:
            text = f"neither of #{smaller.op.number} and #{read.op.number} contains the other"
            findings.add(NOT_LINEARIZABLE, text, smaller.op, read.op)
        smaller = read
