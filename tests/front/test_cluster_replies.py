"""CLUSTER's replies: formats as Valkey 9.1's, read by redis-py's parsers, and what they say in trouble."""

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest
from redis import cluster as redis_cluster
from redis._parsers import helpers

from cluster.az.topology import SlotRange, Topology, plan_topology, redis_node_id, redis_shard_id
from cluster.errors import Err
from cluster.front import cluster_replies
from cluster.shard.shard_map import ShardMap
from cluster.shard.slots import key_slot
from cluster.types import SLOT_COUNT, Az, NodeId, ShardId, Slot, Term
from tests.front.engine import Connection, stock_engine, valkey_binary

parse_cluster_info: Callable[[Any], dict[str, str]] = helpers.parse_cluster_info
parse_cluster_nodes: Callable[[Any], dict[str, dict[str, Any]]] = helpers.parse_cluster_nodes
parse_cluster_shards: Callable[[Any], list[dict[str, Any]]] = redis_cluster.parse_cluster_shards_unified
parse_cluster_slots = redis_cluster.parse_cluster_slots

AZS = (Az("az-a"), Az("az-b"), Az("az-c"))
ME = NodeId("0001-001")
FIRST, SECOND, THIRD = ShardId("0001"), ShardId("0002"), ShardId("0003")


def make(shards: int = 3, replicas: int = 2, host: str = "127.0.0.1") -> Topology:
    return plan_topology(
        name="t", cluster_id="c", shards=shards, replicas=replicas, azs=AZS, host=host, base_port=7001
    )


@pytest.fixture
def topology() -> Topology:
    return make()


@pytest.fixture
def shard_map(topology: Topology) -> ShardMap:
    known = ShardMap(topology)
    known.learn(FIRST, Term(3), NodeId("0001-001"))
    known.learn(SECOND, Term(5), NodeId("0002-003"))
    known.learn(THIRD, Term(2), NodeId("0003-002"))
    return known


def ask(shard_map: ShardMap, *args: bytes, protocol: int = 2) -> Any:
    reader = hiredis.Reader()
    reader.feed(
        cluster_replies.answer(
            [b"CLUSTER", *args],
            topology=shard_map.topology,
            shard_map=shard_map,
            node_id=ME,
            protocol=protocol,
        )
    )
    reply = reader.gets()
    assert reply is not False, "a whole reply"
    assert reader.gets() is False, "and nothing after it"
    return reply


def rid(node: str) -> str:
    return redis_node_id("c", NodeId(node))


# -- read by redis-py -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
def test_slots_as_redis_py_reads_them(shard_map: ShardMap, protocol: int) -> None:
    slots = parse_cluster_slots(ask(shard_map, b"SLOTS", protocol=protocol))
    assert slots == {
        (0, 5460): {
            "primary": ("127.0.0.1", 7001),
            "replicas": [("127.0.0.1", 7002), ("127.0.0.1", 7003)],
        },
        (5461, 10921): {
            "primary": ("127.0.0.1", 7006),
            "replicas": [("127.0.0.1", 7004), ("127.0.0.1", 7005)],
        },
        (10922, 16383): {
            "primary": ("127.0.0.1", 7008),
            "replicas": [("127.0.0.1", 7007), ("127.0.0.1", 7009)],
        },
    }


@pytest.mark.parametrize("protocol", [2, 3])
def test_shards_as_redis_py_reads_them(shard_map: ShardMap, protocol: int) -> None:
    shards = parse_cluster_shards(ask(shard_map, b"SHARDS", protocol=protocol))
    bounds = [
        [int(x) for pair in shard["slots"] for x in (pair if isinstance(pair, tuple) else (pair,))]
        for shard in shards
    ]
    assert bounds == [[0, 5460], [5461, 10921], [10922, 16383]]
    second = shards[1]["nodes"]
    assert [(node["port"], node["role"], node["health"]) for node in second] == [
        (7006, b"master", b"online"),
        (7004, b"replica", b"online"),
        (7005, b"replica", b"online"),
    ]
    assert second[0]["id"] == rid("0002-003").encode()
    assert second[0]["ip"] == second[0]["endpoint"] == b"127.0.0.1"


@pytest.mark.parametrize("protocol", [2, 3])
def test_nodes_as_redis_py_reads_them(shard_map: ShardMap, protocol: int) -> None:
    nodes = parse_cluster_nodes(ask(shard_map, b"NODES", protocol=protocol))
    assert len(nodes) == 9
    me = nodes["127.0.0.1:7001"]
    assert me["flags"] == "myself,master"
    assert (me["master_id"], me["epoch"], me["connected"]) == ("-", "3", True)
    assert me["slots"] == [["0", "5460"]]
    replica = nodes["127.0.0.1:7005"]
    assert (replica["flags"], replica["master_id"], replica["epoch"]) == ("slave", rid("0002-003"), "5")
    assert replica["slots"] == []


