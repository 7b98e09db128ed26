"""Draws a whole run from a seed: cluster, limits, machine room, workloads, faults.

Swarm testing (Groce and others, 2012): a run that has every fault all the time tries few combinations; one
in which half the kinds are absent tries others. So each kind is in or out, each rate is drawn, and many runs
make up the whole.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.raft import RaftConfig
from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.faults import Undo, nothing
from cluster.sim.process import Machine
from cluster.types import Az

if TYPE_CHECKING:
    from cluster.sim.simulation import Simulation

AZ_NAMES = ("az-a", "az-b", "az-c", "az-d", "az-e")
OPS_PER_SECOND = 100.0
KINDS = ("register", "list", "counter", "chain", "set", "transaction", "small", "effects")


def draw_config(seed: int) -> SimConfig:
    """The run of this seed."""
    rng = random.Random(f"swarm {seed}")
    shards = rng.choice((1, 1, 2, 3))
    azs = rng.choice((3, 3, 3, 3, 5))
    replicas = rng.choice((1, 2, 2, 2)) if azs == 3 else rng.choice((2, 4))
    duration_us = rng.choice((2, 4, 4, 8)) * 1_000_000
    bad_network = rng.random() < 0.4
    wide = rng.random() < 0.1
    delay_max_us = rng.choice((300, 1_000, 1_000, 4_000, 10_000))
    return SimConfig(
        seed=seed,
        shards=shards,
        replicas=replicas,
        azs=tuple(Az(name) for name in AZ_NAMES[:azs]),
        read_mode=rng.choice(("lease", "lease", "lease", "quorum")),
        raft=_draw_raft(rng, wide=wide),
        unavailable_wait_us=rng.choice((100_000, 1_000_000)),
        workloads=_draw_workloads(rng),
        duration_us=duration_us,
        faults=_draw_faults(rng, duration_us),
        turn_us=rng.choice((20, 60, 60, 300, 2_000)),
        delay_min_us=rng.choice((20, 100, 250)),
        delay_max_us=delay_max_us,
        drop_percent=rng.choice((0.1, 1.0, 5.0)) if bad_network else 0.0,
        duplicate_percent=rng.choice((0.0, 0.5, 5.0)) if bad_network else 0.0,
        reorder_percent=rng.choice((0.0, 1.0, 10.0)) if bad_network else 0.0,
        client_delay_us=rng.choice((200, 500, 3_000)),
        op_timeout_us=rng.choice((300_000, 1_500_000, 3_000_000)),
        sync_min_us=60,
        sync_max_us=rng.choice((200, 400, 2_000, 20_000)),
        drift_percent=rng.choice((0.0, 0.0, 0.1, 5.0)),
        segment_bytes=rng.choice((4 << 10, 16 << 10, 64 << 10)),
        wal_cache_bytes=rng.choice((0, 2_000, 1 << 20)),
        engine_boot_us=rng.choice((1_000, 30_000, 200_000)),
        restart_us=rng.choice((20_000, 200_000, 600_000)),
        victim=rng.randrange(azs),
    )


def _draw_raft(rng: random.Random, *, wide: bool) -> RaftConfig:
    drawn = RaftConfig(
        inflight_messages_max=rng.choice((1, 2, 8)),
        message_bytes_max=rng.choice((500, 4_000, 1 << 20)),
        cache_bytes_max=rng.choice((1_000, 20_000, 8 << 20)),
        apply_bytes_max=rng.choice((300, 4 << 20)),
    )
    if wide:
        return replace(
            drawn, election_timeout_min_ms=600, election_timeout_max_ms=1_200, heartbeat_ms=150, lease_ms=450,
            tick_ms=20,
        )  # fmt: skip
    return replace(drawn, tick_ms=rng.choice((10, 20, 20)))


def _draw_workloads(rng: random.Random) -> tuple[WorkloadConfig, ...]:
    kinds = [kind for kind in KINDS if rng.random() < 0.6] or ["register"]
    rate = OPS_PER_SECOND * rng.choice((0.5, 1.0, 1.0, 2.0)) / len(kinds)
    return tuple(
        WorkloadConfig(
            kind=kind,
            clients=rng.choice((1, 2, 3)),
            ops_per_second=rate,
            keys=rng.choice((1, 2, 5)),
            depth=rng.choice((1, 1, 8)),
        )
        for kind in kinds
    )


# -- faults ------------------------------------------------------------------------------------------------


def _draw_faults(rng: random.Random, duration_us: int) -> tuple[PlannedFault, ...]:
    kinds = [kind for kind in sorted(FAULTS) if rng.random() < 0.35]
    if not kinds:
        return ()
    mean_us = rng.choice((100_000, 300_000, 700_000, 1_500_000))
    calm_us = rng.choice((0, 200_000))
    found = []
    at_us = int(rng.expovariate(1.0) * mean_us)
    while at_us < duration_us:
        found.append(
            PlannedFault(
                at_us=at_us,
                kind=rng.choice(kinds),
                pick=rng.random(),
                duration_us=int(rng.choice((30_000, 200_000, 700_000, 2_000_000)) * (0.5 + rng.random())),
                amount=rng.random(),
            )
        )
        at_us += calm_us + int(rng.expovariate(1.0) * mean_us)
    return tuple(found)


def apply(sim: "Simulation", fault: PlannedFault) -> Undo:
    """Begin a planned fault; what ends it."""
    targets, act = FAULTS[fault.kind]
    machines = targets(sim, fault.pick)
    if not machines:
        return nothing
    sim.trace.fault(f"{fault.kind} {' '.join(machine.id for machine in machines)}")
    return act(sim, machines, fault)


Targets = Callable[["Simulation", float], Sequence[Machine]]
Act = Callable[["Simulation", Sequence[Machine], PlannedFault], Undo]


def _one(sim: "Simulation", pick: float) -> Sequence[Machine]:
    """Half of the time a leader, else any node."""
    leaders = [
        machine for machine in sim.machines_in_order if machine.node is not None and machine.node.leads
    ]
    pool = leaders if leaders and pick < 0.5 else sim.machines_in_order
    return (pool[int(pick * 1_000_003) % len(pool)],)


def _az(sim: "Simulation", pick: float) -> Sequence[Machine]:
    azs = sim.config.azs
    az = azs[int(pick * len(azs))]
    return [machine for machine in sim.machines_in_order if machine.az == az]


def _az_or_one(sim: "Simulation", pick: float) -> Sequence[Machine]:
    return _az(sim, pick * 2 % 1.0) if pick < 0.5 else _one(sim, pick * 2 % 1.0)


def _all(sim: "Simulation", pick: float) -> Sequence[Machine]:
    return sim.machines_in_order


def _some(sim: "Simulation", pick: float) -> Sequence[Machine]:
    """Any subset."""
    bits = int(pick * 1_000_003) % (1 << min(16, len(sim.machines_in_order)))
    return [machine for place, machine in enumerate(sim.machines_in_order) if bits >> place & 1]


def _victim(sim: "Simulation", pick: float) -> Sequence[Machine]:
    """A node in the one AZ whose disks may rot."""
    pool = [machine for machine in sim.machines_in_order if machine.az == sim.config.azs[sim.config.victim]]
    return (pool[int(pick * len(pool))],) if pool else ()  # fewer nodes than AZs


def _leader(sim: "Simulation", pick: float) -> Sequence[Machine]:
    leaders = [
        machine for machine in sim.machines_in_order if machine.node is not None and machine.node.leads
    ]
    return (leaders[int(pick * len(leaders))],) if leaders else ()


def _pair(sim: "Simulation", pick: float) -> Sequence[Machine]:
    """A leader and another member of its shard: a bridge remains between them."""
    leader = _leader(sim, pick)
    others = [machine for machine in sim.machines_in_order if leader and machine.shard == leader[0].shard]
    others = [machine for machine in others if machine is not leader[0]]
    return (leader[0], others[int(pick * 1_000_003) % len(others)]) if others else ()


def _cut_pair(sim: "Simulation", machines: Sequence[Machine], fault: PlannedFault) -> Undo:
    """Both ways, or one: then only one of them is deaf."""
    first, second = machines[:1], machines[1:]
    undo = [sim.faults.cut(first, second)] if fault.amount < 0.75 else []
    undo += [sim.faults.cut(second, first)] if fault.amount > 0.25 else []

    def mend() -> None:
        for each in undo:
            each()

    return mend


def _isolate(sim: "Simulation", machines: Sequence[Machine], fault: PlannedFault) -> Undo:
    directions = ("both", "both", "in", "out")
    direction = directions[int(fault.amount * 1_000_003) % 4]
    return sim.faults.isolate(machines, direction, clients=fault.amount < 0.2)


def _suspend(sim: "Simulation", machines: Sequence[Machine], fault: PlannedFault) -> Undo:
    return sim.faults.suspend(machines, int(fault.amount * 5_000_000))


FAULTS: dict[str, tuple[Targets, Act]] = {
    "kill": (_az_or_one, lambda sim, machines, fault: sim.faults.kill(machines, lose_unsynced=False)),
    "power_cut": (_az_or_one, lambda sim, machines, fault: sim.faults.kill(machines, lose_unsynced=True)),
    "power_cut_all": (_all, lambda sim, machines, fault: sim.faults.kill(machines, lose_unsynced=True)),
    "kill_some": (
        _some,
        lambda sim, machines, fault: sim.faults.kill(machines, lose_unsynced=fault.amount < 0.5),
    ),
    "kill_at": (
        _one,
        lambda sim, machines, fault: sim.faults.kill_at(
            machines[0], int(fault.amount * 1_000), lose_unsynced=fault.amount < 0.5
        ),
    ),
    "pause": (_az_or_one, lambda sim, machines, fault: sim.faults.pause(machines)),
    "suspend": (_az_or_one, _suspend),
    "isolate": (_az_or_one, _isolate),
    "split": (_some, _isolate),
    "cut_pair": (_pair, _cut_pair),
    "clog": (_az_or_one, lambda sim, machines, fault: sim.faults.clog(machines)),
    "slow": (_az_or_one, lambda sim, machines, fault: sim.faults.slow(machines, int(fault.amount * 300_000))),
    "lossy": (
        _az_or_one,
        lambda sim, machines, fault: sim.faults.lossy(machines, fault.amount * 60, fault.amount * 20),
    ),
    "disk_full": (_az_or_one, lambda sim, machines, fault: sim.faults.disk_full(machines)),
    "disk_stall": (
        _az_or_one,
        lambda sim, machines, fault: sim.faults.disk_stall(
            machines, (3_000_000, 30_000_000)[fault.amount < 0.2]
        ),
    ),
    "fail_sync": (_one, lambda sim, machines, fault: sim.faults.fail_sync(machines[0])),
    "rot": (_victim, lambda sim, machines, fault: sim.faults.rot(machines[0])),
    "misdirect": (_victim, lambda sim, machines, fault: sim.faults.misdirect(machines[0])),
    "clock_jump": (
        _az_or_one,
        lambda sim, machines, fault: sim.faults.jump_clock(machines, int(fault.amount**3 * 10_000_000)),
    ),
    "wall_jump": (
        _az_or_one,
        lambda sim, machines, fault: sim.faults.jump_wall(
            machines, int((fault.amount - 0.5) * 7_200_000_000)
        ),
    ),
    "engine_kill": (_one, lambda sim, machines, fault: sim.faults.kill_engine(machines[0])),
    "engine_hang": (
        _one,
        lambda sim, machines, fault: sim.faults.hang_engine(
            machines[0], 11_000_000 if fault.amount < 0.1 else fault.duration_us
        ),
    ),
    "break_feed": (_one, lambda sim, machines, fault: sim.faults.break_feed(machines[0])),
    "transfer": (_leader, lambda sim, machines, fault: sim.faults.transfer(machines[0])),
}
