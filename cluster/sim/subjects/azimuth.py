"""The product itself: `cluster/node.py`, unchanged, with all above and below it that is not a shell."""

from cluster.engine.model import ModelEngine
from cluster.errors import ReplyError
from cluster.front.session import Session
from cluster.node import Node, NodeSettings
from cluster.shard.replica import Serving
from cluster.sim.process import SimProcess
from cluster.sim.subjects import ClientSession, ClientTransport
from cluster.types import NodeId

_SETTLED = frozenset({Serving.PRIMARY, Serving.REPLICA, Serving.JOURNAL})


class AzimuthNode:
    """A `SubjectNode`."""

    def __init__(self, process: SimProcess) -> None:
        config, spec = process.sim.config, process.spec
        assert process.wal is not None
        self._engine: ModelEngine | None = None

        def make_engine(node: Node) -> ModelEngine:
            self._engine = process.make_engine(node)
            return self._engine

        self.inner = Node(
            node_id=process.id,
            topology=process.sim.topology,
            settings=NodeSettings(
                raft=process.sim.raft_config(spec),
                use_lease=config.read_mode == "lease",
                unavailable_wait_us=config.unavailable_wait_us,
            ),
            storage=process.wal,
            make_engine=None if spec.journal_only else make_engine,
            host=process,
            rng=process.rng,
            log=process.log,
        )
        self.raft = self.inner.raft
        self.replica = self.inner.replica
        self.start = self.inner.start
        self.on_tick = self.inner.on_tick
        self._on_peer_messages = self.inner.on_peer_messages

    def on_message(self, sender: NodeId, message: object) -> None:
        self._on_peer_messages(sender, (message,))  # type: ignore[arg-type]  # only nodes of one kind meet

    def open_session(self, transport: ClientTransport, address: str) -> ClientSession:
        return self.inner.open_session(transport, address)

    def close_session(self, session: ClientSession) -> None:
        assert isinstance(session, Session)
        self.inner.close_session(session)

    @property
    def serves(self) -> bool:
        return self.replica.serving is Serving.PRIMARY and self.raft.is_leader

    @property
    def settled(self) -> bool:
        return self.replica.serving in _SETTLED

    @property
    def leads(self) -> bool:
        return self.raft.is_leader

    @property
    def established(self) -> bool:
        raft = self.raft
        return raft.is_leader and raft.term_at(raft.commit_index) == raft.term

    @property
    def position(self) -> tuple[int, ...]:
        return (self.raft.commit_index, self.replica.commit_offset)

    @property
    def engine(self) -> ModelEngine | None:
        return self._engine

    def transfer(self) -> bool:
        try:
            self.inner.transfer(None)
        except (ValueError, ReplyError):
            return False
        return True


class AzimuthSubject:
    name = "azimuth"

    def make_node(self, process: SimProcess) -> AzimuthNode:
        return AzimuthNode(process)
