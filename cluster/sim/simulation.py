"""One run: a cluster, clients, faults; then peace, and the books are checked.

Phases
1. **boot**: all nodes start; every shard must get a serving primary.
2. **safety**: clients work, faults happen, invariants are checked after every event.
3. **liveness**: no new faults; a random quorum of AZs is healed, the rest stays as hostile as it is for good.
   The healed part must take a write on every shard within `SERVE_TIMEOUTS` election timeouts, plus what the
   machine room needs to start a process and an engine.
4. **healing**: everything is healed; replicas converge, every key is read once (`Op.final`), the digests are
   compared.

What is found are `Violation`s: of the checkers, which see only the history; of `Safety`; of liveness; and any
exception that a node raised, since a node that stops itself with an assertion has found a bug.
"""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cluster.az.topology import NodeSpec, Topology, plan_topology
from cluster.raft import RaftConfig
from cluster.sim import swarm
from cluster.sim.checkers import check_digests, check_history
from cluster.sim.client import SimClient
from cluster.sim.clock import NodeClock
from cluster.sim.config import SimConfig
from cluster.sim.disk import SimDisk
from cluster.sim.faults import Faults
from cluster.sim.history import DIVERGED, LOST_WRITE, STALE_READ, Op, Result, Violation
from cluster.sim.network import LinkFaults, Network
from cluster.sim.process import Ending, Machine, SimProcess
from cluster.sim.safety import INVARIANT, NoSafety, Safety
from cluster.sim.subjects import Subject
from cluster.sim.subjects.azimuth import AzimuthSubject
from cluster.sim.trace import Sink, Trace
from cluster.sim.workloads import KINDS, Driver, Request, Workload, find_tags
from cluster.sim.world import World
from cluster.types import NodeId, ShardId

SERVE_TIMEOUTS = 3
PROBE_TIMEOUT_US = 5_000_000
CONVERGE_US = 60_000_000
BOOT_US = 30_000_000
BUCKET_US = 100_000
OUTAGE_POLL_US = 20_000
BUG = "bug"
LIVENESS = "liveness"
UNEXPECTED_ERROR = "unexpected_error"


class Broken(Exception):
    """A violation that ends the run at once: going on would only make noise."""


@dataclass(slots=True)
class Outcome:
    """What a run says in the end."""

    seed: int
    subject: str
    violations: list[Violation]
    trace_hash: str
    unseed: int
    virtual_us: int
    acked: int
    in_doubt: int
    failed: int
    lost: int
    stale_reads: int
    unavailable_ms: int  # summed over shards: tenths of seconds in which nothing was acknowledged
    faults: list[tuple[int, str]]
    marks: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    events: int = 0
    pending: list[str] = field(default_factory=list)
    work_began_us: int = 0  # true time from which `faults` count
    proof: list[Op] = field(default_factory=list)  # the operations that the violations name

    @property
    def ok(self) -> bool:
        return not self.violations


