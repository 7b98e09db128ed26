"""`azimuth sim`: what it prints, its JSON, its exit codes; Ctrl-C leaves nothing running.

Runs are tiny ones; sweeps ask a stand-in for the worker process, except where processes are what is tested.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from cli import sim_pool
from cli.commands import cli
from cluster.errors import AzimuthError, ConfigError
from cluster.sim import swarm
from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.process import SimProcess
from cluster.sim.replay import dump
from cluster.sim.subjects.azimuth import AzimuthNode, AzimuthSubject

FAKE_WORKER = (sys.executable, "-P", str(Path(__file__).with_name("fake_sim_worker.py")))
SCENARIO = """\
title = "Mine"
story = "It is short."
duration_ms = 1000
[[workloads]]
kind = "list"
clients = 1
ops_per_second = 40
keys = 1
[[steps]]
at_ms = 100
action = "kill"
target = "az-a"
for_ms = 200
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every seed draws a short run with two faults."""
    monkeypatch.setattr(swarm, "draw_config", small_config)


def small_config(seed: int) -> SimConfig:
    work = WorkloadConfig("list", clients=1, ops_per_second=40.0, keys=1)
    faults = (PlannedFault(50_000, "slow", 0.1, 20_000), PlannedFault(80_000, "wall_jump", 0.1, 20_000, 0.9))
    return SimConfig(
        seed=seed, shards=1, workloads=(work,), faults=faults, duration_us=300_000, engine_boot_us=1_000
    )


@pytest.fixture
def sabotaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that hears an append raises, once anybody's clock on the wall was set."""
    make_node = AzimuthSubject.make_node

    def make(subject: AzimuthSubject, process: SimProcess) -> AzimuthNode:
        node = make_node(subject, process)
        on_tick = node.on_tick

        def tick() -> None:
            if any("wall_jump" in text for _, text in process.sim.trace.faults):
                raise ZeroDivisionError("planted")
            on_tick()

        node.on_tick = tick
        return node

    monkeypatch.setattr(AzimuthSubject, "make_node", make)


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim_pool, "WORKER_COMMAND", FAKE_WORKER)


