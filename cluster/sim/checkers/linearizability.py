"""Workload small: SET, GET, SETNX, DEL on one key with values that recur, by search (Wing and Gong 1993,
with the memory of Lowe 2017).

The search builds an order from the front. A state is which acknowledged operations were already placed, how
many of each kind in doubt, and the value then. A state that was once left without success isn't entered
again, nor one that differs by having used up more in doubt. Next may come any operation that began before
every unplaced acknowledged one has ended. Two rules make it short; neither can miss an order:

* A read, or a write that says it changed nothing, is placed as soon as it may come next and its reply fits:
  in any order that is found later, it could be moved to here.
* Of operations in doubt with the same effect, the one that began first is used first; one that would change
  nothing is not used at all.

Every operation that is looked at costs a step, and the steps are bounded: undecided is red. The search stops
at the first contradiction, and there is at most one violation for it per key.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.sim.checkers.findings import Findings, shown
from cluster.sim.history import ABORTED_READ, NEVER_US, NOT_LINEARIZABLE, Op, Result, Violation

STEPS_MAX = 4_000_000  # some seconds

Value = str | None


@dataclass(frozen=True, slots=True)
class State:
    """A beginning of an order."""

    base: int  # all acknowledged operations below it are placed
    mask: int  # bit i: so is operation base + i
    doubts: tuple[int, ...]  # how many of each kind in doubt are placed
    value: Value

    def place(self, at: int, value: Value) -> "State":
        base, mask = self.base, self.mask | 1 << (at - self.base)
        while mask & 1:
            base, mask = base + 1, mask >> 1
        return State(base, mask, self.doubts, value)

    def use_doubt(self, kind: int, value: Value) -> "State":
        doubts = (*self.doubts[:kind], self.doubts[kind] + 1, *self.doubts[kind + 1 :])
        return State(self.base, self.mask, doubts, value)


def apply(op: Op, value: Value) -> tuple[Value, Value | int]:
    """The value after it, and what it returns."""
    written = op.argument if isinstance(op.argument, str) else None
    match op.command:
        case "SET":
            return written, None
        case "SETNX":
            return (written, 1) if value is None else (value, 0)
        case "DEL":
            return None, int(value is not None)
        case _:
            return value, value


def check_small(key: str, ops: Sequence[Op], steps_max: int = STEPS_MAX) -> list[Violation]:
    """All impossible replies, and whether the others can be put in an order."""
    findings = Findings(key)
    acked, doubts = _sift(ops, findings)
    search = Search(acked, doubts, steps_max)
    if search.run():
        return findings.violations
    stuck = search.stuck
    numbers = ", ".join(f"#{op.number}" for op in stuck)
    if search.undecided:
        text = f"undecided within {steps_max} steps; {search.deepest} of {len(acked)} operations fit"
    else:
        text = f"{search.deepest} of {len(acked)} operations fit; then each of {numbers} contradicts"
    findings.add(NOT_LINEARIZABLE, text, *stuck)
    return findings.violations


def _sift(ops: Sequence[Op], findings: Findings) -> tuple[list[Op], list[Op]]:
    """Acknowledged operations, and writes that may have happened; impossible replies become findings."""
    acked: list[Op] = []
    doubts: list[Op] = []
    writes = [op for op in ops if op.command in ("SET", "SETNX")]
    written = {op.argument for op in writes if isinstance(op.argument, str) and op.result is not Result.FAIL}
    failed = {op.argument for op in writes if isinstance(op.argument, str) and op.result is Result.FAIL}
    for op in ops:
        is_write = op.command in ("SET", "SETNX")
        if op.command not in ("SET", "SETNX", "GET", "DEL") or (
            is_write and not isinstance(op.argument, str)
        ):
            findings.odd_command(op)
        elif op.result is Result.OK and _may_return(op, findings, written, failed):
            acked.append(op)
        elif op.result is not Result.FAIL and op.command != "GET":
            doubts.append(op)
    return acked, doubts


def _may_return(op: Op, findings: Findings, written: set[str], failed: set[str]) -> bool:
    reply = op.reply
    if op.command == "GET" and isinstance(reply, str):
        if reply not in written:
            whose = "whose only writes failed" if reply in failed else "which nobody wrote"
            findings.add(ABORTED_READ, f"#{op.number} shows {shown(reply)}, {whose}", op)
        return reply in written
    if op.command in ("GET", "SET"):
        fits = reply is None
    else:
        fits = type(reply) is int and reply in (0, 1)
    if not fits:
        findings.odd_reply(op)
    return fits


class Search:
    """Depth first over states, without recursion."""

    def __init__(self, acked: Sequence[Op], doubts: Sequence[Op], steps_max: int) -> None:
        self.acked = sorted(acked, key=lambda op: (op.began_us, op.number))
        kinds: dict[tuple[str, object], list[Op]] = {}
        for op in sorted(doubts, key=lambda op: (op.began_us, op.number)):
            kinds.setdefault((op.command, op.argument if op.command != "DEL" else None), []).append(op)
        self.kinds = list(kinds.values())
        self.steps_max = steps_max
        self.steps = 0
        self.deepest = -1  # how many acknowledged operations the longest beginning has
        self.stuck: list[Op] = []  # those of which one would have to come next there
        self.undecided = False
        self._entered: dict[tuple[int, int, Value], list[tuple[int, ...]]] = {}

    def run(self) -> bool:
        """Whether an order was found. If not, `undecided` tells whether there may be one."""
        start = self.place_free(State(0, 0, (0,) * len(self.kinds), None))
        self.is_known(start)
        path = [self.successors(start)]
        while path:
            if self.steps > self.steps_max:
                self.undecided = True
                return False
            state = next(path[-1], None)
            if state is None:
                path.pop()
            elif state.base == len(self.acked):
                return True
            elif not self.is_known(state):
                path.append(self.successors(state))
        return start.base == len(self.acked)

    def is_known(self, state: State) -> bool:
        """Whether this state was entered before, or one that had used up less. If not, it is now."""
        same = self._entered.setdefault((state.base, state.mask, state.value), [])
        for doubts in same:
            if all(one <= other for one, other in zip(doubts, state.doubts, strict=True)):
                return True
        same.append(state.doubts)
        return False

    def candidates(self, state: State) -> tuple[list[int], int]:
        """Which acknowledged operations may come next, and what must have begun by when to do so."""
        found: list[int] = []
        limit_us = NEVER_US
        mask = state.mask
        for at in range(state.base, len(self.acked)):
            self.steps += 1
            op = self.acked[at]
            if op.began_us > limit_us:
                break
            if not mask & 1:
                found.append(at)
                limit_us = min(limit_us, op.ended_us)
            mask >>= 1
        return found, limit_us

    def place_free(self, state: State) -> State:
        """Places all that says it changed nothing, and fits."""
        while True:
            free = [
                at
                for at in self.candidates(state)[0]
                if self.acked[at].command != "SET"
                and apply(self.acked[at], state.value) == (state.value, self.acked[at].reply)
            ]
            if not free:
                return state
            for at in free:
                state = state.place(at, state.value)

    def successors(self, state: State) -> Iterator[State]:
        found, limit_us = self.candidates(state)
        placed = state.base + state.mask.bit_count()
        if placed > self.deepest:
            self.deepest = placed
            self.stuck = [self.acked[at] for at in found]
        for at in sorted(found, key=lambda at: self.acked[at].ended_us):
            op = self.acked[at]
            value, reply = apply(op, state.value)
            if reply == op.reply:
                yield self.place_free(state.place(at, value))
        helps: list[tuple[bool, int, Value]] = []
        for kind, ops in enumerate(self.kinds):
            used = state.doubts[kind]
            if used < len(ops) and ops[used].began_us <= limit_us:
                value, _ = apply(ops[used], state.value)
                if value != state.value:
                    fits = any(apply(self.acked[at], value)[1] == self.acked[at].reply for at in found)
                    helps.append((fits, kind, value))
        for _, kind, value in sorted(helps, key=lambda one: (not one[0], one[1])):
            yield self.place_free(state.use_doubt(kind, value))
