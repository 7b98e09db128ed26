"""A small deterministic world: whole nodes with model engines on virtual time, a network and disks that
can fail.

It exists to test `cluster.node` in milliseconds; issue 2/5's simulator is the real thing and will replace it.
Time is in microseconds. Everything random comes from one seed.
"""

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hiredis

from cluster.az.topology import Topology, plan_topology
from cluster.engine.model import ModelEngine
from cluster.node import Node, NodeSettings
from cluster.raft import MemoryStorage, RaftConfig
from cluster.raft.messages import Entry, HardState, Message
from cluster.shard.gossip import Gossip
from cluster.shard.replica import Serving
from cluster.types import Az, NodeId, NullLog


class Client:
    """One connection: `call` sends, `replies` holds what came back, parsed."""

    def __init__(self, world: "World", member: "Member", protocol: int = 2) -> None:
        self.world = world
        self.closed = False
        self.paused = False
        self.raw = b""
        self.replies: list[object] = []
        self._reader = hiredis.Reader()
        self.session = member.node.open_session(self, "test:1")

    def write(self, data: bytes) -> None:
        self.raw += data
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self.replies.append(reply)

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def send(self, *args: str | bytes | int) -> None:
        self.session.receive(hiredis.pack_command(args))  # type: ignore[arg-type]  # its stub knows one-tuples only

    def call(self, *args: str | bytes | int, within_us: int = 5_000_000) -> object:
        """Send one command and run the world until its reply is here."""
        had = len(self.replies)
        self.send(*args)
        self.world.run_until(lambda: len(self.replies) > had, within_us)
        return self.replies[-1]


@dataclass
class Member:
    """One node of the world and what survives its crash: the storage."""

    id: NodeId
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    node: Node = field(init=False)
    engine: ModelEngine = field(init=False)
    alive: bool = False
    paused: bool = False
    generation: int = 0
    held: list[Callable[[], None]] = field(default_factory=list)
    disk: list[tuple[HardState | None, Sequence[Entry], Callable[[], None]]] = field(default_factory=list)


class MemberHost:
    """`Host` for one life of one member: whatever belongs to an older life is dropped."""

    def __init__(self, world: "World", member: Member) -> None:
        self.world = world
        self.member = member
        self.generation = member.generation

    def now_us(self) -> int:
        return self.world.now

    def after(self, delay_us: int, callback: Callable[[], None]) -> None:
        def run() -> None:
            member = self.member
            if not member.alive or member.generation != self.generation:
                return
            if member.paused:
                member.held.append(run)
            else:
                callback()

        self.world.at(self.world.now + delay_us, run)

    def send(self, to: NodeId, message: Message | Gossip) -> None:
        self.world.deliver(self.member, to, message)

    def persist(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None]
    ) -> None:
        self.member.disk.append((hard_state, list(entries), on_durable))
        delay_us = self.world.rng.randint(50, 400)
        self.after(1_000_000 if self.member.id in self.world.slow_disks else delay_us, self._sync)

    def _sync(self) -> None:
        if self.member.disk:
            hard_state, entries, on_durable = self.member.disk.pop(0)
            self.member.storage.append(hard_state, entries)
            on_durable()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.after(0, callback)

    def call_later(self, delay_us: int, callback: Callable[[], None]) -> None:
        self.after(delay_us, callback)


