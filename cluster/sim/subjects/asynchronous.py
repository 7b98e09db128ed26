"""`async`: a primary that answers at once, replicas that follow as they can, failover to the one that is
furthest. What Redis Cluster and ElastiCache (without MemoryDB's log) promise, as one node of it.

The front is the product's: the same `Session`, the same lanes, without a gate. What differs is when a
reply leaves and who may take over:

1. **A reply leaves when the engine has answered.** The effects go to the replicas at the end of the same
   turn; nobody waits for them.
2. **Failure detection.** Every node pings every other one; who was not heard for `node_timeout_us` is
   suspected. A ping leaves when the own engine has answered: Redis is one thread, so one whose engine hangs
   sends none. A primary that came back empty says so in its pings and counts as failed at once.
3. **Failover.** A replica that suspects its primary and hears a majority waits a moment, longer the more
   replicas are further than it, then asks *all* nodes for a vote in a new epoch. A node votes once an epoch,
   durably (Redis: nodes.conf), only if it suspects that primary too, and not twice for one shard within a
   node timeout. The majority makes a primary; its config epoch is that epoch, and the highest epoch wins.
   Each epoch number belongs to one shard, so elections of two shards do not take each other's votes.
4. **A primary that hears no majority** for a node timeout answers CLUSTERDOWN, until it has heard one for
   another node timeout. Until it notices it goes on acknowledging writes.
5. **An old primary** that hears of a higher epoch becomes a replica, and resyncs: in full if it has anything
   that its successor has not.
6. **Nothing but votes is on disk.** As ElastiCache with several AZs a node has no append-only file: it starts
   empty and resyncs in full, so a power cut of all loses everything. `appendfsync everysec` would keep all
   but the last second of it; left out, since the loss would be of the same kind.
7. **Empty nodes** lead only if all members of the shard are there and empty, or if nobody who holds data was
   heard of for `empty_wait_us`. A restarted primary never claims its shard again by itself, which Redis
   without persistence does, a known way to empty all replicas. Both favour this subject.

In Redis masters alone vote, each for the others' shards, and a failure is first agreed on by gossip; here
every node votes and the vote is that agreement, so one shard with three nodes can fail over as well (in
ElastiCache a control plane outside does that). Journal-only members are such a control plane's witnesses:
they vote and hold nothing. `transfer` is CLUSTER FAILOVER.

Left out: pings of the half (PONG; whoever is heard is alive), link bandwidth, replica-validity-factor,
min-replicas-to-write, WAIT.
"""

from collections.abc import Callable
from functools import partial

from cluster.az.topology import NodeSpec
from cluster.engine.model import ModelEngine
from cluster.front.commands import CommandTable
from cluster.front.session import Session
from cluster.raft.messages import HardState
from cluster.shard.shard_map import ShardMap
from cluster.sim.process import SimProcess
from cluster.sim.subjects import ClientSession, ClientTransport
from cluster.sim.subjects.async_front import AsyncFront
from cluster.sim.subjects.async_messages import (
    AsyncConfig,
    Effects,
    HandOver,
    Ping,
    Role,
    Sync,
    Vote,
    VoteRequest,
)
from cluster.sim.subjects.async_stream import NOTHING, EffectStream, Standing
from cluster.types import NodeId, Offset, ShardId, Term

POLL_US = 1_000
REBOOT_US = 500_000


