"""The Raft core under a hypothesis state machine: an acknowledged write is in every later read, whatever
happens between.

Every choice is a step that hypothesis draws and shrinks: which packet arrives when and how often, which disk
finishes its oldest write, who crashes with what still unwritten, whose clock jumps. Nothing arrives and
nothing is written by itself; `calm` lets both happen, for some of the nodes and some of the disks, so that a
few steps are a whole story (a leader that only one follower hears, a crash of both, another leader …).

Two judges. `Safety` (tests/raft/safety.py) sees inside every node after every step. `Clients` sees what a
client would: it is told of a write when the leader that took it has it committed in the same term, and it
reads where a lease or a confirmed round allows it. At the end the healed group must elect a leader, commit,
and hold everything that any client was told.

**Clock jumps** have a budget. A promise also counts ticks, of which a jump may fake two (`RaftNode.tick`),
and a lease is 40 ms shorter than a promise: so a clock may jump once in the time of a promise, not at every
tick.
"""

import random
import sys
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.errors import NotLeader
from cluster.raft import EntryKind, RaftNode, RequestVote, Role, VoteResponse
from cluster.types import Index, NodeId, Term
from tests.raft.chaos import PACKETS_MAX, Chaos
from tests.raft.harness import MS, Cluster, Packet
from tests.sim.stateful import budget

pytestmark = pytest.mark.slow

PICK = st.integers(0, 63)
NODE = st.integers(1, 5)  # in a group of three, 4 and 5 are 1 and 2 again
SOME = st.frozensets(NODE, min_size=1)
FEW = st.frozensets(NODE, max_size=2)
THEN_MS = st.sampled_from([0, 0, 0, 20, 60, 400])  # a calm that follows a step
FATE = st.sampled_from(["arrives", "arrives twice", "is lost", "is late"])
PROMISE_MS = 150
TICK_MS = 10
JUMP_EVERY_US = 200 * MS


@dataclass
class Write:
    """A write whose client waits."""

    node: RaftNode
    term: Term
    index: Index
    payload: bytes


@dataclass
class Read:
    """A read that waits for its round."""

    node: RaftNode
    round: int
    known: int  # how many writes had been acknowledged when it began


@dataclass
class Clients:
    cluster: Cluster
    acknowledged: list[tuple[Index, bytes]] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    begun: int = 0
    reads_judged: int = 0

    def write(self, node: RaftNode) -> None:
        self.begun += 1
        payload = b"w%d" % self.begun
        try:
            index = node.propose(EntryKind.EFFECTS, payload)
        except NotLeader:
            return
        self.writes.append(Write(node, node.term, index, payload))

    def read(self, node: RaftNode) -> None:
        self.cluster.safety.begin_read(node)
        self.reads.append(Read(node, node.read_round(), len(self.acknowledged)))

    def hear(self) -> None:
        """What the nodes would tell them now. Whom a dead or deposed node would have told stays in doubt."""
        running = self.cluster.running()
        for write in list(self.writes):
            if write.node not in running or write.node.term != write.term or not write.node.is_leader:
                self.writes.remove(write)
            elif write.node.commit_index >= write.index:
                self.writes.remove(write)
                self.acknowledged.append((write.index, write.payload))
        for read in list(self.reads):
            if read.node not in running or not read.node.is_leader:
                self.reads.remove(read)
            elif read.node.read_confirmed(read.round):
                self.reads.remove(read)
                self._judge(read.node, read.known)
        for node in running:
            if node.lease_valid(self.cluster.clock(node.node_id)):
                self._judge(node, len(self.acknowledged))

    def judge_all(self) -> None:
        """When everything is healed: on every node."""
        for node in self.cluster.running():
            self._judge(node, len(self.acknowledged))

    def _judge(self, node: RaftNode, known: int) -> None:
        """A read of everything that `node` has applied, by somebody who knows of the first `known` writes."""
        self.reads_judged += 1
        applied = self.cluster.members[node.node_id].applied
        for index, payload in self.acknowledged[:known]:
            assert len(applied) >= index, f"{node.node_id} answers a read without acknowledged entry {index}"
            assert applied[index - 1].payload == payload, (
                f"{node.node_id} shows another entry {index} than was acknowledged"
            )


def is_pre_vote(packet: Packet) -> bool:
    return isinstance(packet.message, RequestVote | VoteResponse) and packet.message.pre_vote


