"""Random trouble for a `Cluster`, each kind one method, every choice an integer: so hypothesis can drive it,
and so can a seed.

Packets are delivered in any order, dropped and doubled; disks hold writes back; machines crash (and lose what
was not written), restart, stop and go on; links break one way; clocks run up to 5 % apart. `heal` ends it,
then the group must work within a bounded time.
"""

import random
from collections.abc import Callable

from cluster.errors import NotLeader
from cluster.raft import AppendEntries, AppendResponse, EntryKind, MemoryStorage, RaftConfig, RaftNode
from cluster.types import Index, NodeId
from tests.raft.harness import Cluster, Member, Packet

PACKETS_MAX = 300  # older ones are lost
RECOVERY_MS = 3000


class Chaos:
    def __init__(self, rng: random.Random, voters: int, learners: int = 0) -> None:
        """Tiny limits, so that windows fill and caches overflow all the time."""
        ids = [NodeId(str(number)) for number in range(1, voters + learners + 1)]
        config = RaftConfig(
            inflight_messages_max=rng.choice([1, 2, 8]),
            message_bytes_max=rng.choice([8, 64, 1 << 20]),
            cache_bytes_max=rng.choice([1, 600, 1 << 20]),
            apply_bytes_max=rng.choice([1, 64, 1 << 20]),
        )
        members = [Member(name, MemoryStorage(), config, random.Random(rng.random())) for name in ids]
        for member in members:
            member.clock_offset_us = rng.randrange(10**9)
            member.clock_percent = rng.randint(95, 105)
        self.cluster = Cluster(members, learners=ids[voters:])
        self.ids = ids
        self.proposed = 0
        self.stuck: list[Packet] = []
        for name in ids:
            self.cluster.start(name)

    # ── one kind of trouble each; `pick` chooses ────────────────────────────────────────────────────────────

    def advance(self, ms: int) -> None:
        self.cluster.advance(ms)
        del self.cluster.packets[:-PACKETS_MAX]

    def deliver(self, pick: int) -> None:
        packet = self._take(pick)
        if packet is not None:
            self.cluster.deliver(packet)
            self.cluster.check_leases()

    def deliver_oldest(self, count: int) -> None:
        for _ in range(count):
            self.deliver(0)

    def linger(self, ms: int) -> None:
        """Nothing new goes wrong for a while: time for what went wrong already to have consequences."""
        for _ in range(ms // 10):
            self.cluster.advance(10)
            self.deliver_oldest(len(self.cluster.packets))

    def delay(self, pick: int) -> None:
        """A packet, a rare one if there is any, gets stuck until `undelay`."""
        packets = self.cluster.packets
        rare = [p for p in packets if not isinstance(p.message, AppendEntries | AppendResponse)] or packets
        if rare:
            packet = rare[pick % len(rare)]
            packets.remove(packet)
            self.stuck.append(packet)

    def undelay(self) -> None:
        self.cluster.packets[:0] = self.stuck
        self.stuck.clear()

    def deliver_twice(self, pick: int) -> None:
        packet = self._take(pick)
        if packet is not None:
            self.cluster.packets.append(packet)
            self.cluster.deliver(packet)

    def drop(self, pick: int) -> None:
        if self.cluster.packets:
            del self.cluster.packets[pick % len(self.cluster.packets)]

    def propose(self, pick: int, count: int) -> None:
        leaders = [node for node in self.cluster.leaders() if node in self.cluster.running()]
        if leaders:
            node = leaders[pick % len(leaders)]
            self.cluster.act(node.node_id, lambda node: self._propose(node, count))

    def transfer(self, pick: int) -> None:
        def ask(node: RaftNode) -> None:
            try:
                node.transfer(self.ids[pick % len(self.ids)], self.cluster.clock(node.node_id))
            except ValueError:
                pass

        self._each_leader(ask)

    def read(self) -> None:
        self._each_leader(self.cluster.safety.begin_read)

    def crash(self, pick: int, kept: int) -> None:
        """One that has something to lose, if there is any."""
        up = [name for name in self.ids if self.cluster.members[name].node is not None]
        writing = [name for name in up if self.cluster.members[name].disk.waiting]
        if up:
            names = writing or up
            self.cluster.crash(names[pick % len(names)], kept)

    def restart(self, pick: int) -> None:
        down = [name for name in self.ids if self.cluster.members[name].node is None]
        if down:
            self.cluster.start(down[pick % len(down)])

    def pause(self, pick: int) -> None:
        self.cluster.members[self.ids[pick % len(self.ids)]].paused = True

    def resume(self, pick: int) -> None:
        self.cluster.members[self.ids[pick % len(self.ids)]].paused = False

    def hold_disk(self, pick: int) -> None:
        self.cluster.members[self.ids[pick % len(self.ids)]].disk.held = True

    def write_one(self, pick: int) -> None:
        self.cluster.write_one(self.ids[pick % len(self.ids)])

    def release_disk(self, pick: int) -> None:
        self.cluster.release_disk(self.ids[pick % len(self.ids)])

    def cut(self, pick: int) -> None:
        self.cluster.cut.add((self.ids[pick % len(self.ids)], self.ids[pick // 8 % len(self.ids)]))

    def cut_pair(self, pick: int) -> None:
        self.cut(pick)
        a, b = self.ids[pick % len(self.ids)], self.ids[pick // 8 % len(self.ids)]
        self.cluster.cut.add((b, a))

    def mend(self) -> None:
        self.cluster.cut.clear()

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────

    def heal(self) -> None:
        self.cluster.cut.clear()
        for name, member in self.cluster.members.items():
            member.paused = False
            if member.node is None:
                self.cluster.start(name)
            self.cluster.release_disk(name)

    def check_recovery(self) -> None:
        """Liveness: healed, the group elects a leader, commits something new, and everybody has and applies
        all of it."""
        self.heal()
        self.cluster.deliver_all()
        floor: Index | None = None
        for _ in range(RECOVERY_MS // 50):
            self.cluster.run(50)
            leaders = self.cluster.leaders()
            if floor is None and len(leaders) == 1 and leaders[0].transferring_to is None:
                self.propose(0, 1)
                floor = leaders[0].last_index
            nodes = self.cluster.running()
            if floor is not None and all(node.commit_index >= floor for node in nodes):
                break
        else:
            raise AssertionError("the healed group did not recover")
        logs = [member.applied for member in self.cluster.members.values()]
        assert all(log == logs[0] for log in logs), "replicas differ"

    def _take(self, pick: int) -> Packet | None:
        ready = [p for p in self.cluster.packets if not self.cluster.members[p.to].paused]
        if not ready:
            return None
        packet = ready[pick % len(ready)]
        self.cluster.packets.remove(packet)
        return packet

    def _propose(self, node: RaftNode, count: int) -> None:
        for _ in range(count):
            self.proposed += 1
            try:
                node.propose(EntryKind.EFFECTS, b"%d" % self.proposed)
            except NotLeader:
                return

    def _each_leader(self, act: Callable[[RaftNode], object]) -> None:
        for node in self.cluster.leaders():
            if node in self.cluster.running():
                self.cluster.act(node.node_id, act)


def run_seed(seed: int, steps: int) -> Chaos:
    """A whole run: every choice, also which kinds of trouble there are and how often (a swarm), comes from
    `seed`."""
    rng = random.Random(seed)
    chaos = Chaos(rng, voters=rng.choice([1, 2, 3, 3, 3, 5]), learners=rng.choice([0, 0, 1]))
    large = 1 << 16
    usual: list[Callable[[], None]] = [
        lambda: chaos.advance(rng.randint(1, 15)),
        lambda: chaos.deliver_oldest(rng.randint(1, 8)),
        lambda: chaos.propose(rng.randrange(large), rng.randint(1, 3)),
        lambda: chaos.write_one(rng.randrange(large)),
        lambda: chaos.read(),
    ]
    trouble: list[Callable[[], None]] = [
        lambda: chaos.deliver(rng.randrange(large)),
        lambda: chaos.deliver_twice(rng.randrange(large)),
        lambda: chaos.drop(rng.randrange(large)),
        lambda: chaos.transfer(rng.randrange(large)),
        lambda: chaos.crash(rng.randrange(large), rng.randint(0, 3)),
        lambda: chaos.pause(rng.randrange(large)),
        lambda: chaos.hold_disk(rng.randrange(large)),
        lambda: chaos.cut(rng.randrange(large)),
        lambda: chaos.advance(rng.randint(50, 500)),
        lambda: chaos.cut_pair(rng.randrange(large)),
        lambda: chaos.delay(rng.randrange(large)),
        lambda: chaos.linger(rng.randrange(20, 350)),
        lambda: chaos.linger(rng.randrange(20, 150)),
    ]
    cures: list[Callable[[], None]] = [
        lambda: chaos.restart(rng.randrange(large)),
        lambda: chaos.resume(rng.randrange(large)),
        lambda: chaos.release_disk(rng.randrange(large)),
        lambda: chaos.mend(),
        lambda: chaos.undelay(),
    ]
    weights = [rng.choice([0, 1, 1, 4]) for _ in trouble]
    actions = usual + trouble + cures
    scale = rng.choice([0.3, 1.0, 3.0])
    chances = (
        [30.0, 40.0, 10.0, 5.0, 3.0] + [weight * scale for weight in weights] + [2.0 * scale] * len(cures)
    )
    for _ in range(steps):
        rng.choices(actions, chances)[0]()
    chaos.check_recovery()
    return chaos
