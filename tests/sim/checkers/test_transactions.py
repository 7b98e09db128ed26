"""Transactions of RPUSH and LRANGE on several keys."""

import pytest

from cluster.sim.checkers import check_history
from cluster.sim.history import ABORTED_READ, CYCLE, DOUBLE_APPLY, LOST_WRITE, ORDER, STALE_READ
from tests.sim.checkers.support import Found, found, story

GOOD = {
    "one after the other": """
        0-1 TXN RPUSH x a; RPUSH y b = 1; 1
        2-3 TXN LRANGE x; LRANGE y = [a]; [b]
        4-5 TXN LRANGE y; RPUSH x c; LRANGE x = [b]; 2; [a c]
        6-7 TXN LRANGE x; LRANGE y = [a c]; [b] final""",
    "a transaction sees its own pushes": """
        0-1 TXN RPUSH x a; LRANGE x; RPUSH x b; LRANGE x = 1; [a]; 2; [a b]""",
    "at the same time, either order, the same on both keys": """
        0-9 TXN RPUSH x a; RPUSH y b = 2; 2
        0-9 TXN RPUSH x c; RPUSH y d = 1; 1
        10-11 TXN LRANGE x; LRANGE y = [c a]; [d b] final""",
    "one in doubt that happened": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x; LRANGE y = [a]; [b] final""",
    "one in doubt that did not": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x; LRANGE y = []; [] final""",
    "one in doubt that happened between two final reads": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x = [] final
        4-5 TXN LRANGE y = [b] final""",
    "a final read that begins when a read ends is concurrent with it": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x = [a]
        3-4 TXN LRANGE y = [] final""",
    "one in doubt, seen on one key, the other not read since": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE y = []
        4-5 TXN LRANGE x = [a] final""",
    "a failed one is nowhere": """
        0-1 TXN RPUSH x a; RPUSH y b !
        2-3 TXN LRANGE x; LRANGE y = []; [] final""",
    "a read that overlaps a writer, on both keys before it": """
        0-9 TXN RPUSH x a; RPUSH y b = 1; 1
        1-2 TXN LRANGE x; LRANGE y = []; []
        3-4 TXN LRANGE x; LRANGE y = [a]; [b]""",
    "two unread in doubt behind what is known": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        0-1 TXN RPUSH x c; RPUSH y d ?
        2-3 TXN LRANGE x = [a]
        4-5 TXN LRANGE x = [a c]""",
    "one in doubt may stand at a position that nobody else has": """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x = [a]
        10-11 TXN RPUSH y c = 2""",
    "what a transaction in doubt returned says nothing": """
        0-1 TXN RPUSH x a; LRANGE x = 7; [z] ?
        0-1 TXN LRANGE x = [z] !""",
    "real time alone closes no circle": """
        1-9 TXN RPUSH x a; LRANGE z = 1; []
        1-9 TXN RPUSH y b; LRANGE x = 1; [a]
        2-3 TXN RPUSH z c = 1
        4-5 TXN LRANGE y = []""",
    "one in doubt pushed once and the end of the list is its own": """
        0-1 TXN RPUSH x a ?
        2-3 TXN LRANGE x; RPUSH x b = [a]; 2
        4-5 TXN LRANGE x = [a b] final""",
}
BAD: dict[str, tuple[str, Found]] = {
    "write skew: each misses the other": (
        """
        0-9 TXN LRANGE x; RPUSH y b = []; 1
        0-9 TXN LRANGE y; RPUSH x a = []; 1
        10-11 TXN LRANGE x; LRANGE y = [a]; [b] final""",
        [(CYCLE, (0, 1))],
    ),
    "write skew, known from the acknowledged lengths alone": (
        """
        0-9 TXN LRANGE x; RPUSH y b = []; 1
        0-9 TXN LRANGE y; RPUSH x a = []; 1""",
        [(CYCLE, (0, 1))],
    ),
    "each sees the other": (
        """
        0-9 TXN RPUSH x a; LRANGE y = 1; [b]
        0-9 TXN RPUSH y b; LRANGE x = 1; [a]""",
        [(CYCLE, (0, 1))],
    ),
    "pushes in opposite order on two keys": (
        """
        0-9 TXN RPUSH x a; RPUSH y b = 1; 2
        0-9 TXN RPUSH x c; RPUSH y d = 2; 1
        10-11 TXN LRANGE x; LRANGE y = [a c]; [d b] final""",
        [(CYCLE, (0, 1))],
    ),
    "half of a transaction is seen": (
        """
        0-9 TXN RPUSH x a; RPUSH y b = 1; 1
        0-9 TXN LRANGE x; LRANGE y = [a]; []""",
        [(CYCLE, (0, 1))],
    ),
    "half of one in doubt is seen, the whole later": (
        """
        0-9 TXN RPUSH x a; RPUSH y b ?
        10-11 TXN LRANGE x; LRANGE y = [a]; []
        20-21 TXN LRANGE x; LRANGE y = [a]; [b] final""",
        [(CYCLE, (0, 1))],
    ),
    "half of one in doubt is seen by two reads in a row": (
        """
        0-9 TXN RPUSH x a; RPUSH y b ?
        10-11 TXN LRANGE x = [a]
        20-21 TXN LRANGE y = []""",
        [(CYCLE, (0, 1, 2))],
    ),
    "half of one in doubt is seen, and the position of the other half is another's": (
        """
        0-1 TXN RPUSH x a; RPUSH y b ?
        0-1 TXN RPUSH y d = 1
        2-3 TXN LRANGE x = [a]
        10-11 TXN RPUSH y c = 2""",
        [(CYCLE, (0, 2, 3))],
    ),
    "half of one in doubt on one key is seen": (
        """
        0-1 TXN RPUSH x a; RPUSH x b ?
        2-3 TXN LRANGE x = [a]""",
        [(CYCLE, (0, 1))],
    ),
    "write skew, and one has read its own write": (
        """
        0-9 TXN LRANGE x; RPUSH y b; LRANGE y = []; 1; [b]
        0-9 TXN LRANGE y; RPUSH x a = []; 1""",
        [(CYCLE, (0, 1))],
    ),
    "reads that disagree make no circles": (
        """
        0-9 TXN RPUSH x a ?
        1-2 TXN LRANGE x = [a]
        3-4 TXN LRANGE x = [a]
        10-11 TXN RPUSH x b = 1
        10-11 TXN RPUSH x c = 2
        12-13 TXN LRANGE x = [b c]""",
        [(ORDER, (1, 5))],
    ),
    "two readers see two writers in opposite orders": (
        """
        0-99 TXN RPUSH x a = 1
        0-99 TXN RPUSH y b = 1
        0-99 TXN LRANGE x; LRANGE y = [a]; []
        0-99 TXN LRANGE x; LRANGE y = []; [b]""",
        [(CYCLE, (0, 2, 1, 3))],
    ),
    "a read that shows the effect and not its cause": (
        """
        0-1 TXN RPUSH x a = 1
        2-3 TXN LRANGE x; RPUSH y b = [a]; 1
        0-9 TXN LRANGE y; LRANGE x = [b]; []""",
        [(CYCLE, (0, 1, 2))],
    ),
    "real time closes the circle": (
        """
        0-9 TXN LRANGE x; RPUSH y b = []; 1
        1-2 TXN RPUSH x a = 1
        3-4 TXN RPUSH z c = 1
        5-6 TXN LRANGE y = []
        7-9 TXN LRANGE z; LRANGE y; LRANGE x = [c]; [b]; [a]""",
        [(CYCLE, (0, 1, 3))],
    ),
    "the cause had ended before the effect began": (
        """
        0-20 TXN LRANGE y; LRANGE x = [b]; []
        1-2 TXN RPUSH x a = 1
        3-4 TXN RPUSH y b = 1""",
        [(CYCLE, (0, 1, 2))],
    ),
    "the shortest circle is told": (
        """
        0-99 TXN RPUSH x a; LRANGE y = 1; []
        0-99 TXN RPUSH y b; LRANGE z = 1; []
        0-99 TXN RPUSH z c; LRANGE x; LRANGE w = 1; []; []
        0-99 TXN RPUSH w d; LRANGE z = 1; []""",
        [(CYCLE, (2, 3))],
    ),
    "two circles": (
        """
        0-9 TXN LRANGE x; RPUSH y b = []; 1
        0-9 TXN LRANGE y; RPUSH x a = []; 1
        20-29 TXN LRANGE v; RPUSH w c = []; 1
        20-29 TXN LRANGE w; RPUSH v d = []; 1""",
        [(CYCLE, (0, 1)), (CYCLE, (2, 3))],
    ),
    "something came between two reads of one transaction": (
        """
        0-9 TXN LRANGE x; LRANGE x = []; [a]
        0-9 TXN RPUSH x a = 1""",
        [(CYCLE, (0, 1))],
    ),
    "something came between a read and a push of one transaction": (
        """
        0-9 TXN LRANGE x; RPUSH x b = []; 2
        0-9 TXN RPUSH x a = 1""",
        [(CYCLE, (0, 1))],
    ),
    "something came between that nobody knows": (
        """
        0-9 TXN LRANGE x; RPUSH x b = []; 2
        0-9 TXN RPUSH x a ?""",
        [(ORDER, (0,))],
    ),
    "its own push is not there": (
        """
        0-9 TXN RPUSH x a; LRANGE x = 1; []
        10-11 TXN LRANGE x = [a] final""",
        [(ORDER, (0,))],
    ),
    "a read shorter than one before it in the same transaction": (
        """
        0-1 TXN RPUSH x a = 1
        0-9 TXN LRANGE x; LRANGE x = [a]; []""",
        [(ORDER, (1,))],
    ),
    "one in doubt, its own pushes in the wrong order": (
        """
        0-1 TXN RPUSH x a; RPUSH x b ?
        2-3 TXN LRANGE x = [b a] final""",
        [(ORDER, (0,))],
    ),
    "cut: an acknowledged one lacks a push": (
        """
        0-1 TXN RPUSH x a; RPUSH y b = 1; 1
        2-3 TXN LRANGE x; LRANGE y = [a]; [] final""",
        [(LOST_WRITE, (0, 1))],
    ),
    "cut: one in doubt lacks a push": (
        """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x; LRANGE y = [a]; [] final""",
        [(ORDER, (0, 1))],
    ),
    "cut: told once, however many final reads lack it": (
        """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x; LRANGE y = [a]; [] final
        4-5 TXN LRANGE x; LRANGE y = [a]; [] final""",
        [(ORDER, (0, 1))],
    ),
    "cut: one in doubt lacks a push of the same key": (
        """
        0-1 TXN RPUSH x a; RPUSH x b ?
        2-3 TXN LRANGE x = [a] final""",
        [(ORDER, (0, 1))],
    ),
    "cut: seen before, and a later final read lacks a push": (
        """
        0-1 TXN RPUSH x a; RPUSH y b ?
        2-3 TXN LRANGE x = [a]
        4-5 TXN LRANGE y = [] final""",
        [(ORDER, (0, 2))],
    ),
    "the whole of it is lost": (
        """
        0-1 TXN RPUSH x a; RPUSH y b = 1; 1
        2-3 TXN LRANGE x; LRANGE y = []; [] final""",
        [(LOST_WRITE, (0, 1)), (LOST_WRITE, (0, 1))],
    ),
    "applied twice": (
        """
        0-1 TXN RPUSH x a; RPUSH y b = 1; 1
        2-3 TXN LRANGE x; LRANGE y = [a a]; [b] final""",
        [(DOUBLE_APPLY, (0, 1))],
    ),
    "a failed one shows": (
        """
        0-1 TXN RPUSH x a; RPUSH y b !
        2-3 TXN LRANGE x; LRANGE y = []; [b] final""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a stale read": (
        """
        0-1 TXN RPUSH x a; RPUSH y b = 1; 1
        2-3 TXN LRANGE x; LRANGE y = []; []""",
        [(STALE_READ, (0, 1)), (STALE_READ, (0, 1))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_transactions_may_show(text: str) -> None:
    assert found("transaction", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_transactions_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("transaction", text)) == sorted(expected)


def test_a_circle_is_told_with_what_each_step_means() -> None:
    text = """
        0-20 TXN LRANGE y; LRANGE x = [b]; []
        1-2 TXN RPUSH x a = 1
        3-4 TXN RPUSH y b = 1"""
    (violation,) = check_history(story("transaction", text))
    assert violation.text == "#0 -rw x-> #1 -time-> #2 -wr y-> #0"
    assert violation.key == "y"


def test_a_long_history_does_not_recurse() -> None:
    lines = (
        f"{10 * number}-{10 * number + 1} TXN RPUSH x a{number} = {number + 1}" for number in range(3000)
    )
    assert found("transaction", "\n".join(lines)) == []
