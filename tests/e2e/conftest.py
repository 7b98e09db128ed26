"""Real clusters for tests: on free ports, in a short temporary directory, ended by pid whatever happens."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from cluster.runtime.admin_client import AdminClient
from cluster.runtime.demo_client import connect
from cluster.runtime.launcher import Launcher
from cluster.runtime.overview import collect
from cluster.runtime.processes import ProcessRef, family, is_alive, kill_families
from cluster.runtime.up import DEFAULT_AZS, DEFAULT_REPLICAS, UpOptions, free_base_port, up
from cluster.types import NodeId

DEADLINE_S = 60.0


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Poll a condition; fail the test with `what` at the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain until {what}"
        time.sleep(0.02)


@dataclass(slots=True)
class RunningCluster:
    """A cluster of real nodes, and what a test asks of it."""

    launcher: Launcher
    admin: AdminClient

    def client(self) -> Any:
        """A stock RedisCluster that retries nothing silently; close it."""
        addresses = [(n.host, n.port) for n in self.launcher.topology.nodes if not n.journal_only]
        made: list[Any] = []

        def connected() -> bool:
            try:
                made.append(connect(addresses))
            except (redis.RedisError, redis.exceptions.RedisClusterException):
                return False  # it asks the nodes for their slots and commands, and one of them may be dead
            return True

        wait_until(connected, "a client connects")
        return made[0]

    def node_client(self, node: NodeId) -> "redis.Redis":
        """A plain connection to one node."""
        spec = self.launcher.node(node)
        return redis.Redis(host=spec.host, port=spec.port, socket_timeout=5, decode_responses=True)

    def overview(self) -> dict[str, Any]:
        return collect(self.launcher, self.admin)

    def primary(self, shard: str = "0001") -> NodeId:
        """Who serves the shard now; waits until somebody does."""
        found: list[NodeId] = []

        def serving() -> bool:
            found[:] = [
                NodeId(s["primary"]) for s in self.overview()["shards"] if s["id"] == shard and s["primary"]
            ]
            return bool(found)

        wait_until(serving, f"shard {shard} has a primary")
        return found[0]

    def az_of(self, node: NodeId) -> str:
        return self.launcher.node(node).az

    def try_until_acked(self, client: Any, *command: str) -> Any:
        """Send a command again and again until it is answered; only for commands that may be repeated."""
        answers: list[Any] = []

        def answered() -> bool:
            try:
                answers.append(client.execute_command(*command))
            except (redis.RedisError, redis.exceptions.RedisClusterException):
                return False
            return True

        wait_until(answered, f"{command[0]} is answered")
        return answers[0]

    def wait_caught_up(self) -> None:
        """Every node alive, and every replica at its primary's commit offset."""

        def caught_up() -> bool:
            shards = self.overview()["shards"]
            return all(s["primary"] for s in shards) and all(
                node["role"] in ("primary", "replica", "journal") and not node["lag"]
                for shard in shards
                for node in shard["nodes"]
            )

        wait_until(caught_up, "all replicas have caught up")

    def members(self) -> list[ProcessRef]:
        """Every process of the cluster: nodes and engines."""
        return [member for ref in self.launcher.running().values() for member in family(ref)]


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., RunningCluster]]:
    """`make_cluster(shards=1)` starts a cluster over three AZs; several may run at once."""
    root = Path(tempfile.mkdtemp(prefix="aze2e-"))
    made: list[RunningCluster] = []

    def make(shards: int = 1, **options: Any) -> RunningCluster:
        launcher = Launcher(root / str(len(made)))
        admin = AdminClient(())
        made.append(RunningCluster(launcher, admin))
        port = free_base_port(shards, options.get("replicas", DEFAULT_REPLICAS), DEFAULT_AZS)
        up(launcher, UpOptions(shards=shards, port=port, **options))
        made[-1].admin = AdminClient(launcher.topology.nodes)
        return made[-1]

    yield make
    survivors: list[ProcessRef] = []
    for cluster in made:
        cluster.admin.close()
        if cluster.launcher.exists():
            members = cluster.members()
            cluster.launcher.kill(cluster.launcher.node_ids())
            kill_families([member for member in members if is_alive(member)])
            survivors += [member for member in members if is_alive(member)]
    shutil.rmtree(root, ignore_errors=True)
    assert survivors == []
