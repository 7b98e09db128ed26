"""What PySyncObj's nodes talk over: its own TCP transport, retold for the simulated network.

`TcpLinks` is the fair one. It behaves as the library's `transport.py` and `tcp_connection.py` do on a real
kernel: of two nodes the one with the greater address connects, and again `connectionRetryTime` after its last
attempt; a connection keeps order and repeats what was lost; it ends when nothing was read for
`connectionTimeout`, which is looked at only when something is sent or comes in, and what was under way is
lost with it. Both sides are told.

`RawLinks` hands every message to the network as it is: lost, doubled, overtaken, and delivered to a later
life of the receiver. The library never claimed to cope with that; what is found this way is labelled so.

Left out: encryption, read-only nodes, membership changes, refused connections (a dead process answers
nothing, so its peers notice when it is back or when the timeout has passed).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from pysyncobj.transport import Transport

from cluster.types import NodeId

SYN_AGAIN_US = 1_000_000
RESEND_MIN_US = 200_000  # Linux's smallest
RESEND_MAX_US = 3_200_000
RESEND_AT_ONCE = 64
CHUNKS_AT_ONCE = 16
SNAPSHOT_SEND_US = 1_000

Wire = tuple[Any, ...]
Connection = tuple[NodeId, int, int]  # who began it, in which life, the how manieth of that life


class Host(Protocol):
    """What links need of their process."""

    id: NodeId
    life: int

    def now_us(self) -> int: ...
    def send(self, to: NodeId, message: object) -> None: ...
    def spend(self, us: int) -> None:
        """Time goes on within this turn."""
        ...


class Links(Transport):  # type: ignore[misc]  # the library has no types
    """What both kinds have in common."""

    def __init__(self, host: Host, sync_obj: Any, self_node: Any, other_nodes: Iterable[Any]) -> None:
        super().__init__(sync_obj, self_node, other_nodes)
        self._host = host
        self._conf = sync_obj.conf
        self._nodes = {node.id: node for node in sorted(other_nodes, key=lambda node: str(node.id))}
        sync_obj.addOnTickCallback(self.on_library_tick)

    def receive(self, sender: NodeId, wire: Any) -> bool:
        """From the network. True if the library was given something."""
        raise NotImplementedError

    def on_library_tick(self) -> None: ...
    def on_timer(self) -> None: ...

    def flush(self) -> None:
        """The library's turn is over."""

    def _spend(self, message: Any) -> None:
        """While it waits for a dump the library sends `serialized` messages for a whole
        `appendEntriesPeriod` without a pause: time must go on for that to end."""
        if "serialized" in message:
            self._host.spend(SNAPSHOT_SEND_US)


class RawLinks(Links):
    """Datagrams. Everybody is connected all the time."""

    _begun = False

    def on_library_tick(self) -> None:
        if not self._begun:
            self._begun = True
            for node in self._nodes.values():
                self._onNodeConnected(node)

    def send(self, node: Any, message: Any) -> bool:
        self._spend(message)
        self._host.send(node.id, message)
        return True

    def receive(self, sender: NodeId, wire: Any) -> bool:
        self._onMessageReceived(self._nodes[sender], wire)
        return True


class State(Enum):
    CLOSED = 0
    CONNECTING = 1
    OPEN = 2


class _Peer:
    """Our end of the connection with one other node, if there is one."""

    def __init__(self, node: Any, *, begins: bool) -> None:
        self.node = node
        self.id: NodeId = node.id
        self.begins = begins  # we connect, not the other side
        self.last_attempt_us: int | None = None
        self.attempts = 0
        self.connection: Connection | None = None
        self.state = State.CLOSED
        self.syn_at = 0
        self.reset()

    def reset(self) -> None:
        self.next_to_send = 0
        self.unsent: list[Any] = []  # of this turn; the last ones before `next_to_send`
        self.chunks = 0  # of a dump, among them
        self.unacknowledged: deque[tuple[int, Any]] = deque()
        self.resend_at = 0
        self.resend_us = RESEND_MIN_US
        self.expected = 0  # next number to deliver
        self.early: dict[int, Any] = {}
        self.owes_ack = False
        self.last_read_us = 0


