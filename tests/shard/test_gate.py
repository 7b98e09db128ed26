"""A reply leaves only when its offset is committed and leadership is proven after the engine's answer."""

import pytest

from cluster.shard.gate import ReplyGate
from cluster.types import Offset


class Proof:
    def __init__(self) -> None:
        self.now = 0
        self.leased = True
        self.round = 0
        self.confirmed = -1

    def now_us(self) -> int:
        return self.now

    def lease_valid(self, now_us: int) -> bool:
        return self.leased

    def read_round(self) -> int:
        return self.round

    def read_confirmed(self, round_: int) -> bool:
        return self.confirmed >= round_


def make(use_lease: bool = True) -> tuple[ReplyGate, Proof, list[str]]:
    proof = Proof()
    return ReplyGate(proof, proof, use_lease=use_lease), proof, []


def test_a_reply_waits_for_its_offset() -> None:
    gate, _, out = make()
    gate.submit(Offset(10), lambda: out.append("a"))
    gate.advance(Offset(9))
    assert out == []
    gate.advance(Offset(10))
    assert out == ["a"]


def test_a_committed_reply_leaves_at_once_under_a_lease() -> None:
    gate, _, out = make()
    gate.advance(Offset(10))
    gate.submit(Offset(10), lambda: out.append("a"))
    assert out == ["a"] and len(gate) == 0


def test_without_a_lease_even_a_committed_reply_waits_for_a_quorum_round() -> None:
    gate, proof, out = make()
    gate.advance(Offset(10))
    proof.leased = False
    proof.round = 7
    gate.submit(Offset(10), lambda: out.append("a"))
    proof.confirmed = 6
    gate.advance(Offset(10))
    assert out == []
    proof.confirmed = 7
    gate.advance(Offset(10))
    assert out == ["a"]


def test_a_lease_that_ran_out_while_parked_is_not_believed() -> None:
    gate, proof, out = make()
    gate.submit(Offset(10), lambda: out.append("a"))
    proof.leased = False
    proof.round = 3
    proof.confirmed = 2
    gate.advance(Offset(10))
    gate.advance(Offset(10))
    assert out == []
    proof.leased = True
    gate.advance(Offset(10))
    assert out == ["a"]


def test_quorum_mode_never_trusts_the_lease() -> None:
    gate, proof, out = make(use_lease=False)
    gate.advance(Offset(5))
    gate.submit(Offset(5), lambda: out.append("a"))
    assert out == []
    proof.confirmed = 0
    gate.advance(Offset(5))
    assert out == ["a"]


def test_replies_keep_their_order() -> None:
    gate, _, out = make()
    gate.submit(Offset(20), lambda: out.append("first"))
    gate.submit(Offset(10), lambda: out.append("second"))
    gate.advance(Offset(10))
    assert out == []
    gate.advance(Offset(20))
    assert out == ["first", "second"]


def test_abandoned_replies_never_leave() -> None:
    gate, _, out = make()
    gate.submit(Offset(10), lambda: out.append("a"))
    gate.abandon()
    gate.reset(Offset(0))
    gate.advance(Offset(10))
    assert out == []


def test_the_committed_offset_never_goes_back() -> None:
    gate, _, _ = make()
    gate.advance(Offset(10))
    with pytest.raises(AssertionError, match="never goes back"):
        gate.advance(Offset(9))
