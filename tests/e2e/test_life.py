"""Starting, stopping and losing real nodes: what was acknowledged is there afterwards, and nothing is left
behind.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import redis

from cluster.runtime.launcher import Launcher
from cluster.runtime.processes import is_alive
from cluster.runtime.up import UpOptions, down, up
from tests.e2e.conftest import RunningCluster, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

MakeCluster = Callable[..., RunningCluster]
KEYS = 60


def write_keys(cluster: RunningCluster, value: str) -> None:
    client = cluster.client()
    for n in range(KEYS):
        cluster.try_until_acked(client, "SET", f"key:{n}", f"{value}-{n}")
    client.close()


def check_keys(cluster: RunningCluster, value: str) -> None:
    client = cluster.client()
    found = [cluster.try_until_acked(client, "GET", f"key:{n}") for n in range(KEYS)]
    client.close()
    assert found == [f"{value}-{n}" for n in range(KEYS)]


def test_data_survive_down_and_up_and_no_process_survives_down(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(shards=3)
    shards = cluster.overview()["shards"]
    assert [shard["id"] for shard in shards] == ["0001", "0002", "0003"]
    assert all(shard["primary"] and len(shard["nodes"]) == 3 for shard in shards)
    write_keys(cluster, "before")
    members = cluster.members()
    assert len(members) == 18, "nine nodes, each with an engine of its own"
    down(cluster.launcher)
    assert [member for member in members if is_alive(member)] == []
    again = up(Launcher(cluster.launcher.directory), UpOptions())
    assert (again.created, len(again.started)) == (False, 9)
    check_keys(cluster, "before")


def test_without_a_majority_nothing_is_acknowledged(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(shards=1)
    write_keys(cluster, "before")
    primary = cluster.primary()
    others = [node for node in cluster.launcher.node_ids() if node != primary]
    cluster.launcher.kill(others)
    with cluster.node_client(primary) as client, pytest.raises(redis.RedisError):
        client.set("key:0", "from the minority")
    cluster.launcher.start(others)
    cluster.launcher.wait_serving(others)
    client = cluster.client()
    # The write was refused or is in doubt, but never half: it is there as a whole, or the old value is.
    assert cluster.try_until_acked(client, "GET", "key:0") in ("before-0", "from the minority")
    client.close()


def test_an_isolated_zone_serves_nothing_and_comes_back(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(shards=1)
    write_keys(cluster, "before")
    old = cluster.primary()
    az = cluster.az_of(old)
    assert cluster.launcher.isolate(az, cut=True)
    wait_until(
        lambda: any(
            node["role"] == "primary" and node["id"] != old
            for node in cluster.overview()["shards"][0]["nodes"]
        ),
        "another node is primary",
    )
    with cluster.node_client(old) as client, pytest.raises(redis.RedisError):
        client.set("key:0", "from the island")
    assert cluster.launcher.isolate(az, cut=False)
    cluster.wait_caught_up()
    write_keys(cluster, "after")
    check_keys(cluster, "after")


def test_a_rotten_log_takes_its_own_node_only(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(shards=1)
    write_keys(cluster, "before")
    down(cluster.launcher)
    rotten = cluster.launcher.node_ids()[1]
    (log,) = list(cluster.launcher.node_directory(rotten).glob("wal/*1.wal"))
    data = bytearray(log.read_bytes())
    place = data.index(b"before-1")  # of a write with others behind it
    data[place] ^= 1
    log.write_bytes(data)
    argv = [sys.executable, "-P", "-m", "cli.main", "up", "--dir", str(cluster.launcher.directory)]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert result.returncode == 1
    assert result.stdout.startswith("started 2 nodes on the data in ")
    (complaint,) = result.stderr.splitlines()
    assert complaint.startswith(f"azimuth: node {rotten} does not start: ")
    assert "see 'A log that cannot be trusted' in docs/operations.md (the 2 other nodes serve" in complaint
    assert log.read_bytes() == data
    check_keys(cluster, "before")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path: engines put their sockets elsewhere if theirs would be too long for the system."""
    path = Path(tempfile.mkdtemp(prefix="azt-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def leftovers(mark: str) -> list[str]:
    """Command lines of processes that mention a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if mark in line:
            found.append(line)
    return found


def start_demo(temporary: Path, *arguments: str) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-P", "-m", "cli.main", "demo", *arguments]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def end(process: "subprocess.Popen[str]") -> None:
    """As a user would, so that it can tidy up; then for certain."""
    if process.poll() is None:
        process.terminate()
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def test_the_demo_loses_nothing_and_leaves_nothing(temporary: Path) -> None:
    process = start_demo(temporary, "--json")
    try:
        output, complaints = process.communicate(timeout=200)
    finally:
        end(process)
    assert process.returncode == 0, complaints
    result = json.loads(output.splitlines()[-1])
    assert (result["lost"], result["duplicated"], result["ghosts"]) == (0, 0, 0)
    assert result["digests_equal"] is True
    assert result["acked"] > 100
    assert len(set(result["azs_killed"])) == 2
    assert set(result["write_gap_ms"]) == {"0001", "0002", "0003"}
    assert list(temporary.iterdir()) == []
    assert leftovers(str(temporary)) == []


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM,), (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)],
    ids=["once", "impatiently"],
)
def test_an_interrupted_demo_leaves_nothing(temporary: Path, numbers: Sequence[signal.Signals]) -> None:
    process = start_demo(temporary, "--json")
    try:
        # In the middle of writing: all histories have been begun.
        wait_until(
            lambda: len(list(temporary.glob("*/history-?"))) == 3 or process.poll() is not None, "it writes"
        )
        begin = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.03)  # not two of them at once: each is to find the undoing at another place
        output, complaints = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 128 + numbers[0], complaints
    assert output == ""
    assert "Traceback" not in complaints
    assert list(temporary.iterdir()) == [], f"after {time.monotonic() - begin:.1f} s"
    wait_until(lambda: leftovers(str(temporary)) == [], "all its processes are gone")
