"""A machine and the processes that live on it, one after another.

The **machine** keeps what survives a process: the disk and the clocks. A **process** is one life: it is the
`Host` of one node (the shell that `cluster/runtime/main.py` is in production), holds the engine, and ends
by SIGKILL, a power cut, or its own error. Whatever was asked for by an ended life never runs.

A turn of a real event loop takes time and gathers what has arrived. So `call_soon` runs a little later, a
time drawn anew each turn, and everything asked for meanwhile runs then, in order. The engine has its own
turns: it is another process.
"""

import random
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.az.topology import NodeSpec
from cluster.engine.model import ModelEngine
from cluster.engine.protocol import EngineEvents
from cluster.errors import AzimuthError, WalCorrupt, WalFailed
from cluster.raft.journal import Written
from cluster.raft.messages import Entry, HardState
from cluster.sim.clock import NodeClock, WallClock
from cluster.sim.disk import SimDisk
from cluster.sim.subjects import ClientSession, ClientTransport, SubjectNode
from cluster.sim.wal import SimWal
from cluster.types import NodeId

if TYPE_CHECKING:
    from cluster.sim.simulation import Simulation

Callback = Callable[[], object]

# Where a process can be made to die: each is a place between two promises.
KILL_POINTS = ("send", "persist", "durable", "reply", "promote", "demote", "feed")
SLOW_TIMER_US = 100_000
ENGINE_HUNG_AFTER_US = 10_000_000  # as the runtime's `hung_after_s`


class ProcessKilled(BaseException):
    """SIGKILL in the middle of a turn. Not an Exception: nothing in a node may handle it."""


class Ending(Enum):
    KILLED = "killed"
    POWER = "power"
    DISK = "disk"  # exit code 74
    CORRUPT = "corrupt"  # exit code 65: it must not come back with this disk
    BUG = "bug"  # exit code 70


class Machine:
    """A node's place: its disk, its clocks, and the process on it now, if any."""

    def __init__(self, sim: "Simulation", spec: NodeSpec, clock: NodeClock, disk: SimDisk) -> None:
        self.sim = sim
        self.id = spec.id
        self.spec = spec
        self.az = spec.az
        self.shard = spec.shard
        self.clock = clock
        self.disk = disk
        self.process: SimProcess | None = None
        self.lives = 0
        self.wanted = True  # a supervisor starts it again when it ends by itself
        self.corrupt = False  # its disk is rotten: it refuses to start until 4/5 brings refetching
        self.kill_at: str | None = None  # a kill point at which its process will die
        self.kill_loses = False

    @property
    def alive(self) -> bool:
        return self.process is not None

    @property
    def node(self) -> SubjectNode | None:
        return self.process.node if self.process is not None else None

    def boot(self) -> None:
        if self.process is None and not self.corrupt:
            self.lives += 1
            self.process = SimProcess(self)
            self.process.boot()

    def free_disk(self) -> None:
        """Its disk works again."""
        self.disk.full = False
        self.disk.free()
        if self.process is not None and self.process.wal is not None:
            self.process.wal.on_disk_freed()

    def end(self, ending: Ending) -> None:
        process, self.process = self.process, None
        if process is None:
            if ending is Ending.POWER:
                self.disk.on_power_cut()
            return
        process.end()
        if ending is Ending.POWER:
            self.disk.on_power_cut()
        else:
            self.disk.on_kill()
        self.corrupt = self.corrupt or ending is Ending.CORRUPT
        self.sim.on_process_ended(self, process, ending)


