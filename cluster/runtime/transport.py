"""Messages between nodes: one gRPC stream per pair, ordered, with a session, and never in the sender's way.

**One stream per pair.** The node with the smaller id dials; both directions use that stream. The first
frame each way is a hello: protocol version, cluster, who speaks to whom, and the session, which the dialer
draws anew for each stream and the other side echoes. Whoever does not fit is refused with one log line.
After it every frame carries the session and a sequence number; what is of another session or out of
sequence is dropped and ends the stream, so nothing of an older connection is ever believed. A newer stream
of the same peer replaces the older one.

**Sending never blocks and may lose.** Raft tolerates loss. A message for a peer that is not connected,
blocked, or has too much queued is dropped and counted. What is queued when the stream's writer gets its
turn goes into *one* frame: a gRPC message costs a quarter of a millisecond of processor time here whatever
it carries, so nothing may cost one of its own. There is one writer and one reader task per stream, no task
per message. A peer that stopped reading stops its writer by flow control; then its queue fills up to its
bounds and no further.

**Reconnecting.** A dead peer is dialed again after 50 ms, then up to 300 ms with jitter, each time on a
channel of its own: gRPC's own back-off is thus out of play, and a restarted peer is back within a few
hundred ms of listening. A hello that stays unanswered ends the attempt; a stream over which nothing comes,
not even gRPC's pings, ends within seconds.

**Cost.** Frames are raw bytes for gRPC (no serializer objects); retries, bandwidth probes and the global
subchannel pool are off. See docs/performance.md for figures.

Left out: TLS (5/5; `_credentials` would go where the insecure port and channel are made), compression.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import grpc
from grpc import aio

from cluster.errors import ConfigError
from cluster.raft.messages import Message
from cluster.runtime.codec import (
    PROTOCOL_VERSION,
    Frame,
    Hello,
    ProtocolError,
    decode_frame,
    encode_frame,
    encode_hello,
    encode_message,
)
from cluster.shard.gossip import Gossip
from cluster.types import Log, NodeId

_EOF: Any = aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
SERVICE, METHOD = "azimuth.raft.Peer", "Exchange"
GRPC_BYTES_MAX = 80 << 20
MESSAGE_BYTES_MAX = 76 << 20  # an entry of 64 MB and room to spare
FRAME_BYTES_MAX = 4 << 20  # no further message joins a frame of this size
QUEUE_BYTES_MAX = 16 << 20  # one larger message may still enter an empty queue
QUEUE_COUNT_MAX = 4096
BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 0.3
REFUSED_BACKOFF_S = 2.0  # somebody has to change a configuration first
HELLO_TIMEOUT_S = 3.0
STABLE_S = 1.0  # a stream that lived this long was a good one: dial again without back-off

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", GRPC_BYTES_MAX),
    ("grpc.max_receive_message_length", GRPC_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.enable_retries", 0),
]
_CHANNEL_OPTIONS = [
    *_OPTIONS,
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", int(HELLO_TIMEOUT_S * 1000)),  # also how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_http_proxy", 0),
]
_SERVER_OPTIONS = [
    *_OPTIONS,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
]

OnMessages = Callable[[NodeId, Sequence[Message | Gossip]], None]


class _Stream(Protocol):
    """The part of gRPC's stream that both its sides share."""

    def read(self) -> Awaitable[Any]: ...
    def write(self, data: bytes) -> Awaitable[None]: ...


class _Refused(Exception):
    """The other side is not whom we want to talk to. The text says why."""


