"""The `async` subject is what it says: right while nothing fails, and lossy just where Redis Cluster is.

Most runs are one shard over three zones for a few seconds; what happened on the way is read from the marks
that its nodes leave in the trace.
"""

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.history import DIVERGED, LOST_WRITE
from cluster.sim.simulation import BUG, LIVENESS, Outcome, Simulation
from cluster.sim.subjects.async_messages import AsyncConfig
from cluster.sim.subjects.async_stream import NOTHING, EffectStream
from cluster.sim.subjects.asynchronous import AsyncNode, AsyncSubject
from cluster.sim.subjects.azimuth import AzimuthSubject
from cluster.types import ShardId

SHARD = ShardId("0001")
FIRST_AZ = 0.05  # as a fault's `pick`
BOTH_WAYS = 0.5  # as `amount` of isolate; clients still reach what is isolated
NEVER_OF_THE_FRAME = {BUG, LIVENESS, DIVERGED, "invariant", "unexpected_error"}

LISTS = (WorkloadConfig("list", clients=6, ops_per_second=100.0, keys=3),)
MIXED = tuple(
    WorkloadConfig(kind, clients=2, ops_per_second=12.0, keys=2)
    for kind in ("register", "list", "counter", "chain", "set", "transaction", "small", "effects")
)


def config(
    *faults: PlannedFault,
    seed: int = 1,
    duration_ms: int = 1_500,
    workloads: tuple[WorkloadConfig, ...] = LISTS,
) -> SimConfig:
    return SimConfig(
        seed=seed,
        shards=1,
        workloads=workloads,
        faults=faults,
        duration_us=duration_ms * 1_000,
        op_timeout_us=500_000,
    )


def isolated(at_ms: int, for_ms: int) -> PlannedFault:
    return PlannedFault(at_ms * 1_000, "isolate", FIRST_AZ, for_ms * 1_000, BOTH_WAYS)


def cut_off_and_killed() -> SimConfig:
    """The primary's zone loses its links, its power 150 ms later, and comes back."""
    return config(
        isolated(300, 1_000),
        PlannedFault(450_000, "power_cut", FIRST_AZ, 850_000),
        duration_ms=2_000,
    )


@cache
def run(what: SimConfig) -> Outcome:
    return Simulation(what, subject=AsyncSubject()).run()


def kinds(outcome: Outcome) -> Counter[str]:
    return Counter(violation.kind for violation in outcome.violations)


# -- whole runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quiet_run_passes_all_checkers() -> None:
    outcome = run(config(workloads=MIXED))
    assert outcome.violations == []
    assert outcome.acked > 100
    assert outcome.in_doubt == 0
    assert "demoted" not in outcome.marks


@pytest.mark.slow
def test_losing_the_primary_s_zone_in_mid_write_loses_acknowledged_writes() -> None:
    outcome = run(cut_off_and_killed())
    assert kinds(outcome)[LOST_WRITE] >= 1
    assert outcome.lost == kinds(outcome)[LOST_WRITE]
    assert not NEVER_OF_THE_FRAME & set(kinds(outcome)), "the replicas converge and agree all the same"
    assert outcome.marks["became_primary"] == 2


@pytest.mark.slow
def test_azimuth_loses_nothing_in_the_same_run() -> None:
    outcome = Simulation(cut_off_and_killed(), subject=AzimuthSubject()).run()
    assert outcome.violations == []
    assert outcome.acked > 50


@pytest.mark.slow
def test_a_partitioned_primary_goes_on_acknowledging_and_throws_it_away_on_return() -> None:
    outcome = run(config(isolated(300, 1_400), duration_ms=2_500))
    assert kinds(outcome)[LOST_WRITE] >= 5
    assert outcome.marks["cluster_down"] == 1, "half a second later it notices"
    assert outcome.marks["demoted"] == 1
    assert outcome.marks["full_resync"] == 3, "two replicas in the beginning, the old primary in the end"
    assert not NEVER_OF_THE_FRAME & set(kinds(outcome))


def test_a_power_cut_of_all_loses_everything() -> None:
    outcome = run(config(PlannedFault(800_000, "power_cut_all", 0.0, 100_000), duration_ms=900))
    shown = max(len(op.reply) for op in outcome.proof if op.final and isinstance(op.reply, list))
    assert outcome.lost > 20
    assert shown < outcome.lost, "only what was written after it is there"
    assert not NEVER_OF_THE_FRAME & set(kinds(outcome)), "it serves again, empty"


@pytest.mark.slow
def test_same_seed_same_run() -> None:
    again = Simulation(cut_off_and_killed(), subject=AsyncSubject()).run()
    first = run(cut_off_and_killed())
    assert (again.trace_hash, again.unseed) == (first.trace_hash, first.unseed)
    assert again.violations == first.violations


@pytest.mark.slow
def test_an_engine_that_dies_or_hangs_fails_its_node_over() -> None:
    died = run(config(PlannedFault(300_000, "engine_kill", 0.0, 0), duration_ms=1_800))
    assert died.marks["engine_died"] == 1 and died.marks["became_primary"] == 2
    hung = run(config(PlannedFault(300_000, "engine_hang", 0.0, 1_500_000, 1.0), duration_ms=2_500))
    assert hung.marks["demoted"] == 1 and hung.marks["became_primary"] == 2
    assert not NEVER_OF_THE_FRAME & {*kinds(died), *kinds(hung)}


# -- single mechanisms -------------------------------------------------------------------------------------