def sim(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sim", *arguments], env={"COLUMNS": "160"})


# -- run ---------------------------------------------------------------------------------------------------


def test_run_prints_what_was_drawn_what_happened_and_how_to_repeat_it(small: None) -> None:
    result = sim("run", "--seed", "42")
    assert result.exit_code == 0, result.output
    assert re.search(r"^shards +1 *$", result.output, re.M)
    assert re.search(r"^ +50 ms +slow \S", result.output, re.M)
    assert re.search(r"^ok$", result.output, re.M)
    assert re.search(r"^\d+ acknowledged, 0 in doubt, 0 failed, 0 lost, ", result.output, re.M)
    assert re.search(
        r"^\d\.\d virtual seconds in \d+\.\d s, \d+ a second; .* trace [0-9a-f]{8}$", result.output, re.M
    )
    assert result.output.endswith("again: azimuth sim run --seed 42\n")
    assert "became_leader" not in result.output


def test_run_trace_prints_every_event_and_is_the_same_run(small: None) -> None:
    traced, plain = sim("run", "--seed", "42", "--trace"), sim("run", "--seed", "42")
    assert re.search(r"^ +\d+\.\d{3} ms  0001-00\d  became_leader term=1 ", traced.output, re.M)
    assert "── safety ──" in traced.output
    assert re.search(r"^ +50\.000 ms  fault +slow ", traced.output, re.M), "times count from the workloads"
    hashes = [re.findall(r"trace ([0-9a-f]{8})", output) for output in (traced.output, plain.output)]
    assert hashes[0] == hashes[1] != []


def test_run_json_is_one_object(small: None) -> None:
    result = sim("run", "--seed", "42", "--json", "--trace")
    found = json.loads(result.stdout)
    assert "became_leader" in result.stderr
    assert (found["seed"], found["verdict"], found["violations"], found["lost"]) == (42, "ok", [], 0)
    assert found["acked"] > 0 and found["virtual_s"] > 0.3 and found["wall_s"] >= 0
    assert re.fullmatch("[0-9a-f]{8}", found["trace_hash"])
    assert [fault["at_ms"] for fault in found["faults"]] == [50, 80]
    assert found["repeat"] == "azimuth sim run --seed 42"


def test_run_shows_a_violation_and_fails(small: None, sabotaged: None) -> None:
    result = sim("run", "--seed", "1")
    assert result.exit_code == 1
    assert re.search(r"^violation$", result.output, re.M)
    assert re.search(
        r"^  bug of 0001-00\d: 0001-00\d: ZeroDivisionError: planted \(tick, line", result.output, re.M
    )
    found = json.loads(sim("run", "--seed", "1", "--json").stdout)
    assert found["verdict"] == "violation"
    assert found["violations"][0]["kind"] == "bug"


def test_several_subjects_stand_in_one_table_and_azimuth_decides(small: None, sabotaged: None) -> None:
    subjects = ("--subject", "azimuth", "--subject", "async")
    result = sim("run", "--seed", "1", *subjects)
    assert result.exit_code == 1
    assert re.search(r"^subject +acknowledged +lost +stale reads +unavailable", result.output, re.M)
    assert re.search(r"^azimuth .* violation *$", result.output, re.M)
    assert re.search(r"^async .* ok *$", result.output, re.M)
    assert result.output.endswith("again: azimuth sim run --seed 1 --subject azimuth --subject async\n")
    found = json.loads(sim("run", "--seed", "1", *subjects, "--json").stdout)
    assert {name: each["verdict"] for name, each in found.items()} == {"azimuth": "violation", "async": "ok"}
    assert found["async"]["repeat"] == "azimuth sim run --seed 1 --subject async"
    assert sim("run", "--seed", "1", "--subject", "async", "--json").exit_code == 0


def test_a_lost_write_is_shown_with_the_operations_that_prove_it(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster.sim.history import LOST_WRITE, Violation

    monkeypatch.setattr(
        "cluster.sim.simulation.check_history",
        lambda history: [Violation(LOST_WRITE, "{t0}list0", "v1 is gone", (0, len(history) - 1))],
    )
    result = sim("run", "--seed", "1")
    assert result.exit_code == 1
    assert "  lost_write of {t0}list0: v1 is gone" in result.output
    assert re.search(
        r"^    #0 +[\d.]+ to [\d.]+ ms  client 0  (RPUSH|LRANGE) \S+.* → ok .+$", result.output, re.M
    )
    assert "(read in the end)" in result.output
    proof = json.loads(sim("run", "--seed", "1", "--json").stdout)["proof"]
    assert proof[0]["number"] == 0
    assert proof[0]["result"] == "ok" and proof[-1]["final"]


def test_a_scenario_runs_with_a_seed_of_its_own(here: Path) -> None:
    (here / "mine.toml").write_text(SCENARIO)
    result = sim("run", "--scenario", "mine.toml")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("mine, seed 1\n")
    assert re.search(r"^ +100 ms +kill ", result.output, re.M)
    assert result.output.endswith("again: azimuth sim run --seed 1 --scenario mine.toml\n")


def test_a_replay_is_the_run_that_was_kept(here: Path, small: None) -> None:
    (here / "kept.json").write_text(dump(small_config(7), "async"))
    kept = json.loads(sim("run", "--replay", "kept.json", "--json").stdout)
    drawn = json.loads(sim("run", "--seed", "7", "--subject", "async", "--json").stdout)
    assert kept["subject"] == "async"
    assert kept["trace_hash"] == drawn["trace_hash"]
    assert sim("run", "--replay", "kept.json", "--subject", "azimuth", "--json").exit_code == 0


# -- shrink ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shrink_keeps_what_is_guilty_as_a_file_that_fails_again(
    here: Path, small: None, sabotaged: None
) -> None:
    result = sim("shrink", "--seed", "1", "--out", "small.json")
    assert result.exit_code == 0, result.output
    assert "1 faults" in result.stdout and "0 operations" in result.stdout
    assert re.search(r"^ +\d+ ms +\d+ ms +0\.100 +0\.900 +wall_jump *$", result.stdout, re.M)
    assert re.search(r"^run \d+: ", result.stderr, re.M)
    assert result.stdout.endswith("again: azimuth sim run --replay small.json\n")
    again = sim("run", "--replay", "small.json", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["violations"][0]["kind"] == "bug"
    found = json.loads(sim("shrink", "--seed", "1", "--json").stdout)
    assert [fault["kind"] for fault in found["planned"]] == ["wall_jump"]
    assert (found["verdict"], found["operations"], found["complete"]) == ("violation", [], True)
    assert found["runs"] >= len(found["steps"]) > 0


def test_what_does_not_fail_cannot_be_shrunk(small: None) -> None:
    result = sim("shrink", "--seed", "1")
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "seed 1 does not fail: there is nothing to shrink"


# -- sweep -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_adds_up_what_its_workers_say(fake_worker: None) -> None:
    result = sim("sweep", "--seeds", "0..13", "--jobs", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("13 seeds, no failure; 1,300 operations acknowledged, 0 lost; 26 virtual")
    found = json.loads(sim("sweep", "--seeds", "1,2", "--json").stdout)
    assert (found["seeds"], found["asked"], found["failures"], found["interrupted"]) == (2, 2, [], False)
    assert found["virtual_s"] == 4.0 and found["virtual_s_per_s"] > 0


@pytest.mark.slow
def test_a_sweep_stops_at_the_first_failure_and_says_how_to_repeat_it(fake_worker: None) -> None:
    result = sim("sweep", "--seeds", "13..5000", "--jobs", "1")
    assert result.exit_code == 1
    assert result.stderr == "seed 13: lost_write: v1 is gone\n"
    assert "seed 13 breaks a promise\n  lost_write of k: v1 is gone\n" in result.stdout
    assert "again: azimuth sim run --seed 13\n" in result.stdout
    assert "1 of 4,987 seeds, 1 failure" in result.stdout


@pytest.mark.slow
def test_a_sweep_goes_on_if_asked_to_and_keeps_failing_seeds_in_a_file(here: Path, fake_worker: None) -> None:
    (here / "kept.txt").write_text("earlier\n")
    (here / "mine.toml").write_text(SCENARIO)
    arguments = ("--seeds", "10..220", "--jobs", "3", "--keep-going", "--failures-to", "kept.txt")
    result = sim("sweep", *arguments, "--scenario", "mine.toml", "--subject", "async", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["seeds"], found["lost"]) == (210, 3)
    assert [failure["seed"] for failure in found["failures"]] == [13, 113, 213]
    again = "azimuth sim run --seed 13 --scenario mine.toml --subject async"
    assert found["failures"][0]["repeat"] == again
    assert found["failures"][0]["violations"] == [
        {"kind": "lost_write", "key": "k", "text": "v1 is gone", "ops": [1, 2]}
    ]
    lines = (here / "kept.txt").read_text().splitlines()
    assert lines[0] == "earlier" and len(lines) == 4
    assert f"{again}  # lost_write: v1 is gone" in lines


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line_with_its_seed(fake_worker: None) -> None:
    result = sim("sweep", "--seeds", "666", "--jobs", "1")
    assert isinstance(result.exception, AzimuthError)
    assert "the process that ran seed 666 was ended by SIGKILL" in str(result.exception)


@pytest.mark.slow
def test_real_workers_run_real_seeds() -> None:
    found = json.loads(sim("sweep", "--seeds", "3,3", "--json").stdout)
    assert found["seeds"] == 1
    assert found["acked"] > 0


@pytest.mark.slow
def test_ctrl_c_ends_all_workers_and_says_how_far_it_came(here: Path) -> None:
    starter = f"import cli.main, cli.sim_pool; cli.sim_pool.WORKER_COMMAND = {FAKE_WORKER!r}; cli.main.main()"
    argv = [sys.executable, "-P", "-c", starter, "sim", "sweep", "--seeds", "1,2,999,1999,3", "--jobs", "2"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and len(list(here.glob("begun-*"))) < 2:
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, complaints) == (130, "")
    assert output.startswith("interrupted\n")
    assert " of 5 seeds, no failure; " in output
    assert len(workers) == 2
    assert not [worker for worker in workers if worker.is_running()]


# -- determinism -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_determinism_tells_which_seeds_differ_and_in_what(fake_worker: None) -> None:
    same = sim("determinism", "--seeds", "0..5")
    assert (same.exit_code, same.stdout) == (0, "5 seeds ran twice: the same each time\n")
    other = sim("determinism", "--seeds", "0..8")
    assert other.exit_code == 1
    assert other.stdout.startswith("seed 5 differs: trace_hash 1 and 2\n")
    found = json.loads(sim("determinism", "--seeds", "5,6", "--json").stdout)
    assert found == {"seeds": 2, "differences": [{"seed": 5, "trace_hash": ["1", "2"]}]}


# -- a wrong command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "which run? Give --seed N, --scenario NAME or --replay FILE"),
        (["run", "--seed", "x"], "'x' is not a valid integer"),
        (["run", "--seed", "-1"], "-1 is not in the range"),
        (
            ["run", "--seed", "1", "--subject", "redis"],
            "'redis' is not one of 'azimuth', 'async', 'pysyncobj'",
        ),
        (["run", "--seed", "1", "--replay", "x"], "--replay is a whole run"),
        (["run", "--replay", "none.json"], "none.json: no such file or directory"),
        (["run", "--replay", "README.md"], "README.md: not JSON"),
        (["run", "--scenario", "nonsense"], "no scenario 'nonsense'; there are az_flapping, "),
        (["sweep"], "Missing option '--seeds'"),
        (["sweep", "--seeds", "9..1"], "9..1 holds no seed; a..b goes from a to b - 1"),
        (["sweep", "--seeds", "1", "--jobs", "0"], "0 is not in the range"),
        (["sweep", "--seeds", "1", "--failures-to", "no/x"], "no/x: there is no directory no"),
        (["shrink"], "Missing option '--seed'"),
        (["shrink", "--seed", "1", "--out", "no/x"], "no/x: there is no directory no"),
        (["determinism", "--seeds", "many"], "'many': give a number, a..b"),
    ],
)
def test_a_wrong_command_line_is_one_line(here: Path, arguments: list[str], words: str) -> None:
    (here / "README.md").write_text("# Not JSON")
    result = sim(*arguments)
    assert result.exit_code != 0
    error = result.exception if isinstance(result.exception, AzimuthError) else None
    lines = str(error) if error else result.stderr.splitlines()[-1]
    assert words in lines and "\n" not in lines
    assert result.stdout == ""


def test_help_says_what_a_range_is() -> None:
    assert "from a to b - 1" in " ".join(sim("sweep", "--help").output.split())
