"""Ways to lose an availability zone, as configurations: the same cluster and clients, one fault each.

Random runs say whether a subject breaks; drills say on which occasion, how often, and how much it loses.
Each is drawn from a seed (which zone, at which instant), everything else is equal: three shards over three
zones, so every zone holds a primary, and a hundred operations a second of kinds whose losses are counted one
by one. `run_drill` runs one over many seeds and adds up.

The first ones are steps of one stair. A system that acknowledges before it replicates loses what is between
the two when the primary goes, so how much depends on how long that takes and on what goes with it. A SIGKILL
alone takes nothing: what a process has sent, its kernel still delivers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.history import Violation
from cluster.sim.sweep import run_config

AT_US = 3_000_000
AWAY_US = 3_000_000
DYING_US = 150_000  # from the failure of a zone's switches to that of its machines
SLOW_30_MS = 0.1  # of what the fault `slow` takes as its amount
BOTH_WAYS = 0.5  # of `isolate`: no message in or out, clients still reach it
WORKLOADS = (
    WorkloadConfig("list", clients=8, ops_per_second=40.0, keys=4),
    WorkloadConfig("set", clients=8, ops_per_second=30.0, keys=4),
    WorkloadConfig("register", clients=6, ops_per_second=30.0, keys=6),
)

Faults = Callable[[float, int], tuple[PlannedFault, ...]]


@dataclass(frozen=True, slots=True)
class Drill:
    text: str
    faults: Faults  # of the zone (a `pick`) and the instant
    load: int = 1  # so many times the hundred operations a second


def _kill(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    return (PlannedFault(at_us, "kill", az, AWAY_US),)


def _vanish(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    return (
        PlannedFault(at_us, "isolate", az, AWAY_US, BOTH_WAYS),
        PlannedFault(at_us, "power_cut", az, AWAY_US),
    )


def _slow_then_vanish(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    slow = PlannedFault(at_us - 1_000_000, "slow", az, AWAY_US, SLOW_30_MS)
    return (slow, *_vanish(az, at_us))


def _die_slowly(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    return (
        PlannedFault(at_us, "isolate", az, AWAY_US, BOTH_WAYS),
        PlannedFault(at_us + DYING_US, "power_cut", az, AWAY_US),
    )


def _partition(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    return (PlannedFault(at_us, "isolate", az, AWAY_US, BOTH_WAYS),)


def _cut_all(az: float, at_us: int) -> tuple[PlannedFault, ...]:
    return (PlannedFault(at_us, "power_cut_all", az, 500_000),)


DRILLS: dict[str, Drill] = {
    "kill": Drill("SIGKILL of all processes of a zone; what they had sent still arrives", _kill),
    "vanish": Drill("a zone loses power at one instant; what is in its links is gone with it", _vanish),
    "busy_vanish": Drill("the same at a thousand operations a second", _vanish, load=10),
    "slow_vanish": Drill("as vanish, after its links had been 30 ms slower for a second", _slow_then_vanish),
    "dying": Drill("its links fail 150 ms before its machines do", _die_slowly),
    "partition": Drill("it is cut off for three seconds, and clients still reach it", _partition),
    "power_cut_all": Drill("the power fails everywhere", _cut_all),
}


def drill_config(name: str, seed: int) -> SimConfig:
    rng = random.Random(f"drill {name} {seed}")
    zone = rng.randrange(3)
    # A pick below a half names a zone: see `swarm._az_or_one`.
    drill = DRILLS[name]
    faults = drill.faults((zone + 0.5) / 6, AT_US + rng.randrange(1_000_000))
    return SimConfig(
        seed=seed,
        workloads=tuple(
            replace(work, ops_per_second=work.ops_per_second * drill.load, depth=drill.load)
            for work in WORKLOADS
        ),
        duration_us=8_000_000,
        faults=faults,
        delay_max_us=rng.choice((500, 1_000, 3_000)),
        turn_us=rng.choice((20, 60, 300)),
    )


@dataclass(slots=True)
class DrillResult:
    """What a subject made of one drill over many seeds."""

    drill: str
    subject: str
    runs: int = 0
    runs_that_lost: int = 0  # acknowledged writes
    runs_with_violations: int = 0  # of any kind
    acked: int = 0
    lost: int = 0
    lost_most: int = 0  # in one run
    stale_reads: int = 0
    unavailable_ms: int = 0

    def line(self) -> str:
        return (
            f"| {self.drill} | {self.subject} | {self.runs_that_lost} of {self.runs} | {self.lost} | "
            f"{self.lost_most} | {self.stale_reads} | {self.runs_with_violations} | {self.acked} | "
            f"{self.unavailable_ms / 1000 / max(1, self.runs):.1f} |"
        )


LINE_TITLES = (
    "| drill | subject | runs that lost | lost | most in a run | stale reads | runs with violations | "
    "acknowledged | unavailable s a run |"
)


def run_drill(name: str, subject: str, seeds: Sequence[int]) -> DrillResult:
    result = DrillResult(name, subject)
    for seed in seeds:
        outcome = run_config(drill_config(name, seed), subject=subject)
        violations: list[Violation] = outcome.violations
        result.runs += 1
        result.runs_that_lost += outcome.lost > 0
        result.runs_with_violations += bool(violations)
        result.acked += outcome.acked
        result.lost += outcome.lost
        result.lost_most = max(result.lost_most, outcome.lost)
        result.stale_reads += outcome.stale_reads
        result.unavailable_ms += outcome.unavailable_ms
    return result
