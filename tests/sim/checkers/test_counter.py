"""Counters: `INCR k` → value and `GET k`."""

import pytest

from cluster.sim.checkers import check_history
from cluster.sim.history import ABORTED_READ, DOUBLE_APPLY, LOST_WRITE, ORDER, STALE_READ
from tests.sim.checkers.support import Found, found, story

GOOD = {
    "zero at first": "0-1 GET = 0",
    "it counts": """
        0-1 INCR = 1
        2-3 GET = 1
        4-5 INCR = 2
        6-7 GET = 2 final""",
    "increments at the same time get their numbers in any order": """
        0-9 INCR = 2
        0-9 INCR = 1
        10-11 GET = 2 final""",
    "one in doubt that happened": """
        0-1 INCR ?
        2-3 INCR = 2
        4-5 GET = 2 final""",
    "one in doubt that did not": """
        0-1 INCR ?
        2-3 INCR = 1
        4-5 GET = 1 final""",
    "one in doubt that happened late": """
        0-1 INCR ?
        2-3 INCR = 1
        4-5 GET = 1
        6-7 GET = 2 final""",
    "what an operation in doubt returned says nothing": """
        0-1 INCR = 7 ?
        0-1 GET = 7 ?
        0-1 GET = 7 !""",
    "one in doubt that began when a read ended is concurrent with it": """
        0-5 GET = 1
        5-6 INCR ?""",
    "a failed one did not": """
        0-1 INCR !
        2-3 GET = 0 final""",
    "a read during an increment shows either": """
        0-9 INCR = 1
        1-2 GET = 0
        3-4 GET = 1""",
}
BAD: dict[str, tuple[str, Found]] = {
    "one number for two": (
        """
        0-9 INCR = 1
        0-9 INCR = 1
        10-11 GET = 1 final""",
        [(DOUBLE_APPLY, (0, 1))],
    ),
    "one number for three": (
        """
        0-9 INCR = 1
        0-9 INCR = 1
        0-9 INCR = 1""",
        [(DOUBLE_APPLY, (0, 1)), (DOUBLE_APPLY, (0, 2))],
    ),
    "a later one got a lower number": (
        """
        0-1 INCR = 2
        2-3 INCR = 1""",
        [(ORDER, (0, 1))],
    ),
    "a number that had been read already": (
        """
        0-1 INCR ?
        2-3 GET = 1
        4-5 INCR = 1
        6-7 GET = 1 final""",
        [(ORDER, (1, 2))],
    ),
    "a stale read": (
        """
        0-1 INCR = 1
        2-3 GET = 0""",
        [(STALE_READ, (0, 1))],
    ),
    "a read staler than a read": (
        """
        0-1 INCR ?
        2-3 GET = 1
        4-5 GET = 0
        6-7 GET = 0 final""",
        [(STALE_READ, (1, 2)), (STALE_READ, (1, 3))],
    ),
    "every lost increment is told, once": (
        """
        0-1 INCR = 1
        2-3 INCR = 2
        4-5 INCR = 3
        6-7 GET = 1 final
        8-9 GET = 1 final""",
        [(LOST_WRITE, (1, 3)), (LOST_WRITE, (2, 3))],
    ),
    "a failover forgets, and numbers are given out again": (
        """
        0-1 INCR = 1
        2-3 INCR = 2
        4-5 INCR = 3
        6-7 INCR = 2
        8-9 GET = 2 final""",
        [(LOST_WRITE, (2, 4)), (DOUBLE_APPLY, (1, 3))],
    ),
    "applied twice": (
        """
        0-1 INCR = 1
        2-3 GET = 2 final""",
        [(DOUBLE_APPLY, (1,))],
    ),
    "more than could be in doubt": (
        """
        0-1 INCR ?
        2-3 INCR ?
        4-5 GET = 3 final""",
        [(DOUBLE_APPLY, (2,))],
    ),
    "a failed increment shows": (
        """
        0-1 INCR !
        2-3 GET = 1""",
        [(ABORTED_READ, (1,))],
    ),
    "one in doubt began too late to explain a number": (
        """
        0-1 GET = 1
        2-3 INCR ?""",
        [(ABORTED_READ, (0,))],
    ),
    "one in doubt explains the lowest number only, if it began in time": (
        """
        0-1 INCR ?
        2-3 GET = 2
        4-5 INCR ?
        6-7 GET = 3 final""",
        [(DOUBLE_APPLY, (1,))],
    ),
    "one in doubt began after a higher number had been given": (
        """
        0-100 GET = 1
        0-1 INCR = 2
        5-6 INCR ?""",
        [(DOUBLE_APPLY, (1,))],
    ),
    "the first that cannot be accounted for is told": (
        """
        0-1 INCR = 2
        2-3 INCR = 4""",
        [(DOUBLE_APPLY, (0,))],
    ),
    "a number far too high": (
        """
        0-1 INCR = 1000000000000000000
        2-3 INCR ?""",
        [(DOUBLE_APPLY, (0,))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_counter_may_show(text: str) -> None:
    assert found("counter", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_counter_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("counter", text)) == sorted(expected)


def test_what_cannot_be_accounted_for_is_told_with_figures() -> None:
    (violation,) = check_history(story("counter", "0-1 INCR = 2\n2-3 INCR = 5\n4-5 INCR ?"))
    assert violation.text == (
        "#0 returned 2; with 2 acknowledged and 1 in doubt, 3 increments cannot be accounted for"
    )
