"""Every `azimuth` command: arguments in, tables out. What goes wrong is raised; cli/main.py says it."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.live import Live

from cli.scenario import scenario_group
from cli.sim import sim_group
from cluster.runtime.admin_client import AdminClient
from cluster.runtime.launcher import Launcher, Progress, tail
from cluster.runtime.overview import collect
from cluster.runtime.up import (
    DEFAULT_AZS,
    DEFAULT_PORT,
    DEFAULT_REPLICAS,
    DEFAULT_SHARDS,
    UpOptions,
    UpResult,
    counted,
)
from cluster.runtime.up import (
    down as bring_down,
)
from cluster.runtime.up import (
    up as bring_up,
)
from cluster.types import NodeId

WATCH_INTERVAL_S = 0.5
FOLLOW_INTERVAL_S = 0.2

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
Command = TypeVar("Command", bound=Callable[..., Any])

dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=True),
    default=Path(".azimuth"),
    show_default=True,
    envvar="AZIMUTH_DIR",
    help="Where the cluster lives (or set AZIMUTH_DIR).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead.")


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.version_option(version("azimuth"), prog_name="azimuth", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """A Redis-compatible cluster that loses no acknowledged write when a whole availability zone dies.

    \b
    Start one, write, kill a zone, and see:
        azimuth up
        redis-cli -c -p 7001 set hello world
        azimuth az kill az-a
        redis-cli -c -p 7002 get hello
        azimuth az start az-a
        azimuth status
        azimuth down

    Or let it do all that to itself and count what was lost: azimuth demo
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# -- the cluster -------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--shards", type=int, help=f"How many shards share the 16,384 slots.  [default: {DEFAULT_SHARDS}]"
)
@click.option(
    "--replicas", type=int, help=f"Replicas a shard, besides its primary.  [default: {DEFAULT_REPLICAS}]"
)
@click.option("--azs", help=f"Availability zones, comma-separated.  [default: {','.join(DEFAULT_AZS)}]")
@dir_option
@click.option(
    "--port", type=int, help=f"First client port; nodes count up from it.  [default: {DEFAULT_PORT}]"
)
@click.option("--engine", help="Another Valkey or Redis server binary.  [default: the bundled Valkey]")
@click.option("--allow-unsafe-placement", is_flag=True, help="Allow a zone to hold a majority of a shard.")
@click.option(
    "--election-timeout-ms",
    metavar="MIN,MAX",
    help="How soon a lost primary is replaced.  [default: 150,300]",
)
@json_option
def up(
    shards: int | None,
    replicas: int | None,
    azs: str | None,
    directory: Path,
    port: int | None,
    engine: str | None,
    allow_unsafe_placement: bool,
    election_timeout_ms: str | None,
    as_json: bool,
) -> None:
    """Start a cluster on this machine and return when every shard serves.

    The nodes run in the background, on 127.0.0.1 only. Run it again after `down` and all data are back; run
    it on a running cluster and nothing changes.

    \b
    Examples:
        azimuth up
        azimuth up --shards 1 --port 8001 --dir small
        azimuth up --azs eu-1,eu-2,eu-3 --election-timeout-ms 500,1000
    """
    options = UpOptions(
        shards=shards,
        replicas=replicas,
        azs=None if azs is None else tuple(az.strip() for az in azs.split(",")),
        port=port,
        engine=engine,
        election_timeout_ms=parse_timeout(election_timeout_ms),
        allow_unsafe_placement=allow_unsafe_placement,
    )
    launcher = Launcher(directory)
    with progress("starting") as say:
        result = bring_up(launcher, options, say)
    topology = launcher.topology
    if as_json:
        print_json(
            {
                "dir": str(launcher.directory),
                "created": result.created,
                "started": result.started,
                "seconds": round(result.seconds, 3),
                "endpoints": [f"{node.host}:{node.port}" for node in topology.nodes if not node.journal_only],
                "warnings": result.warnings,
                "failed": result.failed,
            }
        )
    else:
        say_up(launcher, result)
    if result.failed:
        left = counted(len(topology.nodes) - len(result.failed), "other node")
        reasons = "; ".join(f"node {node} does not start: {why}" for node, why in result.failed.items())
        raise click.ClickException(f"{reasons} (the {left} serve all shards)")


