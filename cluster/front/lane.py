"""A connection to the engine as the front uses it: commands in, raw replies out, each to whom it belongs.

One lane per protocol version is shared by all plain sessions of a node; a session with a WATCH or a
blocking command owns one. A lane never parses what passes: it counts replies and hands their bytes on.

* **Gated** lane (primary): after every batch, and in the middle of a large one, it asks `ROLE` on the same
  connection. The offset in the answer covers everything before it, and it is a command boundary. The batch
  then waits in the gate for that offset.
* **Ungated** lane (replica, which holds committed data only): replies leave as they come.

A batch is what was submitted between two flushes: at the end of a turn of the shell's event loop, but not
before the engine has answered the batch before. What a batch costs (a write, a wake-up of the engine,
ROLE, the tap) is then shared by everything that came meanwhile.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from cluster.engine.protocol import Engine
from cluster.front.resp import ReplySplitter, reply_end
from cluster.types import Offset


class Receiver(Protocol):
    """Who gets replies: a session."""

    def deliver(self, data: bytes, count: int) -> None:
        """`count` replies, in order, ready to be sent."""
        ...


class GateLike(Protocol):
    def submit(self, offset: Offset, deliver: Callable[[], None]) -> None: ...


class _Marker:
    """Stands in the queue of expected replies for one that is not a client's."""


_ROLE: Final = _Marker()  # the reply to our ROLE
_SKIP: Final = _Marker()  # a reply that nobody waits for: to our HELLO 3, and QUEUED


class _Local:
    """A reply that the front made itself, waiting for its turn among the engine's."""

    __slots__ = ("data", "receiver")

    def __init__(self, receiver: Receiver, data: bytes) -> None:
        self.receiver = receiver
        self.data = data


SLOW_BYTES = 64 << 10
BATCH_BYTES_MAX = 1 << 20
_BULK: Final = ord("$")
_ONE_LINE: Final = frozenset(b"+-:_#,(")
_SIZES: Final = {b"%d" % size: size for size in range(4096)}
_Run = tuple[Receiver, bytes, int]


def role_offset(reply: bytes) -> Offset | None:
    """The offset in the reply to ROLE of a primary: `*3 $6 master :offset *n …`; None if it is not a
    primary."""
    if not reply.startswith(b"*3\r\n$6\r\nmaster\r\n:"):
        return None
    return Offset(int(reply[17 : reply.index(b"\r\n", 17)]))


