"""The sweep that CI makes: 300 seeds, and every scenario file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.scenario import load
from cluster.sim.scenario_run import run_scenario

ROOT = Path(__file__).resolve().parent.parent.parent
SCENARIOS = sorted((ROOT / "scenarios").glob("*.toml"))
SEEDS = 300


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_found_in_the_first_seeds() -> None:
    azimuth = [sys.executable, "-c", "import sys; from cli.main import main; sys.exit(main())"]
    command = [*azimuth, "sim", "sweep", "--seeds", f"0..{SEEDS}", "--jobs", "2", "--keep-going", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == []
    assert found["seeds"] == SEEDS
    assert found["acked"] > SEEDS * 50  # or the runs show nothing
    assert done.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_holds(path: Path) -> None:
    scenario = load(path)
    for seed in (1, 2):
        outcome = run_scenario(scenario, seed)
        assert outcome.violations == [], f"azimuth sim run --scenario {path.name} --seed {seed}"
