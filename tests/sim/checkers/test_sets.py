"""Sets: `SADD k v` and `SMEMBERS k`."""

import pytest

from cluster.sim.history import ABORTED_READ, DOUBLE_APPLY, LOST_WRITE, NOT_LINEARIZABLE, ORDER, STALE_READ
from tests.sim.checkers.support import Found, found

GOOD = {
    "empty at first": "0-1 SMEMBERS = []",
    "it grows, in any order of members": """
        0-1 SADD a = 1
        2-3 SADD b = 1
        4-5 SMEMBERS = [b a] final""",
    "a read during an SADD shows either": """
        0-9 SADD a = 1
        1-2 SMEMBERS = []
        3-4 SMEMBERS = [a]""",
    "one in doubt that happened": """
        0-1 SADD a ?
        2-3 SMEMBERS = [a] final""",
    "one in doubt that did not": """
        0-1 SADD a ?
        2-3 SMEMBERS = [] final""",
    "one in doubt that happened late": """
        0-1 SADD a ?
        2-3 SMEMBERS = []
        4-5 SMEMBERS = [a]""",
    "reads at the same time, one older": """
        0-9 SADD a = 1
        0-9 SADD b = 1
        1-8 SMEMBERS = [a b]
        1-8 SMEMBERS = [b]""",
    "a read that must be later than it began says nothing about others that began later": """
        0-20 SMEMBERS = [a c]
        1-9 SMEMBERS = []
        4-5 SADD a = 1
        10-11 SADD c = 1""",
    "a read that ends when another begins is concurrent with it": """
        0-1 SADD a ?
        2-5 SMEMBERS = [a]
        5-6 SMEMBERS = []""",
    "what an operation in doubt returned says nothing": """
        0-1 SADD a = 7 ?
        0-1 SMEMBERS = [z] ?
        0-1 SMEMBERS = [z] !""",
    "a failed one is nowhere": """
        0-1 SADD a !
        2-3 SMEMBERS = [] final""",
}
BAD: dict[str, tuple[str, Found]] = {
    "every lost member is told, once": (
        """
        0-1 SADD a = 1
        2-3 SADD b = 1
        4-5 SADD c = 1
        6-7 SMEMBERS = [b] final
        8-9 SMEMBERS = [b] final""",
        [(LOST_WRITE, (0, 3)), (LOST_WRITE, (2, 3))],
    ),
    "a stale read": (
        """
        0-1 SADD a = 1
        2-3 SADD b = 1
        4-5 SMEMBERS = [a]""",
        [(STALE_READ, (1, 2))],
    ),
    "each stale read is told, once": (
        """
        0-1 SADD a = 1
        2-3 SADD b = 1
        4-5 SMEMBERS = []
        6-7 SMEMBERS = [a]
        8-9 SMEMBERS = [a b] final""",
        [(STALE_READ, (0, 2)), (STALE_READ, (1, 3))],
    ),
    "stale reads are not compared with each other": (
        """
        0-1 SADD a = 1
        2-3 SADD b = 1
        4-5 SADD c = 1
        6-9 SMEMBERS = [a b]
        6-9 SMEMBERS = [a c]""",
        [(STALE_READ, (2, 3)), (STALE_READ, (1, 4))],
    ),
    "stale, while another SADD goes on since before": (
        """
        0-50 SADD a = 1
        2-3 SADD b = 1
        10-11 SMEMBERS = []""",
        [(STALE_READ, (1, 2))],
    ),
    "staler than a read, while another read goes on since before": (
        """
        0-1 SADD a ?
        0-50 SMEMBERS = []
        2-3 SMEMBERS = [a]
        10-11 SMEMBERS = []""",
        [(STALE_READ, (2, 3))],
    ),
    "a read that saw it is not the first": (
        """
        0-1 SADD a ?
        2-3 SMEMBERS = []
        4-5 SMEMBERS = [a]
        6-7 SMEMBERS = []""",
        [(STALE_READ, (2, 3))],
    ),
    "a member in doubt was seen before": (
        """
        0-1 SADD a ?
        2-3 SMEMBERS = [a]
        4-5 SMEMBERS = []
        6-7 SMEMBERS = [] final""",
        [(STALE_READ, (1, 2)), (STALE_READ, (1, 3))],
    ),
    "a read cannot be older than what it shows": (
        """
        0-9 SMEMBERS = [b]
        1-2 SADD a = 1
        3-4 SADD b = 1""",
        [(ORDER, (1, 2, 0))],
    ),
    "reads at the same time, neither the older": (
        """
        0-9 SADD a ?
        0-9 SADD b ?
        1-8 SMEMBERS = [a]
        1-8 SMEMBERS = [b]""",
        [(NOT_LINEARIZABLE, (2, 3))],
    ),
    "a failed member shows": (
        """
        0-1 SADD a !
        2-3 SMEMBERS = [a]
        4-5 SMEMBERS = [a]""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a member of nobody": ("0-1 SMEMBERS = [z]", [(ABORTED_READ, (0,))]),
    "a member before it was added": (
        """
        0-1 SMEMBERS = [a]
        2-3 SADD a = 1""",
        [(ABORTED_READ, (0, 1))],
    ),
    "it was there already: applied twice": ("0-1 SADD a = 0", [(DOUBLE_APPLY, (0,))]),
    "a member twice": (
        """
        0-1 SADD a = 1
        2-3 SMEMBERS = [a a]""",
        [(DOUBLE_APPLY, (0, 1))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_set_may_show(text: str) -> None:
    assert found("set", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_set_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("set", text)) == sorted(expected)