class ClientLane:
    """See the module. `on_boundary` hears every offset that ROLE told; `on_role_refused` that it told none:
    then `ask_role` must be called again, but not at once; `on_lost` that the connection is gone."""

    def __init__(
        self,
        *,
        engine: Engine,
        protocol: int,
        gate: GateLike | None,
        on_boundary: Callable[[Offset], None],
        on_lost: Callable[[], None],
        call_soon: Callable[[Callable[[], None]], None],
        on_role_refused: Callable[["ClientLane"], None] = lambda lane: None,
    ) -> None:
        self._on_role_refused = on_role_refused
        self._gate = gate
        self._on_boundary = on_boundary
        self._call_soon = call_soon
        self._pending: deque[Receiver | _Local | _Marker] = deque()
        self._out: list[bytes] = []
        self._runs: list[_Run] = []  # replies of the batch whose ROLE has not been answered yet
        self._rest = b""  # the beginning of a reply that is not complete
        self._splitter: ReplySplitter | None = None  # in its place while that reply is huge
        self._scheduled = False
        self._out_bytes = 0  # since the last ROLE in `_out`
        self._roles_out = 0  # in `_out`
        self._roles_pending = 0  # sent and not answered
        self.closed = False
        self._lane = engine.open_lane(self.on_data, on_lost)
        if protocol == 3:
            self._pending.append(_SKIP)
            self._lane.write(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")

    @property
    def asking(self) -> bool:
        """An answer to ROLE is on its way."""
        return self._roles_pending > 0 or self._scheduled

    @property
    def busy(self) -> bool:
        """Something is on its way to the engine or back."""
        return bool(self._pending)

    def submit(self, receiver: Receiver, raw: bytes) -> None:
        """One command, as strict RESP bytes; its reply will be delivered to `receiver`."""
        self._pending.append(receiver)
        self._out.append(raw)
        self._out_bytes += len(raw)
        if self._out_bytes > BATCH_BYTES_MAX:
            self._add_role()  # a boundary in the middle: an entry of the log can end only there
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.flush)

    def submit_block(self, receiver: Receiver, raw: bytes, skipped: int) -> None:
        """Several commands in one piece (MULTI … EXEC); only the last reply is delivered."""
        self._pending.extend([_SKIP] * skipped)
        self.submit(receiver, raw)

    def submit_unheard(self, raw: bytes) -> None:
        """One command whose reply nobody waits for."""
        self._pending.append(_SKIP)
        self._out.append(raw)
        self._wake()

    def submit_local(self, receiver: Receiver, data: bytes) -> None:
        """A reply of the front itself, to be delivered in its turn."""
        self._pending.append(_Local(receiver, data))
        self._wake()

    def ask_role(self) -> None:
        """Learn the boundary after effects that no client's command accounts for."""
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Send the batch, and ROLE behind it; while the engine is busy with one, the next gathers."""
        if self.closed:
            return
        if self._roles_pending:
            return  # `_scheduled` stays: the answer to ROLE flushes
        self._scheduled = False
        out = self._out
        self._add_role()
        self._roles_pending, self._roles_out = self._roles_out, 0
        if out:
            self._lane.write(out[0] if len(out) == 1 else b"".join(out))
            self._out = []
        if self._pending and isinstance(self._pending[0], _Local):
            self.on_data(b"")  # nothing of the engine stands before it

    def _add_role(self) -> None:
        self._out_bytes = 0
        if self._gate is not None:
            self._out.append(b"*1\r\n$4\r\nROLE\r\n")
            self._pending.append(_ROLE)
            self._roles_out += 1

    def close(self) -> None:
        self.closed = True
        self._pending.clear()
        self._runs = []
        self._out.clear()
        self._lane.close()

    def on_data(self, data: bytes) -> None:
        """Engine bytes, cut anywhere."""
        if self.closed:
            return
        if self._splitter is not None:
            self._take_slowly(self._splitter, data)
        else:
            if self._rest:
                data = self._rest + data
            position = self._split(data)
            self._rest = data[position:] if position < len(data) else b""
            if len(self._rest) > SLOW_BYTES:
                # A huge reply in many pieces: look at each of its elements once, not once a piece.
                self._splitter = ReplySplitter()
                rest, self._rest = self._rest, b""
                self._take_slowly(self._splitter, rest)
        if self._gate is None and self._runs:
            runs, self._runs = self._runs, []
            _deliver(runs)

    def _take_slowly(self, splitter: ReplySplitter, data: bytes) -> None:
        for reply in splitter.feed(data):
            taken = self._split(reply)
            assert self.closed or taken == len(reply), (
                "the splitter gives whole replies that somebody waits for"
            )
        if not splitter.buffered:
            self._splitter = None

    def _split(self, data: bytes) -> int:
        """Hand out the whole replies in `data`; returns where the first incomplete one starts."""
        pending = self._pending
        runs = self._runs
        find = data.find
        size_of = _SIZES.get
        total = len(data)
        position = start = count = 0
        receiver: Receiver | None = None
        while pending:
            item = pending[0]
            if item.__class__ is _Local:
                if receiver is not None:
                    runs.append((receiver, data[start:position], count))
                    receiver = None
                pending.popleft()
                runs.append((item.receiver, item.data, 1))
                continue
            if position >= total:
                break
            # The common replies by hand: a bulk string of a length in the table, or one line.
            line = find(b"\r\n", position)
            if line < 0:
                break
            kind = data[position]
            if kind == _BULK and (size := size_of(data[position + 1 : line])) is not None:
                end = line + size + 4
                if end > total:
                    break
            elif kind in _ONE_LINE:
                end = line + 2
            else:
                end = reply_end(data, position)
                if end < 0:
                    break
            pending.popleft()
            if item is receiver:
                count += 1
            else:
                if receiver is not None:
                    runs.append((receiver, data[start:position], count))
                    receiver = None
                if item.__class__ is _Marker:
                    if item is _ROLE:
                        self._on_role(data[position:end])
                        if self.closed:
                            return total
                        runs = self._runs
                else:
                    receiver = item  # type: ignore[assignment]  # neither _Local nor _Marker
                    start = position
                    count = 1
            position = end
        if receiver is not None:
            runs.append((receiver, data[start:position], count))
        return position

    def _on_role(self, reply: bytes) -> None:
        self._roles_pending -= 1
        if self._scheduled:
            self._call_soon(self.flush)
        offset = role_offset(reply)
        if self._gate is None:
            return
        if offset is None:
            # Demoted under us: the lane is about to be closed and the batch abandoned. Or a script keeps the
            # engine busy (-BUSY): the batch waits for the next offset.
            self._on_role_refused(self)
            return
        self._on_boundary(offset)
        runs = self._runs
        if runs and not self.closed:
            self._runs = []
            self._gate.submit(offset, lambda: self._deliver_unless_closed(runs))

    def _deliver_unless_closed(self, runs: list[_Run]) -> None:
        # Once a lane is lost its sessions have been answered; a parked batch must not answer them again.
        if not self.closed:
            _deliver(runs)


def _deliver(runs: list[_Run]) -> None:
    for receiver, data, count in runs:
        receiver.deliver(data, count)
