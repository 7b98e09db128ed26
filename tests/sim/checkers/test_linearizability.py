"""One key with values that recur, by search."""

import pytest

from cluster.sim.checkers import check_history, check_small
from cluster.sim.history import ABORTED_READ, NOT_LINEARIZABLE
from tests.sim.checkers.support import Found, found, story

GOOD = {
    "each command": """
        0-1 GET
        2-3 SETNX a = 1
        4-5 SETNX b = 0
        6-7 GET = a
        8-9 DEL = 1
        10-11 DEL = 0
        12-13 SET a
        14-15 SET a
        16-17 GET = a final""",
    "a write that changes nothing now does later": """
        0-1 SET a
        2-9 SET b
        2-9 SET a
        10-11 GET = a""",
    "a read that begins when a write ends is concurrent with it": """
        0-5 SET a
        5-6 GET""",
    "the same value again": """
        0-1 SET a
        2-3 SET b
        4-5 SET a
        6-7 GET = a""",
    "in doubt, and it happened": """
        0-1 SET a
        2-3 DEL ?
        4-5 GET""",
    "in doubt, and it did not": """
        0-1 SET a
        2-3 DEL ?
        4-5 GET = a""",
    "in doubt, and it happened late": """
        0-1 SET a
        2-3 DEL ?
        4-5 GET = a
        6-7 GET""",
    "in doubt twice, and both happened": """
        0-1 SET a ?
        2-3 DEL ?
        2-3 DEL ?
        4-5 SETNX b = 1
        6-7 SETNX a = 1""",
    "a failed one did not": """
        0-1 SET a
        2-3 DEL !
        4-5 GET = a""",
    "only one order fits": """
        0-9 SET a
        0-9 DEL = 1
        0-9 SETNX b = 1
        0-9 GET = a
        10-11 GET = b""",
}
BAD: dict[str, tuple[str, Found]] = {
    "a stale read": (
        """
        0-1 SET a
        2-3 SET b
        4-5 GET = a""",
        [(NOT_LINEARIZABLE, (2,))],
    ),
    "a lost write": (
        """
        0-1 SET a
        2-3 GET final""",
        [(NOT_LINEARIZABLE, (1,))],
    ),
    "both came first": (
        """
        0-9 SETNX a = 1
        0-9 SETNX b = 1""",
        [(NOT_LINEARIZABLE, (1,))],
    ),
    "deleted twice": (
        """
        0-1 SET a
        2-9 DEL = 1
        2-9 DEL = 1""",
        [(NOT_LINEARIZABLE, (2,))],
    ),
    "one in doubt happened twice": (
        """
        0-1 SET a
        2-3 DEL ?
        4-5 GET
        6-7 SET a
        8-9 GET
        10-11 GET final""",
        [(NOT_LINEARIZABLE, (4,))],
    ),
    "one in doubt happened before it began": (
        """
        0-1 SET a
        2-3 GET
        4-5 DEL ?""",
        [(NOT_LINEARIZABLE, (1,))],
    ),
    "a failed one happened": (
        """
        0-1 SET a
        2-3 DEL !
        4-5 GET""",
        [(NOT_LINEARIZABLE, (2,))],
    ),
    "a value of a failed write": (
        """
        0-1 SET a !
        2-3 GET = a""",
        [(ABORTED_READ, (1,))],
    ),
    "a value of nobody": ("0-1 GET = z", [(ABORTED_READ, (0,))]),
    "an impossible reply does not hide what is wrong besides": (
        """
        0-1 SETNX a = 2
        2-3 GET
        4-5 GET = a
        6-7 GET""",
        [(ABORTED_READ, (0,)), (NOT_LINEARIZABLE, (3,))],
    ),
}
# Eight clients at once, and nothing that is read tells their writes apart.
HARD = "\n".join(
    [f"0-99 SET {value}" for value in "abcdefgh"] + ["100-101 GET = h", "102-103 GET = g", "104-105 GET = h"]
)


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_a_key_may_show(text: str) -> None:
    assert found("small", text) == []


@pytest.mark.parametrize(("text", "expected"), BAD.values(), ids=BAD.keys())
def test_what_a_key_may_not_show(text: str, expected: Found) -> None:
    assert sorted(found("small", text)) == sorted(expected)


def test_a_value_that_cannot_be_is_told_with_its_reason() -> None:
    (failed, nobody) = check_history(story("small", "0-1 SET a !\n2-3 GET = a\n4-5 GET = z"))
    assert failed.text == "#1 shows 'a', whose only writes failed"
    assert nobody.text == "#2 shows 'z', which nobody wrote"


def test_undecided_is_red() -> None:
    (violation,) = check_small("k", story("small", HARD), steps_max=1000)
    assert violation.kind == NOT_LINEARIZABLE
    assert "undecided within 1000 steps" in violation.text


def test_a_bounded_search_can_say_no() -> None:
    (violation,) = check_small("k", story("small", HARD))
    assert violation.text == "9 of 11 operations fit; then each of #9 contradicts"


def test_many_writes_in_doubt_of_few_kinds_do_not_explode() -> None:
    lines = [f"{number} SET {'abc'[number % 3]} ?" for number in range(60)]
    lines += [f"{100 + 2 * number}-{101 + 2 * number} GET = {'abcab'[number % 5]}" for number in range(25)]
    lines += ["900-901 GET"]
    (violation,) = check_small(
        "k",
        story("small", "\n".join(line.replace(" ", "-999 ", 1) if "?" in line else line for line in lines)),
    )
    assert "25 of 26 operations fit" in violation.text
