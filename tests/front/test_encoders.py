"""What we encode is what hiredis reads, in both protocols."""

import math

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.front import resp


def read(data: bytes) -> object:
    reader = hiredis.Reader()
    reader.feed(data)
    reply = reader.gets()
    assert reader.gets() is False, "one reply, whole"
    return reply


@given(st.binary(max_size=50))
@settings(deadline=None)
def test_bulk(value: bytes) -> None:
    assert read(resp.encode_bulk(value)) == value


@given(st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None)
def test_integer(value: int) -> None:
    assert read(resp.encode_integer(value)) == value


def test_simple_and_error() -> None:
    assert read(resp.encode_simple("OK")) == b"OK"
    error = read(resp.encode_error("ERR bad\r\n+OK"))
    assert isinstance(error, hiredis.ReplyError)
    assert str(error) == "ERR bad  +OK"
    with pytest.raises(AssertionError, match="one line"):
        resp.encode_simple("a\nb")


def test_aggregates_in_both_protocols() -> None:
    one, two = resp.encode_integer(1), resp.encode_bulk(b"two")
    assert read(resp.encode_array([one, two])) == [1, b"two"]
    assert read(resp.encode_map([(two, one)], 2)) == [b"two", 1]
    assert read(resp.encode_map([(two, one)], 3)) == {b"two": 1}
    assert read(resp.encode_set([one, two], 2)) == [1, b"two"]
    assert resp.encode_set([one], 3) == b"~1\r\n:1\r\n"
    assert resp.encode_push([one], 3) == b">1\r\n:1\r\n"
    assert resp.encode_push([one], 2) == b"*1\r\n:1\r\n"


def test_scalars_in_both_protocols() -> None:
    assert read(resp.encode_null(2)) is None
    assert resp.encode_null(3) == b"_\r\n"
    assert resp.encode_null_array(2) == b"*-1\r\n"
    assert resp.encode_null_array(3) == b"_\r\n"
    assert read(resp.encode_boolean(True, 3)) is True
    assert read(resp.encode_boolean(False, 2)) == 0
    assert read(resp.encode_verbatim(b"a\nb", 2)) == b"a\nb"
    assert resp.encode_verbatim(b"a\nb", 3) == b"=7\r\ntxt:a\nb\r\n"


@given(st.floats())
@settings(deadline=None)
def test_double(value: float) -> None:
    for protocol in (2, 3):
        got = read(resp.encode_double(value, protocol))
        assert isinstance(got, bytes | float)
        assert float(got) == value or (math.isnan(value) and math.isnan(float(got)))


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
@settings(deadline=None)
def test_command(args: list[bytes]) -> None:
    assert read(resp.encode_command(args)) == args
