"""Seeds as people write them, and what a sweep keeps of a run."""

import pickle
from typing import get_args

import pytest

from cluster.errors import ConfigError
from cluster.sim import swarm, sweep
from cluster.sim.config import SimConfig, WorkloadConfig
from cluster.sim.history import Violation
from cluster.sim.scenario import Subject
from cluster.sim.simulation import Simulation
from cluster.sim.subjects.registry import SUBJECTS
from cluster.sim.sweep import SIMULATOR_ERROR, parse_seeds, run_chunk


def small_config(seed: int) -> SimConfig:
    """A run that takes a few hundredths of a second."""
    work = WorkloadConfig("register", clients=1, ops_per_second=50.0, keys=1)
    return SimConfig(seed=seed, shards=1, workloads=(work,), duration_us=300_000, engine_boot_us=1_000)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", [7]),
        ("0..4", [0, 1, 2, 3]),
        ("5..6", [5]),
        ("1,5,9", [1, 5, 9]),
        (" 9, 1..3 ,9", [9, 1, 2]),
    ],
)
def test_seeds_as_people_write_them(text: str, seeds: list[int]) -> None:
    assert list(parse_seeds(text)) == seeds


def test_a_long_range_is_not_written_out() -> None:
    assert parse_seeds("0..1000000000000") == range(1_000_000_000_000)


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "1..", "..3", "3..3", "9..2", "1,,2", "1...3", "٣", "1" * 5000, "0..10000000,1", "1\n2"],
)
def test_nonsense_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_seeds(text)
    assert str(caught.value).startswith("seeds ")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250


def test_a_chunk_is_what_its_seeds_say_and_small_when_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "draw_config", small_config)
    first, second = run_chunk([3, 4])
    assert [first.seed, second.seed] == [3, 4]
    assert first.ok and first.acked > 0 and first.ops >= first.acked
    assert first.trace_hash != second.trace_hash
    assert run_chunk([3]) == [first]
    assert pickle.loads(pickle.dumps(first)) == first
    assert len(pickle.dumps(first)) < 1_000


def test_where_the_simulator_breaks_the_seed_has_failed_and_the_sweep_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(seed: int) -> SimConfig:
        if seed == 1:
            raise RuntimeError("two\nlines")
        return small_config(seed)

    monkeypatch.setattr(swarm, "draw_config", draw)
    good, bad, after = run_chunk([0, 1, 2])
    assert good.ok and after.ok
    assert bad.violations == (Violation(SIMULATOR_ERROR, "", "RuntimeError: two lines"),)


def test_a_scenario_knows_the_subjects_that_there_are() -> None:
    assert set(SUBJECTS) == set(get_args(Subject))
    assert sweep.make_subject("azimuth").name == "azimuth"


def test_a_traced_run_is_the_same_run() -> None:
    lines: list[str] = []
    traced = Simulation(small_config(1), sink=lambda when, who, what: lines.append(what)).run()
    assert lines
    assert traced.trace_hash == Simulation(small_config(1)).run().trace_hash


def test_a_run_without_operations_is_asked_all_the_same_whether_it_serves() -> None:
    """The probe of the liveness phase does not count: with `ops_max` 0 a healthy cluster is no violation."""
    from dataclasses import replace

    outcome = Simulation(replace(small_config(1), ops_max=0)).run()
    assert outcome.ok, outcome.violations
    assert outcome.acked > 0
