"""A whole simulated cluster on which a script says what happens when: the simulator without its dice.

One shard of three nodes unless told otherwise; `A` is its first primary. Operations go through the
simulator's own client, so the history is judged by the checkers and every reply is looked at as it leaves;
`Safety` watches every event. At the end of a script everything is healed, replicas must agree and every key
is read: whatever that finds is a line, and so is what the script itself found (`expect`).
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from cluster.front.session import Session
from cluster.raft import RaftConfig, RaftNode
from cluster.shard.replica import ShardReplica
from cluster.sim.client import Pending, SimClient, pack
from cluster.sim.config import SimConfig, WorkloadConfig
from cluster.sim.history import Op, Result, Violation
from cluster.sim.process import Machine, SimProcess
from cluster.sim.simulation import Broken, Simulation
from cluster.sim.subjects.azimuth import AzimuthNode
from cluster.sim.workloads import Request, Transaction, Workload
from cluster.types import ShardId
from tests.sim.regressions.table import lines_of

MS = 1_000
SECOND = 1_000_000
SHARD = ShardId("0001")
SHORT = RaftConfig(election_timeout_max_ms=160)  # everybody's patience ends as soon as a promise may


class WorstCase(random.Random):
    """A disk's chance when nothing is lucky: of what was not synced, nothing survives a power cut."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randint(self, a: int, b: int) -> int:
        return a


class ScriptClient(SimClient):
    """A client that says when an operation is over, also when it ended in doubt."""

    def __init__(self, sim: Simulation, number: int) -> None:
        super().__init__(sim, number, random.Random(f"script {number}"))
        self.over: set[int] = set()
        self.forgets = 0.0  # it asks whom the script says

    def _finish(self, pending: Pending, result: Result, reply: object = None) -> None:
        super()._finish(pending, result, reply)
        self.over.add(pending.op.number)


class Wire:
    """A plain connection to one node, for what the workloads do not say. `replies` are raw bytes."""

    def __init__(self, process: SimProcess) -> None:
        self._process = process
        self.raw = b""
        session = process.connect(self, "script")
        assert isinstance(session, Session), "connection refused"
        self._session = session

    def send(self, *words: str) -> None:
        """It is read when the process next runs: a stopped one finds it in its socket buffer."""
        data = pack([word.encode() for word in words])
        self._process.guarded(lambda: self._session.receive(data))

    def write(self, data: bytes) -> None:
        self.raw += data

    def take(self) -> bytes:
        """What has come back since the last time."""
        raw, self.raw = self.raw, b""
        return raw

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def on_process_ended(self, *, reset: bool) -> None: ...


