"""CLUSTER, as Valkey in cluster mode answers it, so that stock clients find their way.

The formats (order of fields included) were compared with Valkey 9.1's own. What is told:

* a shard's **primary** is its leader, or who was it last; without any the shard is missing from SLOTS, and
  all its nodes are replicas in SHARDS and NODES (of an unknown primary, `-`);
* **journal-only** nodes have no engine and no clients, so they are not mentioned, not even as leader: such a
  leader hands over at once;
* `cluster_state` is `fail` while some shard has no leader: clients then know why they hear CLUSTERDOWN;
* the config epoch of a shard is its Raft term: it grows with each failover, and clients believe the highest.

A host that is a name stands where Valkey puts the address, and in NODES again as the hostname.

Left out: COUNTKEYSINSLOT and GETKEYSINSLOT (the engine is not in cluster mode and does not index keys by
slot; they come with the migration of slots, 5/5), LINKS, SLOT-STATS, health of single nodes. What changes
the layout is refused in `commands.py`.
"""

import re
from collections.abc import Callable
from typing import Final

from cluster.az.topology import NodeSpec, ShardSpec, Topology, redis_node_id, redis_shard_id
from cluster.errors import Err
from cluster.front.resp import (
    encode_array,
    encode_bulk,
    encode_integer,
    encode_map,
    encode_simple,
    encode_verbatim,
    strict_integer,
)
from cluster.shard.shard_map import ShardMap
from cluster.shard.slots import key_slot
from cluster.types import SLOT_COUNT, NodeId

