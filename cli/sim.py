"""`azimuth sim`: run seeds in the simulator, sweep over many, make a failing one small, prove determinism.

Everything that is measured with a clock on the wall is measured in these commands; the simulator has none.
They end like all others (cli/main.py): 0 if every promise was kept, 1 if one was broken, 130 after Ctrl-C.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.text import Text

from cli.scenario import echo_json, find, json_option, load, make_console
from cli.sim_options import EXIT_FAILED, SUBJECT_NAMES, called, repeat, scenario_option, seed_type, spinner
from cli.sim_shrink import shrink
from cli.sim_sweep import determinism, sweep
from cluster.errors import ConfigError
from cluster.sim.scenario import Scenario
from cluster.sim.toml_lines import one_line

if TYPE_CHECKING:
    from cluster.sim.config import SimConfig
    from cluster.sim.simulation import Outcome
    from cluster.sim.trace import Sink

SCENARIO_SEED: Final = 1  # of a scenario whose seed nobody chose
REPLAY_CHARS_MAX: Final = 4 << 20


@click.group("sim")
def sim_group() -> None:
    """Run the cluster in a simulator: one clock, one seed, every run repeatable.

    The nodes are the real ones; network, disks, clocks and engines are simulated and break as the seed says.
    Whatever the clients see is checked against what they were promised.

    \b
    Examples:
        azimuth sim run --seed 42
        azimuth sim sweep --seeds 0..10000
        azimuth sim shrink --seed 42
        azimuth sim run --scenario az_loss --subject azimuth --subject async
    """


for command in (sweep, shrink, determinism):
    sim_group.add_command(command)


# -- run ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which run, and how it is called on the command line."""

    seed: int
    scenario: Scenario | None = None
    config: "SimConfig | None" = None  # of a replay
    options: tuple[str, ...] = ()  # that name it

    def drawn(self) -> "SimConfig":
        if self.config is not None:
            return self.config
        if self.scenario is not None:
            from cluster.sim.scenario_run import config_of

            return config_of(self.scenario, self.seed)
        from cluster.sim.swarm import draw_config

        return draw_config(self.seed)

    def run(self, subject: str, sink: "Sink | None") -> "Outcome":
        from cluster.sim.sweep import run_config, run_seed

        if self.config is not None:
            return run_config(self.config, subject=subject, sink=sink)
        return run_seed(self.seed, subject=subject, scenario=self.scenario, sink=sink)

    def title(self) -> str:
        return f"seed {self.seed}" if self.scenario is None else f"{self.scenario.name}, seed {self.seed}"

    def repeat(self, subjects: Sequence[str]) -> str:
        return repeat(self.options, subjects)


@dataclass(frozen=True, slots=True)
class Done:
    outcome: "Outcome"
    wall_s: float


@sim_group.command()
@click.option("--seed", type=seed_type, help="Which run.  [default, of a scenario: 1]")
@scenario_option
@click.option(
    "--replay",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that `sim shrink --out` wrote, instead of a seed.",
)
@click.option(
    "--subject",
    "subjects",
    type=click.Choice(SUBJECT_NAMES),
    multiple=True,
    help="What is put into the simulator; repeat it to compare.  [default: azimuth]",
)
@click.option("--trace", is_flag=True, help="Print every event while it runs (with --json on stderr).")
@json_option
@click.pass_context
def run(
    context: click.Context,
    seed: int | None,
    scenario: str | None,
    replay: Path | None,
    subjects: tuple[str, ...],
    trace: bool,
    as_json: bool,
) -> None:
    """Run one seed: what was drawn, what happened, and whether every promise was kept.

    Times of faults and operations count from the moment when the workloads begin. With several subjects a
    table compares them, and the exit code is azimuth's if it is among them: the others promise less.

    \b
    Examples:
        azimuth sim run --seed 42
        azimuth sim run --seed 42 --trace | grep became_leader
        azimuth sim run --scenario az_loss --subject azimuth --subject async
        azimuth sim run --replay small.json
        azimuth sim run --seed 42 --json | jq .verdict
    """
    wanted, recorded = read_wanted(seed, scenario, replay)
    chosen = tuple(dict.fromkeys(subjects)) or (recorded,)
    console = Console(stderr=True) if as_json else make_console()
    if not as_json:
        from cli.sim_views import config_view

        console.print(config_view(wanted.title(), wanted.drawn()))
    done = {}
    for subject in chosen:
        if len(chosen) > 1 and not as_json:
            console.print(Text(f"\n{subject}", "bold"))
        done[subject] = run_one(wanted, subject, console if trace else None)
        if not as_json:
            print_done(console, done[subject], trace)
    if as_json:
        found = {subject: as_object(wanted, each) for subject, each in done.items()}
        echo_json(found if len(chosen) > 1 else found[chosen[0]])
    else:
        print_end(console, wanted, chosen, done)
    deciding = [done["azimuth"]] if "azimuth" in done else list(done.values())
    if not all(each.outcome.ok for each in deciding):
        context.exit(EXIT_FAILED)


