"""A seed is a run: twice, in two processes whose sets and dicts are ordered differently, it is the same."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("--seeds", "0..6"),
        ("--seeds", "1", "--scenario", "everything_at_once"),
        ("--seeds", "1", "--subject", "async"),
        ("--seeds", "1", "--subject", "pysyncobj"),
    ],
    ids=" ".join,
)
def test_a_run_is_its_seed_and_nothing_else(options: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "cli.main", "sim", "determinism", *options, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["seeds"] >= 1
    assert found["differences"] == []
