"""A run as a file: back exactly as it was, or one line that says what is wrong."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import ConfigError
from cluster.sim.config import PlannedFault, SimConfig
from cluster.sim.replay import dump, load
from cluster.sim.swarm import FAULTS, draw_config


def test_every_drawn_run_comes_back_as_it_was() -> None:
    for seed in range(60):
        config = draw_config(seed)
        assert load(dump(config, "async"), "x") == (config, "async")


def test_every_fault_can_be_kept() -> None:
    faults = tuple(PlannedFault(1, kind, 0.25, 2, 1) for kind in sorted(FAULTS))
    config = SimConfig(seed=1, faults=faults, ops_max=3)
    assert load(dump(config, "azimuth"), "x")[0] == config


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    """A good file, but for this."""
    value = json.loads(dump(draw_config(1), "azimuth"))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.update(format=2), "not a replay of this version"),
        (lambda file: file.update(colour=1), "x: unknown key 'colour'"),
        (lambda file: file.update(subject="redis"), "x: subject must be one of azimuth, async, pysyncobj"),
        (lambda file: file.pop("config"), "x: config must be an object"),
        (lambda file: file["config"].pop("seed"), "x: config.seed is missing"),
        (lambda file: file["config"].update(shard=1), "x: config: unknown key 'shard'"),
        (lambda file: file["config"].update(shards="3"), "x: config.shards must be an integer, not '3'"),
        (lambda file: file["config"].update(shards=True), "x: config.shards must be an integer, not true"),
        (lambda file: file["config"].update(ops_max=1.5), "x: config.ops_max must be an integer"),
        (lambda file: file["config"].update(azs="abc"), "x: config.azs must be a list"),
        (lambda file: file["config"].update(drop_percent=float("nan")), "config.drop_percent must be finite"),
        (lambda file: file["config"].update(drop_percent=10**400), "config.drop_percent must be a number"),
        (lambda file: file["config"].update(read_mode="dirty"), "must be one of lease, quorum, not 'dirty'"),
        (lambda file: file["config"].update(victim=9), "x: victim 9 is none of the"),
        (lambda file: file["config"].update(delay_min_us=10**9), "is no time that a message or a sync"),
        (lambda file: file["config"]["raft"].update(tick_ms=0), "x: config.raft: raft: tick_ms must be posi"),
        (lambda file: file["config"]["workloads"][0].update(kind="x"), "x: no workload 'x'; there are reg"),
        (lambda file: file["config"]["workloads"][0].update(keys=0), "must be positive"),
        (lambda file: file["config"]["faults"][0].update(kind="x"), "x: no fault 'x'; there are break_feed"),
        (lambda file: file["config"]["faults"][0].update(pick=1), "pick or amount is not 0 … 1"),
        (lambda file: file["config"]["faults"].append(3), r"config.faults\[\d+\] must be an object"),
    ],
)
def test_what_is_wrong_is_one_line(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load(edited(change), "x")
    assert str(caught.value).startswith("x: ") and str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[", "3", "null", "[]", "{}", "[" * 100_000, '{"format": 1e999}'])
def test_what_is_no_replay_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x: ") as caught:
        load(text, "x")
    assert str(caught.value).isprintable()
