"""A state that climbs by one at each write, as a counter or the length of a list does.

Every reply then tells a height: a write says which rung it took, a read on which rung it saw the state. Such
a history is linearizable iff heights follow real time, no rung is taken twice, and the rungs that no
acknowledged write took can be given to writes in doubt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.sim.history import NEVER_US, Op, Result


@dataclass(slots=True, eq=False)
class Rung:
    """What one operation says about the height."""

    op: Op
    height: int
    climbs: bool  # it took the state from height - 1 to height; otherwise it saw it there

    @property
    def ended_us(self) -> int:
        return self.op.ended_us if self.op.result is Result.OK else NEVER_US


def falls(rungs: Sequence[Rung]) -> Iterator[tuple[Rung, Rung]]:
    """(high, low): high had ended before low began, so low must stand higher, or level if it only looks.

    At most one pair for each operation, with the highest that had ended: O(n log n).
    """
    ended = sorted(rungs, key=lambda rung: rung.ended_us)
    highest: Rung | None = None
    at = 0
    for rung in sorted(rungs, key=lambda rung: rung.op.began_us):
        while at < len(ended) and ended[at].ended_us < rung.op.began_us:
            if highest is None or ended[at].height > highest.height:
                highest = ended[at]
            at += 1
        if highest is not None and rung.height < highest.height + rung.climbs:
            yield highest, rung


def unexplained(rungs: Sequence[Rung], taken: set[int], doubts: Sequence[Op]) -> tuple[int, Rung | None]:
    """How many rungs nobody can have taken, and the operation that proves it for the lowest of them.

    `taken` are the heights whose writes are known, `doubts` the writes that may have taken one of the others.
    Each of those must have begun before anybody who saw the state at least that high had ended. Higher rungs
    leave more time, so giving the earliest writes to the lowest rungs is best.
    """
    earliest: dict[int, Rung] = {}  # height -> who saw it and ended first
    for rung in rungs:
        if rung.ended_us <= earliest.setdefault(rung.height, rung).ended_us:
            earliest[rung.height] = rung
    heights = sorted(earliest)
    proofs: list[Rung] = []  # from the top: who saw the state at least so high and ended first
    for height in reversed(heights):
        proofs.append(min([earliest[height], *proofs[-1:]], key=lambda rung: rung.ended_us))
    begins = sorted(op.began_us for op in doubts)
    known = sorted(taken)
    used = missing = below = at = 0
    first_proof: Rung | None = None
    for height, proof in zip(heights, reversed(proofs), strict=True):
        free = height - below
        while at < len(known) and known[at] <= height:
            free -= 1
            at += 1
        below = height
        while free > 0 and used < len(begins) and begins[used] <= proof.ended_us:
            used += 1
            free -= 1
        if free > 0:
            missing += free
            first_proof = first_proof or proof
    return missing, first_proof
