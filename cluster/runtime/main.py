"""The shell of one node: `python -m cluster.runtime.main --config FILE --node ID --data DIR`.

It gives `cluster.node.Node` what that may not take for itself: a clock, a log on disk, gRPC to the peers,
an engine process, client connections. It decides nothing.

Rules kept here:
1. Any exception that reaches the event loop ends the process, after the engine. A node that has broken an
   assertion must not go on acknowledging.
2. A failed write or fsync ends the process (exit code 74); a corrupt log never starts (65).
3. The clock is CLOCK_BOOTTIME: it goes on while the process is stopped and while the machine is suspended,
   so a lease cannot outlive either. Elsewhere than on Linux it is the monotonic clock.
4. SIGTERM, SIGINT and SIGHUP end the engine, seal the log and exit 0.
"""

import argparse
import asyncio
import ctypes
import gc
import hashlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import grpc
import structlog
import uvloop

from cluster.errors import AzimuthError, ConfigError, EngineError, ReplyError, WalCorrupt, WalFailed
from cluster.front.session import Session
from cluster.node import Node, NodeSettings
from cluster.raft.messages import Entry, HardState, Message
from cluster.runtime.admin import AdminService, register_admin
from cluster.runtime.config import ClusterConfig, check_survives_a_zone, load
from cluster.runtime.transport import PeerTransport
from cluster.runtime.valkey import ValkeyEngine, find_engine
from cluster.runtime.wal import Wal
from cluster.shard.gossip import Gossip
from cluster.types import NodeId

EXIT_USAGE = 64
EXIT_CORRUPT = 65
EXIT_BUG = 70
EXIT_DISK = 74
WAY_OUT = "; see 'A log that cannot be trusted' in docs/operations.md"
TICK_LATE_WARNING_US = 200_000
SEAL_EVERY_TICKS = (
    50  # an idle log says that its last batch was synced, so that rot in it can be told from a tear
)
# The loop shares the interpreter with the log's thread and gRPC's. At the default of 5 ms each may keep it
# waiting that long; a tenth made a gRPC echo's p99 four times shorter.
SWITCH_INTERVAL_S = 0.0005
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
MEMORY_KEPT_BYTES = 256 << 20
WRITE_HIGH_WATER = 1 << 20
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_us() -> int:
    """Microseconds since boot, suspended time included (rule 3)."""
    return time.clock_gettime_ns(_BOOTTIME) // 1000


