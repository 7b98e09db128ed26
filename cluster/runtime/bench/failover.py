"""The write gap that a client sees: how long no write is acknowledged when the primary goes.

One client writes all the time, one SET after the other, on plain sockets: it follows MOVED, asks the next
node after any other error or a lost connection, and pauses 2 ms between tries so that it does not steal the
CPU of the election. The gap runs from the last acknowledgement before the longest silence to the first after
it.
"""

import re
import socket
import threading
import time
from collections.abc import Sequence

from cluster.az.topology import NodeSpec
from cluster.runtime.bench.generator import BenchError, encode

TRY_PAUSE_S = 0.002
REPLY_TIMEOUT_S = 1.0
_MOVED = re.compile(rb"-MOVED \d+ ([^:\s]*):(\d+)")


class GapProbe:
    """Writes in a thread of its own between `start` and `stop`."""

    def __init__(self, nodes: Sequence[NodeSpec], first: NodeSpec) -> None:
        self._addresses = [(node.host, node.port) for node in nodes]
        self._at = (first.host, first.port)
        self._socket: socket.socket | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write_on, daemon=True)
        self._count = 0
        self.acked_ns: list[int] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def wait_acked_after(self, moment_ns: int, timeout_s: float = 30.0) -> None:
        """Until a write has been acknowledged after this moment. BenchError at the timeout."""
        deadline = time.monotonic() + timeout_s
        while not self.acked_ns or self.acked_ns[-1] <= moment_ns:
            if time.monotonic() > deadline:
                raise BenchError(f"no write was acknowledged for {timeout_s:.0f} s")
            time.sleep(0.005)

    def longest_gap_ms(self, since_ns: int) -> float:
        """Longest silence that ended after `since_ns`."""
        times = self.acked_ns
        later = [i for i in range(1, len(times)) if times[i] > since_ns]
        if not later:
            raise BenchError("no write was acknowledged after the fault")
        return max(times[i] - times[i - 1] for i in later) / 1e6

    def _write_on(self) -> None:
        while not self._stopped.is_set():
            try:
                good = self._write_once()
            except OSError:
                self._drop()
                self._next_node()
                good = False
            if not good:
                self._stopped.wait(TRY_PAUSE_S)
        self._drop()

    def _write_once(self) -> bool:
        if self._socket is None:
            self._socket = socket.create_connection(self._at, timeout=REPLY_TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._count += 1
        self._socket.sendall(encode(b"SET", b"gap", b"%d" % self._count))
        reply = self._read_line(self._socket)
        if reply == b"+OK":
            self.acked_ns.append(time.monotonic_ns())
            return True
        moved = _MOVED.match(reply)
        if moved is not None:
            self._drop()
            self._at = (moved[1].decode() or self._at[0], int(moved[2]))
        else:
            self._drop()
            self._next_node()
        return False

    def _read_line(self, connection: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n"):
            piece = connection.recv(4096)
            if not piece:
                raise ConnectionError("closed")
            data += piece
        return data[:-2]

    def _next_node(self) -> None:
        place = self._addresses.index(self._at) if self._at in self._addresses else -1
        self._at = self._addresses[(place + 1) % len(self._addresses)]

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
