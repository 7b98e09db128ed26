"""A failing run becomes exactly what is guilty of it, in few runs and always in the same ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster.errors import ConfigError
from cluster.sim import shrink as module
from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.history import Violation
from cluster.sim.process import SimProcess
from cluster.sim.shrink import Shrunk, Step, shrink, sort_of
from cluster.sim.simulation import BUG
from cluster.sim.subjects import Subject
from cluster.sim.subjects.azimuth import AzimuthNode, AzimuthSubject
from cluster.sim.sweep import Summary

OPS = 700


def faults_of(*kinds: str) -> tuple[PlannedFault, ...]:
    return tuple(
        PlannedFault(at_us=1_000 * place, kind=kind, pick=0.5, duration_us=10_000)
        for place, kind in enumerate(kinds)
    )


def config_of(*kinds: str) -> SimConfig:
    works = tuple(
        WorkloadConfig(kind, clients=3, ops_per_second=16.0, keys=2, depth=8)
        for kind in ("register", "list", "counter")
    )
    return SimConfig(
        seed=9, workloads=works, faults=faults_of(*kinds), duration_us=8_000_000, drop_percent=5.0
    )


def kinds_of(config: SimConfig) -> list[str]:
    return [fault.kind for fault in config.faults]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[SimConfig], str]], list[SimConfig]]:
    """Instead of running a configuration, ask a function which kind of violation it has ("": none)."""

    def install(judge: Callable[[SimConfig], str]) -> list[SimConfig]:
        ran: list[SimConfig] = []

        def run(config: SimConfig, subject: Callable[[], Subject]) -> Summary:
            ran.append(config)
            kind = judge(config)
            violations = (Violation(kind, "", "planted"),) if kind else ()
            ops = OPS if config.ops_max is None else min(OPS, config.ops_max)
            return Summary(config.seed, "azimuth", violations, "", 0, 1_000_000, 0, 0, ops)

        monkeypatch.setattr(module, "_run", run)
        return ran

    return install


Pretend = Callable[[Callable[[SimConfig], str]], list[SimConfig]]


def shrunk(config: SimConfig, runs_max: int = 400) -> Shrunk:
    return shrink(config, AzimuthSubject, runs_max=runs_max)


# -- what is left ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guilty", [(), (7,), (0, 39), (3, 4, 30), tuple(range(0, 40, 8))])
def test_exactly_the_guilty_faults_are_left(pretend: Pretend, guilty: tuple[int, ...]) -> None:
    whole = config_of(*(f"kind{number}" for number in range(40)))
    wanted = {f"kind{number}" for number in guilty}
    pretend(lambda config: "lost_write" if wanted <= set(kinds_of(config)) else "")
    found = shrunk(whole)
    assert kinds_of(found.config) == [f"kind{number}" for number in guilty]
    assert found.complete
    assert found.config.faults == tuple(fault for fault in whole.faults if fault.kind in wanted)


def test_operations_workloads_shards_and_time_are_as_few_as_will_do(pretend: Pretend) -> None:
    def judge(config: SimConfig) -> str:
        kinds = [work.kind for work in config.workloads]
        guilty = "list" in kinds and config.shards >= 2 and config.duration_us >= 1_000_000
        return "lost_write" if guilty and (config.ops_max is None or config.ops_max >= 123) else ""

    pretend(judge)
    found = shrunk(config_of("kill", "pause")).config
    assert found.faults == ()
    assert found.ops_max == 123
    assert [(work.kind, work.clients, work.depth) for work in found.workloads] == [("list", 1, 1)]
    assert found.shards == 2
    assert 1_000_000 <= found.duration_us <= 1_060_000
    assert found.drop_percent == 0.0


def test_what_only_a_later_pass_makes_superfluous_goes_too(pretend: Pretend) -> None:
    """With three shards it takes two faults, with one it takes one."""
    pretend(lambda config: "lost_write" if len(config.faults) >= config.shards - 1 else "")
    found = shrunk(config_of("kill", "pause", "slow"))
    assert (found.config.shards, found.config.faults) == (1, ())


def test_another_kind_of_violation_is_another_bug(pretend: Pretend) -> None:
    def judge(config: SimConfig) -> str:
        return "stale_read" if "pause" in kinds_of(config) else "liveness"

    pretend(judge)
    assert kinds_of(shrunk(config_of("kill", "pause", "slow")).config) == ["pause"]


def test_exceptions_of_different_functions_are_different_bugs() -> None:
    one = Violation(BUG, "0001-001", "0001-001: AssertionError: no (that) way (append, line 12)")
    moved = Violation(BUG, "0002-003", "0002-003: AssertionError: other words (append, line 90)")
    other = Violation(BUG, "0001-001", "0001-001: AssertionError: no (that) way (truncate, line 12)")
    kind = Violation(BUG, "0001-001", "0001-001: KeyError: 3 (append, line 12)")
    assert sort_of(one) == sort_of(moved) == "bug AssertionError in append"
    assert len({sort_of(each) for each in (one, other, kind)}) == 3
    assert sort_of(Violation("lost_write", "k", "0001-001: A: b (c, line 1)")) == "lost_write"


# -- how ---------------------------------------------------------------------------------------------------


def test_it_always_takes_the_same_way(pretend: Pretend) -> None:
    def judge(config: SimConfig) -> str:
        return "order" if len(config.faults) % 3 == 1 and config.shards != 2 else ""

    ran = pretend(judge)
    whole = config_of(*"abcdefghij")
    first = shrunk(whole)
    way, ran[:] = list(ran), []
    second = shrunk(whole)
    assert (way, first.config, first.steps) == (ran, second.config, second.steps)
    assert len(set(way)) == len(way), "nothing is run twice"


def test_it_stops_when_its_runs_are_spent_with_the_best_so_far(pretend: Pretend) -> None:
    ran = pretend(lambda config: "order" if "a" in kinds_of(config) else "")
    whole = config_of(*"abcdefghij")
    found = shrunk(whole, runs_max=4)
    assert (len(ran), found.runs, found.complete) == (4, 4, False)
    assert "a" in kinds_of(found.config) and len(found.config.faults) < 10


def test_each_step_is_told_with_the_run_that_it_leads_to(pretend: Pretend) -> None:
    pretend(lambda config: "order" if "a" in kinds_of(config) else "")
    told: list[tuple[Step, SimConfig]] = []
    counts: list[int] = []
    found = shrink(
        config_of("a", "b"),
        AzimuthSubject,
        on_run=counts.append,
        on_step=lambda step, config: told.append((step, config)),
    )
    assert [step for step, _ in told] == found.steps
    assert told[-1][1] == found.config
    assert told[0][0].text == "1 faults are left"
    assert counts == list(range(1, found.runs + 1))


def test_a_run_that_does_not_fail_cannot_be_shrunk(pretend: Pretend) -> None:
    pretend(lambda config: "")
    with pytest.raises(ConfigError, match="seed 9 does not fail: there is nothing to shrink"):
        shrunk(config_of("kill"))
    pretend(lambda config: "order")
    with pytest.raises(ConfigError, match="does not fail in this way"):
        shrink(config_of("kill"), AzimuthSubject, lambda summary: summary.lost > 0)


# -- for real ----------------------------------------------------------------------------------------------


class Sabotaged(AzimuthSubject):
    """Its node cannot start while somebody's clock has been set, once anybody was paused."""

    def make_node(self, process: SimProcess) -> AzimuthNode:
        done = " ".join(text for _, text in process.sim.trace.faults)
        if "wall_jump" in done and "pause" in done:
            raise ZeroDivisionError("planted")
        return super().make_node(process)


@pytest.mark.slow
def test_an_exception_in_a_node_shrinks_to_the_faults_that_cause_it() -> None:
    kinds = ("slow", "wall_jump", "isolate", "pause", "transfer", "kill", "engine_kill", "kill")
    faults = tuple(
        PlannedFault(at_us=50_000 * (place + 1), kind=kind, pick=0.1, duration_us=50_000)
        for place, kind in enumerate(kinds)
    )
    work = WorkloadConfig("register", clients=1, ops_per_second=30.0, keys=1)
    config = SimConfig(seed=1, workloads=(work,), faults=faults, duration_us=600_000, engine_boot_us=1_000)
    found = shrink(config, Sabotaged)
    assert sort_of(found.summary.violations[0]) == "bug ZeroDivisionError in make_node"
    kept = kinds_of(found.config)
    assert kept[:2] == ["wall_jump", "pause"] and kept[2] == "kill" and len(kept) == 3
    assert (found.config.workloads, found.config.shards) == ((), 1)
    assert replace(found.config, seed=1).faults[0] == faults[1]
