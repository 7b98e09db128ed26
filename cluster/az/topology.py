"""A cluster's description: its shards, their slots, their nodes, and the AZ of each.

Everything is frozen and checked when it is made, so whoever holds a `Topology` need not ask again whether ids
are unique or every slot has one owner. A layout can be *valid* and still be unsafe (one AZ holds a majority
of a shard); that is for `check_placement` to say and for the command line to refuse.

Placement: shard i begins in AZ i mod n, its further members follow round-robin. So the preferred leaders,
which are the first members, are spread over the AZs, and no AZ holds more than ⌈voters / n⌉ members of a
shard. With three AZs or more that always leaves a majority elsewhere. With fewer it never does: of two AZs
one holds at least half.

Every member votes, the journal-only ones too: they make the log durable in a third AZ without an engine.

Left out: hosts as failure domains of their own, weights, more than one node of a shard being preferred.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cluster.errors import ConfigError
from cluster.types import SLOT_COUNT, Az, NodeId, ShardId, Slot

SHARDS_MAX: Final = 500
REPLICAS_MAX: Final = 5
PEER_PORT_OFFSET: Final = 10_000  # as Redis Cluster's bus port
PORT_MAX: Final = 65_535
NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
SHARD_ID_PATTERN: Final = re.compile(r"[0-9]{4}")
NODE_ID_PATTERN: Final = re.compile(r"[0-9]{4}-[0-9]{3}")
HOST_PATTERN: Final = re.compile(r"[A-Za-z0-9:._-]{1,253}")


class SlotRange(NamedTuple):
    """The slots first … last, both included."""

    first: Slot
    last: Slot

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: a member of one shard in one AZ."""

    id: NodeId
    shard: ShardId
    az: Az
    host: str  # name or address that clients and peers connect to
    port: int  # clients; of a journal-only node nobody listens there
    peer_port: int  # other nodes, and the admin service
    journal_only: bool = False  # votes and keeps the log, has no engine and no clients


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard. `nodes` in the order of their ids; the first one is the preferred leader."""

    id: ShardId
    slots: tuple[SlotRange, ...]
    nodes: tuple[NodeSpec, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole cluster. `ConfigError` (one line, naming shard or node) if it contradicts itself."""

    cluster_id: str
    name: str
    azs: tuple[Az, ...]
    shards: tuple[ShardSpec, ...]  # in the order of their ids
    _nodes: dict[NodeId, NodeSpec] = field(init=False, repr=False, compare=False)
    _shards: dict[ShardId, ShardSpec] = field(init=False, repr=False, compare=False)
    _owners: list[ShardSpec] = field(init=False, repr=False, compare=False)  # by slot

    def __post_init__(self) -> None:
        _check_names(self)
        _check_shards(self)
        nodes = [node for shard in self.shards for node in shard.nodes]
        _check_nodes(nodes, self.azs)
        object.__setattr__(self, "_nodes", {node.id: node for node in nodes})
        object.__setattr__(self, "_shards", {shard.id: shard for shard in self.shards})
        object.__setattr__(self, "_owners", _owners(self.shards))

    @property
    def nodes(self) -> tuple[NodeSpec, ...]:
        """All nodes, in the order of their ids."""
        return tuple(self._nodes.values())

    def node(self, node_id: NodeId) -> NodeSpec:
        """KeyError if there is none."""
        return self._nodes[node_id]

    def shard(self, shard_id: ShardId) -> ShardSpec:
        """KeyError if there is none."""
        return self._shards[shard_id]

    def nodes_in(self, az: Az) -> tuple[NodeSpec, ...]:
        """The nodes of one AZ, in the order of their ids."""
        return tuple(node for node in self._nodes.values() if node.az == az)

    def shard_of_slot(self, slot: Slot) -> ShardSpec:
        """Who owns the slot according to the description. IndexError outside 0 … 16383."""
        return self._owners[slot]


