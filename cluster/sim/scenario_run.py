"""Runs a scenario file in the simulator: its steps on the faults of `faults.py`, its expectations at the end.

The seed draws what the file leaves open: random targets, delays, the order of what happens at once. So one
file is as many runs as there are seeds. There is no separate liveness phase: a file says itself what is
healed and when; at its end everything is healed, replicas must agree, and every key is read.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

from cluster.sim import scenario as files
from cluster.sim.config import SimConfig, WorkloadConfig
from cluster.sim.faults import Undo, nothing
from cluster.sim.history import DIVERGED, LOST_WRITE, STALE_READ, Violation
from cluster.sim.process import Machine
from cluster.sim.simulation import Outcome, Simulation
from cluster.sim.subjects import Subject
from cluster.sim.trace import Sink
from cluster.types import NodeId, ShardId

EXPECTATION = "expectation"
POLL_US = 5_000


def config_of(scenario: files.Scenario, seed: int) -> SimConfig:
    """What a file and a seed make together."""
    rng = random.Random(f"scenario {scenario.name} {seed}")
    shards = scenario.cluster.shards
    return SimConfig(
        seed=seed,
        shards=shards,
        replicas=scenario.cluster.replicas,
        azs=scenario.cluster.azs,
        read_mode=scenario.cluster.read_mode,
        raft=scenario.raft,
        workloads=tuple(
            WorkloadConfig(work.kind, work.clients, work.ops_per_second, max(1, work.keys // shards))
            for work in scenario.workloads
        ),
        duration_us=scenario.duration_ms * 1_000,
        delay_max_us=rng.choice((500, 1_000, 3_000)),
        sync_max_us=rng.choice((200, 400, 2_000)),
        turn_us=rng.choice((20, 60, 300)),
        segment_bytes=rng.choice((16 << 10, 64 << 10)),
    )  # fmt: skip


class ScenarioSimulation(Simulation):
    def __init__(
        self, scenario: files.Scenario, seed: int, *, subject: Subject | None = None, sink: Sink | None = None
    ) -> None:
        super().__init__(config_of(scenario, seed), subject=subject, sink=sink)
        self.scenario = scenario
        self._steps = StepRunner(self, scenario.steps)

    def _safety_phase(self) -> None:
        self.trace.phase(f"scenario {self.scenario.name}")
        self._steps.start()
        super()._safety_phase()

    def _liveness_phase(self) -> None:
        """A file's own steps say what heals."""

    def _outcome(self) -> Outcome:
        outcome = super()._outcome()
        longest = self.longest_outage_ms()
        finished = not self.world.broken
        outcome.violations = judge(self.scenario, outcome, longest, self.minority_acked)
        for step in self._steps.missing() if finished else ():
            text = f"the step in line {step.line} ({step.action}) never began"
            outcome.violations.append(Violation(EXPECTATION, "", text))
        return outcome


