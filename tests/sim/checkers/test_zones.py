"""Registers: `SET k v` and `GET k`."""

import pytest

from cluster.sim.checkers import check_history
from cluster.sim.history import ABORTED_READ, LOST_WRITE, NOT_LINEARIZABLE, STALE_READ
from tests.sim.checkers.support import Found, found, story

GOOD = {
    "nothing is there at first": "0-1 GET",
    "a read during a write shows either value": """
        0-1 SET a
        10-20 SET b
        11-12 GET = a
        13-14 GET = b
        21-22 GET = b final""",
    "writes at the same time end in any order": """
        0-10 SET a
        0-10 SET b
        11-12 GET = a final""",
    "a write that ends when a read begins is concurrent with it": """
        0-10 SET a
        10-11 GET""",
    "a read that ends when the write begins is concurrent with it": """
        10-20 SET a
        5-10 GET = a""",
    "a write in doubt that never happened": """
        0-1 SET a
        2-3 SET b ?
        4-5 GET = a final""",
    "a write in doubt that happened": """
        0-1 SET a
        2-3 SET b ?
        4-5 GET = b final""",
    "a write in doubt that happened long after its client gave up": """
        0-1 SET a
        2-3 SET b ?
        4-5 SET c
        6-7 GET = c
        8-9 GET = b final""",
    "a read in doubt or a failed one says nothing": """
        0-1 SET a
        2-3 GET ?
        2-3 GET !""",
    "what an operation in doubt returned says nothing": """
        0-1 SET a = z ?
        0-1 GET = z ?
        0-1 GET = z !""",
    "a failed write is nowhere": """
        0-1 SET a !
        2-3 GET final""",
    "a value may come and go unread": """
        0-1 SET a
        2-3 SET b
        4-5 SET c
        6-7 GET = c final""",
    "two writes in doubt show one after the other": """
        0-1 SET a ?
        0-1 SET b ?
        2-3 GET = b
        4-5 GET = a
        6-7 GET = a final""",
}
BAD: dict[str, tuple[str, Found]] = {
    "a stale read": (
        """
        0-1 SET a
        2-3 SET b
        4-5 GET = a""",
        [(STALE_READ, (1, 2))],
    ),
    "an empty read after a write": (
        """
        0-1 SET a
        2-3 GET""",
        [(STALE_READ, (0, 1))],
    ),
    "each stale read is told": (
        """
        0-1 SET a
        2-3 SET b
        4-5 GET = a
        6-7 GET = b
        8-9 GET = a
        10-11 GET""",
        [(STALE_READ, (1, 2)), (STALE_READ, (1, 4)), (STALE_READ, (1, 5))],
    ),
    "stale although the newer write is in doubt: somebody has seen it": (
        """
        0-1 SET a
        2-3 SET b ?
        4-5 GET = b
        6-7 GET = a""",
        [(STALE_READ, (1, 2, 3))],
    ),
    "stale although the newer write goes on: somebody has seen it": (
        """
        0-1 SET a
        2-99 SET b
        4-5 GET = b
        6-7 GET = a""",
        [(STALE_READ, (1, 2, 3))],
    ),
    "a stale read of a value in doubt": (
        """
        0-1 SET a ?
        2-3 GET = a
        4-5 SET b
        6-7 GET = a""",
        [(STALE_READ, (2, 3))],
    ),
    "a lost write is told once, however many final reads lack it": (
        """
        0-1 SET a
        2-3 SET b
        4-5 GET = a final
        6-7 GET = a final""",
        [(LOST_WRITE, (1, 2))],
    ),
    "of a register only the newest can be lost": (
        """
        0-1 SET a
        2-3 SET b
        4-5 SET c
        6-7 GET final""",
        [(LOST_WRITE, (2, 3))],
    ),
    "the newest acknowledged, not the newest in doubt": (
        """
        0-1 SET a
        2-3 SET b
        4-5 SET c ?
        6-7 GET = c
        8-9 GET = a final""",
        [(LOST_WRITE, (1, 4))],
    ),
    "what only a write in doubt had written is not acknowledged": (
        """
        0-1 SET a
        2-3 SET b ?
        4-5 GET = b
        6-7 GET = a final""",
        [(STALE_READ, (1, 2, 3))],
    ),
    "a failed write shows": (
        """
        0-1 SET a !
        2-3 GET = a""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a value of nobody": ("0-1 GET = z", [(ABORTED_READ, (0,))]),
    "a value before it was written": (
        """
        0-1 GET = a
        2-3 SET a""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a value in doubt before it was written": (
        """
        0-1 GET = a
        2-3 SET a ?""",
        [(ABORTED_READ, (0, 1))],
    ),
    "two writes at once, each read after the other": (
        """
        0-9 SET a
        0-9 SET b
        10-11 GET = a
        12-13 GET = b
        14-15 GET = a""",
        [(NOT_LINEARIZABLE, (1, 3, 0, 4))],
    ),
    "two writes at once, read in turns: forward zones that overlap": (
        """
        0-9 SET a
        0-9 SET b
        10-11 GET = a
        10-11 GET = b
        14-15 GET = a
        14-15 GET = b""",
        [(NOT_LINEARIZABLE, (0, 4, 1, 5))],
    ),
    "a value that came and went while another stood": (
        """
        0-9 SET a
        3-30 SET b
        10-11 GET = a
        12-13 GET = b
        14-15 GET = a""",
        [(NOT_LINEARIZABLE, (0, 4, 3))],
    ),
    "the last to stand is compared, not only the neighbour": (
        """
        0-5 SET a
        0-9 SET b
        0-20 SET c
        10-11 GET = b
        30-31 GET = c
        60-61 GET = a""",
        [(NOT_LINEARIZABLE, (0, 5, 1, 3)), (NOT_LINEARIZABLE, (0, 5, 2, 4))],
    ),
    "one that stands is compared with those after it, not with the first of all": (
        """
        0-1 SET a
        3-9 SET b
        3-10 SET c
        4-5 GET = a
        30-31 GET = c
        60-61 GET = b""",
        [(NOT_LINEARIZABLE, (1, 5, 2, 4))],
    ),
    "a value that came and went while another stood, which was not the first": (
        """
        0-1 SET a
        3-9 SET b
        3-40 SET c
        4-5 GET = a
        30-31 GET = c
        60-61 GET = b""",
        [(NOT_LINEARIZABLE, (1, 5, 4))],
    ),
    "stale, while another write goes on since before": (
        """
        0-50 SET a
        2-3 SET b
        10-11 GET""",
        [(STALE_READ, (1, 2))],
    ),
    "stale, and the newest is not the last that ended": (
        """
        0-8 SET c
        1-3 SET a
        5-6 SET b
        10-11 GET = a""",
        [(STALE_READ, (2, 3))],
    ),
    "independent faults are told together": (
        """
        0-1 SET a
        2-3 SET b !
        4-5 GET
        6-7 GET = b
        8-9 GET = z
        10-11 GET final""",
        [(LOST_WRITE, (0, 5)), (STALE_READ, (0, 2)), (ABORTED_READ, (1, 3)), (ABORTED_READ, (4,))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_register_may_show(text: str) -> None:
    assert found("register", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_register_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("register", text)) == sorted(expected)


def test_a_stale_read_is_told_with_figures() -> None:
    (stale,) = check_history(story("register", "0-1 SET a\n2-3 SET b\n9-12 GET = a"))
    assert stale.text == "#2 shows 'a' of #0, 6 µs after 'b' of #1 had replaced it"
    (stale,) = check_history(story("register", "0-1 SET a\n9-12 GET"))
    assert stale.text == "#1 shows nothing, 8 µs after 'a' of #0 had replaced it"
