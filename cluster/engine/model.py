"""`ModelEngine`: an `Engine` in memory. Pure: time and chance come in, events go out through the caller's
`defer`.

What it owns: the states of the Protocol, lanes with their MULTI and WATCH, and the two ends of the effect
stream: as a replica it applies bytes cut anywhere, as a primary it writes them in Valkey's format. The
commands themselves are in `model_data`.

Rules, each one seen in Valkey
1. Offsets count bytes of the effect stream. A command moves a replica's offset when it is applied; a MULTI
   without its EXEC does not move it, and is forgotten when the feed breaks or the engine is promoted.
2. The first effect after a promotion is preceded by SELECT 0, inside the MULTI if it begins with one.
3. What one execution unit (a command, an EXEC, one expired key) propagates is wrapped in MULTI … EXEC if
   it is more than one command.
4. A replica never expires anything. A primary does so in `tick`, which the caller calls as often as it
   likes, and whenever a command meets an expired key.

Every method only notes what to do and lets `defer` run it: so no event is ever called from inside a
method, and a simulator decides how long an engine takes. Deferred work of a killed engine does nothing.
`crash` and `break_feed` are for simulators and tests.

Left out: snapshots (`feed_full` takes the empty one only), inline commands, blocking commands, pub/sub,
scripts. Time is read as microseconds since 1970, since expiries are absolute.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from enum import Enum

import msgpack

from cluster.engine import model_data as data
from cluster.engine.model_commands import COMMAND_TABLE
from cluster.engine.model_data import NULL_ARRAY, OK, Refused, Reply, Status, encode
from cluster.engine.protocol import EMPTY_STREAM, EngineEvents, Lane
from cluster.errors import EngineError
from cluster.types import Clock, Offset

MODEL_VERSION = "model 9.1"
FEED_BYTES_MAX = 4 * 1024 * 1024

NOT_QUEUED = (b"multi", b"exec", b"discard", b"watch")  # inside MULTI these act at once


class _State(Enum):
    STOPPED = "stopped"
    BOOTING = "booting"
    REPLICA = "replica"
    PROMOTING = "promoting"
    PRIMARY = "primary"


# ---------------------------------------------------------------- commands as bytes


def pack(argv: Sequence[bytes]) -> bytes:
    """One command as RESP."""
    return b"*%d\r\n" % len(argv) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in argv)


class CommandReader:
    """Cuts a byte stream into commands: `feed` pieces, then `next` until None. EngineError if it is not
    RESP."""

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self.consumed = 0  # bytes of all commands given out

    def feed(self, piece: bytes) -> None:
        self._buffer = self._buffer[self._at :] + piece
        self._at = 0

    def next(self) -> list[bytes] | None:
        buffer, at = self._buffer, self._at
        total, find = len(buffer), buffer.find
        end = find(b"\r\n", at)
        if end < 0:
            return None
        argv = []
        begin = end + 2
        for _ in range(_number(buffer, at, end, b"*")):
            end = find(b"\r\n", begin)
            if end < 0:
                return None
            size = _number(buffer, begin, end, b"$")
            begin = end + size + 4
            if total < begin:
                return None
            argv.append(buffer[end + 2 : begin - 2])
        self.consumed += begin - at
        self._at = begin
        return argv


def _number(buffer: bytes, at: int, end: int, mark: bytes) -> int:
    """The number in the line at [at, end)."""
    digits = buffer[at + 1 : end]
    if buffer[at : at + 1] != mark or not digits.isdigit():
        raise EngineError(f"expected {mark!r} and a length, got {buffer[at : min(end, at + 40)]!r}")
    return int(digits)


# ---------------------------------------------------------------- lanes


class ModelLane:
    """A connection: what Valkey keeps per client."""

    def __init__(
        self,
        engine: "ModelEngine",
        client_id: int,
        on_data: Callable[[bytes], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._reader = CommandReader()
        self.on_data = on_data
        self.on_closed: Callable[[], None] | None = on_closed  # None once closed
        self.client_id = client_id
        self.name = b""
        self.resp3 = False
        self.queued: list[list[bytes]] | None = None  # inside MULTI
        self.abort = False  # a command was refused while queueing
        self.watched: dict[bytes, bool] = {}  # key -> was it expired already, and still there, when watched
        self.watch_broken = False

    def write(self, data: bytes) -> None:
        if self.on_closed is not None:
            self._engine.later(lambda: self._work(data))

    def close(self) -> None:
        self.on_closed = None
        self._engine.forget_lane(self)

    def end(self) -> None:
        """Close at once, say so later."""
        if self.on_closed is not None:
            self._engine.later(self.on_closed)
        self.close()

    def _work(self, data: bytes) -> None:
        self._reader.feed(data)
        out = b""
        try:
            while self.on_closed is not None and (argv := self._reader.next()) is not None:
                if argv:
                    reply = self._engine.execute(self, argv)
                    out += encode(reply, self.resp3)
        except EngineError:
            self.end()
        if out and self.on_closed is not None:
            self.on_data(out)

    def on_touched(self, key: bytes, gone: bool) -> None:
        """A key changed. Deleting one that was expired when it was watched breaks nothing."""
        if self.watched.get(key) and gone:
            self.watched[key] = False
        elif key in self.watched:
            self.watch_broken = True

    def unwatch(self) -> None:
        self.watched.clear()
        self.watch_broken = False

    def leave_multi(self) -> None:
        self.queued = None
        self.abort = False
        self.unwatch()


# ---------------------------------------------------------------- the engine


class ModelEngine:
    """`defer` runs a callable later, in the order given; `rng` chooses SPOP's members (without it: the
    smallest)."""

    def __init__(
        self,
        *,
        events: EngineEvents,
        clock: Clock,
        defer: Callable[[Callable[[], None]], object],
        rng: random.Random | None = None,
    ) -> None:
        self.events = events
        self._clock = clock
        self._defer = defer
        self._rng = rng
        self._life = 0  # boots so far; deferred work of an earlier life does nothing
        self._state = _State.STOPPED
        self._role_changes = 0  # tells a promotion from one that a demotion overtook
        self._lanes: dict[int, ModelLane] = {}  # by client id
        self._clients = 0
        self._start_over()

    def _start_over(self) -> None:
        """A new process."""
        self._feed_waiting = 0  # bytes handed to `feed` and not applied
        self._feed_was_full = False
        self._waiting: list[Callable[[], None]] = []  # answers that must wait until we stand in the stream
        self._reset()

    def _reset(self) -> None:
        """An engine that holds nothing."""
        self._db = data.Keyspace(self._choose)
        self._db.on_touched = self._on_touched
        self._offset = EMPTY_STREAM
        self._fed = False  # stands in the stream
        self._reader = CommandReader()
        self._transaction: list[list[bytes]] | None = None  # a MULTI from the feed, still open
        self._consumed_before = 0  # of the reader, at the offset we stand at
        self._select_needed = False

    def later(self, act: Callable[[], None]) -> None:
        """`act` later, unless the engine was killed or died by then."""
        life = self._life

        def still_alive() -> None:
            if self._life == life and self._state is not _State.STOPPED:
                act()

        self._defer(still_alive)

    # -- life and death

    def boot(self) -> None:
        assert self._state is _State.STOPPED, f"boot in state {self._state.value}"
        self._life += 1
        self._state = _State.BOOTING
        self._start_over()
        self.later(self._on_started)

    def _on_started(self) -> None:
        self._state = _State.REPLICA
        self.later(lambda: self.events.on_feed_requested(None))
        self.events.on_booted(MODEL_VERSION, COMMAND_TABLE)

    def kill(self) -> None:
        self._life += 1
        self._state = _State.STOPPED
        for lane in list(self._lanes.values()):
            lane.close()

    def crash(self, reason: str) -> None:
        """The process ends by itself."""
        self.kill()
        life = self._life
        self._defer(lambda: self.events.on_died(reason) if self._life == life else None)

    # -- replica

    def feed_full(self, offset: Offset, rdb: bytes) -> None:
        if rdb:
            raise EngineError("the model engine loads no snapshot but the empty one")
        self.later(lambda: self._stand_at(offset, wiped=True))

    def feed_continue(self, offset: Offset) -> None:
        def proceed() -> None:
            assert offset == self._offset, f"continue from {offset}, the engine stands at {self._offset}"
            self._stand_at(offset, wiped=False)

        self.later(proceed)

    def _stand_at(self, offset: Offset, wiped: bool) -> None:
        if self.is_primary:
            return
        if wiped:
            self._reset()
        self._forget_partial()
        self._offset, self._fed = offset, True
        waiting, self._waiting = self._waiting, []
        for answer in waiting:
            answer()

    def feed(self, data: bytes) -> None:
        self._feed_waiting += len(data)
        self._feed_was_full = self._feed_was_full or self.feed_full_up()
        self.later(lambda: self._apply(data))

    def feed_full_up(self) -> bool:
        return self._feed_waiting > FEED_BYTES_MAX

    def _apply(self, data: bytes) -> None:
        self._feed_waiting -= len(data)
        if not self.is_primary and self._fed:
            self._reader.feed(data)
            self._db.fed, self._db.primary = True, False
            while (argv := self._reader.next()) is not None:
                self._apply_command(argv)
            self._db.fed = False
        if self._feed_was_full and not self.feed_full_up():
            self._feed_was_full = False
            self.events.on_feed_drained()

    def _apply_command(self, argv: list[bytes]) -> None:
        """The offset moves at the end of whole units only (rule 1)."""
        name = argv[0].lower()
        if name == b"multi":
            self._transaction = []
        elif name == b"exec":
            for queued in self._transaction or ():
                self._apply_effect(queued)
            self._transaction = None
        elif self._transaction is not None:
            self._transaction.append(argv)
        else:
            self._apply_effect(argv)
        if self._transaction is None:
            self._offset = Offset(self._offset + self._reader.consumed - self._consumed_before)
            self._consumed_before = self._reader.consumed

    def _apply_effect(self, argv: list[bytes]) -> None:
        handler = data.HANDLERS.get(argv[0].lower())
        if handler is not None:  # SELECT, PING and the like change nothing
            handler(self._db, argv)

    def _forget_partial(self) -> None:
        self._reader = CommandReader()
        self._consumed_before = 0
        self._transaction = None

    def break_feed(self) -> None:
        """The feed connection breaks; the engine reconnects."""
        self.later(self._on_feed_broken)

    def _on_feed_broken(self) -> None:
        if self._state is _State.REPLICA:
            self._forget_partial()
            self.later(lambda: self.events.on_feed_requested(self._offset if self._fed else None))
            self.events.on_feed_lost()

    def ask_offset(self) -> None:
        self._when_fed(lambda: self.events.on_offset(self._offset))

    def _when_fed(self, answer: Callable[[], None]) -> None:
        self.later(lambda: answer() if self._fed else self._waiting.append(answer))

    # -- primary

    def promote(self) -> None:
        if self._state is _State.STOPPED:
            return  # it has died, and on_died is on its way
        assert self._state is _State.REPLICA, f"promote in state {self._state.value}"
        self._state = _State.PROMOTING
        self._role_changes += 1
        change = self._role_changes
        self.later(lambda: self._promote() if change == self._role_changes else None)

    def _promote(self) -> None:
        if not self._fed:
            self.crash("promoted before it was fed")
            return
        self._forget_partial()
        self._state = _State.PRIMARY
        self._select_needed = True
        self.events.on_promoted(self._offset)

    def demote(self) -> None:
        if self._state is _State.STOPPED:
            return  # as in promote
        assert self.is_primary or self._state is _State.PROMOTING, f"demote in state {self._state.value}"
        self._state = _State.REPLICA
        self._role_changes += 1
        for lane in list(self._lanes.values()):
            lane.end()
        self.later(lambda: self.events.on_feed_requested(self._offset))

    def tick(self) -> None:
        """Delete what has expired, as Valkey's timer does."""
        if self._state is _State.PRIMARY:
            self.later(self._expire)

    def _expire(self) -> None:
        self._begin_unit()
        for key in sorted(self._db.expires):
            if self._state is _State.PRIMARY and self._db.is_expired(key):
                self._db.expire_now(key)
                self._end_unit()

    def _begin_unit(self) -> None:
        self._db.now_ms = self._clock.now_us() // 1000
        self._db.primary = self._state is _State.PRIMARY

    def _end_unit(self) -> None:
        """Propagate what the unit did (rules 2 and 3)."""
        effects, self._db.effects = self._db.effects, []
        if not effects:
            return
        if self._select_needed:
            effects.insert(0, [b"SELECT", b"0"])
        if len(effects) - self._select_needed > 1:
            effects = [[b"MULTI"], *effects, [b"EXEC"]]
        self._select_needed = False
        stream = b"".join(pack(effect) for effect in effects)
        self._offset = Offset(self._offset + len(stream))
        self.events.on_effects(stream)

    def _choose(self, members: list[bytes], count: int) -> list[bytes]:
        return self._rng.sample(members, count) if self._rng is not None else sorted(members)[:count]

    # -- lanes and their commands

    def open_lane(self, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> Lane:
        self._clients += 1
        lane = ModelLane(self, self._clients, on_data, on_closed)
        if self._state is _State.STOPPED:
            self._defer(on_closed)
            lane.close()
        else:
            self._lanes[lane.client_id] = lane
        return lane

    def forget_lane(self, lane: ModelLane) -> None:
        self._lanes.pop(lane.client_id, None)

    def _on_touched(self, key: bytes) -> None:
        gone = key not in self._db.data
        for lane in self._lanes.values():
            lane.on_touched(key, gone)

    def execute(self, lane: ModelLane, argv: list[bytes]) -> Reply:
        """One command of a client, with its effects."""
        self._begin_unit()
        reply = self._execute(lane, argv)
        self._end_unit()
        return reply

    def _execute(self, lane: ModelLane, argv: list[bytes]) -> Reply:
        name = argv[0].lower()
        try:
            self._check(lane, name, argv)
        except Refused as refused:
            if name == b"exec":
                lane.leave_multi()
                return Refused(f"EXECABORT Transaction discarded because of: {str(refused)[4:]}")
            lane.abort = lane.queued is not None
            return refused
        if lane.queued is not None and name not in NOT_QUEUED:
            lane.queued.append(argv)
            return Status(b"QUEUED")
        return self._call(lane, name, argv)

    def _check(self, lane: ModelLane, name: bytes, argv: list[bytes]) -> None:
        """What Valkey refuses before it executes or queues."""
        if name not in data.ARITIES or b"|" in name:
            raise _unknown_command(argv)
        full = name + b"|" + argv[1].lower() if name in (b"client", b"command") and len(argv) > 1 else name
        if full not in data.ARITIES:
            command = name.decode().upper()
            subcommand = argv[1].decode(errors="replace")
            raise Refused(f"ERR unknown subcommand '{subcommand}'. Try {command} HELP.")
        arity = data.ARITIES[full]
        if len(argv) < abs(arity) or (arity > 0 and len(argv) != arity):
            raise data.wrong_arity(full)
        if lane.queued is not None and b"no_multi" in data.FLAGS[name]:
            raise Refused(f"ERR Command '{name.decode()}' not allowed inside a transaction")
        if b"write" in data.FLAGS[name] and not self._db.primary:
            raise Refused("READONLY You can't write against a read only replica.")

    def _call(self, lane: ModelLane, name: bytes, argv: list[bytes]) -> Reply:
        handler = data.HANDLERS.get(name)
        try:
            if handler is None:
                return _CLIENT_HANDLERS[name](self, lane, argv)
            work = handler
            return self._db.run(argv, lambda: work(self._db, argv))
        except Refused as refused:
            return refused

    def exec(self, lane: ModelLane) -> Reply:
        """EXEC: all queued commands in one unit."""
        queued = lane.queued
        if queued is None:
            raise Refused("ERR EXEC without MULTI")
        abort, broken = lane.abort, self._watch_broken(lane)
        lane.leave_multi()
        if abort:
            raise Refused("EXECABORT Transaction discarded because of previous errors.")
        return NULL_ARRAY if broken else [self._call(lane, argv[0].lower(), argv) for argv in queued]

    def _watch_broken(self, lane: ModelLane) -> bool:
        """Also by a watched key that has expired since."""
        return lane.watch_broken or any(
            self._db.is_expired(key) for key, was_expired in lane.watched.items() if not was_expired
        )

    def watch(self, lane: ModelLane, keys: Sequence[bytes]) -> Reply:
        for key in keys:
            lane.watched.setdefault(key, self._db.is_expired(key))
        return OK

    def role(self) -> Reply:
        if self._db.primary:
            return [b"master", self._offset, []]
        return [b"slave", b"127.0.0.1", 0, b"connected" if self._fed else b"connect", self._offset]

    @property
    def is_running(self) -> bool:
        return self._state is not _State.STOPPED

    @property
    def is_primary(self) -> bool:
        return self._state is _State.PRIMARY

    # -- digest

    def ask_digest(self, on_digest: Callable[[Offset, str], None]) -> None:
        self._when_fed(lambda: on_digest(self._offset, self.digest()))

    def digest(self) -> str:
        """Over all keys in sorted order, with their expiries."""
        hashed = hashlib.sha1(usedforsecurity=False)
        for key, value in sorted(self._db.data.items(), key=lambda item: item[0]):
            hashed.update(msgpack.packb([key, self._db.expires.get(key), *_canonical(value)]))
        return hashed.hexdigest()


def _canonical(value: data.Value) -> list[object]:
    """Type and content, so that equal values give equal lists whatever order they were built in."""
    name = data.TYPE_NAMES[type(value)]
    match value:
        case data.HashValue() | data.SetValue() | data.SortedSet():
            return [name, sorted(value.items())]
        case data.Stream():
            return [name, value.entries, value.last]
        case _:
            return [name, value]


def _unknown_command(argv: list[bytes]) -> Refused:
    name, *words = (word.decode(errors="replace") for word in argv)
    shown = ""
    for word in words:
        if len(shown) >= 128:
            break
        shown += f"'{word[: 128 - len(shown)]}' "
    return Refused(f"ERR unknown command '{name[:128]}', with args beginning with: {shown}")


# ---------------------------------------------------------------- commands about the connection


def _ping(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    if len(argv) > 2:
        raise data.wrong_arity(b"ping")
    return argv[1] if len(argv) == 2 else Status(b"PONG")


def _select(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    if data.integer(argv[1]) != 0:
        raise Refused("ERR DB index is out of range")
    return OK


def _hello(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    if len(argv) > 1:
        version = data.integer(argv[1], Refused("ERR Protocol version is not an integer or out of range"))
        if version not in (2, 3):
            raise Refused("NOPROTO unsupported protocol version")
        if len(argv) > 2:
            raise Refused(f"ERR Syntax error in HELLO option '{argv[2].decode(errors='replace')}'")
        lane.resp3 = version == 3
    role = b"master" if engine.is_primary else b"replica"
    return {
        b"server": b"valkey",
        b"version": b"9.1.0",
        b"proto": 3 if lane.resp3 else 2,
        b"id": lane.client_id,
        b"mode": b"standalone",
        b"role": role,
        b"modules": [],
    }


def _command(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    if len(argv) > 1:
        return len(COMMAND_TABLE)
    return [_as_reply(entry) for entry in COMMAND_TABLE]


def _as_reply(entry: Sequence[object]) -> Reply:
    """The parsed table as reply values. hiredis reads status and bulk alike, so plain strings do."""
    return [_as_reply(part) if isinstance(part, list) else part for part in entry]  # type: ignore[misc]  # leaves are bytes and ints


def _multi(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    lane.queued = []
    return OK


def _discard(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    if lane.queued is None:
        raise Refused("ERR DISCARD without MULTI")
    lane.leave_multi()
    return OK


def _unwatch(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    lane.unwatch()
    return OK


def _client(engine: ModelEngine, lane: ModelLane, argv: list[bytes]) -> Reply:
    match argv[1].lower():
        case b"id":
            return lane.client_id
        case b"getname":
            return lane.name or None
        case b"setname":
            if any(not 33 <= byte <= 126 for byte in argv[2]):
                raise Refused("ERR Client names cannot contain spaces, newlines or special characters.")
            lane.name = argv[2]
            return OK
        case _:
            if argv[2].lower() not in (b"lib-name", b"lib-ver"):
                raise Refused(f"ERR Unrecognized option '{argv[2].decode(errors='replace')}'")
            return OK


_ClientHandler = Callable[[ModelEngine, ModelLane, list[bytes]], Reply]
_CLIENT_HANDLERS: dict[bytes, _ClientHandler] = {
    b"ping": _ping,
    b"echo": lambda engine, lane, argv: argv[1],
    b"select": _select,
    b"hello": _hello,
    b"role": lambda engine, lane, argv: engine.role(),
    b"command": _command,
    b"client": _client,
    b"multi": _multi,
    b"exec": lambda engine, lane, argv: engine.exec(lane),
    b"discard": _discard,
    b"watch": lambda engine, lane, argv: engine.watch(lane, argv[1:]),
    b"unwatch": _unwatch,
}
