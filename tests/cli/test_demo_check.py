"""The durability demo's verdict on planted histories: each kind of broken promise must be found, and only
those.
"""

import pytest

from cluster.runtime.demo_check import Final, Kind, Op, Outcome, check, geo_score, longest_gaps_ms

OK, REFUSED, IN_DOUBT = Outcome.OK, Outcome.REFUSED, Outcome.IN_DOUBT


def write(kind: Kind, key: str, member: str, outcome: Outcome = OK, reply: int = 0, value: str = "") -> Op:
    return Op(kind, key, member, value, outcome, reply)


def read(key: str, member: str) -> Op:
    return Op("register", key, member, "", OK, read=True)


GOOD_OPS = [
    write("string", "s1", "a"),
    write("string", "s2", "b", REFUSED),
    write("string", "s3", "c", IN_DOUBT),
    write("register", "r", "r1"),
    read("r", "r1"),
    write("register", "r", "r2", IN_DOUBT),
    write("register", "r", "r3"),
    write("list", "l", "x", reply=1),
    write("list", "l", "y", IN_DOUBT),
    write("list", "l", "z", reply=3),
    write("hash", "h", "f1", value="v1"),
    write("hash", "h", "f2", IN_DOUBT, value="v2"),
    write("zset", "z", "m", value="7"),
    write("geo", "g", "Palermo", value="3479099956230698"),
    write("counter", "c", "", reply=1),
    write("counter", "c", "", IN_DOUBT),
    write("counter", "c", "", reply=3),
]
GOOD_FINAL: Final = {
    ("string", "s1"): "a",
    ("string", "s2"): None,
    ("string", "s3"): None,
    ("register", "r"): "r3",
    ("list", "l"): ["x", "y", "z"],
    ("hash", "h"): {"f1": "v1"},
    ("zset", "z"): {"m": "7"},
    ("geo", "g"): {"Palermo": "3479099956230698"},
    ("counter", "c"): 3,
}


def test_a_kept_promise_is_accepted_and_everything_is_counted() -> None:
    verdict = check(GOOD_OPS, GOOD_FINAL)
    assert verdict.ok, verdict.findings
    assert (verdict.acked, verdict.in_doubt, verdict.refused) == (10, 5, 1)
    assert verdict.reads_checked == len(GOOD_FINAL) + 1
    assert verdict.findings == []


@pytest.mark.parametrize(
    ("longitude", "latitude", "score"),
    [
        (13.361389, 38.115556, 3479099956230698),  # from the documentation of GEOADD
        (15.087269, 37.502669, 3479447370796909),
        (-180, -85.05112878, 0),
    ],
)
def test_a_place_has_the_score_that_the_engine_gives_it(
    longitude: float, latitude: float, score: int
) -> None:
    assert geo_score(longitude, latitude) == score


def test_a_write_in_doubt_may_be_there_or_not() -> None:
    assert check(GOOD_OPS, {**GOOD_FINAL, ("string", "s3"): "c"}).ok
    assert check(GOOD_OPS, {**GOOD_FINAL, ("hash", "h"): {"f1": "v1", "f2": "v2"}}).ok
    # The write in doubt may take effect after the acked one.
    assert check(GOOD_OPS, {**GOOD_FINAL, ("register", "r"): "r2"}).ok


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (("string", "s1"), None),
        (("register", "r"), None),
        (("register", "r"), "r1"),
        (("list", "l"), ["x", "y"]),
        (("list", "l"), []),
        (("list", "l"), ["y", "x", "z"]),
        (("hash", "h"), {}),
        (("zset", "z"), {}),
        (("zset", "z"), {"m": "8"}),
        (("geo", "g"), {}),
        (("geo", "g"), {"Palermo": "3479447370796909"}),
        (("counter", "c"), 1),
    ],
)
def test_a_lost_acknowledged_write_is_found(place: tuple[Kind, str], found: str | int | None) -> None:
    verdict = check(GOOD_OPS, {**GOOD_FINAL, place: found})
    assert not verdict.ok
    assert verdict.lost > 0
    assert verdict.findings


def test_a_double_application_is_found() -> None:
    twice = check(GOOD_OPS, {**GOOD_FINAL, ("list", "l"): ["x", "y", "z", "z"]})
    assert (twice.duplicated, twice.lost) == (1, 0)
    doubtful_twice = check(GOOD_OPS, {**GOOD_FINAL, ("list", "l"): ["x", "y", "z", "y"]})
    assert doubtful_twice.duplicated == 1
    counter = check(GOOD_OPS, {**GOOD_FINAL, ("counter", "c"): 5})
    assert counter.duplicated == 2


def test_the_effect_of_a_refused_write_is_found() -> None:
    assert check(GOOD_OPS, {**GOOD_FINAL, ("string", "s2"): "b"}).ghosts == 1
    ops = [*GOOD_OPS, write("list", "l", "no", REFUSED), write("geo", "g", "no", REFUSED)]
    assert check(ops, {**GOOD_FINAL, ("list", "l"): ["x", "y", "z", "no"]}).ghosts == 1
    assert check(ops, {**GOOD_FINAL, ("geo", "g"): {"Palermo": "3479099956230698", "no": ""}}).ghosts == 1


def test_an_effect_nobody_wrote_is_found() -> None:
    assert check(GOOD_OPS, {**GOOD_FINAL, ("string", "s1"): "zz"}).ghosts == 1
    assert check(GOOD_OPS, {**GOOD_FINAL, ("list", "l"): ["x", "y", "z", "w"]}).ghosts == 1


def test_a_stale_read_between_writes_is_found() -> None:
    ops = [write("register", "r", "r1"), write("register", "r", "r2"), read("r", "r1")]
    assert check(ops, {("register", "r"): "r1"}).lost == 1


def test_two_increments_with_one_answer_are_found() -> None:
    ops = [
        write("counter", "c", "", reply=1),
        write("counter", "c", "", reply=1),
        write("counter", "c", "", IN_DOUBT),
    ]
    assert check(ops, {("counter", "c"): 2}).lost == 1


def test_a_key_that_was_not_read_is_not_taken_as_good() -> None:
    with pytest.raises(KeyError):
        check(GOOD_OPS, {})


def test_the_longest_gap_counts_the_edges() -> None:
    times = {"0001": [1_000, 2_000, 9_000], "0002": [1_000]}
    assert longest_gaps_ms(times, 0, 10_000) == {"0001": 7, "0002": 9}
    assert longest_gaps_ms({"0003": []}, 0, 10_000) == {"0003": 10}
