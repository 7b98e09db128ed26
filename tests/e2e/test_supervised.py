"""`azimuth node run`: one node in the foreground, as a supervisor keeps it."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.runtime.config import load, save
from cluster.runtime.processes import family, identify, is_alive, kill_families
from cluster.runtime.up import DEFAULT_AZS, DEFAULT_REPLICAS, UpOptions, free_base_port, plan
from tests.e2e.conftest import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODE = "0001-001"
StartNode = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path that holds a cluster.toml of one shard, and nothing else."""
    path = Path(tempfile.mkdtemp(prefix="azsup-"))
    port = free_base_port(1, DEFAULT_REPLICAS, DEFAULT_AZS)
    save(plan(UpOptions(shards=1, port=port)), path / "cluster.toml")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start_node(directory: Path) -> Iterator[StartNode]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, node: str = NODE) -> "subprocess.Popen[str]":
        config = str(directory / "cluster.toml")
        argv = [sys.executable, "-P", "-m", "cli.main", "node", "run", "--config", config, "--node", node]
        with open(directory / "stderr", "w", encoding="utf-8") as stderr:
            started.append(
                subprocess.Popen(
                    [*argv, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    text=True,
                    start_new_session=True,
                )
            )
        return started[-1]

    yield start
    for process in started:
        ref = identify(process.pid)
        if ref is not None:
            kill_families([ref])
        process.wait()


def said(directory: Path) -> list[str]:
    return (directory / "stderr").read_text().splitlines()


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(directory) if line.startswith("{")]


def wait_event(directory: Path, process: "subprocess.Popen[str]", event: str) -> None:
    wait_until(
        lambda: process.poll() is not None or any(one["event"] == event for one in events(directory)), event
    )


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_node_and_its_engine_in_order(
    directory: Path, start_node: StartNode, number: signal.Signals
) -> None:
    process = start_node()
    wait_event(directory, process, "engine_booted")
    ref = identify(process.pid)
    assert ref is not None
    members = family(ref)
    assert len(members) == 2
    process.send_signal(number)
    assert process.wait(30) == 0, said(directory)
    assert events(directory)[-1]["event"] == "node_stopped"
    assert [member for member in members if is_alive(member)] == []


@pytest.mark.parametrize("offset", [0, 10_000], ids=["clients", "peers"])
def test_a_taken_port_is_one_line_and_nothing_is_made(
    directory: Path, start_node: StartNode, offset: int
) -> None:
    port = load(directory / "cluster.toml").topology.nodes[0].port + offset
    with socket.create_server(("127.0.0.1", port)):
        process = start_node()
        assert process.wait(30) == 64
    (complaint,) = [line for line in said(directory) if not line.startswith("{")]
    assert complaint.startswith("azimuth: cannot listen on 127.0.0.1:")
    assert [event["exit_code"] for event in events(directory) if event["event"] == "node_stopped"] in (
        [],
        [64],
    )
    assert sorted(path.name for path in directory.iterdir()) == ["cluster.toml", "stderr"]


def test_data_that_are_no_directory_are_one_line(directory: Path, start_node: StartNode) -> None:
    process = start_node("--data", "/etc/passwd")
    assert process.wait(30) == 64
    (complaint,) = [line for line in said(directory) if not line.startswith("{")]
    assert complaint == "azimuth: --data /etc/passwd: not a directory"


def test_a_placement_that_cannot_lose_a_zone_is_refused(directory: Path, start_node: StartNode) -> None:
    path = directory / "cluster.toml"
    path.write_text(path.read_text().replace('az = "az-b"', 'az = "az-a"'))
    process = start_node()
    assert process.wait(30) == 64
    (complaint,) = said(directory)
    assert complaint.startswith(f"azimuth: {path}: shard 0001: without az-a only 1 of its 3 voters are left")
    assert sorted(file.name for file in directory.iterdir()) == ["cluster.toml", "stderr"]
