"""Makes a failing run small: fewest faults and operations that still break the same promise.

A run is its `SimConfig` and nothing else, so shrinking is: change the configuration, run it, keep the change
if the run still fails *in the same way*. What counts as the same way is `sort_of`: the kind of violation
and, of an exception in a node, the function that raised it. Another assertion is another bug.

Passes, in this order, again and again until a whole round changes nothing or `runs_max` runs are spent:

1. **faults**: delta debugging (Zeller and Hildebrandt, 2002). Faults were drawn before the run, so leaving
   one out moves none of the others.
2. **operations**: bisection for the least `ops_max`.
3. **duration**: bisection, to a twentieth.
4. **workloads**: left out one by one; then one client each, one operation at a time, half as often.
5. **shards**: as few as will do.
6. **calm**: a network that loses nothing, clocks that run evenly.

Each result is a failing run by itself, and no single fault can be left out of the last one. It need not be
the smallest of all: later passes may have helped where an earlier one gave up, and bisection supposes that
what fails with few operations also fails with more. Deterministic: nothing is drawn here.

Left out: shrinking within a fault (its length, its target). Reading is served by fewer events, not by rounder
numbers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from cluster.errors import ConfigError
from cluster.sim.config import SimConfig, WorkloadConfig
from cluster.sim.history import Violation
from cluster.sim.safety import INVARIANT
from cluster.sim.simulation import BUG, Simulation
from cluster.sim.subjects import Subject
from cluster.sim.sweep import Summary, crashed, summarize

RUNS_MAX: Final = 400
DURATION_STEP_US: Final = 10_000
OPS_PER_SECOND_MIN: Final = 0.5
Fails = Callable[[Summary], bool]
_RAISED_IN: Final = re.compile(r"(\w+): .*\((\w+), line \d+\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """A change that was kept."""

    run: int  # it was the so-manieth run
    text: str
    faults: int  # that were left then
    ops: int


OnStep = Callable[[Step, SimConfig], None]


@dataclass(slots=True)
class Shrunk:
    config: SimConfig
    summary: Summary  # of its run
    steps: list[Step] = field(default_factory=list)
    runs: int = 0
    complete: bool = True  # False: `runs_max` was reached


def sort_of(violation: Violation) -> str:
    """Equal for violations that speak of the same bug, as far as their texts tell."""
    if violation.kind in (BUG, INVARIANT):
        raised = _RAISED_IN.search(violation.text.partition(": ")[2])  # behind the node's name
        if raised is not None:
            return f"{violation.kind} {raised[1]} in {raised[2]}"
    return violation.kind


def same_failure(first: Summary) -> Fails:
    """Whether a run breaks what this one broke first."""
    wanted = sort_of(first.violations[0])
    return lambda summary: any(sort_of(violation) == wanted for violation in summary.violations)


def shrink(
    config: SimConfig,
    subject: Callable[[], Subject],
    fails: Fails | None = None,
    *,
    runs_max: int = RUNS_MAX,
    on_run: Callable[[int], None] = lambda runs: None,
    on_step: OnStep = lambda step, config: None,
) -> Shrunk:
    """The smallest run that could be found. `subject` makes a fresh one for each run. ConfigError if the run
    does not fail.

    `fails` is by default: the first violation of the whole run is there again."""
    first = _run(config, subject)
    on_run(1)
    if fails is None and first.ok:
        raise ConfigError(f"seed {config.seed} does not fail: there is nothing to shrink")
    judge = fails or same_failure(first)
    if not judge(first):
        raise ConfigError(f"seed {config.seed} does not fail in this way: there is nothing to shrink")
    shrinker = _Shrinker(Shrunk(config, first, runs=1), subject, judge, runs_max, on_run, on_step)
    try:
        while shrinker.round():
            pass
    except _Enough:
        shrinker.best.complete = False
    return shrinker.best


def _run(config: SimConfig, subject: Callable[[], Subject]) -> Summary:
    made = subject()
    try:
        return summarize(Simulation(config, subject=made).run())
    except Exception as error:
        return crashed(config.seed, made.name, error)


def _halved(work: WorkloadConfig) -> WorkloadConfig:
    return replace(work, ops_per_second=max(OPS_PER_SECOND_MIN, work.ops_per_second / 2))


class _Enough(Exception):
    """All runs are spent."""


class _Shrinker:
    def __init__(
        self,
        best: Shrunk,
        subject: Callable[[], Subject],
        fails: Fails,
        runs_max: int,
        on_run: Callable[[int], None],
        on_step: OnStep,
    ) -> None:
        self.best = best
        self._subject = subject
        self._fails = fails
        self._runs_max = runs_max
        self._on_run = on_run
        self._on_step = on_step
        self._tried = {best.config}

    @property
    def _config(self) -> SimConfig:
        return self.best.config

    def round(self) -> bool:
        """Every pass once. True if anything became smaller."""
        before = len(self.best.steps)
        self._drop_faults()
        self._lower_ops()
        self._shorten()
        self._drop_workloads()
        self._drop_shards()
        self._calm()
        return len(self.best.steps) > before

    def _keeps_failing(self, config: SimConfig, text: str) -> bool:
        """Run it; if it still fails it is the best from now on."""
        if config in self._tried:
            return False
        if self.best.runs >= self._runs_max:
            raise _Enough
        self._tried.add(config)
        summary = _run(config, self._subject)
        self.best.runs += 1
        self._on_run(self.best.runs)
        if not self._fails(summary):
            return False
        self.best.config, self.best.summary = config, summary
        step = Step(self.best.runs, text, len(config.faults), summary.ops)
        self.best.steps.append(step)
        self._on_step(step, config)
        return True

    # -- passes ----------------------------------------------------------------------------------------

    def _drop_faults(self) -> None:
        if self._keeps_failing(replace(self._config, faults=()), "without any fault"):
            return
        parts = 2
        while len(self._config.faults) > 1:
            if self._drop_a_part(parts):
                parts = max(parts - 1, 2)
            elif parts >= len(self._config.faults):
                return
            else:
                parts = min(parts * 2, len(self._config.faults))

    def _drop_a_part(self, parts: int) -> bool:
        faults = self._config.faults
        for part in range(parts):
            begin, end = part * len(faults) // parts, (part + 1) * len(faults) // parts
            rest = faults[:begin] + faults[end:]
            if self._keeps_failing(replace(self._config, faults=rest), f"{len(rest)} faults are left"):
                return True
        return False

    def _lower_ops(self) -> None:
        most, least = self.best.summary.ops, -1
        if self._config.ops_max is not None:
            most = min(most, self._config.ops_max)
        while most - least > 1:
            # none at all first: then there is nothing to search
            ops_max = 0 if least < 0 else (most + least) // 2
            if self._keeps_failing(replace(self._config, ops_max=ops_max), f"at most {ops_max} operations"):
                most = ops_max
            else:
                least = ops_max

    def _shorten(self) -> None:
        most, least = self._config.duration_us // DURATION_STEP_US, 0
        while most - least > max(1, most // 20):
            middle = (most + least) // 2
            config = replace(self._config, duration_us=middle * DURATION_STEP_US)
            if self._keeps_failing(config, f"{middle * DURATION_STEP_US // 1000} ms"):
                most = middle
            else:
                least = middle

    def _drop_workloads(self) -> None:
        for kind in [work.kind for work in self._config.workloads]:
            rest = tuple(work for work in self._config.workloads if work.kind != kind)
            self._keeps_failing(replace(self._config, workloads=rest), f"without {kind}")
        for place, work in enumerate(self._config.workloads):
            self._keeps_failing_with(place, replace(work, clients=1, depth=1), f"{work.kind} with one client")
            while self._keeps_failing_with(
                place, halved := _halved(self._config.workloads[place]), f"{halved.kind} half as often"
            ):
                pass

    def _keeps_failing_with(self, place: int, work: WorkloadConfig, text: str) -> bool:
        works = self._config.workloads
        changed = (*works[:place], work, *works[place + 1 :])
        return self._keeps_failing(replace(self._config, workloads=changed), text)

    def _drop_shards(self) -> None:
        for shards in range(1, self._config.shards):
            if self._keeps_failing(replace(self._config, shards=shards), f"{shards} of its shards"):
                return

    def _calm(self) -> None:
        for name, text in (
            ("drop_percent", "no message dropped"),
            ("duplicate_percent", "no message doubled"),
            ("reorder_percent", "no message reordered"),
            ("drift_percent", "clocks run evenly"),
        ):
            self._keeps_failing(replace(self._config, **{name: 0.0}), text)  # type: ignore[arg-type]  # all floats
