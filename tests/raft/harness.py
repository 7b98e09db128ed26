"""A whole Raft group on one thread: nodes, disks, a network and clocks that do only what the test says.

Everything a node writes goes through a `Disk` whose writes can be held back and are lost in a crash;
everything it says becomes a `Packet` that lies in `Cluster.packets` until it is delivered, dropped or
doubled. After every step of a node `Safety` looks at it.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.raft import (
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MemoryStorage,
    Message,
    Quorum,
    RaftConfig,
    RaftNode,
    Ready,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cluster.types import Index, NodeId, Term
from tests.raft.safety import Safety

MS = 1000


class FixedRng(random.Random):
    """Draws the election timeouts that the test chose: the same one, or the top of the range if it is
    lower."""

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(0)
        self._timeout_us = timeout_ms * MS

    def randint(self, a: int, b: int) -> int:
        return min(max(self._timeout_us, a), b)


class EventLog:
    """A `Log` that hands every event to the test. Debug events are marks of rare branches."""

    def __init__(self, sink: Callable[[str, dict[str, object]], None]) -> None:
        self._sink = sink

    def debug(self, event: str, **fields: object) -> None:
        self._sink(event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._sink(event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._sink(event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._sink(event, fields)


@dataclass(frozen=True)
class Packet:
    from_node: NodeId
    to: NodeId
    message: Message


class Disk:
    """Writes finish in order; while it is held none does. A crash loses those that have not."""

    def __init__(self, storage: MemoryStorage) -> None:
        self.storage = storage
        self.held = False
        self.waiting: deque[Ready] = deque()


class Member:
    """One machine: it outlives the `RaftNode` that runs on it."""

    def __init__(
        self, node_id: NodeId, storage: MemoryStorage, config: RaftConfig, rng: random.Random
    ) -> None:
        self.node_id = node_id
        self.config = config
        self.rng = rng
        self.disk = Disk(storage)
        self.node: RaftNode | None = None
        self.paused = False
        self.applied: list[Entry] = []
        self.clock_offset_us = 0
        self.clock_percent = 100  # speed of its clock


class Cluster:
    def __init__(
        self,
        members: Sequence[Member],
        *,
        learners: Iterable[NodeId] = (),
        trace: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.members = {member.node_id: member for member in sorted(members, key=lambda m: m.node_id)}
        learning = frozenset(learners)
        self.membership = Membership(frozenset(self.members) - learning, learners=learning)
        self.safety = Safety(
            Quorum(self.membership), {m.node_id: m.disk.storage for m in self.members.values()}
        )
        self.now_us = 0
        self.packets: list[Packet] = []
        self.cut: set[tuple[NodeId, NodeId]] = set()
        self.marks: set[str] = set()  # every event seen
        self._heartbeats: set[tuple[NodeId, NodeId, int, int]] = set()  # leader, peer, term, round
        self.trace = trace

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────

    def node(self, node_id: str) -> RaftNode:
        node = self.members[NodeId(node_id)].node
        assert node is not None, f"{node_id} is down"
        return node

    def clock(self, node_id: NodeId) -> int:
        member = self.members[node_id]
        return member.clock_offset_us + self.now_us * member.clock_percent // 100

    def leaders(self) -> list[RaftNode]:
        return [m.node for m in self.members.values() if m.node is not None and m.node.is_leader]

    def running(self) -> list[RaftNode]:
        return [m.node for m in self.members.values() if m.node is not None and not m.paused]

    # ── machines ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, node_id: NodeId) -> None:
        member = self.members[node_id]
        assert member.node is None
        self.safety.born(node_id)
        member.applied = []
        member.paused = False
        member.node = RaftNode(
            node_id=node_id,
            membership=self.membership,
            config=member.config,
            storage=member.disk.storage,
            rng=member.rng,
            now_us=self.clock(node_id),
            log=EventLog(lambda event, fields: self._event(node_id, event, fields)),
        )
        self._settle(member)

    def crash(self, node_id: NodeId, kept: int = 0) -> None:
        """Power cut: waiting writes are gone, but for the oldest `kept`, which had made it without anybody
        knowing."""
        member = self.members[node_id]
        for _ in range(min(kept, len(member.disk.waiting))):
            self._reach_disk(member, member.disk.waiting.popleft())
        lost = sum(len(ready.entries) for ready in member.disk.waiting)
        member.disk.waiting.clear()
        member.node = None
        self.trace(f"{node_id} crashed, {lost} unwritten entries lost")

    def write_one(self, node_id: NodeId) -> bool:
        """The oldest waiting write of this disk finishes. False if there was none."""
        member = self.members[node_id]
        if not member.disk.waiting or member.node is None or member.paused:
            return False
        self._finish_write(member)
        self._settle(member)
        return True

    def release_disk(self, node_id: NodeId) -> None:
        self.members[node_id].disk.held = False
        while self.write_one(node_id):
            pass

    # ── time, messages, requests ────────────────────────────────────────────────────────────────────────────

    def tick(self, node_id: NodeId) -> None:
        member = self.members[node_id]
        if member.node is not None and not member.paused:
            member.node.tick(self.clock(node_id))
            self._settle(member)

    def advance(self, ms: int) -> None:
        """Time passes for everybody, at once."""
        self.now_us += ms * MS
        for node_id in self.members:
            self.tick(node_id)
        self.check_leases()

    def deliver(self, packet: Packet) -> None:
        """`packet`, which the caller took out of `packets`, arrives, unless its link is cut or its receiver
        is down."""
        member = self.members[packet.to]
        if member.node is None or (packet.from_node, packet.to) in self.cut:
            return
        assert not member.paused, "a stopped process reads nothing"
        member.node.step(packet.from_node, packet.message, self.clock(packet.to))
        self._settle(member)

    def deliver_all(self, wanted: Callable[[Packet], bool] = lambda packet: True) -> None:
        """Deliver, oldest first, until nothing wanted is left. What a stopped process would get stays."""
        while True:
            for place, packet in enumerate(self.packets):
                if wanted(packet) and not self.members[packet.to].paused:
                    del self.packets[place]
                    self.deliver(packet)
                    break
            else:
                return

    def run(self, ms: int, tick_ms: int = 10) -> None:
        """Time passes and everything is delivered as soon as it is sent."""
        for _ in range(ms // tick_ms):
            self.advance(tick_ms)
            self.deliver_all()

    def act(self, node_id: NodeId, act: Callable[[RaftNode], object]) -> object:
        """Do something to a node, then let it go on."""
        member = self.members[node_id]
        assert member.node is not None
        result = act(member.node)
        self._settle(member)
        return result

    def check_leases(self) -> None:
        for member in self.members.values():
            if member.node is not None:
                self.safety.check_lease(member.node, self.clock(member.node_id))

    # ── what a caller of the core does ──────────────────────────────────────────────────────────────────────

    def _settle(self, member: Member) -> None:
        node = member.node
        assert node is not None
        self.safety.check_node(node)
        while node.has_ready():
            ready = node.ready()
            self.safety.check_node(node)
            self._send(member.node_id, ready.messages)
            for entry in ready.committed:
                self.safety.check_applied(member.applied, entry)
                member.applied.append(entry)
                self.trace(f"{member.node_id} applies {show_entry(entry)}")
            if ready.persist is not None:
                member.disk.waiting.append(ready)
                if not member.disk.held:
                    self._finish_write(member)
            else:
                assert not ready.messages_after_persist
                assert not ready.entries

    def _finish_write(self, member: Member) -> None:
        ready = member.disk.waiting.popleft()
        node = member.node
        assert node is not None
        assert ready.persist is not None
        self._reach_disk(member, ready)
        self._send(member.node_id, ready.messages_after_persist)
        node.persisted(ready.persist, self.clock(member.node_id))
        self.safety.check_node(node)

    def _reach_disk(self, member: Member, ready: Ready) -> None:
        storage = member.disk.storage
        last = storage.last_index
        storage.append(ready.hard_state, ready.entries)
        overwritten = ready.entries[0].index if ready.entries and ready.entries[0].index <= last else None
        self.safety.check_write(member.node_id, ready.hard_state, overwritten)
        if ready.hard_state is not None or ready.entries:
            self.trace(f"{member.node_id} writes {show_write(ready.hard_state, ready.entries)}")

    def _send(self, from_node: NodeId, messages: Sequence[tuple[NodeId, Message]]) -> None:
        for to, message in messages:
            lost = (from_node, to) in self.cut
            if not self._is_heartbeat(from_node, to, message):
                self.trace(f"{from_node} → {to} {show(message)}{'  (cut)' if lost else ''}")
            if not lost:
                self.packets.append(Packet(from_node, to, message))

    def _is_heartbeat(self, from_node: NodeId, to: NodeId, message: Message) -> bool:
        """An empty AppendEntries, or the success that answers it: not worth a line."""
        if isinstance(message, AppendEntries) and not message.entries:
            self._heartbeats.add((from_node, to, message.term, message.round))
            return True
        if isinstance(message, AppendResponse) and message.success:
            return (to, from_node, message.term, message.round) in self._heartbeats
        return False

    def _event(self, node_id: NodeId, event: str, fields: dict[str, object]) -> None:
        self.marks.add(event)
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        self.trace(f"{node_id} {event} {words}".rstrip())


def show_entry(entry: Entry) -> str:
    text = entry.payload.decode("ascii", "replace")
    return f"{entry.index}/{entry.term}{':' + text if text else ''}"


def show_write(hard_state: HardState | None, entries: Sequence[Entry]) -> str:
    words = [] if hard_state is None else [f"term={hard_state.term} vote={hard_state.vote or '-'}"]
    words += [show_entry(entry) for entry in entries]
    return " ".join(words)


def show(message: Message) -> str:
    """One message as one short line. Rounds are left out: they would change every script at every change."""
    match message:
        case AppendEntries():
            entries = " ".join(show_entry(entry) for entry in message.entries) or "heartbeat"
            at = f"after {message.prev_index}/{message.prev_term} commit={message.commit_index}"
            return f"append term={message.term} {at} [{entries}]"
        case AppendResponse(success=True):
            return f"ack term={message.term} match={message.match_index}/{message.match_term}"
        case AppendResponse():
            return f"reject term={message.term} hint={message.hint_index}/{message.hint_term}"
        case RequestVote():
            kind = "pre-vote" if message.pre_vote else "vote"
            flag = " transfer" if message.transfer else ""
            return f"{kind}? term={message.term} last={message.last_index}/{message.last_term}{flag}"
        case VoteResponse():
            kind = "pre-vote" if message.pre_vote else "vote"
            return f"{kind} {'granted' if message.granted else 'refused'} term={message.term}"
        case TimeoutNow():
            return f"timeout-now term={message.term}"
        case _:
            return repr(message)


def preset_storage(term: int, vote: str | None, terms: Sequence[int]) -> MemoryStorage:
    """A disk from an earlier life: entry i has term terms[i - 1] and says so."""
    entries = [
        Entry(Index(place + 1), Term(entry_term), EntryKind.EFFECTS, f"old{entry_term}".encode())
        for place, entry_term in enumerate(terms)
    ]
    return MemoryStorage(HardState(Term(term), NodeId(vote) if vote else None), entries)