class AsyncNode:
    """A `SubjectNode`; for its engine the `EngineEvents`."""

    def __init__(self, process: SimProcess, config: AsyncConfig) -> None:
        self.node_id = process.id
        self.topology = process.sim.topology
        self.spec: NodeSpec = process.spec
        self.shard = self.topology.shard(self.spec.shard)
        self.shard_map = ShardMap(self.topology)
        self.front = AsyncFront(self, process)
        self.role = Role.REPLICA
        self.stream = EffectStream()
        self._process = process
        self._config = config
        self._log = process.log
        self._engine = None if self.spec.journal_only else process.make_engine(self)
        self._up = self._engine is None  # Redis is one process: with its engine a node is down, and silent
        self._peers = sorted(node.id for node in self.topology.nodes if node.id != self.node_id)
        self._mates = [
            node.id for node in self.shard.nodes if node.id != self.node_id and not node.journal_only
        ]
        self._majority = len(self.topology.nodes) // 2 + 1
        self._started_at = self._empty_since = process.now_us()
        # the cluster as this node sees it
        assert process.wal is not None
        shards = [shard.id for shard in self.topology.shards]
        self._ordinal = shards.index(self.shard.id)
        self._hard_state = process.wal.hard_state  # the vote in the highest epoch, of any life
        self._voted = dict.fromkeys(shards, self._hard_state.term)  # no vote up to this epoch any more
        self._voted_at: dict[ShardId, int] = {}
        self.epoch = max(self._hard_state.term, len(shards))  # the highest that it knows
        self._heard = dict.fromkeys(self._peers, self._started_at)
        self._standings: dict[NodeId, Standing] = {}
        self._is_primary: dict[NodeId, bool] = {}  # what it said of itself
        self.down = False
        self._majority_since: int | None = None  # while down: since when it hears one again
        self._next_ping = 0
        self._ping_asked = False  # it leaves when the engine answers
        # an election
        self._election: int | None = None  # the epoch in which it stands
        self._votes: set[NodeId] = set()
        self._election_ends = 0
        self._stand_at: int | None = None  # if nobody else is further
        self._handed: HandOver | None = None
        self._handed_until = 0
        # a primary
        self._claim = 0  # its config epoch
        self._promote_sent = False
        self._pushed = Offset(0)
        self._push_scheduled = False
        self._successor: NodeId | None = None  # clients wait for it
        self._successor_until = 0
        # a replica
        self._sync_number = 0
        self._syncing = False
        self._sync_sent_at = self._news_at = 0
        self._followed = 0  # the epoch of the primary that answered our Sync
        # the engine
        self._feeding = False
        self._wipe = False  # it holds what was thrown away: empty it when it asks for the stream
        self._fed = Offset(0)
        self._applied = Offset(0)
        self._asked = 0  # offsets asked for and not told yet
        self._stale_answers = 0  # so many of the next ones say nothing

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._engine is not None:
            self._engine.boot()
        if self._hard_state.term == 0 and self.node_id == self.shard.nodes[0].id:
            # The very first life of the cluster: as in `--cluster create`, first members are primaries.
            epoch = self._ordinal + 1
            self._vote(epoch, self.shard.id, self.node_id, lambda: self._win(epoch))

    def on_tick(self) -> None:
        if self._up:
            self._tick(self.now_us())
        self.front.retry_waiting()

    def _tick(self, now: int) -> None:
        self._watch_majority(now)
        if now >= self._next_ping:
            self._next_ping = now + self._config.ping_us
            self._ping_through_engine()
        if self._engine is not None:
            self._tick_member(now)

    def _tick_member(self, now: int) -> None:
        if self.role is Role.REPLICA:
            self._consider_election(now)
            if self._syncing and now - self._sync_sent_at > self._config.resync_us:
                self._ask_sync()
        elif self._successor is not None:
            self._tick_handover(now)

    def on_message(self, sender: NodeId, message: object) -> None:
        if not self._up:
            return
        self._heard[sender] = self.now_us()
        match message:
            case Ping():
                self._on_ping(sender, message)
            case VoteRequest():
                self._on_vote_request(sender, message)
            case Vote():
                self._on_vote(sender, message)
            case Sync():
                self._on_sync(sender, message)
            case Effects():
                self._on_effects_of(sender, message)
            case HandOver():
                self._on_hand_over(message)
            case _:
                raise AssertionError(f"{message!r} is no message of this subject")

    # -- who is alive ----------------------------------------------------------------------------------

    def _suspects(self, node: NodeId) -> bool:
        return self.now_us() - self._heard[node] > self._config.node_timeout_us

    def _hears_majority(self) -> bool:
        return 1 + sum(not self._suspects(peer) for peer in self._peers) >= self._majority

    def _watch_majority(self, now: int) -> None:
        """Rule 4."""
        if not self._hears_majority():
            if not self.down:
                self._log.info("cluster_down")
            self.down, self._majority_since = True, None
        elif self.down:
            if self._majority_since is None:
                self._majority_since = now
            waits = self._config.node_timeout_us if self.role is Role.PRIMARY else 0
            self.down = now - self._majority_since < waits

    def _primary_gone(self, shard: ShardId) -> bool:
        leader = self.shard_map.last_leader(shard)
        if leader is None:
            return self.now_us() - self._started_at > self._config.node_timeout_us
        if leader.id == self.node_id:
            return self.role is Role.REPLICA  # it was us, before we lost everything
        return self._suspects(leader.id) or not self._is_primary.get(leader.id, True)

    def _ping_through_engine(self) -> None:
        if self._engine is None or not self._feeding:
            self._ping_all()
        elif not self._ping_asked:
            self._ping_asked = True
            self._ask_offset()

    def _ping_all(self) -> None:
        ping = Ping(
            self.epoch, self.shard_map.snapshot(), self.role is not Role.REPLICA, self.stream.standing
        )
        for peer in self._peers:
            self._process.send(peer, ping)

    def _on_ping(self, sender: NodeId, ping: Ping) -> None:
        self.epoch = max(self.epoch, ping.epoch)
        self._standings[sender] = ping.standing
        self._is_primary[sender] = ping.primary
        for shard, epoch, leader in ping.claims:
            self._learn(shard, epoch, leader)
        primary = self.shard_map.last_leader(self.shard.id)
        if self.role is Role.REPLICA and primary is not None and sender == primary.id and self._engine:
            behind = (
                self._followed != self.shard_map.term(self.shard.id) or ping.standing != self.stream.standing
            )
            if behind and not self._syncing and self.now_us() - self._news_at > self._config.resync_us:
                self._ask_sync()

    def _learn(self, shard: ShardId, epoch: Term, leader: NodeId) -> None:
        if self.shard_map.learn(shard, epoch, leader) and leader != self.node_id:
            self._is_primary[leader] = True
            self.epoch = max(self.epoch, epoch)
            if shard == self.shard.id:
                self._follow(leader, epoch)

    # -- elections -------------------------------------------------------------------------------------

    def _consider_election(self, now: int) -> None:
        if self._election is not None:
            if now < self._election_ends:
                return
            self._election = self._stand_at = None
        if self._stands_on_request():
            return
        wanted = self._primary_gone(self.shard.id) and self._hears_majority()
        if not (wanted and self._feeding and self._may_lead(now)):
            self._stand_at = None
            return
        config = self._config
        if self._stand_at is None:
            spread = int(self._process.rng.random() * config.election_spread_us)
            self._stand_at = now + config.election_delay_us + spread
        if now >= self._stand_at + self._rank() * config.rank_delay_us:
            self._stand(forced=False)

    def _may_lead(self, now: int) -> bool:
        """Rule 7."""
        if self.stream.standing != NOTHING:
            return True
        there = [mate for mate in self._mates if not self._suspects(mate)]
        if any(self._standings.get(mate, NOTHING) != NOTHING for mate in there):
            self._empty_since = now
            return False
        all_empty = len(there) == len(self._mates) and all(mate in self._standings for mate in there)
        config = self._config
        wait = config.node_timeout_us if all_empty else config.empty_wait_us
        return now - self._empty_since >= wait

    def _rank(self) -> int:
        """How many replicas would be better, as far as is known."""
        mine = self.stream.standing
        rank = 0
        for mate in self._mates:
            theirs = self._standings.get(mate, NOTHING)
            if not self._suspects(mate) and (theirs > mine or (theirs == mine and mate < self.node_id)):
                rank += 1
        return rank

    def _stand(self, *, forced: bool) -> None:
        shards = len(self.topology.shards)
        self.epoch += 1 + (self._ordinal - self.epoch) % shards  # the next one that is this shard's
        self._election, self._votes = self.epoch, {self.node_id}
        self._election_ends = self.now_us() + (1 if forced else 2) * self._config.node_timeout_us
        self._log.info("election_begun", epoch=self.epoch, forced=forced)
        request = VoteRequest(self.epoch, self.shard.id, self.shard_map.term(self.shard.id), forced)
        self._vote(self.epoch, self.shard.id, self.node_id, partial(self._ask_votes, request))

    def _ask_votes(self, request: VoteRequest) -> None:
        if self._election == request.epoch:
            for peer in self._peers:
                self._process.send(peer, request)
            self._count_votes()

    def _vote(self, epoch: int, shard: ShardId, candidate: NodeId, then: Callable[[], None]) -> None:
        """Once an epoch, and durably. The highest vote is enough: after a restart it rules out all below."""
        assert epoch > self._voted[shard]
        self._voted[shard] = Term(epoch)
        self._voted_at[shard] = self.now_us()
        if epoch > self._hard_state.term:
            self._hard_state = HardState(Term(epoch), candidate)
        self._process.persist(self._hard_state, (), then)

    def _on_vote_request(self, sender: NodeId, request: VoteRequest) -> None:
        now, config = self.now_us(), self._config
        if request.epoch <= self._voted[request.shard] or request.known < self.shard_map.term(request.shard):
            return  # also when the candidate does not know the newest primary
        voted_at = self._voted_at.get(request.shard)
        if voted_at is not None and now - voted_at < config.node_timeout_us and not request.forced:
            return
        if not request.forced and not self._primary_gone(request.shard):
            return
        self.epoch = max(self.epoch, request.epoch)
        vote = Vote(request.epoch)
        self._vote(request.epoch, request.shard, sender, lambda: self._process.send(sender, vote))

    def _on_vote(self, sender: NodeId, vote: Vote) -> None:
        if vote.epoch == self._election:
            self._votes.add(sender)
            self._count_votes()

    def _count_votes(self) -> None:
        if self._election is not None and len(self._votes) >= self._majority:
            self._win(self._election)

    def _win(self, epoch: int) -> None:
        self._election = self._stand_at = self._handed = None
        if self.shard_map.learn(self.shard.id, Term(epoch), self.node_id):
            self._log.info("elected", epoch=epoch, history=self.stream.history, offset=self.stream.end)
            self.role, self._claim = Role.PROMOTING, epoch
            self._ping_all()
            self._ask_offset()

    # -- a primary -------------------------------------------------------------------------------------

    def _maybe_promote(self) -> None:
        if self.role is Role.PROMOTING and not self._promote_sent and self._feeding:
            assert self._engine is not None
            if self._applied == self.stream.end:
                self._promote_sent = True
                self._engine.promote()
            else:
                self._process.call_later(POLL_US, self._ask_offset)

    def on_promoted(self, offset: Offset) -> None:
        assert self.role is Role.PROMOTING and offset == self.stream.end
        self.role = Role.PRIMARY
        self.stream.begin(self._claim)
        self._pushed = self.stream.end
        self._log.info("became_primary", epoch=self._claim, offset=offset)
        self._ping_all()
        self._process.call_soon(self.front.retry_waiting)

    def on_effects(self, data: bytes) -> None:
        if self.role is Role.PRIMARY:
            self.stream.append(data)
            self._applied = self.stream.end
            if not self._push_scheduled:
                self._push_scheduled = True
                self._process.call_soon(self._push)

    def _push(self) -> None:
        """Rule 1: at the end of the turn, when the replies are already on their way."""
        self._push_scheduled = False
        if self.role is Role.PRIMARY:
            news = Effects(0, self._claim, False, self._pushed, self.stream.since(self._pushed))
            self._pushed = self.stream.end
            for mate in self._mates:
                self._process.send(mate, news)

    def _on_sync(self, sender: NodeId, sync: Sync) -> None:
        if self.role is Role.PRIMARY:
            full = not self.stream.continues(sync.standing)
            start = 0 if full else sync.standing[1]
            answer = Effects(sync.number, self._claim, full, start, self.stream.since(start))
            self._process.send(sender, answer)

    def _follow(self, leader: NodeId, epoch: int) -> None:
        """Rule 5. Somebody is our shard's primary, in a higher epoch than any before."""
        self._election = self._stand_at = self._handed = None
        if self.role is not Role.REPLICA:
            self._log.info("demoted", epoch=epoch, offset=self.stream.end)
            self.role, self._claim, self._successor = Role.REPLICA, 0, None
            self.front.lose_lanes()
            if self._promote_sent:
                assert self._engine is not None
                self._promote_sent = self._feeding = self._ping_asked = False
                self._engine.demote()
        if self._engine is not None:
            self._ask_sync()

    # -- a replica -------------------------------------------------------------------------------------

    def _ask_sync(self) -> None:
        primary = self.shard_map.last_leader(self.shard.id)
        if primary is not None and primary.id != self.node_id:
            self._syncing, self._sync_sent_at = True, self.now_us()
            self._sync_number += 1
            self._process.send(primary.id, Sync(self._sync_number, self.stream.standing))

    def _on_effects_of(self, sender: NodeId, news: Effects) -> None:
        primary = self.shard_map.last_leader(self.shard.id)
        if self.role is not Role.REPLICA or primary is None or sender != primary.id:
            return
        if news.epoch != self.shard_map.term(self.shard.id):
            return
        if news.number:
            if not self._syncing or news.number != self._sync_number:
                return
            self._syncing = False
            if news.full:
                self._throw_away()
            self.stream.begin(news.epoch)
            self._followed = news.epoch
        elif self._followed != news.epoch:
            return  # not before it has answered where we stand
        self._news_at = self.now_us()
        if self.stream.extend(news.start, news.units):
            self._pump_feed()
        elif not self._syncing:
            self._ask_sync()

    def _throw_away(self) -> None:
        self._log.info("full_resync", history=self.stream.history, offset=self.stream.end)
        self.stream.clear()
        self._applied = Offset(0)
        if self._feeding:
            self._feed_from_nothing()
        else:
            self._wipe = True

    # -- CLUSTER FAILOVER ------------------------------------------------------------------------------

    @property
    def hands_over(self) -> bool:
        return self._successor is not None

    def transfer(self) -> bool:
        """Clients wait while the replica that is furthest gets the rest and is elected; not for longer than
        four node timeouts. As in Redis, a replica that hears of it late may still take over after that."""
        there = [mate for mate in self._mates if not self._suspects(mate) and mate in self._standings]
        if self.role is not Role.PRIMARY or self._successor is not None or not there:
            return False
        self._successor = max(there, key=lambda mate: (self._standings[mate], mate))
        self._successor_until = self.now_us() + 4 * self._config.node_timeout_us
        return True

    def _tick_handover(self, now: int) -> None:
        assert self._successor is not None
        if now >= self._successor_until:
            self._successor = None
            return
        early = self._successor_until - now > 2 * self._config.node_timeout_us
        if early and not self.front.lanes_busy() and not self._push_scheduled:
            self._process.send(self._successor, HandOver(self._claim, self.stream.end))

    def _on_hand_over(self, message: HandOver) -> None:
        if self.role is Role.REPLICA and message.epoch == self._followed:
            self._handed = message
            self._handed_until = self.now_us() + self._config.node_timeout_us

    def _stands_on_request(self) -> bool:
        handed = self._handed
        if handed is None or not self._feeding:
            return False
        if (
            handed.epoch != self._followed
            or self.now_us() > self._handed_until
            or self.stream.end > handed.end
        ):
            self._handed = None  # its clients wait no longer
        elif self.stream.end == handed.end:
            self._handed = None
            self._stand(forced=True)
            return True
        return False

    # -- the engine ------------------------------------------------------------------------------------

    def on_booted(self, version: str, command_table: object) -> None:
        self.front.engine_version = version
        self.front.table = CommandTable.from_engine(command_table)
        self._up = True
        self._started_at = self._empty_since = self.now_us()
        self._heard = dict.fromkeys(self._peers, self._started_at)
        self._standings.clear()
        self._is_primary.clear()

    def on_feed_requested(self, offset: Offset | None) -> None:
        assert self._engine is not None
        if self._promote_sent:
            return  # the feed broke on the way to primary; it needs none any more
        self._feeding = True
        self._stale_answers = self._asked
        if self._wipe or offset is None:
            self._feed_from_nothing()
        else:
            self._engine.feed_continue(offset)
            self._fed = offset
        self._pump_feed()
        if self.role is Role.PROMOTING:
            self._ask_offset()

    def _feed_from_nothing(self) -> None:
        assert self._engine is not None
        self._wipe = False
        self._engine.feed_full(Offset(0), b"")
        self._fed = self._applied = Offset(0)
        self._stale_answers = self._asked

    def _pump_feed(self) -> None:
        """All at once: `feed_full_up` asks for patience that a simulated engine does not need."""
        if self._feeding and self._fed < self.stream.end:
            assert self._engine is not None
            self._engine.feed(b"".join(self.stream.since(self._fed)))
            self._fed = self.stream.end

    def on_feed_drained(self) -> None: ...

    def on_feed_lost(self) -> None:
        self._feeding = self._promote_sent
        self._ping_asked = False

    def _ask_offset(self) -> None:
        if self._feeding:
            assert self._engine is not None
            self._asked += 1
            self._engine.ask_offset()

    def on_offset(self, offset: Offset) -> None:
        self._asked -= 1
        if self._ping_asked:
            self._ping_asked = False
            self._ping_all()
        if self._stale_answers:
            self._stale_answers -= 1  # asked before the engine was told to stand elsewhere
        else:
            self._applied = offset
            self._maybe_promote()

    def on_tap_lost(self) -> None:
        raise AssertionError("the model engine's tap does not break")

    def on_died(self, reason: str) -> None:
        """With it everything is gone but the votes and the shard map, which Redis keeps in nodes.conf."""
        self._log.info("engine_died", reason=reason)
        self._up = False
        self.role, self._claim, self._successor = Role.REPLICA, 0, None
        self._election = self._stand_at = self._handed = None
        self._feeding = self._promote_sent = self._ping_asked = self._wipe = self._syncing = False
        self._followed = self._asked = self._stale_answers = 0
        self._applied = self._fed = Offset(0)
        self.stream.clear()
        self.front.lose_lanes()
        assert self._engine is not None
        self._process.call_later(REBOOT_US, self._engine.boot)

    # -- clients ---------------------------------------------------------------------------------------

    def open_session(self, transport: ClientTransport, address: str) -> ClientSession:
        return self.front.open_session(transport, address)

    def close_session(self, session: ClientSession) -> None:
        assert isinstance(session, Session)
        self.front.close_session(session)

    def now_us(self) -> int:
        return self._process.now_us()

    def replicas_in_step(self) -> int:
        return sum(self._standings.get(mate) == self.stream.standing for mate in self._mates)

    # -- for the simulation ----------------------------------------------------------------------------

    @property
    def serves(self) -> bool:
        return self.role is Role.PRIMARY and not self.down

    @property
    def leads(self) -> bool:
        return self.role is not Role.REPLICA

    @property
    def established(self) -> bool:
        return self.leads

    @property
    def settled(self) -> bool:
        if self.role is Role.PRIMARY:
            return True
        if self._primary_gone(self.shard.id):
            return False
        if self._engine is None:
            return True
        in_step = self._followed == self.shard_map.term(self.shard.id) and not self._syncing
        return self.role is Role.REPLICA and in_step and self._applied == self.stream.end

    @property
    def position(self) -> tuple[int, ...]:
        """A witness stands where it heard that the primary does."""
        if self._engine is not None:
            return self.stream.standing
        primary = self.shard_map.last_leader(self.shard.id)
        return NOTHING if primary is None else self._standings.get(primary.id, NOTHING)

    @property
    def engine(self) -> ModelEngine | None:
        return self._engine


class AsyncSubject:
    name = "async"

    def __init__(self, config: AsyncConfig | None = None) -> None:
        self._config = config or AsyncConfig()

    def make_node(self, process: SimProcess) -> AsyncNode:
        return AsyncNode(process, self._config)
