"""`azimuth up` and `down` without their words: plan, check, create, start, wait; undo what fails half-way.

Options left out take their default for a new cluster, and for an existing one they take what is saved.
Options that contradict the saved description are an error that says which: a cluster is not reshaped by a
start option.
"""

import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.az.topology import PEER_PORT_OFFSET, check_placement, plan_topology
from cluster.errors import ConfigError
from cluster.raft.config import RaftConfig
from cluster.runtime.config import ClusterConfig, check_survives_a_zone
from cluster.runtime.engine_trial import try_engine
from cluster.runtime.launcher import Launcher, Progress, check_ports_free, port_is_free
from cluster.runtime.processes import uninterrupted
from cluster.runtime.valkey_binary import check_engine, find_engine
from cluster.types import Az, NodeId

HOST = "127.0.0.1"
DEFAULT_SHARDS = 3
DEFAULT_REPLICAS = 2
DEFAULT_AZS = ("az-a", "az-b", "az-c")
DEFAULT_PORT = 7001
BASE_PORT_LEAST = 10_000
EPHEMERAL_PORT_LEAST = 32_768  # from here on Linux gives ports to outgoing connections; others begin higher
ELECTION_TIMEOUT_MS_LEAST = 30  # Raft's clock ticks every 10 ms


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user asked for; None = not said."""

    shards: int | None = None
    replicas: int | None = None
    azs: tuple[str, ...] | None = None
    port: int | None = None
    engine: str | None = None
    election_timeout_ms: tuple[int, int] | None = None
    allow_unsafe_placement: bool = False


@dataclass(frozen=True, slots=True)
class UpResult:
    created: bool  # a new cluster
    started: list[NodeId]  # empty: it ran already, nothing was changed
    seconds: float  # until every shard served
    warnings: list[str]  # what --allow-unsafe-placement allowed
    failed: dict[NodeId, str]  # nodes that ended again, and why; every shard serves without them


def up(launcher: Launcher, options: UpOptions, on_progress: Progress | None = None) -> UpResult:
    """Make and start the cluster, or start what of it does not run. Raises AzimuthError; then nothing is
    half-done.
    """
    begin = time.monotonic()
    launcher.check_usable()
    if launcher.exists():
        return _up_again(launcher, options, on_progress, begin)
    config = plan(options)
    warnings = check_survives_a_zone(config, launcher.config_path)
    made_directory = launcher.create(config)
    # Whoever cannot get the lock undoes nothing: another `up` has found the description and is at work on it.
    with launcher.locked(on_progress):
        try:
            started, _ = _start_all(launcher, on_progress)
        except BaseException:
            # Also on Ctrl-C: nothing of a cluster that never served is worth keeping.
            with uninterrupted():
                launcher.kill(launcher.node_ids())
                launcher.wipe()
                if not made_directory:
                    launcher.directory.mkdir(mode=0o700, exist_ok=True)
            raise
    return UpResult(True, started, time.monotonic() - begin, warnings, {})


def _up_again(launcher: Launcher, options: UpOptions, on_progress: Progress | None, begin: float) -> UpResult:
    config = launcher.config
    check_agrees(config, options)
    warnings = check_survives_a_zone(config, launcher.config_path)
    with launcher.locked(on_progress):
        if len(launcher.running()) == len(launcher.node_ids()):
            return UpResult(False, [], time.monotonic() - begin, warnings, {})
        engine = find_engine(config.engine_path)
        check_engine(engine)
        try_engine(engine)
        before = set(launcher.running())
        try:
            started, failed = _start_all(launcher, on_progress, spare_the_rest=True)
        except BaseException:
            with uninterrupted():
                launcher.stop([node for node in launcher.node_ids() if node not in before])
            raise
    return UpResult(False, started, time.monotonic() - begin, warnings, failed)


def _start_all(
    launcher: Launcher, on_progress: Progress | None, spare_the_rest: bool = False
) -> tuple[list[NodeId], dict[NodeId, str]]:
    """Returns those that were started, and those that have ended since."""
    started = launcher.start(launcher.node_ids())
    if on_progress is not None:
        on_progress(f"started {counted(len(started), 'node')}")
    failed = launcher.wait_serving(on_progress=on_progress, spare_the_rest=spare_the_rest)
    if launcher.state().isolated:
        launcher.apply_isolation()
    return [node for node in started if node not in failed], failed


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def plan(options: UpOptions) -> ClusterConfig:
    """The description of a new cluster, with engine, placement and ports checked. Raises ConfigError,
    EngineError.
    """
    engine = find_engine(options.engine)
    check_engine(engine)
    topology = plan_topology(
        name="azimuth",
        cluster_id=secrets.token_hex(8),
        shards=DEFAULT_SHARDS if options.shards is None else options.shards,
        replicas=DEFAULT_REPLICAS if options.replicas is None else options.replicas,
        azs=[Az(az) for az in options.azs or DEFAULT_AZS],
        host=HOST,
        base_port=DEFAULT_PORT if options.port is None else options.port,
    )
    unsafe = check_placement(topology)
    if unsafe and not options.allow_unsafe_placement:
        raise ConfigError(f"{unsafe[0]} (use three AZs or more, or --allow-unsafe-placement)")
    check_ports_free(topology.nodes)
    try_engine(engine)
    return ClusterConfig(
        topology=topology,
        raft=scaled_raft(options.election_timeout_ms),
        engine_path=None if options.engine is None else str(engine),
        allow_unsafe_placement=bool(unsafe),
    )


def scaled_raft(election_timeout_ms: tuple[int, int] | None) -> RaftConfig:
    """Raft's times for an election timeout; heartbeat and lease keep the proportions of the defaults."""
    if election_timeout_ms is None:
        return RaftConfig()
    low, high = election_timeout_ms
    if low < ELECTION_TIMEOUT_MS_LEAST or high <= low:
        raise ConfigError(
            f"--election-timeout-ms {low},{high}: MIN must be at least {ELECTION_TIMEOUT_MS_LEAST} "
            "and MAX above MIN"
        )
    default = RaftConfig()
    return RaftConfig(
        election_timeout_min_ms=low,
        election_timeout_max_ms=high,
        heartbeat_ms=low * default.heartbeat_ms // default.election_timeout_min_ms,
        lease_ms=low * default.lease_ms // default.election_timeout_min_ms,
    )


