"""Drives one unmodified Valkey (or Redis) process: the real `Engine`.

What it owns: the process, its private directory, and the five kinds of connection a node keeps with its
engine.

    admin   unix socket, ours to it   orders (REPLICAOF, ROLE, INFO, DEBUG DIGEST), and the ping
    feed    TCP loopback, it to us    we play its primary: committed effects go in
    tap     unix socket, ours to it   we play its replica: effects come out, as they enter the log
    lane    unix socket, ours to it   client traffic, as many as wanted
    guard   none                      `guard.py` starts the process so that it dies with ours

Rules
1. One start of the engine is one `_Life`. Every connection, timer and callback belongs to a life, and a
   life that is over says nothing more: events of a killed engine cannot surface.
2. The node chooses the replication id and offset, so Valkey's offset *is* the position in the shard's
   effect stream. An engine is believed to hold a prefix of that stream only if it names our replication id,
   or the id it gave itself when it was promoted *by this driver in this life*. Whether that prefix is the
   committed one is the node's to judge.
3. Every doubt about the process ends in its death (`_Life.doom`): SIGKILL first, then `on_died`. Nothing is
   repaired.
4. Whoever connects to the feed port must show a secret drawn for this life. The engine learns it over the
   unix socket and not on its command line, where the process list would show it.
5. The loop that boots engines must run in the process's main thread: on Linux the engine is killed when the
   *thread* that started it ends.

Left out: snapshots (a later issue), TLS (all is loopback or a 0700 directory), a tap that resumes more than
once per break. When the node itself is SIGKILLed, a socket directory made by mkdtemp (for long paths only)
stays behind until the next boot in the same directory.
"""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import IO

import hiredis

from cluster.engine.protocol import EngineEvents, Lane
from cluster.errors import EngineError
from cluster.runtime.valkey_binary import (
    BACKLOG,
    EMPTY_RDB,
    GUARD,
    MAXCLIENTS,
    SOCKET_PATH_BYTES_MAX,
    check_engine,
    command_line,
    describe_exit,
    find_engine,
    guarded,
    parse_info,
    version_in_info,
)
from cluster.runtime.valkey_links import Admin, Feed, LaneLink, Tap
from cluster.types import Log, Offset

__all__ = ["ValkeyEngine", "check_engine", "find_engine"]

SOCKET_NAME = "engine.sock"
LOG_NAME = "engine.log"
LOG_BYTES_MAX = 4 * 1024 * 1024
PRIVATE_LINK = "socket"  # where the socket is if this directory's name is too long for one
PRIVATE_PREFIX = "azimuth-"
STANDING_RETRY_S = 0.002
EXIT_GRACE_S = 1.0  # how long a lost admin connection may wait for the exit code that explains it

_STALE_FILES = (SOCKET_NAME, "dump.rdb", "temp-*.rdb")  # an engine loads a dump.rdb that it finds


# ---------------------------------------------------------------- one life of the process


class _State(Enum):
    BOOTING = "booting"
    REPLICA = "replica"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    OVER = "over"


