"""What we need of a Redis engine, as a Protocol that Valkey and the model engine both fill.

An engine is told what to do by methods that return at once, and answers later by calling its `EngineEvents`.
It lives in one of these states:

    stopped ──boot──> booting ──on_booted──> replica ──promote──> primary ──demote──> replica
       ^                                                                                 |
       └──────────────────────────── kill / on_died (from any state) ────────────────────┘

* As a **replica** the engine asks for the stream (`on_feed_requested`); the node answers with `feed_full` or
  `feed_continue` and from then on writes committed effect bytes with `feed`. It never expires or evicts on
  its own.
* As a **primary** it executes what lanes send it and reports every effect, in order, by `on_effects` (the
  tap).
* A **lane** is one client connection to the engine. Bytes in, reply bytes out, strictly in order. A lane
  may be opened in either state; `demote`, `kill` and death close all of them (`on_lane_closed`).

Offsets are Valkey's replication offsets and equal positions in the shard's effect stream.
"""

from collections.abc import Callable
from typing import Protocol

from cluster.types import Offset

EMPTY_STREAM = Offset(0)


class Lane(Protocol):
    """One connection to the engine, RESP2 from the start."""

    def write(self, data: bytes) -> None:
        """Send RESP commands. Ignored once closed."""
        ...

    def close(self) -> None:
        """Drop the connection; neither data nor `closed` is reported afterwards. Idempotent."""
        ...


class EngineEvents(Protocol):
    """What an engine reports. Called from the loop, never from inside a method of `Engine`."""

    def on_booted(self, version: str, command_table: object) -> None:
        """The process answers. `command_table` is its COMMAND reply as hiredis parses it (lists, bytes,
        ints)."""
        ...

    def on_feed_requested(self, offset: Offset | None) -> None:
        """The engine, as a replica, wants the stream: it holds exactly `offset` bytes of it, or nothing
        usable (None)."""
        ...

    def on_feed_drained(self) -> None:
        """After `feed_full_up()` was true: there is room for more."""
        ...

    def on_feed_lost(self) -> None:
        """The feed connection broke. The engine reconnects by itself (`on_feed_requested`)."""
        ...

    def on_offset(self, offset: Offset) -> None:
        """Answer to `ask_offset`: everything before `offset` has been applied."""
        ...

    def on_promoted(self, offset: Offset) -> None:
        """The engine is a primary, stands at `offset`, and the tap is open from there."""
        ...

    def on_effects(self, data: bytes) -> None:
        """The next bytes of the effect stream, in order, no gap, cut anywhere."""
        ...

    def on_tap_lost(self) -> None:
        """The tap broke and could not be resumed without a gap: this engine can no longer be primary."""
        ...

    def on_died(self, reason: str) -> None:
        """The engine is gone (exit, kill, failed start, hung). All lanes are closed without further
        events."""
        ...


class Engine(Protocol):
    """One engine. All methods return at once; results come by `EngineEvents`."""

    def boot(self) -> None:
        """Start empty, as a replica of this node. → on_booted, then on_feed_requested(None); or on_died."""
        ...

    def feed_full(self, offset: Offset, rdb: bytes) -> None:
        """Answer to on_feed_requested: throw everything away, load `rdb`, stand at `offset`. b"" = empty
        data set."""
        ...

    def feed_continue(self, offset: Offset) -> None:
        """Answer to on_feed_requested(offset): keep what you have, more follows from `offset`."""
        ...

    def feed(self, data: bytes) -> None:
        """Committed effects, next in order. Only after feed_full / feed_continue."""
        ...

    def feed_full_up(self) -> bool:
        """True while more than a few MB wait in the feed: stop feeding until on_feed_drained."""
        ...

    def ask_offset(self) -> None:
        """→ on_offset, once the engine stands in the stream. Poll until it is what you need.

        Until then (loading, feed down, no answer given yet) several asks may get one answer.
        """
        ...

    def promote(self) -> None:
        """Become primary at the current offset and open the tap. → on_promoted, or on_died.

        Of what was fed, only what the engine has already applied is kept: wait for `on_offset` first.
        """
        ...

    def demote(self) -> None:
        """Stop being primary: close all lanes, stop accepting writes. → on_feed_requested(offset it stands
        at)."""
        ...

    def open_lane(self, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> Lane:
        """A new connection; writes are buffered until it is up."""
        ...

    def ask_digest(self, on_digest: Callable[[Offset, str], None]) -> None:
        """40 hex digits over the whole data set and the offset it was taken at (equal offset ⇒ equal digest).

        Answered once the engine stands in the stream; never if it dies before.
        """
        ...

    def kill(self) -> None:
        """End it now. No event follows. Idempotent."""
        ...
