"""One run, several subjects: the same cluster, clients, faults and seed, and one row for each.

What is compared is what clients got. Nobody's own words count: a write that was acknowledged and is not
read in the end is lost, whoever lost it. Of Azimuth any violation ends the run at once, since it is a bug; of
the others it is what the run is for, so they go on to the end and everything is counted.

| in a row | |
|---|---|
| acknowledged, in doubt | operations of the workloads, without the final reads |
| lost | acknowledged writes that are missing: violations `lost_write` |
| stale reads | reads that showed less than was known: violations `stale_read` |
| unavailable | tenths of seconds without an acknowledgement, summed over the shards |
| violations | all that the checkers found, by kind, those two among them |

The fault times are the same for all, the instants are not: "the primary" is another node at another subject,
and from the first message on the runs differ. Compare over many seeds (`drills.py`) before you conclude.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.sim.config import SimConfig
from cluster.sim.scenario import Scenario
from cluster.sim.simulation import Outcome
from cluster.sim.sweep import make_subject, run_config


@dataclass(frozen=True, slots=True)
class Row:
    subject: str
    seed: int
    acknowledged: int
    in_doubt: int
    lost: int
    stale_reads: int
    unavailable_s: float
    violations: dict[str, int]  # by kind, kinds in alphabetical order
    trace_hash: str


def compare(what: SimConfig | Scenario, subjects: Sequence[str], *, seed: int = 0) -> list[Outcome]:
    """The outcomes in the order of `subjects` (names in the registry; KeyError). `seed` is a scenario's; a
    configuration has its own."""
    return [run_one(what, subject, seed=seed) for subject in subjects]


def run_one(what: SimConfig | Scenario, subject: str, *, seed: int = 0) -> Outcome:
    if isinstance(what, SimConfig):
        return run_config(what, subject=subject)
    from cluster.sim.scenario_run import run_scenario

    return run_scenario(what, seed, subject=make_subject(subject))


def row_of(outcome: Outcome) -> Row:
    kinds = Counter(violation.kind for violation in outcome.violations)
    return Row(
        subject=outcome.subject,
        seed=outcome.seed,
        acknowledged=outcome.acked,
        in_doubt=outcome.in_doubt,
        lost=outcome.lost,
        stale_reads=outcome.stale_reads,
        unavailable_s=outcome.unavailable_ms / 1000,
        violations=dict(sorted(kinds.items())),
        trace_hash=outcome.trace_hash,
    )


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    return [row_of(outcome) for outcome in outcomes]


def rows_as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """One object for each subject, ready for `json.dumps`."""
    return [asdict(row) for row in rows(outcomes)]