class World:
    def __init__(self, seed: int = 0, shards: int = 1, replicas: int = 2, read_mode: str = "lease") -> None:
        self.rng = random.Random(seed)
        self.now = 1_000_000
        self.topology: Topology = plan_topology(
            name="test",
            cluster_id="test",
            shards=shards,
            replicas=replicas,
            azs=(Az("az-a"), Az("az-b"), Az("az-c")),
            host="127.0.0.1",
            base_port=7001,
        )
        self.use_lease = read_mode == "lease"
        self.cut: set[frozenset[NodeId]] = set()
        self.drop_percent = 0
        self.slow_disks: set[NodeId] = set()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self.members = {node.id: Member(node.id) for node in self.topology.nodes}
        self.journal_only = {node.id for node in self.topology.nodes if node.journal_only}
        for member in self.members.values():
            self.start(member.id)

    # -- time ------------------------------------------------------------------------------------------

    def at(self, when: int, callback: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, callback))

    def run(self, duration_us: int) -> None:
        end = self.now + duration_us
        while self._events and self._events[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within_us: int = 10_000_000) -> None:
        end = self.now + within_us
        while not condition():
            assert self._events and self._events[0][0] <= end, "the condition never came true"
            self._step()

    def _step(self) -> None:
        when, _, callback = heapq.heappop(self._events)
        self.now = max(self.now, when)
        callback()
        for member in self.members.values():
            if member.alive:
                member.node.raft.check_invariants()

    # -- nodes -----------------------------------------------------------------------------------------

    def start(self, node_id: NodeId | str) -> None:
        member = self.members[NodeId(node_id)]
        assert not member.alive
        member.alive = True
        member.paused = False
        member.generation += 1
        member.disk = []
        host = MemberHost(self, member)

        def make_engine(node: Node) -> ModelEngine:
            member.engine = ModelEngine(events=node, clock=host, defer=host.call_soon)
            return member.engine

        member.node = Node(
            node_id=member.id,
            topology=self.topology,
            settings=NodeSettings(raft=RaftConfig(), use_lease=self.use_lease),
            storage=member.storage,
            make_engine=None if member.id in self.journal_only else make_engine,
            host=host,
            rng=random.Random(self.rng.random()),
            log=NullLog(),
        )
        member.node.start()

        def tick() -> None:
            member.node.on_tick()
            if member.id not in self.journal_only:
                member.engine.tick()
            host.after(10_000, tick)

        host.after(self.rng.randint(0, 10_000), tick)

    def crash(self, node_id: NodeId | str) -> None:
        """Power cut: what was not durable is gone."""
        member = self.members[NodeId(node_id)]
        member.alive = False
        member.generation += 1
        member.disk = []
        member.held = []

    def pause(self, node_id: NodeId | str) -> None:
        self.members[NodeId(node_id)].paused = True

    def resume(self, node_id: NodeId | str) -> None:
        member = self.members[NodeId(node_id)]
        member.paused = False
        held, member.held = member.held, []
        for callback in held:
            self.at(self.now, callback)

    def deliver(self, sender: Member, to: NodeId, message: Message | Gossip) -> None:
        target = self.members[to]
        if frozenset((sender.id, to)) in self.cut or self.rng.randrange(100) < self.drop_percent:
            return
        generation = target.generation

        def arrive() -> None:
            if not target.alive or target.generation != generation:
                return
            if target.paused:
                target.held.append(arrive)
            elif frozenset((sender.id, to)) not in self.cut:
                target.node.on_peer_messages(sender.id, [message])

        self.at(self.now + self.rng.randint(100, 2_000), arrive)

    def isolate(self, node_id: NodeId | str) -> None:
        for other in self.members:
            if other != node_id:
                self.cut.add(frozenset((NodeId(node_id), other)))

    def heal(self) -> None:
        self.cut.clear()

    # -- looking ---------------------------------------------------------------------------------------

    def primary(self, shard: str = "0001", within_us: int = 10_000_000, but: str = "") -> Member:
        """Run until some living, unpaused member of the shard serves as primary."""

        def candidates() -> list[Member]:
            return [
                member
                for node_id, member in sorted(self.members.items())
                if node_id.startswith(shard)
                and node_id != but
                and member.alive
                and not member.paused
                and member.node.replica.serving is Serving.PRIMARY
                and member.node.raft.is_leader
            ]

        self.run_until(lambda: bool(candidates()), within_us)
        return max(candidates(), key=lambda member: member.node.raft.term)

    def client(self, member: Member) -> Client:
        return Client(self, member)

    def digests(self, shard: str = "0001") -> set[tuple[int, str]]:
        """`(offset, digest)` of every living engine of the shard."""
        found: list[tuple[int, str]] = []
        asked = 0
        for node_id, member in sorted(self.members.items()):
            if node_id.startswith(shard) and member.alive and node_id not in self.journal_only:
                asked += 1
                member.engine.ask_digest(lambda offset, digest: found.append((offset, digest)))
        self.run_until(lambda: len(found) == asked)
        return set(found)

    def converge(self, shard: str = "0001", within_us: int = 20_000_000) -> None:
        """Run until every member of the shard serves and holds the same data at the same offset."""

        def settled() -> bool:
            members = [member for node_id, member in self.members.items() if node_id.startswith(shard)]
            states = {member.node.replica.serving for member in members}
            return states <= {Serving.PRIMARY, Serving.REPLICA, Serving.JOURNAL} and (
                len({member.node.replica.commit_offset for member in members}) == 1
            )

        end = self.now + within_us
        while self.now < end:
            self.run_until(settled, within_us)
            if len(self.digests(shard)) == 1:
                return
            self.run(50_000)
        raise AssertionError(f"replicas do not agree: {self.digests(shard)}")
