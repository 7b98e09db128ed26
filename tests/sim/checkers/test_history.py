"""Whole histories: many workloads and keys, and what should not be in one."""

from dataclasses import replace

import pytest

from cluster.sim.checkers import check_history
from cluster.sim.checkers.findings import KIND_MAX
from cluster.sim.history import NOT_LINEARIZABLE, STALE_READ, Op, Result
from tests.sim.checkers.support import OBJECTS, findings, found, story

STALE = """
    0-1 SET a
    2-3 SET b
    4-5 GET = a"""


def test_an_empty_history_is_fine() -> None:
    assert check_history([]) == []


def test_keys_and_workloads_are_judged_apart() -> None:
    register = story("register", STALE)
    other = story("register", STALE)
    small = story("small", STALE)
    for op in other:
        op.number, op.key = op.number + 3, "j"
    for op in small:
        op.number += 6
    assert findings([*register, *small, *other]) == [
        (STALE_READ, (4, 5)),
        (STALE_READ, (1, 2)),
        (NOT_LINEARIZABLE, (8,)),
    ]


def test_the_values_of_one_key_mean_nothing_on_another() -> None:
    ops = story("register", "0-1 SET a\n2-3 GET = a")
    ops[1].key = "j"
    assert [violation.kind for violation in check_history(ops)] == ["aborted_read"]


def test_effects_are_not_judged() -> None:
    assert check_history([Op(0, 0, "effects", "SPOP", "k", ("x",), 0, 1, Result.OK, object())]) == []


def test_an_unknown_workload_is_red() -> None:
    assert findings([Op(0, 0, "queue", "POP", "k", None, 0, 1, Result.OK)]) == [(NOT_LINEARIZABLE, (0,))]


def test_an_end_before_the_begin_is_red() -> None:
    (violation,) = check_history([Op(0, 0, "register", "SET", "k", "a", 5, 4, Result.OK)])
    assert violation.text == "#0 ended at 4 µs, before it began at 5 µs"


def test_a_number_given_twice_is_red() -> None:
    ops = [replace(op, number=0) for op in story("register", "0-1 SET a\n2-3 SET b")]
    assert findings(ops) == [(NOT_LINEARIZABLE, (0,))]


@pytest.mark.parametrize("workload", ["register", "list", "chain", "set"])
def test_a_value_written_twice_is_red(workload: str) -> None:
    command = {"register": "SET", "list": "RPUSH", "chain": "SETGET", "set": "SADD"}[workload]
    assert (NOT_LINEARIZABLE, (0, 1)) in found(workload, f"0-1 {command} a ?\n2-3 {command} a ?")


@pytest.mark.parametrize("workload", OBJECTS)
def test_an_unknown_command_is_red(workload: str) -> None:
    assert found(workload, "0-1 FLUSHALL ?") == [(NOT_LINEARIZABLE, (0,))]
    assert found(workload, "0-1 FLUSHALL !") == [(NOT_LINEARIZABLE, (0,))]
    assert found(workload, "0-1 FLUSHALL = 1") == [(NOT_LINEARIZABLE, (0,))]


@pytest.mark.parametrize(
    ("workload", "line"),
    [
        ("register", "0-1 SET"),
        ("list", "0-1 RPUSH"),
        ("chain", "0-1 SETGET"),
        ("set", "0-1 SADD = 1"),
        ("small", "0-1 SET"),
        ("small", "0-1 SETNX = 1"),
    ],
)
def test_a_write_of_nothing_is_red(workload: str, line: str) -> None:
    assert (NOT_LINEARIZABLE, (0,)) in found(workload, line)


ODD = [None, 1, 0, -1, True, 1.5, "a", b"a", [], ["a"], [1], [None], [["a"]], (), ({},), {}, {"a"}, object()]
POSSIBLE: dict[str, list[object]] = {
    "SET": [None],
    "GET": [None, "a"],
    "RPUSH": [1],
    "LRANGE": [[], (), ["a"]],
    "INCR": [1],
    "SADD": [1],
    "SMEMBERS": [[], (), ["a"], {"a"}],
    "SETGET": [None],
    "SETNX": [1, 0],
    "DEL": [1, 0],
}


