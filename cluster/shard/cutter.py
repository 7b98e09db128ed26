"""Cuts the primary's effect stream into log entries, only where a command ends.

The tap delivers bytes cut anywhere; the boundaries come from the `ROLE` that follows every batch of
commands, on another connection, so either may arrive first. An entry is proposed up to the newest boundary
whose bytes have all arrived. So a transaction is never split over two entries, and a replica never holds
half of one.

Group commit: while an entry is on its way, everything that arrives gathers for the next one, unless that has
grown to `gather_bytes`: then it goes at once, up to `inflight_max` entries behind each other. What an entry
costs (a frame to each peer, an ack from each, a sync on each) is far more than what its bytes cost, so few
and large ones win. For the same reason the first commands of a round wait a moment for the others: clients
whose replies have just left come back together. An entry is held back, about a millisecond at most, while
it is smaller than three quarters of what was on its way or gathered at recent commits. A single client
never waits: it brings as much as it did before.
"""

from collections import deque
from collections.abc import Callable

from cluster.shard.stream import encode_effects, extend_crc
from cluster.types import Index, Offset, Term

# More than one command may carry, less than one message between nodes: what is proposed must arrive.
ENTRY_BYTES_MAX = 72 << 20


class EffectCutter:
    """Owns the uncommitted end of the stream: proposed-but-uncommitted entries and bytes not proposed yet.

    Invariants: committed ≤ proposed ≤ tapped; boundaries are strictly increasing and beyond `proposed`.
    """

    def __init__(
        self,
        propose: Callable[[bytes], Index | None],
        *,
        inflight_max: int = 8,
        gather_bytes: int = 32 << 10,
        entry_bytes_target: int = 1 << 20,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        hold: Callable[[], None] | None = None,
    ) -> None:
        """`hold` asks the caller to call `flush` a moment later (about a millisecond); None: never hold."""
        self._propose = propose
        self._inflight_max = inflight_max
        self._gather_bytes = gather_bytes
        self._hold = hold
        self._holding = self._flushing = False
        self._usual_bytes = 0  # the most that was on its way or gathered at a recent commit; fades
        self._committed = Offset(0)
        self._entry_bytes_target = entry_bytes_target
        self._entry_bytes_max = entry_bytes_max
        self.oversized = False  # what comes next is one piece that is too large for any entry
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
        self.oversized = False
        self._holding = False
        self._usual_bytes = 0
        self.inflight.clear()
        self.proposed = self.tapped = self._committed = offset
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
        # Those whose replies leave now will be back, together with those who gathered meanwhile.
        self._usual_bytes = max(self.tapped - self._committed, self._usual_bytes * 7 // 8)
        self._committed = end
        self.maybe_propose(term)

    def maybe_propose(self, term: Term) -> bool:
        """Propose what is whole, if the window allows. True if an entry was proposed."""
        if not self._boundaries or len(self.inflight) >= self._inflight_max:
            return False
        gathered_bytes = self._boundaries[-1] - self.proposed  # what is beyond has no answered ROLE yet
        if gathered_bytes < self._gather_bytes and (self.inflight or self._hold_for_more(gathered_bytes)):
            return False
        self._holding = False
        end = self._take_boundary()
        if end is None:
            return False
        if end - self.proposed > self._entry_bytes_max:
            self._boundaries.appendleft(end)
            self.oversized = True
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

    def _hold_for_more(self, gathered_bytes: int) -> bool:
        """Is this the first part of a usual entry, its rest about to come? Then ask to be called again."""
        if self._flushing or self._hold is None or gathered_bytes * 4 >= self._usual_bytes * 3:
            return False
        if not self._holding:
            self._holding = True
            self._hold()
        return True

    def flush(self, term: Term) -> None:
        """The hold is over: propose what there is."""
        if self._holding:
            self._flushing = True
            self.maybe_propose(term)
            self._flushing = self._holding = False

    def _take_boundary(self) -> Offset | None:
        """The newest boundary whose bytes are here, but not far beyond the target size of an entry."""
        boundaries = self._boundaries
        end: Offset | None = None
        while boundaries and boundaries[0] <= self.tapped:
            if end is not None and boundaries[0] - self.proposed > self._entry_bytes_target:
                break
            end = boundaries.popleft()
        return end
