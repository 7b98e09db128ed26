"""Random histories: what a correct object shows is accepted, and the checkers agree with trying all orders.

The seeds are fixed. To look further, raise HISTORIES; a history that fails is printed as a story's raw form.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.sim.checkers import check_history
from cluster.sim.history import Op, Result
from tests.sim.checkers.support import (
    OBJECTS,
    is_explained,
    is_explained_by_permutation,
    simulate,
    spoil,
)

HISTORIES = 2500

# How often each kind has to turn up at least, or the histories are too tame.
LEAST = {
    "register": {"aborted_read": 100, "lost_write": 20, "stale_read": 10},
    "list": {"aborted_read": 100, "lost_write": 20, "stale_read": 20, "order": 20, "double_apply": 10},
    "counter": {"aborted_read": 100, "lost_write": 20, "stale_read": 20, "order": 20, "double_apply": 20},
    "chain": {"aborted_read": 100, "lost_write": 20, "order": 10, "not_linearizable": 10},
    "set": {"aborted_read": 100, "lost_write": 20, "stale_read": 10, "double_apply": 10},
    "small": {"aborted_read": 50, "not_linearizable": 50},
    "transaction": {"aborted_read": 100, "lost_write": 10, "stale_read": 10, "order": 20, "double_apply": 10},
}


def small_history(seed: str, workload: str, count: int) -> list[Op]:
    rng = random.Random(seed)
    history = simulate(
        rng, workload, clients=rng.randint(1, 4), count=rng.randint(1, count), step_us=rng.choice((2, 4, 8))
    )
    return spoil(rng, history)


def raw(history: list[Op]) -> str:
    return "\n".join(map(repr, history))


@pytest.mark.slow
@pytest.mark.parametrize("workload", OBJECTS)
@given(rng=st.randoms(use_true_random=False), clients=st.integers(1, 6), count=st.integers(1, 25))
@settings(max_examples=60)
def test_whatever_a_correct_object_shows_is_accepted(
    workload: str, rng: random.Random, clients: int, count: int
) -> None:
    history = simulate(rng, workload, clients=clients, count=count)
    assert check_history(history) == [], raw(history)


@pytest.mark.slow
@pytest.mark.parametrize("workload", OBJECTS)
def test_long_histories_of_a_correct_object_are_accepted(workload: str) -> None:
    for seed in range(6):
        history = simulate(random.Random(f"{workload} {seed}"), workload, clients=8, count=300, step_us=20)
        assert check_history(history) == []


@pytest.mark.slow
@pytest.mark.parametrize("workload", [workload for workload in OBJECTS if workload != "transaction"])
def test_verdicts_are_those_of_trying_all_orders(workload: str) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(HISTORIES):
        history = small_history(f"{workload} {seed}", workload, 6)
        violations = check_history(history)
        kinds.update(violation.kind for violation in violations)
        assert is_explained(history) == (not violations), f"seed {seed}\n{raw(history)}"
    assert all(kinds[kind] >= least for kind, least in LEAST[workload].items()), kinds


@pytest.mark.slow
def test_verdicts_on_transactions_are_those_of_trying_all_orders() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(HISTORIES):
        history = small_history(f"transaction {seed}", "transaction", 5)
        violations = check_history(history)
        kinds.update(violation.kind for violation in violations)
        if is_explained(history):
            assert not violations, f"seed {seed}\n{raw(history)}"
        else:
            assert violations or has_gap(history), f"seed {seed}\n{raw(history)}"
    assert all(kinds[kind] >= least for kind, least in LEAST["transaction"].items()), kinds


def has_gap(history: list[Op]) -> bool:
    """Whether a length tells of pushes that nobody saw; which ones is a question that is left out."""
    seen: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for op in history:
        if op.result is Result.OK:
            assert isinstance(op.argument, tuple) and isinstance(op.reply, tuple)
            for (command, key, _), reply in zip(op.argument, op.reply, strict=True):
                if command == "RPUSH":
                    told[key] = max(told[key], reply)
                else:
                    seen[key] = max(seen[key], len(reply))
    return any(told[key] > seen[key] for key in told)


@pytest.mark.slow
def test_the_search_agrees_with_all_permutations() -> None:
    for seed in range(800):
        history = small_history(f"permutations {seed}", "small", 5)
        expected = is_explained_by_permutation(history)
        assert is_explained(history) == expected, f"seed {seed}\n{raw(history)}"
        assert (not check_history(history)) == expected, f"seed {seed}\n{raw(history)}"


@pytest.mark.slow
def test_zones_agree_with_the_search() -> None:
    """A register is a small object too, so two checkers can judge one history."""
    for seed in range(HISTORIES):
        history = small_history(f"both {seed}", "register", 12)
        verdict = not check_history(history)
        for op in history:
            op.workload = "small"
        assert (not check_history(history)) == verdict, f"seed {seed}\n{raw(history)}"