def say_up(launcher: Launcher, result: UpResult) -> None:
    from cli.views import endpoints_text

    for warning in result.warnings:
        click.echo(f"azimuth: unsafe, as allowed: {warning}", err=True)
    nodes, directory = counted(len(result.started), "node"), launcher.directory
    if result.created:
        click.echo(f"{nodes} serve after {result.seconds:.1f} s")
    elif result.started:
        click.echo(f"started {nodes} on the data in {directory} in {result.seconds:.1f} s")
    elif not result.failed:
        click.echo(f"already running in {directory}: nothing changed")
    click.echo(endpoints_text(launcher.topology))


def parse_timeout(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, _, high = text.partition(",")
    if not (low.strip().isdecimal() and high.strip().isdecimal()):
        raise click.BadParameter(
            f"{text!r} is not MIN,MAX in milliseconds, for example 150,300",
            param_hint="--election-timeout-ms",
        )
    return int(low), int(high)


@cli.command()
@click.option("--wipe", is_flag=True, help="Also delete the cluster and all its data.")
@dir_option
def down(wipe: bool, directory: Path) -> None:
    """Stop every node. The data stay, unless --wipe.

    \b
    Examples:
        azimuth down
        azimuth down --wipe
    """
    launcher = Launcher(directory)
    if wipe and not launcher.directory.exists():
        click.echo(f"nothing in {directory}")
        return
    with progress("stopping"):
        ended = bring_down(launcher, wipe)
    click.echo(f"stopped {counted(len(ended), 'node')}" if ended else "no node was running")
    if wipe:
        click.echo(f"deleted the cluster in {directory}")


@cli.command()
@click.option("--watch", is_flag=True, help="Keep showing it until Ctrl-C.")
@dir_option
@json_option
def status(watch: bool, directory: Path, as_json: bool) -> None:
    """Show every shard and node: role, term, offsets, lag, engine, address.

    \b
    Examples:
        azimuth status
        azimuth status --watch
        azimuth status --json | jq '.shards[].primary'
    """
    from cli.views import status_table

    launcher = Launcher(directory)
    with AdminClient(launcher.topology.nodes) as admin:
        if as_json:
            print_json(collect(launcher, admin))
        elif watch:
            with Live(
                status_table(collect(launcher, admin)), console=make_console(), auto_refresh=False
            ) as live:
                while True:
                    time.sleep(WATCH_INTERVAL_S)
                    live.update(status_table(collect(launcher, admin)), refresh=True)
        else:
            make_console().print(status_table(collect(launcher, admin)))


@cli.command()
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Keep printing what is added, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=50, show_default=True, help="How many lines."
)
@dir_option
def logs(node: str, follow: bool, lines: int, directory: Path) -> None:
    """Print the log of a node: one JSON object a line.

    \b
    Examples:
        azimuth logs 0001-001
        azimuth logs 0001-001 -f -n 0 | jq -c '[.event, .term]'
    """
    launcher = Launcher(directory)
    path = launcher.log_path(launcher.node(node).id)
    position = path.stat().st_size if path.exists() else 0
    for line in tail(path, lines):
        click.echo(line)
    while follow:
        time.sleep(FOLLOW_INTERVAL_S)
        size = path.stat().st_size if path.exists() else 0
        if size < position:
            position = 0  # a new file
        if size > position:
            with open(path, "rb") as file:
                file.seek(position)
                data = file.read(size - position)
            position = size
            click.echo(data.decode(errors="replace"), nl=False)


# -- faults ------------------------------------------------------------------------------------------------


@cli.group(context_settings=CONTEXT)
def az() -> None:
    """Do something to a whole availability zone: kill, start, pause, resume, isolate, heal.

    \b
    Examples:
        azimuth az kill az-a        SIGKILL every process of the zone
        azimuth az start az-a       bring it back; it catches up from the log
        azimuth az isolate az-b     cut its links to the other zones, both ways
        azimuth az heal az-b
    """


