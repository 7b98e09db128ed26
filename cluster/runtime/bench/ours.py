"""A throw-away cluster of ours to measure: on free ports, in a temporary directory, gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.az.topology import NodeSpec
from cluster.runtime.admin_client import AdminClient
from cluster.runtime.bench.generator import BenchError
from cluster.runtime.launcher import Launcher
from cluster.runtime.processes import uninterrupted
from cluster.runtime.up import DEFAULT_AZS, DEFAULT_REPLICAS, UpOptions, UpResult, free_base_port, up


@dataclass(frozen=True, slots=True)
class OurCluster:
    launcher: Launcher
    admin: AdminClient
    up_result: UpResult

    def primary(self, shard: str = "0001") -> NodeSpec:
        """The node that serves a shard's writes now. BenchError if there is none."""
        answers = self.admin.statuses(self.launcher.node_ids())
        serving = [(a.term, n) for n, a in answers.items() if a.shard == shard and a.serving == "primary"]
        if not serving:
            raise BenchError(f"shard {shard} has no primary")
        return self.launcher.node(max(serving)[1])


@contextmanager
def our_cluster(shards: int) -> Iterator[OurCluster]:
    """A running cluster of `shards` shards over three AZs with two replicas each."""
    root = Path(tempfile.mkdtemp(prefix="azbench-"))
    launcher = Launcher(root / "c")
    try:
        port = free_base_port(shards, DEFAULT_REPLICAS, DEFAULT_AZS)
        result = up(launcher, UpOptions(shards=shards, port=port))
        with AdminClient(launcher.topology.nodes) as admin:
            yield OurCluster(launcher, admin, result)
    finally:
        with uninterrupted():
            if launcher.exists():
                launcher.kill(launcher.node_ids())
            shutil.rmtree(root, ignore_errors=True)
