"""Some PySyncObj members on a bench: no timers, no network; a test says which message arrives when.

Members are called A, B, C … Nothing happens by itself: `elect`, `tick`, `take` (messages off a link), `give`
(to their receiver), `carry` (both), `kill` (SIGKILL), `cut` (power), `boot`. Messages of a link are taken and
given in the order in which they were sent unless a test says that it does otherwise, so what a test shows
here TCP allows as well.
"""

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from cluster.az.topology import plan_topology
from cluster.raft import RaftConfig
from cluster.sim.config import SimConfig
from cluster.sim.disk import SimDisk
from cluster.sim.process import ProcessKilled, SimProcess
from cluster.sim.subjects.pysyncobj_ import PySyncObjNode, PySyncObjSubject, Store
from cluster.sim.world import World
from cluster.types import Az

Message = dict[str, Any]
TICK_US = 101_000  # longer than the library's appendEntriesPeriod, so a leader's tick sends


class KeepNothing(random.Random):
    """A power cut before the kernel has written anything back by itself."""

    def choice(self, options: Any) -> Any:
        return options[0]

    def randint(self, low: int, high: int) -> int:
        return low


class KeepData(KeepNothing):
    """All data is on the disk, no change of a name."""

    def choice(self, options: Any) -> Any:
        return options[-1]


class KeepSectors(KeepNothing):
    """Of the sectors with unsynced writes, in order: whether each is on the disk. The rest is not, and no
    change of a name that was not synced."""

    def __init__(self, *kept: bool) -> None:
        super().__init__()
        self._kept = [False, *kept]  # the disk asks about names first

    def choice(self, options: Any) -> Any:
        return 0.5

    def randint(self, low: int, high: int) -> int:
        return high if self._kept and self._kept.pop(0) else low


class Log:
    """The library's log lines, and the adapter's."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def info(self, event: str, **fields: object) -> None:
        self.events.append(" ".join([event, *(str(value) for value in fields.values())]))

    debug = warning = error = info


class Bench:
    def __init__(self, members: int = 3, **settings: Any) -> None:
        self.world = World("bench")
        self._topology = plan_topology(
            name="sim", cluster_id="sim", shards=1, replicas=members - 1,
            azs=tuple(Az(f"az-{letter}") for letter in "abcde"[:members]), host="sim", base_port=7001,
        )  # fmt: skip
        self._ids = dict(zip("ABCDE", [node.id for node in self._topology.nodes], strict=False))
        self._letters = {node_id: letter for letter, node_id in self._ids.items()}
        self._subject = PySyncObjSubject(raw=True, **settings)
        self.disks = {letter: SimDisk(self.world, KeepNothing()) for letter in self._ids}
        self._lives = dict.fromkeys(self._ids, 0)
        self.logs = {letter: Log() for letter in self._ids}
        self.nodes: dict[str, PySyncObjNode] = {}
        self._box: list[tuple[str, str, Message]] = []
        for letter in self._ids:
            self.boot(letter)

    # -- members ---------------------------------------------------------------------------------------

    def boot(self, member: str) -> None:
        self._lives[member] += 1
        node_id = self._ids[member]
        process = SimpleNamespace(
            id=node_id,
            spec=self._topology.node(node_id),
            machine=SimpleNamespace(disk=self.disks[member], lives=self._lives[member], kill_at=None),
            sim=SimpleNamespace(
                topology=self._topology,
                serving_nodes={},
                raft_config=lambda spec: RaftConfig(),
                config=SimConfig(seed=0),
            ),
            rng=random.Random(member),
            log=self.logs[member],
            wal=None,
            now_us=lambda: self.world.now,
            send=lambda to, message: self._box.append((member, self._letters[to], message)),
            call_soon=lambda callback: None,
        )
        node = self.nodes[member] = PySyncObjNode(cast(SimProcess, process), self._subject)
        node.start()
        node._turn()

    def kill(self, *members: str) -> None:
        for member in members:
            del self.nodes[member]
            self.disks[member].on_kill()

    def cut(self, *members: str) -> None:
        """The power goes."""
        for member in members:
            del self.nodes[member]
            self.disks[member].on_power_cut()

    def dies_at_write(self, member: str, number: int, during: Callable[[], None]) -> None:
        """SIGKILL just before the `number`-th change of the disk (from 1) that `during` makes."""
        left = [number]

        def touch() -> None:
            left[0] -= 1
            if not left[0]:
                raise ProcessKilled

        self.nodes[member].touch_disk = touch  # type: ignore[method-assign]
        try:
            during()
        except ProcessKilled:
            self.kill(member)
        else:
            raise AssertionError("it did not die")

    def store(self, member: str) -> Store:
        store = self.nodes[member].store
        assert store is not None
        return store

    def inside(self, member: str, name: str) -> Any:
        """One of the library's private fields."""
        return getattr(self.store(member), f"_SyncObj__{name}")

    def log_of(self, member: str) -> list[tuple[int, int]]:
        """Index and term of each entry in its log."""
        return [(index, term) for _, index, term in self.inside(member, "raftLog")[:]]

    def leads(self, member: str) -> bool:
        return self.nodes[member].leads

    # -- time and messages -----------------------------------------------------------------------------

    def tick(self, *members: str) -> None:
        self.world.now += TICK_US
        for member in members:
            self.nodes[member]._turn()

    def take(self, sender: str, to: str) -> list[Message]:
        found = [message for a, b, message in self._box if (a, b) == (sender, to)]
        self._box = [each for each in self._box if each[:2] != (sender, to)]
        return found

    def give(self, sender: str, to: str, messages: Sequence[Message]) -> None:
        for message in messages:
            self.nodes[to].on_message(self._ids[sender], message)

    def carry(self, *links: str) -> None:
        """`"AB"`: what A has sent to B arrives."""
        for link in links:
            sender, to = link[0], link[1]
            self.give(sender, to, self.take(sender, to))

    def elect(self, member: str, *voters: str) -> None:
        """Its election timeout passes, again if some have voted in that term, and these answer it."""
        assert not self.leads(member)
        for _ in range(2):
            self.ask_for_votes(member)
            for voter in voters:
                self.carry(member + voter, voter + member)
            if self.leads(member):
                return
        raise AssertionError("not elected")

    def ask_for_votes(self, member: str) -> None:
        setattr(self.store(member), "_SyncObj__raftElectionDeadline", 0)  # noqa: B010
        self.nodes[member]._turn()

    def replicate(self, leader: str, *followers: str) -> None:
        """The leader sends, they answer, it commits, they hear of that and apply."""
        for _ in range(2):
            self.tick(leader)
            for follower in followers:
                self.carry(leader + follower, follower + leader)
            self.tick(leader, *followers)

    # -- a client --------------------------------------------------------------------------------------

    def ask(self, member: str, *words: str) -> list[tuple[object, int]]:
        """A command on its way; the list gets (result, FAIL_REASON) when the client is answered."""
        answers: list[tuple[object, int]] = []
        self.nodes[member].execute(
            (words,), lambda result, reason: answers.append((result, reason)), multi=False
        )
        self.nodes[member]._turn()
        return answers
