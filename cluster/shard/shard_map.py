"""Who owns a slot, and who leads a shard, as far as this node knows.

Owners come from the topology. Leaders are learned: from the node's own Raft group, and by gossip from others.
Rules:

1. The highest term wins. A term that is not above the known one changes nothing, so gossip may arrive late,
   twice and in any order.
2. One term has one leader (3.2). Somebody who claims otherwise is not believed; the first word stands.
   (Our own Raft core asserts the same; here the claim comes from outside, so it is no assertion.)
3. A leader that is lost (`lose`) stays known as the last one, until a higher term names another or somebody
   hears from it again in the same term.

Left out until 5/5: slots on their way between shards, and the config epochs of such moves. Until then a
shard's config epoch is its term.
"""

from dataclasses import dataclass

from cluster.az.topology import NodeSpec, Topology
from cluster.types import NodeId, ShardId, Slot, Term

Leadership = tuple[ShardId, Term, NodeId]


@dataclass(slots=True)
class _Known:
    term: Term
    leader: NodeSpec
    lost: bool = False


class ShardMap:
    """See the module."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self._known: dict[ShardId, _Known] = {}

    def learn(self, shard: ShardId, term: Term, leader: NodeId) -> bool:
        """Somebody says that `leader` leads `shard` in `term`. True if that was news; nonsense is ignored."""
        node = self._member(shard, leader)
        if node is None or term < 1:
            return False
        known = self._known.get(shard)
        if known is None or term > known.term:
            self._known[shard] = _Known(term, node)
            return True
        if term == known.term and node.id == known.leader.id and known.lost:
            known.lost = False
            return True
        return False

    def lose(self, shard: ShardId) -> bool:
        """The shard has no leader that is known to live. True if that was news."""
        known = self._known.get(shard)
        if known is None or known.lost:
            return False
        known.lost = True
        return True

    def leader(self, shard: ShardId) -> NodeSpec | None:
        """The leader, unless none is known or it was lost."""
        known = self._known.get(shard)
        return None if known is None or known.lost else known.leader

    def last_leader(self, shard: ShardId) -> NodeSpec | None:
        """The leader, or who was it last."""
        known = self._known.get(shard)
        return None if known is None else known.leader

    def term(self, shard: ShardId) -> Term:
        """The term of `last_leader`; 0 if none is known."""
        known = self._known.get(shard)
        return Term(0) if known is None else known.term

    def leader_of_slot(self, slot: Slot) -> NodeSpec | None:
        """Where the slot's commands are to go; None while that is not known."""
        return self.leader(self.topology.shard_of_slot(slot).id)

    def config_epoch(self, shard: ShardId) -> int:
        """Grows with every change that clients of the shard must hear of."""
        return self.term(shard)

    @property
    def current_epoch(self) -> int:
        """The highest config epoch of all shards."""
        return max((known.term for known in self._known.values()), default=0)

    def snapshot(self) -> tuple[Leadership, ...]:
        """Everything that is known, in the order of the shards' ids; what a peer needs to `learn` it."""
        return tuple(
            (shard, self._known[shard].term, self._known[shard].leader.id) for shard in sorted(self._known)
        )

    def _member(self, shard: ShardId, leader: NodeId) -> NodeSpec | None:
        try:
            node = self.topology.node(leader)
        except KeyError:
            return None
        return node if node.shard == shard else None