class SimProcess:
    """One life of a node. The `Host` of `cluster.node.Node`."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.sim = machine.sim
        self.id = machine.id
        self.spec = machine.spec
        self.world = self.sim.world
        self.clock = machine.clock
        self.wall = WallClock(machine.clock)
        self.rng = random.Random(self.sim.lives_rng.getrandbits(64))
        self.log = self.sim.trace.of(machine.id)
        self.node: SubjectNode | None = None
        self.wal: SimWal | None = None
        self.alive = True
        self.paused = False
        self.sessions: list[tuple[ClientTransport, ClientSession]] = []
        self._held: list[Callback] = []
        self._soon: list[Callback] = []
        self._engine_queue: list[Callback] = []
        self._engine_delay_us = 0
        self._engine_hung_until = 0
        self._tick_us = self.sim.raft_config(machine.spec).tick_ms * 1000
        self._ticks_left = 0
        self._observe: Callback | None = None  # looks at the node after every event
        self.now_us = machine.clock.now_us
        self._turn_us = self.sim.config.turn_us

    # -- life ------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open the log; when that is done, start the node."""
        self.guarded(self._open_log)

    def _open_log(self) -> None:
        config = self.sim.config
        self.wal = SimWal(
            self.machine.disk,
            f"{self.sim.topology.cluster_id}/{self.id}",
            segment_bytes=config.segment_bytes,
            cache_bytes=config.wal_cache_bytes,
            at=self.at,
            on_failed=self._on_disk_failed,
            on_written=self._on_written,
            on_opened=self._start_node,
        )
        self.sim.safety.on_recovered(self)

    def _start_node(self) -> None:
        self.sim.safety.on_opened(self)
        self.node = self.sim.subject.make_node(self)
        self._observe = self.sim.safety.observer(self)
        self.node.start()
        self.after(self.rng.randrange(self._tick_us), self._tick)
        self.sim.on_node_started(self)

    def _tick(self) -> None:
        node = self.node
        assert node is not None
        node.on_tick()
        self._ticks_left -= 1
        if self._ticks_left <= 0:
            self._now_and_then(node)
        self.after(self._tick_us, self._tick)

    def _now_and_then(self, node: SubjectNode) -> None:
        """Ten times a second: the engine's own timer (Valkey's `hz`), and sometimes the log's idle work."""
        self._ticks_left = SLOW_TIMER_US // self._tick_us
        engine = node.engine
        if engine is not None:
            engine.tick()
        if self.rng.random() < 0.2 and self.wal is not None:
            self.wal.idle_work()

    def end(self) -> None:
        self.alive = False
        self._held.clear()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        """What waited runs now, in order: timers that are due and messages in the sockets."""
        if self.paused:
            self.paused = False
            held, self._held = self._held, []
            for callback in held:
                self.world.after(0, partial(self.guarded, callback))

    # -- running callbacks -----------------------------------------------------------------------------

    def guarded(self, callback: Callback) -> None:
        """Run something of this process, if it still lives and is not stopped; what it raises ends it."""
        if not self.alive:
            return
        if self.paused:
            self._held.append(callback)
            return
        try:
            callback()
            if self._observe is not None:
                self._observe()
        except ProcessKilled:
            self.machine.end(Ending.POWER if self.machine.kill_loses else Ending.KILLED)
        except WalCorrupt as error:
            self.log.error("wal_corrupt", error=str(error))
            self.machine.end(Ending.CORRUPT)
        except WalFailed as error:
            self._on_disk_failed(error)
        except Exception as error:
            self.sim.on_bug(self, error)
            self.machine.end(Ending.BUG)

    def at(self, when: int, callback: Callback) -> None:
        """At a true time."""
        self.world.at(when, partial(self.guarded, callback))

    def after(self, delay_us: int, callback: Callback) -> None:
        """After a delay on this machine's clock."""
        self.world.after(self.clock.true_delay(delay_us), partial(self.guarded, callback))

    def _on_disk_failed(self, error: BaseException) -> None:
        self.log.error("disk_failed", error=str(error))
        self.machine.end(Ending.DISK)

    def _on_written(self, written: Written) -> None:
        self.sim.safety.on_written(self, written)

    def point(self, name: str) -> None:
        """A kill point: if this is where the process is to die, it dies."""
        if self.machine.kill_at == name:
            self.machine.kill_at = None
            self.sim.trace.fault(f"{self.id} killed at {name}")
            raise ProcessKilled

    # -- Host ------------------------------------------------------------------------------------------

    def send(self, to: NodeId, message: object) -> None:
        if self.machine.kill_at is not None:
            self.point("send")
        self.sim.network.send(self.id, to, message)

    def persist(self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callback) -> None:
        if self.machine.kill_at is not None:
            self.point("persist")
        self.sim.safety.on_persist(self, hard_state, entries)
        assert self.wal is not None
        self.wal.append(hard_state, entries, partial(self._durable, on_durable))

    def _durable(self, on_durable: Callback) -> None:
        if self.machine.kill_at is not None:
            self.point("durable")
        on_durable()

    def call_soon(self, callback: Callback) -> None:
        if not self._soon:
            self.world.after(int(self._turn_us * self.rng.random()), self._run_soon)
        self._soon.append(callback)

    def _run_soon(self) -> None:
        callbacks, self._soon = self._soon, []
        for callback in callbacks:
            self.guarded(callback)

    def call_later(self, delay_us: int, callback: Callback) -> None:
        self.after(delay_us, callback)

    # -- the engine ------------------------------------------------------------------------------------

    def make_engine(self, events: EngineEvents) -> "SimEngine":
        return SimEngine(self, events)

    def engine_defer(self, callback: Callback) -> None:
        """The engine's turns: a process of its own, so it goes on while the node is stopped, but what it
        tells the node waits in the node's sockets."""
        if not self._engine_queue:
            delay_us = self._engine_delay_us + int(self._turn_us * self.rng.random())
            self._engine_delay_us = 0
            self.world.at(
                max(self.world.now + delay_us, self._engine_hung_until),
                partial(self.guarded, self._run_engine),
            )
        self._engine_queue.append(callback)

    def _run_engine(self) -> None:
        if self._engine_hung_until > self.world.now:
            self.at(self._engine_hung_until, self._run_engine)
            return
        callbacks, self._engine_queue = self._engine_queue, []
        for callback in callbacks:
            if not self.alive:
                return
            callback()

    def boot_engine(self, delay_us: int) -> None:
        """A new engine process: its first turn comes that much later, and it does not hang."""
        self.wake_engine()
        self._engine_delay_us = delay_us

    def hang_engine(self, duration_us: int) -> None:
        """It answers nothing for so long; declared dead when that is too long."""
        engine = self.node.engine if self.node is not None else None
        if engine is None or not engine.is_running:
            return
        until = self.world.now + min(duration_us, ENGINE_HUNG_AFTER_US)
        self._engine_hung_until = max(self._engine_hung_until, until)
        if duration_us >= ENGINE_HUNG_AFTER_US:

            def give_up() -> None:
                if self._engine_hung_until == until and engine.is_running:
                    engine.crash("hung")

            self.at(until, give_up)

    def wake_engine(self) -> None:
        """It hangs no longer."""
        if self._engine_hung_until > self.world.now:
            self._engine_hung_until = 0
            self.at(self.world.now, self._run_engine)

    # -- clients ---------------------------------------------------------------------------------------

    def connect(self, transport: ClientTransport, address: str) -> ClientSession | None:
        """None: connection refused."""
        if self.node is None or not self.alive:
            return None
        try:
            session = self.node.open_session(transport, address)
        except AzimuthError:
            return None
        self.sessions.append((transport, session))
        return session


class SimEngine(ModelEngine):
    """The model engine in its own simulated process, with kill points where the node orders it about."""

    def __init__(self, process: SimProcess, events: EngineEvents) -> None:
        super().__init__(
            events=events,
            clock=process.wall,
            defer=process.engine_defer,
            rng=random.Random(process.rng.random()),
        )
        self._process = process

    def boot(self) -> None:
        self._process.boot_engine(self._process.sim.config.engine_boot_us)
        super().boot()

    def promote(self) -> None:
        self._process.point("promote")
        super().promote()

    def demote(self) -> None:
        self._process.point("demote")
        super().demote()

    def feed(self, data: bytes) -> None:
        self._process.point("feed")
        super().feed(data)


def describe(machine: Machine) -> dict[str, Any]:
    """For traces and error texts."""
    return {"node": machine.id, "az": machine.az, "alive": machine.alive, "lives": machine.lives}
