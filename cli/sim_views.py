"""What `azimuth sim` shows, out of plain data."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.sim.config import SimConfig
from cluster.sim.history import NEVER_US, Op, Violation
from cluster.sim.shrink import Shrunk
from cluster.sim.simulation import Outcome
from cluster.sim.toml_lines import one_line

OPS_SHOWN_MAX = 40
VIOLATIONS_SHOWN_MAX = 10
PROOF_SHOWN_MAX = 12  # operations of one violation
REPLY_CHARS_MAX = 100


# -- one run -----------------------------------------------------------------------------------------------


def config_view(title: str, config: SimConfig) -> RenderableType:
    """What was drawn or given before the run."""
    facts = two_columns()
    for name, value in config.summary().items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
        facts.add_row(name.replace("_", " "), Text(str(value)))
    return Group(Text(title, "bold"), facts)


def two_columns() -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def faults_view(faults: Sequence[tuple[int, str]]) -> RenderableType:
    """Times count from the moment when the workloads begin."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(style="yellow")
    for when, text in faults:
        table.add_row(f"{when / 1000:,.0f} ms", Text(text))
    return table


def trace_line(when_us: int, who: str, what: str) -> Text:
    """One event. Of an exception in a node it is several lines."""
    if who == "phase":
        return Text(f"── {what} ──", "bold")
    style = {"fault": "yellow", "checker": "bold red"}.get(who, "")
    return Text.assemble((f"{when_us / 1000:12,.3f} ms  ", "dim"), (f"{who:9} ", "cyan"), (what, style))


def outcome_view(outcome: Outcome, wall_s: float) -> RenderableType:
    """The verdict, what proves it, and the figures."""
    parts: list[RenderableType] = [verdict_text(outcome)]
    for violation in outcome.violations[:VIOLATIONS_SHOWN_MAX]:
        parts.append(violation_text(violation))
        parts += [op_text(op, outcome.work_began_us) for op in proof_of(violation, outcome)[:PROOF_SHOWN_MAX]]
    more = len(outcome.violations) - VIOLATIONS_SHOWN_MAX
    if more > 0:
        parts.append(Text(f"  and {more:,} more", "red"))
    parts += [Text.assemble(("pending  ", "yellow"), text) for text in outcome.pending]
    virtual_s = outcome.virtual_us / 1e6
    parts.append(
        Text(
            f"{outcome.acked:,} acknowledged, {outcome.in_doubt:,} in doubt, {outcome.failed:,} failed, "
            f"{outcome.lost:,} lost, {outcome.stale_reads:,} stale reads, "
            f"{outcome.unavailable_ms / 1000:g} s unavailable"
        )
    )
    parts.append(
        Text(
            f"{virtual_s:.1f} virtual seconds in {wall_s:.1f} s, "
            f"{virtual_s / max(wall_s, 1e-9):.0f} a second; {outcome.events:,} events, "
            f"trace {outcome.trace_hash}",
            "dim",
        )
    )
    return Group(*parts)


def verdict_text(outcome: Outcome) -> Text:
    if outcome.ok:
        return Text("ok", "bold green")
    return Text("violation", "bold red")


def violation_text(violation: Violation) -> Text:
    where = f" of {violation.key}" if violation.key else ""
    return Text.assemble((f"  {violation.kind}", "red"), f"{where}: {one_line(violation.text)}")


def proof_of(violation: Violation, outcome: Outcome) -> list[Op]:
    return [op for op in outcome.proof if op.number in violation.ops]


def op_text(op: Op, origin_us: int) -> Text:
    began = f"{(op.began_us - origin_us) / 1000:,.3f}"
    ended = "…" if op.ended_us >= NEVER_US else f"{(op.ended_us - origin_us) / 1000:,.3f}"
    argument = "" if op.argument is None else f" {op.argument}"
    reply = one_line(repr(op.reply)) if op.result.value == "ok" else ""
    if len(reply) > REPLY_CHARS_MAX:
        reply = f"{reply[: REPLY_CHARS_MAX // 2]} … {reply[-REPLY_CHARS_MAX // 2 :]}"
    return Text.assemble(
        (f"    #{op.number:<5} {began} to {ended} ms  client {op.client}  ", "dim"),
        f"{op.command} {op.key}{argument} → {op.result.value} {reply}".rstrip(),
        " (read in the end)" if op.final else "",
    )


def op_json(op: Op, origin_us: int) -> dict[str, Any]:
    return {
        "number": op.number,
        "client": op.client,
        "command": op.command,
        "key": op.key,
        "argument": op.argument,
        "began_ms": (op.began_us - origin_us) / 1000,
        "ended_ms": None if op.ended_us >= NEVER_US else (op.ended_us - origin_us) / 1000,
        "result": op.result.value,
        "reply": op.reply,
        "final": op.final,
    }


# -- several subjects --------------------------------------------------------------------------------------


def subjects_table(outcomes: Sequence[Outcome]) -> Table:
    """The same run against each: who kept its promises?"""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("subject", no_wrap=True, style="bold")
    for name in ("acknowledged", "lost", "stale reads", "unavailable", "in doubt"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for outcome in outcomes:
        table.add_row(
            outcome.subject,
            f"{outcome.acked:,}",
            zero_text(outcome.lost),
            zero_text(outcome.stale_reads),
            f"{outcome.unavailable_ms / 1000:g} s",
            f"{outcome.in_doubt:,}",
            verdict_text(outcome),
        )
    return table


def zero_text(count: int) -> Text:
    """A number that should be 0."""
    return Text(f"{count:,}", style="green" if count == 0 else "bold red")


# -- shrinking ---------------------------------------------------------------------------------------------


def shrunk_view(shrunk: Shrunk, outcome: Outcome, history: Sequence[Op]) -> RenderableType:
    """What is left of a run: its faults, its operations, and what they break."""
    config = shrunk.config
    clients = [op for op in history if not op.final]
    parts: list[RenderableType] = [
        config_view(f"what is left of seed {config.seed} after {shrunk.runs} runs", config),
        Text(f"{len(config.faults)} faults", "bold"),
        planned_view(config),
        faults_view(outcome.faults),
        Text(f"{len(clients)} operations", "bold"),
    ]
    parts += [op_text(op, outcome.work_began_us) for op in clients[-OPS_SHOWN_MAX:]]
    if len(clients) > OPS_SHOWN_MAX:
        parts.append(Text(f"    (the last {OPS_SHOWN_MAX})", "dim"))
    if not shrunk.complete:
        parts.append(Text(f"stopped after {shrunk.runs} runs: a smaller one may exist", "yellow"))
    return Group(*parts)


def planned_view(config: SimConfig) -> RenderableType:
    """The faults as they stand in the configuration; what they hit is said when they begin."""
    table = Table(box=None, padding=(0, 2, 0, 2), header_style="dim")
    for name in ("at", "lasts", "pick", "amount"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("planned")
    for fault in config.faults:
        table.add_row(
            f"{fault.at_us / 1000:,.0f} ms",
            f"{fault.duration_us / 1000:,.0f} ms",
            f"{fault.pick:.3f}",
            f"{fault.amount:.3f}",
            fault.kind,
        )
    return table if config.faults else Text("    none", "dim")