def read_wanted(seed: int | None, scenario: str | None, replay: Path | None) -> tuple[Wanted, str]:
    """The run that the options name, and the subject that a replay names."""
    if replay is not None:
        if seed is not None or scenario is not None:
            raise click.UsageError("--replay is a whole run: it goes with neither --seed nor --scenario")
        config, subject = load_replay(replay)
        return Wanted(config.seed, config=config, options=("--replay", str(replay))), subject
    if scenario is not None:
        seed = SCENARIO_SEED if seed is None else seed
        return Wanted(seed, load(find(scenario)), options=called(seed, scenario)), "azimuth"
    if seed is None:
        raise click.UsageError("which run? Give --seed N, --scenario NAME or --replay FILE")
    return Wanted(seed, options=called(seed, None)), "azimuth"


def load_replay(path: Path) -> "tuple[SimConfig, str]":
    from cluster.sim.replay import load as parse

    shown_path = one_line(str(path))
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(REPLAY_CHARS_MAX)
    except OSError as error:
        raise ConfigError(f"{shown_path}: {(error.strerror or type(error).__name__).lower()}") from None
    except ValueError:
        raise ConfigError(f"{shown_path}: not UTF-8") from None
    return parse(text, shown_path)


def run_one(wanted: Wanted, subject: str, trace_to: Console | None) -> Done:
    """Timed; with every event printed if there is a console to print to."""
    with spinner(f"{wanted.title()}, {subject}", shown=trace_to is None):
        began = time.perf_counter()
        outcome = wanted.run(subject, None if trace_to is None else make_sink(trace_to))
        return Done(outcome, time.perf_counter() - began)


def make_sink(console: Console) -> "Sink":
    """Times count from the start of the run while the cluster boots, then from the start of the workloads."""
    from cli.sim_views import trace_line

    origin = first = 1_000_000  # where a world's clock starts

    def sink(when: int, who: str, what: str) -> None:
        nonlocal origin
        if who == "phase" and what != "boot" and origin == first:
            origin = when
        console.print(trace_line(when - origin, who, what.rstrip()), soft_wrap=True, highlight=False)

    return sink


def print_done(console: Console, done: Done, trace: bool) -> None:
    from cli.sim_views import faults_view, outcome_view

    if not trace and done.outcome.faults:
        console.print(faults_view(done.outcome.faults))
    console.print(outcome_view(done.outcome, done.wall_s), highlight=False, soft_wrap=True)


def print_end(console: Console, wanted: Wanted, subjects: Sequence[str], done: dict[str, Done]) -> None:
    from cli.sim_views import subjects_table

    if len(done) > 1:
        console.print(Text(""))
        console.print(subjects_table([each.outcome for each in done.values()]))
    console.print(f"again: {wanted.repeat(subjects)}", markup=False, highlight=False, soft_wrap=True)


def as_object(wanted: Wanted, done: Done) -> dict[str, Any]:
    from cli.sim_views import op_json
    from cluster.sim.simulation import as_json

    outcome = done.outcome
    return {
        **as_json(outcome),
        "wall_s": round(done.wall_s, 3),
        "proof": [op_json(op, outcome.work_began_us) for op in outcome.proof],
        "pending": outcome.pending,
        "repeat": wanted.repeat((outcome.subject,)),
    }
