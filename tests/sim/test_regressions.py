"""Every regression scenario holds, every one has a sabotage that turns it red, and what is pending is said.

That the sabotages do turn them red is shown by `make mutants`, which takes minutes.
"""

import ast
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.regressions import REGRESSIONS, pending_lines

ROOT = Path(__file__).resolve().parents[2]
SCRIPTED = [regression for regression in REGRESSIONS.values() if regression.run is not None]
PENDING = {3: "4/5", 16: "4/5", 17: "4/5", 18: "4/5", 19: "4/5", 27: "4/5"}  # and the issue that brings it
PENDING_PARTS = {8: "4/5", 28: "3/5", 29: "3/5", 34: "3/5"}


@pytest.mark.parametrize("number", [regression.number for regression in SCRIPTED])
def test_regression(number: int) -> None:
    regression = REGRESSIONS[number]
    assert regression.run is not None
    assert regression.run() == [], regression.holds


def test_what_is_pending_is_known_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("", *pending_lines(), sep="\n")
    assert sorted(REGRESSIONS) == list(range(1, 35))
    assert {r.number: r.pending.split(":")[0] for r in REGRESSIONS.values() if r.pending} == PENDING
    parts = {r.number: r.rest for r in REGRESSIONS.values() if r.rest}
    assert sorted(parts) == sorted(PENDING_PARTS)
    assert all(f"({PENDING_PARTS[number]}: " in rest for number, rest in parts.items())


def test_every_script_has_a_mutant() -> None:
    assert {mutant.number for mutant in MUTANTS} == {regression.number for regression in SCRIPTED}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.number}-{Path(mutant.file).stem}")
def test_a_mutant_changes_one_place_and_is_python(mutant: Mutant) -> None:
    assert mutant.file.startswith("cluster/") and not mutant.file.startswith("cluster/sim/"), (
        "of our own code"
    )
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutant.apply(source)
    assert changed != source
    ast.parse(changed)
    assert mutant.sweep != bool(mutant.reason), "what the sweep need not find says why"