# -- checks ------------------------------------------------------------------------------------------------


def _check_names(topology: Topology) -> None:
    if not NAME_PATTERN.fullmatch(topology.name):
        raise ConfigError(f"name: {topology.name!r} must be letters, digits, '.', '_' and '-'")
    if not NAME_PATTERN.fullmatch(topology.cluster_id):
        raise ConfigError(f"cluster_id: {topology.cluster_id!r} must be letters, digits, '.', '_' and '-'")
    check_azs(topology.azs)


def check_azs(azs: Sequence[Az]) -> None:
    """ConfigError unless the AZs are at least one, well named, and distinct."""
    if not azs:
        raise ConfigError("azs: at least one availability zone is needed")
    for az in azs:
        if not NAME_PATTERN.fullmatch(az):
            raise ConfigError(f"azs: {az!r} must be letters, digits, '.', '_' and '-'")
    for az, count in sorted(Counter(azs).items()):
        if count > 1:
            raise ConfigError(f"azs: {az} is named twice")


def _check_shards(topology: Topology) -> None:
    shards = topology.shards
    if not 1 <= len(shards) <= SHARDS_MAX:
        raise ConfigError(f"shards: there must be 1 to {SHARDS_MAX}, not {len(shards)}")
    previous = ""
    for shard in shards:
        if not SHARD_ID_PATTERN.fullmatch(shard.id):
            raise ConfigError(f"shard {shard.id!r}: id must be four digits")
        if shard.id <= previous:
            reason = "is used twice" if shard.id == previous else "is out of order"
            raise ConfigError(f"shard {shard.id}: id {reason}")
        previous = shard.id
        if not any(not node.journal_only for node in shard.nodes):
            raise ConfigError(f"shard {shard.id}: at least one node must not be journal_only")


def _check_nodes(nodes: Sequence[NodeSpec], azs: Sequence[Az]) -> None:
    ports: dict[tuple[str, int], NodeSpec] = {}
    previous = ""
    for node in nodes:
        where = f"node {node.id}"
        if not NODE_ID_PATTERN.fullmatch(node.id) or not node.id.startswith(node.shard + "-"):
            raise ConfigError(f"node {node.id!r}: id must be its shard's and three digits, {node.shard}-001")
        if node.id <= previous:
            reason = "is used twice" if node.id == previous else "is out of order"
            raise ConfigError(f"{where}: id {reason}")
        previous = node.id
        if node.az not in azs:
            raise ConfigError(f"{where}: az {node.az!r} is not one of {', '.join(azs)}")
        if not HOST_PATTERN.fullmatch(node.host):
            raise ConfigError(f"{where}: host {node.host!r} is no host name or address")
        for key, port in (("port", node.port), ("peer_port", node.peer_port)):
            if not 1 <= port <= PORT_MAX:
                raise ConfigError(f"{where}: {key} {port} is not between 1 and {PORT_MAX}")
            other = ports.setdefault((node.host, port), node)
            if other is not node or (key == "peer_port" and node.port == port):
                raise ConfigError(f"{where}: {key} {port} on {node.host} is already used by node {other.id}")


def _owners(shards: Sequence[ShardSpec]) -> list[ShardSpec]:
    """Shard of each slot; ConfigError unless every slot has exactly one."""
    owners: list[ShardSpec | None] = [None] * SLOT_COUNT
    for shard in shards:
        for first, last in shard.slots:
            if not 0 <= first <= last < SLOT_COUNT:
                raise ConfigError(f"shard {shard.id}: slots {first}-{last} are not within 0-{SLOT_COUNT - 1}")
            for slot in range(first, last + 1):
                other = owners[slot]
                if other is not None:
                    raise ConfigError(f"shard {shard.id}: slot {slot} already belongs to shard {other.id}")
                owners[slot] = shard
    owned = [owner for owner in owners if owner is not None]
    if len(owned) < SLOT_COUNT:
        raise ConfigError(f"shards: slot {owners.index(None)} belongs to no shard")
    return owned


