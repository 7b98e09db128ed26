"""The command line's side of the Admin service (proto/admin.proto): ask nodes, many at once, and never hang.

Synchronous on purpose: commands and the demo have no event loop. A node that does not answer is an answer too
(dead, paused, starting), so the plural calls leave it out and the single ones raise `Unreachable`.

gRPC runs in a thread of the client's own. Ctrl-C and SIGTERM raise in the main thread, and an exception that
lands inside gRPC leaves a channel that can never be closed (seen with 1.85: `Channel.close` waits for ever).
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any

# Left to itself, gRPC's C core writes its own lines to our terminal.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from cluster.az.topology import NodeSpec
from cluster.errors import AzimuthError
from cluster.runtime.pb import admin_pb2, admin_pb2_grpc
from cluster.types import NodeId

CLOSE_TIMEOUT_S = 2.0

# A node that was killed is tried again at once when it is back, not after gRPC's two minutes.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_make_stub: Any = admin_pb2_grpc.AdminStub  # generated code, not annotated


class Unreachable(AzimuthError):
    """The node did not answer in time."""


class _CallThread:
    """Runs functions one after the other in a daemon thread."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="admin-client", daemon=True).start()

    def call(self, function: Callable[[], Any], timeout_s: float | None = None) -> Any:
        answer: Future[Any] = Future()
        self._jobs.put((function, answer))
        return answer.result(timeout_s)

    def end(self) -> None:
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, answer = job
            try:
                answer.set_result(function())
            except Exception as error:
                answer.set_exception(error)


class AdminClient:
    """Connections to the admin services of some nodes, made when first needed. Not for several threads at
    once.
    """

    def __init__(self, nodes: Iterable[NodeSpec]) -> None:
        self._addresses = {node.id: f"{node.host}:{node.peer_port}" for node in nodes}
        self._channels: dict[NodeId, grpc.Channel] = {}
        self._stubs: dict[NodeId, Any] = {}
        self._thread: _CallThread | None = None

    def __enter__(self) -> "AdminClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. Waits at most CLOSE_TIMEOUT_S for a call that was under way."""
        if self._thread is not None:
            with suppress(TimeoutError):
                self._thread.call(self._close_channels, CLOSE_TIMEOUT_S)
            self._thread.end()
            self._thread = None

    def _close_channels(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
        self._stubs.clear()

    def statuses(
        self, nodes: Sequence[NodeId], timeout_s: float = 1.0
    ) -> dict[NodeId, admin_pb2.StatusReply]:
        """Status of every node that answers."""
        return self._ask_all(nodes, lambda stub: stub.Status, admin_pb2.StatusRequest(), timeout_s)

    def digests(
        self, nodes: Sequence[NodeId], timeout_s: float = 30.0
    ) -> dict[NodeId, admin_pb2.DigestReply]:
        """Digest of every node that answers and has an engine."""
        return self._ask_all(nodes, lambda stub: stub.Digest, admin_pb2.DigestRequest(), timeout_s)

    def isolate(self, node: NodeId, azs: Sequence[str], timeout_s: float = 2.0) -> None:
        """Cut this node's links to and from the nodes of these AZs, heal all others. Raises Unreachable."""
        self._ask(node, lambda stub: stub.Isolate, admin_pb2.IsolateRequest(azs=sorted(azs)), timeout_s)

    def transfer(
        self, node: NodeId, to: NodeId | None = None, timeout_s: float = 5.0
    ) -> admin_pb2.TransferReply:
        """Ask a leader to hand over, to the most caught-up node if `to` is None. Raises Unreachable."""
        reply: admin_pb2.TransferReply = self._ask(
            node, lambda stub: stub.Transfer, admin_pb2.TransferRequest(to_node=to or ""), timeout_s
        )
        return reply

    def _stub(self, node: NodeId) -> Any:
        if node not in self._stubs:
            self._channels[node] = grpc.insecure_channel(self._addresses[node], options=_CHANNEL_OPTIONS)
            self._stubs[node] = _make_stub(self._channels[node])
        return self._stubs[node]

    def _call(self, function: Callable[[], Any]) -> Any:
        if self._thread is None:
            self._thread = _CallThread()
        return self._thread.call(function)

    def _ask(self, node: NodeId, method: Callable[[Any], Any], request: object, timeout_s: float) -> Any:
        try:
            return self._call(
                lambda: method(self._stub(node))(request, timeout=timeout_s, wait_for_ready=True)
            )
        except grpc.RpcError as error:
            raise Unreachable(
                f"node {node} does not answer on {self._addresses[node]} ({_why(error)})"
            ) from None

    def _ask_all(
        self, nodes: Sequence[NodeId], method: Callable[[Any], Any], request: object, timeout_s: float
    ) -> dict[NodeId, Any]:
        answers: dict[NodeId, Any] = self._call(lambda: self._gather(nodes, method, request, timeout_s))
        return answers

    def _gather(
        self, nodes: Sequence[NodeId], method: Callable[[Any], Any], request: object, timeout_s: float
    ) -> dict[NodeId, Any]:
        calls = {node: method(self._stub(node)).future(request, timeout=timeout_s) for node in nodes}
        answers: dict[NodeId, Any] = {}
        for node, call in calls.items():
            try:
                answers[node] = call.result()
            except (grpc.RpcError, grpc.FutureCancelledError):
                continue
        return answers


def _why(error: grpc.RpcError) -> str:
    code = error.code() if isinstance(error, grpc.Call) else None
    return code.name.lower().replace("_", " ") if code is not None else "unknown error"