class Stage:
    """`kinds` are the workloads whose operations the script uses."""

    def __init__(
        self,
        *kinds: str,
        seed: int = 1,
        shards: int = 1,
        azs: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        if azs:
            settings["azs"] = tuple(azs)
        workloads = tuple(WorkloadConfig(kind, clients=1, ops_per_second=1.0, keys=1) for kind in kinds)
        self.sim = Simulation(SimConfig(seed=seed, shards=shards, workloads=workloads, **settings))
        self.lines: list[str] = []
        self._clients: list[ScriptClient] = []
        self._allowed: Callable[[Violation], bool] = lambda violation: False

    # -- the play --------------------------------------------------------------------------------------

    def play(self, script: Callable[[], None]) -> list[str]:
        """Boot, the script, healing and final reads; every line that this gives."""
        sim = self.sim
        try:
            sim._boot()
            script()
            sim._heal_everything()
            sim._converge()
        except Broken:
            pass  # it is among the violations
        except Exception as error:  # a scenario reports, whatever happens
            self.lines += lines_of(error)
        outcome = sim._outcome()
        self.lines += [f"{item.kind}: {item.text}" for item in outcome.violations if not self._allowed(item)]
        self.lines += [
            f"{machine.id} refuses to start"
            for machine in sim.machines_in_order
            if machine.corrupt and not machine.disk.damaged
        ]
        return self.lines

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.lines.append(f"at {self.sim.world.now // MS} ms: {text}")

    def allow(self, allowed: Callable[[Violation], bool]) -> None:
        """What the script provokes on purpose."""
        self._allowed = allowed

    def go(self, duration_us: int) -> None:
        self.sim.go(duration_us)

    def until(self, condition: Callable[[], bool], text: str, within_us: int = 10 * SECOND) -> bool:
        """Let time pass until the condition holds; that it does not in time is a line."""
        held = condition() or self.sim.go(within_us, condition)
        self.expect(held, f"not within {within_us // MS} ms: {text}")
        return held

    # -- who is who ------------------------------------------------------------------------------------

    def primary(self, *, but: Machine | None = None, within_us: int = 10 * SECOND) -> Machine:
        """Who serves now or soon, and is not that one."""

        def candidates() -> list[Machine]:
            return [machine for machine in self.sim.primaries_of(SHARD) if machine is not but]

        if not self.until(lambda: bool(candidates()), "a primary", within_us):
            raise AssertionError("no primary")
        return max(candidates(), key=lambda machine: self.raft(machine).term)

    def others(self, *but: Machine) -> list[Machine]:
        """Members of the shard besides those, in order."""
        return [m for m in self.sim.machines_in_order if m.shard == SHARD and m not in but]

    def node(self, machine: Machine) -> AzimuthNode:
        assert isinstance(machine.node, AzimuthNode), f"{machine.id} is down"
        return machine.node

    def raft(self, machine: Machine) -> RaftNode:
        return self.node(machine).raft

    def replica(self, machine: Machine) -> ShardReplica:
        return self.node(machine).replica

    def settle(self, within_us: int = 10 * SECOND) -> None:
        """Until all replicas are up to date."""
        self.until(self.sim._settled, "all replicas are up to date", within_us)

    def highest_term(self) -> int:
        return max(self.raft(m).term for m in self.sim.machines_in_order if m.node is not None)

    def wire(self, machine: Machine) -> Wire:
        assert machine.process is not None
        return Wire(machine.process)

    # -- operations ------------------------------------------------------------------------------------

    def client(self) -> ScriptClient:
        client = ScriptClient(self.sim, 100 + len(self._clients))
        self._clients.append(client)
        return client

    def begin(self, kind: str, request: Request, at: Machine | None, client: ScriptClient | None) -> Op:
        """An operation under way, sent to `at` or where the client believes the primary to be."""
        sim = self.sim
        client = client or self.client()
        if at is not None:
            client._believes[request.shard] = at.id
        op = sim.begin(client.number, kind, request, False)
        client.submit(op, request.shard, request.data, request.replies)
        return op

    def set(self, at: Machine | None = None, client: ScriptClient | None = None) -> Op:
        value = self.sim.unique()
        return self._words("register", "SET", value, ("SET", self.key("register"), value), at, client)

    def get(self, at: Machine | None = None, client: ScriptClient | None = None) -> Op:
        return self._words("register", "GET", None, ("GET", self.key("register")), at, client)

    def incr(self, at: Machine | None = None, client: ScriptClient | None = None) -> Op:
        return self._words("counter", "INCR", None, ("INCR", self.key("counter")), at, client)

    def rpush(self, at: Machine | None = None, client: ScriptClient | None = None) -> Op:
        value = self.sim.unique()
        return self._words("list", "RPUSH", value, ("RPUSH", self.key("list"), value), at, client)

    def transaction(self, at: Machine | None = None, client: ScriptClient | None = None) -> Op:
        """RPUSH to two keys in one MULTI."""
        keys = [f"{{{self.sim.tags[SHARD]}}}transaction{number}" for number in (0, 1)]
        workload = self.workload("transaction")
        assert isinstance(workload, Transaction)
        request = workload._request(SHARD, [("RPUSH", key, self.sim.unique()) for key in keys])
        return self.begin("transaction", request, at, client)

    def workload(self, kind: str) -> Workload:
        return self.sim.workloads[kind]

    def key(self, kind: str) -> str:
        return f"{{{self.sim.tags[SHARD]}}}{kind}0"

    def _words(
        self,
        kind: str,
        command: str,
        argument: object,
        words: Sequence[str],
        at: Machine | None,
        client: ScriptClient | None,
    ) -> Op:
        data = pack([word.encode() for word in words])
        return self.begin(kind, Request(SHARD, command, words[1], argument, data), at, client)

    def is_over(self, op: Op) -> bool:
        """Its client has heard, or has given it up."""
        return any(op.number in client.over for client in self._clients)

    def done(self, op: Op, within_us: int = 10 * SECOND) -> Op:
        """Until its client knows."""
        self.until(lambda: self.is_over(op), f"the end of {op.command}", within_us)
        return op

    def acked(self, op: Op, within_us: int = 10 * SECOND) -> Op:
        """Until it is acknowledged; anything else is a line."""
        self.done(op, within_us)
        self.expect(op.result is Result.OK, f"{op.command} {op.argument or ''} ended as {op.result.value}")
        return op

    # -- faults ----------------------------------------------------------------------------------------

    def cut(self, sender: Machine, receiver: Machine) -> None:
        """One way, until `heal`."""
        self.sim.network.cut(sender.id, receiver.id)

    def isolate(self, machine: Machine) -> None:
        """No message in or out; clients still reach it."""
        self.sim.faults.isolate([machine])

    def heal(self) -> None:
        """All links work again."""
        self.sim.network.heal()

    def kill(self, *machines: Machine, power: bool = False) -> None:
        self.sim.faults.kill(machines, lose_unsynced=power)

    def start(self, *machines: Machine) -> None:
        self.sim.faults.start(machines)

    def spoil_disks(self) -> None:
        """From now on a power cut takes all that was not synced."""
        for machine in self.sim.machines_in_order:
            machine.disk.rng = WorstCase(machine.id)
