"""Cuts the primary's effect stream into log entries, only where a command ends.

The tap delivers bytes cut anywhere; the boundaries come from the `ROLE` that follows every batch of
commands, on another connection, so either may arrive first. An entry is proposed up to the newest boundary
whose bytes have all arrived. So a transaction is never split over two entries, and a replica never holds
half of one.

Group commit: while `inflight_max` entries are on their way, everything that arrives gathers for the next one.
"""

from collections import deque
from collections.abc import Callable

from cluster.shard.stream import encode_effects, extend_crc
from cluster.types import Index, Offset, Term


class EffectCutter:
    """Owns the uncommitted end of the stream: proposed-but-uncommitted entries and bytes not proposed yet.

    Invariants: committed ≤ proposed ≤ tapped; boundaries are strictly increasing and beyond `proposed`.
    """

    def __init__(
        self,
        propose: Callable[[bytes], Index | None],
        *,
        inflight_max: int = 2,
        entry_bytes_target: int = 1 << 20,
    ) -> None:
        self._propose = propose
        self._inflight_max = inflight_max
        self._entry_bytes_target = entry_bytes_target
        self._chunks: list[bytes] = []
        self._boundaries: deque[Offset] = deque()
        self.proposed = Offset(0)
        self.tapped = Offset(0)
        self.crc = 0
        self.inflight: deque[tuple[Index, Term, Offset]] = (
            deque()
        )  # proposed, not yet committed, with its end

    def reset(self, offset: Offset, crc: int) -> None:
        """Start over at `offset`: the engine has been promoted there and holds nothing beyond."""
        self._chunks.clear()
        self._boundaries.clear()
        self.inflight.clear()
        self.proposed = self.tapped = offset
        self.crc = crc

    @property
    def idle(self) -> bool:
        """Everything that the engine did is committed, as far as the tap knows."""
        return not self.inflight and self.tapped == self.proposed

    @property
    def wants_boundary(self) -> bool:
        """Effects have come that no client's batch accounts for (an expiry): somebody must ask for the
        offset."""
        return self.tapped > (self._boundaries[-1] if self._boundaries else self.proposed)

    def on_effects(self, data: bytes, term: Term) -> None:
        self._chunks.append(data)
        self.tapped = Offset(self.tapped + len(data))
        self.maybe_propose(term)

    def on_boundary(self, offset: Offset, term: Term) -> None:
        """Everything before `offset` is whole commands."""
        if offset > (self._boundaries[-1] if self._boundaries else self.proposed):
            self._boundaries.append(offset)
            self.maybe_propose(term)

    def on_committed(self, end: Offset, term: Term) -> None:
        inflight = self.inflight
        while inflight and inflight[0][2] <= end:
            inflight.popleft()
        self.maybe_propose(term)

    def maybe_propose(self, term: Term) -> bool:
        """Propose what is whole, if the window allows. True if an entry was proposed."""
        if not self._boundaries or len(self.inflight) >= self._inflight_max:
            return False
        end = self._take_boundary()
        if end is None:
            return False
        gathered = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        size = end - self.proposed
        data = gathered if size == len(gathered) else gathered[:size]
        index = self._propose(encode_effects(self.proposed, self.crc, data))
        if index is None:
            self._boundaries.appendleft(end)
            self._chunks = [gathered]
            return False
        self._chunks = [gathered[size:]] if size < len(gathered) else []
        self.crc = extend_crc(self.crc, data)
        self.proposed = end
        self.inflight.append((index, term, end))
        return True

    def _take_boundary(self) -> Offset | None:
        """The newest boundary whose bytes are here, but not far beyond the target size of an entry."""
        boundaries = self._boundaries
        end: Offset | None = None
        while boundaries and boundaries[0] <= self.tapped:
            if end is not None and boundaries[0] - self.proposed > self._entry_bytes_target:
                break
            end = boundaries.popleft()
        return end
