"""Topology: what contradicts itself is refused in one line; a planned layout survives the loss of any AZ."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.az.topology import (
    NodeSpec,
    ShardSpec,
    SlotRange,
    Topology,
    check_placement,
    plan_topology,
    redis_node_id,
)
from cluster.errors import ConfigError
from cluster.types import SLOT_COUNT, Az, NodeId, ShardId, Slot

AZS = (Az("az-a"), Az("az-b"), Az("az-c"))


def plan(shards: int = 3, replicas: int = 2, azs: tuple[Az, ...] = AZS, base_port: int = 7001) -> Topology:
    return plan_topology(
        name="t",
        cluster_id="c",
        shards=shards,
        replicas=replicas,
        azs=azs,
        host="127.0.0.1",
        base_port=base_port,
    )


# -- plans ---------------------------------------------------------------------------------------------------


def test_the_usual_cluster() -> None:
    topology = plan()
    assert [node.id for node in topology.nodes] == [f"{s:04}-{n:03}" for s in (1, 2, 3) for n in (1, 2, 3)]
    assert [node.port for node in topology.nodes] == list(range(7001, 7010))
    assert [node.peer_port for node in topology.nodes] == list(range(17001, 17010))
    assert [shard.nodes[0].az for shard in topology.shards] == ["az-a", "az-b", "az-c"]
    assert not any(node.journal_only for node in topology.nodes)
    assert [node.id for node in topology.nodes_in(Az("az-b"))] == ["0001-002", "0002-001", "0003-003"]
    assert check_placement(topology) == []


@pytest.mark.parametrize(
    ("replicas", "journal_only"),
    [
        (0, [False, True, True]),
        (1, [False, False, True]),
        (2, [False, False, False]),
        (3, [False, False, False, False, True]),
        (4, [False] * 5),
        (5, [False] * 6 + [True]),
    ],
)
def test_journal_only_members_make_the_voters_odd(replicas: int, journal_only: list[bool]) -> None:
    assert [node.journal_only for node in plan(1, replicas).shards[0].nodes] == journal_only


@pytest.mark.slow
@given(st.integers(1, 60), st.integers(0, 5), st.integers(3, 6))
@settings(max_examples=60, deadline=None)
def test_three_azs_or_more_survive_the_loss_of_any_and_primaries_are_spread(
    shards: int, replicas: int, az_count: int
) -> None:
    azs = tuple(Az(f"az-{i}") for i in range(az_count))
    topology = plan(shards, replicas, azs)
    assert check_placement(topology) == []
    for shard in topology.shards:
        assert len(shard.nodes) % 2 == 1
        assert len(shard.nodes) >= 3
        assert sum(not node.journal_only for node in shard.nodes) == replicas + 1
    first = Counter(shard.nodes[0].az for shard in topology.shards)
    assert max(first.values()) - min(first[az] for az in azs) <= 1
    assert topology == plan(shards, replicas, azs), "the same every time"


@pytest.mark.slow
@given(st.integers(0, SLOT_COUNT - 1), st.integers(1, 500))
@settings(max_examples=30, deadline=None)
def test_every_slot_has_its_shard(slot: int, shards: int) -> None:
    owner = plan(shards, 0, base_port=1).shard_of_slot(Slot(slot))
    assert any(first <= slot <= last for first, last in owner.slots)


@pytest.mark.parametrize("az_count", [1, 2])
def test_fewer_than_three_azs_are_told_about(az_count: int) -> None:
    found = check_placement(plan(3, 2, AZS[:az_count]))
    assert len(found) == 3
    left = "0 of its 3" if az_count == 1 else "1 of its 3"
    assert found[0] == f"shard 0001: without az-a only {left} voters are left, no majority"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"shards": 0}, "shards: 0 is not between 1 and 500"),
        ({"shards": 501}, "shards: 501 is not between 1 and 500"),
        ({"replicas": -1}, "replicas: -1 is not between 0 and 5"),
        ({"replicas": 6}, "replicas: 6 is not between 0 and 5"),
        ({"azs": ()}, "azs: at least one"),
        ({"azs": ("a", "b", "a")}, "azs: a is named twice"),
        ({"azs": ("a b",)}, "azs: 'a b' must be letters"),
        ({"base_port": 0}, "port: 0 is not between 1 and 65535"),
        ({"base_port": -5}, "port: -5 is not between 1 and 65535"),
        ({"base_port": 60_000}, "port: 9 nodes from port 60000 on would need ports up to 70008"),
        ({"shards": 500, "base_port": 54_000}, "would need ports up to 65499|port: 1500 nodes"),
    ],
)
def test_a_plan_that_can_not_be_is_one_clear_error(change: dict[str, object], error: str) -> None:
    arguments: dict[str, object] = {"shards": 3, "replicas": 2, "azs": AZS, "base_port": 7001, **change}
    if change == {"shards": 500, "base_port": 54_000}:
        plan(**arguments)  # type: ignore[arg-type]  # the highest that fits
        arguments["base_port"] = 54_100
    with pytest.raises(ConfigError, match=error) as caught:
        plan(**arguments)  # type: ignore[arg-type]  # a dict of arguments
    assert "\n" not in str(caught.value)


# -- contradictions ------------------------------------------------------------------------------------------


def node(number: int, **change: object) -> NodeSpec:
    spec = NodeSpec(
        id=NodeId(f"0001-{number:03}"),
        shard=ShardId("0001"),
        az=AZS[(number - 1) % 3],
        host="127.0.0.1",
        port=7000 + number,
        peer_port=17000 + number,
    )
    return replace(spec, **change)  # type: ignore[arg-type]  # names of fields


def build(
    nodes: list[NodeSpec], slots: tuple[SlotRange, ...] = (SlotRange(Slot(0), Slot(16383)),)
) -> Topology:
    return Topology("c", "t", AZS, (ShardSpec(ShardId("0001"), slots, tuple(nodes)),))


def span(first: int, last: int) -> SlotRange:
    return SlotRange(Slot(first), Slot(last))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"id": "0001-002"}, "node 0001-002: id is used twice"),
        ({"id": "0001-000"}, "node 0001-000: id is out of order"),
        ({"id": "x"}, "node 'x': id must be its shard's and three digits, 0001-001"),
        ({"id": "0002-003"}, "node '0002-003': id must be"),
        ({"az": "az-x"}, "node 0001-003: az 'az-x' is not one of az-a, az-b, az-c"),
        ({"port": 7001}, "node 0001-003: port 7001 on 127.0.0.1 is already used by node 0001-001"),
        ({"peer_port": 7002}, "node 0001-003: peer_port 7002 on 127.0.0.1 is already used by node 0001-002"),
        ({"peer_port": 7003}, "node 0001-003: peer_port 7003 on 127.0.0.1 is already used by node 0001-003"),
        ({"port": 0}, "node 0001-003: port 0 is not between 1 and 65535"),
        ({"peer_port": 65536}, "node 0001-003: peer_port 65536 is not between"),
        ({"host": ""}, "node 0001-003: host '' is no host name"),
        ({"host": "a\r\nb"}, "node 0001-003: host 'a.*' is no host name"),
    ],
)
def test_a_contradictory_node_is_one_clear_error(changes: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        build([node(1), node(2), node(3, **changes)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("slots", "error"),
    [
        ((), "slot 0 belongs to no shard"),
        ((span(0, 16382),), "slot 16383 belongs to no shard"),
        ((span(0, 9), span(9, 16383)), "shard 0001: slot 9 already belongs to shard 0001"),
        ((span(0, 16384),), "shard 0001: slots 0-16384 are not within 0-16383"),
        ((span(5, 4),), "shard 0001: slots 5-4 are not within"),
    ],
)
def test_slots_have_one_owner_each(slots: tuple[SlotRange, ...], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        build([node(1), node(2), node(3)], slots)


def test_a_shard_needs_an_engine_somewhere() -> None:
    with pytest.raises(ConfigError, match="shard 0001: at least one node must not be journal_only"):
        build([node(1, journal_only=True), node(2, journal_only=True)])


def test_one_az_with_a_majority_is_valid_and_told_about() -> None:
    topology = build([node(1), node(2, az="az-a"), node(3)])
    assert check_placement(topology) == [
        "shard 0001: without az-a only 1 of its 3 voters are left, no majority"
    ]


def test_the_same_port_on_two_hosts_is_no_contradiction() -> None:
    build([node(1), node(2, port=7001, host="10.0.0.2"), node(3)])


def test_lookups() -> None:
    topology = plan()
    assert topology.node(NodeId("0002-003")).shard == "0002"
    assert topology.shard(ShardId("0003")) is topology.shards[2]
    with pytest.raises(KeyError):
        topology.node(NodeId("0009-001"))
    with pytest.raises(KeyError):
        topology.shard(ShardId("0009"))


def test_redis_ids_are_stable() -> None:
    assert redis_node_id("c", NodeId("0001-001")) == redis_node_id("c", NodeId("0001-001"))
    assert redis_node_id("c", NodeId("0001-001")) != redis_node_id("d", NodeId("0001-001"))
    assert len(redis_node_id("c", NodeId("0001-001"))) == 40
