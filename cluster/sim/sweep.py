"""Many seeds, one after another: which ones, and what each says in a few bytes.

Whoever sweeps hands out chunks of seeds to worker processes, which call `run_chunk`, and gathers
`Summary` objects. The processes, the progress bar and every wall clock are the caller's (`cli/sim_pool.py`).

A run of which the *simulator* breaks is a failing seed too (`SIMULATOR_ERROR`): it must neither end a sweep
of ten thousand nor hide in it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cluster.errors import ConfigError
from cluster.sim import swarm
from cluster.sim.config import SimConfig
from cluster.sim.history import Violation
from cluster.sim.scenario import Scenario
from cluster.sim.simulation import Outcome, Simulation
from cluster.sim.subjects import Subject
from cluster.sim.subjects.registry import SUBJECTS
from cluster.sim.toml_lines import shown
from cluster.sim.trace import Sink

SIMULATOR_ERROR: Final = "simulator_error"
LISTED_SEEDS_MAX: Final = 1_000_000  # a list is kept in memory; a single range is not
_PART: Final = re.compile(r"(\d{1,18})(?:\.\.(\d{1,18}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a sweep keeps of a run. Small, and everything in it can be pickled."""

    seed: int
    subject: str
    violations: tuple[Violation, ...]
    trace_hash: str
    unseed: int
    virtual_us: int
    acked: int
    lost: int
    ops: int  # that clients began before the final reads

    @property
    def ok(self) -> bool:
        return not self.violations


# -- seeds -------------------------------------------------------------------------------------------------


def parse_seeds(text: str) -> Sequence[int]:
    """`7`, `1,5,9`, `0..10000` (from 0 to 9999), and these with commas between. ConfigError: one line."""
    parts = [_parse_part(part.strip(), text) for part in text.split(",")]
    if len(parts) == 1:
        return parts[0]
    if sum(map(len, parts)) > LISTED_SEEDS_MAX:
        raise ConfigError(f"seeds {shown(text)}: more than {LISTED_SEEDS_MAX:,}; give them as one range a..b")
    return tuple(dict.fromkeys(seed for part in parts for seed in part))


def _parse_part(part: str, text: str) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise ConfigError(f"seeds {shown(text)}: give a number, a..b (from a to b - 1), or several, as 1,5,9")
    first = int(match[1])
    end = int(match[2]) if match[2] is not None else first + 1
    if end <= first:
        raise ConfigError(f"seeds {shown(text)}: {part} holds no seed; a..b goes from a to b - 1")
    return range(first, end)


# -- runs --------------------------------------------------------------------------------------------------


def make_subject(name: str) -> Subject:
    """What is put into the simulator under this name."""
    return SUBJECTS[name]()


def run_seed(
    seed: int, *, subject: str = "azimuth", scenario: Scenario | None = None, sink: Sink | None = None
) -> Outcome:
    """The run that this seed draws, or of this scenario with this seed."""
    if scenario is None:
        return run_config(swarm.draw_config(seed), subject=subject, sink=sink)
    from cluster.sim.scenario_run import run_scenario

    return run_scenario(scenario, seed, subject=make_subject(subject), sink=sink)


def run_config(config: SimConfig, *, subject: str = "azimuth", sink: Sink | None = None) -> Outcome:
    return Simulation(config, subject=make_subject(subject), sink=sink).run()


def run_chunk(
    seeds: Sequence[int], *, subject: str = "azimuth", scenario: Scenario | None = None
) -> list[Summary]:
    """What a worker process does: run these seeds, in this order."""
    found = []
    for seed in seeds:
        try:
            found.append(summarize(run_seed(seed, subject=subject, scenario=scenario)))
        except Exception as error:
            found.append(crashed(seed, subject, error))
    return found


def summarize(outcome: Outcome) -> Summary:
    return Summary(
        seed=outcome.seed,
        subject=outcome.subject,
        violations=tuple(outcome.violations),
        trace_hash=outcome.trace_hash,
        unseed=outcome.unseed,
        virtual_us=outcome.virtual_us,
        acked=outcome.acked,
        lost=outcome.lost,
        ops=outcome.acked + outcome.in_doubt + outcome.failed,
    )


def crashed(seed: int, subject: str, error: Exception) -> Summary:
    """The simulator itself broke in this run."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    violation = Violation(SIMULATOR_ERROR, "", text)
    return Summary(seed, subject, (violation,), trace_hash="", unseed=0, virtual_us=0, acked=0, lost=0, ops=0)