@cli.group(context_settings=CONTEXT)
def node() -> None:
    """Do something to one node: kill, start, pause, resume, run.

    \b
    Examples:
        azimuth node kill 0001-001
        azimuth node start 0001-001
        azimuth node run --config cluster.toml --node 0001-001
    """


def kill_nodes(launcher: Launcher, what: str, nodes: Sequence[NodeId]) -> None:
    with progress(f"killing {what}"):
        killed = launcher.kill(nodes)
    click.echo(f"{what}: killed {names(killed)}" if killed else f"{what}: dead already, nothing to do")


def start_nodes(launcher: Launcher, what: str, nodes: Sequence[NodeId]) -> None:
    with progress(f"starting {what}") as say:
        started = launcher.start(nodes)
        held = sorted(set(nodes) & launcher.paused())
        if started:
            launcher.wait_serving(started, on_progress=say)
            if launcher.state().isolated:
                launcher.apply_isolation()
    if started:
        click.echo(f"{what}: started {names(started)}")
    elif not held:
        click.echo(f"{what}: running already, nothing to do")
    if held:
        click.echo(f"{what}: {names(held)} paused; use resume")


def pause_nodes(launcher: Launcher, what: str, nodes: Sequence[NodeId]) -> None:
    paused = launcher.pause(nodes)
    if paused:
        click.echo(f"{what}: paused {names(paused)}")
    else:
        running = set(nodes) & set(launcher.running())
        click.echo(f"{what}: {'paused already' if running else 'not running'}, nothing to do")


def resume_nodes(launcher: Launcher, what: str, nodes: Sequence[NodeId]) -> None:
    resumed = launcher.resume(nodes)
    click.echo(f"{what}: resumed {names(resumed)}" if resumed else f"{what}: not paused, nothing to do")


def names(nodes: Sequence[NodeId]) -> str:
    return ", ".join(nodes)


NODE_ACTIONS: dict[str, tuple[Callable[[Launcher, str, Sequence[NodeId]], None], str]] = {
    "kill": (kill_nodes, "SIGKILL {}: nodes and engines, at once. Nothing is flushed, nothing is said."),
    "start": (start_nodes, "Start what of {} does not run, and wait until it answers."),
    "pause": (pause_nodes, "SIGSTOP {}: nodes and engines stand still with all connections open."),
    "resume": (resume_nodes, "SIGCONT {} after pause."),
}


def add_node_action(name: str) -> None:
    """The same action for a zone and for a node."""
    act, text = NODE_ACTIONS[name]

    @az.command(
        name, help=text.format("every process of a zone") + f"\n\n\b\nExample:\n    azimuth az {name} az-a"
    )
    @click.argument("zone", metavar="AZ")
    @dir_option
    def of_az(zone: str, directory: Path) -> None:
        launcher = Launcher(directory)
        act(launcher, zone, launcher.nodes_of_az(zone))

    @node.command(name, help=text.format("one node") + f"\n\n\b\nExample:\n    azimuth node {name} 0001-001")
    @click.argument("node_id", metavar="NODE")
    @dir_option
    def of_node(node_id: str, directory: Path) -> None:
        launcher = Launcher(directory)
        act(launcher, node_id, [launcher.node(node_id).id])


for action in NODE_ACTIONS:
    add_node_action(action)


@az.command()
@click.argument("zone", metavar="AZ")
@dir_option
def isolate(zone: str, directory: Path) -> None:
    """Cut all links between a zone and the others, both ways. Its processes go on, alone.

    \b
    Example:
        azimuth az isolate az-a
    """
    changed = Launcher(directory).isolate(zone, cut=True)
    click.echo(f"{zone}: isolated" if changed else f"{zone}: isolated already, nothing to do")


@az.command()
@click.argument("zone", metavar="AZ")
@dir_option
def heal(zone: str, directory: Path) -> None:
    """Undo isolate.

    \b
    Example:
        azimuth az heal az-a
    """
    changed = Launcher(directory).isolate(zone, cut=False)
    click.echo(f"{zone}: healed" if changed else f"{zone}: not isolated, nothing to do")