@pytest.mark.parametrize("reply", ODD, ids=repr)
@pytest.mark.parametrize(
    ("workload", "command"),
    [
        ("register", "SET"),
        ("register", "GET"),
        ("list", "RPUSH"),
        ("list", "LRANGE"),
        ("counter", "INCR"),
        ("counter", "GET"),
        ("set", "SADD"),
        ("set", "SMEMBERS"),
        ("chain", "SETGET"),
        ("chain", "GET"),
        ("small", "SET"),
        ("small", "GET"),
        ("small", "SETNX"),
        ("small", "DEL"),
    ],
)
def test_an_impossible_reply_is_red_and_no_crash(workload: str, command: str, reply: object) -> None:
    write = {"register": "SET", "list": "RPUSH", "chain": "SETGET", "set": "SADD", "small": "SET"}.get(
        workload
    )
    before = (
        [Op(0, 0, workload, write, "k", "a", 0, 1)]
        if write
        else [Op(0, 0, workload, "INCR", "k", None, 0, 1)]
    )
    argument = "b" if command in ("SET", "RPUSH", "SADD", "SETGET", "SETNX") else None
    history = [*before, Op(1, 1, workload, command, "k", argument, 0, 1, Result.OK, reply)]
    possible = [0, 1] if workload == "counter" and command == "GET" else POSSIBLE[command]
    possible = (
        [*possible, "a"]
        if command == "SETGET"
        else [*possible, 2]
        if command in ("INCR", "RPUSH")
        else possible
    )
    fits = any(type(reply) is type(one) and reply == one for one in possible)
    violations = check_history(history)
    assert bool(violations) != fits
    assert all(1 in violation.ops and "\n" not in violation.text for violation in violations)


@pytest.mark.parametrize(
    ("argument", "reply"),
    [
        (None, None),
        ((), ()),
        ("RPUSH", ("x",)),
        ((("RPUSH", "x"),), (1,)),
        ((("DEL", "x", None),), (1,)),
        ((("RPUSH", 1, "a"),), (1,)),
        ((("RPUSH", "x", None),), (1,)),
        ((("RPUSH", "x", ["a"]),), (1,)),
        ((("RPUSH", "x", "a"),), (1, 2)),
        ((("RPUSH", "x", "a"),), None),
        ((("RPUSH", "x", "a"),), ("OK",)),
        ((("RPUSH", "x", "a"),), (True,)),
        ((("LRANGE", "x", None),), (None,)),
        ((("LRANGE", "x", None),), ([{}],)),
    ],
    ids=repr,
)
def test_an_odd_transaction_is_red_and_no_crash(argument: object, reply: object) -> None:
    history = [
        Op(0, 0, "transaction", "TXN", "x", argument, 0, 1, Result.OK, reply),
        Op(1, 1, "transaction", "TXN", "x", (("RPUSH", "x", "z"),), 0, 1),
    ]
    violations = check_history(history)
    assert violations
    assert all(violation.ops == (0,) for violation in violations)


def test_a_command_that_is_no_transaction_is_red() -> None:
    history = [Op(0, 0, "transaction", "EXEC", "x", (("RPUSH", "x", "a"),), 0, 1, Result.OK, (1,))]
    assert findings(history) == [(NOT_LINEARIZABLE, (0,))]


def test_findings_are_bounded_for_each_kind() -> None:
    lines = ["0-1 SET a", "2-3 SET b"]
    lines += [f"{number}-{number} GET = a" for number in range(4, 4 + 2 * KIND_MAX)]
    lines += [f"{number}-{number} GET = z" for number in range(4, 9)]
    kinds = [kind for kind, _ in found("register", "\n".join(lines))]
    assert (kinds.count("stale_read"), kinds.count("aborted_read")) == (KIND_MAX, 5)


def test_findings_about_transactions_are_bounded_too() -> None:
    lines = ["0-1 TXN RPUSH x a = 1"]
    lines += ["2-3 TXN LRANGE x; LRANGE x = [a]; []"] * (KIND_MAX + 5)
    kinds = [kind for kind, _ in found("transaction", "\n".join(lines))]
    assert (kinds.count("stale_read"), kinds.count("order")) == (KIND_MAX, KIND_MAX)