def check_agrees(config: ClusterConfig, options: UpOptions) -> None:
    """ConfigError if an option was given that contradicts the saved cluster."""
    topology = config.topology
    saved_replicas = sum(not node.journal_only for node in topology.shards[0].nodes) - 1
    saved_engine = config.engine_path
    asked_engine = None if options.engine is None else str(find_engine(options.engine))
    pairs: Sequence[tuple[str, object, object]] = (
        ("--shards", options.shards, len(topology.shards)),
        ("--replicas", options.replicas, saved_replicas),
        ("--azs", options.azs and ",".join(options.azs), ",".join(topology.azs)),
        ("--port", options.port, min(node.port for node in topology.nodes)),
        ("--engine", asked_engine, saved_engine or "the bundled one"),
        (
            "--election-timeout-ms",
            options.election_timeout_ms and "{},{}".format(*options.election_timeout_ms),
            f"{config.raft.election_timeout_min_ms},{config.raft.election_timeout_max_ms}",
        ),
    )
    for name, asked, saved in pairs:
        if asked is not None and asked != saved:
            raise ConfigError(
                f"this cluster was made with {name} {saved}, not {asked}: "
                f"leave {name} out, or use another --dir"
            )


def free_base_port(shards: int, replicas: int, azs: Sequence[str]) -> int:
    """A base port from which all ports of such a cluster are free right now, and none of which the system
    gives to outgoing connections: a zone that is down shall find its own again."""
    chance = random.Random()
    for _ in range(100):
        port = chance.randrange(BASE_PORT_LEAST, EPHEMERAL_PORT_LEAST - PEER_PORT_OFFSET)
        topology = plan_topology(
            name="probe", cluster_id="probe", shards=shards, replicas=replicas,
            azs=[Az(az) for az in azs], host=HOST, base_port=port,
        )  # fmt: skip
        ports = [port for node in topology.nodes for port in (node.port, node.peer_port)]
        if max(ports) < EPHEMERAL_PORT_LEAST and all(port_is_free(HOST, port) for port in ports):
            return port
    raise ConfigError("no free range of ports found")


def down(launcher: Launcher, wipe: bool = False) -> list[NodeId]:
    """End everything; returns the nodes that ran. With `wipe`, delete the data too."""
    launcher.config  # noqa: B018  # where there is no cluster, not even a lock is made
    with launcher.locked():
        ended = launcher.stop(launcher.node_ids())
        if wipe:
            launcher.wipe()
    return ended
