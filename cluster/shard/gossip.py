"""Who leads which shard, as nodes tell each other: pushed on change, exchanged now and then. The highest
term wins; `ShardMap.learn` holds the rule.

A hint, never a proof: a node that wrongly believes itself primary is stopped by its lease and its log, not
by this.
"""

from dataclasses import dataclass

from cluster.types import NodeId, ShardId, Term


@dataclass(frozen=True, slots=True)
class Gossip:
    """Pushed on a change, and exchanged with one random peer twice a second.

    Leaderships the sender knows of, each `(shard, term, leader)`; at most one a shard, sorted by shard.
    """

    leaderships: tuple[tuple[ShardId, Term, NodeId], ...]