class _Life:
    """From one start of the process to its end."""

    def __init__(self, engine: "ValkeyEngine") -> None:
        self.engine = engine
        self.loop = engine.loop
        self.log = engine.log
        self.secret = secrets.token_hex(32).encode()
        self.state = _State.BOOTING
        self.pid: int | None = None
        self.ended = self.loop.create_future()  # done once the process is gone and reaped
        self._own_id: str | None = None  # the replication id the engine gave itself when last promoted
        self._answer_pending = False  # our last word on the feed is not known to be taken
        self._offset_awaited = False
        self._promotions = 0  # tells a promotion's late answers from a newer one's
        self._process: subprocess.Popen[bytes] | None = None
        self._private: Path | None = None  # a mkdtemp directory for the socket
        self._socket = engine.directory / SOCKET_NAME
        self._admin: Admin | None = None
        self._feed_server: asyncio.Server | None = None
        self._feed_port = 0
        self._feed_conns: set[Feed] = set()  # closed all alike, so their order does not matter
        self._feed: Feed | None = None
        self._tap: Tap | None = None
        self._tap_resuming = False
        self._lanes: dict[LaneLink, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent_ticks = 0
        self._answered_before = 0

    @property
    def events(self) -> EngineEvents:
        return self.engine.events

    # -- boot

    def start(self) -> None:
        self._spawn_task(self._boot())

    async def _boot(self) -> None:
        try:
            async with asyncio.timeout(self.engine.boot_timeout_s):
                self._prepare_directory()
                await self._listen()
                self._spawn()
                await self._connect_admin()
                await self._introduce()
        except TimeoutError:
            self.doom(f"did not answer within {self.engine.boot_timeout_s:g} s of its start")
        except (OSError, EngineError) as error:
            self.doom(str(error))

    def _prepare_directory(self) -> None:
        directory = self.engine.directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for pattern in _STALE_FILES:
            for stale in directory.glob(pattern):
                stale.unlink()
        self._remove_old_private()
        if len(os.fsencode(self._socket)) > SOCKET_PATH_BYTES_MAX:
            self._private = Path(tempfile.mkdtemp(prefix=PRIVATE_PREFIX))
            self._socket = self._private / SOCKET_NAME
            (directory / PRIVATE_LINK).symlink_to(self._private)

    def _remove_old_private(self) -> None:
        """What a SIGKILLed node left. The link says where; only a directory such as we make is removed."""
        link = self.engine.directory / PRIVATE_LINK
        if not link.is_symlink():
            return
        old = Path(os.readlink(link))
        link.unlink()
        if old.parent == Path(tempfile.gettempdir()) and old.name.startswith(PRIVATE_PREFIX):
            shutil.rmtree(old, ignore_errors=True)

    async def _listen(self) -> None:
        self._feed_server = await self.loop.create_server(self._accept_feed, "127.0.0.1", 0)
        self._feed_port = self._feed_server.sockets[0].getsockname()[1]

    def _accept_feed(self) -> Feed:
        feed = Feed(self)
        self._feed_conns.add(feed)
        return feed

    def _spawn(self) -> None:
        """Start the guard, which becomes (or watches) the engine. Takes about 1 ms of the loop."""
        engine = self.engine
        argv = command_line(engine.binary, engine.directory, self._socket, engine.maxclients, engine.backlog)
        with _open_log(engine.directory / LOG_NAME) as output:
            self._process = subprocess.Popen(
                guarded(argv, engine.guard),
                stdin=subprocess.PIPE if engine.guard == "pipe" else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                close_fds=True,
            )
        self.pid = self._process.pid
        _watch_exit(self.loop, self._process, self._on_exit)

    async def _connect_admin(self) -> None:
        """The socket appears some 10 ms after the start."""
        admin = Admin(self._on_admin_lost)
        while True:
            try:
                await self.loop.create_unix_connection(lambda: admin, str(self._socket))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(0.004)
        self._admin = admin

    async def _introduce(self) -> None:
        """Check who answers, give it the feed's secret, report, and point it at the feed."""
        info = parse_info(await self._ask("INFO", "server"))
        version = version_in_info(info)
        command_table = await self._ask("COMMAND")
        await self._ask("CONFIG", "SET", "masterauth", self.secret)
        with contextlib.suppress(EngineError):  # Valkey 8.1 and later only
            # By way of a file, Valkey 9.1 notices the end of the transfer up to 1 s late, in its cron.
            await self._ask("CONFIG", "SET", "repl-diskless-load", "flush-before-load")
        if self.state is not _State.BOOTING:
            return
        if self.engine.guard == "pipe":
            self.pid = int(info["process_id"])
        self.log.info("engine_booted", version=version, pid=self.pid)
        self.state = _State.REPLICA
        self.engine.trouble, self.engine.deaths_in_a_row = "", 0
        self._later(self.engine.ping_interval_s, self._tick)
        self.events.on_booted(version, command_table)
        if self.state is _State.REPLICA:
            self._order("REPLICAOF", "127.0.0.1", self._feed_port)

    # -- the admin connection

    def _ask(self, *words: bytes | str | int) -> Awaitable[object]:
        """A future of the reply; EngineError if it is an error. Only while booting, whose time limit guards
        it."""
        assert self._admin is not None
        future: asyncio.Future[object] = self.loop.create_future()

        def on_reply(reply: object) -> None:
            if future.done():
                return
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(EngineError(f"the engine refused {words[0]!s}: {reply}"))
            else:
                future.set_result(reply)

        self._admin.call(on_reply, *words)
        return future

    def _order(self, *words: bytes | str | int) -> None:
        """An order that cannot be refused by a sound engine."""
        self._call(lambda reply: None, *words)

    def _call(self, on_reply: Callable[[object], None], *words: bytes | str | int) -> None:
        """`on_reply` is not called once this life is over; an error reply ends the life."""

        def checked(reply: object) -> None:
            if self.state is _State.OVER:
                return
            if isinstance(reply, hiredis.ReplyError):
                self.doom(f"refused {words[0]!s}: {reply}")
            else:
                on_reply(reply)

        if self._admin is not None:
            self._admin.call(checked, *words)

    def _tick(self) -> None:
        """Every ping interval. Counted in ticks and not in seconds, so that a node that was stopped itself
        for a while does not blame its engine."""
        self._later(self.engine.ping_interval_s, self._tick)
        if self._tap is not None:
            self._tap.acknowledge()
        assert self._admin is not None
        if self._admin.answered == self._answered_before:
            self._silent_ticks += 1
            if self._silent_ticks * self.engine.ping_interval_s >= self.engine.hung_after_s:
                self.doom(f"hung: no answer for {self.engine.hung_after_s:g} s")
            return
        self._silent_ticks = 0
        self._answered_before = self._admin.answered
        self._admin.call(lambda reply: None, "PING")  # -LOADING and -BUSY are answers too

    def _on_admin_lost(self) -> None:
        if self.state is not _State.OVER:
            self._doom_later("closed the admin connection")

    def _doom_later(self, reason: str) -> None:
        """Mostly the process has just ended: let its exit code tell, but not for long."""
        self._later(EXIT_GRACE_S, lambda: self.doom(reason))

    # -- replica: the feed

    def on_psync(self, feed: Feed, replication_id: bytes, position: bytes) -> None:
        """Behind a PING, so that the answer to a promotion just before, which names the engine's own id, is
        read first."""
        if self.state is not _State.REPLICA:
            feed.close()
            return
        if self._feed is not None:
            self._feed.close()
        self._feed = feed
        named = replication_id.decode(errors="replace")

        def decide(reply: object) -> None:
            if self._feed is not feed or self.state is not _State.REPLICA:
                return
            if named in (self.engine.replication_id, self._own_id) and position.isdigit():
                feed.offered = Offset(int(position) - 1)
            feed.reported = True
            self.log.info("feed_requested", offset=feed.offered)
            self.events.on_feed_requested(feed.offered)

        self._call(decide, "PING")

    def on_feed_drained(self, feed: Feed) -> None:
        if self._feed is feed and self.state is _State.REPLICA:
            self.events.on_feed_drained()

    def on_feed_lost(self, feed: Feed) -> None:
        self._feed_conns.discard(feed)
        if self._feed is not feed:
            return
        self._feed = None
        if self.state is _State.PROMOTING:
            self.doom("lost its feed while it was being promoted")
        elif feed.reported and self.state is _State.REPLICA:
            self.log.info("feed_lost")
            self.events.on_feed_lost()

    def feed_full(self, offset: Offset, rdb: bytes) -> None:
        if self._feed is not None:
            self._answer_pending = self._feed.answered = True
            self._own_id = None  # what it holds under that id is to be thrown away
            rdb = rdb or EMPTY_RDB
            head = f"+FULLRESYNC {self.engine.replication_id} {offset}\r\n${len(rdb)}\r\n"
            self._feed.write(head.encode() + rdb)

    def feed_continue(self, offset: Offset) -> None:
        if self._feed is None:
            return
        if self._feed.offered != offset:
            # The answer to an older request that crossed with a newer one: the engine will ask again.
            self.log.warning("feed_answer_stale", offered=self._feed.offered, offset=offset)
            self._feed.close()
            return
        self._answer_pending = self._feed.answered = True
        self._feed.write(f"+CONTINUE {self.engine.replication_id}\r\n".encode())

    def feed(self, data: bytes) -> None:
        # Bytes for a connection before this one must not come in front of the answer on this one.
        if self._feed is not None and self._feed.answered:
            self._feed.write(data)

    def feed_full_up(self) -> bool:
        return self._feed is not None and self._feed.full_up

    def ask_offset(self) -> None:
        """While the engine does not stand in the stream, all askers wait for one answer."""
        if not self._offset_awaited:
            self._offset_awaited = True
            self._when_standing(self._report_offset)

    def _report_offset(self, offset: Offset) -> None:
        self._offset_awaited = False
        self.events.on_offset(offset)

    def _when_standing(self, act: Callable[[Offset], None]) -> None:
        """Ask ROLE until the engine stands in the stream: as primary, or as replica that took our answer."""

        def on_role(role: object) -> None:
            offset = self._standing(role)
            if offset is None:
                self._later(STANDING_RETRY_S, lambda: self._when_standing(act))
            else:
                self._answer_pending = False
                act(offset)

        self._call(on_role, "ROLE")

    def _standing(self, role: object) -> Offset | None:
        """The offset in a ROLE reply; None from an engine that is loading, not connected, or not yet ours."""
        match role:
            case [b"master", int(offset), *_] if self.state is _State.PRIMARY:
                return Offset(offset)
            case [b"slave", _, _, b"connected", int(offset)]:
                return Offset(offset)
            case _:
                return None

    # -- primary: the tap

    def promote(self) -> None:
        """Not before the engine has taken what the node last said on the feed; mostly that is known."""
        if self.state is _State.OVER:
            return  # on_died is on its way
        assert self.state is _State.REPLICA, f"promote in state {self.state.value}"
        self.state = _State.PROMOTING
        self._promotions += 1
        promotion = self._promotions
        if self._answer_pending:
            self._when_standing(lambda offset: self._promote(promotion))
        else:
            self._promote(promotion)

    def _promote(self, promotion: int) -> None:
        if self.state is not _State.PROMOTING or promotion != self._promotions:
            return
        old_feeds, self._feed = list(self._feed_conns), None  # the engine closes them; not a loss
        self._order("REPLICAOF", "NO", "ONE")

        def on_info(reply: object) -> None:
            for feed in old_feeds:
                feed.close()
            self._on_promotion(promotion, parse_info(reply))

        self._call(on_info, "INFO", "replication")

    def _on_promotion(self, promotion: int, info: dict[str, str]) -> None:
        """`second_repl_offset` is one past the last byte under the feed's id: where the tap begins, to the
        byte."""
        before, self._own_id = self._own_id, info["master_replid"]
        if self.state is not _State.PROMOTING or promotion != self._promotions:
            return
        lineage = info["master_replid2"]  # its own earlier id if it was not fed since its last promotion
        if lineage not in (self.engine.replication_id, before):
            self.doom("promoted before it was fed")
            return
        self._open_tap(Tap(self, lineage, Offset(int(info["second_repl_offset"]) - 1)))

    def _open_tap(self, tap: Tap) -> None:
        self._tap = tap
        self._dial(tap, lambda: self._doom_later("does not accept the tap"))

    def on_tap_open(self, tap: Tap) -> None:
        if self._tap is not tap:
            return
        if self._tap_resuming:
            self._tap_resuming = False
            self.log.warning("tap_resumed", offset=tap.offset)
            return
        self.log.info("engine_promoted", offset=tap.offset)
        self.state = _State.PRIMARY
        self.events.on_promoted(tap.offset)

    def on_tap_lost(self, tap: Tap) -> None:
        """Resume from where we stand under the engine's own id; the backlog holds what we missed, or it is
        refused."""
        if self._tap is not tap or self.state is _State.OVER:
            return
        if not tap.open or self._own_id is None:
            self._give_up_tap(tap, "broke while opening")
            return
        self.log.warning("tap_broken", offset=tap.offset)
        self._tap_resuming = True
        self._open_tap(Tap(self, self._own_id, tap.offset))

    def on_tap_refused(self, tap: Tap, answer: bytes) -> None:
        if self._tap is tap:
            self._give_up_tap(tap, f"refused with {answer!r}")

    def _give_up_tap(self, tap: Tap, why: str) -> None:
        tap.close()
        self._tap = None
        if not self._tap_resuming:
            self.doom(f"tap {why}")
            return
        self._tap_resuming = False
        self.log.error("tap_lost", why=why, offset=tap.offset)
        self.events.on_tap_lost()

    def demote(self) -> None:
        if self.state is _State.OVER:
            return  # on_died is on its way
        assert self.state in (_State.PROMOTING, _State.PRIMARY), f"demote in state {self.state.value}"
        self.state = _State.REPLICA
        tap, self._tap, self._tap_resuming = self._tap, None, False
        if tap is not None:
            tap.close()
        for lane in list(self._lanes):
            self.loop.call_soon(lane.end)
        self._order("REPLICAOF", "127.0.0.1", self._feed_port)

    # -- lanes, digest

    def open_lane(self, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> Lane:
        lane = LaneLink(on_data, on_closed, self._lanes)
        self._dial(lane, lane.end)
        return lane

    def ask_digest(self, on_digest: Callable[[Offset, str], None]) -> None:
        """DEBUG DIGEST and ROLE in one transaction: nothing is applied between them."""

        def on_reply(reply: object) -> None:
            match reply:
                case [bytes(digest), role]:
                    offset = self._standing(role)
                    if offset is None:
                        self._later(STANDING_RETRY_S, lambda: self.ask_digest(on_digest))
                    else:
                        on_digest(offset, digest.decode())
                case _:
                    self.doom(f"answered DEBUG DIGEST with {reply!r}")

        for words in (("MULTI",), ("DEBUG", "DIGEST"), ("ROLE",)):
            self._order(*words)
        self._call(on_reply, "EXEC")

    # -- the end

    def _on_exit(self) -> None:
        """The process is gone, expected or not."""
        assert self._process is not None
        code = self._process.wait()
        if not self.ended.done():
            self.ended.set_result(None)
        if self.state is not _State.OVER:
            self.doom(describe_exit(code, self.engine.directory / LOG_NAME))

    def doom(self, reason: str) -> None:
        """End this life and report it."""
        if self.state is _State.OVER:
            return
        self.end()
        self.log.error("engine_died", reason=reason)
        self.loop.call_soon(self.engine.on_life_over, self, reason)

    def end(self) -> None:
        """End this life, silently. Idempotent."""
        if self.state is _State.OVER:
            return
        self.state = _State.OVER
        self._end_process()
        for lane in list(self._lanes):
            lane.close()
        for connection in (self._admin, self._tap, *self._feed_conns):
            if connection is not None:
                connection.close()
        self._admin = self._tap = self._feed = None
        if self._feed_server is not None:
            self._feed_server.close()
        for task in self._tasks:
            task.cancel()
        if self._private is not None:
            shutil.rmtree(self._private, ignore_errors=True)

    def _end_process(self) -> None:
        if self._process is None:
            self.ended.set_result(None)
        elif self._process.stdin is not None:
            self._process.stdin.close()  # the guard kills the engine and then ends
        else:
            self._process.kill()

    # -- small tools

    def _dial(self, protocol: asyncio.Protocol, on_failed: Callable[[], None]) -> None:
        async def dial() -> None:
            try:
                await self.loop.create_unix_connection(lambda: protocol, str(self._socket))
            except OSError as error:
                if self.state is not _State.OVER:
                    self.log.warning("engine_connect_failed", error=str(error))
                    on_failed()

        self._spawn_task(dial())

    def _spawn_task(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.doom(f"driver error: {error!r}")

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Unless this life is over by then."""
        self.loop.call_later(seconds, lambda: None if self.state is _State.OVER else act())


def _watch_exit(
    loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]", on_exit: Callable[[], None]
) -> None:
    """Call `on_exit` from the loop once the process can be reaped: by pidfd, or by a thread where there is
    none."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not Linux; or a kernel or sandbox without it
        threading.Thread(target=_wait_exit, args=(loop, process, on_exit), daemon=True).start()
        return

    def on_readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        on_exit()

    loop.add_reader(descriptor, on_readable)


def _wait_exit(
    loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]", on_exit: Callable[[], None]
) -> None:
    process.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
        loop.call_soon_threadsafe(on_exit)


def _open_log(path: Path) -> IO[bytes]:
    """The engine's standard output. One older file is kept."""
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "ab")


# ---------------------------------------------------------------- the engine


class ValkeyEngine:
    """An `Engine` that is a real process. One loop, one thread; `boot` needs the main thread (rule 5).

    `replication_id` is 40 lower-case hex digits, one for the shard's whole life: a new one would make every
    engine that holds data look foreign. `directory` is made, 0700, and belongs to this engine alone.
    `hung_after_s`: a process that answers nothing for this long is killed. A node may replace `events`.
    """

    def __init__(
        self,
        *,
        binary: Path,
        directory: Path,
        replication_id: str,
        events: EngineEvents,
        log: Log,
        loop: asyncio.AbstractEventLoop,
        hung_after_s: float = 10.0,
        boot_timeout_s: float = 30.0,
        ping_interval_s: float = 1.0,
        maxclients: int = MAXCLIENTS,
        backlog: str = BACKLOG,
        guard: str = GUARD,
    ) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", replication_id):
            raise EngineError("a replication id is 40 lower-case hex digits")
        self.binary = binary.absolute()
        self.directory = directory.absolute()
        self.replication_id = replication_id
        self.events = events
        self.log = log
        self.loop = loop
        self.hung_after_s = hung_after_s
        self.boot_timeout_s = boot_timeout_s
        self.ping_interval_s = ping_interval_s
        self.maxclients = maxclients
        self.backlog = backlog
        self.guard = guard
        self.trouble = ""  # why it last died; "" once it has booted again
        self.deaths_in_a_row = 0  # without having booted in between
        self._life: _Life | None = None
        self._last_life: _Life | None = None  # for wait_ended

    @property
    def pid(self) -> int | None:
        """Of the running process; None while there is none."""
        return None if self._life is None else self._life.pid

    def boot(self) -> None:
        assert self._life is None, "boot of an engine that is running"
        self._life = self._last_life = _Life(self)
        self._life.start()

    def feed_full(self, offset: Offset, rdb: bytes) -> None:
        if self._life is not None:
            self._life.feed_full(offset, rdb)

    def feed_continue(self, offset: Offset) -> None:
        if self._life is not None:
            self._life.feed_continue(offset)

    def feed(self, data: bytes) -> None:
        if self._life is not None:
            self._life.feed(data)

    def feed_full_up(self) -> bool:
        return self._life is not None and self._life.feed_full_up()

    def ask_offset(self) -> None:
        if self._life is not None:
            self._life.ask_offset()

    def promote(self) -> None:
        if self._life is not None:
            self._life.promote()

    def demote(self) -> None:
        if self._life is not None:
            self._life.demote()

    def open_lane(self, on_data: Callable[[bytes], None], on_closed: Callable[[], None]) -> Lane:
        if self._life is not None:
            return self._life.open_lane(on_data, on_closed)
        lane = LaneLink(on_data, on_closed, {})
        self.loop.call_soon(lane.end)
        return lane

    def ask_digest(self, on_digest: Callable[[Offset, str], None]) -> None:
        if self._life is not None:
            self._life.ask_digest(on_digest)

    def kill(self) -> None:
        life, self._life = self._life, None
        if life is not None:
            life.end()

    async def wait_ended(self) -> None:
        """Until the process last booted is gone and reaped. For an orderly end: `kill`, then this."""
        if self._last_life is not None:
            await self._last_life.ended

    def on_life_over(self, life: _Life, reason: str) -> None:
        """From a life that ended by itself."""
        if self._life is life:
            self._life = None
            self.trouble = reason
            self.deaths_in_a_row += 1
            self.events.on_died(reason)