class StepRunner:
    """Begins each step when its trigger says so, and undoes what undoes itself."""

    def __init__(self, sim: Simulation, steps: Sequence[files.Step]) -> None:
        self._sim = sim
        self._steps = steps
        self._began = 0
        self._last_begun: dict[int, int] = {}  # step -> when its last repetition began
        self._over: set[int] = set()
        self._found: list[Machine] = []  # what the last step that had to find its target has found
        self._lost_primaries: dict[ShardId, NodeId] = {}

    def missing(self) -> list[files.Step]:
        """Steps that have not begun: their condition never came true, or too late."""
        return [step for number, step in enumerate(self._steps) if number not in self._last_begun]

    def start(self) -> None:
        self._began = self._sim.world.now
        for number, step in enumerate(self._steps):
            if step.trigger.at_ms is not None:
                self._at(step.trigger.at_ms * 1000, number)
        self._watch_next(0)

    def _at(self, after_us: int, number: int) -> None:
        self._sim.world.at(self._began + after_us, lambda: self._begin(number, 0))

    def _watch_next(self, number: int) -> None:
        """If this step waits for a condition, look at it from now on."""
        if number < len(self._steps) and self._steps[number].trigger.when is not None:
            self._poll(number)

    def _poll(self, number: int) -> None:
        if not self._sim.accepting:
            return
        step = self._steps[number]
        if self._holds(step.trigger.when, number):
            self._sim.world.after(step.trigger.after_ms * 1000, lambda: self._begin(number, 0))
        else:
            self._sim.world.after(POLL_US, lambda: self._poll(number))

    def _holds(self, condition: files.Condition | None, number: int) -> bool:
        sim = self._sim
        match condition:
            case "serving":
                return sim.all_serve()
            case "caught_up":
                return all(
                    process.node is not None and process.node.settled
                    for machine in sim.machines_in_order
                    if (process := machine.process) is not None and not process.paused
                )
            case "primary_moved":
                return all(
                    any(machine.id != lost for machine in sim.primaries_of(shard))
                    for shard, lost in sorted(self._lost_primaries.items())
                )
            case _:
                return number == 0 or number - 1 in self._over

    # -- doing it --------------------------------------------------------------------------------------

    def _begin(self, number: int, repetition: int) -> None:
        sim, step = self._sim, self._steps[number]
        if not sim.accepting:
            return
        undo = self._act(step, repetition)
        if step.for_ms is not None:
            sim.world.after(step.for_ms * 1000, lambda: undo() if sim.accepting else None)
        if repetition + 1 < files.times_of(step, self._sim_cluster()):
            sim.world.after(step.every_ms * 1000, lambda: self._begin(number, repetition + 1))
            return
        self._last_begun[number] = sim.world.now
        sim.world.after(step.lasts_ms * 1000, lambda: self._over.add(number))
        self._watch_next(number + 1)

    def _sim_cluster(self) -> files.ClusterPart:
        config = self._sim.config
        return files.ClusterPart(config.shards, config.replicas, config.azs, config.read_mode)

    def _act(self, step: files.Step, repetition: int) -> Undo:
        if step.action == "transfer":
            assert step.target is not None
            return self._transfer(ShardId(step.target.name))
        if step.action == "cut":
            assert step.options.link_from is not None and step.options.link_to is not None
            # The two ends of a link are not what `same` means.
            senders = self._resolve(step.options.link_from, 0)
            receivers = self._resolve(step.options.link_to, 0)
            self._note(step, [*senders, *receivers])
            return self._sim.faults.cut(senders, receivers)
        machines = (
            self._find(step.target, repetition) if step.target is not None else self._sim.machines_in_order
        )
        self._note(step, machines)
        return ACTIONS[step.action](self._sim, machines, step)

    def _note(self, step: files.Step, machines: Sequence[Machine]) -> None:
        self._sim.trace.fault(
            f"{step.action} {' '.join(machine.id for machine in machines)} (line {step.line})"
        )
        if step.action in DISTURBING:
            inside = {machine.id for machine in machines}
            for shard in self._sim.topology.shards:
                primary = self._sim.primary_of(shard.id)
                if primary is not None and primary.id in inside:
                    self._lost_primaries[shard.id] = primary.id

    def _transfer(self, shard: ShardId) -> Undo:
        primary = self._sim.primary_of(shard)
        self._sim.trace.fault(f"transfer {shard}")
        if primary is not None:
            self._lost_primaries[shard] = primary.id
            return self._sim.faults.transfer(primary)
        return nothing

    # -- targets ---------------------------------------------------------------------------------------

    def _find(self, target: files.Target, repetition: int) -> list[Machine]:
        found = self._resolve(target, repetition)
        if files.TARGETS[target.kind].found:
            self._found = found
        return found

    def _resolve(self, target: files.Target, repetition: int) -> list[Machine]:
        sim, rng = self._sim, self._sim.fault_rng
        azs = list(sim.config.azs)
        match target.kind:
            case "az":
                return self._in_azs([target.name])
            case "node":
                return [sim.machines[NodeId(target.name)]]
            case "all":
                return list(sim.machines_in_order)
            case "primary" | "primary_az":
                primary = sim.primary_of(ShardId(target.name)) or sim.leader_of(ShardId(target.name))
                machine = primary or sim.machines[sim.serving_nodes[ShardId(target.name)][0]]
                return [machine] if target.kind == "primary" else self._in_azs([machine.az])
            case "replica":
                primary = sim.primary_of(ShardId(target.name))
                others = [
                    node
                    for node in sim.serving_nodes[ShardId(target.name)]
                    if sim.machines[node] is not primary
                ]
                return [sim.machines[rng.choice(others)]] if others else []
            case "minority":
                return self._in_azs(rng.sample(azs, (len(azs) - 1) // 2))
            case "majority":
                return self._in_azs(rng.sample(azs, len(azs) // 2 + 1))
            case "random_az":
                return self._in_azs([rng.choice(azs)])
            case "random_node":
                return [rng.choice(sim.machines_in_order)]
            case "each_az":
                return self._in_azs([azs[repetition % len(azs)]])
            case "shard":
                return [machine for machine in sim.machines_in_order if machine.shard == target.name]
            case _:
                return self._found

    def _in_azs(self, azs: Sequence[str]) -> list[Machine]:
        return [machine for machine in self._sim.machines_in_order if machine.az in azs]


# -- actions -----------------------------------------------------------------------------------------------

DISTURBING = frozenset(
    {"kill", "power_cut", "restart", "pause", "isolate", "engine_kill", "engine_hang", "disk_stall"}
)


def _restart(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    start = sim.faults.kill(machines, lose_unsynced=False)
    sim.world.after(step.options.down_ms * 1000, start)
    return nothing


def _isolate(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    mend = sim.faults.isolate(machines, step.options.direction, clients=step.options.clients)
    if 2 * len({machine.az for machine in machines}) >= len(sim.config.azs):
        return mend
    inside = {machine.id for machine in machines}
    is_over = False

    def watch() -> None:
        if not is_over:
            sim.cut_off.update(inside)

    def end() -> None:
        nonlocal is_over
        is_over = True
        sim.cut_off.difference_update(inside)
        mend()

    sim.world.after(minority_after_us(sim), watch)

    return end


def minority_after_us(sim: Simulation) -> int:
    """From when on a cut-off minority must be silent: what it had proven before, it may still say."""
    return sim.config.raft.lease_ms * 1000 + 2 * sim.config.delay_max_us


def _pause(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    return sim.faults.pause(machines)


def _resume(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    for machine in machines:
        if machine.process is not None:
            machine.process.resume()
    return nothing


def _start(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    sim.faults.start(machines)
    return nothing


def _heal(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    inside = {machine.id for machine in machines}
    sim.network.heal_links_of(inside)
    sim.client_cut -= inside
    sim.cut_off.difference_update(inside)
    return nothing


def _disk_heal(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
    for machine in machines:
        machine.free_disk()
    return nothing


def _engines(act: Callable[[Simulation, Machine, files.Step], object]) -> "Act":
    def each(sim: Simulation, machines: Sequence[Machine], step: files.Step) -> Undo:
        for machine in machines:
            act(sim, machine, step)

        def wake() -> None:
            for machine in machines:
                if machine.process is not None:
                    machine.process.wake_engine()

        return wake

    return each


def _hang(sim: Simulation, machine: Machine, step: files.Step) -> object:
    return sim.faults.hang_engine(machine, 60_000_000)


Act = Callable[[Simulation, Sequence[Machine], files.Step], Undo]
ACTIONS: dict[str, Act] = {
    "kill": lambda sim, on, step: sim.faults.kill(on, lose_unsynced=step.options.lose_unsynced),
    "power_cut": lambda sim, on, step: sim.faults.kill(on, lose_unsynced=True),
    "start": _start,
    "restart": _restart,
    "pause": _pause,
    "resume": _resume,
    "isolate": _isolate,
    "slow": lambda sim, on, step: sim.faults.slow(on, step.options.delay_ms * 1000),
    "lossy": lambda sim, on, step: sim.faults.lossy(
        on, step.options.drop_percent, step.options.duplicate_percent
    ),
    "heal": _heal,
    "disk_full": lambda sim, on, step: sim.faults.disk_full(on),
    "disk_stall": lambda sim, on, step: sim.faults.disk_stall(on, step.options.stall_ms * 1000),
    "disk_heal": _disk_heal,
    "clock_jump": lambda sim, on, step: sim.faults.jump_clock(on, step.options.jump_ms * 1000),
    "clock_drift": lambda sim, on, step: sim.faults.drift_clock(on, step.options.percent),
    "engine_kill": _engines(lambda sim, machine, step: sim.faults.kill_engine(machine)),
    "engine_hang": _engines(_hang),
}


# -- expectations ------------------------------------------------------------------------------------------


def judge(
    scenario: files.Scenario, outcome: Outcome, longest_outage_ms: int, minority_acked: int
) -> list[Violation]:
    """What the file expects and the run did not show, on top of what is never allowed."""
    if outcome.subject != "azimuth":
        return outcome.violations + _judge_other(scenario, outcome)
    expect = scenario.expect
    allowed: set[str] = set()
    if outcome.lost <= expect.lost and expect.lost:
        allowed.add(LOST_WRITE)
    if outcome.stale_reads <= expect.stale_reads and expect.stale_reads:
        allowed.add(STALE_READ)
    if not expect.replicas_agree:
        allowed.add(DIVERGED)
    found = [violation for violation in outcome.violations if violation.kind not in allowed]

    def unmet(text: str) -> None:
        found.append(Violation(EXPECTATION, "", text))

    if outcome.acked < expect.acked_min:
        unmet(f"{outcome.acked} operations acknowledged, at least {expect.acked_min} expected")
    if expect.unavailable_ms_max is not None and longest_outage_ms > expect.unavailable_ms_max:
        unmet(
            f"a shard had no primary for {longest_outage_ms} ms, at most {expect.unavailable_ms_max} expected"
        )
    if expect.minority_acked_max is not None and minority_acked > expect.minority_acked_max:
        unmet(
            f"a cut-off minority acknowledged {minority_acked}, at most {expect.minority_acked_max} expected"
        )
    return found


def _judge_other(scenario: files.Scenario, outcome: Outcome) -> list[Violation]:
    expect: Any = scenario.expect.of(outcome.subject)  # type: ignore[arg-type]  # its names are the subjects'
    if expect is None:
        return []
    found = []
    if outcome.lost < expect.lost_min:
        found.append(
            Violation(EXPECTATION, "", f"{outcome.subject} lost {outcome.lost}, expected {expect.lost_min}")
        )
    if outcome.stale_reads < expect.stale_reads_min:
        text = f"{outcome.subject} had {outcome.stale_reads} stale reads, expected {expect.stale_reads_min}"
        found.append(Violation(EXPECTATION, "", text))
    return found


def run_scenario(
    scenario: files.Scenario, seed: int, *, subject: Subject | None = None, sink: Sink | None = None
) -> Outcome:
    return ScenarioSimulation(scenario, seed, subject=subject, sink=sink).run()
