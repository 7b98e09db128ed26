"""Whole nodes under everything at once, from one seed: crashes of nodes and of engines alone, partitions,
pauses, lost feeds and lanes, lost messages, planned failovers; then peace, and the books are checked.

The workload's replies are the witness. What must hold: an acknowledged RPUSH stands where its reply said; an
acknowledged INCR is counted once and never falls in real time; each read of a register fits one order of its
writes in real time; a transaction is seen whole; a definite error means never executed; replies come in the
order of the commands, one each; and after the faults nobody is left waiting.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import hiredis
import pytest

from cluster.engine.model import ModelEngine
from cluster.types import NodeId
from tests.node.world import Client, Member, World

DEFINITE = ("MOVED", "CLUSTERDOWN", "TRYAGAIN", "LOADING", "READONLY", "EXECABORT")
CLIENTS = 6
FAULTS = 14


def code(reply: object) -> str:
    return str(reply).split(" ")[0] if isinstance(reply, hiredis.ReplyError) else ""


@dataclass(eq=False, slots=True)
class Op:
    """One operation of a client. `answered` stays False if the connection went."""

    kind: str
    key: str
    value: str
    began: int
    ended: int = 1 << 62
    reply: object = None
    answered: bool = False

    @property
    def definite(self) -> bool:
        return self.answered and code(self.reply) in DEFINITE

    @property
    def acked(self) -> bool:
        return self.answered and not isinstance(self.reply, hiredis.ReplyError)

    @property
    def maybe(self) -> bool:
        """It may have happened, or happen yet."""
        return not self.answered or code(self.reply) == "INDOUBT"


@dataclass(eq=False, slots=True)
class Worker:
    """A client that sends pipelines to the node it is connected to, and moves on when that is no use."""

    number: int
    chaos: "Chaos"
    client: Client | None = None
    member: Member | None = None
    generation: int = 0
    expected: deque[Op | None] = field(default_factory=deque)  # None: a reply of no interest
    taken: int = 0
    watched_value: bytes | None = None
    replica_seen: int = 0

    def connect(self, member: Member) -> None:
        world = self.chaos.world
        client, old = self.client, self.member
        if client is not None and old is not None and old.alive and old.generation == self.generation:
            old.node.close_session(client.session)
        self.expected.clear()
        self.member, self.generation = member, member.generation
        self.client = Client(world, member, protocol=2)
        self.taken = 0
        self.replica_seen = 0

    @property
    def usable(self) -> bool:
        member = self.member
        return (
            self.client is not None
            and member is not None
            and member.alive
            and not member.paused
            and member.generation == self.generation
        )

    def send(self, *args: str | bytes | int, op: Op | None = None) -> None:
        assert self.client is not None
        self.expected.append(op)
        self.client.send(*args)

    def take(self) -> None:
        """Match what has arrived with what was asked."""
        if self.client is None:
            return
        replies = self.client.replies
        while self.taken < len(replies):
            assert self.expected, f"a reply too many: {replies[self.taken :]}"
            op, reply = self.expected.popleft(), replies[self.taken]
            self.taken += 1
            if op is not None:
                op.reply, op.answered, op.ended = reply, True, self.chaos.world.now
                self.chaos.judge(self, op)

    def work(self) -> None:
        """One pipeline of one to six commands."""
        chaos = self.chaos
        rng = chaos.world.rng
        for _ in range(rng.randint(1, 6)):
            kind = rng.choice(
                ("push", "push", "incr", "set", "get", "get", "multi", "cas", "ping", "replica")
            )
            getattr(self, kind)()

    def op(self, kind: str, key: str, value: str = "") -> Op:
        return self.chaos.begin(kind, key, value)

    def push(self) -> None:
        op = self.op("push", "list", self.chaos.unique())
        self.send("RPUSH", op.key, op.value, op=op)

    def incr(self) -> None:
        self.send("INCR", "counter", op=self.op("incr", "counter"))

    def set(self) -> None:
        op = self.op("set", self.chaos.world.rng.choice(("x", "y")), self.chaos.unique())
        if self.chaos.world.rng.random() < 0.2:
            self.send("SET", op.key, op.value, "PX", 3_600_000, op=op)
        else:
            self.send("SET", op.key, op.value, op=op)

    def get(self) -> None:
        op = self.op("get", self.chaos.world.rng.choice(("x", "y")))
        self.send("GET", op.key, op=op)

    def multi(self) -> None:
        op = self.op("multi", "{m}", self.chaos.unique())
        self.send("MULTI")
        self.send("RPUSH", "{m}a", op.value)
        self.send("LRANGE", "{m}a", 0, -1)
        self.send("RPUSH", "{m}b", op.value)
        self.send("LRANGE", "{m}b", 0, -1)
        self.send("EXEC", op=op)

    def cas(self) -> None:
        """WATCH; a short-lived key comes and goes beside it, so that there are expiries as well."""
        self.send("WATCH", "gone", "cas")
        self.send("SET", "gone", "v", "PX", self.chaos.world.rng.randint(1, 400))
        op = self.op("cas", "cas")
        self.send("MULTI")
        self.send("INCR", "cas")
        self.send("EXEC", op=op)

    def ping(self) -> None:
        op = self.op("ping", "", self.chaos.unique())
        self.send("PING", op.value, op=op)

    def replica(self) -> None:
        """What a node shows to a READONLY client never goes back."""
        self.send("READONLY")
        self.send("GET", "counter", op=self.op("replica", "counter"))
        self.send("READWRITE")


class Chaos:
    def __init__(self, seed: int) -> None:
        self.world = World(
            seed=seed, replicas=1 if seed % 5 == 4 else 2, read_mode="quorum" if seed % 4 == 3 else "lease"
        )
        self.ops: list[Op] = []
        self._values = 0
        self.down: list[tuple[int, NodeId]] = []
        self.paused: list[NodeId] = []
        self.workers = [Worker(number, self) for number in range(CLIENTS)]

    def unique(self) -> str:
        self._values += 1
        return f"v{self._values}"

    def begin(self, kind: str, key: str, value: str) -> Op:
        op = Op(kind, key, value, self.world.now)
        self.ops.append(op)
        return op

    def judge(self, worker: Worker, op: Op) -> None:
        """What can be said about one reply as soon as it comes."""
        reply = op.reply
        failed = isinstance(reply, hiredis.ReplyError)
        assert not failed or code(reply) in (*DEFINITE, "INDOUBT"), f"{op.kind}: {reply}"
        if op.kind == "ping":
            assert reply == op.value.encode(), f"replies out of order: {reply!r} for {op}"
        elif failed:
            assert code(reply) != "INDOUBT" or op.kind not in ("get", "replica"), op
        elif op.kind in ("push", "incr"):
            assert isinstance(reply, int), op
        elif op.kind == "set":
            assert reply == b"OK", op
        elif op.kind in ("get", "replica"):
            assert reply is None or isinstance(reply, bytes), op
            if op.kind == "replica":
                seen = int(reply or b"0")
                assert seen >= worker.replica_seen, (
                    f"a replica went back from {worker.replica_seen} to {seen}"
                )
                worker.replica_seen = seen
        elif op.kind == "multi":
            assert isinstance(reply, list) and reply[1] == reply[3] and reply[0] == reply[2], op
            assert reply[1][-1] == op.value.encode()
        elif op.kind == "cas":
            assert reply is None or (isinstance(reply, list) and isinstance(reply[0], int)), op

    # -- faults ----------------------------------------------------------------------------------------

    def fault(self) -> None:
        world = self.world
        members = [member for _, member in sorted(world.members.items())]
        member = world.rng.choice(members)
        leaders = [other for other in members if other.alive and other.node.raft.is_leader]
        if leaders and world.rng.random() < 0.6:
            member = world.rng.choice(leaders)
        kind = world.rng.choice(
            (
                "crash",
                "crash",
                "isolate",
                "pause",
                "engine",
                "engine",
                "feed",
                "lane",
                "transfer",
                "transfer",
                "tap",
                "drops",
            )
        )
        if not member.alive or member.paused:
            return
        has_engine = member.id not in world.journal_only
        match kind:
            case "crash" if len([other for other in members if other.alive]) > 1:
                world.crash(member.id)
                self.down.append((world.now + world.rng.randint(0, 800_000), member.id))
            case "isolate":
                world.heal()
                world.isolate(member.id)
            case "pause":
                world.pause(member.id)
                self.paused.append(member.id)
            case "engine" if has_engine and member.engine.is_running:
                member.engine.crash("the test")
            case "feed" if has_engine:
                member.engine.break_feed()
            case "tap" if has_engine and member.node.is_primary:
                member.node.on_tap_lost()
            case "lane" if has_engine:
                self.cut_lane(member.engine)
            case "transfer":
                try:
                    member.node.transfer(None)
                except ValueError:
                    pass
            case "drops":
                world.drop_percent = world.rng.choice((0, 0, 3, 15))

    def cut_lane(self, engine: ModelEngine) -> None:
        lanes = [lane for _, lane in sorted(engine._lanes.items())]
        if lanes:
            self.world.rng.choice(lanes).end()

    def repair(self, everything: bool = False) -> None:
        world = self.world
        if everything or world.rng.random() < 0.5:
            world.heal()
        for entry in list(self.down):
            if everything or entry[0] <= world.now:
                self.down.remove(entry)
                world.start(entry[1])
        for node_id in list(self.paused):
            if everything or world.rng.random() < 0.5:
                self.paused.remove(node_id)
                if world.members[node_id].alive:
                    world.resume(node_id)
                else:
                    world.members[node_id].paused = False
        if everything:
            world.drop_percent = 0

    def run(self) -> None:
        world = self.world
        world.primary()
        for _ in range(FAULTS):
            self.fault()
            for _ in range(world.rng.randint(2, 12)):
                for worker in self.workers:
                    self.drive(worker)
                world.run(world.rng.choice((300, 3_000, 30_000, 60_000)))
            self.repair()
        self.repair(everything=True)
        self.settle()

    def drive(self, worker: Worker) -> None:
        rng = self.world.rng
        worker.take()
        living = [
            member
            for _, member in sorted(self.world.members.items())
            if member.alive and not member.paused and member.id not in self.world.journal_only
        ]
        lost = worker.member is not None and (
            not worker.member.alive or worker.member.generation != worker.generation
        )
        restless = worker.client is None or lost or (not worker.expected and rng.random() < 0.1)
        if restless and living:
            primary = [member for member in living if member.node.is_primary]
            worker.connect(rng.choice(primary if primary and rng.random() < 0.8 else living))
        if worker.usable and len(worker.expected) < 40 and rng.random() < 0.6:
            worker.work()
        worker.take()

    # -- the books -------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Nobody is left waiting, all replicas agree, and the books are right."""
        world = self.world

        def nobody_waits() -> bool:
            for worker in self.workers:
                if worker.usable:
                    worker.take()
            return not any(worker.expected for worker in self.workers if worker.usable)

        world.run_until(nobody_waits, 10_000_000)
        primary = world.primary()
        world.converge(within_us=20_000_000)
        primary = world.primary()
        reader = world.client(primary)
        self.check_list(self.read_list(reader, "list"), "push")
        left, right = self.read_list(reader, "{m}a"), self.read_list(reader, "{m}b")
        assert left == right
        self.check_list(left, "multi")
        self.check_counter("incr", int(self.read(reader, "GET", "counter") or 0))  # type: ignore[call-overload]
        self.check_counter("cas", int(self.read(reader, "GET", "cas") or 0))  # type: ignore[call-overload]
        for key in ("x", "y"):
            op = self.begin("get", key, "")
            op.reply, op.answered, op.ended = self.read(reader, "GET", key), True, world.now
            self.check_register(key)

    def read(self, reader: Client, *args: str | int) -> object:
        reply = reader.call(*args)
        assert not isinstance(reply, hiredis.ReplyError), reply
        return reply

    def read_list(self, reader: Client, key: str) -> list[bytes]:
        reply = self.read(reader, "LRANGE", key, 0, -1)
        assert isinstance(reply, list)
        return reply

    def of(self, *kinds: str) -> Iterable[Op]:
        return (op for op in self.ops if op.kind in kinds)

    def check_list(self, final: list[bytes], kind: str) -> None:
        assert all(count == 1 for count in Counter(final).values()), "an element was pushed twice"
        place = {value: number for number, value in enumerate(final, 1)}
        known = {op.value.encode(): op for op in self.of(kind)}
        assert set(final) <= set(known)
        for value, op in known.items():
            if op.acked:
                stands_at = op.reply if kind == "push" else op.reply[0]  # type: ignore[index]
                assert place.get(value) == stands_at, (
                    f"acknowledged at {stands_at}, stands at {place.get(value)}"
                )
            elif op.definite:
                assert value not in place, f"definitely refused with {op.reply}, yet it happened"

    def check_counter(self, kind: str, final: int) -> None:
        ops = list(self.of(kind))
        acked = [op for op in ops if op.acked and op.reply is not None]
        values: list[int] = [op.reply if kind == "incr" else op.reply[0] for op in acked]  # type: ignore[index, misc]
        assert len(set(values)) == len(values), "a number was given out twice"
        maybe = sum(op.maybe for op in ops)
        assert len(acked) <= final <= len(acked) + maybe, (
            f"{len(acked)} acked, {maybe} in doubt, final {final}"
        )
        highest = 0
        ended = sorted(zip((op.ended for op in acked), values, strict=True))
        at = 0
        for op, value in sorted(zip(acked, values, strict=True), key=lambda pair: pair[0].began):
            while at < len(ended) and ended[at][0] < op.began:
                highest = max(highest, ended[at][1])
                at += 1
            assert value > highest, f"{value} was given out after {highest}"

    def check_register(self, key: str) -> None:
        """Gibbons and Korach 1997: a zone for each value, from its earliest end to its latest begin."""
        ops = [op for op in self.of("set", "get") if op.key == key]
        writes = {op.value: op for op in ops if op.kind == "set"}
        zones: dict[str, list[int]] = {"": [0, 0]}  # the empty beginning
        for value, write in writes.items():
            if write.acked:
                zones[value] = [write.ended, write.began]
        for op in ops:
            if op.kind != "get" or not op.acked:
                continue
            value = bytes(op.reply or b"").decode()  # type: ignore[call-overload]
            if value:
                write = writes[value]
                assert not write.definite, f"read {value}, which was refused with {write.reply}"
                assert op.ended >= write.began, "read before it was written"
                if value not in zones:
                    zones[value] = [write.ended, write.began]
            zone = zones[value]
            zone[0], zone[1] = min(zone[0], op.ended), max(zone[1], op.began)
        forward = sorted((end, begin, value) for value, (end, begin) in zones.items() if end < begin)
        for (_, begin, value), (end, _, other) in pairwise(forward):
            assert begin <= end, f"{key}: {value} and {other} were both the latest"
        for value, (end, begin) in zones.items():
            if end >= begin:
                for low, high, other in forward:
                    assert not (low < begin and end < high), (
                        f"{key}: {value} came and went while {other} stood"
                    )


def run_seed(seed: int) -> Chaos:
    chaos = Chaos(seed)
    chaos.run()
    return chaos


@pytest.mark.parametrize("seed", range(20))
def test_nothing_acknowledged_is_lost_and_nobody_waits_for_ever(seed: int) -> None:
    chaos = run_seed(seed)
    assert sum(op.acked for op in chaos.ops) > 30
