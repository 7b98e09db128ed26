"""Digests of replicas."""

from cluster.sim.checkers import check_digests
from cluster.sim.history import DIVERGED


def test_equal_digests_at_one_offset() -> None:
    assert check_digests("0001", {"n1": (5, "x"), "n2": (5, "x"), "n3": (5, "x")}) == []
    assert check_digests("0001", {}) == []


def test_different_digests_at_one_offset() -> None:
    (violation,) = check_digests("0001", {"n3": (5, "y"), "n2": (5, "x"), "n1": (5, "x")})
    assert (violation.kind, violation.key) == (DIVERGED, "0001")
    assert violation.text == "at offset 5: x on n1, n2 but y on n3"


def test_each_offset_is_told() -> None:
    digests = {"n4": (5, "x"), "n3": (5, "y"), "n2": (7, "x"), "n1": (7, "y")}
    texts = [violation.text for violation in check_digests("0001", digests, at_end=False)]
    assert texts == ["at offset 5: x on n4 but y on n3", "at offset 7: x on n2 but y on n1"]


def test_offsets_differ_at_the_end() -> None:
    digests = {"n1": (7, "y"), "n2": (5, "x"), "n3": (7, "y")}
    assert check_digests("0001", digests, at_end=False) == []
    (violation,) = check_digests("0001", digests)
    assert violation.kind == DIVERGED
    assert violation.text == "applied offsets differ at the end: 5 on n2; 7 on n1, n3"
