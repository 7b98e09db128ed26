"""One client connection: bytes in, replies out, in order, whatever answers them.

A command takes one of these ways:

* the front answers it (PING, CLUSTER SLOTS, a refusal, MOVED …);
* the **shared lane** to this node's engine (plain data commands, and a transaction without WATCH);
* the session's **own lane** (WATCH and its transaction, blocking commands).

A transaction is gathered here and goes to the engine in one piece at EXEC: until then nothing has been
executed, so losing the primary in the middle of one is a definite failure, and a client that stops between
MULTI and EXEC holds nothing.

Replies leave in the order of the commands. On one lane the lane's queue keeps it; before a session changes
lanes it waits until nothing is in flight (`Stall.DRAIN`). While a shard is between two primaries a command
waits a little (`Stall.UNAVAILABLE`) instead of failing at once; it has not been executed, so the error
that ends the wait is definite.

`_inflight` holds one mark per command whose reply has not left: whether it may have written, or the
front's own reply. When the lanes are lost (step-down, engine death) it says what each waiting command must
hear: INDOUBT for anything that may have written, TRYAGAIN for a read.

Left out until 5/5: pub/sub, CLIENT TRACKING, AUTH.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Protocol, assert_never

from cluster.errors import ClusterDown, CrossSlot, Err, ExecAbort, InDoubt, ReplyError, TryAgain
from cluster.front.commands import CommandSpec, CommandTable, Disposition
from cluster.front.info import InfoReceiver
from cluster.front.lane import ClientLane
from cluster.front.resp import (
    COMMAND_BYTES_MAX,
    Command,
    CommandParser,
    CommandTooLarge,
    ParserLimits,
    ProtocolError,
)
from cluster.types import Slot

INFLIGHT_MAX = 1024
BUFFERED_BYTES_MAX = 1 << 20
OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
ALLOWED_LOCAL_IN_MULTI = frozenset({"ping", "echo"})  # the engine may answer these as well as the front
# WAIT speaks of every earlier write of its connection; HELLO and RESET change how later replies look.
ANSWERED_ALONE = frozenset({"wait", "hello", "reset"})
LEAVING = frozenset({"quit", "reset"})  # act at once, inside a transaction as well
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"
_UNWATCH = b"*1\r\n$7\r\nUNWATCH\r\n"


class Mark(IntEnum):
    READ = 0
    WRITE = 1


class Stall(Enum):
    DRAIN = "drain"  # until nothing is in flight
    UNAVAILABLE = "unavailable"  # until the shard has a serving primary, or the wait is over
    CLOSING = "closing"  # QUIT or a protocol error: nothing more is read


class Route(Enum):
    """Where a command that belongs here goes."""

    PRIMARY = "primary"
    REPLICA = "replica"
    WAIT = "wait"


class Transport(Protocol):
    """The client's connection, given by the shell."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None:
        """After what was written has been sent."""
        ...

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class SessionHost(Protocol):
    """What a session asks of its node."""

    table: CommandTable | None

    def now_us(self) -> int: ...
    def route(self, slot: Slot | None, *, write: bool, readonly: bool) -> Route:
        """Raises Moved and others when the command does not belong here."""
        ...

    def shared_lane(self, route: Route, protocol: int) -> ClientLane: ...
    def open_own_lane(self, route: Route, protocol: int, on_lost: Callable[[], None]) -> ClientLane: ...
    def answer(self, session: "Session", spec: CommandSpec, args: list[bytes]) -> bytes:
        """Reply of the front itself. Raises ReplyError."""
        ...

    def wait_deadline_us(self) -> int: ...
    def add_waiting(self, session: "Session") -> None: ...


