"""Peer streams over real gRPC on loopback."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc import aio

from cluster.errors import ConfigError
from cluster.raft.messages import AppendEntries, Entry, EntryKind, Message, TimeoutNow
from cluster.runtime import transport as module
from cluster.runtime.codec import Hello, decode_frame, encode_frame, encode_hello, encode_message
from cluster.runtime.transport import Link, PeerTransport
from cluster.shard.gossip import Gossip
from cluster.types import Index, NodeId, Term

A, B = NodeId("0001-001"), NodeId("0001-002")


class RecordingLog:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None: ...

    def info(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    warning = error = info

    def count(self, event: str) -> int:
        return sum(1 for name, _ in self.events if name == event)


class Peer:
    """A transport and what arrived at it."""

    def __init__(self, node_id: NodeId, ports: dict[NodeId, int], cluster_id: str = "c") -> None:
        self.got: list[tuple[NodeId, Message | Gossip]] = []
        self.batches = 0
        self.log = RecordingLog()
        self.transport = PeerTransport(
            node_id=node_id,
            cluster_id=cluster_id,
            listen=("127.0.0.1", ports[node_id]),
            peers={node: f"127.0.0.1:{port}" for node, port in ports.items() if node != node_id},
            on_messages=self.on_messages,
            log=self.log,
        )

    def on_messages(self, peer: NodeId, messages: Sequence[Message | Gossip]) -> None:
        self.batches += 1
        self.got += [(peer, message) for message in messages]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def with_deadline() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(with_deadline())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the conditions are other objects' plain state
        await asyncio.sleep(0.002)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def two_ports() -> dict[NodeId, int]:
    return dict(zip((A, B), free_ports(2), strict=True))


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Peer, Peer]]:
    ports = two_ports()
    a, b = Peer(A, ports), Peer(B, ports)
    try:
        await a.transport.start()
        await b.transport.start()
        await until(lambda: a.transport.connected(B) and b.transport.connected(A))
        yield a, b
    finally:
        await a.transport.close()
        await b.transport.close()


def word(term: int) -> TimeoutNow:
    return TimeoutNow(Term(term))


def big(size: int) -> AppendEntries:
    entry = Entry(Index(1), Term(1), EntryKind.EFFECTS, bytes(size))
    return AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 1)


def test_messages_arrive_in_order_both_ways_and_share_frames() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            for n in range(500):
                a.transport.send(B, word(n))
                b.transport.send(A, word(1000 + n))
            await until(lambda: len(a.got) == len(b.got) == 500)
            assert b.got == [(A, word(n)) for n in range(500)]
            assert a.got == [(B, word(1000 + n)) for n in range(500)]
            assert a.transport.counters["frames_sent"] < 10
            assert b.transport.counters["messages_received"] == 500

    run(test)


def test_messages_of_the_largest_entries_arrive() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            a.transport.send(B, big(64 << 20))
            a.transport.send(B, word(1))
            await until(lambda: len(b.got) >= 1)
            assert b.got[0][1] == big(64 << 20)
            a.transport.send(B, word(2))
            await until(lambda: b.got[-1][1] == word(2))

    run(test)


def test_a_message_too_large_for_a_frame_is_dropped_and_nothing_else() -> None:
    async def test() -> None:
        async with pair() as (a, b):
            a.transport.send(B, big(module.MESSAGE_BYTES_MAX + 1))
            a.transport.send(B, word(1))
            await until(lambda: b.got == [(A, word(1))])
            assert a.transport.counters["messages_dropped"] == 1
            assert a.log.count("peer_message_too_large") == 1

    run(test)


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [A, B])
def test_the_stream_comes_back_after_either_side_was_closed_and_reopened(restarted: NodeId) -> None:
    async def test() -> None:
        ports = two_ports()
        peers = {node: Peer(node, ports) for node in (A, B)}
        try:
            for peer in peers.values():
                await peer.transport.start()
            other = B if restarted == A else A
            for _ in range(3):
                await until(lambda: peers[A].transport.connected(B) and peers[B].transport.connected(A))
                for peer in peers.values():
                    peer.got.clear()
                peers[A].transport.send(B, word(1))
                peers[B].transport.send(A, word(2))
                await until(lambda: peers[B].got == [(A, word(1))] and peers[A].got == [(B, word(2))])
                await peers[restarted].transport.close()
                await until(lambda: not peers[other].transport.connected(restarted))
                peers[restarted] = Peer(restarted, ports)
                await peers[restarted].transport.start()
        finally:
            for peer in peers.values():
                await peer.transport.close()

    run(test)


async def raw_stream(port: int, hello: Hello) -> tuple[aio.Channel, Any]:
    """A stream that says hello and lets the test say the rest."""
    channel: Any = aio.insecure_channel(f"127.0.0.1:{port}", options=module._CHANNEL_OPTIONS)
    stream = channel.stream_stream(f"/{module.SERVICE}/{module.METHOD}")()
    await stream.write(encode_hello(hello))
    return channel, stream


def test_frames_of_another_session_or_out_of_sequence_are_ignored_and_end_the_stream() -> None:
    async def test() -> None:
        ports = two_ports()
        b = Peer(B, ports)
        await b.transport.start()
        try:
            for session, sequence, ignored in ((5, 1, 1), (7, 2, 2), (7, 0, 3)):
                channel, stream = await raw_stream(ports[B], Hello(1, "c", A, B, 7))
                answer = decode_frame(await stream.read())
                assert answer.hello == Hello(1, "c", B, A, 7)
                await stream.write(encode_frame(session, sequence, [encode_message(word(66))]))
                await until(lambda: b.transport.counters["frames_ignored"] == ignored)  # noqa: B023
                await until(lambda: not b.transport.connected(A))
                await channel.close(None)
            assert b.got == []
        finally:
            await b.transport.close()

    run(test)


def test_a_newer_stream_replaces_the_older_one_and_the_older_one_is_not_heard() -> None:
    async def test() -> None:
        ports = two_ports()
        b = Peer(B, ports)
        await b.transport.start()
        try:
            old_channel, old = await raw_stream(ports[B], Hello(1, "c", A, B, 7))
            await old.read()
            new_channel, new = await raw_stream(ports[B], Hello(1, "c", A, B, 8))
            await new.read()
            await until(lambda: b.transport._links[A].session == 8)
            try:
                await old.write(encode_frame(7, 1, [encode_message(word(7))]))
            except (aio.AioRpcError, asyncio.InvalidStateError):
                pass
            await new.write(encode_frame(8, 1, [encode_message(word(8))]))
            await until(lambda: len(b.got) > 0)
            assert b.got == [(A, word(8))]
            assert b.transport.connected(A)
            await old_channel.close(None)
            await new_channel.close(None)
        finally:
            await b.transport.close()

    run(test)


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (Hello(1, "other", A, B, 7), "is of cluster other"),
        (Hello(2, "c", A, B, 7), "speaks protocol 2"),
        (Hello(1, "c", A, NodeId("0001-009"), 7), "wants to talk to 0001-009"),
        (Hello(1, "c", NodeId("0000-009"), B, 7), "not a node of this cluster"),
        (Hello(1, "c", NodeId("0001-003"), B, 7), "must wait to be dialed"),
    ],
)
def test_the_wrong_cluster_version_or_node_is_refused_with_one_line(hello: Hello, reason: str) -> None:
    async def test() -> None:
        ports = dict(zip((A, B, NodeId("0001-003")), free_ports(3), strict=True))
        b = Peer(B, {B: ports[B], A: 1, NodeId("0001-003"): 2})
        await b.transport.start()
        try:
            for _ in range(3):
                channel, stream = await raw_stream(ports[B], hello)
                with pytest.raises(aio.AioRpcError, match=reason):
                    await stream.read()
                await channel.close(None)
            assert not b.transport.connected(hello.from_node)
            lines = [fields["reason"] for event, fields in b.log.events if event == "peer_refused"]
            assert len(lines) == 1 and reason in str(lines[0])
        finally:
            await b.transport.close()

    run(test)


def test_two_clusters_never_connect_and_both_say_why() -> None:
    async def test() -> None:
        ports = two_ports()
        a, b = Peer(A, ports, "one"), Peer(B, ports, "two")
        await a.transport.start()
        await b.transport.start()
        try:
            await until(lambda: a.log.count("peer_refused_us") == 1 and b.log.count("peer_refused") == 1)
            assert not a.transport.connected(B) and not b.transport.connected(A)
        finally:
            await a.transport.close()
            await b.transport.close()

    run(test)


def test_garbage_after_the_hello_ends_the_stream_and_leaves_the_node_well() -> None:
    async def test() -> None:
        ports = two_ports()
        b = Peer(B, ports)
        await b.transport.start()
        try:
            for junk in (b"\xff\xff\xff", encode_frame(7, 1, [b"\x7a\x00"])):
                channel, stream = await raw_stream(ports[B], Hello(1, "c", A, B, 7))
                await stream.read()
                await stream.write(junk)
                await until(lambda: not b.transport.connected(A))
                await channel.close(None)
            assert b.transport.counters["frames_ignored"] == 2
            assert b.log.count("peer_broke_protocol") >= 1
        finally:
            await b.transport.close()

    run(test)


@pytest.mark.parametrize("blocking", [A, B])
def test_blocked_peers_get_nothing_and_are_heard_of_nothing_until_healed(blocking: NodeId) -> None:
    async def test() -> None:
        async with pair() as (a, b):
            peer = a if blocking == A else b
            peer.transport.set_blocked({B if blocking == A else A})
            a.transport.send(B, word(1))
            b.transport.send(A, word(2))
            sender, _ = (b, a) if blocking == A else (a, b)
            await until(lambda: sender.transport.counters["frames_sent"] == 1)
            await until(lambda: peer.transport.counters["frames_ignored"] == 1)
            assert peer.transport.counters["messages_dropped"] == 1
            assert not peer.transport.connected(B if blocking == A else A)
            assert a.got == b.got == []
            peer.transport.set_blocked(set())
            a.transport.send(B, word(3))
            b.transport.send(A, word(4))
            await until(lambda: b.got == [(A, word(3))] and a.got == [(B, word(4))])

    run(test)


def test_a_writer_that_was_woken_for_a_queue_that_was_then_cut_off_waits_for_the_next_message() -> None:
    """`set_blocked` may clear the queue between the wake-up and the writer's turn."""

    class Stream:
        def __init__(self) -> None:
            self.frames: list[bytes] = []

        async def read(self) -> Any: ...

        async def write(self, data: bytes) -> None:
            self.frames.append(data)

    async def test() -> None:
        stream = Stream()
        link = Link(B, 1, stream)
        sizes: list[int] = []
        writer = asyncio.create_task(link.write_all(sizes.append))
        await asyncio.sleep(0)
        assert link.push(b"cut off")
        link.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not writer.done()
        assert link.push(encode_message(word(1)))
        await until(lambda: bool(stream.frames))
        assert decode_frame(stream.frames[0]).messages == [word(1)]
        writer.cancel()

    run(test)