class Link:
    """One established stream to one peer: a bounded queue, a writer, a reader."""

    def __init__(self, peer: NodeId, session: int, stream: _Stream) -> None:
        self.peer = peer
        self.session = session
        self.queued: deque[bytes] = deque()
        self.queued_bytes = 0
        self.ended = asyncio.Event()
        self._stream = stream
        self._sequence_out = 0
        self._sequence_in = 0
        self._wake = asyncio.Event()

    def push(self, message: bytes) -> bool:
        """False if there is no room."""
        if self.queued and (
            len(self.queued) >= QUEUE_COUNT_MAX or self.queued_bytes + len(message) > QUEUE_BYTES_MAX
        ):
            return False
        self.queued.append(message)
        self.queued_bytes += len(message)
        self._wake.set()
        return True

    def clear(self) -> int:
        """Drop what is queued; returns how many messages that were."""
        count = len(self.queued)
        self.queued.clear()
        self.queued_bytes = 0
        return count

    def next_frame(self) -> bytes:
        """Everything queued, within a frame's size."""
        messages = [self.queued.popleft()]
        size = len(messages[0])
        while self.queued and size + len(self.queued[0]) <= FRAME_BYTES_MAX:
            message = self.queued.popleft()
            size += len(message)
            messages.append(message)
        self.queued_bytes -= size
        self._sequence_out += 1
        return encode_frame(self.session, self._sequence_out, messages)

    def accepts(self, frame: Frame) -> bool:
        """Whether the frame is the next one of this session. If not, the stream is not to be trusted."""
        self._sequence_in += 1
        return frame.session == self.session and frame.sequence == self._sequence_in and frame.hello is None

    async def write_all(self, on_frame_sent: Callable[[int], None]) -> None:
        write = self._stream.write
        while True:
            while not self.queued:  # whoever woke us may have taken it back since
                self._wake.clear()
                await self._wake.wait()
            frame = self.next_frame()
            await write(frame)
            on_frame_sent(len(frame))

    async def read_all(self, on_data: Callable[["Link", bytes], None]) -> None:
        read = self._stream.read
        while (data := await read()) is not _EOF:
            on_data(self, data)

    def end(self) -> None:
        """Nothing more is read or sent; whoever runs the link takes it down."""
        self.ended.set()


