"""`azimuth sim sweep` and `determinism`: many seeds in worker processes.

Runs happen in other processes (`cli/sim_pool.py`), so Ctrl-C ends a sweep at once whatever they are doing.
"""

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from cli.scenario import echo_json, find, json_option, load, make_console
from cli.sim_options import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    called,
    check_writable,
    counted,
    in_short,
    jobs_option,
    repeat,
    scenario_option,
    seeds_option,
    spinner,
    subject_option,
)
from cluster.sim.history import Violation
from cluster.sim.scenario import Scenario

if TYPE_CHECKING:
    from cluster.sim.sweep import Summary


# -- sweep -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """How far a sweep has come."""

    asked: int
    seeds: int = 0
    virtual_us: int = 0
    acked: int = 0
    lost: int = 0
    failures: "list[Summary]" = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    wall_s: float = 0.0

    def add(self, summary: "Summary") -> None:
        self.seeds += 1
        self.virtual_us += summary.virtual_us
        self.acked += summary.acked
        self.lost += summary.lost
        if not summary.ok:
            self.failures.append(summary)
            self.failures.sort(key=lambda failure: failure.seed)
        self.wall_s = time.perf_counter() - self.began

    @property
    def virtual_per_s(self) -> float:
        return self.virtual_us / 1e6 / self.wall_s if self.wall_s else 0.0

    @property
    def seeds_per_s(self) -> float:
        return self.seeds / self.wall_s if self.wall_s else 0.0


@click.command()
@seeds_option
@jobs_option
@scenario_option
@subject_option
@click.option(
    "--keep-going/--first-failure",
    default=False,
    show_default="--first-failure",
    help="Go on after a seed that fails, or stop there.",
)
@click.option(
    "--failures-to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append the command that repeats each failing seed to this file.",
)
@json_option
@click.pass_context
def sweep(
    context: click.Context,
    seeds: Sequence[int],
    jobs: int | None,
    scenario: str | None,
    subject: str,
    keep_going: bool,
    failures_to: Path | None,
    as_json: bool,
) -> None:
    """Run many seeds and say which ones break a promise.

    Ctrl-C ends it at once and says how far it came. Exit code 1 if any seed failed.

    \b
    Examples:
        azimuth sim sweep --seeds 0..10000
        azimuth sim sweep --seeds 0..300 --jobs 2 --json | jq '.failures[].repeat'
        azimuth sim sweep --seeds 0..1000 --keep-going --failures-to failing-seeds.txt
        azimuth sim sweep --seeds 0..50 --scenario az_loss
    """
    check_writable(failures_to)
    loaded = None if scenario is None else load(find(scenario))
    tally = Tally(asked=len(seeds))

    def call_again(summary: "Summary") -> str:
        return repeat(called(summary.seed, scenario), (subject,))

    interrupted = False
    try:
        with closing(sweeping(seeds, jobs or os.cpu_count() or 1, subject, loaded, tally)) as summaries:
            for summary in summaries:
                if not summary.ok and failures_to is not None:
                    keep_failure(failures_to, call_again(summary), summary.violations[0])
                if not summary.ok and not keep_going:
                    break
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        echo_json(tally_object(tally, call_again, interrupted))
    else:
        print_tally(make_console(), tally, call_again, interrupted)
    if interrupted or tally.failures:
        context.exit(EXIT_INTERRUPTED if interrupted else EXIT_FAILED)


def sweeping(
    seeds: Sequence[int], jobs: int, subject: str, scenario: Scenario | None, tally: Tally
) -> "Generator[Summary]":
    """Run all of them in worker processes, under a progress bar; none is left when the loop ends."""
    from cli.sim_pool import Pool
    from cli.sim_worker import Task

    tasks = (Task((seed,), subject, scenario) for seed in seeds)
    with Pool(min(jobs, len(seeds))) as pool, sweep_progress(tally) as show:
        for _, summaries in pool.run(tasks):
            for summary in summaries:
                tally.add(summary)
                show(summary)
                yield summary


