"""The Admin service of a node (proto/admin.proto): status, digest, isolation, planned failover.

It reads state and passes requests on. Loopback only; 5/5 puts it behind mTLS.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from cluster.runtime.pb import admin_pb2, admin_pb2_grpc
from cluster.shard.replica import Serving
from cluster.types import NodeId, Offset

if TYPE_CHECKING:
    from cluster.runtime.main import NodeProcess


if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(admin_pb2_grpc.AdminServicer):
    def __init__(self, process: NodeProcess) -> None:
        self._process = process

    async def Status(self, request: admin_pb2.StatusRequest, context: Context) -> admin_pb2.StatusReply:
        process = self._process
        node = process.node
        replica = node.replica
        if replica.engine is not None:
            replica.poll_offset()
        return admin_pb2.StatusReply(
            cluster_id=node.topology.cluster_id,
            node=node.node_id,
            shard=node.shard.id,
            az=process.spec.az,
            raft_role=node.raft.role.value,
            serving=replica.serving.value,
            term=node.raft.term,
            leader=node.raft.leader or "",
            commit_index=node.raft.commit_index,
            last_index=node.raft.last_index,
            commit_offset=replica.commit_offset,
            applied_offset=replica.applied_offset,
            engine_version=replica.engine_version,
            engine_pid=process.engine_pid,
            isolated_from=process.isolated_from,
            uptime_ms=(process.now_us() - process.started_us) // 1000,
            counters=process.counters(),
            engine_trouble="" if process.engine is None else process.engine.trouble,
            engine_deaths=0 if process.engine is None else process.engine.deaths_in_a_row,
        )

    async def Digest(self, request: admin_pb2.DigestRequest, context: Context) -> admin_pb2.DigestReply:
        replica = self._process.node.replica
        if replica.engine is None or replica.serving not in (Serving.PRIMARY, Serving.REPLICA):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this node is {replica.serving.value}")
            raise AssertionError
        answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

        def on_digest(offset: Offset, digest: str) -> None:
            if not answer.done():
                answer.set_result((offset, digest))

        replica.engine.ask_digest(on_digest)
        try:
            offset, digest = await asyncio.wait_for(answer, 30)
        except TimeoutError:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the engine did not answer")
            raise AssertionError from None
        return admin_pb2.DigestReply(offset=offset, digest=digest, stream_crc32c=replica.stream.crc)

    async def Isolate(self, request: admin_pb2.IsolateRequest, context: Context) -> admin_pb2.IsolateReply:
        self._process.isolate(list(request.azs))
        return admin_pb2.IsolateReply()

    async def Transfer(self, request: admin_pb2.TransferRequest, context: Context) -> admin_pb2.TransferReply:
        try:
            to = self._process.node.transfer(NodeId(request.to_node) if request.to_node else None)
        except ValueError as error:
            return admin_pb2.TransferReply(accepted=False, reason=str(error))
        return admin_pb2.TransferReply(accepted=True, reason=f"handing over to {to}")


def register_admin(server: grpc.aio.Server, service: AdminService) -> None:
    admin_pb2_grpc.add_AdminServicer_to_server(service, server)  # type: ignore[no-untyped-call]  # generated
