"""Tables and live views, out of plain data."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.az.topology import Topology
from cluster.runtime.demo import DemoResult, DemoView
from cluster.runtime.up import counted

STATE_STYLES = {"paused": "yellow", "silent": "yellow", "dead": "red"}
ROLE_STYLES = {"primary": "bold green", "replica": "cyan", "journal": "dim"}
AZ_STYLES = {"up": "green", "killed": "bold red", "catching up": "yellow"}


def dash(value: object) -> str:
    return "–" if value is None else str(value)


def status_table(overview: Mapping[str, Any]) -> Table:
    """One line a node. Narrow enough for 80 columns: the slots stand under the shard, the engine in the
    caption.
    """
    table = Table(title=f"{overview['name']} ({overview['cluster_id']})", box=None, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    for name in ("shard", "node", "AZ", "role"):
        table.add_column(name, no_wrap=True)
    for name in ("term", "commit", "applied", "lag"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("address", no_wrap=True)
    engines: set[str] = set()
    troubles: list[str] = []
    for shard in overview["shards"]:
        left = [shard["id"], *shard["slots"]]
        for index, node in enumerate(shard["nodes"]):
            engines.update([node["engine"]] if node["engine"] else [])
            if node["engine_trouble"]:
                troubles.append(f"the engine of {node['id']} {node['engine_trouble']}")
            table.add_row(
                left[index] if index < len(left) else "",
                node["id"],
                Text(node["az"], style="yellow" if node["az"] in overview["isolated"] else ""),
                role_text(node),
                dash(node["term"]),
                dash(node["commit_offset"]),
                dash(node["applied_offset"]),
                dash(node["lag"]),
                dash(node["address"]),
                end_section=index == len(shard["nodes"]) - 1,
            )
    captions = [f"engine: {', '.join(sorted(engines))}"] if engines else []
    if overview["isolated"]:
        captions.append(f"isolated: {', '.join(overview['isolated'])}")
    table.caption = "; ".join([*captions, *troubles])
    return table


def role_text(node: Mapping[str, Any]) -> Text:
    """What a node is to clients; of one that says nothing, why."""
    role = node["role"]
    if role is None:
        return Text(node["state"], style=STATE_STYLES[node["state"]])
    return Text(role, style=ROLE_STYLES.get(role, "yellow"))


def endpoints_text(topology: Topology) -> str:
    """What to connect to, ready to paste."""
    clients = [node for node in topology.nodes if not node.journal_only]
    ports = ", ".join(str(node.port) for node in clients)
    first = clients[0]
    return (
        f"{counted(len(topology.shards), 'shard')} over {', '.join(topology.azs)}; "
        f"clients connect to {first.host}, port {ports}\n"
        f"try it:  redis-cli -c -h {first.host} -p {first.port} set hello world"
    )


def demo_view(view: DemoView) -> RenderableType:
    numbers = Table.grid(padding=(0, 3))
    numbers.add_row(
        f"[bold]{view.acked:,}[/] acknowledged",
        f"{view.per_second:,.0f} writes/s",
        f"{view.in_doubt:,} in doubt",
        f"{view.refused:,} refused",
    )
    zones = Text("zones      ")
    for az, state in view.azs.items():
        zones.append(f"{az} ")
        zones.append(f"{state}   ", style=AZ_STYLES.get(state, ""))
    primaries = Text("primaries  ")
    for shard, primary in sorted(view.primaries.items()):
        primaries.append(f"{shard}: {primary}   ")
    events = Table.grid(padding=(0, 2))
    for at, text in view.events[-8:]:
        events.add_row(f"[dim]{at:6.1f} s[/]", Text(text))
    return Panel(Group(numbers, zones, primaries, Text(""), events), title=view.phase, title_align="left")


def demo_table(result: DemoResult) -> Table:
    verdict = result.verdict
    table = Table(title="What became of the promises", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rate = verdict.acked / result.write_seconds if result.write_seconds else 0
    table.add_row("acknowledged writes", f"{verdict.acked:,} ({rate:,.0f}/s)")
    table.add_row("writes in doubt", f"{verdict.in_doubt:,}")
    table.add_row("writes refused", f"{verdict.refused:,}")
    table.add_row("acknowledged writes lost", count_text(verdict.lost))
    table.add_row("applied more than once", count_text(verdict.duplicated))
    table.add_row("refused, yet there", count_text(verdict.ghosts))
    table.add_row("reads checked", f"{verdict.reads_checked:,}", end_section=True)
    for shard, gap in sorted(result.gaps_ms.items()):
        table.add_row(f"longest write gap, shard {shard}", f"{gap:,} ms")
    for az, took in zip(result.killed, result.catch_up_ms, strict=True):
        table.add_row(f"{az} killed; back and caught up after", f"{took:,} ms")
    for shard, digests in sorted(result.digests.items()):
        same = len(set(digests.values())) == 1
        first = next(iter(digests.values()))[:12]
        text = f"{len(digests)} × {first}…" if same else "DIFFER"
        table.add_row(f"digests of shard {shard}", Text(text, style="green" if same else "bold red"))
    table.add_row("seconds in all", f"{result.seconds:.1f}")
    return table


def count_text(count: int) -> Text:
    """A number that should be 0."""
    return Text(f"{count:,}", style="bold green" if count == 0 else "bold red")


def bench_table(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Ours beside its peer, medians", title_justify="left")
    table.add_column("id")
    table.add_column("work")
    for name in ("ours", "peer", "ratio", "to reach"):
        table.add_column(name, justify="right")
    table.add_column("reached")
    for row in results:
        table.add_row(
            row["id"],
            row["work"],
            f"{row['ours']:,.4g} {row['unit']}"
            if row["ours"] < 1000
            else f"{row['ours']:,.0f} {row['unit']}",
            "–" if row["peer"] is None else f"{row['peer']:,.0f} {row['unit']} ({row['peer_name']})",
            "–" if row["ratio"] is None else f"{row['ratio']:.2f}",
            row["reach"],
            Text("yes", style="green") if row["reached"] else Text("no", style="yellow"),
        )
    return table
