"""One whole shard under a hypothesis state machine: an acknowledged write is in every later read, whatever
crashes come between.

The shard is the simulator's (`Stage`: three nodes, their journals on disks that lose what was not synced,
real sessions, the model engine), without its dice for faults: what breaks, when, and when it is mended are
steps that hypothesis draws and shrinks.

Judges: `Durable` compares every read with what had been acknowledged before it began, as soon as its client
has it; the simulator's own `Safety` and the reply watch end the run at the first broken promise; at the end
everything is healed, replicas must converge within a minute of virtual time, and the checkers get the whole
history. Nothing here rots: destroyed synced bytes need a budget (`cluster/sim/faults.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.raft import RaftConfig
from cluster.sim.faults import Undo
from cluster.sim.history import Op, Result
from cluster.sim.process import KILL_POINTS, Machine
from cluster.sim.simulation import Broken
from cluster.sim.workloads import Driver
from cluster.types import NodeId
from tests.sim.regressions.stage import MS, SECOND, SHARD, ScriptClient, Stage
from tests.sim.stateful import budget

pytestmark = pytest.mark.slow

KINDS = ("list", "counter", "register", "transaction")
WHO = ("primary", "first", "second", "third")
TARGET = st.sampled_from(WHO)
FOR_US = st.integers(0, 4 * MS) | st.integers(10 * MS, 100 * MS) | st.integers(100 * MS, SECOND)
LASTS_US = st.integers(0, 10 * MS) | st.integers(100 * MS, 500 * MS) | st.integers(500 * MS, 3 * SECOND)
CLIENT = st.integers(0, 2)
JUMP_EVERY_US = 200 * MS
OPS_PER_SECOND = 40.0  # of each driver


@dataclass
class Durable:
    """What clients were told, and what every read that began later must therefore show."""

    judged: set[int] = field(default_factory=set)  # operations whose end has been taken in
    pushed: list[Op] = field(default_factory=list)  # acknowledged RPUSHes
    counted: list[Op] = field(default_factory=list)  # acknowledged INCRs
    reads: int = 0

    def take_in(self, history: list[Op]) -> None:
        ended = [op for op in history if op.result is Result.OK and op.number not in self.judged]
        self.judged |= {op.number for op in ended}
        self.pushed += [op for op in ended if op.command == "RPUSH"]
        self.counted += [op for op in ended if op.command == "INCR"]
        for op in ended:
            if op.command == "LRANGE":
                self._judge_list(op)
            elif op.command == "GET" and op.workload == "counter":
                self._judge_counter(op, [other for other in history if other.command == "INCR"])

    def _judge_list(self, read: Op) -> None:
        self.reads += 1
        assert isinstance(read.reply, list)
        for push in self.pushed:
            if push.ended_us < read.began_us:
                assert push.argument in read.reply, f"{push.argument} was acknowledged; {read} lacks it"
                assert read.reply.index(push.argument) + 1 == push.reply, f"{push} has moved in {read}"

    def _judge_counter(self, read: Op, increments: list[Op]) -> None:
        self.reads += 1
        assert isinstance(read.reply, int)
        least = sum(op.ended_us < read.began_us for op in self.counted)
        most = sum(op.result is not Result.FAIL and op.began_us < read.ended_us for op in increments)
        assert least <= read.reply <= most, (
            f"the counter is between {least} and {most}, {read} says otherwise"
        )


class Shard(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 255),
        read_mode=st.sampled_from(["lease", "quorum"]),
        sync_max_us=st.sampled_from([400, 2_000, 20_000]),
        tiny_log=st.booleans(),
        tiny_messages=st.booleans(),
    )
    def begin(
        self,
        seed: int,
        read_mode: Literal["lease", "quorum"],
        sync_max_us: int,
        tiny_log: bool,
        tiny_messages: bool,
    ) -> None:
        """`seed`: delays, sync times, election timeouts. Tiny: segments of 4 kB and nothing cached; entries
        one by one."""
        raft = RaftConfig()
        if tiny_messages:
            raft = RaftConfig(
                inflight_messages_max=1, message_bytes_max=100, cache_bytes_max=1_000, apply_bytes_max=100
            )
        self.stage = Stage(
            *KINDS,
            seed=seed,
            read_mode=read_mode,
            sync_max_us=sync_max_us,
            segment_bytes=4 << 10 if tiny_log else 256 << 10,
            wal_cache_bytes=0 if tiny_log else 1 << 20,
            raft=raft,
            restart_us=50 * MS,
            op_timeout_us=400 * MS,
        )
        self.sim = self.stage.sim
        self.durable = Durable()
        self.clients = [self.stage.client() for _ in range(3)]
        self.jumped_us: dict[NodeId, int] = {}
        self.red = False
        self._guarded(self.sim._boot)
        self._work()

    def _work(self) -> None:
        """Clients that never rest, beside those whose operations are steps."""
        self.sim.accepting = True
        self.drivers = [
            Driver(self.stage.client(), self.stage.workload(kind), OPS_PER_SECOND, 2)
            for kind in ("list", "register")
        ]
        for driver in self.drivers:
            driver.start()

    # -- who, and for how long ---------------------------------------------------------------------------

    def _who(self, who: str) -> Machine:
        """`primary`: who serves; else who leads; else the first."""
        machines = self.sim.machines_in_order
        if who == "primary":
            return self.sim.primary_of(SHARD) or self.sim.leader_of(SHARD) or machines[0]
        return machines[WHO.index(who) - 1]

    def _guarded(self, act: Callable[[], object]) -> None:
        """What the simulator finds ends the example, in its own words."""
        try:
            act()
        except Broken:
            pass
        if self.sim.violations:
            self._tell()
            raise AssertionError("; ".join(f"{item.kind}: {item.text}" for item in self.sim.violations))

    def _tell(self) -> None:
        """It is red: print what clients saw, and leave out the peaceful end."""
        self.red = True
        for op in self.sim.history:
            note(str(op))

    def _go(self, us: int) -> None:
        """Time until the next step. Meanwhile the drivers work."""
        self._guarded(lambda: self.sim.go(us))

    def _break(self, undo: Undo, lasts_us: int, us: int) -> None:
        """Something is broken for that long, whatever else happens."""
        self.sim.world.after(lasts_us, undo)
        self._go(us)

    # -- what clients do ---------------------------------------------------------------------------------

    @rule(client=CLIENT, kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=8), us=FOR_US)
    def write(self, client: int, kinds: list[str], us: int) -> None:
        """Some writes in one burst; nobody waits for their ends."""
        acts = {
            "list": self.stage.rpush,
            "counter": self.stage.incr,
            "register": self.stage.set,
            "transaction": self.stage.transaction,
        }
        for kind in kinds:
            self._guarded(lambda kind=kind: acts[kind](client=self.clients[client]))  # type: ignore[misc]
        self._go(us)

    @rule(client=CLIENT, kind=st.sampled_from(KINDS), at=st.none() | TARGET, us=FOR_US)
    def read(self, client: int, kind: str, at: str | None, us: int) -> None:
        """Sent to `at`, who must answer from committed data or redirect; None: to whom the client likes."""
        self._read(kind, at, self.clients[client])
        self._go(us)

    def _read(self, kind: str, at: str | None, client: ScriptClient) -> None:
        (request,) = self.stage.workload(kind).final_reads()
        machine = None if at is None else self._who(at)
        self._guarded(lambda: self.stage.begin(kind, request, machine, client))

    @rule()
    def wait(self) -> None:
        """Until there is a primary and all clients know what became of their operations."""

        def at_rest() -> bool:
            return self.sim.all_serve() and not any(client.outstanding for client in self.clients)

        if not at_rest():
            self._guarded(lambda: self.sim.go(5 * SECOND, at_rest))

    # -- what breaks, for how long, and how long until the next step -------------------------------------

    @rule(who=TARGET, power=st.booleans(), lasts_us=LASTS_US, us=FOR_US)
    def kill(self, who: str, power: bool, lasts_us: int, us: int) -> None:
        self._break(self.sim.faults.kill([self._who(who)], lose_unsynced=power), lasts_us, us)

    @rule(power=st.booleans(), lasts_us=st.just(0) | LASTS_US, us=FOR_US)
    def kill_all(self, power: bool, lasts_us: int, us: int) -> None:
        self._break(self.sim.faults.kill(self.sim.machines_in_order, lose_unsynced=power), lasts_us, us)

    @rule(who=TARGET, point=st.sampled_from(KILL_POINTS), power=st.booleans(), us=FOR_US)
    def kill_at(self, who: str, point: str, power: bool, us: int) -> None:
        """When it comes there; a supervisor starts it again."""
        self.sim.faults.kill_at(self._who(who), KILL_POINTS.index(point), lose_unsynced=power)
        self._go(us)

    @rule(who=TARGET, ahead_us=st.just(0) | FOR_US, lasts_us=LASTS_US, us=FOR_US)
    def stop(self, who: str, ahead_us: int, lasts_us: int, us: int) -> None:
        """SIGSTOP, or the machine sleeps and wakes with clocks that have jumped."""
        self._break(self.sim.faults.suspend([self._who(who)], ahead_us), lasts_us, us)

    @rule(who=TARGET, how=st.sampled_from(["both", "in", "out", "clients too"]), lasts_us=LASTS_US, us=FOR_US)
    def isolate(self, who: str, how: str, lasts_us: int, us: int) -> None:
        clients = how == "clients too"
        direction = "both" if clients else how
        undo = self.sim.faults.isolate([self._who(who)], direction, clients=clients)
        self._break(undo, lasts_us, us)

    @rule(sender=TARGET, receiver=TARGET, lasts_us=LASTS_US, us=FOR_US)
    def cut(self, sender: str, receiver: str, lasts_us: int, us: int) -> None:
        """One direction."""
        undo = self.sim.faults.cut([self._who(sender)], [self._who(receiver)])
        self._break(undo, lasts_us, us)

    @rule(who=TARGET, lasts_us=LASTS_US, us=FOR_US)
    def clog(self, who: str, lasts_us: int, us: int) -> None:
        self._break(self.sim.faults.clog([self._who(who)]), lasts_us, us)

    @rule(who=TARGET, how=st.sampled_from(["full", "stalls", "one sync fails"]), lasts_us=LASTS_US, us=FOR_US)
    def break_disk(self, who: str, how: str, lasts_us: int, us: int) -> None:
        machines, faults = [self._who(who)], self.sim.faults
        if how == "full":
            undo = faults.disk_full(machines)
        elif how == "stalls":
            undo = faults.disk_stall(machines, 3 * SECOND)
        else:
            undo = faults.fail_sync(machines[0])
        self._break(undo, lasts_us, us)

    @rule(who=TARGET, how=st.sampled_from(["dies", "hangs", "loses its feed"]), us=FOR_US)
    def break_engine(self, who: str, how: str, us: int) -> None:
        machine, faults = self._who(who), self.sim.faults
        if how == "dies":
            self._guarded(lambda: faults.kill_engine(machine))
        elif how == "hangs":
            self._guarded(lambda: faults.hang_engine(machine, 10 * us))
        else:
            self._guarded(lambda: faults.break_feed(machine))
        self._go(us)

    @rule(who=TARGET, ahead_us=FOR_US, us=FOR_US)
    def jump_clock(self, who: str, ahead_us: int, us: int) -> None:
        """Seldom enough: see test_stateful_raft.py."""
        machine, now = self._who(who), self.sim.world.now
        if now - self.jumped_us.get(machine.id, -JUMP_EVERY_US) >= JUMP_EVERY_US:
            self.jumped_us[machine.id] = now
            self.sim.faults.jump_clock([machine], ahead_us)
        self._go(us)

    @rule(who=TARGET, us=FOR_US)
    def transfer(self, who: str, us: int) -> None:
        self._guarded(lambda: self.sim.faults.transfer(self._who(who)))
        self._go(us)

    # -- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def acknowledged_writes_are_read(self) -> None:
        if hasattr(self, "sim"):
            try:
                self.durable.take_in(self.sim.history)
            except AssertionError:
                self._tell()
                raise

    def teardown(self) -> None:
        if not hasattr(self, "sim") or self.red:
            return
        self.sim.accepting = False
        for driver in self.drivers:
            driver.stop()
        self._guarded(self.sim._heal_everything)
        self._guarded(self.sim._converge)
        self.acknowledged_writes_are_read()
        outcome = self.sim._outcome()
        assert not outcome.violations, outcome.violations
        assert not any(machine.corrupt for machine in self.sim.machines_in_order), "a disk was given up"


TestShard = Shard.TestCase
TestShard.settings = budget(examples=40, steps=40)
