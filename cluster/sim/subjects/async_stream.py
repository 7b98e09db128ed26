"""What a node of the `async` subject remembers: its shard's effect stream, and whose stream that is.

As in Redis, two numbers say where a replica stands: the *history* (Redis: replication id) and the offset in
it. A new primary begins a new history; what it had until then it shares with the history before
(`previous`, `previous_end`), so replicas that followed the old primary no further than it did need only the
rest (PSYNC). Everybody else starts over: a full resync, which throws away what only they had.

A history is named by the config epoch of the primary that writes it, 0 is none: such a node holds nothing
that counts. Effects are kept in whole units (a command, or MULTI … EXEC), so nothing is ever cut inside one.

Unlike Redis the whole stream is kept, not a backlog of a megabyte: the model engine loads no snapshot, so a
full resync is the stream from its beginning. That costs the simulated cluster no time that a real one would
not need, and can only make this subject look better.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from cluster.types import Offset

Standing = tuple[int, int]  # history and offset: of two replicas of a shard the greater one is further
NOTHING: Standing = (0, 0)


class EffectStream:
    def __init__(self) -> None:
        self.history = 0
        self._previous = 0
        self._previous_end = Offset(0)
        self._units: list[bytes] = []
        self._ends: list[int] = [0]  # of unit i: _ends[i + 1]; strictly rising

    @property
    def end(self) -> Offset:
        return Offset(self._ends[-1])

    @property
    def standing(self) -> Standing:
        return (self.history, self.end) if self.history else NOTHING

    def clear(self) -> None:
        """Hold nothing, of nobody's history."""
        self.history = self._previous = 0
        self._previous_end = Offset(0)
        self._units = []
        self._ends = [0]

    def begin(self, history: int) -> None:
        """From here on the stream is written, or followed, in another history."""
        if history != self.history:
            self._previous, self._previous_end = self.history, self.end
            self.history = history

    def append(self, unit: bytes) -> None:
        assert unit, "an empty unit has no place of its own"
        self._units.append(unit)
        self._ends.append(self._ends[-1] + len(unit))

    def extend(self, start: int, units: Sequence[bytes]) -> bool:
        """Take over units that begin at `start`, except those that are here. False if that leaves a gap."""
        if start > self.end:
            return False
        for unit in units:
            if start >= self.end:
                self.append(unit)
            start += len(unit)
        return True

    def since(self, offset: int) -> tuple[bytes, ...]:
        """All units from `offset` on, where one must begin."""
        first = bisect_left(self._ends, offset)
        assert first < len(self._ends) and self._ends[first] == offset, f"{offset} is inside a unit"
        return tuple(self._units[first:])

    def continues(self, standing: Standing) -> bool:
        """Whether who stands there holds a prefix of this stream, so that the rest is enough for it."""
        history, offset = standing
        if history == 0:
            return False
        if history == self.history:
            return offset <= self.end
        return history == self._previous and offset <= self._previous_end

    def check_invariants(self) -> None:
        assert len(self._ends) == len(self._units) + 1
        assert all(one < other for one, other in pairwise(self._ends))
        assert self._previous_end <= self.end