_ADDRESS: Final = re.compile(r"[0-9.]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
HELP: Final = (
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "MYSHARDID",
    "    Return the node's shard id.",
    "NODES",
    "    Return cluster configuration seen by node. Output format:",
    "    <id> <ip:port@bus-port[,hostname]> <flags> <primary> <pings> <pongs> <epoch> <link> <slot> ...",
    "REPLICAS <node-id>",
    "    Return <node-id> replicas.",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "SLOTS",
    "    Return information about slots range mappings. Each range is made of:",
    "    start, end, primary and replicas IP addresses, ports and ids",
    "HELP",
    "    Print this help.",
)


def answer(
    args: list[bytes], *, topology: Topology, shard_map: ShardMap, node_id: NodeId, protocol: int
) -> bytes:
    """The reply to `CLUSTER subcommand …`, whose number of arguments has been checked. Raises Err."""
    view = ClusterView(topology, shard_map, node_id, protocol)
    name = args[1].lower()
    reply = _REPLIES.get(name)
    if reply is None:
        text = args[1][:128].decode("utf-8", "surrogateescape")
        raise Err(f"unknown subcommand '{text}'. Try CLUSTER HELP.")
    return reply(view, args)


class ClusterView:
    """The cluster as one node tells it."""

    def __init__(self, topology: Topology, shard_map: ShardMap, node_id: NodeId, protocol: int) -> None:
        self.topology = topology
        self.shard_map = shard_map
        self.me = topology.node(node_id)
        self.protocol = protocol

    def redis_id(self, node: NodeSpec) -> str:
        return redis_node_id(self.topology.cluster_id, node.id)

    def primary(self, shard: ShardSpec) -> NodeSpec | None:
        node = self.shard_map.last_leader(shard.id)
        return None if node is None or node.journal_only else node

    def members(self, shard: ShardSpec) -> list[NodeSpec]:
        """Nodes with an engine: the primary first, then the others in the order of their ids."""
        primary = self.primary(shard)
        nodes = [node for node in shard.nodes if not node.journal_only]
        return sorted(nodes, key=lambda node: (primary is None or node.id != primary.id, node.id))

    # -- SLOTS, SHARDS -------------------------------------------------------------------------------------

    def slots(self, args: list[bytes]) -> bytes:
        rows = []
        for shard in self.topology.shards:
            if self.primary(shard) is None:
                continue
            nodes = [self._slots_node(node) for node in self.members(shard)]
            for first, last in shard.slots:
                rows.append((first, encode_array([encode_integer(first), encode_integer(last), *nodes])))
        return encode_array([row for _, row in sorted(rows)])

    def _slots_node(self, node: NodeSpec) -> bytes:
        metadata = encode_map([], self.protocol)
        host, port = encode_bulk(node.host.encode()), encode_integer(node.port)
        return encode_array([host, port, encode_bulk(self.redis_id(node).encode()), metadata])

    def shards(self, args: list[bytes]) -> bytes:
        rows = []
        for shard in self.topology.shards:
            bounds = [encode_integer(bound) for slots in sorted(shard.slots) for bound in slots]
            nodes = [self._shards_node(shard, node) for node in self.members(shard)]
            shard_id = redis_shard_id(self.topology.cluster_id, shard.id).encode()
            fields = {
                b"slots": encode_array(bounds),
                b"nodes": encode_array(nodes),
                b"id": encode_bulk(shard_id),
            }
            rows.append(self._map(fields))
        return encode_array(rows)

    def _shards_node(self, shard: ShardSpec, node: NodeSpec) -> bytes:
        primary = self.primary(shard)
        role = b"master" if primary is not None and node.id == primary.id else b"replica"
        host = encode_bulk(node.host.encode())
        fields = {
            b"id": encode_bulk(self.redis_id(node).encode()),
            b"port": encode_integer(node.port),
            b"ip": host,
            b"endpoint": host,
            b"role": encode_bulk(role),
            b"replication-offset": encode_integer(0),
            b"health": encode_bulk(b"online"),
        }
        return self._map(fields)

    def _map(self, fields: dict[bytes, bytes]) -> bytes:
        return encode_map([(encode_bulk(key), value) for key, value in fields.items()], self.protocol)

    # -- NODES, REPLICAS -----------------------------------------------------------------------------------

    def nodes(self, args: list[bytes]) -> bytes:
        lines = [
            self._line(shard, node) + "\n" for shard in self.topology.shards for node in self.members(shard)
        ]
        return encode_verbatim("".join(lines).encode(), self.protocol)

    def _line(self, shard: ShardSpec, node: NodeSpec) -> str:
        """`id ip:port@bus-port[,hostname] flags primary ping pong epoch link slots…`"""
        primary = self.primary(shard)
        is_primary = primary is not None and node.id == primary.id
        hostname = "" if _ADDRESS.fullmatch(node.host) else f",{node.host}"
        flags = ("myself," if node.id == self.me.id else "") + ("master" if is_primary else "slave")
        of = "-" if is_primary or primary is None else self.redis_id(primary)
        epoch = self.shard_map.config_epoch(shard.id)
        slots = [str(slots) for slots in sorted(shard.slots)] if is_primary else []
        address = f"{node.host}:{node.port}@{node.peer_port}{hostname}"
        return " ".join([self.redis_id(node), address, flags, of, "0", "0", str(epoch), "connected", *slots])

    def replicas(self, args: list[bytes]) -> bytes:
        wanted = args[2].decode("utf-8", "surrogateescape")
        for shard in self.topology.shards:
            primary = self.primary(shard)
            for node in self.members(shard):
                if self.redis_id(node) != wanted:
                    continue
                if primary is None or node.id != primary.id:
                    raise Err("The specified node is not a master")
                lines = [self._line(shard, other) for other in self.members(shard) if other.id != node.id]
                return encode_array([encode_bulk(line.encode()) for line in lines])
        raise Err(f"Unknown node {wanted}")

    # -- INFO and the small ones ---------------------------------------------------------------------------

    def info(self, args: list[bytes]) -> bytes:
        shards = self.topology.shards
        led = [shard for shard in shards if self.shard_map.leader(shard.id) is not None]
        slots_led = sum(last - first + 1 for shard in led for first, last in shard.slots)
        fields = {
            "cluster_state": "ok" if len(led) == len(shards) else "fail",
            "cluster_slots_assigned": SLOT_COUNT,
            "cluster_slots_ok": slots_led,
            "cluster_slots_pfail": 0,
            "cluster_slots_fail": SLOT_COUNT - slots_led,
            "cluster_known_nodes": sum(len(self.members(shard)) for shard in shards),
            "cluster_size": len(shards),
            "cluster_current_epoch": self.shard_map.current_epoch,
            "cluster_my_epoch": self.shard_map.config_epoch(self.me.shard),
            "cluster_stats_messages_sent": 0,
            "cluster_stats_messages_received": 0,
            "total_cluster_links_buffer_limit_exceeded": 0,
        }
        text = "".join(f"{key}:{value}\r\n" for key, value in fields.items())
        return encode_verbatim(text.encode(), self.protocol)

    def keyslot(self, args: list[bytes]) -> bytes:
        return encode_integer(key_slot(args[2]))

    def myid(self, args: list[bytes]) -> bytes:
        return encode_bulk(self.redis_id(self.me).encode())

    def myshardid(self, args: list[bytes]) -> bytes:
        return encode_bulk(redis_shard_id(self.topology.cluster_id, self.me.shard).encode())

    def keys_in_slot(self, args: list[bytes]) -> bytes:
        slot = strict_integer(args[2])
        if slot is None:
            raise Err("value is not an integer or out of range")
        if not 0 <= slot < SLOT_COUNT:
            raise Err("Invalid slot")
        name = args[1].decode().upper()
        raise Err(f"CLUSTER {name} is not supported by this version of azimuth")

    def help(self, args: list[bytes]) -> bytes:
        return encode_array([encode_simple(line) for line in HELP])


_REPLIES: Final[dict[bytes, Callable[[ClusterView, list[bytes]], bytes]]] = {
    b"slots": ClusterView.slots,
    b"shards": ClusterView.shards,
    b"nodes": ClusterView.nodes,
    b"replicas": ClusterView.replicas,
    b"slaves": ClusterView.replicas,
    b"info": ClusterView.info,
    b"keyslot": ClusterView.keyslot,
    b"myid": ClusterView.myid,
    b"myshardid": ClusterView.myshardid,
    b"countkeysinslot": ClusterView.keys_in_slot,
    b"getkeysinslot": ClusterView.keys_in_slot,
    b"help": ClusterView.help,
}