def test_a_peer_that_does_not_read_fills_the_queue_to_its_bounds_and_no_further() -> None:
    async def test() -> None:
        ports = two_ports()
        b = Peer(B, ports)
        await b.transport.start()
        try:
            channel, stream = await raw_stream(ports[B], Hello(1, "c", A, B, 7))
            await stream.read()
            await until(lambda: b.transport.connected(A))
            dropped = b.transport.counters
            while dropped["messages_dropped"] < 50:  # nobody calls stream.read()
                b.transport.send(A, big(1 << 20))
                await asyncio.sleep(0)
            link = b.transport._links[A]
            assert link.queued_bytes <= module.QUEUE_BYTES_MAX
            await channel.close(None)
        finally:
            await b.transport.close()

    run(test)


def test_a_queue_is_bounded_by_count_and_by_bytes_but_takes_one_large_message() -> None:
    async def test() -> None:
        link = Link(A, 1, None)  # type: ignore[arg-type]  # no writer runs
        assert link.push(bytes(module.QUEUE_BYTES_MAX * 2))
        assert not link.push(b"x")
        link = Link(A, 1, None)  # type: ignore[arg-type]  # no writer runs
        accepted = sum(link.push(b"x") for _ in range(module.QUEUE_COUNT_MAX + 10))
        assert accepted == module.QUEUE_COUNT_MAX

    run(test)