@contextmanager
def sweep_progress(tally: Tally) -> "Iterator[Callable[[Summary], None]]":
    """On stderr: a bar if that is a terminal, and a line for each seed that fails."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("sweeping"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[seeds]} seeds/s"),
        TextColumn("{task.fields[virtual]} virtual s/s"),
        TextColumn("{task.fields[failures]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        redirect_stdout=False,
    ) as bar:
        shown = bar.add_task("", total=tally.asked, seeds="–", virtual="–", failures="no failure")

        def show(summary: "Summary") -> None:
            if not summary.ok:
                line = f"seed {summary.seed}: {in_short(summary.violations[0])}"
                console.print(Text(line, "red"), soft_wrap=True)
            bar.update(
                shown,
                completed=tally.seeds,
                seeds=f"{tally.seeds_per_s:.1f}",
                virtual=f"{tally.virtual_per_s:.0f}",
                failures=counted(len(tally.failures), "failure"),
            )

        yield show


def keep_failure(path: Path, command: str, violation: Violation) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{command}  # {in_short(violation)}\n")


def tally_object(tally: Tally, call_again: "Callable[[Summary], str]", interrupted: bool) -> dict[str, Any]:
    return {
        "seeds": tally.seeds,
        "asked": tally.asked,
        "failures": [
            {
                "seed": failure.seed,
                "violations": [asdict(violation) for violation in failure.violations],
                "repeat": call_again(failure),
            }
            for failure in tally.failures
        ],
        "virtual_s_per_s": round(tally.virtual_per_s, 1),
        "virtual_s": round(tally.virtual_us / 1e6, 1),
        "wall_s": round(tally.wall_s, 3),
        "acked": tally.acked,
        "lost": tally.lost,
        "interrupted": interrupted,
    }


def print_tally(
    console: Console, tally: Tally, call_again: "Callable[[Summary], str]", interrupted: bool
) -> None:
    from cli.sim_views import violation_text

    if interrupted:
        console.print(Text("interrupted", "yellow"))
    if tally.failures:
        first = tally.failures[0]
        console.print(Text(f"seed {first.seed} breaks a promise", "bold red"))
        for violation in first.violations:
            console.print(violation_text(violation), highlight=False, soft_wrap=True)
        console.print(f"again: {call_again(first)}", markup=False, highlight=False, soft_wrap=True)
        others = ", ".join(str(failure.seed) for failure in tally.failures[1:])
        if others:
            console.print(f"also: {others}", highlight=False, soft_wrap=True)
    whole = tally.seeds == tally.asked
    far = f"{tally.seeds:,} seeds" if whole else f"{tally.seeds:,} of {tally.asked:,} seeds"
    style = "bold red" if tally.failures else "bold green" if whole else "yellow"
    console.print(
        Text.assemble(
            (f"{far}, {counted(len(tally.failures), 'failure')}", style),
            f"; {tally.acked:,} operations acknowledged, {tally.lost:,} lost; "
            f"{tally.virtual_us / 1e6:,.0f} virtual seconds in {tally.wall_s:,.1f} s "
            f"({tally.virtual_per_s:.0f} a second, {tally.seeds_per_s:.1f} seeds a second)",
        ),
        soft_wrap=True,
    )


# -- determinism -------------------------------------------------------------------------------------------


@click.command()
@seeds_option
@scenario_option
@subject_option
@json_option
@click.pass_context
def determinism(
    context: click.Context, seeds: Sequence[int], scenario: str | None, subject: str, as_json: bool
) -> None:
    """Run each seed twice, in two processes with different hash seeds, and compare.

    Equal trace hashes mean: the same events at the same times. Equal unseeds, the number that would be drawn
    next at the end, mean: as many numbers were drawn. Exit code 1 if anything differs.

    \b
    Examples:
        azimuth sim determinism --seeds 0..20
        azimuth sim determinism --seeds 7 --scenario az_loss
    """
    from cli.sim_pool import Pool
    from cli.sim_worker import Task

    loaded = None if scenario is None else load(find(scenario))
    tasks = [Task((seed,), subject, loaded) for seed in seeds]
    differences: list[dict[str, Any]] = []
    compared = 0
    with spinner("comparing") as status, Pool(1, hash_seed=1) as one, Pool(1, hash_seed=2) as two:
        for (_, [first]), (_, [second]) in zip(one.run(tasks), two.run(tasks), strict=True):
            compared += 1
            status.say(f"comparing: {compared} of {len(tasks)} seeds")
            if first != second:
                differences.append(difference(first, second))
    if as_json:
        echo_json({"seeds": compared, "differences": differences})
    else:
        console = make_console()
        for each in differences:
            text = f"seed {each['seed']} differs: " + ", ".join(
                f"{key} {value[0]} and {value[1]}" for key, value in each.items() if key != "seed"
            )
            console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        console.print(
            Text(
                f"{compared:,} seeds ran twice: "
                + (f"{len(differences)} differ" if differences else "the same each time"),
                "bold red" if differences else "bold green",
            )
        )
    if differences:
        context.exit(EXIT_FAILED)


def difference(first: "Summary", second: "Summary") -> dict[str, Any]:
    """What two runs of one seed do not have in common."""
    one, two = asdict(first), asdict(second)
    return {"seed": first.seed, **{key: [one[key], two[key]] for key in one if one[key] != two[key]}}
