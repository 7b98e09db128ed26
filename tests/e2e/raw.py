"""A Redis Cluster client that hides nothing: one socket a node, no retries, every outcome told.

`call` follows MOVED (the command was not executed, so that is safe) and returns the reply, an error reply as
hiredis.ReplyError. A lost connection or a timeout is `InDoubtError`; a connection that could not be made is
`NotSentError`.
"""

import binascii
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import hiredis

from cluster.runtime.admin_client import AdminClient
from cluster.runtime.launcher import Launcher
from cluster.runtime.up import UpOptions, up
from cluster.types import NodeId

DEFINITE = ("MOVED", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "READONLY", "CROSSSLOT")


class InDoubtError(Exception):
    """The command may or may not have been executed."""


class NotSentError(Exception):
    """It was certainly not."""


class Connection:
    """One socket. `send` and `read` are separate: a test can leave bytes in a paused node's buffer."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 5.0) -> None:
        try:
            self._socket = socket.create_connection(address, timeout=timeout_s)
        except OSError as error:
            raise NotSentError(str(error)) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def send(self, *args: str | bytes | int) -> None:
        try:
            self._socket.sendall(hiredis.pack_command(args))  # type: ignore[arg-type]  # stub: one-tuples
        except OSError as error:
            raise InDoubtError(str(error)) from None

    def read(self) -> object:
        try:
            while (reply := self._reader.gets()) is False:
                data = self._socket.recv(65536)
                if not data:
                    raise InDoubtError("the connection was closed")
                self._reader.feed(data)
        except OSError as error:
            raise InDoubtError(str(error)) from None
        return reply

    def call(self, *args: str | bytes | int) -> object:
        self.send(*args)
        return self.read()

    def close(self) -> None:
        self._socket.close()


def slot_of(key: str) -> int:
    start = key.find("{")
    end = key.find("}", start + 1)
    hashed = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    return binascii.crc_hqx(hashed.encode(), 0) & 16383


def code(reply: object) -> str:
    """First word of an error reply, "" of anything else."""
    return str(reply).split(" ", 1)[0] if isinstance(reply, hiredis.ReplyError) else ""


class Client:
    """Asks any node, goes where MOVED says, remembers who leads a shard."""

    def __init__(self, addresses: Sequence[tuple[str, int]], timeout_s: float = 3.0) -> None:
        self._addresses = list(addresses)
        self._timeout_s = timeout_s
        self._connections: dict[tuple[str, int], Connection] = {}
        self._turn = 0
        self._guess: dict[int, tuple[str, int]] = {}

    def call(self, key: str, *args: str | bytes | int) -> object:
        slot = slot_of(key)
        address = self._guess.get(slot) or self._next()
        reply: object = None
        for _ in range(8):
            try:
                reply = self._connection(address).call(*args)
            except (InDoubtError, NotSentError):
                self._drop(address)
                self._guess.pop(slot, None)
                raise
            if code(reply) != "MOVED":
                self._guess[slot] = address
                return reply
            host, _, port = str(reply).split(" ")[2].rpartition(":")
            address = (host, int(port))
        return reply

    def until_answered(self, key: str, *args: str | bytes | int, within_s: float = 30.0) -> object:
        """Read-only commands only: again and again until a node answers without an error."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                reply = self.call(key, *args)
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
            except (InDoubtError, NotSentError) as error:
                reply = error
            assert time.monotonic() < deadline, f"{args}: {reply!r}"
            time.sleep(0.02)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _next(self) -> tuple[str, int]:
        self._turn += 1
        return self._addresses[self._turn % len(self._addresses)]

    def _connection(self, address: tuple[str, int]) -> Connection:
        if address not in self._connections:
            self._connections[address] = Connection(address, self._timeout_s)
        return self._connections[address]

    def _drop(self, address: tuple[str, int]) -> None:
        connection = self._connections.pop(address, None)
        if connection is not None:
            connection.close()


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.05)


class Cluster:
    """A real cluster of real processes in a directory of its own; a context manager that leaves nothing."""

    def __init__(self, directory: Path, shards: int = 1, replicas: int = 2) -> None:
        self.launcher = Launcher(directory)
        self._options = UpOptions(shards=shards, replicas=replicas, port=free_base_port(shards * 3))

    def __enter__(self) -> "Cluster":
        up(self.launcher, self._options)
        return self

    def __exit__(self, *_: object) -> None:
        if self.launcher.exists():
            self.launcher.kill(self.launcher.node_ids())
            assert not self.launcher.running()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(node.host, node.port) for node in self.launcher.topology.nodes if not node.journal_only]

    def address(self, node: NodeId) -> tuple[str, int]:
        spec = self.launcher.topology.node(node)
        return spec.host, spec.port

    def client(self) -> Client:
        return Client(self.addresses)

    def again(self) -> None:
        """`up` on the same data."""
        up(self.launcher, UpOptions())

    def kill_az(self, az: str) -> None:
        self.launcher.kill(self.launcher.nodes_of_az(az))

    def start_az(self, az: str) -> None:
        self.launcher.start(self.launcher.nodes_of_az(az))

    def az_of(self, node: NodeId) -> str:
        return self.launcher.topology.node(node).az

    def primary(self, shard: str = "0001", but: str = "", within_s: float = 60.0) -> NodeId:
        """Wait for a serving primary of the shard other than `but`."""
        found: list[NodeId] = []
        with AdminClient(self.launcher.topology.nodes) as admin:

            def look() -> bool:
                nodes = [node for node in self.launcher.node_ids() if node.startswith(shard)]
                answers = admin.statuses(nodes, timeout_s=0.5)
                serving = {
                    node: answer.term
                    for node, answer in answers.items()
                    if answer.serving == "primary" and node != but
                }
                found[:] = sorted(serving, key=lambda node: serving[node])[-1:]
                return bool(found)

            wait_for(look, f"a primary of shard {shard}", within_s)
        return found[0]

    def engine_pid(self, node: NodeId) -> int:
        with AdminClient(self.launcher.topology.nodes) as admin:
            return admin.statuses([node])[node].engine_pid

    def assert_replicas_agree(self, within_s: float = 60.0) -> None:
        """Every member of every shard is a primary or replica, at one offset, with one digest."""

        def agree() -> bool:
            with AdminClient(self.launcher.topology.nodes) as admin:
                nodes = self.launcher.node_ids()
                statuses = admin.statuses(nodes)
                digests = admin.digests(nodes)
            if {status.serving for status in statuses.values()} - {"primary", "replica"}:
                return False
            shards = {node[:4] for node in nodes}
            return len(digests) == len(nodes) and all(
                len({(d.offset, d.digest) for node, d in digests.items() if node.startswith(shard)}) == 1
                for shard in shards
            )

        wait_for(agree, "replicas agree", within_s)


def free_base_port(count: int) -> int:
    """A base so that `count` client ports and as many peer ports 10,000 above are free now."""
    for base in range(20_000 + (time.time_ns() // 1000 % 900) * 30, 54_000, count + 1):
        if all(_free(base + number) and _free(base + 10_000 + number) for number in range(count)):
            return base
    raise AssertionError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
