"""The Raft core's numbers, and the rules between them.

The one rule with safety in it: a leader trusts its lease for `lease_ms` after the *send* time of a round, a
follower keeps its promise for `election_timeout_min_ms` after the *receipt* of it, each on its own monotonic
clock (6.4.1). So the lease must be shorter than the promise by more than two clocks can drift apart in that
time. `DRIFT_PERCENT_MAX` is that margin; real quartz differs by 0.02 %, so a fifth leaves room for a bad
hypervisor. The others are about liveness only. For links with long round trips, raise the three times
together.
"""

from dataclasses import dataclass

from cluster.errors import ConfigError

DRIFT_PERCENT_MAX = 20  # how much faster one node's clock may run than another's


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """All of a node's Raft settings. `ConfigError` if they contradict each other."""

    election_timeout_min_ms: int = 150  # also the length of a follower's promise to its leader
    election_timeout_max_ms: int = 300  # also how long a leader goes on without hearing from a quorum
    heartbeat_ms: int = 40
    lease_ms: int = 110
    tick_ms: int = 10  # how often the caller means to call `tick`
    inflight_messages_max: int = 8  # unanswered AppendEntries with entries, per peer
    message_bytes_max: int = 1 << 20  # payload bytes of one AppendEntries; a larger single entry still goes
    cache_bytes_max: int = 8 << 20  # recent durable entries kept in memory
    apply_bytes_max: int = (
        4 << 20
    )  # payload bytes of one Ready's `committed`; a larger single entry still goes
    preferred: bool = False  # until it has heard of a leader it campaigns at the bottom of the range
    yield_ms: int = (
        0  # in a brand-new group: how much longer it leaves the first election to the preferred one
    )
    reluctant: bool = False  # journal-only member: adds a whole maximum timeout before it campaigns

    def __post_init__(self) -> None:
        for name in (
            "election_timeout_min_ms",
            "heartbeat_ms",
            "lease_ms",
            "tick_ms",
            "inflight_messages_max",
            "message_bytes_max",
            "cache_bytes_max",
            "apply_bytes_max",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"raft: {name} must be positive")
        if self.election_timeout_max_ms <= self.election_timeout_min_ms:
            raise ConfigError("raft: election_timeout_max_ms must be above election_timeout_min_ms")
        if self.lease_ms * (100 + DRIFT_PERCENT_MAX) > self.election_timeout_min_ms * 100:
            raise ConfigError(
                f"raft: lease_ms must be {DRIFT_PERCENT_MAX} % below election_timeout_min_ms, for clock drift"
            )
        if self.heartbeat_ms + self.tick_ms >= self.lease_ms:
            raise ConfigError(
                "raft: heartbeat_ms + tick_ms must be below lease_ms, or the lease lapses each time"
            )
