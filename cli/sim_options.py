"""What the commands of `azimuth sim` have in common: options, the command that repeats a run, words.

Nothing here, and nothing at the top of the commands' modules, imports the simulator itself: `azimuth status`
must not wait for it.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import click
from rich.console import Console
from rich.text import Text

from cluster.errors import ConfigError
from cluster.sim.history import Violation
from cluster.sim.scenario import Subject
from cluster.sim.toml_lines import one_line

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130
SUBJECT_NAMES: Final = get_args(Subject)


def parse_seeds_option(context: click.Context, option: click.Parameter, value: str) -> Sequence[int]:
    from cluster.sim.sweep import parse_seeds

    try:
        return parse_seeds(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


seed_type = click.IntRange(min=0, max=10**18)
seeds_option = click.option(
    "--seeds",
    callback=parse_seeds_option,
    required=True,
    help="A number, several (1,5,9), or a..b: from a to b - 1.",
)
scenario_option = click.option(
    "--scenario", metavar="NAME_OR_FILE", help="A scenario instead of faults drawn from the seed."
)
subject_option = click.option(
    "--subject",
    type=click.Choice(SUBJECT_NAMES),
    default="azimuth",
    show_default=True,
    help="What is put into the simulator.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 256), help="Worker processes.  [default: one for each processor]"
)


def called(seed: int, scenario: str | None) -> tuple[str, ...]:
    """The options that name a run."""
    return ("--seed", str(seed), *(("--scenario", scenario) if scenario is not None else ()))


def repeat(options: Sequence[str], subjects: Sequence[str]) -> str:
    """The command that does it again."""
    words = ["azimuth", "sim", "run", *options]
    for subject in subjects if tuple(subjects) != ("azimuth",) else ():
        words += ["--subject", subject]
    return shlex.join(words)


def check_writable(path: Path | None) -> None:
    """Better said now than after an hour of work."""
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"{one_line(str(path))}: there is no directory {one_line(str(path.parent))}")


def in_short(violation: Violation) -> str:
    return f"{violation.kind}: {one_line(violation.text)}"


def counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}" if number in (0, 1) else f"{number:,} {thing}s"


@dataclass(frozen=True, slots=True)
class Status:
    """What goes to stderr while something takes long."""

    say: Callable[[str], None]  # beside the spinner, if that is a terminal
    line: Callable[[str], None]  # a line that stays


@contextmanager
def spinner(text: str, *, shown: bool = True) -> Iterator[Status]:
    console = Console(stderr=True)

    def line(text: str) -> None:
        console.print(Text(text, "dim"), soft_wrap=True)

    if not shown or not console.is_terminal:
        yield Status(lambda text: None, line)
        return
    with console.status(text) as status:
        yield Status(status.update, line)