class Simulation:
    def __init__(
        self, config: SimConfig, *, subject: Subject | None = None, sink: Sink | None = None
    ) -> None:
        self.config = config
        self.subject: Subject = subject or AzimuthSubject()
        self.world: World = World(f"world {config.seed}")
        self.trace: Trace = Trace(self.world, sink)
        self.topology: Topology = plan_topology(
            name="sim", cluster_id="sim", shards=config.shards, replicas=config.replicas, azs=config.azs,
            host="sim", base_port=7001,
        )  # fmt: skip
        self.fault_rng: random.Random = random.Random(f"faults {config.seed}")
        self.lives_rng: random.Random = random.Random(f"lives {config.seed}")
        self._client_rng = random.Random(f"clients {config.seed}")
        self.network = Network(
            self.world,
            random.Random(f"network {config.seed}"),
            tuple(node.id for node in self.topology.nodes),
            LinkFaults(
                config.delay_min_us, max(config.delay_max_us, config.delay_min_us), config.drop_percent,
                config.duplicate_percent, config.reorder_percent,
            ),
            self._deliver,
        )  # fmt: skip
        self.faults: Faults = Faults(self)
        self.client_cut: set[NodeId] = set()
        self._raft_configs = {node.id: self._make_raft_config(node) for node in self.topology.nodes}
        # Of Azimuth a violation is a bug and ends the run. Of the others it is the result: it is counted.
        self._fatal = self.subject.name == "azimuth"
        self.safety: Safety | NoSafety = Safety(self) if self._fatal else NoSafety()
        self.machines = {node.id: self._make_machine(node) for node in self.topology.nodes}
        self.machines_in_order = [self.machines[node_id] for node_id in sorted(self.machines)]
        self.serving_nodes: dict[ShardId, list[NodeId]] = {
            shard.id: [node.id for node in shard.nodes if not node.journal_only]
            for shard in self.topology.shards
        }
        self.node_at = {f"{node.host}:{node.port}": node.id for node in self.topology.nodes}
        self.tags = find_tags(self)
        self.history: list[Op] = []
        self.violations: list[Violation] = []
        self._values = 0
        self.accepting = False
        self._buckets: dict[ShardId, set[int]] = {shard.id: set() for shard in self.topology.shards}
        self._work_began = self._work_ended = 0
        self.workloads: dict[str, Workload] = {}
        self.drivers: list[Driver] = []
        self._make_clients()
        self.first_ack_after: dict[ShardId, int] = {}
        self.cut_off: set[NodeId] = set()  # a minority that nobody reaches any more
        self.minority_acked = 0  # what it let out all the same
        self.elected_after_us = 0  # in the liveness phase
        self._outage_began: dict[ShardId, int] = {}
        self._longest_outage_us = 0
        self.acks_from = 1 << 62  # a true time: acknowledgements of operations begun later are noted

    # -- making it -------------------------------------------------------------------------------------

    def _make_raft_config(self, spec: NodeSpec) -> RaftConfig:
        preferred = spec.id == self.topology.shard(spec.shard).nodes[0].id
        return replace(
            self.config.raft,
            preferred=preferred,
            yield_ms=0 if preferred else 300,
            reluctant=spec.journal_only,
        )

    def raft_config(self, spec: NodeSpec) -> RaftConfig:
        return self._raft_configs[spec.id]

    def _make_machine(self, spec: NodeSpec) -> Machine:
        rng = random.Random(f"machine {self.config.seed} {spec.id}")
        drift = int(rng.uniform(-1, 1) * self.config.drift_percent * 10_000)
        clock = NodeClock(self.world, start_us=rng.randrange(1_000_000_000), drift_ppm=drift)
        disk = SimDisk(
            self.world, rng, sync_min_us=self.config.sync_min_us, sync_max_us=self.config.sync_max_us
        )
        return Machine(self, spec, clock, disk)

    def _make_clients(self) -> None:
        number = 0
        for work in self.config.workloads:
            rng = random.Random(f"workload {self.config.seed} {work.kind}")
            workload = self.workloads[work.kind] = KINDS[work.kind](self, work.keys, rng)
            for _ in range(work.clients):
                client = SimClient(self, number, random.Random(f"client {self.config.seed} {number}"))
                self.drivers.append(Driver(client, workload, work.ops_per_second / work.clients, work.depth))
                number += 1
        self._reader_number = number

    # -- called while it runs --------------------------------------------------------------------------

    def _deliver(self, sender: NodeId, to: NodeId, message: object) -> None:
        process = self.machines[to].process
        if process is not None and process.node is not None:
            node = process.node
            process.guarded(lambda: node.on_message(sender, message))

    def on_node_started(self, process: SimProcess) -> None:
        self.trace.event(process.id, "process_started", {"life": process.machine.lives})

    def on_process_ended(self, machine: Machine, process: SimProcess, ending: Ending) -> None:
        self.trace.event(machine.id, "process_ended", {"how": ending.value})
        reset = ending is not Ending.POWER and process.rng.random() < 0.8
        for transport, _ in process.sessions:
            transport.on_process_ended(reset=reset)  # type: ignore[attr-defined]  # all are client.Connection
        if machine.wanted and (ending is not Ending.BUG or not self._fatal):
            self.world.after(self.config.restart_us, lambda: machine.boot() if machine.wanted else None)

    def on_bug(self, process: SimProcess, error: Exception) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = INVARIANT if where.filename.endswith(("safety.py", "invariants.py")) else BUG
        text = f"{process.id}: {type(error).__name__}: {error} ({where.name}, line {where.lineno})"
        if self.trace.sink is not None:
            self.trace.sink(self.world.now, process.id, "".join(traceback.format_exception(error)))
        self.violate(Violation(kind, process.id, text))

    def on_unexpected_error(self, op: Op, text: str) -> None:
        self.violate(Violation(UNEXPECTED_ERROR, op.key, f"{op.command} was answered {text}", (op.number,)))

    def violate(self, violation: Violation) -> None:
        """Something is wrong; if it is fatal the run ends at the next event."""
        self.violations.append(violation)
        self.world.broken = self.world.broken or self._fatal
        self.trace.event("checker", violation.kind, {"text": violation.text})

    def unique(self) -> str:
        self._values += 1
        return f"v{self._values}"

    def may_begin(self) -> bool:
        return self.accepting and (self.config.ops_max is None or len(self.history) < self.config.ops_max)

    def begin(self, client: int, workload: str, request: Request, final: bool) -> Op:
        number = len(self.history)
        now = self.world.now
        op = Op(number, client, workload, request.command, request.key, request.argument, now, final=final)
        self.history.append(op)
        return op

    def workload_of(self, op: Op) -> Workload:
        return self.workloads[op.workload]

    def on_acknowledged(self, op: Op, shard: ShardId) -> None:
        self._buckets[shard].add(self.world.now // BUCKET_US)
        if op.began_us >= self.acks_from:
            self.first_ack_after.setdefault(shard, self.world.now)

    # -- running it ------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        try:
            self._boot()
            self._begin_work()
            self._safety_phase()
            self._liveness_phase()
            self.accepting = False
            self._heal_everything()
            self._converge()
        except Broken:
            pass
        self.accepting = False
        return self._outcome()

    def go(self, duration_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass, at most until `stop()`. True if it stopped."""
        stopped = self.world.run_until(self.world.now + duration_us, stop)
        if self.world.broken:
            raise Broken
        return stopped

    def _boot(self) -> None:
        self.trace.phase("boot")
        for machine in self.machines_in_order:
            self.world.after(self.fault_rng.randrange(100_000), machine.boot)
        if not self.go(BOOT_US, self.all_serve):
            self._fail_liveness("no primary on every shard after starting with nothing broken")

    def all_serve(self) -> bool:
        return all(self.primary_of(shard.id) is not None for shard in self.topology.shards)

    def primaries_of(self, shard: ShardId) -> list[Machine]:
        """Who believes to serve the shard now and runs."""
        found = []
        for node_id in self.serving_nodes[shard]:
            machine = self.machines[node_id]
            process = machine.process
            if (
                process is not None
                and process.node is not None
                and not process.paused
                and process.node.serves
            ):
                found.append(machine)
        return found

    def primary_of(self, shard: ShardId) -> Machine | None:
        """Who serves the shard now; of two that believe so, the one who is further."""
        found = self.primaries_of(shard)
        return (
            max(found, key=lambda machine: machine.node.position if machine.node else ()) if found else None
        )

    def leader_of(self, shard: ShardId) -> Machine | None:
        for node in self.topology.shard(shard).nodes:
            machine = self.machines[node.id]
            if machine.node is not None and machine.node.leads:
                return machine
        return None

    def _watch_outages(self) -> None:
        """How long each shard is without a node that may serve it."""
        now = self.world.now
        for shard in self.topology.shards:
            if self.primary_of(shard.id) is not None:
                began = self._outage_began.pop(shard.id, now)
            else:
                began = self._outage_began.setdefault(shard.id, now)
            self._longest_outage_us = max(self._longest_outage_us, now - began)
        if self.accepting:
            self.world.after(OUTAGE_POLL_US, self._watch_outages)

    def longest_outage_ms(self) -> int:
        return self._longest_outage_us // 1000

    def _begin_work(self) -> None:
        self.accepting = True
        self._watch_outages()
        self._work_began = self.world.now
        for driver in self.drivers:
            driver.start()

    def _safety_phase(self) -> None:
        self.trace.phase("safety")
        for number, fault in enumerate(self.config.faults):
            self.world.at(self._work_began + fault.at_us, lambda number=number: self._begin_fault(number))  # type: ignore[misc]
        self.go(self.config.duration_us)
        self._work_ended = self.world.now

    def _begin_fault(self, number: int) -> None:
        if not self.accepting or self.world.now > self._work_began + self.config.duration_us:
            return
        fault = self.config.faults[number]
        undo = swarm.apply(self, fault)

        def end() -> None:
            if not self._hostile_for_good:
                undo()

        self.world.after(fault.duration_us, end)

    @property
    def _hostile_for_good(self) -> bool:
        """From the liveness phase on no fault ends by itself: the healed part was healed, the rest stays."""
        return self._work_ended > 0

    def _liveness_phase(self) -> None:
        """Only a quorum is healed. It must serve."""
        azs = list(self.config.azs)
        damaged = {
            machine.az for machine in self.machines_in_order if machine.corrupt or machine.disk.damaged
        }
        healthy = [az for az in azs if az not in damaged]
        rng = self.fault_rng
        rng.shuffle(azs)
        quorum: list[str] = []
        for az in azs:
            if az in healthy and not self._holds_quorums(quorum):
                quorum.append(az)
        if not self._holds_quorums(quorum):
            return
        self.trace.phase(f"liveness: {' '.join(sorted(quorum))} healed")
        healed = [machine for machine in self.machines_in_order if machine.az in quorum]
        self._heal(healed)
        # Two things that no consensus can see: a leader in the hostile rest that its followers hear and
        # clients don't, and one whose engine hangs (it is given ten seconds, for a script may take long).
        self.client_cut.clear()
        for machine in self.machines_in_order:
            if machine.process is not None:
                machine.process.wake_engine()
        self.acks_from = self.world.now
        began = self.world.now
        self.first_ack_after = {}
        if not self.drivers:
            return
        client = SimClient(self, self._reader_number, random.Random(f"probe {self.config.seed}"))
        # A leader in the hostile rest may be slow for good: the probe waits for what comes late.
        client.timeout_us = max(client.timeout_us, PROBE_TIMEOUT_US)
        probe = Driver(client, self._probe_workload(), 50.0, 64, probe=True)
        probe.start()
        elected = self.go(self.elect_deadline_us(), self._every_shard_led)
        self.elected_after_us = self.world.now - began
        if not elected:
            missing = [shard.id for shard in self.topology.shards if not self._led(shard.id)]
            self._fail_unserved(missing, "elected nobody", began)
        served = self.go(self.serve_deadline_us(), self._every_shard_acked)
        probe.stop()
        if not served:
            self._fail_unserved(
                sorted(set(self.serving_nodes) - set(self.first_ack_after)), "took no write", began
            )

    def _fail_unserved(self, shards: Sequence[str], what: str, began: int) -> None:
        ms = (self.world.now - began) // 1000
        self._fail_liveness(f"{' '.join(shards)} {what} within {ms} ms although a quorum was healed")

    def _led(self, shard: ShardId) -> bool:
        """Some node leads and has had an entry of its own term committed."""
        return any(
            machine.process is not None and not machine.process.paused and machine.node.established
            for node in self.topology.shard(shard).nodes
            if (machine := self.machines[node.id]).node is not None
        )

    def _every_shard_led(self) -> bool:
        return all(self._led(shard.id) for shard in self.topology.shards)

    def _holds_quorums(self, azs: Sequence[str]) -> bool:
        """Of every shard these AZs hold a majority of the members, and one with an engine among them."""
        for shard in self.topology.shards:
            inside = [node for node in shard.nodes if node.az in azs]
            if len(inside) * 2 <= len(shard.nodes) or all(node.journal_only for node in inside):
                return False
        return True

    def _probe_workload(self) -> Workload:
        kind = "register" if "register" in self.workloads else self.config.workloads[0].kind
        return self.workloads[kind]

    def _every_shard_acked(self) -> bool:
        return len(self.first_ack_after) == len(self.serving_nodes)

    def elect_deadline_us(self) -> int:
        """Three election timeouts, and a dozen syncs and round trips as slow as this run drew them."""
        config = self.config
        timeout_us = config.raft.election_timeout_max_ms * 1000
        reluctant = timeout_us if any(node.journal_only for node in self.topology.nodes) else 0
        slow_us = 12 * (config.sync_max_us + 2 * config.delay_max_us + 2 * config.turn_us)
        return SERVE_TIMEOUTS * (timeout_us + reluctant) + slow_us

    def serve_deadline_us(self) -> int:
        """After an election: what is not consensus. An engine is replaced (twice `REBOOT_BACKOFF_US`) and
        rebuilt, a client finds the primary after a lost connection and an unavailable one."""
        config = self.config
        start_us = 1_000_000 + config.engine_boot_us + config.restart_us
        find_us = max(config.op_timeout_us, PROBE_TIMEOUT_US) + config.unavailable_wait_us
        return self.elect_deadline_us() + start_us + find_us

    def _heal(self, machines: Sequence[Machine]) -> None:
        """Links among these work, their disks too, they run."""
        ids = {machine.id for machine in machines}
        self.network.heal(ids)
        self.client_cut -= ids
        for machine in machines:
            machine.free_disk()
            machine.disk.fail_syncs = 0
            machine.disk.misdirect_next = False
            machine.kill_at = None
            machine.wanted = True
            if machine.process is not None:
                machine.process.resume()
                machine.process.wake_engine()
            machine.boot()

    def _heal_everything(self) -> None:
        self.trace.phase("healing")
        self.network.faults.drop_percent = 0.0
        self._heal(self.machines_in_order)
        for driver in self.drivers:
            driver.stop()

    def _converge(self) -> None:
        if not self.go(CONVERGE_US, self._settled):
            self._fail_liveness(f"replicas did not converge: {self._positions()}")
        self._read_everything()
        self._compare_digests()

    def _settled(self) -> bool:
        for shard in self.topology.shards:
            positions = set()
            for node in shard.nodes:
                machine = self.machines[node.id]
                if machine.corrupt:
                    continue
                inner = machine.node
                if inner is None or not inner.settled:
                    return False
                positions.add(inner.position)
            if len(positions) != 1 or self.primary_of(shard.id) is None:
                return False
        return True

    def _positions(self) -> str:
        told = []
        for machine in self.machines_in_order:
            node = machine.node
            state = f"{node.position} {'settled' if node.settled else 'not settled'}" if node else "down"
            told.append(f"{machine.id} {'corrupt' if machine.corrupt else state}")
        return ", ".join(told)

    def _read_everything(self) -> None:
        reader = SimClient(self, self._reader_number + 1, random.Random(f"reader {self.config.seed}"))
        wanted: list[tuple[Driver, Request]] = []
        for kind in sorted(self.workloads):
            workload = self.workloads[kind]
            driver = Driver(reader, workload, 1.0, 1)
            wanted += [(driver, request) for request in workload.final_reads()]
        for driver, request in wanted:
            for _ in range(5):
                op = driver.issue(request, final=True)
                self.go(10_000_000, lambda op=op: op.ended_us < 1 << 62 or reader.outstanding == 0)  # type: ignore[misc]
                if op.result is Result.OK:
                    break
                self.go(200_000)
            else:
                self._fail_liveness(f"{op.key} cannot be read although everything is healed")

    def _compare_digests(self) -> None:
        """All replicas of a shard hold the same; expiries may still run, so try until offsets are equal."""
        for _ in range(100):
            if not self.go(20_000_000, self._settled):
                break
            found: dict[str, dict[str, tuple[int, str]]] = {shard.id: {} for shard in self.topology.shards}
            wanted = 0
            for machine in self.machines_in_order:
                engine = machine.node.engine if machine.node is not None else None
                if engine is None:
                    continue
                wanted += 1

                engine.ask_digest(partial(_note_digest, found[machine.shard], machine.id))
            self.go(5_000_000, lambda found=found, wanted=wanted: sum(map(len, found.values())) == wanted)  # type: ignore[misc]
            if all(len({offset for offset, _ in shard.values()}) <= 1 for shard in found.values()):
                for shard_id in sorted(found):
                    for violation in check_digests(shard_id, found[shard_id]):
                        self.violate(violation)
                return
        self.violate(Violation(DIVERGED, "", "engines never stood at one offset"))

    def _fail_liveness(self, text: str) -> None:
        self.violate(Violation(LIVENESS, "", text))
        if self._fatal:
            raise Broken

    # -- the end ---------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        found = check_history(self.history)
        self.violations += found
        results = [op.result for op in self.history if not op.final]
        return Outcome(
            seed=self.config.seed,
            subject=self.subject.name,
            violations=list(self.violations),
            unseed=self.world.unseed(),
            trace_hash=self.world.trace_hash(),
            virtual_us=self.world.now - 1_000_000,
            acked=results.count(Result.OK),
            in_doubt=results.count(Result.DOUBT),
            failed=results.count(Result.FAIL),
            lost=sum(violation.kind == LOST_WRITE for violation in found),
            stale_reads=sum(violation.kind == STALE_READ for violation in found),
            unavailable_ms=self._unavailable_ms(),
            faults=[(when - self._work_began, text) for when, text in self.trace.faults],
            marks=dict(sorted(self.trace.marks.items())),
            messages=self.network.sent,
            events=self.world.events,
            work_began_us=self._work_began,
            proof=[
                self.history[number] for number in sorted({n for item in self.violations for n in item.ops})
            ],
        )

    def _unavailable_ms(self) -> int:
        """Tenths of a second, while clients worked, in which a shard acknowledged nothing."""
        first, last = self._work_began // BUCKET_US + 1, (self._work_ended or self.world.now) // BUCKET_US
        total = 0
        for shard in sorted(self._buckets):
            total += sum(bucket not in self._buckets[shard] for bucket in range(first, last))
        return total * BUCKET_US // 1000


def _note_digest(found: dict[str, tuple[int, str]], node: NodeId, offset: int, digest: str) -> None:
    found[node] = (offset, digest)


def simulate(seed: int, *, sink: Sink | None = None, subject: Subject | None = None) -> Outcome:
    """The run of a seed, everything drawn from it."""
    return Simulation(swarm.draw_config(seed), sink=sink, subject=subject).run()


def as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed": outcome.seed,
        "subject": outcome.subject,
        "verdict": "ok" if outcome.ok else "violation",
        "violations": [
            {"kind": item.kind, "key": item.key, "text": item.text, "ops": list(item.ops)}
            for item in outcome.violations
        ],
        "trace_hash": outcome.trace_hash,
        "unseed": outcome.unseed,
        "virtual_s": round(outcome.virtual_us / 1e6, 3),
        "acked": outcome.acked,
        "in_doubt": outcome.in_doubt,
        "failed": outcome.failed,
        "lost": outcome.lost,
        "stale_reads": outcome.stale_reads,
        "unavailable_ms": outcome.unavailable_ms,
        "faults": [{"at_ms": when // 1000, "what": text} for when, text in outcome.faults],
    }