@pytest.mark.parametrize("protocol", [2, 3])
def test_info_as_redis_py_reads_it(shard_map: ShardMap, protocol: int) -> None:
    info = parse_cluster_info(ask(shard_map, b"INFO", protocol=protocol))
    assert info["cluster_state"] == "ok"
    assert info["cluster_slots_ok"] == info["cluster_slots_assigned"] == "16384"
    assert (info["cluster_known_nodes"], info["cluster_size"]) == ("9", "3")
    assert (info["cluster_current_epoch"], info["cluster_my_epoch"]) == ("5", "3")


# -- the small ones -------------------------------------------------------------------------------------


def test_ids_and_key_slots(shard_map: ShardMap) -> None:
    assert ask(shard_map, b"MYID") == rid("0001-001").encode()
    assert ask(shard_map, b"myshardid") == redis_shard_id("c", FIRST).encode()
    assert ask(shard_map, b"KeySlot", b"foo{bar}") == key_slot(b"bar")
    assert all(re.fullmatch("[0-9a-f]{40}", rid(node.id)) for node in shard_map.topology.nodes)
    assert len({rid(node.id) for node in shard_map.topology.nodes}) == 9


@pytest.mark.parametrize("name", [b"REPLICAS", b"SLAVES"])
def test_replicas(shard_map: ShardMap, name: bytes) -> None:
    lines = ask(shard_map, name, rid("0002-003").encode())
    assert set(parse_cluster_nodes(lines)) == {"127.0.0.1:7004", "127.0.0.1:7005"}
    with pytest.raises(Err, match="The specified node is not a master"):
        ask(shard_map, name, rid("0002-001").encode())
    with pytest.raises(Err, match="Unknown node abc"):
        ask(shard_map, name, b"abc")


def test_keys_in_slot_is_refused_clearly(shard_map: ShardMap) -> None:
    with pytest.raises(Err, match="CLUSTER COUNTKEYSINSLOT is not supported by this version of azimuth"):
        ask(shard_map, b"countkeysinslot", b"1")
    with pytest.raises(Err, match="CLUSTER GETKEYSINSLOT is not supported by this version of azimuth"):
        ask(shard_map, b"getkeysinslot", b"1", b"10")
    with pytest.raises(Err, match="Invalid slot"):
        ask(shard_map, b"countkeysinslot", b"16384")
    with pytest.raises(Err, match="value is not an integer or out of range"):
        ask(shard_map, b"countkeysinslot", b"x")


def test_help_and_the_unknown(shard_map: ShardMap) -> None:
    lines = ask(shard_map, b"HELP")
    assert b"SLOTS" in lines
    assert lines[-2:] == [b"HELP", b"    Print this help."]
    with pytest.raises(Err, match=r"unknown subcommand 'MEET'\. Try CLUSTER HELP\."):
        ask(shard_map, b"MEET")


# -- in trouble -----------------------------------------------------------------------------------------


def test_a_lost_leader_stays_the_primary_but_the_state_is_fail(shard_map: ShardMap) -> None:
    before = ask(shard_map, b"SLOTS")
    shard_map.lose(SECOND)
    assert ask(shard_map, b"SLOTS") == before
    info = parse_cluster_info(ask(shard_map, b"INFO"))
    assert info["cluster_state"] == "fail"
    assert (info["cluster_slots_ok"], info["cluster_slots_fail"]) == ("10923", "5461")
    shard_map.learn(SECOND, Term(6), NodeId("0002-001"))
    assert parse_cluster_info(ask(shard_map, b"INFO"))["cluster_state"] == "ok"
    assert parse_cluster_slots(ask(shard_map, b"SLOTS"))[5461, 10921]["primary"] == ("127.0.0.1", 7004)


def test_a_shard_that_never_had_a_leader_has_no_slots_and_no_primary(topology: Topology) -> None:
    shard_map = ShardMap(topology)
    shard_map.learn(FIRST, Term(1), NodeId("0001-002"))
    assert list(parse_cluster_slots(ask(shard_map, b"SLOTS"))) == [(0, 5460)]
    nodes = parse_cluster_nodes(ask(shard_map, b"NODES"))
    assert [nodes[f"127.0.0.1:{port}"]["flags"] for port in (7001, 7002, 7004)] == [
        "myself,slave",
        "master",
        "slave",
    ]
    assert nodes["127.0.0.1:7004"]["master_id"] == "-"
    roles = [
        node["role"] for shard in parse_cluster_shards(ask(shard_map, b"SHARDS")) for node in shard["nodes"]
    ]
    assert roles == [b"master", *[b"replica"] * 8]
    assert parse_cluster_info(ask(shard_map, b"INFO"))["cluster_state"] == "fail"


