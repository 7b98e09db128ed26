"""Everything that is drawn or given before a run: with the seed it *is* the run.

A sweep draws all of it from the seed (swarm testing: each run has its own mix of faults and limits, so that
rare combinations are tried at all). Limits are drawn tiny now and then: a log segment of a few kB, a cache
that holds two entries, so that the rare paths behind them are common.
"""

from dataclasses import dataclass, field
from typing import Literal

from cluster.raft import RaftConfig
from cluster.types import Az


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """One fault of a swarm, drawn before the run, so that leaving one out changes no other.

    `pick` chooses the target when it begins; it is a number, not a name, since "the primary" is known only
    then."""

    at_us: int  # since the workloads began
    kind: str
    pick: float  # 0 … 1
    duration_us: int
    amount: float = 0.0  # 0 … 1, what it means depends on the kind


@dataclass(frozen=True, slots=True)
class WorkloadConfig:
    kind: str
    clients: int
    ops_per_second: float  # of all its clients together
    keys: int  # a shard
    depth: int = 1  # operations that a client has under way at most


@dataclass(frozen=True, slots=True)
class SimConfig:
    """One run. Times in microseconds."""

    seed: int
    shards: int = 3
    replicas: int = 2
    azs: tuple[Az, ...] = (Az("az-a"), Az("az-b"), Az("az-c"))
    read_mode: Literal["lease", "quorum"] = "lease"
    raft: RaftConfig = field(default_factory=RaftConfig)
    unavailable_wait_us: int = 1_000_000
    workloads: tuple[WorkloadConfig, ...] = ()
    duration_us: int = 10_000_000  # of the phase in which faults happen
    faults: tuple[PlannedFault, ...] = ()
    ops_max: int | None = None  # stop beginning operations after so many
    # the machine room
    turn_us: int = 60  # a turn of an event loop takes up to this
    delay_min_us: int = 100
    delay_max_us: int = 1_000
    drop_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    client_delay_us: int = 500
    op_timeout_us: int = 1_500_000
    sync_min_us: int = 60
    sync_max_us: int = 400
    drift_percent: float = 0.0  # clocks run up to this much fast or slow
    # limits
    segment_bytes: int = 256 << 10
    wal_cache_bytes: int = 1 << 20
    engine_boot_us: int = 30_000
    restart_us: int = 200_000  # after which a supervisor starts a process again that ended by itself
    victim: int = 0  # which AZ's disks may rot: the others keep every datum intact

    def summary(self) -> dict[str, object]:
        """For people: what was drawn."""
        kinds: dict[str, int] = {}
        for fault in self.faults:
            kinds[fault.kind] = kinds.get(fault.kind, 0) + 1
        return {
            "shards": self.shards,
            "replicas": self.replicas,
            "azs": len(self.azs),
            "read_mode": self.read_mode,
            "tick_ms": self.raft.tick_ms,
            "workloads": {
                work.kind: f"{work.clients} clients, {work.ops_per_second:g}/s" for work in self.workloads
            },
            "network": f"{self.delay_min_us}-{self.delay_max_us} us, drops {self.drop_percent:g} %, "
            f"doubles {self.duplicate_percent:g} %, reorders {self.reorder_percent:g} %",
            "sync_us": f"{self.sync_min_us}-{self.sync_max_us}",
            "segment_bytes": self.segment_bytes,
            "drift_percent": self.drift_percent,
            "faults": kinds,
        }
