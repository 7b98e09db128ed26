"""Workload counter: `INCR k` → the new value, `GET k` → the value, from 0.

Every reply is a height (ladder.py). Two acknowledged increments with one number: somebody's was applied on
a state that lacked the other's, or was answered twice. A counter cannot tell an increment that was applied
twice from a failed one that was applied once; both show as a value that nobody can account for.
"""

from collections.abc import Sequence

from cluster.sim.checkers.findings import Findings, is_count
from cluster.sim.checkers.ladder import Rung, falls, unexplained
from cluster.sim.history import (
    ABORTED_READ,
    DOUBLE_APPLY,
    LOST_WRITE,
    ORDER,
    STALE_READ,
    Op,
    Result,
    Violation,
)


def check_counter(key: str, ops: Sequence[Op]) -> list[Violation]:
    """All violations on one key: O(n log n)."""
    findings = Findings(key)
    increments: list[Rung] = []
    reads: list[Rung] = []
    doubts: list[Op] = []
    for op in ops:
        if op.command not in ("INCR", "GET"):
            findings.odd_command(op)
            continue
        climbs = op.command == "INCR"
        if op.result is Result.OK and is_count(op.reply, int(climbs)):
            (increments if climbs else reads).append(Rung(op, op.reply, climbs))
            continue
        if op.result is Result.OK:
            findings.odd_reply(op)
        if climbs and op.result is not Result.FAIL:
            doubts.append(op)
    named = _given_twice(increments, findings)
    explained = _lost(increments, reads, findings)
    for high, low in falls(increments + reads):
        if low.climbs and low.op.number not in named:
            text = (
                f"#{low.op.number} returned {low.height} after #{high.op.number} had returned {high.height}"
            )
            findings.add(ORDER, text, high.op, low.op)
        elif not low.climbs and low.op.number not in explained:
            text = f"#{low.op.number} shows {low.height}, but #{high.op.number} had returned {high.height}"
            findings.add(STALE_READ, text, high.op, low.op)
    _account(increments, reads, doubts, findings)
    return findings.violations


def _given_twice(increments: list[Rung], findings: Findings) -> set[int]:
    """Increments whose number an earlier one had already got."""
    owners: dict[int, Op] = {}
    named: set[int] = set()
    for rung in increments:
        owner = owners.setdefault(rung.height, rung.op)
        if owner is not rung.op:
            named.add(rung.op.number)
            text = f"#{owner.number} and #{rung.op.number} both returned {rung.height}"
            findings.add(DOUBLE_APPLY, text, owner, rung.op)
    return named


def _lost(increments: list[Rung], reads: list[Rung], findings: Findings) -> set[int]:
    """Final reads that lack acknowledged increments, each of which is named once."""
    highest_first = sorted(increments, key=lambda rung: -rung.height)
    lost: set[int] = set()
    explained: set[int] = set()
    for final in [read for read in reads if read.op.final]:
        for rung in highest_first:
            if rung.height <= final.height:
                break
            op = rung.op
            if op.ended_us < final.op.began_us:
                explained.add(final.op.number)
                if op.number not in lost:
                    lost.add(op.number)
                    text = (
                        f"#{op.number} returned {rung.height}, final #{final.op.number} shows {final.height}"
                    )
                    findings.add(LOST_WRITE, text, op, final.op)
    return explained


def _account(increments: list[Rung], reads: list[Rung], doubts: list[Op], findings: Findings) -> None:
    taken = {rung.height for rung in increments}
    missing, rung = unexplained(increments + reads, taken, doubts)
    if rung is None:
        return
    made = [one.op for one in increments] + doubts
    # With no increment that could have been applied twice, it was a failed one or none at all.
    kind = DOUBLE_APPLY if any(op.began_us <= rung.ended_us for op in made) else ABORTED_READ
    text = (
        f"#{rung.op.number} returned {rung.height}; with {len(increments)} acknowledged and {len(doubts)} in "
        f"doubt, {missing} increments cannot be accounted for"
    )
    findings.add(kind, text, rung.op)