def test_journal_only_nodes_are_not_mentioned_even_as_leaders() -> None:
    shard_map = ShardMap(make(shards=1, replicas=1))
    shard_map.learn(FIRST, Term(1), NodeId("0001-003"))
    assert ask(shard_map, b"SLOTS") == []
    assert set(parse_cluster_nodes(ask(shard_map, b"NODES"))) == {"127.0.0.1:7001", "127.0.0.1:7002"}
    shard_map.learn(FIRST, Term(2), NodeId("0001-002"))
    assert parse_cluster_slots(ask(shard_map, b"SLOTS")) == {
        (0, 16383): {"primary": ("127.0.0.1", 7002), "replicas": [("127.0.0.1", 7001)]}
    }


def test_a_host_name_is_also_the_hostname_in_nodes() -> None:
    shard_map = ShardMap(make(shards=1, host="db.example"))
    shard_map.learn(FIRST, Term(1), ME)
    line = ask(shard_map, b"NODES").decode().splitlines()[0]
    assert line.split(" ")[1] == "db.example:7001@17001,db.example"
    assert parse_cluster_slots(ask(shard_map, b"SLOTS"))[0, 16383]["primary"] == ("db.example", 7001)


def test_several_ranges_and_single_slots() -> None:
    (shard,) = make(shards=1).shards
    ranges = (
        SlotRange(Slot(7), Slot(SLOT_COUNT - 1)),
        SlotRange(Slot(0), Slot(5)),
        SlotRange(Slot(6), Slot(6)),
    )
    one = type(shard)(shard.id, ranges, shard.nodes)
    shard_map = ShardMap(Topology("c", "t", AZS, (one,)))
    shard_map.learn(FIRST, Term(1), ME)
    assert ask(shard_map, b"NODES").decode().splitlines()[0].endswith(" connected 0-5 6 7-16383")
    assert list(parse_cluster_slots(ask(shard_map, b"SLOTS"))) == [(0, 5), (6, 6), (7, 16383)]
    assert ask(shard_map, b"SHARDS")[0][1] == [0, 5, 6, 6, 7, 16383]


# -- beside Valkey in cluster mode ----------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def clustered() -> Iterator[Connection]:
    """A real one-node cluster that owns every slot."""
    bus = str(free_port())
    options = [
        "--cluster-enabled",
        "yes",
        "--bind",
        "127.0.0.1",
        "--port",
        str(free_port()),
        "--cluster-port",
        bus,
    ]
    with stock_engine(valkey_binary(), *options) as engine, engine.connect() as connection:
        assert connection.call(b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383") in (b"OK", "OK")
        yield connection


def shape(reply: object) -> object:
    """Types and names without values."""
    match reply:
        case list():
            return [shape(item) for item in reply]
        case dict():
            return {key: shape(value) for key, value in reply.items()}
        case bytes() if reply in (b"slots", b"nodes", b"id", b"port", b"ip", b"endpoint", b"role", b"health"):
            return reply
        case bytes() if reply in (b"replication-offset", b"master", b"online"):
            return reply
        case _:
            return type(reply).__name__


@pytest.mark.parametrize("protocol", [2, 3])
def test_shapes_are_those_of_valkey(clustered: Connection, protocol: int) -> None:
    (shard,) = make(shards=1).shards
    alone = type(shard)(shard.id, shard.slots, shard.nodes[:1])
    shard_map = ShardMap(Topology("c", "t", AZS, (alone,)))
    shard_map.learn(FIRST, Term(1), ME)
    clustered.call(b"HELLO", str(protocol).encode())
    for args in ((b"SLOTS",), (b"SHARDS",), (b"MYID",), (b"MYSHARDID",), (b"KEYSLOT", b"foo")):
        assert shape(ask(shard_map, *args, protocol=protocol)) == shape(clustered.call(b"CLUSTER", *args)), (
            args
        )
    line = r"[0-9a-f]{40} [^ ]*:\d+@\d+ myself,master - 0 0 \d+ connected 0-16383\n"
    for reply in (ask(shard_map, b"NODES", protocol=protocol), clustered.call(b"CLUSTER", b"NODES")):
        assert re.fullmatch(line, text(reply)), reply
    theirs = parse_cluster_info(text(clustered.call(b"CLUSTER", b"INFO")))
    assert set(parse_cluster_info(ask(shard_map, b"INFO", protocol=protocol))) <= set(theirs)


def text(reply: object) -> str:
    assert isinstance(reply, bytes | str)
    return reply.decode() if isinstance(reply, bytes) else reply
