"""What the whole cluster looks like now: asked of every node at once, joined with which processes live.

The form is that of `azimuth status --json`:

    {"name", "cluster_id", "isolated": [az], "shards": [
        {"id", "slots": ["0-5460"], "term", "primary": node id or null, "nodes": [
            {"id", "az", "address", "alive", "state", "role", "term", "leader", "commit_offset",
            "applied_offset",
             "lag", "engine", "pid", "engine_pid", "engine_trouble", "uptime_ms", "isolated_from"}]}]}

`alive` is whether the process lives: we started it, or it answers under its address as this node of this
cluster (then somebody else did, and `pid` is null). `state` is running, paused, silent (lives, does not
answer) or dead;
`role` is what the node says of itself (primary, replica, promoting, rebuilding, journal …) and null if it
says nothing, as are the offsets. `lag` is how many bytes the primary has committed that this engine has not
applied.
"""

import time
from collections.abc import Sequence
from typing import Any

from cluster.az.topology import NodeSpec, ShardSpec, Topology
from cluster.runtime.admin_client import AdminClient
from cluster.runtime.launcher import Launcher
from cluster.runtime.pb import admin_pb2
from cluster.runtime.processes import ProcessRef, is_stopped
from cluster.types import NodeId

OFFSET_ANSWER_S = 0.02


def collect(launcher: Launcher, admin: AdminClient) -> dict[str, Any]:
    """One look at everything. Raises ConfigError if there is no cluster."""
    topology = launcher.topology
    running = launcher.running()
    held = {node for node, ref in running.items() if is_stopped(ref)}
    asked = [node.id for node in topology.nodes if node.id not in held]
    # A node asks its engine for the applied offset when it is asked itself, and answers with what it knew
    # before.
    answers = ask(topology, admin, asked)
    if any(answer.applied_offset < answer.commit_offset for answer in answers.values()):
        time.sleep(OFFSET_ANSWER_S)
    answers = ask(topology, admin, [node for node in asked if node in answers or node in running])
    return {
        "name": topology.name,
        "cluster_id": topology.cluster_id,
        "isolated": list(launcher.state().isolated),
        "shards": [describe_shard(shard, running, held, answers) for shard in topology.shards],
    }


def ask(
    topology: Topology, admin: AdminClient, nodes: Sequence[NodeId]
) -> dict[NodeId, admin_pb2.StatusReply]:
    """The answers of those that are who they should be: the ports of a dead node may be another cluster's."""
    found = admin.statuses(nodes)
    ours = topology.cluster_id
    return {node: it for node, it in found.items() if it.cluster_id == ours and it.node == node}


def describe_shard(
    shard: ShardSpec,
    running: dict[NodeId, ProcessRef],
    held: set[NodeId],
    answers: dict[NodeId, admin_pb2.StatusReply],
) -> dict[str, Any]:
    own = {node.id: answers[node.id] for node in shard.nodes if node.id in answers}
    serving = [(answer.term, node) for node, answer in own.items() if answer.serving == "primary"]
    primary = max(serving)[1] if serving else None
    committed = own[primary].commit_offset if primary is not None else None
    return {
        "id": shard.id,
        "slots": [str(slots) for slots in shard.slots],
        "term": max((answer.term for answer in own.values()), default=None),
        "primary": primary,
        "nodes": [
            describe_node(node, running.get(node.id), node.id in held, own.get(node.id), committed)
            for node in shard.nodes
        ],
    }


def describe_node(
    node: NodeSpec,
    process: ProcessRef | None,
    held: bool,
    answer: "admin_pb2.StatusReply | None",
    committed: int | None,
) -> dict[str, Any]:
    if held:
        state = "paused"
    elif answer is not None:
        state = "running"
    else:
        state = "dead" if process is None else "silent"
    described: dict[str, Any] = {
        "id": node.id,
        "az": node.az,
        "address": f"{node.host}:{node.port}",
        "alive": state != "dead",
        "state": state,
        "pid": process.pid if process is not None else None,
        "role": None,
        "term": None,
        "leader": None,
        "commit_offset": None,
        "applied_offset": None,
        "lag": None,
        "engine": None,
        "engine_pid": None,
        "engine_trouble": None,
        "uptime_ms": None,
        "isolated_from": [],
    }
    if answer is not None:
        described |= {
            "role": answer.serving,
            "term": answer.term,
            "leader": answer.leader or None,
            "commit_offset": answer.commit_offset,
            "applied_offset": answer.applied_offset,
            "lag": None if committed is None else max(0, committed - answer.applied_offset),
            "engine": answer.engine_version or None,
            "engine_pid": answer.engine_pid or None,
            "engine_trouble": answer.engine_trouble or None,
            "uptime_ms": answer.uptime_ms,
            "isolated_from": list(answer.isolated_from),
        }
    if node.journal_only:
        described |= {"address": None, "applied_offset": None, "lag": None}
    return described
