"""What the checkers share: collecting violations, and reading a history that may be damaged.

A checker never raises on what a client wrote down: a reply that cannot be is a finding like any other, and
the operation is then treated as one in doubt. Per key and kind only the first hundred findings are kept;
beyond that they say nothing new.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeGuard

from cluster.sim.history import ABORTED_READ, NOT_LINEARIZABLE, Op, Result, Violation

KIND_MAX = 100  # findings kept per key and kind
BEFORE_ALL_US = -(1 << 62)  # when the first state of every key was written


class Findings:
    """The violations of one key, in the order in which they were found."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.violations: list[Violation] = []
        self._counts: dict[str, int] = {}

    def add(self, kind: str, text: str, *ops: Op | None) -> None:
        """`ops` in the order in which the text tells the story; None stands for the first state."""
        count = self._counts.get(kind, 0)
        self._counts[kind] = count + 1
        if count < KIND_MAX:
            numbers = tuple(dict.fromkeys(op.number for op in ops if op is not None))
            self.violations.append(Violation(kind, self.key, text, numbers))

    def odd_reply(self, op: Op) -> None:
        self.add(ABORTED_READ, f"#{op.number} {op.command} returned {shown(op.reply)}, which cannot be", op)

    def odd_command(self, op: Op) -> None:
        text = f"#{op.number} {op.command} {shown(op.argument)} has no meaning in workload {op.workload}"
        self.add(NOT_LINEARIZABLE, text, op)

    def same_value(self, op: Op, other: Op) -> None:
        text = f"#{other.number} and #{op.number} both write {shown(op.argument)}: it cannot be judged"
        self.add(NOT_LINEARIZABLE, text, other, op)


def bounded(violations: Iterable[Violation]) -> list[Violation]:
    """The first of each kind and key."""
    kept: list[Violation] = []
    counts: dict[tuple[str, str], int] = {}
    for violation in violations:
        about = (violation.kind, violation.key)
        counts[about] = counts.get(about, 0) + 1
        if counts[about] <= KIND_MAX:
            kept.append(violation)
    return kept


def shown(value: object) -> str:
    """A value as text of bounded length that is the same in every run."""
    if value is None:
        return "nothing"
    if isinstance(value, str | bytes | int | float):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:40]}…"
    if isinstance(value, list | tuple | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def writes_of(ops: Sequence[Op], command: str, findings: Findings) -> dict[str, Op]:
    """Every operation that writes, by its value, whatever became of it, in the order of `ops`."""
    writes: dict[str, Op] = {}
    for op in ops:
        if op.command == command:
            value = op.argument
            if not isinstance(value, str):
                findings.odd_command(op)
            elif value in writes:
                findings.same_value(op, writes[value])
            else:
                writes[value] = op
    return writes


def elements(reply: object) -> Sequence[object] | None:
    """A reply that lists values; None if it does not."""
    return reply if isinstance(reply, list | tuple) else None


def is_count(reply: object, least: int) -> TypeGuard[int]:
    """A whole number that can be one, which True is not."""
    return type(reply) is int and reply >= least


def malformed(history: Sequence[Op]) -> Iterator[Violation]:
    """What is wrong with the history itself; whoever wrote it is at fault, not the system."""
    numbers: set[int] = set()
    for op in history:
        if op.result is Result.OK and op.ended_us < op.began_us:
            text = f"#{op.number} ended at {op.ended_us} µs, before it began at {op.began_us} µs"
            yield Violation(NOT_LINEARIZABLE, op.key, text, (op.number,))
        if op.number in numbers:
            text = f"two operations have number {op.number}"
            yield Violation(NOT_LINEARIZABLE, op.key, text, (op.number,))
        numbers.add(op.number)