class ClientConnection(asyncio.Protocol):
    """A client's TCP connection: the session's Transport."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self._reading = True
        self._choked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        peer = transport.get_extra_info("peername") or ("", 0)
        try:
            self._session = self._node.open_session(self, f"{peer[0]}:{peer[1]}")
        except ReplyError as error:
            transport.write(error.resp())
            transport.close()
            return
        self.write = transport.write  # type: ignore[method-assign]  # the hot path: one call less per reply

    def data_received(self, data: bytes) -> None:
        if self._session is not None:
            self._session.receive(data)

    def write(self, data: bytes) -> None:
        """Replaced by the transport's own method in connection_made."""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._session is not None:
            self._node.close_session(self._session)

    def eof_received(self) -> bool:
        return False

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self) -> None:
        self._reading = False
        self._apply_reading()

    def resume_reading(self) -> None:
        self._reading = True
        self._apply_reading()

    def pause_writing(self) -> None:
        """The client doesn't take its replies: take no more commands from it until it does."""
        self._choke(True)

    def resume_writing(self) -> None:
        self._choke(False)

    def _choke(self, choked: bool) -> None:
        self._choked = choked
        self._apply_reading()
        if self._session is not None:
            self._session.choke(choked)

    def _apply_reading(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self._reading and not self._choked:
            transport.resume_reading()
        else:
            transport.pause_reading()


class NodeProcess:
    """`Host` for one node on an asyncio loop, and everything that has to be closed at the end.

    Made without touching anything; `start` takes the addresses first and opens the log only then, so that a
    node which cannot listen leaves no data behind.
    """

    def __init__(self, config: ClusterConfig, node_id: NodeId, data: Path) -> None:
        self.config = config
        self.topology = config.topology
        self.spec = self.topology.node(node_id)
        self.log = structlog.get_logger().bind(node=node_id, shard=self.spec.shard, az=self.spec.az)
        self.loop = asyncio.get_running_loop()
        self.started_us = now_us()
        self.stopped = asyncio.Event()
        self.exit_code = 0
        self.isolated_from: tuple[str, ...] = ()
        self.engine: ValkeyEngine | None = None
        self._data = data
        self._last_tick_us = self.started_us
        self._late_ticks = 0
        self._ticks = 0
        self._binary = None if self.spec.journal_only else find_engine(config.engine_path)
        self._client_server: asyncio.Server | None = None
        self._opened = False  # `wal` and `node` exist
        self.transport = PeerTransport(
            node_id=node_id,
            cluster_id=self.topology.cluster_id,
            listen=(self.spec.host, self.spec.peer_port),
            peers={
                node.id: f"{node.host}:{node.peer_port}" for node in self.topology.nodes if node.id != node_id
            },
            on_messages=lambda peer, messages: self.node.on_peer_messages(peer, messages),
            log=self.log,
        )

    def _open(self) -> None:
        """The log, and the node that lives from it. Raises ConfigError, WalCorrupt, WalFailed."""
        node_id, config, data, binary = self.spec.id, self.config, self._data, self._binary
        _make_directory(data)
        identity = f"{self.topology.cluster_id}/{node_id}"
        self.wal = Wal.open(data / "wal", identity=identity, log=self.log)
        self.wal.start(self.loop.call_soon_threadsafe, self._on_disk_failed)

        def make_engine(node: Node) -> ValkeyEngine:
            assert binary is not None
            self.engine = ValkeyEngine(
                binary=binary,
                directory=data / "engine",
                replication_id=replication_id(self.topology.cluster_id, self.spec.shard),
                events=node,
                log=self.log,
                loop=self.loop,
            )
            return self.engine

        self.node = Node(
            node_id=node_id,
            topology=self.topology,
            settings=NodeSettings(
                raft=config.raft_config(node_id),
                use_lease=config.read_mode == "lease",
                unavailable_wait_us=config.limits.unavailable_wait_ms * 1000,
                sessions_max=config.limits.sessions_max,
                command_bytes_max=config.limits.command_bytes_max,
            ),
            storage=self.wal,
            make_engine=None if binary is None else make_engine,
            host=self,
            rng=random.Random(f"{node_id}{os.getpid()}{self.started_us}"),
            log=self.log,
        )
        self._opened = True

    # -- Host ------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        return time.clock_gettime_ns(_BOOTTIME) // 1000

    def send(self, to: NodeId, message: Message | Gossip) -> None:
        self.transport.send(to, message)

    def persist(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None]
    ) -> None:
        self.wal.append(hard_state, entries, on_durable)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.loop.call_soon(callback)

    def call_later(self, delay_us: int, callback: Callable[[], None]) -> None:
        self.loop.call_later(delay_us / 1e6, callback)

    # -- life ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises ConfigError, WalCorrupt, WalFailed; `close` is due in any case."""
        self.loop.set_exception_handler(self._on_loop_exception)
        admin = AdminService(self)
        clients = None if self.spec.journal_only else _bind(self.spec.host, self.spec.port)
        try:
            await self.transport.bind(lambda server: register_admin(server, admin))
            self._open()
            if clients is not None:
                self._client_server = await self._listen(clients)
        except BaseException:
            if clients is not None:
                clients.close()
            raise
        await self.transport.start()
        self.node.start()
        self._tick()
        self.log.info("node_started", port=self.spec.port, peer_port=self.spec.peer_port, pid=os.getpid())

    async def _listen(self, bound: socket.socket) -> asyncio.Server:
        try:
            return await self.loop.create_server(
                lambda: ClientConnection(self.node), sock=bound, backlog=1024
            )
        except OSError as error:  # somebody else bound it at the same time, and listened first
            raise ConfigError(
                f"cannot listen on {self.spec.host}:{self.spec.port}: {os.strerror(error.errno or 0)}"
            ) from None

    def _tick(self) -> None:
        if self.stopped.is_set():
            return
        now = self.now_us()
        if now - self._last_tick_us > TICK_LATE_WARNING_US:
            self._late_ticks += 1
            self.log.warning("tick_late", late_ms=(now - self._last_tick_us) // 1000)
        self._last_tick_us = now
        self.node.on_tick()
        self._ticks += 1
        if self._ticks % SEAL_EVERY_TICKS == 0:
            self.wal.seal()
        self.loop.call_later(self.node.settings.raft.tick_ms / 1000, self._tick)

    def isolate(self, azs: Sequence[str]) -> None:
        """Fault injection: cut the links to and from the nodes of these AZs."""
        self.isolated_from = tuple(sorted(azs))
        blocked = {node.id for node in self.topology.nodes if node.az in azs and node.id != self.spec.id}
        self.transport.set_blocked(blocked)
        self.log.warning("links_cut" if blocked else "links_healed", azs=list(self.isolated_from))

    def stop(self, exit_code: int = 0) -> None:
        if not self.stopped.is_set():
            self.exit_code = exit_code
            self.stopped.set()

    async def close(self) -> None:
        if self._opened:
            self.node.stop()
        if self._client_server is not None:
            self._client_server.close()
        await self.transport.close()
        if self._opened:
            self.wal.close()
        self.log.info("node_stopped", exit_code=self.exit_code)

    @property
    def engine_pid(self) -> int:
        """Process id of the engine; 0 when there is none now."""
        return self.engine.pid or 0 if self.engine is not None else 0

    def counters(self) -> dict[str, int]:
        """Numbers that only grow, and a few that tell the present load."""
        return {
            "sessions": len(self.node.sessions),
            "commands": self.node.commands_seen(),
            "late_ticks": self._late_ticks,
            **{f"wal_{name}": value for name, value in self.wal.counters.items()},
            **{f"peer_{name}": value for name, value in self.transport.counters.items()},
        }

    # -- failures --------------------------------------------------------------------------------------

    def _on_disk_failed(self, error: BaseException) -> None:
        self.log.error("disk_failed", error=str(error))
        self._die(EXIT_DISK)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, (ConnectionError, TimeoutError)):
            self.log.debug("connection_error", error=str(error))
            return
        if self.stopped.is_set():
            return
        self.log.error(
            "bug",
            message=str(context.get("message")),
            exc_info=error if isinstance(error, BaseException) else None,
        )
        self._die(EXIT_BUG)

    def _die(self, exit_code: int) -> None:
        """At once, engine first; nothing after this may acknowledge anything."""
        try:
            self.node.stop()
        finally:
            os._exit(exit_code)


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket. It does not listen yet, so that clients go elsewhere while the log is being opened.
    Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return bound


