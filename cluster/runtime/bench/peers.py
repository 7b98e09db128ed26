"""Valkey beside ours: the same binary, run by itself on loopback, in a throw-away directory.

* `plain_valkey`: one server, nothing durable, nothing replicated (P3's peer).
* `durable_valkey`: a primary and two replicas, each `appendonly yes`, `appendfsync always`; with `WAITAOF 1 1
  0` after a write that is the promise closest to ours: on disk at the primary and at one replica of two (P1's
  peer).

Data lie in the same file system as ours would by default, so both sides fsync to the same disk.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from cluster.runtime.bench.generator import BenchError

START_TIMEOUT_S = 20.0


def free_ports(count: int) -> list[int]:
    """Ports on loopback that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def plain_valkey(binary: Path) -> Iterator[int]:
    """One Valkey that keeps everything in memory; yields its port."""
    with _servers(binary, 1, ("--appendonly", "no")) as ports:
        yield ports[0]


@contextmanager
def durable_valkey(binary: Path) -> Iterator[int]:
    """A primary with two replicas, all fsyncing every write; yields the primary's port."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0")
    with _servers(binary, 3, options) as ports:
        for port in ports[1:]:
            with _client(port) as replica:
                replica.replicaof("127.0.0.1", str(ports[0]))
        _wait_replicated(ports[0])
        yield ports[0]


def _client(port: int) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=port, socket_timeout=10)


@contextmanager
def _servers(binary: Path, count: int, options: Sequence[str]) -> Iterator[list[int]]:
    ports = free_ports(count)
    root = Path(tempfile.mkdtemp(prefix="azimuth-bench-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for port in ports:
            directory = root / str(port)
            directory.mkdir()
            argv = [
                str(binary),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(directory),
            ]
            processes.append(
                subprocess.Popen([*argv, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        for port, process in zip(ports, processes, strict=True):
            _wait_answering(port, process)
        yield ports
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _wait_answering(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(redis.RedisError), _client(port) as client:
            client.ping()
            return
        time.sleep(0.02)
    raise BenchError(f"the peer Valkey on port {port} did not start")


def _wait_replicated(port: int) -> None:
    """Until a write is on disk here and at both replicas."""
    deadline = time.monotonic() + START_TIMEOUT_S
    with _client(port) as primary:
        while time.monotonic() < deadline:
            primary.set("warm", "up")
            local, replicas = primary.execute_command("WAITAOF", 1, 2, 1000)
            if local >= 1 and replicas >= 2:
                return
    raise BenchError("the peer Valkey's replicas did not catch up")
