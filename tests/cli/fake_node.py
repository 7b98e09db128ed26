"""Stands in for a node process: the Admin service and a child in place of an engine, nothing else.

The first node of each shard says that it is primary. A file `fail` beside cluster.toml, holding nodes' ids,
makes those end at once with a line on stderr, as nodes do that cannot start. A file `no-engine` makes
all of them say that their engines die.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from cluster.runtime.config import load
from cluster.runtime.pb import admin_pb2, admin_pb2_grpc
from cluster.types import NodeId

_Base: Any = admin_pb2_grpc.AdminServicer  # generated code, not annotated


class FakeAdmin(_Base):  # type: ignore[misc]  # its base is Any, see above
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status
        self._isolated: list[str] = []

    def Status(self, request: object, context: object) -> admin_pb2.StatusReply:
        return admin_pb2.StatusReply(**self._status, isolated_from=self._isolated)

    def Isolate(self, request: admin_pb2.IsolateRequest, context: object) -> admin_pb2.IsolateReply:
        self._isolated = list(request.azs)
        return admin_pb2.IsolateReply()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--node")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    failing = options.config.parent.parent / "fail"
    if failing.exists() and options.node in failing.read_text().split():
        sys.exit("azimuth: this node was told to fail")
    topology = load(options.config).topology
    spec = topology.node(NodeId(options.node))
    primary = topology.shard(spec.shard).nodes[0].id
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    server = grpc.server(ThreadPoolExecutor(4))
    status = {
        "cluster_id": topology.cluster_id,
        "node": spec.id,
        "shard": spec.shard,
        "az": spec.az,
        "serving": "primary" if spec.id == primary else "replica",
        "term": 1,
        "leader": primary,
        "commit_offset": 10,
        "applied_offset": 10 if spec.id == primary else 8,
        "engine_pid": engine.pid,
        "engine_version": "Valkey 0",
    }
    if (options.config.parent.parent / "no-engine").exists():
        status |= {
            "serving": "booting",
            "engine_trouble": "ended with exit code 1; it said: no",
            "engine_deaths": 3,
        }
    add_servicer: Any = admin_pb2_grpc.add_AdminServicer_to_server
    add_servicer(FakeAdmin(status), server)
    server.add_insecure_port(f"{spec.host}:{spec.peer_port}")
    server.start()
    print('{"event": "node_started"}', file=sys.stderr, flush=True)
    (options.data / "data").touch()
    while not stopped.wait(0.05):
        time.sleep(0)
    server.stop(None)
    engine.kill()
    engine.wait()


if __name__ == "__main__":
    main()