def check_placement(topology: Topology) -> list[str]:
    """One sentence for each shard that would have no majority of voters after the loss of some one AZ."""
    found: list[str] = []
    for shard in topology.shards:
        members = Counter(node.az for node in shard.nodes)
        voters = len(shard.nodes)
        for az in sorted(members):
            left = voters - members[az]
            if left <= voters // 2:
                found.append(
                    f"shard {shard.id}: without {az} only {left} of its {voters} voters are left, no majority"
                )
                break
    return found


# -- a new cluster -----------------------------------------------------------------------------------------


def even_slot_ranges(shards: int) -> list[SlotRange]:
    """All slots in so many contiguous ranges whose sizes differ by one at most; 1 ≤ shards ≤ 16384."""
    assert 1 <= shards <= SLOT_COUNT, "every shard needs a slot"
    bounds = [index * SLOT_COUNT // shards for index in range(shards + 1)]
    return [SlotRange(Slot(bounds[i]), Slot(bounds[i + 1] - 1)) for i in range(shards)]


def voters_needed(full_nodes: int) -> int:
    """The next odd number, at least 3: then any AZ of three can go (see the module)."""
    return max(3, full_nodes | 1)


def plan_topology(
    *,
    name: str,
    cluster_id: str,
    shards: int,
    replicas: int,
    azs: Sequence[Az],
    host: str,
    base_port: int,
) -> Topology:
    """Lay out a new cluster: replicas + 1 full nodes a shard, journal-only ones up to an odd number of
    voters.

    Ports count up from `base_port` in the order of the node ids, peer ports 10,000 above. ConfigError when it
    cannot be done. Whether the layout survives the loss of an AZ, ask `check_placement`.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise ConfigError(f"shards: {shards} is not between 1 and {SHARDS_MAX}")
    if not 0 <= replicas <= REPLICAS_MAX:
        raise ConfigError(f"replicas: {replicas} is not between 0 and {REPLICAS_MAX}")
    check_azs(azs)
    members = voters_needed(replicas + 1)
    highest = base_port + PEER_PORT_OFFSET + shards * members - 1
    if base_port < 1 or highest > PORT_MAX:
        raise ConfigError(
            f"port: {shards * members} nodes from port {base_port} on would need ports up to {highest}, "
            f"which is above {PORT_MAX}"
            if base_port >= 1
            else f"port: {base_port} is not between 1 and {PORT_MAX}"
        )
    planned = []
    for index, slots in enumerate(even_slot_ranges(shards)):
        shard = ShardId(f"{index + 1:04}")
        nodes = tuple(
            NodeSpec(
                id=NodeId(f"{shard}-{member + 1:03}"),
                shard=shard,
                az=azs[(index + member) % len(azs)],
                host=host,
                port=base_port + index * members + member,
                peer_port=base_port + index * members + member + PEER_PORT_OFFSET,
                journal_only=member > replicas,
            )
            for member in range(members)
        )
        planned.append(ShardSpec(shard, (slots,), nodes))
    return Topology(cluster_id=cluster_id, name=name, azs=tuple(azs), shards=tuple(planned))


# -- the names that Redis clients know ---------------------------------------------------------------------


def redis_node_id(cluster_id: str, node_id: NodeId) -> str:
    """The node's 40 hex digits in CLUSTER NODES. Stable as long as the description is."""
    return hashlib.sha1(f"{cluster_id}/node/{node_id}".encode(), usedforsecurity=False).hexdigest()


def redis_shard_id(cluster_id: str, shard_id: ShardId) -> str:
    """The shard's 40 hex digits in CLUSTER MYSHARDID."""
    return hashlib.sha1(f"{cluster_id}/shard/{shard_id}".encode(), usedforsecurity=False).hexdigest()
