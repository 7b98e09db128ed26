"""Chains: `SET k v GET` → the old value, and `GET k`."""

import pytest

from cluster.sim.history import ABORTED_READ, LOST_WRITE, NOT_LINEARIZABLE, ORDER, STALE_READ
from tests.sim.checkers.support import Found, found

GOOD = {
    "link by link": """
        0-1 SETGET a
        2-3 SETGET b = a
        4-5 GET = b
        6-7 SETGET c = b
        8-9 GET = c final""",
    "at the same time, in any order": """
        0-9 SETGET a = b
        0-9 SETGET b
        10-11 GET = a final""",
    "one in doubt that somebody replaced": """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 SETGET c = b
        6-7 GET = c final""",
    "one in doubt that nobody replaced": """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 SETGET c = a
        6-7 GET = c final""",
    "one in doubt that came last": """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 SETGET c = a
        6-7 GET = b final""",
    "one in doubt that replaced another": """
        0-1 SETGET a ?
        2-3 SETGET b ?
        4-5 SETGET c = b
        6-7 SETGET d = c""",
    "a failed one is nowhere": """
        0-1 SETGET a !
        2-3 SETGET b
        4-5 GET = b final""",
    "a read that begins when a write ends is concurrent with it": """
        0-10 SETGET a
        10-11 GET final""",
    "and so it is with a write behind one in doubt": """
        0-1 SETGET a ?
        2-10 SETGET b = a
        10-11 GET final""",
    "a read that ends when the write begins is concurrent with it": """
        5-6 SETGET a
        0-5 GET = a""",
    "two runs that touch may stand in either order": """
        0-1 SETGET c ?
        0-1 SETGET x ?
        4-5 SETGET d = c
        5-6 SETGET y = x
        8-9 GET = d final""",
    "what an operation in doubt returned says nothing": """
        0-1 SETGET a = z ?
        0-1 GET = z ?
        0-1 GET = z !""",
    "runs between writes in doubt": """
        0-1 SETGET a ?
        0-1 SETGET b ?
        4-5 SETGET c = b
        6-7 SETGET d = a
        8-9 GET = d final""",
}
BAD: dict[str, tuple[str, Found]] = {
    "one value, replaced twice": (
        """
        0-9 SETGET a
        0-9 SETGET b""",
        [(NOT_LINEARIZABLE, (0, 1))],
    ),
    "replaced twice, and the end shows which was lost": (
        """
        0-1 SETGET a
        2-3 SETGET b = a
        4-5 SETGET c = a
        6-7 GET = c final""",
        [(LOST_WRITE, (1, 3))],
    ),
    "a failover forgets the tail, and the chain goes on before it": (
        """
        0-1 SETGET a
        2-3 SETGET b = a
        4-5 SETGET c = b
        6-7 SETGET d = a
        8-9 SETGET e = d
        10-11 GET = e final""",
        [(LOST_WRITE, (1, 5)), (LOST_WRITE, (2, 5))],
    ),
    "the tail is lost": (
        """
        0-1 SETGET a
        2-3 SETGET b = a
        4-5 SETGET c = b
        6-7 GET = a final
        8-9 GET = a final""",
        [(LOST_WRITE, (1, 3)), (LOST_WRITE, (2, 3))],
    ),
    "everything is lost": (
        """
        0-1 SETGET a
        2-3 GET final""",
        [(LOST_WRITE, (0, 1))],
    ),
    "a run behind a write in doubt is lost": (
        """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 SETGET c = b
        6-7 GET = a final""",
        [(LOST_WRITE, (2, 3))],
    ),
    "lost with what it followed, which somebody had read": (
        """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 GET = b
        6-7 SETGET c = b
        8-9 GET = a final""",
        [(LOST_WRITE, (3, 4))],
    ),
    "a final read is stale once": (
        """
        0-1 SETGET a ?
        0-1 SETGET b ?
        2-3 GET = a
        4-5 GET = b
        6-7 GET final""",
        [(STALE_READ, (2, 4))],
    ),
    "stale, and what it lacks was not acknowledged yet": (
        """
        0-1 SETGET a ?
        2-10 SETGET b = a
        3-4 GET = a
        10-11 GET final""",
        [(STALE_READ, (2, 3))],
    ),
    "stale, proved by what comes long after it": (
        """
        0-1 SETGET a
        2-50 SETGET b = a
        4-5 SETGET c = b
        10-11 GET = a""",
        [(STALE_READ, (2, 3))],
    ),
    "a stale read says nothing about other runs": (
        """
        0-1 SETGET a
        2-3 SETGET b = a
        5-6 SETGET c ?
        10-11 GET = c
        20-21 GET = a""",
        [(STALE_READ, (1, 4))],
    ),
    "a run that came and went while another stood": (
        """
        0-1 SETGET a
        5-6 SETGET c ?
        10-11 GET = c
        20-21 GET = a""",
        [(ORDER, (3, 2))],
    ),
    "of two branches the one that ended first stays": (
        """
        0-9 SETGET a
        0-5 SETGET b""",
        [(NOT_LINEARIZABLE, (1, 0))],
    ),
    "branches are not compared with each other": (
        """
        0-8 SETGET a
        0-9 SETGET b
        20-21 SETGET c = a
        10-11 SETGET d = b""",
        [(NOT_LINEARIZABLE, (0, 1))],
    ),
    "against real time, and not by the neighbour": (
        """
        4-9 SETGET a
        0-20 SETGET b = a
        2-3 SETGET c = b""",
        [(ORDER, (2, 0))],
    ),
    "what is out of order proves nothing": (
        """
        0-1 SETGET a = b
        0-1 GET = a
        2-3 SETGET b
        4-5 GET = b""",
        [(ORDER, (0, 2))],
    ),
    "what is out of order says nothing about other runs": (
        """
        0-1 SETGET x ?
        2-3 SETGET z = y
        5-6 SETGET a
        10-11 SETGET y = x""",
        [(ORDER, (1, 3))],
    ),
    "a read of a replaced value counts, if it is not stale": (
        """
        0-1 SETGET a
        5-6 SETGET c ?
        8-40 SETGET b = a
        10-11 GET = c
        20-21 GET = a""",
        [(ORDER, (4, 3))],
    ),
    "nothing is read after something was, though the end is right": (
        """
        0-1 SETGET x ?
        2-3 GET = x
        4-5 GET
        6-7 GET = x final""",
        [(ORDER, (2, 1, 3))],
    ),
    "forgotten, though somebody had read it": (
        """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 GET = b
        6-7 GET = a final""",
        [(STALE_READ, (2, 3))],
    ),
    "forgotten by a read that is not the last": (
        """
        0-1 SETGET a
        2-3 SETGET b = a
        4-5 GET = a
        6-7 GET = b final""",
        [(STALE_READ, (1, 2))],
    ),
    "against real time": (
        """
        0-1 SETGET a = b
        2-3 SETGET b
        4-5 GET = a final""",
        [(ORDER, (0, 1))],
    ),
    "a run against real time": (
        """
        0-1 SETGET a
        2-3 SETGET b ?
        4-5 SETGET c = b
        6-7 SETGET d = a""",
        [(ORDER, (3, 2))],
    ),
    "a read of what comes behind something that had not begun": (
        """
        0-50 SETGET b = a
        2-3 GET = b
        4-5 SETGET a""",
        [(ORDER, (1, 2))],
    ),
    "a circle": (
        """
        0-9 SETGET a = b
        0-9 SETGET b = a
        0-9 SETGET c = b""",
        [(NOT_LINEARIZABLE, (0, 1))],
    ),
    "itself": ("0-1 SETGET a = a", [(ABORTED_READ, (0,))]),
    "a failed value is replaced": (
        """
        0-1 SETGET a !
        2-3 SETGET b = a""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a failed value is read": (
        """
        0-1 SETGET a !
        2-3 GET = a final""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a value of nobody": (
        """
        0-1 SETGET a = z
        2-3 GET = y""",
        [(ABORTED_READ, (0,)), (ABORTED_READ, (1,))],
    ),
    "a value before it was written": (
        """
        0-1 GET = a
        2-3 SETGET a""",
        [(ABORTED_READ, (0, 1))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_chain_may_show(text: str) -> None:
    assert found("chain", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_chain_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("chain", text)) == sorted(expected)
