"""The measurements by their numbers in docs/performance.md, and the loop that alternates ours and the peer.

To add one that compares throughput, write a function that returns `compare_loads(…)` with its `Load`, and
enter it in MEASURES; P2 (1 connection) and P4 (pipeline 16) are `Load(connections=1)` and
`Load(pipeline=16)`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, TypeVar

from cluster.errors import ConfigError
from cluster.runtime.bench.failover import GapProbe
from cluster.runtime.bench.generator import BenchError, Figures, Load, run_generator
from cluster.runtime.bench.native import find_redis_benchmark, run_redis_benchmark
from cluster.runtime.bench.ours import OurCluster, our_cluster
from cluster.runtime.bench.peers import durable_valkey, plain_valkey
from cluster.runtime.demo import has_caught_up
from cluster.runtime.valkey_binary import find_engine
from cluster.types import NodeId

CATCH_UP_TIMEOUT_S = 60.0
PEER_DURABLE = "Valkey, 3 nodes, appendfsync always, WAITAOF 1 1"
PEER_NOT_AWAITED = "Valkey, 3 nodes, appendfsync always, replicas not awaited"
PEER_PLAIN = "Valkey alone, not durable"

Say = Callable[[str], None]
Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class BenchSettings:
    rounds: int = 5
    seconds: float = 3.0
    kills: int = 10


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table. `at_least`: whether the ratio (or, without a peer, our figure) is to be that or
    more.
    """

    id: str
    work: str
    ours: float
    unit: str
    reach: float
    at_least: bool
    peer: float | None = None
    peer_name: str | None = None
    note: str = ""
    rounds: tuple[tuple[float, float], ...] = ()  # (ours, peer) of each round

    @property
    def ratio(self) -> float | None:
        return self.ours / self.peer if self.peer else None

    @property
    def reached(self) -> bool:
        figure = self.ours if self.ratio is None else self.ratio
        return figure >= self.reach if self.at_least else figure <= self.reach

    def as_json(self) -> dict[str, Any]:
        unit = " ×" if self.peer is not None else f" {self.unit}"
        return {
            "id": self.id,
            "work": self.work,
            "ours": round(self.ours, 3),
            "peer": None if self.peer is None else round(self.peer, 3),
            "peer_name": self.peer_name,
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "reach": f"{'≥' if self.at_least else '≤'} {self.reach:g}{unit}",
            "reached": self.reached,
            "unit": self.unit,
            "note": self.note,
            "rounds": [list(pair) for pair in self.rounds],
        }


def alternate(
    rounds: int, ours: Callable[[], Figure], peer: Callable[[], Figure], say: Say
) -> list[tuple[Figure, Figure]]:
    """Rounds of both, who begins changing each time."""
    pairs = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        if number % 2 == 0:
            first = ours()
            pairs.append((first, peer()))
        else:
            second = peer()
            pairs.append((ours(), second))
    return pairs


def compare_durable(
    name: str, ours_load: Load, peer_work: str, settings: BenchSettings, say: Say
) -> list[tuple[Figures, Figures]]:
    """Rounds of one load against a one-shard cluster of ours and against a durable Valkey trio."""
    load = replace(ours_load, seconds=settings.seconds)
    with our_cluster(shards=1) as ours, durable_valkey(find_engine(None)) as peer_port:
        return alternate(
            settings.rounds,
            lambda: run_generator(replace(load, port=ours.primary().port)),
            lambda: run_generator(replace(load, port=peer_port, work=peer_work)),
            lambda text: say(f"{name}: {text}"),
        )


def p1_durable_set(settings: BenchSettings, say: Say) -> list[Result]:
    """SET, 50 connections, every write on disk in a majority of AZs before its answer."""
    pairs = compare_durable("P1", Load(port=0, connections=50), "set_waitaof", settings, say)
    work = "SET 100 B, 50 connections, fsynced on a majority"
    return [
        compared("P1", work, "ops/s", 2.0, True, PEER_DURABLE, pairs, lambda f: f.ops_per_s),
        compared("P1.p99", f"{work}: p99", "ms", 0.7, False, PEER_DURABLE, pairs, lambda f: f.p99_us / 1000),
    ]