def test_sending_to_nobody_is_counted_and_harmless() -> None:
    async def test() -> None:
        a = Peer(A, two_ports())
        a.transport.send(B, word(1))
        a.transport.send(NodeId("no-such"), word(1))
        assert a.transport.counters["messages_dropped"] == 2
        await a.transport.close()

    run(test)


def test_a_port_in_use_is_one_clear_line() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            a = Peer(A, {A: port})
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
                await a.transport.start()
            await a.transport.close()
        ports = {A: free_ports(1)[0]}
        first, second = Peer(A, ports), Peer(A, ports)
        await first.transport.start()
        with pytest.raises(ConfigError, match="cannot listen"):
            await second.transport.start()
        await second.transport.close()
        await first.transport.close()

    run(test)


def test_a_bug_in_the_handler_reaches_the_loop_and_not_the_peer() -> None:
    async def test() -> None:
        seen: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: seen.append(context.get("exception"))
        )
        async with pair() as (a, b):
            bug = AssertionError("ours")

            def raise_it(peer: NodeId, messages: Sequence[Message | Gossip]) -> None:
                raise bug

            b.transport._on_messages = raise_it
            a.transport.send(B, word(1))
            await until(lambda: seen == [bug])
            assert a.transport.connected(B)

    run(test)


def test_close_leaves_no_task() -> None:
    async def test() -> None:
        before = asyncio.all_tasks()
        async with pair() as (a, _):
            a.transport.send(B, word(1))
        await until(lambda: asyncio.all_tasks() == before)

    run(test)