class TcpLinks(Links):
    def __init__(self, host: Host, sync_obj: Any, self_node: Any, other_nodes: Iterable[Any]) -> None:
        super().__init__(host, sync_obj, self_node, other_nodes)
        self._peers = {
            node_id: _Peer(node, begins=str(host.id) > str(node_id)) for node_id, node in self._nodes.items()
        }
        self._timeout_us = int(self._conf.connectionTimeout * 1_000_000)
        self._retry_us = int(self._conf.connectionRetryTime * 1_000_000)

    # -- called by the library -------------------------------------------------------------------------

    def on_library_tick(self) -> None:
        for peer in self._peers.values():
            self._connect_if_necessary(peer)

    def send(self, node: Any, message: Any) -> bool:
        peer = self._peers[node.id]
        self._spend(message)
        if peer.state is not State.OPEN or self._timed_out(peer):
            return False
        number = peer.next_to_send
        peer.next_to_send += 1
        if not peer.unacknowledged:
            peer.resend_at = self._host.now_us() + peer.resend_us
        peer.unacknowledged.append((number, message))
        peer.unsent.append(message)
        peer.chunks += "serialized" in message
        if peer.chunks == CHUNKS_AT_ONCE:
            self._send_unsent(peer)
        return True

    def flush(self) -> None:
        for peer in self._peers.values():
            if peer.unsent:
                self._send_unsent(peer)

    # -- timers ----------------------------------------------------------------------------------------

    def on_timer(self) -> None:
        now = self._host.now_us()
        for peer in self._peers.values():
            if peer.state is State.CONNECTING and now >= peer.syn_at:
                self._send_syn(peer)
            elif peer.state is State.OPEN:
                if peer.unacknowledged and now >= peer.resend_at:
                    peer.resend_us = min(2 * peer.resend_us, RESEND_MAX_US)
                    peer.resend_at = now + peer.resend_us
                    number = peer.unacknowledged[0][0]
                    self._send_data(peer, number, [each for _, each in peer.unacknowledged][:RESEND_AT_ONCE])
                if peer.owes_ack:
                    peer.owes_ack = False
                    self._host.send(peer.id, ("ack", peer.connection, peer.expected))

    # -- connections -----------------------------------------------------------------------------------

    def _connect_if_necessary(self, peer: _Peer) -> None:
        now = self._host.now_us()
        if peer.state is not State.CLOSED or not peer.begins:
            return
        if peer.last_attempt_us is not None and now - peer.last_attempt_us < self._retry_us:
            return
        peer.last_attempt_us = now
        peer.attempts += 1
        peer.reset()
        peer.connection = (self._host.id, self._host.life, peer.attempts)
        peer.state = State.CONNECTING
        peer.last_read_us = now
        self._send_syn(peer)

    def _send_syn(self, peer: _Peer) -> None:
        peer.syn_at = self._host.now_us() + SYN_AGAIN_US
        self._host.send(peer.id, ("syn", peer.connection))

    def _send_unsent(self, peer: _Peer) -> None:
        messages, peer.unsent, peer.chunks = peer.unsent, [], 0
        self._send_data(peer, peer.next_to_send - len(messages), messages)

    def _send_data(self, peer: _Peer, number: int, messages: Sequence[Any]) -> None:
        """Messages `number` … in one piece."""
        peer.owes_ack = False
        self._host.send(peer.id, ("data", peer.connection, number, peer.expected, messages))

    def _opened(self, peer: _Peer) -> None:
        peer.state = State.OPEN
        peer.last_read_us = self._host.now_us()
        self._onNodeConnected(peer.node)

    def _timed_out(self, peer: _Peer) -> bool:
        if self._host.now_us() - peer.last_read_us <= self._timeout_us:
            return False
        self._host.send(peer.id, ("end", peer.connection))
        self._closed(peer)
        return True

    def _closed(self, peer: _Peer) -> None:
        peer.state = State.CLOSED
        peer.reset()
        self._onNodeDisconnected(peer.node)
        self._connect_if_necessary(peer)

    # -- called by the network -------------------------------------------------------------------------

    def receive(self, sender: NodeId, wire: Wire) -> bool:
        peer, (kind, connection, *rest) = self._peers[sender], wire
        if kind == "syn":
            return self._on_syn(peer, connection)
        if connection != peer.connection or peer.state is State.CLOSED:
            if kind != "end":
                self._host.send(sender, ("end", connection))
            return False
        if kind == "end":
            self._closed(peer)
            return False
        if peer.state is State.CONNECTING:  # whatever comes in on it says that it was accepted
            self._opened(peer)
        if kind == "data":
            number, acknowledged, messages = rest
            if self._timed_out(peer):
                return False
            self._on_ack(peer, acknowledged)
            return self._on_data(peer, number, messages)
        if kind == "ack":
            self._on_ack(peer, rest[0])
        return False

    def _on_syn(self, peer: _Peer, connection: Connection) -> bool:
        if connection != peer.connection:
            if peer.connection is not None and connection < peer.connection:
                return False  # one of long ago
            peer.connection = connection
            peer.reset()
            self._opened(peer)
        self._host.send(peer.id, ("accepted" if peer.state is State.OPEN else "end", connection))
        return False

    def _on_ack(self, peer: _Peer, upto: int) -> None:
        waiting = peer.unacknowledged
        if waiting and waiting[0][0] < upto:
            while waiting and waiting[0][0] < upto:
                waiting.popleft()
            peer.resend_us = RESEND_MIN_US
            peer.resend_at = self._host.now_us() + peer.resend_us

    def _on_data(self, peer: _Peer, first: int, messages: Sequence[Any]) -> bool:
        peer.owes_ack = True
        for number, message in enumerate(messages, first):
            if number >= peer.expected:
                peer.early[number] = message
        delivered = False
        while peer.expected in peer.early and peer.state is State.OPEN:
            message = peer.early.pop(peer.expected)
            peer.expected += 1
            peer.last_read_us = self._host.now_us()
            delivered = True
            self._onMessageReceived(peer.node, message)
        return delivered
