"""Simulated clients: a cluster client as people use one, without silent retries.

It knows the seed nodes, guesses who leads a shard, follows `MOVED`, and otherwise sends each operation once:

| what comes back | recorded as |
|---|---|
| a reply | OK |
| an error in `DEFINITE`, too many redirects, no connection | FAIL: it was never executed |
| `INDOUBT`, the connection ends or nothing comes in time | DOUBT |
| any other error | a violation: nothing in the workloads may cause one |

A connection is TCP: in order, late, and when the node's process dies either reset or silent. The bytes are
RESP both ways, through the product's own parser and front.
"""

import random
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import hiredis

from cluster.sim.history import Op, Result
from cluster.sim.process import Machine, SimProcess
from cluster.sim.subjects import ClientSession
from cluster.types import NodeId, ShardId

if TYPE_CHECKING:
    from cluster.sim.simulation import Simulation

REDIRECTS_MAX = 8
RETRY_US = 30_000
DEFINITE = ("CLUSTERDOWN", "TRYAGAIN", "LOADING", "READONLY", "EXECABORT", "MASTERDOWN")


def pack(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


class Pending:
    """One operation that waits for its replies on a connection."""

    __slots__ = ("data", "done", "moved", "on_done", "op", "redirects", "replies", "sent", "shard")

    def __init__(self, op: Op, shard: ShardId, data: bytes, replies: int) -> None:
        self.op = op
        self.shard = shard
        self.data = data
        self.replies = replies  # how many replies it causes; the last one counts
        self.redirects = 0
        self.sent = False
        self.moved: str | None = None
        self.done = False


class Connection:
    """A client's connection to one life of one node: its `ClientTransport`."""

    def __init__(self, client: "SimClient", machine: Machine) -> None:
        self._client = client
        self._sim = client.sim
        self.machine = machine
        self.process: SimProcess | None = machine.process
        self.open = True
        self.dead = False  # something was lost on the way: a stream has no holes, so nothing passes any more
        self.expected: deque[Pending | None] = deque()  # None: a reply that is only counted
        self._session: ClientSession | None = None
        self._reader = hiredis.Reader()
        self._there = 0  # order towards the node
        self._back = 0  # order towards the client
        delay = client.delay()
        if self.process is None or machine.id in self._sim.client_cut:
            self._fail_later(delay)
        else:
            self._there = self._sim.world.now + delay
            self.process.at(self._there, self._accept)
            self._sim.world.at(self._there + 1, self._check_accepted)

    def _accept(self) -> None:
        if self.open and self.process is not None and self._session is None:
            self._session = self.process.connect(self, f"client-{self._client.number}")

    def _check_accepted(self) -> None:
        process = self.process
        if (
            self.open
            and self._session is None
            and (process is None or not process.alive or not process.paused)
        ):
            self._closed()

    def _fail_later(self, delay: int) -> None:
        self._sim.world.after(delay, self._closed)

    def send(self, pending: Pending) -> None:
        for _ in range(pending.replies - 1):
            self.expected.append(None)
        self.expected.append(pending)
        pending.sent = self.process is not None
        when = max(self._there + 1, self._sim.world.now + self._client.delay())
        self._there = when
        if self.process is not None:
            self.process.at(when, partial(self._arrive, pending.data))

    def _arrive(self, data: bytes) -> None:
        self.dead = self.dead or self._session is None or self.machine.id in self._sim.client_cut
        if self.open and not self.dead and self._session is not None:
            self._session.receive(data)

    # -- called by the node ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        process = self.process
        assert process is not None
        if self.machine.kill_at is not None:
            process.point("reply")
        if not self.open:
            return
        self._sim.world.note_bytes(data)
        self._reader.feed(data)
        replies: list[tuple[Pending, object]] = []
        while (reply := self._reader.gets()) is not False:
            assert self.expected, f"a reply too many: {reply!r}"
            pending = self.expected.popleft()
            if pending is None:
                self._note_redirect(reply)
            else:
                self._client.judge_leaving(self.machine, pending, reply)
                replies.append((pending, reply))
        self.dead = self.dead or self.machine.id in self._sim.client_cut
        if self.dead:
            return
        when = max(self._back + 1, self._sim.world.now + self._client.delay())
        self._back = when
        self._sim.world.at(when, partial(self._deliver, replies))

    def _note_redirect(self, reply: object) -> None:
        """MULTI or a queued command was answered with an error: EXEC will only say that."""
        if isinstance(reply, hiredis.ReplyError):
            following = next(pending for pending in self.expected if pending is not None)
            text = str(reply)
            if text.startswith("MOVED"):
                following.moved = text

    def close(self) -> None:
        self._sim.world.after(self._client.delay(), self._closed)

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    # -- on the client's side --------------------------------------------------------------------------

    def _deliver(self, replies: list[tuple[Pending, object]]) -> None:
        if self.open:
            for pending, reply in replies:
                self._client.on_reply(pending, reply)

    def on_process_ended(self, *, reset: bool) -> None:
        """The node's process is gone. Its kernel says so, unless the machine is gone as well."""
        self._session = None
        if reset:
            self._sim.world.after(self._client.delay(), self._closed)

    def _closed(self) -> None:
        """The client learns that the connection has ended."""
        if self.open:
            self.shut()
            self._client.on_closed(self)

    def shut(self) -> None:
        self.open = False
        process, session = self.process, self._session
        self._session = None
        if process is not None and process.alive and session is not None and process.node is not None:
            process.at(self._sim.world.now, partial(self._close_session, process, session))

    def _close_session(self, process: SimProcess, session: ClientSession) -> None:
        assert process.node is not None
        process.sessions = [pair for pair in process.sessions if pair[1] is not session]
        process.node.close_session(session)


class SimClient:
    """Sends operations, keeps what it believes of the cluster, records what it sees."""

    def __init__(self, sim: "Simulation", number: int, rng: random.Random) -> None:
        self.sim = sim
        self.number = number
        self.rng = rng
        self._random = rng.random
        self._delay_us = sim.config.client_delay_us
        self._believes: dict[ShardId, NodeId] = {}
        self._connections: dict[NodeId, Connection] = {}
        self.outstanding = 0
        self.timeout_us = sim.config.op_timeout_us

    def delay(self) -> int:
        return 50 + int(self._delay_us * self._random() ** 2)

    def submit(self, op: Op, shard: ShardId, data: bytes, replies: int = 1) -> None:
        """Start an operation that is in the history already."""
        pending = Pending(op, shard, data, replies)
        self.outstanding += 1
        self.sim.world.after(self.timeout_us, partial(self._timed_out, pending))
        self._attempt(pending)

    def _attempt(self, pending: Pending) -> None:
        if pending.done:
            return
        node = self._believes.get(pending.shard)
        if node is None:
            node = self._believes[pending.shard] = self._any_node(pending.shard)
        connection = self._connections.get(node)
        if connection is None or not connection.open:
            connection = self._connections[node] = Connection(self, self.sim.machines[node])
        pending.moved = None
        connection.send(pending)

    def _any_node(self, shard: ShardId, other_than: NodeId | None = None) -> NodeId:
        nodes = [node for node in self.sim.serving_nodes[shard] if node != other_than]
        return nodes[int(self._random() * len(nodes))] if nodes else self.sim.serving_nodes[shard][0]

    def on_reply(self, pending: Pending, reply: object) -> None:
        if pending.done:
            return
        if not isinstance(reply, hiredis.ReplyError):
            self._finish(pending, Result.OK, reply)
            return
        text = pending.moved or str(reply)
        code = text.split(" ", 1)[0]
        if code == "MOVED":
            self._follow(pending, text)
        elif code == "INDOUBT":
            self._finish(pending, Result.DOUBT)
        elif code in DEFINITE:
            self._believes[pending.shard] = self._any_node(pending.shard, self._believes[pending.shard])
            self._finish(pending, Result.FAIL)
        else:
            self.sim.on_unexpected_error(pending.op, text)
            self._finish(pending, Result.DOUBT)

    def _follow(self, pending: Pending, text: str) -> None:
        pending.redirects += 1
        node = self.sim.node_at.get(text.rsplit(" ", 1)[1])
        if pending.redirects > REDIRECTS_MAX or node is None:
            self._finish(pending, Result.FAIL)
            return
        pending.sent = False  # a redirected command was not executed
        again = pending.redirects > 2
        self._believes[pending.shard] = node
        self.sim.world.after(RETRY_US if again else 0, partial(self._attempt, pending))

    def on_closed(self, connection: Connection) -> None:
        """Whatever was on its way there is in doubt; what was never sent is tried elsewhere."""
        waiting = [pending for pending in connection.expected if pending is not None and not pending.done]
        connection.expected.clear()
        for shard, node in sorted(self._believes.items()):
            if node == connection.machine.id:
                self._believes[shard] = self._any_node(shard, node)
        for pending in waiting:
            if pending.sent:
                self._finish(pending, Result.DOUBT)
            else:
                self.sim.world.after(RETRY_US, partial(self._attempt, pending))

    def _timed_out(self, pending: Pending) -> None:
        if not pending.done:
            node = self._believes.get(pending.shard)
            self._finish(pending, Result.DOUBT if pending.sent else Result.FAIL)
            connection = self._connections.get(node) if node is not None else None
            if connection is not None and connection.open:
                connection.shut()  # no reply of it will be believed any more
                self.on_closed(connection)

    def _finish(self, pending: Pending, result: Result, reply: object = None) -> None:
        pending.done = True
        self.outstanding -= 1
        op = pending.op
        op.result = result
        if result is not Result.DOUBT:
            op.ended_us = self.sim.world.now
        if result is Result.OK:
            op.reply = self.sim.workload_of(op).understand(op, reply)
            self.sim.on_acknowledged(op, pending.shard)

    def judge_leaving(self, machine: Machine, pending: Pending, reply: object) -> None:
        """At the moment when a reply leaves its node."""
        if isinstance(reply, hiredis.ReplyError):
            return
        if machine.id in self.sim.cut_off:
            self.sim.minority_acked += 1
        values = self.sim.workload_of(pending.op).values_shown(pending.op, reply)
        if values:
            violation = self.sim.safety.on_reply(machine.shard, machine.id, values, pending.op.number)
            if violation is not None:
                self.sim.violate(violation)
