"""docs/scenarios.md and scenarios/README.md say what the tables of `cluster.sim.scenario` say.

Whatever can be printed from the tables is: `pytest tests/sim/test_scenario_docs.py --rewrite` writes it.
"""

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.raft.config import RaftConfig
from cluster.sim.scenario import (
    ACTIONS,
    CONDITIONS,
    NODES,
    TARGETS,
    WORKLOADS,
    ActionSpec,
    ClusterPart,
    Expect,
    OptionSpec,
    Scenario,
    Target,
    runs_live,
)
from cluster.sim.scenario_reader import parse_scenario

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = ROOT / "docs" / "scenarios.md"
FOLDER = ROOT / "scenarios"
WHERE = {"both": "both", "sim": "simulator", "live": "processes"}


def block(text: str, name: str) -> str:
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- end of {name} -->")[0]


def with_block(text: str, name: str, content: str) -> str:
    return text.replace(
        f"<!-- {name} -->\n{block(text, name)}<!-- end of {name} -->",
        f"<!-- {name} -->\n{content}<!-- end of {name} -->",
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"|{'|'.join(f' {cell} ' if cell != '---' else cell for cell in line)}|\n" for line in lines
    )


# -- what is printed ---------------------------------------------------------------------------------------


def targets_text(spec: ActionSpec) -> str:
    if not spec.targets:
        return "–"
    if "shard" in spec.targets:
        text = ", ".join(f"`{TARGETS[kind].form}`" for kind in TARGETS if kind in spec.targets)
    else:
        missing = [f"`{TARGETS[kind].form}`" for kind in TARGETS if kind in NODES - spec.targets]
        text = f"nodes, not {', '.join(missing)}" if missing else "nodes"
    return text if spec.target_required else f"{text}, or none"


def option_text(key: str, spec: OptionSpec) -> str:
    if spec.kind is Target:
        return f"`{key}`: {spec.text}"
    if spec.kind is int:
        default = f", {spec.default} if not given" if spec.default is not None else ""
        value = f"({spec.least} to {spec.most}{default})"
    else:
        default_text = str(spec.default).lower() if spec.kind is bool else f'"{spec.default}"'
        value = f"(`{default_text}` if not given)"
    where = "" if spec.where == "both" else f"; {WHERE[spec.where]}"
    return f"`{key}` {value}: {spec.text}{where}"


def actions_table() -> str:
    rows = []
    for name, spec in ACTIONS.items():
        options = "; ".join(option_text(key, option) for key, option in spec.options.items())
        undo = "–" if spec.undo is None else f"`{spec.undo}`" if spec.undo in ACTIONS else spec.undo
        rows.append([f"`{name}`", spec.text, targets_text(spec), options or "–", undo, WHERE[spec.where]])
    return table(["action", "what it does", "target", "options", "end of `for_ms`", "where"], rows)


def errors_text() -> str:
    return "".join(["```\n", *(f"{error_of(*mistake)}\n" for mistake in MISTAKES), "```\n"])


def files_table() -> str:
    rows = []
    for path in sorted(FOLDER.glob("*.toml")):
        scenario = parse_scenario(path.read_text(encoding="utf-8"), path.name)
        where = "simulator, processes" if runs_live(scenario) else "simulator"
        rows.append([f"[{scenario.name}]({path.name})", scenario.title, where])
    return table(["scenario", "what happens", "can run on"], rows)


def workloads_table() -> str:
    return table(["kind", "operations"], [[f"`{kind}`", text] for kind, text in WORKLOADS.items()])


def conditions_table() -> str:
    return table(["condition", "holds when"], [[f"`{name}`", text] for name, text in CONDITIONS.items()])


def targets_table() -> str:
    rows = [[f"`{spec.form}`", spec.text, "yes" if spec.found else "–"] for spec in TARGETS.values()]
    return table(["target", "is", "has to be found"], rows)


PRINTED: dict[str, tuple[Path, Callable[[], str]]] = {
    "workloads": (REFERENCE, workloads_table),
    "conditions": (REFERENCE, conditions_table),
    "targets": (REFERENCE, targets_table),
    "actions": (REFERENCE, actions_table),
    "errors": (REFERENCE, errors_text),
    "files": (FOLDER / "README.md", files_table),
}


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_printed_blocks_are_those_of_the_tables(name: str, request: pytest.FixtureRequest) -> None:
    path, content = PRINTED[name]
    text = path.read_text(encoding="utf-8")
    if request.config.getoption("--rewrite"):
        path.write_text(with_block(text, name, content()), encoding="utf-8")
        return
    assert block(text, name) == content(), "run: pytest tests/sim/test_scenario_docs.py --rewrite"


# -- what is written by hand -------------------------------------------------------------------------------


def example() -> str:
    match = re.fullmatch(
        r"```toml\n(.*)```\n", block(REFERENCE.read_text(encoding="utf-8"), "example"), re.DOTALL
    )
    assert match is not None
    return match[1]


# Each: what of the example is replaced, by what. The message is printed into the document.
MISTAKES = [
    ('target = "primary_az:0001"', 'target = "az-d"'),
    ('target = "primary_az:0001"', 'target = "primary_az:0004"'),
    ('target = "random_node"', 'targt = "random_node"'),
    ('action = "kill"', 'action = "kil"'),
    ("at_ms = 3150", 'at_ms = 3150\nwhen = "serving"'),
    ('action = "kill"', 'action = "kill"\ndelay_ms = 20'),
    ('action = "heal"', 'action = "heal"\nfor_ms = 500'),
    ("every_ms = 900", "every_ms = 100"),
    ("at_ms = 8000", "at_ms = 11000"),
    ("lease_ms = 110", "lease_ms = 140"),
    ("keys = 6", 'keys = "six"'),
    ("keys = 6", "keys = 6 7"),
]


def error_of(old: str, new: str) -> str:
    text = example()
    assert text.count(old) == 1, old
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text.replace(old, new), "my.toml")
    return str(caught.value)


def test_the_example_is_a_scenario_and_gives_every_default() -> None:
    scenario = parse_scenario(example(), "my.toml")
    assert scenario.cluster == ClusterPart()
    assert scenario.raft == RaftConfig()
    assert {step.action for step in scenario.steps} == {"isolate", "kill", "heal", "start", "pause"}


def documented(heading: str) -> dict[str, str]:
    """First and second column of the first table after a text."""
    part = (
        REFERENCE.read_text(encoding="utf-8").split(heading)[1].split("\n|---|---|---|\n")[1].split("\n\n")[0]
    )
    cells = [[cell.strip().strip("`") for cell in row.split("|")] for row in part.splitlines()]
    return {row[1]: row[2] for row in cells}


def as_toml(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(as_toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


@pytest.mark.parametrize(
    ("kind", "heading", "beside"),
    [
        (Scenario, "## The file", {"name", "cluster", "raft", "workloads", "steps", "expect"}),
        (ClusterPart, "`[cluster]` is laid out", set()),
        (Expect, "## Expectations", {"subjects"}),
    ],
)
def test_every_key_is_documented_with_its_default(kind: type, heading: str, beside: set[str]) -> None:
    defaults = {
        each.name: "required" if each.default is MISSING else as_toml(each.default)
        for each in fields(kind)
        if each.name not in beside
    }
    assert documented(heading) == defaults