def booted(shards: int = 1, subject: AsyncSubject | None = None) -> Simulation:
    sim = Simulation(SimConfig(seed=3, shards=shards), subject=subject or AsyncSubject())
    sim._boot()
    sim.go(1_000_000)  # replicas have synced
    return sim


def node(sim: Simulation, number: int, shard: str = "0001") -> AsyncNode:
    found = sim.machines[sim.topology.shard(ShardId(shard)).nodes[number].id].node
    assert isinstance(found, AsyncNode)
    return found


def test_a_planned_failover_moves_the_primary_and_demotes_the_old_one_without_a_full_resync() -> None:
    sim = booted()
    before = sim.trace.marks["full_resync"]
    assert node(sim, 0).transfer()
    assert not node(sim, 0).transfer(), "one at a time"
    assert sim.go(300_000, lambda: not node(sim, 0).leads)
    assert sim.go(1_000_000, sim._settled)
    primary = sim.primary_of(SHARD)
    assert primary is not None and primary.id != "0001-001"
    assert sim.trace.marks["full_resync"] == before


def test_elections_of_several_shards_at_once_do_not_take_each_others_votes() -> None:
    sim = booted(shards=3)
    primaries = [sim.primary_of(shard.id) for shard in sim.topology.shards]
    sim.faults.kill([machine for machine in primaries[:2] if machine is not None], lose_unsynced=False)
    assert sim.go(1_200_000, sim.all_serve)
    assert sim.trace.marks["election_begun"] == sim.trace.marks["elected"] - 3 == 2


def test_the_replica_that_is_furthest_takes_over() -> None:
    sim = booted()
    last = sim.machines[node(sim, 2).node_id]
    sim.network.cut(node(sim, 0).node_id, node(sim, 1).node_id)
    engine = node(sim, 0).engine
    assert engine is not None
    lane = engine.open_lane(lambda data: None, lambda: None)
    lane.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n")
    sim.go(200_000)
    assert node(sim, 2).position > node(sim, 1).position
    sim.faults.kill([sim.machines[node(sim, 0).node_id]], lose_unsynced=False)
    sim.go(2_000_000, lambda: sim.primary_of(SHARD) is not None)
    assert sim.primary_of(SHARD) is last


def test_a_minority_elects_nobody() -> None:
    sim = booted()
    sim.faults.kill([sim.machines[node(sim, at).node_id] for at in (0, 1)], lose_unsynced=False)
    assert not sim.go(3_000_000, lambda: node(sim, 2).leads)
    assert node(sim, 2).down and sim.trace.marks["election_begun"] == 0


def test_a_vote_is_kept_over_a_power_cut() -> None:
    sim = booted()
    voter = sim.machines[node(sim, 2).node_id]
    sim.faults.kill([sim.machines[node(sim, 0).node_id]], lose_unsynced=False)
    assert sim.go(2_000_000, lambda: sim.trace.marks["became_primary"] == 2)
    assert voter.process is not None and voter.process.wal is not None
    voted = voter.process.wal.hard_state
    assert voted.term > 1
    sim.faults.kill([voter], lose_unsynced=True)()
    sim.go(100_000)
    assert voter.process is not None and voter.process.wal is not None
    assert voter.process.wal.hard_state == voted


def test_the_node_timeout_is_what_the_configuration_says() -> None:
    sim = booted(subject=AsyncSubject(AsyncConfig(node_timeout_us=3_000_000)))
    sim.faults.kill([sim.machines[node(sim, 0).node_id]], lose_unsynced=False)
    assert not sim.go(2_900_000, lambda: node(sim, 1).leads or node(sim, 2).leads)
    assert sim.go(600_000, lambda: node(sim, 1).leads or node(sim, 2).leads)


# -- the stream --------------------------------------------------------------------------------------------


def stream_of(history: int, *units: bytes) -> EffectStream:
    stream = EffectStream()
    stream.begin(history)
    for unit in units:
        stream.append(unit)
    return stream


def test_a_stream_that_nobody_has_begun_holds_nothing_that_counts() -> None:
    stream = EffectStream()
    stream.append(b"half a resync")
    assert stream.standing == NOTHING
    assert not stream.continues(NOTHING)


def test_who_followed_the_old_primary_no_further_continues_and_who_was_ahead_does_not() -> None:
    stream = stream_of(1, b"aa", b"bb")
    stream.begin(5)
    stream.append(b"cc")
    assert stream.continues((5, 6)) and stream.continues((5, 4))
    assert stream.continues((1, 4)) and stream.continues((1, 0))
    assert not stream.continues((1, 6)), "it has something of the old primary that this one never had"
    assert not stream.continues((5, 8)) and not stream.continues((4, 2))
    stream.begin(9)
    assert not stream.continues((1, 4)), "only the last history is remembered, as in Redis"


@settings(max_examples=50)
@given(st.lists(st.binary(min_size=1, max_size=4), max_size=8), st.data())
def test_extending_skips_what_is_there_and_refuses_gaps(units: list[bytes], data: st.DataObject) -> None:
    have = data.draw(st.integers(0, len(units)))
    first = data.draw(st.integers(0, len(units)))
    stream = stream_of(1, *units[:have])
    start = sum(map(len, units[:first]))
    assert stream.extend(start, units[first:]) == (first <= have)
    stream.check_invariants()
    assert stream.since(0) == tuple(units if first <= have else units[:have])
    if first <= have:
        assert stream.since(start) == tuple(units[first:])
