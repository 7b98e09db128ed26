"""Lists: `RPUSH k v` → length and `LRANGE k`."""

import pytest

from cluster.sim.checkers import check_history
from cluster.sim.history import ABORTED_READ, DOUBLE_APPLY, LOST_WRITE, ORDER, STALE_READ
from tests.sim.checkers.support import Found, found, story

GOOD = {
    "empty at first": "0-1 LRANGE = []",
    "it grows": """
        0-1 RPUSH a = 1
        2-3 LRANGE = [a]
        4-5 RPUSH b = 2
        6-7 LRANGE = [a b] final""",
    "pushes at the same time land in any order": """
        0-9 RPUSH a = 2
        0-9 RPUSH b = 1
        10-11 LRANGE = [b a] final""",
    "a push in doubt that happened": """
        0-1 RPUSH a ?
        2-3 RPUSH b = 2
        4-5 LRANGE = [a b] final""",
    "a push in doubt that did not": """
        0-1 RPUSH a ?
        2-3 RPUSH b = 1
        4-5 LRANGE = [b] final""",
    "a push in doubt that happened late": """
        0-1 RPUSH a ?
        2-3 RPUSH b = 1
        4-5 LRANGE = [b]
        6-7 LRANGE = [b a] final""",
    "a push in doubt that nobody saw fills a position": """
        0-1 RPUSH a ?
        2-3 RPUSH b = 2""",
    "a read during a push shows either": """
        0-9 RPUSH a = 1
        1-2 LRANGE = []
        3-4 LRANGE = [a]""",
    "a read that begins when a push ends is concurrent with it": """
        0-10 RPUSH a = 1
        10-11 LRANGE = [] final""",
    "what an operation in doubt returned says nothing": """
        0-1 RPUSH a = 7 ?
        0-1 LRANGE = [z] ?
        0-1 LRANGE = [z] !""",
    "a failed push is nowhere": """
        0-1 RPUSH a !
        2-3 RPUSH b = 1
        4-5 LRANGE = [b] final""",
}
BAD: dict[str, tuple[str, Found]] = {
    "an acknowledged push is lost": (
        """
        0-1 RPUSH a = 1
        2-3 LRANGE = [] final""",
        [(LOST_WRITE, (0, 1))],
    ),
    "every lost push is told, once": (
        """
        0-1 RPUSH a = 1
        2-3 RPUSH b = 2
        4-5 RPUSH c = 3
        6-7 LRANGE = [a] final
        8-9 LRANGE = [a] final""",
        [(LOST_WRITE, (1, 3)), (LOST_WRITE, (2, 3))],
    ),
    "lost, and its position given away: seen by any later read": (
        """
        0-1 RPUSH a = 1
        2-3 RPUSH b = 1
        4-5 LRANGE = [b]""",
        [(LOST_WRITE, (0, 2))],
    ),
    "lost, though somebody had read it": (
        """
        0-1 RPUSH a = 1
        2-3 LRANGE = [a]
        4-5 LRANGE = [] final""",
        [(LOST_WRITE, (0, 2))],
    ),
    "not lost if it stands at the end, and out of place": (
        """
        0-1 RPUSH a = 1
        0-1 RPUSH b ?
        0-1 RPUSH c ?
        0-1 RPUSH d ?
        4-5 LRANGE = [b c d]
        6-7 LRANGE = [a] final""",
        [(ORDER, (0, 4)), (ORDER, (5, 4))],
    ),
    "a read that disagrees has lost nothing": (
        """
        0-1 RPUSH c ?
        0-1 RPUSH a = 1
        2-3 RPUSH b = 2
        4-5 LRANGE = [c]
        6-7 LRANGE = [a b]""",
        [(ORDER, (3, 4))],
    ),
    "a read that disagrees is not asked about lengths": (
        """
        0-9 RPUSH a ?
        0-9 RPUSH b ?
        0-9 RPUSH c ?
        0-9 RPUSH d ?
        0-9 RPUSH e ?
        1-2 LRANGE = [a b]
        3-4 LRANGE = [c]
        5-6 LRANGE = [c d e]""",
        [(ORDER, (5, 7))],
    ),
    "a read that disagrees, and shows a failed push": (
        """
        0-1 RPUSH a !
        0-1 RPUSH b ?
        0-1 RPUSH c ?
        2-3 LRANGE = [a]
        4-5 LRANGE = [b c]""",
        [(ORDER, (3, 4)), (ABORTED_READ, (0, 3))],
    ),
    "a failover forgets the tail, and pushes go on behind": (
        """
        0-1 RPUSH a = 1
        2-3 RPUSH b = 2
        4-5 RPUSH c = 3
        6-7 RPUSH d = 2
        8-9 LRANGE = [a d] final""",
        [(LOST_WRITE, (1, 4)), (LOST_WRITE, (2, 4))],
    ),
    "two pushes were told one position": (
        """
        0-9 RPUSH a = 1
        0-9 RPUSH b = 1""",
        [(ORDER, (0, 1))],
    ),
    "a value stands elsewhere than its push said": (
        """
        0-9 RPUSH a = 1
        0-9 RPUSH b = 2
        10-11 LRANGE = [b a] final""",
        [(ORDER, (0, 2)), (ORDER, (1, 2))],
    ),
    "a push got a lower position than one that had ended": (
        """
        0-1 RPUSH a = 2
        2-3 RPUSH b = 1""",
        [(ORDER, (0, 1))],
    ),
    "a push in doubt stands before one that had ended when it began": (
        """
        0-1 RPUSH a = 2
        2-3 RPUSH b ?
        4-5 LRANGE = [b a] final""",
        [(ORDER, (0, 1))],
    ),
    "a position that a read had shown to another, before": (
        """
        0-1 RPUSH a ?
        2-3 LRANGE = [a]
        4-5 RPUSH b = 1""",
        [(ORDER, (2, 1))],
    ),
    "one push, two places": (
        """
        0-1 RPUSH a = 1
        2-3 LRANGE = [a a]""",
        [(DOUBLE_APPLY, (0, 1))],
    ),
    "a push in doubt, applied twice": (
        """
        0-1 RPUSH a ?
        2-3 RPUSH b = 2
        4-5 LRANGE = [a b a] final""",
        [(DOUBLE_APPLY, (0, 2))],
    ),
    "doubled and thrice seen is told once": (
        """
        0-1 RPUSH a ?
        2-3 LRANGE = [a a a]
        4-5 LRANGE = [a a a] final""",
        [(DOUBLE_APPLY, (0, 1))],
    ),
    "a failed push shows": (
        """
        0-1 RPUSH a !
        2-3 LRANGE = [a]
        4-5 LRANGE = [a] final""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a value of nobody": ("0-1 LRANGE = [z]", [(ABORTED_READ, (0,))]),
    "a value before it was pushed": (
        """
        0-1 LRANGE = [a]
        2-3 RPUSH a = 1""",
        [(ABORTED_READ, (0, 1))],
    ),
    "a value before it was pushed, in a read that is not the longest": (
        """
        0-1 LRANGE = [a]
        2-3 RPUSH a = 1
        2-3 RPUSH b = 2
        4-5 LRANGE = [a b] final""",
        [(ABORTED_READ, (0, 1))],
    ),
    "shorter than what was acknowledged before": (
        """
        0-1 RPUSH a = 1
        2-3 LRANGE = []""",
        [(STALE_READ, (0, 1))],
    ),
    "shorter than what was read before": (
        """
        0-1 RPUSH a ?
        2-3 LRANGE = [a]
        4-5 LRANGE = [] final""",
        [(STALE_READ, (1, 2))],
    ),
    "each stale read is told": (
        """
        0-1 RPUSH a = 1
        2-3 LRANGE = []
        2-3 LRANGE = []
        4-5 LRANGE = [a] final""",
        [(STALE_READ, (0, 1)), (STALE_READ, (0, 2))],
    ),
    "two reads of two lists": (
        """
        0-9 RPUSH a ?
        0-9 RPUSH b ?
        1-2 LRANGE = [a]
        3-4 LRANGE = [b]""",
        [(ORDER, (3, 2))],
    ),
    "the same deviation is told once": (
        """
        0-9 RPUSH a ?
        0-9 RPUSH b ?
        0-9 RPUSH c ?
        1-2 LRANGE = [a]
        3-4 LRANGE = [a]
        5-6 LRANGE = [b c]""",
        [(ORDER, (3, 5))],
    ),
    "a position that nobody can have taken": (
        "0-1 RPUSH b = 2",
        [(DOUBLE_APPLY, (0,))],
    ),
    "a position that only a failed push could have taken": (
        """
        0-1 RPUSH a !
        2-3 RPUSH b = 2""",
        [(DOUBLE_APPLY, (1,))],
    ),
    "a position that a push in doubt could only take too late": (
        """
        0-1 RPUSH b = 2
        2-3 RPUSH a ?""",
        [(DOUBLE_APPLY, (0,))],
    ),
    "a push in doubt that was seen fills no other position": (
        """
        0-1 RPUSH a ?
        2-3 LRANGE = [a]
        4-5 RPUSH b = 3""",
        [(DOUBLE_APPLY, (2,))],
    ),
    "one push in doubt fills one position": (
        """
        0-1 RPUSH a ?
        2-3 RPUSH b = 3""",
        [(DOUBLE_APPLY, (1,))],
    ),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_list_may_show(text: str) -> None:
    assert found("list", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_list_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("list", text)) == sorted(expected)


def test_where_two_reads_disagree_is_told() -> None:
    pushes = "\n".join(f"0-9 RPUSH {value} ?" for value in "abcd")
    (violation,) = check_history(story("list", f"{pushes}\n1-2 LRANGE = [a b]\n3-4 LRANGE = [a c d]"))
    assert violation.text == "position 2 is 'b' in #4, 'c' in #5"
