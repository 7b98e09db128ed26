"""Several subjects in one run: rows to compare, and runs that go on where Azimuth's would end."""

import json

import pytest

from cluster.sim import swarm
from cluster.sim.compare import compare, rows, rows_as_json
from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.drills import DRILLS, LINE_TITLES, DrillResult, drill_config, run_drill
from cluster.sim.history import LOST_WRITE, Violation
from cluster.sim.scenario_reader import parse_scenario
from cluster.sim.simulation import BUG, Broken, Simulation
from cluster.sim.subjects.asynchronous import AsyncSubject
from cluster.sim.subjects.registry import SUBJECTS
from cluster.types import ShardId

SMALL = SimConfig(
    seed=5,
    shards=1,
    workloads=(WorkloadConfig("list", clients=4, ops_per_second=100.0, keys=2),),
    duration_us=1_200_000,
    op_timeout_us=500_000,
    faults=(
        PlannedFault(300_000, "isolate", 0.05, 800_000, 0.5),
        PlannedFault(450_000, "power_cut", 0.05, 650_000),
    ),
)
SCENARIO = """
title = "Nothing happens"
story = "It is quiet."
duration_ms = 1000
subjects = ["azimuth", "async"]

[[workloads]]
kind = "set"
clients = 2
ops_per_second = 40
keys = 3
"""


@pytest.mark.slow
def test_one_row_a_subject_in_the_order_asked_for() -> None:
    outcomes = compare(SMALL, ("async", "azimuth"))
    lossy, ours = rows(outcomes)
    assert (lossy.subject, ours.subject) == ("async", "azimuth")
    assert lossy.lost == lossy.violations[LOST_WRITE] >= 1
    assert ours.lost == 0 and ours.violations == {}
    assert min(lossy.acknowledged, ours.acknowledged) > 30
    told = json.loads(json.dumps(rows_as_json(outcomes)))
    assert told[0]["lost"] == lossy.lost and told[1]["violations"] == {}


@pytest.mark.slow
def test_a_scenario_is_compared_under_a_seed() -> None:
    scenario = parse_scenario(SCENARIO, "quiet.toml")
    found = rows(compare(scenario, scenario.subjects, seed=3))
    assert [(row.subject, row.seed, row.lost) for row in found] == [("azimuth", 3, 0), ("async", 3, 0)]


def test_every_subject_is_made_under_its_own_name() -> None:
    assert list(SUBJECTS) == ["azimuth", "async", "pysyncobj"]
    for name in ("azimuth", "async"):
        assert SUBJECTS[name]().name == name
    with pytest.raises(KeyError):
        compare(SMALL, ("redis",))


def test_a_violation_ends_azimuth_s_run_at_once_and_another_subject_s_goes_on() -> None:
    for name, ends in (("azimuth", True), ("async", False)):
        sim = Simulation(SimConfig(seed=1, shards=1), subject=SUBJECTS[name]())
        sim._boot()
        sim.violate(Violation(BUG, "", "planted"))
        if ends:
            with pytest.raises(Broken):
                sim.go(10_000)
        else:
            assert not sim.go(10_000)
            sim._fail_liveness("planted as well")
        assert sim.violations[0].text == "planted"


def test_a_process_of_another_subject_that_ends_with_a_bug_is_started_again() -> None:
    sim = Simulation(SimConfig(seed=1, shards=1), subject=AsyncSubject())
    sim._boot()
    machine = sim.primary_of(ShardId("0001"))
    assert machine is not None and machine.process is not None

    def fail() -> None:
        raise ValueError("planted")

    machine.process.guarded(fail)
    assert not machine.alive
    sim.go(1_000_000)
    assert machine.alive and machine.lives == 2
    assert [violation.kind for violation in sim.violations] == [BUG]


def test_drills_differ_by_seed_and_use_faults_that_exist() -> None:
    for name in DRILLS:
        first = drill_config(name, 1)
        assert first == drill_config(name, 1)
        assert len({drill_config(name, seed).faults for seed in range(5)}) == 5
        assert first.faults and all(fault.kind in swarm.FAULTS for fault in first.faults)
        assert all(fault.at_us + fault.duration_us < first.duration_us for fault in first.faults)


def test_a_drill_s_line_has_the_columns_of_its_title() -> None:
    line = DrillResult("kill", "async", runs=40, runs_that_lost=2, unavailable_ms=4_000).line()
    assert line.count("|") == LINE_TITLES.count("|")
    assert "2 of 40" in line and "0.1" in line


@pytest.mark.slow
def test_a_zone_that_dies_slowly_costs_async_acknowledged_writes() -> None:
    result = run_drill("dying", "async", range(1))
    assert (result.runs, result.runs_that_lost, result.runs_with_violations) == (1, 1, 1)
    assert result.lost == result.lost_most > 0
    assert result.acked > 500
