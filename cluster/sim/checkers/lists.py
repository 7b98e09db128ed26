"""Workload list: `RPUSH k v` → the length after it, `LRANGE k` → all values. Values are unique.

A list only grows, so there is one list of which every read is a beginning: the longest read is taken for it.
The value whose push returned n stands at position n in every read that is long enough. What is left is a
question of heights (ladder.py): lengths follow real time, and the positions that nobody accounts for can be
given to pushes in doubt. Cost: O(n log n) and once over every read.

A read that disagrees with the longest one is a finding by itself and is not asked about lengths, because
after a fork of the history everything would follow from it. Nor is a push that is lost or out of place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.sim.checkers.findings import Findings, elements, is_count, shown, writes_of
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


@dataclass(slots=True, eq=False)
class Read:
    op: Op
    values: Sequence[object]
    agrees: bool = True  # with the longest


def check_list(key: str, ops: Sequence[Op]) -> list[Violation]:
    """All violations on one key."""
    return ListCheck(key, ops).run()


def longest(reads: Sequence[Read]) -> Read | None:
    """The first of the longest reads."""
    return max(reads, key=lambda read: (len(read.values), -read.op.number), default=None)


def reads_of(ops: Sequence[Op]) -> Iterator[Read]:
    """Every acknowledged read with a reply that can be one."""
    for op in ops:
        if op.command == "LRANGE" and op.result is Result.OK:
            values = elements(op.reply)
            if values is not None:
                yield Read(op, values)


class ListCheck:
    """One key's evidence, and what has already been found about each value."""

    def __init__(self, key: str, ops: Sequence[Op]) -> None:
        self.findings = Findings(key)
        self.ops = ops
        self.pushes = writes_of(ops, "RPUSH", self.findings)
        self.reads = list(reads_of(ops))
        self.longest = longest(self.reads)
        self.list: Sequence[object] = self.longest.values if self.longest else ()
        self.places = {value: place for place, value in enumerate(self.list, 1) if isinstance(value, str)}
        self.acked: dict[str, int] = {}  # value -> the position that its push returned
        self.kept = {
            value for read in self.reads if read.op.final for value in read.values if isinstance(value, str)
        }
        self.named: set[str] = set()  # values that are out of place or lost
        self.faulty: set[int] = set()  # final reads in which something acknowledged is missing
        for value, op in self.pushes.items():
            if op.result is Result.OK and is_count(op.reply, 1):
                self.acked[value] = op.reply

    def run(self) -> list[Violation]:
        self.check_replies()
        self.check_agreement()
        self.check_final()
        for view in self.reads:
            if view is self.longest or not view.agrees:
                self.check_elements(view)
                self.check_positions(view)
        self.check_same_position()
        self.check_lengths()
        return self.findings.violations

    def check_replies(self) -> None:
        for op in self.ops:
            if op.command not in ("RPUSH", "LRANGE"):
                self.findings.odd_command(op)
            elif op.result is Result.OK:
                odd = elements(op.reply) is None if op.command == "LRANGE" else not is_count(op.reply, 1)
                if odd:
                    self.findings.odd_reply(op)

    def check_agreement(self) -> None:
        """Every read is a beginning of the longest. The same deviation in many reads counts once."""
        best, told = self.longest, set[str]()
        for read in self.reads:
            if best is None or list(read.values) == list(best.values[: len(read.values)]):
                continue
            read.agrees = False
            pairs = zip(read.values, best.values, strict=False)
            at = next(place for place, (one, other) in enumerate(pairs) if one != other)
            here, there = shown(read.values[at]), shown(best.values[at])
            if f"{at} {here}" not in told:
                told.add(f"{at} {here}")
                text = f"position {at + 1} is {here} in #{read.op.number}, {there} in #{best.op.number}"
                self.findings.add(ORDER, text, read.op, best.op)

    def check_final(self) -> None:
        """Whatever was acknowledged before a final read stands in it."""
        for read in self.reads:
            if not read.op.final:
                continue
            there = {value for value in read.values if isinstance(value, str)}
            for value in self.acked:
                op = self.pushes[value]
                if op.ended_us < read.op.began_us and value not in there:
                    self.faulty.add(read.op.number)
                    text = (
                        f"{shown(value)} of #{op.number} is acknowledged and not in final #{read.op.number}"
                    )
                    self.name(value, LOST_WRITE, text, op, read.op)

    def check_elements(self, view: Read) -> None:
        """Only values that somebody pushed, each once."""
        places: dict[str, int] = {}
        for place, value in enumerate(view.values, 1):
            if not isinstance(value, str) or value not in self.pushes:
                text = f"#{view.op.number} shows {shown(value)} at {place}, which nobody pushed"
                self.findings.add(ABORTED_READ, text, view.op)
                continue
            op = self.pushes[value]
            if op.result is Result.FAIL:
                text = f"#{view.op.number} shows {shown(value)} of #{op.number}, which failed"
                self.name(value, ABORTED_READ, text, op, view.op)
            elif value in places:
                here = f"{places[value]} and {place} in #{view.op.number}"
                self.name(
                    value, DOUBLE_APPLY, f"{shown(value)} of #{op.number} stands at {here}", op, view.op
                )
            places[value] = place

    def check_positions(self, view: Read) -> None:
        """An acknowledged value stands where its push said, if the read is long enough."""
        places: dict[str, int] = {}
        for place, value in enumerate(view.values, 1):
            if isinstance(value, str):
                places.setdefault(value, place)
        for value, position in self.acked.items():
            op = self.pushes[value]
            at = places.get(value)
            if at is not None and at != position:
                here = f"acknowledged at {position}, stands at {at} in #{view.op.number}"
                self.name(value, ORDER, f"{shown(value)} of #{op.number}, {here}", op, view.op)
            elif at is None and position <= len(view.values):
                text = (
                    f"{shown(value)} of #{op.number} was acknowledged at {position}, where "
                    f"{shown(view.values[position - 1])} stands in #{view.op.number}"
                )
                if view.agrees:  # otherwise it may stand there in the longest, and the deviation is told
                    late = op.ended_us < view.op.began_us and value not in self.kept
                    self.name(value, LOST_WRITE if late else ORDER, text, op, view.op)

    def check_same_position(self) -> None:
        owners: dict[int, str] = {}
        for value, position in self.acked.items():
            owner = owners.setdefault(position, value)
            if owner != value and owner not in self.named and value not in self.named:
                one, other = self.pushes[owner], self.pushes[value]
                text = f"#{one.number} and #{other.number} were both acknowledged at {position}"
                self.name(value, ORDER, text, one, other)

    def check_lengths(self) -> None:
        """Lengths follow real time, and somebody may have pushed what stands at every position."""
        rungs = [Rung(read.op, len(read.values), climbs=False) for read in self.reads if read.agrees]
        for value, op in self.pushes.items():
            height = self.position(value)
            if height is not None:
                rungs.append(Rung(op, height, climbs=True))
        for high, low in falls(rungs):
            before = f"but #{high.op.number} had seen length {high.height}"
            if low.climbs and not high.climbs:  # the read agrees with the list, in which the value stands
                text = f"#{high.op.number} shows {shown(low.op.argument)} before #{low.op.number} pushed it"
                self.findings.add(ABORTED_READ, text, high.op, low.op)
            elif low.climbs:
                self.findings.add(ORDER, f"#{low.op.number} is at {low.height}, {before}", high.op, low.op)
            elif low.op.number not in self.faulty:
                text = f"#{low.op.number} shows {low.height} values, {before}"
                self.findings.add(STALE_READ, text, high.op, low.op)
        taken = set(range(1, len(self.list) + 1)) | set(self.acked.values())
        unplaced = [
            op
            for value, op in self.pushes.items()
            if op.result is not Result.FAIL and value not in self.acked and value not in self.places
        ]
        missing, rung = unexplained(rungs, taken, unplaced)
        if rung is not None:
            text = f"#{rung.op.number} is at {rung.height}, but {missing} values before it cannot be there"
            self.findings.add(DOUBLE_APPLY, text, rung.op)

    def position(self, value: str) -> int | None:
        """Where a value stands; None if that is unknown or in doubt."""
        return None if value in self.named else self.acked.get(value, self.places.get(value))

    def name(self, value: str, kind: str, text: str, *ops: Op) -> None:
        """A finding about one value, which is then left out of further questions."""
        if value not in self.named:
            self.named.add(value)
            self.findings.add(kind, text, *ops)