@node.command("run")
@click.option(
    "--config", type=click.Path(path_type=Path), required=True, help="The cluster's description (TOML)."
)
@click.option("--node", "node_id", metavar="ID", required=True, help="Which of its nodes to be.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Its data.  [default: nodes/ID beside the config]"
)
def run_node(config: Path, node_id: str, data: Path | None) -> None:
    """Run one node in the foreground, for a supervisor: logs JSON lines to stderr, ends well on SIGTERM.

    \b
    Example:
        azimuth node run --config .azimuth/cluster.toml --node 0001-001
    """
    from cluster.runtime.main import main as run_main

    arguments = ["--config", str(config), "--node", node_id]
    sys.exit(run_main([*arguments, "--data", str(data)] if data is not None else arguments))


# -- proof and measure -------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Use (or make) a cluster here.  [default: a temporary one that is deleted]",
)
@json_option
def demo(directory: Path | None, as_json: bool) -> None:
    """Write from many clients, kill one zone and then another, and count what was lost.

    It runs a cluster of 3 shards over 3 zones of its own, writes strings, lists, hashes, sorted sets, places
    and counters through redis-py without retries, SIGKILLs every process of a zone, brings it back, does it
    to another, and at the end reads everything back and compares all replicas. Takes about half a minute.
    Exit code 0 only if nothing was lost, nothing applied twice, and all replicas agree.

    \b
    Examples:
        azimuth demo
        azimuth demo --json | jq .lost
    """
    from cli.views import demo_table, demo_view
    from cluster.runtime.demo import Demo

    run = Demo(directory)
    if as_json:
        result = run.run()
        print_json(result.as_json())
    else:
        console = make_console()
        with Live(console=console, get_renderable=lambda: demo_view(run.view), refresh_per_second=5):
            result = run.run()
        console.print(demo_table(result))
        for finding in result.verdict.findings:
            console.print(finding, style="red", markup=False)
    if not result.ok:
        raise click.ClickException("a promise was broken: see above")


@cli.command()
@click.option("--only", help="Which measurements, comma-separated.  [default: P1,P3,P6,P9]")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Alternating rounds."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.2), default=3.0, show_default=True, help="Length of a round."
)
@click.option(
    "--kills", type=click.IntRange(min=1), default=10, show_default=True, help="P6: how many zone kills."
)
@json_option
def bench(only: str | None, rounds: int, seconds: float, kills: int, as_json: bool) -> None:
    """Measure ours and Valkey side by side, alternating in one run; figures are medians.

    \b
    P1  SET, 50 connections, every write on disk in two zones before its answer; Valkey with WAITAOF 1 1
    P2  the same with one connection: how long a write takes
    P3  GET, 50 connections, linearizable; the same Valkey by itself
    P4  SET, 50 connections, pipeline 16; Valkey fsyncs, too, but awaits no replica
    P6  write gap that a client sees when the primary's zone is killed, and at a planned failover
    P9  time of `azimuth up` for 3 shards × 3 zones
    \b
    Examples:
        azimuth bench
        azimuth bench --only P1,P3 --rounds 7 --json
    """
    from cli.views import bench_table
    from cluster.runtime.bench.generator import BenchError
    from cluster.runtime.bench.measures import BenchSettings, run_bench

    wanted = None if only is None else [name.strip().upper() for name in only.split(",")]
    try:
        with progress("measuring") as say:
            results = run_bench(BenchSettings(rounds=rounds, seconds=seconds, kills=kills), wanted, say)
    except BenchError as error:
        raise click.ClickException(f"no figure: {error}") from None
    rows = [result.as_json() for result in results]
    if as_json:
        print_json({"results": rows})
    else:
        console = make_console()
        console.print(bench_table(rows))
        for row in rows:
            if row["note"]:
                console.print(f"{row['id']}: {row['note']}", style="dim", markup=False)


cli.add_command(scenario_group)
cli.add_command(sim_group)


# -- words -------------------------------------------------------------------------------------------------


def print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def make_console() -> Console:
    """Standard output; wide enough for every table when it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextmanager
def progress(text: str) -> Iterator[Progress]:
    """A spinner with a changing text on stderr, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(text) as spinner:
        yield lambda text: spinner.update(text)
