"""Proof by time and by rounds that nobody else leads (6.4, 6.4.1).

Every AppendEntries carries a round, drawn anew from a counter that never goes back while the process lives.
Its reply, also a rejection, echoes it: the peer still followed us when it got the message, hence also at
every moment before we *sent* it.

* **read_index**: a quorum answered a round drawn after the read came in: no newer leader existed when it came
  in.
* **lease**: a follower refuses votes for `election_timeout_min` after it heard from its leader, and a new
  leader needs a vote from at least one member of any quorum. So if a quorum answered messages sent at s or
  later, nobody is elected before s + election_timeout_min. We trust only `lease_ms` of that, on our own
  clock. Absolute time: a pause or a suspend uses the lease up.
* TimeoutNow lifts the promise (its election is flagged `transfer`), and it may sit in a socket for any length
  of time. So a term in which one was sent has no lease any more, even if the transfer is given up: `void`.
  ReadIndex goes on working, and the next term has a lease again.
"""

from collections import deque

from cluster.raft.quorum import Quorum
from cluster.types import NodeId

_ALWAYS = 1 << 62  # the leader itself: it hears itself at any time
_NEVER = -(1 << 62)
_UNANSWERED_MAX = 1024  # per peer; beyond it the oldest are forgotten, which can only shorten a lease


class LeaderLease:
    """One leader's rounds in one term. `round` is the last one drawn."""

    __slots__ = ("_first_round", "_lease_us", "_quorum", "_round_of", "_sent", "_sent_at_of", "quorum_round",
                 "quorum_sent_at_us", "round", "void")  # fmt: skip

    def __init__(
        self, node_id: NodeId, peers: tuple[NodeId, ...], quorum: Quorum, lease_us: int, round_: int
    ) -> None:
        self.round = round_
        self.void = False
        self._first_round = round_ + 1
        self._lease_us = lease_us
        self._quorum = quorum
        self._sent: dict[NodeId, deque[tuple[int, int]]] = {
            peer: deque(maxlen=_UNANSWERED_MAX) for peer in peers
        }
        self._round_of: dict[NodeId, int] = dict.fromkeys(peers, 0) | {node_id: _ALWAYS}
        self._sent_at_of: dict[NodeId, int] = dict.fromkeys(peers, _NEVER) | {node_id: _ALWAYS}
        self.quorum_round = quorum.value(self._round_of)
        self.quorum_sent_at_us = quorum.value(self._sent_at_of)

    def draw(self, peer: NodeId, now_us: int) -> int:
        """A new round for a message to `peer` that leaves at now_us or later."""
        self.round += 1
        self._sent[peer].append((self.round, now_us))
        return self.round

    def answered(self, peer: NodeId, round_: int) -> None:
        """`peer` answered a message of `round_` in this term."""
        if round_ <= self._round_of[peer] or round_ > self.round:
            return
        self._round_of[peer] = round_
        sent = self._sent[peer]
        while sent and sent[0][0] <= round_:
            self._sent_at_of[peer] = sent.popleft()[1]
        self.quorum_round = self._quorum.value(self._round_of)
        self.quorum_sent_at_us = self._quorum.value(self._sent_at_of)

    def confirms(self, round_: int) -> bool:
        """A quorum has answered `round_`, which was drawn in this term, or a later one."""
        return self._first_round <= round_ <= self.quorum_round

    def valid(self, now_us: int) -> bool:
        return not self.void and self.quorum_sent_at_us + self._lease_us > now_us
