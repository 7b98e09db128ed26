"""Majorities, against the definition written out: every set of voters that is a majority of each half."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.raft import Membership, Quorum, VoteResult
from cluster.types import NodeId

IDS = [NodeId(name) for name in "abcdefg"]
HALF = st.frozensets(st.sampled_from(IDS), min_size=1)


def quorums(membership: Membership) -> list[frozenset[NodeId]]:
    """All of them, the slow way."""
    halves = [half for half in (membership.voters, membership.outgoing) if half]
    everybody = sorted(membership.voters | membership.outgoing)
    sets = chain.from_iterable(combinations(everybody, size) for size in range(len(everybody) + 1))
    return [
        frozenset(chosen)
        for chosen in sets
        if all(len(half & frozenset(chosen)) * 2 > len(half) for half in halves)
    ]


@given(HALF, st.frozensets(st.sampled_from(IDS)), st.lists(st.integers(0, 9), min_size=7, max_size=7))
def test_value_is_what_some_quorum_has_reached(
    voters: frozenset[NodeId], outgoing: frozenset[NodeId], numbers: list[int]
) -> None:
    membership = Membership(voters, outgoing)
    values = dict(zip(IDS, numbers, strict=True))
    best = max(min(values[voter] for voter in quorum) for quorum in quorums(membership))
    assert Quorum(membership).value(values) == best


@given(
    HALF,
    st.frozensets(st.sampled_from(IDS)),
    st.dictionaries(st.sampled_from([*IDS, NodeId("stranger")]), st.booleans()),
)
def test_vote_is_won_by_a_quorum_and_lost_when_none_can_be_had(
    voters: frozenset[NodeId], outgoing: frozenset[NodeId], votes: dict[NodeId, bool]
) -> None:
    membership = Membership(voters, outgoing)
    granted = {voter for voter, vote in votes.items() if vote}
    refused = {voter for voter, vote in votes.items() if not vote}
    if any(quorum <= granted for quorum in quorums(membership)):
        expected = VoteResult.WON
    elif any(not quorum & refused for quorum in quorums(membership)):
        expected = VoteResult.PENDING
    else:
        expected = VoteResult.LOST
    assert Quorum(membership).vote(votes) is expected


SMALL_HALF = st.frozensets(st.sampled_from(IDS[:5]), min_size=1)


@given(SMALL_HALF, SMALL_HALF)
def test_quorums_of_a_joint_membership_meet_those_of_both_halves(
    voters: frozenset[NodeId], outgoing: frozenset[NodeId]
) -> None:
    joint = quorums(Membership(voters, outgoing))
    for half in (voters, outgoing):
        assert all(one & other for one in joint for other in quorums(Membership(half)))


def test_nobody_voting_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one voter"):
        Quorum(Membership(frozenset(), learners=frozenset(IDS)))