def p2_one_connection(settings: BenchSettings, say: Say) -> list[Result]:
    """The same with one connection: how long a write takes. The goal is absolute, the peer only noted."""
    pairs = compare_durable("P2", Load(port=0, connections=1), "set_waitaof", settings, say)
    ours, peer = (median(side.p50_us / 1000 for side in sides) for sides in zip(*pairs, strict=True))
    work = "SET 100 B, 1 connection, fsynced on a majority: p50"
    return [Result("P2", work, ours, "ms", 1.0, False, note=f"{PEER_DURABLE}: {peer:.1f} ms")]


def p4_pipelined_set(settings: BenchSettings, say: Say) -> list[Result]:
    """SET in pipelines of 16; the peer fsyncs, but answers without waiting for its replicas."""
    pairs = compare_durable("P4", Load(port=0, connections=50, pipeline=16), "set", settings, say)
    work = "SET 100 B, 50 connections, pipeline 16"
    return [compared("P4", work, "ops/s", 1.0, True, PEER_NOT_AWAITED, pairs, lambda f: f.ops_per_s)]


def p3_get(settings: BenchSettings, say: Say) -> list[Result]:
    """GET, 50 connections, linearizable; against the same engine alone."""
    native = find_redis_benchmark()
    load = Load(port=0, work="get", connections=50, seconds=settings.seconds)
    with our_cluster(shards=1) as ours, plain_valkey(find_engine(None)) as peer_port:
        ports = (ours.primary().port, peer_port)
        for port in ports:
            run_generator(Load(port=port, work="set", seconds=1.0))
        if native is None:
            note = "own load generator: redis-benchmark is not installed (Debian: redis-tools)"

            def measure(port: int) -> float:
                return run_generator(replace(load, port=port)).ops_per_s
        else:
            note = "redis-benchmark"
            # As many requests as take about the wanted time, the same number on both sides.
            per_second = min(run_redis_benchmark(native, port, "get", 20_000) for port in ports)
            requests = max(20_000, int(per_second * settings.seconds))

            def measure(port: int) -> float:
                return run_redis_benchmark(native, port, "get", requests)

        pairs = alternate(
            settings.rounds,
            lambda: measure(ours.primary().port),
            lambda: measure(peer_port),
            lambda text: say(f"P3: {text}"),
        )
    work = "GET 100 B, 50 connections, linearizable"
    result = compared("P3", work, "ops/s", 0.8, True, PEER_PLAIN, pairs, lambda figure: figure)
    return [replace(result, note=note)]


def p6_failover(settings: BenchSettings, say: Say) -> list[Result]:
    """The write gap of a client: kills of the primary's AZ, then as many planned failovers."""
    killed, planned = [], []
    with our_cluster(shards=1) as ours:
        for number in range(settings.kills):
            say(f"P6: kill {number + 1} of {settings.kills}")
            killed.append(gap_of(ours, lambda primary: kill_and_start(ours, primary)))
        for number in range(settings.kills):
            say(f"P6: planned failover {number + 1} of {settings.kills}")
            planned.append(gap_of(ours, lambda primary: hand_over(ours, primary)))
    times = f"{settings.kills} times"
    each = ", ".join(f"{gap:.0f}" for gap in killed)
    return [
        Result(
            "P6",
            f"write gap, primary's AZ killed {times}: p50",
            median(killed),
            "ms",
            400,
            False,
            note=f"ms: {each}",
        ),
        Result(
            "P6.p99",
            f"write gap, primary's AZ killed {times}: p99",
            nearest_rank(killed, 99),
            "ms",
            1000,
            False,
        ),
        Result("P6.planned", f"write gap, planned failover {times}: p50", median(planned), "ms", 50, False),
    ]


