"""What nodes tell each other about who leads which shard. The highest term wins; `ShardMap.learn` holds the rule."""

from dataclasses import dataclass

from cluster.types import NodeId, ShardId, Term


@dataclass(frozen=True, slots=True)
class Gossip:
    """Pushed on a change, and exchanged with one random peer twice a second."""

    leaderships: tuple[tuple[ShardId, Term, NodeId], ...]