def test_close_while_dialing_a_dead_peer_leaves_no_task() -> None:
    async def test() -> None:
        before = asyncio.all_tasks()
        a = Peer(A, two_ports())
        await a.transport.start()
        await asyncio.sleep(0)
        await a.transport.close()
        await a.transport.close()
        await until(lambda: asyncio.all_tasks() == before)

    run(test)


CHILD = """
import asyncio, sys
from cluster.runtime.transport import PeerTransport
from cluster.types import NullLog
async def main():
    me, my_port, other, other_port = sys.argv[1:]
    transport = PeerTransport(
        node_id=me, cluster_id="c", listen=("127.0.0.1", int(my_port)),
        peers={other: f"127.0.0.1:{other_port}"}, on_messages=lambda peer, messages: None, log=NullLog(),
    )
    await transport.start()
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("child_id", [A, B])
def test_killed_and_stopped_processes_are_survived_and_found_again(child_id: NodeId) -> None:
    ports = two_ports()
    me = A if child_id == B else B
    arguments = [sys.executable, "-c", CHILD, child_id, str(ports[child_id]), me, str(ports[me])]

    def spawn() -> subprocess.Popen[bytes]:
        return subprocess.Popen(arguments)

    async def test() -> None:
        peer = Peer(me, ports)
        await peer.transport.start()
        child: subprocess.Popen[bytes] | None = None
        try:
            for _ in range(2):
                child = spawn()
                await until(lambda: peer.transport.connected(child_id))
                child.kill()
                child.wait()
                await until(lambda: not peer.transport.connected(child_id))
            child = spawn()
            await until(lambda: peer.transport.connected(child_id))
            child.send_signal(signal.SIGSTOP)
            link = peer.transport._links[child_id]
            while peer.transport.counters["messages_dropped"] < 100:
                peer.transport.send(child_id, big(100_000))
                assert link.queued_bytes <= module.QUEUE_BYTES_MAX
                await asyncio.sleep(0)
            child.send_signal(signal.SIGCONT)
            await until(lambda: link.queued_bytes == 0 and peer.transport.connected(child_id))
        finally:
            if child is not None:
                child.kill()
                child.wait()
            await peer.transport.close()

    run(test)
