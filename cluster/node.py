"""One node, sans-IO: what arrives is a method call, what must happen is a call on `Host`.

The simulator and the runtime drive exactly this object. It joins the layers and adds what belongs to a
node alone:

* the loop around the Raft core (`_drive`): hand out what to persist, send and apply, in that order;
* who leads which shard (gossip), and where a client's command goes (`route`);
* the sessions of clients, and what becomes of them when the engine stops or starts serving.

Nothing here blocks, and nothing reads a clock, a file or a socket. The order of one turn is: everything
that has arrived changes state; then, once, `_drive` and the lanes' flushes run (`Host.call_soon`). That is
where batches come from.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cluster.az.topology import NodeSpec, Topology
from cluster.engine.protocol import Engine
from cluster.errors import ClusterDown, Err, Loading, Moved, ReadOnly
from cluster.front.answers import ANSWERS
from cluster.front.commands import CommandSpec, CommandTable
from cluster.front.lane import ClientLane
from cluster.front.resp import COMMAND_BYTES_MAX
from cluster.front.session import Route, Session, Transport
from cluster.raft import LogStorage, Membership, RaftConfig, RaftNode, Ready, Role
from cluster.raft.messages import Entry, HardState, Message
from cluster.shard.gossip import Gossip
from cluster.shard.replica import Serving, ShardReplica
from cluster.shard.shard_map import ShardMap
from cluster.types import Index, Log, NodeId, Offset, Slot, Term

GOSSIP_INTERVAL_US = 500_000


class Host(Protocol):
    """What a node asks of the shell around it. Every method returns at once."""

    def now_us(self) -> int: ...

    def send(self, to: NodeId, message: Message | Gossip) -> None:
        """Best effort, in order per peer."""
        ...

    def persist(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None]
    ) -> None:
        """Make durable, in the order of the calls; then call back, in the same order."""
        ...

    def call_soon(self, callback: Callable[[], None]) -> None:
        """At the end of this turn of the loop."""
        ...

    def call_later(self, delay_us: int, callback: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class NodeSettings:
    raft: RaftConfig
    use_lease: bool = True
    unavailable_wait_us: int = 1_000_000  # how long a command waits for its shard to get a primary
    sessions_max: int = 10_000
    command_bytes_max: int = COMMAND_BYTES_MAX


class Node:
    def __init__(
        self,
        *,
        node_id: NodeId,
        topology: Topology,
        settings: NodeSettings,
        storage: LogStorage,
        make_engine: Callable[["Node"], Engine] | None,
        host: Host,
        rng: random.Random,
        log: Log,
    ) -> None:
        self.node_id = node_id
        self.topology = topology
        self.spec: NodeSpec = topology.node(node_id)
        self.shard = topology.shard(self.spec.shard)
        self.shard_map = ShardMap(topology)
        self.table: CommandTable | None = None
        self.sessions: dict[int, Session] = {}
        self.settings = settings
        self._host = host
        self._rng = rng
        self._log = log
        self.raft = RaftNode(
            node_id=node_id,
            membership=Membership(voters=frozenset(node.id for node in self.shard.nodes)),
            config=settings.raft,
            storage=storage,
            rng=rng,
            now_us=host.now_us(),
            log=log,
        )
        engine = make_engine(self) if make_engine is not None else None
        self.replica = ShardReplica(
            raft=self.raft, engine=engine, host=self, clock=host, log=log, use_lease=settings.use_lease
        )
        self._peers = sorted(node.id for node in topology.nodes if node.id != node_id)
        self._lanes: dict[tuple[Route, int], ClientLane] = {}
        self._owing: list[ClientLane] = []  # lanes, also sessions' own, whose ROLE was refused
        self._waiting: list[Session] = []
        self._session_count = 0
        self._commands_of_closed = 0
        self._driving = False
        self._drive_scheduled = False
        self._led_term: Term | None = None
        self._noticed: tuple[Role, Term, NodeId | None] | None = None  # what `_notice_role` last saw
        self._next_gossip_us = 0

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.replica.start()
        self.touch()

    def stop(self) -> None:
        self.replica.stop()

    def on_tick(self) -> None:
        """Call about every `RaftConfig.tick_ms`."""
        now_us = self._host.now_us()
        self.raft.tick(now_us)
        self.replica.on_tick()
        self._ask_boundary()
        self._retry_waiting()
        if now_us >= self._next_gossip_us:
            self._next_gossip_us = now_us + GOSSIP_INTERVAL_US
            self._gossip_to(self._rng.choice(self._peers) if self._peers else None)
        # Most ticks have nothing to hand out: then no turn is spent on finding that out.
        self._notice_role()
        if self.raft.has_ready():
            self.touch()

    # -- Raft ------------------------------------------------------------------------------------------

    def on_peer_messages(self, sender: NodeId, messages: Sequence[Message | Gossip]) -> None:
        now_us = self._host.now_us()
        for message in messages:
            if isinstance(message, Gossip):
                self._learn(message)
            else:
                self.raft.step(sender, message, now_us)
        self.touch()

    def touch(self) -> None:
        """Something may be ready: drive once at the end of this turn."""
        if not self._drive_scheduled:
            self._drive_scheduled = True
            self._host.call_soon(self._drive)

    def _drive(self) -> None:
        self._drive_scheduled = False
        raft = self.raft
        if raft.has_ready():
            self._hand_out(raft.ready())
        self._notice_role()
        self.replica.on_progress()
        if raft.has_ready():
            self.touch()  # in the next turn: a long replay must not keep heartbeats waiting

    def _hand_out(self, ready: Ready) -> None:
        """The steps that `Ready` numbers."""
        send = self._host.send
        for to, message in ready.messages:
            send(to, message)
        if ready.persist is not None:
            self._host.persist(ready.hard_state, ready.entries, partial(self._on_durable, ready))
        self._notice_role()  # before commits: what commits in a new term is not the old service's
        if ready.committed:
            self.replica.on_committed(ready.committed)

    def _on_durable(self, ready: Ready) -> None:
        send = self._host.send
        for to, message in ready.messages_after_persist:
            send(to, message)
        assert ready.persist is not None
        self.raft.persisted(ready.persist, self._host.now_us())
        self.touch()

    def _notice_role(self) -> None:
        """Tell the replica about elections and step-downs, also when both happened since we last looked."""
        raft = self.raft
        seen = (raft.role, raft.term, raft.leader)
        if seen == self._noticed:
            return
        self._noticed = seen
        term = raft.term if raft.is_leader else None
        if term != self._led_term:
            if self._led_term is not None:
                self.replica.on_step_down()
            self._led_term = term
            if term is not None:
                self.replica.on_elected(term)
        leader = raft.leader
        if leader is None:
            self.shard_map.lose(self.shard.id)
        elif self.shard_map.learn(self.shard.id, raft.term, leader):
            if leader == self.node_id:
                for peer in self._peers:
                    self._gossip_to(peer)
            self._retry_waiting()

    # -- who leads what --------------------------------------------------------------------------------

    def _gossip_to(self, peer: NodeId | None) -> None:
        known = self.shard_map.snapshot()
        if peer is not None and known:
            self._host.send(peer, Gossip(tuple(known)))

    def _learn(self, gossip: Gossip) -> None:
        for shard, term, leader in gossip.leaderships:
            self.shard_map.learn(shard, term, leader)

    # -- clients ---------------------------------------------------------------------------------------

    def open_session(self, transport: Transport, address: str) -> Session:
        """A client connected. Raises Err when there are too many."""
        if len(self.sessions) >= self.settings.sessions_max:
            raise Err("max number of clients reached")
        self._session_count += 1
        limit = self.settings.command_bytes_max
        session = Session(self._session_count, self, transport, address, limit)
        self.sessions[session.id] = session
        return session

    def close_session(self, session: Session) -> None:
        session.connection_lost()
        self._commands_of_closed += session.commands
        self.sessions.pop(session.id, None)

    def commands_seen(self) -> int:
        """Client commands since the start, those of closed connections included."""
        return self._commands_of_closed + sum(session.commands for session in self.sessions.values())

    def now_us(self) -> int:
        return self._host.now_us()

    def wait_deadline_us(self) -> int:
        return self._host.now_us() + self.settings.unavailable_wait_us

    def add_waiting(self, session: Session) -> None:
        self._waiting.append(session)

    def _retry_waiting(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for session in waiting:
                session.retry()  # one that must wait on adds itself again

    def answer(self, session: Session, spec: CommandSpec, args: list[bytes]) -> bytes:
        return ANSWERS[spec.name](session, args, self)

    @property
    def is_primary(self) -> bool:
        return self.replica.serving is Serving.PRIMARY

    @property
    def engine_version(self) -> str:
        return self.replica.engine_version

    def replicas_in_step(self) -> int:
        """Members other than this one that durably hold everything committed."""
        commit_index = self.raft.commit_index
        matched = self.raft.match_indexes()
        return sum(1 for node, index in matched.items() if node != self.node_id and index >= commit_index)

    # -- where a command goes --------------------------------------------------------------------------

    def route(self, slot: Slot | None, *, write: bool, readonly: bool) -> Route:
        """PRIMARY, REPLICA (committed data, ungated) or WAIT; raises Moved, ReadOnly, Loading, ClusterDown.

        Keyless commands are for this node's own engine, as in Redis Cluster."""
        if slot is not None:
            owner = self.topology.shard_of_slot(slot)
            if owner.id != self.shard.id:
                raise self._moved(slot, self.shard_map.leader(owner.id) or _first_with_engine(owner.nodes))
        replica = self.replica
        if replica.serving is Serving.PRIMARY:
            return Route.PRIMARY if replica.draining_to is None else Route.WAIT
        if not write and (slot is None or readonly):
            if replica.serving is Serving.REPLICA:
                return Route.REPLICA
            if readonly and replica.serving in (Serving.BOOTING, Serving.REBUILDING):
                raise Loading("this replica is being rebuilt from the log")
        leader = self.raft.leader
        if leader is None or leader == self.node_id:
            return Route.WAIT
        if slot is None:
            if write:
                raise ReadOnly("You can't write against a read only replica.")
            return Route.WAIT
        node = self.topology.node(leader)
        if node.journal_only:
            return Route.WAIT
        raise self._moved(slot, node)

    def _moved(self, slot: Slot, node: NodeSpec | None) -> Moved | ClusterDown:
        if node is None:
            return ClusterDown("The slot's shard has no member that serves clients")
        return Moved(f"{slot} {node.host}:{node.port}")

    # -- lanes -----------------------------------------------------------------------------------------

    def shared_lane(self, route: Route, protocol: int) -> ClientLane:
        lane = self._lanes.get((route, protocol))
        if lane is None:
            lane = self._lanes[route, protocol] = self.open_own_lane(
                route, protocol, partial(self._on_shared_lane_lost, route, protocol)
            )
        return lane

    def open_own_lane(self, route: Route, protocol: int, on_lost: Callable[[], None]) -> ClientLane:
        engine = self.replica.engine
        assert engine is not None and route is not Route.WAIT
        return ClientLane(
            engine=engine,
            protocol=protocol,
            gate=self.replica.gate if route is Route.PRIMARY else None,
            on_boundary=self.replica.on_boundary,
            on_role_refused=self._owing_lane,
            on_lost=on_lost,
            call_soon=self._host.call_soon,
        )

    def _owing_lane(self, lane: ClientLane) -> None:
        self._owing.append(lane)

    def lanes_busy(self) -> bool:
        return any(lane.busy for (route, _), lane in self._lanes.items() if route is Route.PRIMARY)

    def _on_shared_lane_lost(self, route: Route, protocol: int) -> None:
        """The engine closed a connection that all plain sessions use: it is about to be declared dead, or
        misbehaves."""
        self._log.warning("shared_lane_lost", protocol=protocol)
        self._lose_lanes()

    def _lose_lanes(self) -> None:
        lanes = [self._lanes[key] for key in sorted(self._lanes, key=lambda key: (key[0].value, key[1]))]
        self._lanes.clear()
        for lane in lanes:
            lane.close()
        for session_id in sorted(self.sessions):
            self.sessions[session_id].lanes_lost()

    def _ask_boundary(self) -> None:
        """Effects without a client (an expiry): learn where they end, so that they can be cut."""
        if self.replica.serving is not Serving.PRIMARY:
            return
        if self.replica.cutter.wants_boundary:
            lane = self.shared_lane(Route.PRIMARY, 2)
            if not lane.asking:
                lane.ask_role()
        owing, self._owing = self._owing, []
        for lane in owing:
            if not lane.closed and not lane.asking:
                lane.ask_role()

    def on_serving_changed(self, serving: Serving) -> None:
        """From the replica. Except for the start of service every change takes the lanes away."""
        if serving is not Serving.PRIMARY:
            self._lose_lanes()
        self._host.call_soon(self._retry_waiting)

    def call_later(self, delay_us: int, callback: Callable[[], None]) -> None:
        self._host.call_later(delay_us, callback)

    # -- from the engine (EngineEvents) ----------------------------------------------------------------

    def on_booted(self, version: str, command_table: object) -> None:
        self.table = CommandTable.from_engine(command_table)
        self.replica.on_booted(version, command_table)

    def on_feed_requested(self, offset: Offset | None) -> None:
        self.replica.on_feed_requested(offset)

    def on_feed_drained(self) -> None:
        self.replica.on_feed_drained()

    def on_feed_lost(self) -> None:
        self.replica.on_feed_lost()

    def on_offset(self, offset: Offset) -> None:
        self.replica.on_offset(offset)

    def on_promoted(self, offset: Offset) -> None:
        self.replica.on_promoted(offset)

    def on_effects(self, data: bytes) -> None:
        self.replica.on_effects(data)

    def on_tap_lost(self) -> None:
        self.replica.on_tap_lost()

    def on_died(self, reason: str) -> None:
        self.replica.on_died(reason)

    # -- operations ------------------------------------------------------------------------------------

    def transfer(self, to: NodeId | None) -> NodeId:
        """Planned failover to `to`, or to the most caught-up member with an engine. ValueError says why
        not."""
        candidates = [
            node.id for node in self.shard.nodes if node.id != self.node_id and not node.journal_only
        ]
        if to is None:
            matched: Mapping[NodeId, Index] = self.raft.match_indexes()
            candidates.sort(key=lambda node: (-matched.get(node, Index(0)), node))
            if not candidates:
                raise ValueError("the shard has no other member that could serve")
            to = candidates[0]
        elif to not in candidates:
            raise ValueError(f"{to} is not another member of shard {self.shard.id} with an engine")
        self.replica.drain_and_transfer(to)
        return to


def _first_with_engine(nodes: Sequence[NodeSpec]) -> NodeSpec | None:
    return next((node for node in nodes if not node.journal_only), None)
