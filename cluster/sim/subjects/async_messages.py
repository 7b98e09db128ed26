"""The `async` subject's words: its knobs, what its nodes say to each other, the roles of a node."""

from dataclasses import dataclass
from enum import Enum

from cluster.shard.shard_map import Leadership
from cluster.sim.subjects.async_stream import Standing
from cluster.types import ShardId


@dataclass(frozen=True, slots=True)
class AsyncConfig:
    """Redis Cluster's knobs, shorter than its defaults (15 s): a run of ten seconds shall see failovers."""

    node_timeout_us: int = 500_000
    ping_us: int = 100_000
    election_delay_us: int = 50_000  # so that the others suspect the primary as well
    election_spread_us: int = 100_000
    rank_delay_us: int = 250_000  # for each replica that is further
    resync_us: int = 200_000  # unanswered, or without news though behind, a replica asks again
    empty_wait_us: int = 2_000_000  # then service is worth more than data that may be somewhere


# -- messages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ping:
    epoch: int  # the highest that the sender knows
    claims: tuple[Leadership, ...]  # (shard, config epoch, primary), as far as the sender knows
    primary: bool  # the sender is one
    standing: Standing


@dataclass(frozen=True, slots=True)
class VoteRequest:
    epoch: int
    shard: ShardId
    known: int  # config epoch of the primary that the sender wants to replace
    forced: bool  # CLUSTER FAILOVER: that primary agrees


@dataclass(frozen=True, slots=True)
class Vote:
    epoch: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Replica to primary: I stand here, go on from there."""

    number: int  # echoed, so that an old answer is known as such
    standing: Standing


@dataclass(frozen=True, slots=True)
class Effects:
    """Primary to replica: an answer to Sync, or (number 0) what has just been executed."""

    number: int
    epoch: int  # config epoch of the sender
    full: bool  # throw away what you have
    start: int
    units: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """CLUSTER FAILOVER: clients wait, this is all there is; take over once you have it."""

    epoch: int
    end: int


class Role(Enum):
    REPLICA = "replica"  # also: nobody's replica yet, and witnesses
    PROMOTING = "promoting"  # elected; the engine has not applied everything yet
    PRIMARY = "primary"
