"""The shard map: the highest term wins, whatever the order in which it is heard."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.az.topology import plan_topology
from cluster.shard.shard_map import Leadership, ShardMap
from cluster.types import Az, NodeId, ShardId, Slot, Term

TOPOLOGY = plan_topology(
    name="t",
    cluster_id="c",
    shards=3,
    replicas=2,
    azs=[Az("az-a"), Az("az-b"), Az("az-c")],
    host="127.0.0.1",
    base_port=7001,
)
FIRST = ShardId("0001")
A, B = NodeId("0001-001"), NodeId("0001-002")


def test_nothing_is_known_at_first() -> None:
    shard_map = ShardMap(TOPOLOGY)
    assert shard_map.leader(FIRST) is None
    assert shard_map.last_leader(FIRST) is None
    assert shard_map.leader_of_slot(Slot(0)) is None
    assert (shard_map.term(FIRST), shard_map.config_epoch(FIRST), shard_map.current_epoch) == (0, 0, 0)
    assert shard_map.snapshot() == ()


def test_a_higher_term_wins_and_a_lower_one_is_ignored() -> None:
    shard_map = ShardMap(TOPOLOGY)
    assert shard_map.learn(FIRST, Term(2), A)
    assert not shard_map.learn(FIRST, Term(2), A), "no news"
    assert not shard_map.learn(FIRST, Term(1), B)
    assert shard_map.leader(FIRST) == TOPOLOGY.node(A)
    assert shard_map.learn(FIRST, Term(3), B)
    assert shard_map.leader_of_slot(Slot(5460)) == TOPOLOGY.node(B)
    assert shard_map.leader_of_slot(Slot(5461)) is None
    assert shard_map.config_epoch(FIRST) == shard_map.current_epoch == 3


def test_one_term_never_names_two_leaders() -> None:
    shard_map = ShardMap(TOPOLOGY)
    shard_map.learn(FIRST, Term(2), A)
    assert not shard_map.learn(FIRST, Term(2), B)
    assert shard_map.leader(FIRST) == TOPOLOGY.node(A)
    shard_map.lose(FIRST)
    assert not shard_map.learn(FIRST, Term(2), B)
    assert shard_map.leader(FIRST) is None


def test_nonsense_is_ignored() -> None:
    shard_map = ShardMap(TOPOLOGY)
    assert not shard_map.learn(FIRST, Term(0), A)
    assert not shard_map.learn(FIRST, Term(1), NodeId("0002-001"))
    assert not shard_map.learn(FIRST, Term(1), NodeId("0001-009"))
    assert not shard_map.learn(ShardId("0009"), Term(1), A)
    assert shard_map.snapshot() == ()


def test_a_lost_leader_stays_the_last_one_until_it_is_heard_again() -> None:
    shard_map = ShardMap(TOPOLOGY)
    assert not shard_map.lose(FIRST)
    shard_map.learn(FIRST, Term(2), A)
    assert shard_map.lose(FIRST)
    assert not shard_map.lose(FIRST)
    assert shard_map.leader(FIRST) is None
    assert shard_map.last_leader(FIRST) == TOPOLOGY.node(A)
    assert shard_map.learn(FIRST, Term(2), A)
    assert shard_map.leader(FIRST) == TOPOLOGY.node(A)


# One leader a term, as Raft promises: the leader is a function of shard and term.
claims = st.lists(
    st.tuples(st.sampled_from([shard.id for shard in TOPOLOGY.shards]), st.integers(1, 9)).map(
        lambda claim: (claim[0], Term(claim[1]), NodeId(f"{claim[0]}-{claim[1] % 3 + 1:03}"))
    ),
    max_size=20,
)


@pytest.mark.slow
@given(claims, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_order_leads_to_the_highest_terms(heard: list[Leadership], rng: object) -> None:
    expected: dict[ShardId, tuple[Term, NodeId]] = {}
    for shard, term, leader in heard:
        expected[shard] = max(expected.get(shard, (Term(0), leader)), (term, leader))
    shuffled = list(heard)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis gives a random.Random
    shard_map = ShardMap(TOPOLOGY)
    for claim in shuffled + shuffled:
        shard_map.learn(*claim)
    assert shard_map.snapshot() == tuple((shard, *expected[shard]) for shard in sorted(expected))


@pytest.mark.slow
@given(claims, claims)
@settings(deadline=None)
def test_two_that_exchange_snapshots_agree(one: list[Leadership], other: list[Leadership]) -> None:
    mine, theirs = ShardMap(TOPOLOGY), ShardMap(TOPOLOGY)
    for claim in one:
        mine.learn(*claim)
    for claim in other:
        theirs.learn(*claim)
    for claim in mine.snapshot():
        theirs.learn(*claim)
    for claim in theirs.snapshot():
        mine.learn(*claim)
    assert mine.snapshot() == theirs.snapshot()
