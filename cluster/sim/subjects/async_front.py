"""The `async` subject towards its clients: the product's sessions and lanes, without the gate.

What the engine answers leaves at once. Where a command goes is decided as in Redis Cluster: first whether the
cluster is up, then whose slot it is. Nothing waits for a primary, except between its election and its
promotion, and during a planned failover.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.errors import ClusterDown, Moved, ReadOnly
from cluster.front.answers import ANSWERS
from cluster.front.commands import CommandSpec, CommandTable
from cluster.front.lane import ClientLane
from cluster.front.session import Route, Session, Transport
from cluster.sim.process import SimProcess
from cluster.sim.subjects.async_messages import Role
from cluster.types import Slot

if TYPE_CHECKING:
    from cluster.sim.subjects.asynchronous import AsyncNode


class AsyncFront:
    """A `SessionHost` and a `NodeView`."""

    def __init__(self, node: "AsyncNode", process: SimProcess) -> None:
        self.table: CommandTable | None = None
        self.engine_version = ""
        self.sessions: dict[int, Session] = {}
        self.node_id = node.node_id
        self.topology = node.topology
        self.shard_map = node.shard_map
        self.now_us = process.now_us
        self._node = node
        self._process = process
        self._lanes: dict[tuple[Route, int], ClientLane] = {}
        self._waiting: list[Session] = []
        self._session_count = 0

    def open_session(self, transport: Transport, address: str) -> Session:
        self._session_count += 1
        session = Session(self._session_count, self, transport, address)
        self.sessions[session.id] = session
        return session

    def close_session(self, session: Session) -> None:
        session.connection_lost()
        self.sessions.pop(session.id, None)

    def wait_deadline_us(self) -> int:
        return self.now_us() + self._process.sim.config.unavailable_wait_us

    def add_waiting(self, session: Session) -> None:
        self._waiting.append(session)

    def retry_waiting(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for session in waiting:
                session.retry()  # one that must wait on adds itself again

    def answer(self, session: Session, spec: CommandSpec, args: list[bytes]) -> bytes:
        return ANSWERS[spec.name](session, args, self)

    @property
    def is_primary(self) -> bool:
        return self._node.role is Role.PRIMARY

    def replicas_in_step(self) -> int:
        return self._node.replicas_in_step()

    def route(self, slot: Slot | None, *, write: bool, readonly: bool) -> Route:
        """Raises ReplyError."""
        node = self._node
        if slot is not None and node.down:
            raise ClusterDown("The cluster is down")
        owner = node.shard if slot is None else self.topology.shard_of_slot(slot)
        if owner.id == node.shard.id and node.role is not Role.REPLICA:
            ready = node.role is Role.PRIMARY and not node.hands_over
            return Route.PRIMARY if ready else Route.WAIT
        if owner.id == node.shard.id and not write and (slot is None or readonly):
            return Route.REPLICA
        if slot is None:
            raise ReadOnly("You can't write against a read only replica.")
        primary = self.shard_map.last_leader(owner.id)
        if primary is None or primary.id == self.node_id:
            raise ClusterDown("Hash slot not served")
        raise Moved(f"{slot} {primary.host}:{primary.port}")

    def shared_lane(self, route: Route, protocol: int) -> ClientLane:
        lane = self._lanes.get((route, protocol))
        if lane is None:
            lane = self._lanes[route, protocol] = self.open_own_lane(route, protocol, self.lose_lanes)
        return lane

    def open_own_lane(self, route: Route, protocol: int, on_lost: Callable[[], None]) -> ClientLane:
        engine = self._node.engine
        assert engine is not None and route is not Route.WAIT
        return ClientLane(
            engine=engine,
            protocol=protocol,
            gate=None,
            on_boundary=lambda offset: None,
            on_lost=on_lost,
            call_soon=self._process.call_soon,
        )

    def lanes_busy(self) -> bool:
        return any(lane.busy for lane in self._lanes.values())

    def lose_lanes(self) -> None:
        """What Redis says by closing connections, in the front's words: `INDOUBT` and `TRYAGAIN`."""
        lanes = [self._lanes[key] for key in sorted(self._lanes, key=lambda key: (key[0].value, key[1]))]
        self._lanes.clear()
        for lane in lanes:
            lane.close()
        for session_id in sorted(self.sessions):
            self.sessions[session_id].lanes_lost()