def _make_directory(path: Path) -> None:
    """Raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--data {path}: not a directory") from None
    except OSError as error:
        raise ConfigError(f"--data {path}: {error.strerror}") from None


def replication_id(cluster_id: str, shard: str) -> str:
    """The 40 hex digits under which a shard's effect stream is known to all its engines."""
    return hashlib.sha1(f"{cluster_id}/{shard}".encode()).hexdigest()


def keep_memory() -> None:
    """Let the allocator keep what it was given, up to MEMORY_KEPT_BYTES at the end of its heap.

    glibc maps large blocks one by one and gives them back, so every copy of a large value touches fresh
    pages: a page fault for each 4 KB, six times what the copy itself costs, on the loop. Does nothing
    elsewhere than on glibc.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, MEMORY_KEPT_BYTES)


def configure_logging() -> None:
    """JSON lines on stderr."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


async def serve(config: ClusterConfig, node_id: NodeId, data: Path) -> int:
    process = NodeProcess(config, node_id, data)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Also in place of a handler that raises: uvloop does not survive one. `nohup` is obeyed.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, process.stop)
    try:
        await process.start()
        # What exists now lives as long as the process: keep it out of every later collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        await process.stopped.wait()
    except Exception as error:
        process.exit_code = exit_code_of(error)
        raise
    finally:
        process.stopped.set()
        await process.close()
    return process.exit_code


def exit_code_of(error: BaseException) -> int:
    """What a node that ends with this error tells its supervisor (docs/operations.md)."""
    match error:
        case WalCorrupt():
            return EXIT_CORRUPT
        case ConfigError() | EngineError():
            return EXIT_USAGE
        case WalFailed():
            return EXIT_DISK
        case _:
            return EXIT_BUG


def run(config_path: Path, node_id: str, data: Path | None) -> int:
    """Run a node in the foreground until SIGTERM; returns the exit code. Raises AzimuthError of one clear
    line."""
    config = load(config_path)
    check_survives_a_zone(config, config_path)
    if node_id not in {node.id for node in config.topology.nodes}:
        known = ", ".join(node.id for node in config.topology.nodes)
        raise ConfigError(f"no node {node_id} in {config_path}; it has {known}")
    configure_logging()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    keep_memory()
    directory = data or config_path.parent / "nodes" / node_id
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(config, NodeId(node_id), directory))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.runtime.main", description="Run one Azimuth node."
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args(argv)
    try:
        return run(options.config, options.node, options.data)
    except (AzimuthError, grpc.RpcError) as error:
        advice = WAY_OUT if isinstance(error, WalCorrupt) else ""
        print(f"azimuth: {error}{advice}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
