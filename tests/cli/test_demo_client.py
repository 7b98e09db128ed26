"""The demo's client never sends a command twice by itself, and says "refused" only when that is certain.

Against a small server on loopback that plays a one-node cluster and counts what arrives.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import hiredis
import pytest
import redis

from cluster.runtime.demo_check import Outcome
from cluster.runtime.demo_client import classify, connect


class OneNodeCluster:
    """Answers what redis-py asks when it connects; does with INCR what the test says."""

    def __init__(self, on_incr: bytes | None) -> None:
        self.on_incr = on_incr  # the answer; None = close the connection; b"" = say nothing
        self.incr_count = 0
        self.closing = False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        while not self.closing:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self.serve, args=(connection,), daemon=True)
            self.threads.append(thread)
            thread.start()

    def serve(self, connection: socket.socket) -> None:
        reader = hiredis.Reader()
        with connection:
            while data := self.receive(connection):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    answer = self.answer([bytes(part) for part in command])
                    if answer is None:
                        return
                    connection.sendall(answer)

    def receive(self, connection: socket.socket) -> bytes:
        try:
            return connection.recv(65536)
        except OSError:
            return b""

    def answer(self, command: list[bytes]) -> bytes | None:
        name = command[0].upper()
        if name == b"INCRBY":  # what redis-py sends for incr()
            self.incr_count += 1
            return self.on_incr
        if name == b"HELLO":
            return b"-ERR unknown command 'HELLO'\r\n" if len(command) < 2 else b"%1\r\n+proto\r\n:3\r\n"
        if name == b"CLUSTER":
            node = b"*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$40\r\n%s\r\n" % (self.port, b"a" * 40)
            return b"*1\r\n*3\r\n:0\r\n:16383\r\n" + node
        if name == b"COMMAND":
            return b"*1\r\n*6\r\n$6\r\nincrby\r\n:3\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n"
        return b"+OK\r\n"

    def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone does not
        self.listener.close()
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@contextmanager
def serving(on_incr: bytes | None) -> Iterator[OneNodeCluster]:
    server = OneNodeCluster(on_incr)
    try:
        yield server
    finally:
        server.close()


def increment(server: OneNodeCluster, timeout_s: float = 5.0) -> Exception:
    client = connect([("127.0.0.1", server.port)], timeout_s)
    try:
        with pytest.raises(Exception) as caught:
            client.incr("n")
        return caught.value
    finally:
        client.close()


def test_a_connection_lost_after_sending_is_in_doubt_and_never_sent_again() -> None:
    with serving(None) as server:
        error = increment(server)
        assert isinstance(error, redis.exceptions.ConnectionError)
        assert classify(error) is Outcome.IN_DOUBT
        assert server.incr_count == 1


def test_a_timeout_is_in_doubt_and_never_sent_again() -> None:
    with serving(b"") as server:
        error = increment(server, timeout_s=0.2)
        assert classify(error) is Outcome.IN_DOUBT
        assert server.incr_count == 1


@pytest.mark.parametrize("answer", [b"-INDOUBT leadership lost", b"-ERR something else", b"-UNBLOCKED x"])
def test_an_error_that_does_not_say_so_is_in_doubt(answer: bytes) -> None:
    with serving(answer + b"\r\n") as server:
        assert classify(increment(server)) is Outcome.IN_DOUBT
        assert server.incr_count == 1


@pytest.mark.parametrize(
    "answer", [b"-CLUSTERDOWN no primary", b"-LOADING rebuilding", b"-READONLY a replica", b"-CROSSSLOT keys"]
)
def test_an_error_by_which_nothing_was_executed_is_refused_and_not_sent_again(answer: bytes) -> None:
    with serving(answer + b"\r\n") as server:
        assert classify(increment(server)) is Outcome.REFUSED
        assert server.incr_count == 1


def test_redirects_without_end_are_refused() -> None:
    with serving(b"") as server:
        server.on_incr = b"-MOVED 0 127.0.0.1:%d\r\n" % server.port
        error = increment(server)
        assert classify(error) is Outcome.REFUSED
        assert server.incr_count == 16  # redis-py's own bound, each answered by "not executed"


def test_a_refused_connection_is_refused() -> None:
    with serving(b":1\r\n") as server:
        client = connect([("127.0.0.1", server.port)])
        server.close()
        outcomes = []
        for _ in range(3):
            with pytest.raises(Exception) as caught:
                client.incr("n")
            outcomes.append(classify(caught.value))
        client.close()
    # The first may have gone out on a connection that was open before; the others certainly never left.
    assert outcomes[1:] == [Outcome.REFUSED, Outcome.REFUSED]
    assert server.incr_count == 0
