"""The gate that replies leave through: nothing a client could lose passes it.

The engine executes at once and its reply is handed to the gate together with the replication offset at that
moment. A reply leaves when **both** hold:

1. the log has committed that offset, so everything the reply shows survives the loss of an AZ;
2. this node proves that it was still the leader *after* the engine had answered: its lease is valid now
   (6.3 and 6.4.1), or a quorum has answered a round that was sent after the reply arrived (ReadIndex, 6.4).

Rule 2 holds for writes as well: a batch mixes both, and the acks that commit a write renew the lease with it.
Without rule 2 a paused leader that wakes up could count late acks and answer a read of a key that a newer
leader has changed meanwhile (regressions 20–22).

Replies leave in the order in which they came. A reply with a lower offset may wait behind one with a
higher: that costs microseconds and keeps one queue.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from cluster.errors import NotLeader
from cluster.types import Clock, Offset


class LeadershipProof(Protocol):
    """The part of a RaftNode that the gate asks."""

    def lease_valid(self, now_us: int) -> bool: ...
    def read_round(self) -> int: ...
    def read_confirmed(self, round_: int) -> bool: ...


class ReplyGate:
    def __init__(self, clock: Clock, proof: LeadershipProof, *, use_lease: bool) -> None:
        self._clock = clock
        self._proof = proof
        self._use_lease = use_lease
        self._committed = Offset(0)
        self._parked: deque[tuple[Offset, int | None, Callable[[], None]]] = deque()

    def __len__(self) -> int:
        return len(self._parked)

    def submit(self, offset: Offset, deliver: Callable[[], None]) -> None:
        """The engine has answered at `offset`. `deliver` is called once, now or later, or never
        (`abandon`)."""
        leased = self._use_lease and self._proof.lease_valid(self._clock.now_us())
        if leased and not self._parked and offset <= self._committed:
            deliver()
            return
        # The round is drawn after the engine answered: a quorum that answers it proves leadership since then.
        round_ = None if leased else self._ask_round()
        self._parked.append((offset, round_, deliver))
        if offset <= self._committed:
            self.advance(self._committed)

    def advance(self, committed: Offset) -> None:
        """Let out what may leave. Call after every commit, every answer of a follower and every tick."""
        assert committed >= self._committed, "the committed offset never goes back"
        self._committed = committed
        parked = self._parked
        if not parked or parked[0][0] > committed:
            return
        leased = self._use_lease and self._proof.lease_valid(self._clock.now_us())
        while parked and parked[0][0] <= committed:
            offset, round_, deliver = parked[0]
            if not leased:
                if round_ is None:
                    # Parked under a lease that has run out since: now it takes a round.
                    parked[0] = (offset, self._ask_round(), deliver)
                    return
                if not self._proof.read_confirmed(round_):
                    return
            parked.popleft()
            deliver()

    def _ask_round(self) -> int | None:
        """None when leadership is gone already and the step-down is about to be noticed."""
        try:
            return self._proof.read_round()
        except NotLeader:
            return None

    def abandon(self) -> None:
        """Leadership or the engine is gone: whoever waits is answered by the session, in doubt."""
        self._parked.clear()

    def reset(self, committed: Offset) -> None:
        """A new term of service starts at `committed`."""
        assert not self._parked
        self._committed = committed
