"""`azimuth scenario`: find scenario files, read them, say what they do.

A scenario is called by a path or by its name. A name is looked for in `./scenarios` and then in the
`scenarios` folder beside this package, which is there in a checkout; an installed azimuth brings none along.
Files are read here, because `cluster.sim` is pure.

The commands end like all others (cli/main.py), except that `check` prints the error of each file as it is,
`FILE:LINE: …`, so that an editor can jump there.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from cluster.sim.scenario import ACTIONS, Expect, Scenario, Step, runs_live, times_of, where_of
from cluster.sim.scenario_reader import parse_scenario
from cluster.sim.toml_lines import CHARS_MAX, one_line, shown

BESIDE_PACKAGE: Final = Path(__file__).resolve().parent.parent / "scenarios"
BAR_CELLS: Final = 36
EXIT_FAILED: Final = 1


# -- files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A file and what it says, or why it says nothing."""

    path: Path
    scenario: Scenario | None
    error: str = ""


def folders() -> list[Path]:
    """Where names are looked for, first one first."""
    return [folder for folder in (Path("scenarios"), BESIDE_PACKAGE) if folder.is_dir()]


def known_files() -> list[Path]:
    """The file of every name, by name. One that stands in two folders is the first."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            found.setdefault(path.stem, path)
    return [found[name] for name in sorted(found)]


def find(name_or_path: str) -> Path:
    """The file that is meant. ConfigError, one line, if there is none."""
    path = Path(name_or_path)
    try:
        if path.exists() and not path.is_dir():
            return path
    except (OSError, ValueError):  # too long, or with a NUL
        pass
    for known in known_files():
        if name_or_path in (known.stem, known.name):
            return known
    if path.suffix or path.name != name_or_path:
        raise ConfigError(f"{one_line(name_or_path)}: no such file")
    names = ", ".join(known.stem for known in known_files())
    hint = f"there are {names}" if names else "there is no folder scenarios here; give a path"
    raise ConfigError(f"no scenario {shown(name_or_path)}; {hint}")


def load(path: Path) -> Scenario:
    """Read one file. ConfigError, one line that begins with the path, if it is no scenario."""
    shown_path = one_line(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(4 * CHARS_MAX + 1)  # more than that is longer than CHARS_MAX in any case
    except OSError as error:
        raise ConfigError(f"{shown_path}: {(error.strerror or type(error).__name__).lower()}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{shown_path}:{line}: not UTF-8") from None
    return parse_scenario(text, shown_path)


def load_all(paths: Sequence[Path]) -> list[Found]:
    found = []
    for path in paths:
        try:
            found.append(Found(path, load(path)))
        except ConfigError as error:
            found.append(Found(path, None, str(error)))
    return found


# -- commands ----------------------------------------------------------------------------------------------


@click.group("scenario")
def scenario_group() -> None:
    """Look at scenarios: files that say what breaks when, and what must hold.

    \b
    Examples:
        azimuth scenario list
        azimuth scenario show az_loss
        azimuth scenario check my/scenario.toml
    """


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead.")


@scenario_group.command("list")
@json_option
@click.pass_context
def list_scenarios(context: click.Context, as_json: bool) -> None:
    """List the scenarios that can be called by name.

    \b
    Examples:
        azimuth scenario list
        azimuth scenario list --json | jq -r '.scenarios[].name'
    """
    found = load_all(known_files())
    if not found:
        raise click.ClickException("there is no folder scenarios here, or it is empty")
    if as_json:
        echo_json({"scenarios": [summary(each.path, each.scenario) for each in found if each.scenario]})
    else:
        make_console().print(list_table([each.scenario for each in found if each.scenario]))
    end_with_errors(context, found)


@scenario_group.command()
@click.argument("name_or_path", metavar="NAME_OR_PATH")
def show(name_or_path: str) -> None:
    """Show what a scenario does: its story, its cluster, its steps along the time, what must hold.

    \b
    Examples:
        azimuth scenario show az_loss
        azimuth scenario show my/scenario.toml
    """
    make_console().print(scenario_view(load(find(name_or_path))))


@scenario_group.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option
@click.pass_context
def check(context: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    """Read scenario files and say in one line each whether they are right. Nothing is run.

    \b
    Examples:
        azimuth scenario check scenarios/*.toml
        azimuth scenario check my/scenario.toml --json
    """
    found = [check_one(name) for name in files]
    if as_json:
        rows = [{"file": str(each.path), "ok": not each.error, "error": each.error or None} for each in found]
        echo_json({"ok": not any(each.error for each in found), "files": rows})
    else:
        for each in found:
            if each.scenario is not None:
                click.echo(f"{one_line(str(each.path))}: ok, {in_short(each.scenario)}")
    end_with_errors(context, found)


def check_one(name: str) -> Found:
    try:
        path = find(name)
    except ConfigError as error:
        return Found(Path(name), None, str(error))
    return load_all([path])[0]


def end_with_errors(context: click.Context, found: Sequence[Found]) -> None:
    """Each file's error on a line of its own, and then exit code 1; nothing if there is none."""
    errors = [each.error for each in found if each.error]
    for error in errors:
        click.echo(error, err=True)
    if errors:
        context.exit(EXIT_FAILED)


# -- words -------------------------------------------------------------------------------------------------


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def make_console() -> Console:
    """Standard output; wide enough for every table when it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def seconds(ms: int) -> str:
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms} ms"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def runs_on(scenario: Scenario) -> str:
    return "simulator, processes" if runs_live(scenario) else "simulator"


def in_short(scenario: Scenario) -> str:
    steps, workloads = len(scenario.steps), len(scenario.workloads)
    return f"{seconds(scenario.duration_ms)}, {counted(steps, 'step')}, {counted(workloads, 'workload')}"


def summary(path: Path, scenario: Scenario) -> dict[str, Any]:
    return {
        "name": scenario.name,
        "path": str(path),
        "title": scenario.title,
        "duration_ms": scenario.duration_ms,
        "steps": len(scenario.steps),
        "runs_live": runs_live(scenario),
        "subjects": list(scenario.subjects),
    }


# -- views -------------------------------------------------------------------------------------------------


def list_table(scenarios: Sequence[Scenario]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("title")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("can run on", no_wrap=True)
    for each in scenarios:
        row = (each.name, Text(each.title), seconds(each.duration_ms), str(len(each.steps)), runs_on(each))
        table.add_row(*row)
    return table


def scenario_view(scenario: Scenario) -> RenderableType:
    """Everything in the file, to be read from top to bottom."""
    story = " ".join(scenario.story.split())
    return Group(
        Text.assemble((scenario.name, "bold"), "  ", scenario.title),
        Text(""),
        Padding(Text(story), (0, 0, 0, 2)),
        Text(""),
        facts(scenario),
        Text(""),
        timeline(scenario),
        Text(""),
        expectations(scenario),
    )


def facts(scenario: Scenario) -> Table:
    cluster, raft = scenario.cluster, scenario.raft
    nodes = len(cluster.topology().shards[0].nodes)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row(
        "cluster",
        f"{counted(cluster.shards, 'shard')} of {counted(nodes, 'node')} over {', '.join(cluster.azs)}; "
        f"reads by {cluster.read_mode}",
    )
    table.add_row(
        "raft",
        f"election timeout {raft.election_timeout_min_ms} to {raft.election_timeout_max_ms} ms, "
        f"heartbeat {raft.heartbeat_ms} ms, lease {raft.lease_ms} ms",
    )
    loads = [f"{each.kind} {each.ops_per_second}/s" for each in scenario.workloads]
    clients = sum(each.clients for each in scenario.workloads)
    table.add_row("workloads", f"{', '.join(loads)}; {counted(clients, 'client')}")
    table.add_row("subjects", ", ".join(scenario.subjects))
    table.add_row("can run on", runs_on(scenario))
    return table


def timeline(scenario: Scenario) -> Table:
    """One line a step. Where its time is known, a bar shows when it begins, and when it is over by itself."""
    end = seconds(scenario.duration_ms)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("line", justify="right", style="dim", no_wrap=True)
    table.add_column("begins", no_wrap=True)
    table.add_column(f"0 s{end.rjust(BAR_CELLS - 3)}", no_wrap=True, style="red")
    table.add_column("what")
    for step in scenario.steps:
        text = Text.assemble((step.action, "bold"), f" {doing(step)}".rstrip())
        if where_of(step) == "sim":
            text.append("  simulator only", "dim")
        table.add_row(str(step.line), begins(step), bar(scenario, step), text)
    return table


def begins(step: Step) -> str:
    trigger = step.trigger
    if trigger.when is None:
        return seconds(trigger.at_ms or 0)
    return f"{trigger.when} + {seconds(trigger.after_ms)}" if trigger.after_ms else trigger.when


def doing(step: Step) -> str:
    """The step after its action, in words."""
    parts = [str(step.target)] if step.target is not None else []
    times: list[str] = []
    for key, option in ACTIONS[step.action].options.items():
        value = getattr(step.options, option.attribute or key)
        if option.attribute:
            parts.append(f"{key} {value}")
        elif value != option.default:
            parts.append(f"{key}={str(value).lower()}")
    if step.for_ms is not None:
        times.append(f"for {seconds(step.for_ms)}")
    if step.repeat > 1:
        times.append(f"{step.repeat} times")
    if step.every_ms:
        times.append(f"every {seconds(step.every_ms)}")
    return " ".join([*parts, ", ".join(times)])


def bar(scenario: Scenario, step: Step) -> str:
    """`●` where a repetition begins, `━` until it is over by itself; empty if a condition decides."""
    if step.trigger.at_ms is None:
        return ""
    cells = [" "] * (BAR_CELLS + 1)
    begins_ms = [step.trigger.at_ms + i * step.every_ms for i in range(times_of(step, scenario.cluster))]
    for begin in begins_ms:
        first, last = (time * BAR_CELLS // scenario.duration_ms for time in (begin, begin + step.lasts_ms))
        cells[first : last + 1] = ["━"] * (last + 1 - first)
    for begin in begins_ms:
        cells[begin * BAR_CELLS // scenario.duration_ms] = "●"
    return "".join(cells).rstrip()


def expectations(scenario: Scenario) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("expected", ", ".join(expected(scenario.expect)))
    for each in scenario.expect.subjects:
        counts = ((each.lost_min, "lost write"), (each.stale_reads_min, "stale read"))
        least = [f"at least {counted(number, what)}" for number, what in counts if number]
        table.add_row(f"of {each.subject}", ", ".join(least) or "nothing in particular")
    return table


def expected(expect: Expect) -> list[str]:
    words = [
        f"at most {counted(expect.lost, 'lost write')}" if expect.lost else "no lost write",
        f"at most {counted(expect.stale_reads, 'stale read')}" if expect.stale_reads else "no stale read",
    ]
    words += ["linearizable"] if expect.linearizable else []
    words += ["replicas agree"] if expect.replicas_agree else []
    words += ["serves after the faults"] if expect.serves else []
    words += [f"at least {counted(expect.acked_min, 'operation')} acknowledged"]
    if expect.unavailable_ms_max is not None:
        words.append(f"no shard without a primary for more than {seconds(expect.unavailable_ms_max)}")
    if expect.minority_acked_max is not None:
        words.append(f"at most {expect.minority_acked_max} answered by a minority")
    return words
