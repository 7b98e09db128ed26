"""The four kinds of connection between a node and its engine, as raw asyncio protocols.

Each knows its own bytes and nothing of the engine's state: what it hears it tells its `Owner`, the `_Life`
in `valkey.py`. asyncio's streams would cost a copy and a task switch per piece, and lanes carry all client
traffic.

Feed and tap speak the replication protocol, once from the primary's side and once from the replica's:

    feed   engine: PING, AUTH, REPLCONF …, PSYNC id offset+1
           us:     +FULLRESYNC … RDB, or +CONTINUE; then effects
    tap    us:     REPLCONF capa eof capa psync2, PSYNC id offset+1
           engine: +CONTINUE; then effects
"""

import asyncio
import hmac
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import hiredis

from cluster.engine.protocol import EngineEvents
from cluster.types import Log, Offset

FEED_HIGH_BYTES = 4 * 1024 * 1024
FEED_LOW_BYTES = 1024 * 1024
HANDSHAKE_BYTES_MAX = 4096
HANDSHAKE_TIMEOUT_S = 10.0


class Owner(Protocol):
    """Whom feeds and taps tell what they hear."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def log(self) -> Log: ...
    @property
    def events(self) -> EngineEvents: ...
    @property
    def secret(self) -> bytes: ...

    def on_psync(self, feed: "Feed", replication_id: bytes, position: bytes) -> None: ...
    def on_feed_drained(self, feed: "Feed") -> None: ...
    def on_feed_lost(self, feed: "Feed") -> None: ...
    def on_tap_open(self, tap: "Tap") -> None: ...
    def on_tap_lost(self, tap: "Tap") -> None: ...
    def on_tap_refused(self, tap: "Tap", answer: bytes) -> None: ...


def command(*words: bytes | str | int) -> bytes:
    return cast(bytes, hiredis.pack_command(cast("tuple[bytes]", words)))


class LaneLink(asyncio.Protocol):
    """A client connection. The hot path of the whole node: no parsing, no copy."""

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_closed: Callable[[], None],
        open_lanes: dict["LaneLink", None],
    ) -> None:
        self._on_data = on_data
        self._on_closed: Callable[[], None] | None = on_closed
        self._transport: asyncio.WriteTransport | None = None
        self._early: list[bytes] = []
        self._open_lanes = open_lanes
        open_lanes[self] = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self._on_closed is None:
            self._transport.abort()
            return
        if self._early:
            self._transport.write(b"".join(self._early))
            self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self._on_closed is not None:
            self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    def write(self, data: bytes) -> None:
        if self._on_closed is None:
            return
        if self._transport is None:
            self._early.append(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Without a word."""
        self._on_closed = None
        self._open_lanes.pop(self, None)
        self._early.clear()
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """Close and say so, once."""
        on_closed = self._on_closed
        self.close()
        if on_closed is not None:
            on_closed()


class Admin(asyncio.Protocol):
    """Orders and their answers, in order."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[Callable[[object], None]] = deque()
        self.answered = 0  # replies ever received: grows as long as the engine is alive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._transport is not None and (reply := self._reader.gets()) is not False:
            self.answered += 1
            self._waiting.popleft()(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._transport = None
            self._on_lost()

    def call(self, on_reply: Callable[[object], None], *words: bytes | str | int) -> None:
        """`on_reply` gets the parsed reply; an error reply is a hiredis.ReplyError. Never called once
        closed."""
        if self._transport is not None:
            self._waiting.append(on_reply)
            self._transport.write(command(*words))

    def close(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


class Feed(asyncio.Protocol):
    """A connection to our feed port: the primary's side of the replication handshake, then a pipe for
    bytes."""

    def __init__(self, life: Owner) -> None:
        self._life = life
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._handshake_bytes = 0
        self._trusted = False
        self._asked = False  # PSYNC came: whatever follows is REPLCONF ACK, or blank lines while it loads
        self._deadline: asyncio.TimerHandle | None = None
        self.full_up = False
        self.reported = False  # the node knows of this connection
        self.offered: Offset | None = None  # what the engine said it holds
        self.answered = False  # PSYNC was: effects may follow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=FEED_HIGH_BYTES, low=FEED_LOW_BYTES)
        self._deadline = self._life.loop.call_later(HANDSHAKE_TIMEOUT_S, self.close)

    def data_received(self, data: bytes) -> None:
        if self._asked:
            return
        self._handshake_bytes += len(data)
        if self._handshake_bytes > HANDSHAKE_BYTES_MAX:
            self.close()
            return
        self._reader.feed(data)
        try:
            while not self._asked and (words := self._reader.gets()) is not False:
                self._oncommand(words)
        except hiredis.ProtocolError:
            self.close()

    def _oncommand(self, words: object) -> None:
        match words:
            case [bytes(name), *rest]:
                pass
            case _:
                self.close()
                return
        match name.upper(), rest:
            case b"AUTH", [bytes(secret)] if hmac.compare_digest(secret, self._life.secret):
                self._trusted = True
                self.write(b"+OK\r\n")
            case b"PING", _:
                self.write(b"+PONG\r\n" if self._trusted else b"-NOAUTH Authentication required.\r\n")
            case b"REPLCONF", _ if self._trusted:
                self.write(b"+OK\r\n")
            case b"PSYNC", [bytes(replication_id), bytes(position)] if self._trusted:
                self._asked = True
                self._cancel_deadline()
                self._life.on_psync(self, replication_id, position)
            case _:
                self._life.log.warning("feed_refused", command=name[:16].decode(errors="replace"))
                self.close()

    def pause_writing(self) -> None:
        self.full_up = True

    def resume_writing(self) -> None:
        self.full_up = False
        self._life.on_feed_drained(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._cancel_deadline()
        self._life.on_feed_lost(self)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        self._cancel_deadline()
        if self._transport is not None:
            self._transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Tap(asyncio.Protocol):
    """Plays replica of our own engine. `offset` is where we stand: everything before it was reported."""

    def __init__(self, life: Owner, replication_id: str, offset: Offset) -> None:
        self._life = life
        self._replication_id = replication_id
        self._transport: asyncio.WriteTransport | None = None
        self._head: bytes = b""
        self._asked = False
        self._closed = False
        self.offset = offset
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)
        if self._closed:
            self._transport.abort()
            return
        self._transport.write(command("REPLCONF", "capa", "eof", "capa", "psync2"))

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if not self.open:
            data = self._take_head(data)
            if not data:
                return
        self.offset = Offset(self.offset + len(data))
        self._life.events.on_effects(data)

    def _take_head(self, data: bytes) -> bytes:
        """Consume the two answers of the handshake; returns the effects that came in the same piece.

        PSYNC must wait for the first answer: it is refused on a connection with unsent output. Blank lines
        may precede an answer.
        """
        line, ending, rest = (self._head + data).lstrip(b"\r\n").partition(b"\r\n")
        self._head = line if not ending else b""
        if not ending:
            return b""
        if not self._asked and line == b"+OK":
            self._asked = True
            assert self._transport is not None
            self._transport.write(command("PSYNC", self._replication_id, self.offset + 1))
            return self._take_head(rest)
        if not line.startswith(b"+CONTINUE"):
            self._life.on_tap_refused(self, line[:80])
            return b""
        self.open = True
        self._life.on_tap_open(self)
        return b"" if self._closed else rest

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._closed:
            self._closed = True
            self._life.on_tap_lost(self)

    def acknowledge(self) -> None:
        """A replica that is silent for repl-timeout is dropped."""
        if self.open and self._transport is not None:
            self._transport.write(command("REPLCONF", "ACK", self.offset))

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