def gap_of(ours: OurCluster, fault: Callable[[NodeId], Callable[[], None]]) -> float:
    """Longest write gap around a fault to the primary, ms.

    What `fault` returns is called when the gap is over."""
    wait_all_caught_up(ours)
    primary = ours.primary()
    probe = GapProbe([node for node in ours.launcher.topology.nodes if not node.journal_only], primary)
    probe.start()
    try:
        probe.wait_acked_after(0)
        moment_ns = probe.acked_ns[-1]
        undo = fault(primary.id)
        wait_other_primary(ours, primary.id)
        probe.wait_acked_after(time.monotonic_ns())
    finally:
        probe.stop()
    gap = probe.longest_gap_ms(moment_ns)
    undo()
    return gap


def kill_and_start(ours: OurCluster, primary: NodeId) -> Callable[[], None]:
    nodes = ours.launcher.nodes_of_az(ours.launcher.node(primary).az)
    ours.launcher.kill(nodes)

    def undo() -> None:
        ours.launcher.start(nodes)
        ours.launcher.wait_serving(nodes)

    return undo


def hand_over(ours: OurCluster, primary: NodeId) -> Callable[[], None]:
    reply = ours.admin.transfer(primary)
    if not reply.accepted:
        raise BenchError(f"planned failover refused: {reply.reason}")
    return lambda: None


def wait_other_primary(ours: OurCluster, old: NodeId) -> None:
    wait_until(lambda: any(
        answer.serving == "primary" and node != old
        for node, answer in ours.admin.statuses(ours.launcher.node_ids(), timeout_s=0.5).items()
    ), "no other node became primary")  # fmt: skip


def wait_all_caught_up(ours: OurCluster) -> None:
    nodes = ours.launcher.node_ids()

    def caught_up() -> bool:
        answers = ours.admin.statuses(nodes)
        goals = {a.shard: a.commit_offset for a in answers.values() if a.serving == "primary"}
        return all(has_caught_up(answers.get(node), goals) for node in nodes)

    wait_until(caught_up, "the killed zone did not catch up")


def wait_until(true: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
    while not true():
        if time.monotonic() > deadline:
            raise BenchError(failure)
        time.sleep(0.02)


def p9_up(settings: BenchSettings, say: Say) -> list[Result]:
    """Time of `up` for 3 shards × 3 AZs until every shard serves."""
    seconds = []
    for number in range(settings.rounds):
        say(f"P9: round {number + 1} of {settings.rounds}")
        with our_cluster(shards=3) as ours:
            seconds.append(ours.up_result.seconds)
    return [Result("P9", "up of 3 shards × 3 AZs until every shard serves", median(seconds), "s", 5, False)]


def compared(
    id: str, work: str, unit: str, reach: float, at_least: bool, peer_name: str,
    pairs: Sequence[tuple[Figure, Figure]], figure: Callable[[Figure], float],
) -> Result:  # fmt: skip
    """Medians of both sides over all rounds."""
    rounds = tuple((round(figure(a), 3), round(figure(b), 3)) for a, b in pairs)
    ours, peer = median(a for a, _ in rounds), median(b for _, b in rounds)
    return Result(id, work, ours, unit, reach, at_least, peer, peer_name, rounds=rounds)


def nearest_rank(values: Sequence[float], percent: int) -> float:
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


MEASURES: dict[str, Callable[[BenchSettings, Say], list[Result]]] = {
    "P1": p1_durable_set,
    "P2": p2_one_connection,
    "P3": p3_get,
    "P4": p4_pipelined_set,
    "P6": p6_failover,
    "P9": p9_up,
}


DEFAULT_MEASURES = ("P1", "P3", "P6", "P9")


def run_bench(settings: BenchSettings, only: Sequence[str] | None, say: Say) -> list[Result]:
    """Run the measurements, the default ones or those named. Raises ConfigError for an unknown name,
    BenchError without a figure.
    """
    names = list(DEFAULT_MEASURES) if only is None else list(only)
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ConfigError(f"no measurement {unknown[0]!r}; there are {', '.join(MEASURES)}")
    return [result for name in names for result in MEASURES[name](settings, say)]