class Transaction:
    """What was queued since MULTI."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.commands: list[bytes] = []
        self.size = 0
        self.slot: Slot | None = None
        self.writes = False
        self.infos: list[int] = []  # places of INFO among the commands
        self.failed = False  # a command was refused: EXEC will be

    def add(self, raw: bytes, slot: Slot | None, writes: bool) -> None:
        if slot is not None:
            if self.slot is not None and slot != self.slot:
                raise CrossSlot("Keys in request don't hash to the same slot")
            self.slot = slot
        self.size += len(raw)
        if self.size > self._bytes_max:
            raise Err(f"transaction exceeds {self._bytes_max} bytes")
        self.commands.append(raw)
        self.writes = self.writes or writes


class Session:
    def __init__(
        self,
        session_id: int,
        host: SessionHost,
        transport: Transport,
        address: str,
        command_bytes_max: int = COMMAND_BYTES_MAX,
    ) -> None:
        """`command_bytes_max`: of a command, and of all commands of a transaction together."""
        self.id = session_id
        self.address = address
        self.protocol = 2
        self.readonly = False
        self.name = b""
        self.library: dict[bytes, bytes] = {}
        self.commands = 0
        self.last_command = ""
        self.closed = False
        self._host = host
        self._transport = transport
        self._command_bytes_max = command_bytes_max
        self._parser = CommandParser(ParserLimits(command_bytes_max=command_bytes_max))
        self._inflight: deque[int | bytes] = deque()
        self._lane: ClientLane | None = None  # the lane of what is in flight
        self._own: ClientLane | None = None
        self._own_route: Route | None = None
        self._stall: Stall | None = None
        self._held: Command | None = None  # the command that the stall holds back
        self._wait_until_us: int | None = None
        self._paused = False
        self._choked = False
        self._transaction: Transaction | None = None
        self._watching = False
        self._watch_lost = False

    # -- from the shell --------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        if self._stall is Stall.CLOSING:
            return
        self._parser.feed(data)
        if self._stall is None:
            self._pump()
        else:
            self._back_pressure()

    def choke(self, choked: bool) -> None:
        """The client doesn't take its replies, or takes them again. Meanwhile no further command is executed,
        also not of those that were read already: their replies would have to be kept for it."""
        self._choked = choked
        if not choked and self._stall is None:
            self._pump()

    def connection_lost(self) -> None:
        """The client has gone. What is in flight goes on; its replies are dropped."""
        self.closed = True
        self._inflight.clear()
        self._close_own_lane()

    # -- from lanes and node ---------------------------------------------------------------------------

    def deliver(self, data: bytes, count: int) -> None:
        if self.closed:
            return
        inflight = self._inflight
        self._transport.write(data)
        if count == 1:
            inflight.popleft()
        else:
            for _ in range(count):
                inflight.popleft()
        if self._stall is not None and not inflight:
            self._on_drained()

    def lanes_lost(self) -> None:
        """The engine serves nobody here any more: say to each waiting command what is certain about it."""
        self._close_own_lane()
        self._watch_lost = self._watching
        self._lane = None
        if self.closed or not self._inflight:
            return
        replies = [_lost_reply(mark) for mark in self._inflight]
        self._inflight.clear()
        self._transport.write(b"".join(replies))
        if self._stall is not None:
            self._on_drained()

    def _own_lane_lost(self) -> None:
        """The engine closed our own connection. What is in flight on the shared lane is not touched by it."""
        if self._lane is self._own:
            self.lanes_lost()
        else:
            self._close_own_lane()
            self._watch_lost = self._watching

    def retry(self) -> bool:
        """Try the command that waits for a primary again. True when the session waits no longer."""
        if not self.closed and self._stall is Stall.UNAVAILABLE:
            self._stall = None
            self._pump()
        return self.closed or self._stall is not Stall.UNAVAILABLE

    def _on_drained(self) -> None:
        self._lane = None
        if self._stall is Stall.CLOSING:
            self._transport.close()
        elif self._stall is Stall.DRAIN:
            self._stall = None
            self._pump()

    # -- commands --------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Take commands while nothing holds them back."""
        while self._stall is None and not self.closed and not self._choked:
            command = self._held
            if command is None:
                try:
                    command = self._parser.next()
                except CommandTooLarge as error:
                    self.commands += 1
                    self._refuse(error)
                    continue
                except ProtocolError as error:
                    self._reply(error.resp())
                    self._close_when_drained()
                    break
                if command is None:
                    break
                self.commands += 1
            self._held = None
            if len(self._inflight) >= INFLIGHT_MAX:
                self._hold(command, Stall.DRAIN)
                break
            try:
                self._dispatch(command)
            except ReplyError as error:
                self._refuse(error)
        self._back_pressure()

    def _refuse(self, error: ReplyError) -> None:
        self._wait_until_us = None
        if self._transaction is not None:
            self._transaction.failed = True
        self._reply(error.resp())

    def _dispatch(self, command: Command) -> None:
        table = self._host.table
        if table is None:  # the engine has not told yet which commands there are
            if self._transaction is None and [word.lower() for word in command.args] == [b"multi"]:
                # Refused, it would let the commands behind it in the pipeline be executed one by one.
                self._begin_transaction()
            else:
                self._wait(command)
            return
        spec = table.lookup(command.args)
        self.last_command = spec.name
        disposition = spec.disposition
        transaction = self._transaction
        if (
            transaction is not None
            and disposition is not Disposition.TRANSACTION
            and spec.name not in LEAVING
        ):
            self._queue(command, spec, transaction)
            return
        match disposition:
            case Disposition.PLAIN:
                self._to_engine(command, spec, own=False)
            case Disposition.BLOCKING:
                if self._to_engine(command, spec, own=True):
                    self._stall = Stall.DRAIN
            case Disposition.LOCAL:
                self._answer(command, spec)
            case Disposition.TRANSACTION:
                self._on_transaction_command(command, spec)
            case Disposition.PUBSUB:
                raise Err(f"{spec.name.upper()} is not supported by this version of azimuth")
            case Disposition.REFUSED:
                raise Err(spec.refusal)
            case _:
                assert_never(disposition)

    def _to_engine(self, command: Command, spec: CommandSpec, *, own: bool) -> bool:
        """Route it and send it. False if it has to wait."""
        slot = spec.slot(command.args)
        write = spec.is_write
        route = self._host.route(slot, write=write, readonly=self.readonly)
        if route is Route.WAIT:
            self._wait(command)
            return False
        lane = self._own_lane(route) if own else self._host.shared_lane(route, self.protocol)
        if not self._switch_lane(lane, command):
            return False
        self._inflight.append(Mark.WRITE if write else Mark.READ)
        lane.submit(InfoReceiver(self) if spec.name == "info" else self, command.raw)
        return True

    def _switch_lane(self, lane: ClientLane, command: Command) -> bool:
        """Two lanes are two connections: what is in flight on one must be answered before the other is
        used."""
        if self._lane is not lane:
            if self._inflight:
                self._hold(command, Stall.DRAIN)
                return False
            self._lane = lane
        self._wait_until_us = None
        return True

    def _own_lane(self, route: Route) -> ClientLane:
        if self._own is None or self._own.closed or self._own_route is not route:
            self._close_own_lane()
            self._own = self._host.open_own_lane(route, self.protocol, self._own_lane_lost)
            self._own_route = route
        return self._own

    def _close_own_lane(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None

    def _answer(self, command: Command, spec: CommandSpec) -> None:
        if spec.name in ANSWERED_ALONE and self._inflight:
            self._hold(command, Stall.DRAIN)
            return
        reply = self._host.answer(self, spec, command.args)
        self._reply(reply)
        if spec.name == "quit":
            self._close_when_drained()

    def set_protocol(self, protocol: int) -> None:
        """HELLO: later replies come from a lane of this protocol."""
        if protocol != self.protocol:
            self.protocol = protocol
            self._close_own_lane()
            self._watch_lost = self._watching

    def reset(self) -> None:
        """RESET: as after connecting."""
        self._transaction = None
        self._watching = self._watch_lost = self.readonly = False
        self.name = b""
        self._close_own_lane()
        self.protocol = 2

    # -- transactions ----------------------------------------------------------------------------------

    def _queue(self, command: Command, spec: CommandSpec, transaction: Transaction) -> None:
        disposition = spec.disposition
        if disposition is Disposition.REFUSED:
            raise Err(spec.refusal)
        if disposition is Disposition.LOCAL and spec.name not in ALLOWED_LOCAL_IN_MULTI:
            raise Err("Command not allowed inside a transaction")
        if disposition is Disposition.PUBSUB:
            raise Err(f"{spec.name.upper()} is not supported by this version of azimuth")
        slot = spec.slot(command.args)
        if slot is not None:
            # Only to learn whether it belongs to this shard: a primary is needed at EXEC.
            self._host.route(slot, write=spec.is_write, readonly=False)
        transaction.add(command.raw, slot, spec.is_write)
        if spec.name == "info":
            transaction.infos.append(len(transaction.commands) - 1)
        self._reply(QUEUED)

    def _on_transaction_command(self, command: Command, spec: CommandSpec) -> None:
        match spec.name:
            case "multi":
                self._begin_transaction()
            case "exec":
                self._exec(command)
            case "discard":
                if self._transaction is None:
                    raise Err("DISCARD without MULTI")
                self._forget_watch(command, ends_transaction=True)
            case "watch":
                if self._transaction is not None:
                    raise Err("WATCH inside MULTI is not allowed")
                if self._to_engine(command, spec, own=True):
                    self._watching = True
            case "unwatch":
                if self._transaction is not None:
                    self._transaction.add(command.raw, None, False)
                    self._reply(QUEUED)
                else:
                    self._forget_watch(command, ends_transaction=False)
            case _:
                raise Err(f"{spec.name.upper()} is not supported by this version of azimuth")

    def _begin_transaction(self) -> None:
        if self._transaction is not None:
            raise Err("MULTI calls can not be nested")
        self._transaction = Transaction(self._command_bytes_max)
        self._reply(OK)

    def _forget_watch(self, command: Command, *, ends_transaction: bool) -> None:
        own = self._own
        if self._watching and not self._watch_lost and own is not None:
            if not self._switch_lane(own, command):
                return
            self._inflight.append(Mark.READ)
            own.submit(self, _UNWATCH)
        else:
            self._reply(OK)
        self._watching = self._watch_lost = False
        if ends_transaction:
            self._transaction = None

    def _exec(self, command: Command) -> None:
        transaction = self._transaction
        if transaction is None:
            raise Err("EXEC without MULTI")
        if transaction.failed:
            self._end_transaction()
            raise ExecAbort("Transaction discarded because of previous errors.")
        if self._watching and self._watch_lost:
            self._end_transaction()
            self._reply(b"_\r\n" if self.protocol == 3 else b"*-1\r\n")
            return
        try:
            route = self._host.route(transaction.slot, write=True, readonly=False)
        except ReplyError:
            self._end_transaction()
            raise
        if route is Route.WAIT:
            self._wait(command)
            return
        lane = self._own if self._watching else self._host.shared_lane(route, self.protocol)
        assert lane is not None, "a live WATCH has its lane"
        if not self._switch_lane(lane, command):
            return
        self._inflight.append(Mark.WRITE if transaction.writes else Mark.READ)
        block = b"".join([_MULTI, *transaction.commands, _EXEC])
        receiver = InfoReceiver(self, frozenset(transaction.infos)) if transaction.infos else self
        lane.submit_block(receiver, block, skipped=len(transaction.commands) + 1)
        self._end_transaction(unwatch=False)

    def _end_transaction(self, *, unwatch: bool = True) -> None:
        """EXEC ends the WATCH as well; for one that never reached the engine we end it ourselves."""
        self._transaction = None
        if unwatch and self._watching and self._own is not None:
            self._own.submit_unheard(_UNWATCH)
        self._watching = self._watch_lost = False

    # -- waiting and answering -------------------------------------------------------------------------

    def _wait(self, command: Command) -> None:
        """Hold the command until the shard has a primary; give up, definitely, when that takes too long."""
        now_us = self._host.now_us()
        if self._wait_until_us is None:
            self._wait_until_us = self._host.wait_deadline_us()
        elif now_us >= self._wait_until_us:
            if self._transaction is not None and command.args[0].lower() == b"exec":
                self._end_transaction()  # at no earlier command: those behind it are the transaction's
            raise ClusterDown("The shard has no serving primary")
        self._hold(command, Stall.UNAVAILABLE)

    def _hold(self, command: Command, stall: Stall) -> None:
        self._held = command
        self._stall = stall
        if stall is Stall.UNAVAILABLE:
            self._host.add_waiting(self)

    def _reply(self, data: bytes) -> None:
        """A reply of the front itself, in its turn."""
        if self._inflight:
            assert self._lane is not None
            self._inflight.append(data)
            self._lane.submit_local(self, data)
        else:
            self._transport.write(data)

    def _close_when_drained(self) -> None:
        self._stall = Stall.CLOSING
        if not self._inflight:
            self._transport.close()

    def _back_pressure(self) -> None:
        too_much = self._stall is not None and self._parser.buffered > BUFFERED_BYTES_MAX
        if too_much and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        elif self._paused and not too_much:
            self._paused = False
            self._transport.resume_reading()


def _lost_reply(mark: int | bytes) -> bytes:
    if isinstance(mark, bytes):
        return mark
    if mark == Mark.WRITE:
        return InDoubt(
            "The primary lost its role before this write was committed; it may or may not have happened"
        ).resp()
    return TryAgain("The primary lost its role before this read could be answered").resp()