class RaftGroup(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 255), voters=st.sampled_from([3, 3, 3, 5]))
    def begin(self, seed: int, voters: int) -> None:
        """`seed`: limits, often tiny ones; clocks up to 10 % apart; election timeouts."""
        self.chaos = Chaos(random.Random(seed), voters)
        self.cluster = self.chaos.cluster
        self.cluster.trace = note
        self.clients = Clients(self.cluster)
        self.jumped_us: dict[NodeId, int] = {}
        for member in self.cluster.members.values():
            member.disk.held = True
        self._calm(400)

    def _name(self, number: int) -> NodeId:
        return self.chaos.ids[(number - 1) % len(self.chaos.ids)]

    def _names(self, numbers: Collection[int]) -> list[NodeId]:
        return sorted({self._name(number) for number in numbers})

    def _node(self, number: int) -> RaftNode | None:
        """If it runs."""
        member = self.cluster.members[self._name(number)]
        return None if member.paused else member.node

    # ── time ────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(ms=st.integers(1, 400), among=st.none() | SOME, held=FEW)
    def calm(self, ms: int, among: frozenset[int] | None, held: frozenset[int]) -> None:
        """Among these nodes (None: all) everything arrives, and every disk writes that is not `held`. The
        others do nothing. A leader that has no writes under way gets one."""
        self._calm(ms, among, held)

    def _calm(self, ms: int, among: frozenset[int] | None = None, held: frozenset[int] = frozenset()) -> None:
        names = self.chaos.ids if among is None else self._names(among)
        writing = [name for name in names if name not in self._names(held)]
        for _ in range(0, ms, TICK_MS):
            self._run(names, TICK_MS)
            self.cluster.deliver_all(lambda packet: packet.from_node in names and packet.to in names)
            for name in writing:
                while self.cluster.write_one(name):
                    pass
            self._keep_busy(names)

    def _keep_busy(self, names: Collection[NodeId]) -> None:
        busy = [write.node for write in self.clients.writes]
        for node in self.cluster.leaders():
            if node.node_id in names and node in self.cluster.running() and node not in busy:
                self.cluster.act(node.node_id, self.clients.write)

    def _run(self, names: Collection[NodeId], ms: int) -> None:
        """Time passes for everybody, only these notice."""
        self.cluster.now_us += ms * MS
        for name in names:
            self.cluster.tick(name)
        self.cluster.check_leases()
        del self.cluster.packets[:-PACKETS_MAX]

    @rule(who=st.none() | SOME, ms=st.integers(1, 300), then_ms=THEN_MS)
    def advance(self, who: frozenset[int] | None, ms: int, then_ms: int) -> None:
        """Only these (None: all) run, and nothing arrives."""
        self._advance(who, ms)
        self._calm(then_ms)

    def _advance(self, who: frozenset[int] | None, ms: int) -> None:
        for _ in range(0, ms, TICK_MS):
            self._run(self.chaos.ids if who is None else self._names(who), min(ms, TICK_MS))

    @rule(who=SOME)
    def campaign(self, who: frozenset[int]) -> None:
        """All promises end, then the patience of these, and they win their pre-votes: candidates, of one term
        perhaps, whose requests wait for their disks or are on their way."""
        self._advance(None, PROMISE_MS + TICK_MS)
        names = self._names(who)
        nodes = [node for node in self.cluster.running() if node.node_id in names]
        for _ in range(PROMISE_MS // TICK_MS):
            if all(node.role is Role.PRE_CANDIDATE for node in nodes):
                break
            self._run(names, TICK_MS)
        self.cluster.deliver_all(is_pre_vote)

    @rule(who=NODE, ms=st.integers(1, 2000))
    def jump_clock(self, who: int, ms: int) -> None:
        name = self._name(who)
        if self.cluster.now_us - self.jumped_us.get(name, -JUMP_EVERY_US) >= JUMP_EVERY_US:
            self.jumped_us[name] = self.cluster.now_us
            self.cluster.members[name].clock_offset_us += ms * MS

    # ── packets ─────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.cluster.packets)
    @rule(pick=PICK, fate=FATE, then_ms=THEN_MS)
    def packet(self, pick: int, fate: str, then_ms: int) -> None:
        self._meet([self.cluster.packets[pick % len(self.cluster.packets)]], fate)
        self._calm(then_ms)

    @precondition(lambda self: self.cluster.packets)
    @rule(sender=NODE, receiver=NODE, fate=FATE, writes=st.booleans(), then_ms=THEN_MS)
    def link(self, sender: int, receiver: int, fate: str, writes: bool, then_ms: int) -> None:
        """All that is under way from one to the other; `writes`: then the receiver's disk finishes."""
        ends = (self._name(sender), self._name(receiver))
        self._meet([packet for packet in self.cluster.packets if (packet.from_node, packet.to) == ends], fate)
        while writes and self.cluster.write_one(ends[1]):
            pass
        self._calm(then_ms)

    def _meet(self, packets: list[Packet], fate: str) -> None:
        for packet in packets:
            if fate == "is late":  # until `undelay`
                self.cluster.packets.remove(packet)
                self.chaos.stuck.append(packet)
            elif fate == "is lost":
                self.cluster.packets.remove(packet)
            elif not self.cluster.members[packet.to].paused:
                if fate == "arrives":
                    self.cluster.packets.remove(packet)
                self.cluster.deliver(packet)
                self.cluster.check_leases()

    @precondition(lambda self: self.chaos.stuck)
    @rule(then_ms=THEN_MS)
    def undelay(self, then_ms: int) -> None:
        self.chaos.undelay()
        self._calm(then_ms)

    @rule(sender=NODE, receiver=NODE, then_ms=THEN_MS)
    def cut(self, sender: int, receiver: int, then_ms: int) -> None:
        """One direction."""
        self.cluster.cut.add((self._name(sender), self._name(receiver)))
        self._calm(then_ms)

    @precondition(lambda self: self.cluster.cut)
    @rule(pick=st.none() | PICK)
    def mend(self, pick: int | None) -> None:
        """One of them, or all."""
        links = sorted(self.cluster.cut)
        self.cluster.cut -= set(links if pick is None else [links[pick % len(links)]])

    # ── machines and disks ──────────────────────────────────────────────────────────────────────────────────

    @rule(who=NODE, count=st.integers(1, 3))
    def disk(self, who: int, count: int) -> None:
        """Its oldest writes finish."""
        for _ in range(count):
            self.cluster.write_one(self._name(who))

    @rule(who=SOME, kept=st.integers(0, 2), restart=st.booleans(), then_ms=THEN_MS)
    def crash(self, who: frozenset[int], kept: int, restart: bool, then_ms: int) -> None:
        """Unwritten writes are lost, except the oldest `kept`, of which nobody was told."""
        for name in self._names(who):
            if self.cluster.members[name].node is not None:
                self.cluster.crash(name, kept)
        if restart:
            self._restart()
        self._calm(then_ms)

    @rule(who=NODE, then_ms=THEN_MS)
    def pause(self, who: int, then_ms: int) -> None:
        self.cluster.members[self._name(who)].paused = True
        self._calm(then_ms)

    @precondition(lambda self: len(self.cluster.running()) < len(self.chaos.ids))
    @rule(then_ms=THEN_MS)
    def restart(self, then_ms: int) -> None:
        """Whoever is down or stopped."""
        self._restart()
        self._calm(then_ms)

    def _restart(self) -> None:
        for name, member in self.cluster.members.items():
            member.paused = False
            if member.node is None:
                self.cluster.start(name)

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.cluster.leaders())
    @rule(who=NODE, count=st.integers(1, 4), then_ms=THEN_MS)
    def write(self, who: int, count: int, then_ms: int) -> None:
        node = self._node(who)
        for _ in range(count):
            if node is not None and node.is_leader:
                self.cluster.act(node.node_id, self.clients.write)
        self._calm(then_ms)

    @precondition(lambda self: self.cluster.leaders())
    @rule()
    def read(self) -> None:
        """Of everybody who believes to lead."""
        for node in self.cluster.leaders():
            if node in self.cluster.running():
                self.cluster.act(node.node_id, self.clients.read)

    @precondition(lambda self: self.cluster.leaders())
    @rule(pick=PICK, then_ms=THEN_MS)
    def transfer(self, pick: int, then_ms: int) -> None:
        self.chaos.transfer(pick)
        self._calm(then_ms)

    # ── what must hold ──────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def promises_hold(self) -> None:
        self.cluster.check_leases()
        self.clients.hear()

    def teardown(self) -> None:
        if hasattr(self, "chaos") and sys.exc_info()[0] is None:  # a red example is red already
            self.chaos.undelay()
            self.chaos.check_recovery()
            self.clients.judge_all()


TestRaftGroup = RaftGroup.TestCase
TestRaftGroup.settings = budget(examples=80, steps=40)