class PeerTransport:
    """All streams of one node, and the gRPC server they arrive at.

    `on_messages(peer, messages)` is called on the loop, in the order in which the peer sent. If it raises,
    that is our bug and goes to the loop's exception handler.
    """

    def __init__(
        self,
        *,
        node_id: NodeId,
        cluster_id: str,
        listen: tuple[str, int],
        peers: Mapping[NodeId, str],
        on_messages: OnMessages,
        log: Log,
    ) -> None:
        assert node_id not in peers
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._listen = listen
        self._peers = dict(peers)
        self._on_messages = on_messages
        self._log = log
        self._links: dict[NodeId, Link] = {}
        self._blocked: frozenset[NodeId] = frozenset()
        self._server: aio.Server | None = None
        self._dialers: list[asyncio.Task[None]] = []
        self._complaints: dict[str, str] = {}  # peer or address -> what was last logged about it
        self._closing = False
        self.port = listen[1]
        self.counters = {
            "messages_sent": 0,
            "messages_received": 0,
            "messages_dropped": 0,  # not connected, blocked, queue full, too large
            "frames_sent": 0,
            "frames_received": 0,
            "frames_ignored": 0,  # of another session, out of sequence, or from a blocked peer
            "bytes_sent": 0,
            "bytes_received": 0,
            "connects": 0,
            "refusals": 0,
        }

    async def bind(self, extra_services: Callable[[aio.Server], None] | None = None) -> None:
        """Take the address; nobody is answered yet. `extra_services` registers further services on the same
        server. Raises ConfigError if the address cannot be had. `port` is the real one afterwards, if 0 was
        asked for."""
        server = aio.server(options=_SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)  # without serializers: bytes
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        if extra_services is not None:
            extra_services(server)
        host, port = self._listen
        try:
            self.port = server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            self.port = 0
        if self.port == 0:
            await server.stop(None)
            raise ConfigError(f"cannot listen on {host}:{port} for other nodes: is the port in use?")
        self._server = server

    async def start(self, extra_services: Callable[[aio.Server], None] | None = None) -> None:
        """Listen and dial; binds first if that was not done. Raises ConfigError as `bind` does."""
        if self._server is None:
            await self.bind(extra_services)
        assert self._server is not None
        await self._server.start()
        self._dialers = [
            asyncio.create_task(self._dial_forever(peer), name=f"dial {peer}")
            for peer in sorted(self._peers)
            if self._node_id < peer
        ]

    async def close(self) -> None:
        """End all streams and stop listening. Nothing is delivered afterwards, no task remains.
        Idempotent."""
        self._closing = True
        for dialer in self._dialers:
            dialer.cancel()
        for link in list(self._links.values()):
            link.end()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        self._dialers.clear()
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(0.2)
        self._links.clear()

    def send(self, to: NodeId, message: Message | Gossip) -> None:
        """Queue it, or drop it. Never blocks, never raises."""
        link = self._links.get(to)
        if link is None or to in self._blocked:
            self.counters["messages_dropped"] += 1
            return
        encoded = encode_message(message)
        if len(encoded) > MESSAGE_BYTES_MAX:
            self._log.error("peer_message_too_large", peer=to, bytes=len(encoded))
        elif link.push(encoded):
            self.counters["messages_sent"] += 1
            return
        self.counters["messages_dropped"] += 1

    def set_blocked(self, nodes: set[NodeId]) -> None:
        """Fault injection: from now on drop everything from and to exactly these, what is queued for them
        included."""
        self._blocked = frozenset(nodes)
        for node in sorted(nodes):
            link = self._links.get(node)
            if link is not None:
                self.counters["messages_dropped"] += link.clear()

    def connected(self, peer: NodeId) -> bool:
        return peer in self._links and peer not in self._blocked

    # The dialing side

    async def _dial_forever(self, peer: NodeId) -> None:
        """Keep one stream to `peer`, until cancelled."""
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_MIN_S
        while True:
            started = loop.time()
            try:
                await self._dial(peer)
                if loop.time() - started > STABLE_S:
                    backoff = BACKOFF_MIN_S
            except _Refused as error:
                self._complain(peer, "peer_refused_us", str(error))
                backoff = REFUSED_BACKOFF_S
            except Exception as error:
                if not _is_streams_end(error) and not isinstance(error, (TimeoutError, ProtocolError)):
                    self._report_bug(error)
                self._log.debug("peer_unreachable", peer=peer, error=_short(error))
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))
            backoff = min(backoff * 2, BACKOFF_MAX_S)

    async def _dial(self, peer: NodeId) -> None:
        """One stream, from its hello to its end. Raises AioRpcError, TimeoutError, ProtocolError,
        _Refused."""
        session = random.SystemRandom().getrandbits(62)
        async with aio.insecure_channel(self._peers[peer], options=_CHANNEL_OPTIONS) as channel:
            stream = cast(Any, channel).stream_stream(f"/{SERVICE}/{METHOD}")()  # without serializers: bytes
            try:
                async with asyncio.timeout(HELLO_TIMEOUT_S):
                    await stream.write(self._hello(peer, session))
                    answer = await stream.read()
                if answer is _EOF:
                    await self._raise_status(stream)
                self._check_hello(decode_frame(answer), peer, session)
                await self._run(Link(peer, session, stream))
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                    raise _Refused(error.details() or "no reason given") from None
                raise
            finally:
                stream.cancel()

    async def _raise_status(self, stream: Any) -> None:
        """The other side ended the stream without a hello: say why."""
        details = await stream.details() or ""
        if await stream.code() is grpc.StatusCode.FAILED_PRECONDITION:
            raise _Refused(details)
        raise ProtocolError(f"the stream ended before the hello: {details}")

    # The listening side

    async def _exchange(self, _: AsyncIterator[bytes], context: Any) -> None:
        """One stream that a peer opened. Returning ends it."""
        hello: Hello | None = None
        refusal = ""
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                data = await context.read()
            if data is not _EOF:
                hello = self._welcome(decode_frame(data))
                await context.write(self._hello(hello.from_node, hello.session))
        except (ProtocolError, _Refused) as error:
            refusal = str(error)
        except Exception as error:
            if not _is_streams_end(error) and not isinstance(error, TimeoutError):
                self._report_bug(error)
            hello = None
        if refusal:
            self.counters["refusals"] += 1
            self._complain(_address(context), "peer_refused", refusal)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        if hello is not None:
            await self._run(Link(hello.from_node, hello.session, context))

    def _welcome(self, frame: Frame) -> Hello:
        """The hello of a peer that may dial us. Raises ProtocolError, _Refused."""
        hello = frame.hello
        if hello is None:
            raise ProtocolError("the first frame is no hello")
        self._check_hello(frame, hello.from_node, hello.session)
        if hello.from_node not in self._peers:
            raise _Refused(f"{hello.from_node} is not a node of this cluster")
        if hello.from_node >= self._node_id:
            raise _Refused(f"{hello.from_node} must wait to be dialed by {self._node_id}")
        return hello

    # Both sides

    def _hello(self, peer: NodeId, session: int) -> bytes:
        return encode_hello(Hello(PROTOCOL_VERSION, self._cluster_id, self._node_id, peer, session))

    def _check_hello(self, frame: Frame, peer: NodeId, session: int) -> None:
        """Raises ProtocolError, _Refused."""
        hello = frame.hello
        if hello is None or frame.messages or frame.sequence != 0:
            raise ProtocolError("the first frame is no hello")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise _Refused(
                f"{peer} speaks protocol {hello.protocol_version}, {self._node_id} {PROTOCOL_VERSION}"
            )
        if hello.cluster_id != self._cluster_id:
            raise _Refused(f"{peer} is of cluster {hello.cluster_id}, {self._node_id} of {self._cluster_id}")
        if hello.to_node != self._node_id:
            raise _Refused(f"{peer} wants to talk to {hello.to_node}, this is {self._node_id}")
        if hello.from_node != peer or hello.session != session or frame.session != session:
            raise _Refused(f"{hello.from_node} answered in place of {peer}, or in another session")

    async def _run(self, link: Link) -> None:
        """Use an established stream until either side ends it. Only the newest link of a peer counts."""
        if self._closing:
            return
        older = self._links.get(link.peer)
        if older is not None:
            older.end()
        self._links[link.peer] = link
        self._complaints.pop(link.peer, None)
        self.counters["connects"] += 1
        self._log.info("peer_connected", peer=link.peer)
        tasks = [
            asyncio.create_task(link.read_all(self._on_data), name=f"read {link.peer}"),
            asyncio.create_task(link.write_all(self._on_frame_sent), name=f"write {link.peer}"),
            asyncio.create_task(link.ended.wait(), name=f"end {link.peer}"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.end()
            if self._links.get(link.peer) is link:
                del self._links[link.peer]
            self.counters["messages_dropped"] += len(link.queued)
            for task in tasks:
                task.cancel()
            await self._gather(link, tasks)
            if not self._closing:
                self._log.info("peer_disconnected", peer=link.peer)

    async def _gather(self, link: Link, tasks: list[asyncio.Task[Any]]) -> None:
        """A stream may end in any of gRPC's ways; anything else is our bug and must be heard of."""
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, asyncio.CancelledError) or not isinstance(result, BaseException):
                continue
            if _is_streams_end(result):
                self._log.debug("peer_stream_ended", peer=link.peer, error=_short(result))
            else:
                self._report_bug(result)

    def _on_data(self, link: Link, data: bytes) -> None:
        counters = self.counters
        counters["frames_received"] += 1
        counters["bytes_received"] += len(data)
        try:
            frame = decode_frame(data)
        except ProtocolError as error:
            counters["frames_ignored"] += 1
            self._complain(link.peer, "peer_broke_protocol", str(error))
            link.end()
            return
        if link.ended.is_set() or self._closing or not link.accepts(frame):
            counters["frames_ignored"] += 1
            link.end()
            return
        if link.peer in self._blocked:
            counters["frames_ignored"] += 1
            return
        counters["messages_received"] += len(frame.messages)
        try:
            self._on_messages(link.peer, frame.messages)
        except Exception as error:
            self._report_bug(error)

    def _on_frame_sent(self, size: int) -> None:
        self.counters["frames_sent"] += 1
        self.counters["bytes_sent"] += size

    def _report_bug(self, error: BaseException) -> None:
        context = {"message": "handling a peer's messages failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    def _complain(self, who: str, event: str, reason: str) -> None:
        """One log line for each new reason, not one for each attempt."""
        if self._complaints.get(who) != reason:
            self._complaints[who] = reason
            self._log.warning(event, peer=who, reason=reason)


def _address(context: Any) -> str:
    """Host of the other end; its port changes with each attempt and says nothing."""
    with contextlib.suppress(Exception):
        return str(context.peer()).rpartition(":")[0]
    return "unknown"


def _is_streams_end(error: BaseException) -> bool:
    """Whether gRPC raised this because a stream is over. Its server side raises types that it does not
    export."""
    return isinstance(error, asyncio.InvalidStateError) or type(error).__module__.startswith("grpc")


def _short(error: BaseException) -> str:
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name} {error.details()}"
    return f"{type(error).__name__} {error}"
