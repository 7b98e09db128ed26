"""One member of one Raft group, sans-IO: messages and time in, a `Ready` out.

Owns the protocol: elections (3.4) with pre-vote (9.6) and check-quorum (6.2), replication (3.5) with
pipelining (10.2), the commit rule (3.6.2), leader lease and read rounds (6.4), leadership transfer (3.10),
learners (4.2.1).

Rules worth knowing before reading on
* **Promise.** A node that heard from a leader refuses votes and pre-votes for `election_timeout_min`, both in
  absolute time and on the tick clock (so a clock that jumps ahead breaks no promise), unless the leader
  itself asked for the election. So does a leader, until check-quorum deposes it. After a restart it cannot
  remember whom it promised, so it refuses for the same time from its start. Leases rest on this.
* **Patience.** The election timer counts ticks, each capped at two tick lengths: a process that was itself
  stopped does not blame the leader on waking. Check-quorum and transfers use the same clock.
* **Durable before said.** Nothing that speaks of our term, vote or log leaves before it is durable, with two
  exceptions that are safe: a leader's AppendEntries (10.2.1; it counts itself only at stable_index) and
  pre-votes (they promise nothing).
* **Prompt.** A reply that is already true leaves at once. A heartbeat is answered with what is durable *now*,
  so a slow disk does not cost the leader its lease.
* **Lost messages** are found by heartbeats, see progress.py.

Left out: snapshots (4/5; a peer that needs one is put into SNAPSHOT and gets heartbeats only), membership
changes (4/5; quorums are joint already), forwarding of proposals (clients are redirected instead).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from cluster.errors import NotLeader
from cluster.raft import invariants
from cluster.raft.config import RaftConfig
from cluster.raft.lease import LeaderLease
from cluster.raft.log import RaftLog
from cluster.raft.messages import (
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    InstallSnapshot,
    InstallSnapshotResponse,
    Membership,
    Message,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cluster.raft.progress import Progress, ProgressState
from cluster.raft.quorum import Quorum, VoteResult
from cluster.raft.ready import PersistQueue, PersistToken, Ready
from cluster.raft.roles import TRANSITIONS, Role, RoleEvent
from cluster.raft.storage import LogStorage
from cluster.types import Index, Log, NodeId, Term

_NO_READ_ROUND = 0


@dataclass(slots=True)
class _Transfer:
    """A handing over under way (3.10)."""

    to: NodeId
    give_up_ticked_us: int
    timeout_now_sent: bool = False


class RaftNode:
    """The core. Not thread-safe; every method returns at once. Times are microseconds of one monotonic
    clock."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        membership: Membership,
        config: RaftConfig,
        storage: LogStorage,
        rng: random.Random,
        now_us: int,
        log: Log,
    ) -> None:
        """Starts as a follower with what `storage` holds. ValueError if nobody votes in `membership`."""
        self.node_id = node_id
        self.membership = membership
        self.config = config
        self._quorum = Quorum(membership)
        members = self._quorum.voters | membership.learners
        self._peers = tuple(sorted(members - {node_id}))
        self._rng = rng
        self._events = log
        self._log = RaftLog(storage, config.cache_bytes_max)

        self.role = Role.FOLLOWER
        self.term = storage.hard_state.term
        self.vote = storage.hard_state.vote
        self.leader: NodeId | None = None
        self.leader_commit_index = Index(0)  # highest that any leader told in this life of ours

        self._tick_us = config.tick_ms * 1000
        self._promise_us = config.election_timeout_min_ms * 1000
        self._patience_us = config.election_timeout_max_ms * 1000
        self._now_us = now_us
        self._last_tick_us = now_us
        self._ticked_us = 0  # sum of capped ticks: time as this process lived it
        self._election_elapsed_us = 0
        self._heard_of_leader = False
        self._election_timeout_us = self._draw_election_timeout()
        remembers = self.term > 0 or self._log.last_index > 0
        self._promise_until_us = now_us + self._promise_us if remembers else now_us
        self._promise_ticked_us = self._promise_us if remembers else 0

        self._votes: dict[NodeId, bool] = {}  # of the campaign under way
        self._campaigns_in_vain = 0  # in a row: only the first is told at info
        self._progress: dict[NodeId, Progress] = {}  # leader only
        self._lease: LeaderLease | None = None  # leader only
        self._noop_index = Index(0)  # leader only: the first entry of its term
        self._transfer: _Transfer | None = None
        self._round = 0  # last round drawn by any of our leaderships
        self._read_wanted = False
        self._read_sent_round = _NO_READ_ROUND  # last round sent for reads and not yet confirmed

        self._persists = PersistQueue()
        self._durable_term = self.term
        self._handed_hard_state = storage.hard_state
        self._messages: list[tuple[NodeId, Message]] = []
        self._after_persist: list[tuple[NodeId, Message]] = []
        self._send_wanted = False  # a leader has something to send in the next Ready

    # ── what callers look at ────────────────────────────────────────────────────────────────────────────────

    @property
    def is_leader(self) -> bool:
        return self.role is Role.LEADER

    @property
    def is_learner(self) -> bool:
        """It replicates but neither campaigns nor counts (4.2.1). True also for a node outside its
        membership."""
        return self.node_id not in self._quorum.voters

    @property
    def commit_index(self) -> Index:
        return self._log.commit_index

    @property
    def last_index(self) -> Index:
        return self._log.last_index

    @property
    def stable_index(self) -> Index:
        """Highest index up to which our present log is durable here."""
        return self._log.stable_index

    @property
    def transferring_to(self) -> NodeId | None:
        """Whom leadership is being handed to; proposals are refused meanwhile."""
        return self._transfer.to if self._transfer is not None else None

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        """Entries low … high inclusive, cut after `bytes_max` payload bytes but never empty if low exists."""
        return self._log.entries(low, high, bytes_max)

    def term_at(self, index: Index) -> Term:
        """Term of an entry; 0 for index 0. KeyError if it is not (or no longer) in the log."""
        return self._log.term(index)

    def match_indexes(self) -> dict[NodeId, Index]:
        """How far each member's log is known durable and equal to ours. Of a follower: only itself."""
        known = {peer: self._progress[peer].match_index for peer in self._peers if peer in self._progress}
        return {self.node_id: self._log.stable_index, **known}

    def lease_valid(self, now_us: int) -> bool:
        """May a leader answer reads at `now_us` without asking anyone? Check it *after* the read was
        executed.

        False for the rest of a term in which a transfer got as far as TimeoutNow and was then given up
        (lease.py says why): a caller that finds it False asks `read_round` instead, which works in every term
        and renews the lease where there is one.
        """
        return (
            self._lease is not None
            and self._transfer is None
            and self._log.commit_index >= self._noop_index
            and self._lease.valid(now_us)
        )

    def read_round(self) -> int:
        """Begin a ReadIndex (6.4): the round that a message sent from now on will have. Sends heartbeats at
        once, or, while those of an earlier read are under way, as soon as they are answered: many reads share
        them. NotLeader if we are not."""
        if self._lease is None:
            raise NotLeader(f"{self.node_id} is {self.role.value} in term {self.term}")
        self._read_wanted = True
        self._send_wanted = True
        return self._lease.round + 1

    def read_confirmed(self, round_: int) -> bool:
        """A quorum has answered a message of `round_` or later, and this term's no-op is committed. Never for
        a round of an earlier term of ours."""
        return (
            self._lease is not None
            and self._log.commit_index >= self._noop_index
            and self._lease.confirms(round_)
        )

    def check_invariants(self) -> None:
        """AssertionError if any of the numbered invariants in invariants.py is broken."""
        invariants.check(self)

    # ── what callers do ─────────────────────────────────────────────────────────────────────────────────────

    def tick(self, now_us: int) -> None:
        """Time passes. Call about every `tick_ms`."""
        self._see_time(now_us)
        ticked_us = min(self._now_us - self._last_tick_us, 2 * self._tick_us)
        self._last_tick_us = self._now_us
        self._ticked_us += ticked_us
        if self.role is Role.LEADER:
            self._tick_leader()
            return
        self._election_elapsed_us += ticked_us
        if self._election_elapsed_us >= self._election_timeout_us and not self._has_promised():
            self._on_election_timeout()

    def step(self, from_node: NodeId, message: Message, now_us: int) -> None:
        """A message from `from_node` came in, not later than `now_us`: promises are counted from there."""
        self._see_time(now_us)
        match message:
            case AppendEntries():
                self._on_append_entries(from_node, message)
            case AppendResponse():
                self._on_append_response(from_node, message)
            case RequestVote(pre_vote=True):
                self._on_request_pre_vote(from_node, message)
            case RequestVote():
                self._on_request_vote(from_node, message)
            case VoteResponse(pre_vote=True):
                self._on_pre_vote_response(from_node, message)
            case VoteResponse():
                self._on_vote_response(from_node, message)
            case TimeoutNow():
                self._on_timeout_now(from_node, message)
            case InstallSnapshot() | InstallSnapshotResponse():
                self._events.warning("snapshot_ignored", from_node=from_node)
            case _:
                assert_never(message)

    def propose(self, kind: EntryKind, payload: bytes) -> Index:
        """Append an entry and replicate it with the next Ready. It is decided when `commit_index` passes the
        index returned *and* `term_at` it is still this term. NotLeader if we are not, or while leadership is
        being transferred."""
        if self.role is not Role.LEADER:
            raise NotLeader(f"{self.node_id} is {self.role.value} in term {self.term}")
        if self._transfer is not None:
            raise NotLeader(f"{self.node_id} is handing over to {self._transfer.to}")
        if kind is EntryKind.MEMBERSHIP:
            raise ValueError("membership changes are not supported yet")
        return self._append(kind, payload)

    def transfer(self, to: NodeId | None, now_us: int) -> NodeId:
        """Hand leadership to `to`, or to the most caught-up voter; returns to whom. Given up after one
        election timeout. The lease ends here, proposals are refused until it is decided. ValueError, with the
        reason as text, if it cannot be begun."""
        self._see_time(now_us)
        if self.role is not Role.LEADER:
            raise ValueError(f"{self.node_id} is not the leader")
        if self._transfer is not None:
            raise ValueError(f"{self.node_id} is already handing over to {self._transfer.to}")
        target = self._transfer_target(to)
        self._transfer = _Transfer(target, self._ticked_us + self._patience_us)
        self._events.info("transfer_started", term=self.term, to=target)
        self._maybe_send_timeout_now(target)
        return target

    def persisted(self, token: PersistToken, now_us: int) -> None:
        """The write of `token`'s Ready and all earlier ones are durable and can be read through the
        storage."""
        self._see_time(now_us)
        hard_state, stable_index = self._persists.pop(token)
        if hard_state is not None:
            self._durable_term = hard_state.term
        if stable_index:
            self._log.stable_to(stable_index)
        if self.role is Role.LEADER:
            self._maybe_commit()
        elif self.role is Role.CANDIDATE and self._durable_term == self.term:
            self._record_vote(self.node_id, granted=True)

    def has_ready(self) -> bool:
        """Is there anything to take out? May be True once too often, never too seldom."""
        log = self._log
        return bool(
            self._messages
            or self._after_persist
            or self._send_wanted
            or log.handed_index < log.last_index
            or log.delivered_index < log.commit_index
            or self.term != self._handed_hard_state.term
            or self.vote != self._handed_hard_state.vote
        )

    def ready(self) -> Ready:
        """Take out everything to be done; see `Ready` for what and in which order."""
        if self._send_wanted:
            self._send_wanted = False
            if self.role is Role.LEADER:
                self._send_appends()
        hard_state = self._take_hard_state()
        new_entries = self._log.hand_out()
        messages, after = self._messages, self._after_persist
        self._messages, self._after_persist = [], []
        token = None
        if hard_state is not None or new_entries or (after and self._persists):
            last_index = new_entries[-1].index if new_entries else Index(0)
            token = self._persists.push(hard_state, last_index)
        elif after:
            messages, after = messages + after, []
        return Ready(
            hard_state=hard_state,
            entries=new_entries,
            messages=messages,
            messages_after_persist=after,
            committed=self._log.deliver(self.config.apply_bytes_max),
            persist=token,
            role=self.role,
            term=self.term,
            leader=self.leader,
            commit_index=self._log.commit_index,
        )

    # ── time ────────────────────────────────────────────────────────────────────────────────────────────────

    def _see_time(self, now_us: int) -> None:
        if now_us > self._now_us:
            self._now_us = now_us

    def _draw_election_timeout(self) -> int:
        low, high = self.config.election_timeout_min_ms, self.config.election_timeout_max_ms
        if self.config.preferred and not self._heard_of_leader:
            high = low + (high - low) // 8
        drawn = self._rng.randint(low * 1000, high * 1000)
        if not self._heard_of_leader and self.term == 0 and self._log.last_index == 0:
            drawn += self.config.yield_ms * 1000
        return drawn + self._patience_us if self.config.reluctant else drawn

    def _tick_leader(self) -> None:
        if self._transfer is not None and self._ticked_us >= self._transfer.give_up_ticked_us:
            self._abort_transfer()
        heard = {peer: self._progress[peer].heard_ticked_us for peer in self._peers}
        heard[self.node_id] = self._ticked_us
        if self._quorum.value(heard) + self._patience_us < self._ticked_us:
            self._events.warning("quorum_lost", term=self.term)
            self._become_follower(RoleEvent.QUORUM_LOST, self.term, None)
            return
        heartbeat_us = self.config.heartbeat_ms * 1000
        for peer in self._peers:
            progress = self._progress[peer]
            if progress.sent_at_us is None or self._now_us - progress.sent_at_us >= heartbeat_us:
                progress.heartbeat_due = True
                self._send_wanted = True

    def _hear_leader(self, leader: NodeId) -> None:
        """A leader of our term spoke: be patient, and keep the promise from now on."""
        self._campaigns_in_vain = 0
        self._election_elapsed_us = 0
        self._promise_until_us = self._now_us + self._promise_us
        self._promise_ticked_us = self._ticked_us + self._promise_us
        if not self._heard_of_leader:
            # The first timeout was drawn for a new group (`preferred`, `yield_ms`); from now on it is the
            # usual one.
            self._heard_of_leader = True
            self._election_timeout_us = self._draw_election_timeout()
        if self.leader != leader:
            assert self.leader is None, "two leaders in one term"
            self.leader = leader
            self._events.info("leader_known", term=self.term, leader=leader)

    def _has_promised(self) -> bool:
        """Votes are refused now, for the sake of a leader that may hold a lease."""
        return (
            self.role is Role.LEADER
            or self._now_us < self._promise_until_us
            or self._ticked_us < self._promise_ticked_us
        )

    # ── roles ───────────────────────────────────────────────────────────────────────────────────────────────

    def _move(self, event: RoleEvent) -> None:
        self.role = TRANSITIONS[self.role][event]

    def _set_term(self, term: Term, vote: NodeId | None) -> None:
        assert term > self.term, "terms only rise"
        self.term = term
        self.vote = vote
        self.leader = None

    def _become_follower(self, event: RoleEvent, term: Term, leader: NodeId | None) -> None:
        """`leader`: who made us follow, if that is known."""
        was = self.role
        self._move(event)
        if term > self.term:
            self._set_term(term, None)
        if was is not Role.FOLLOWER:
            again = event is RoleEvent.PRE_VOTE_LOST and self._campaigns_in_vain > 1
            tell = self._events.debug if again else self._events.info
            tell("became_follower", term=self.term, was=was.value, why=event.value)
            self._votes = {}
        if event is RoleEvent.PRE_VOTE_LOST and not self.config.reluctant:
            # A voter's promise may outlast our patience by a little. Asking again soon disturbs nobody.
            self._election_timeout_us = self._rng.randint(self._promise_us // 2, self._promise_us)
        if was is Role.LEADER:
            self._leave_leadership()
        if leader is not None:
            self._hear_leader(leader)

    def _leave_leadership(self) -> None:
        assert self._lease is not None
        self.leader = None
        self._round = self._lease.round
        self._lease = None
        self._progress = {}
        self._transfer = None
        self._read_wanted = False
        self._read_sent_round = _NO_READ_ROUND
        self._election_elapsed_us = 0
        self._election_timeout_us = self._draw_election_timeout()

    def _on_election_timeout(self) -> None:
        self._election_elapsed_us = 0
        self._election_timeout_us = self._draw_election_timeout()
        self.leader = None
        if self.is_learner:
            return
        if self._durable_term != self.term:
            # The disk has not even taken our last term. We can win nothing with it; but each further term
            # that we made up would depose the candidates whose disks work.
            self._events.debug("campaign_withheld", term=self.term, durable_term=self._durable_term)
            return
        self._move(RoleEvent.ELECTION_TIMEOUT)
        self._votes = {}
        self._campaigns_in_vain += 1
        tell = self._events.info if self._campaigns_in_vain == 1 else self._events.debug
        tell("became_pre_candidate", term=self.term)
        self._ask_for_votes(Term(self.term + 1), pre_vote=True, transfer=False)
        self._record_vote(self.node_id, granted=True)

    def _become_candidate(self, event: RoleEvent) -> None:
        self._move(event)
        self._set_term(Term(self.term + 1), self.node_id)
        self._election_elapsed_us = 0
        self._votes = {}  # our own vote counts once it is durable, see `persisted`
        self._campaigns_in_vain = 0
        transfer = event is RoleEvent.TIMEOUT_NOW
        self._events.info("became_candidate", term=self.term, transfer=transfer)
        self._ask_for_votes(self.term, pre_vote=False, transfer=transfer)

    def _ask_for_votes(self, term: Term, *, pre_vote: bool, transfer: bool) -> None:
        request = RequestVote(term, self._log.last_index, self._log.last_term, pre_vote, transfer)
        # A real request waits until our own vote, and the log it boasts of, are durable.
        queue = self._messages if pre_vote else self._after_persist
        queue.extend((peer, request) for peer in self._peers if peer in self._quorum.voters)

    def _record_vote(self, voter: NodeId, *, granted: bool) -> None:
        """Count each voter once, its first word, in the campaign under way."""
        self._votes.setdefault(voter, granted)
        result = self._quorum.vote(self._votes)
        pre_vote = self.role is Role.PRE_CANDIDATE
        if result is VoteResult.WON and pre_vote:
            self._become_candidate(RoleEvent.PRE_VOTE_WON)
        elif result is VoteResult.WON:
            self._become_leader()
        elif result is VoteResult.LOST:
            event = RoleEvent.PRE_VOTE_LOST if pre_vote else RoleEvent.VOTE_LOST
            self._become_follower(event, self.term, None)

    def _become_leader(self) -> None:
        assert self.vote == self.node_id, "a leader has voted for itself"
        assert self._durable_term == self.term, "a leader's term is durable"
        self._move(RoleEvent.VOTE_WON)
        self.leader = self.node_id
        self._votes = {}
        self._heard_of_leader = True
        lease_us = self.config.lease_ms * 1000
        self._lease = LeaderLease(self.node_id, self._peers, self._quorum, lease_us, self._round)
        next_index = Index(self._log.last_index + 1)
        limit = self.config.inflight_messages_max
        self._progress = {
            peer: Progress(next_index, limit, self._round, self._ticked_us) for peer in self._peers
        }
        self._noop_index = self._append(EntryKind.NOOP, b"")
        self._events.info("became_leader", term=self.term, last_index=self._log.last_index)

    # ── elections: messages ─────────────────────────────────────────────────────────────────────────────────

    def _on_request_pre_vote(self, from_node: NodeId, message: RequestVote) -> None:
        granted = (
            message.term > self.term
            and not self._has_promised()
            and self._log.is_up_to_date(message.last_index, message.last_term)
        )
        term = message.term if granted else self.term
        self._messages.append((from_node, VoteResponse(term, granted, pre_vote=True)))

    def _on_request_vote(self, from_node: NodeId, message: RequestVote) -> None:
        if message.term >= self.term and self._has_promised() and not message.transfer:
            # Not even the term is taken over: a node that cannot win must not depose a working leader
            # (4.2.3).
            self._events.debug("vote_withheld", term=self.term, candidate=from_node)
            return
        if message.term > self.term:
            self._become_follower(RoleEvent.HIGHER_TERM, message.term, None)
        granted = (
            message.term == self.term
            and self.vote in (None, from_node)
            and self._log.is_up_to_date(message.last_index, message.last_term)
        )
        if granted:
            self._become_follower(RoleEvent.VOTE_GRANTED, self.term, None)
            self.vote = from_node
            self._election_elapsed_us = 0
            self._events.info("vote_granted", term=self.term, candidate=from_node)
        self._after_persist.append((from_node, VoteResponse(self.term, granted)))

    def _on_pre_vote_response(self, from_node: NodeId, message: VoteResponse) -> None:
        if not message.granted and message.term > self.term:
            self._become_follower(RoleEvent.HIGHER_TERM, message.term, None)
        elif self.role is Role.PRE_CANDIDATE and (not message.granted or message.term == self.term + 1):
            self._record_vote(from_node, granted=message.granted)

    def _on_vote_response(self, from_node: NodeId, message: VoteResponse) -> None:
        if message.term > self.term:
            self._become_follower(RoleEvent.HIGHER_TERM, message.term, None)
        elif self.role is Role.CANDIDATE and message.term == self.term:
            self._record_vote(from_node, granted=message.granted)

    # ── replication: follower ───────────────────────────────────────────────────────────────────────────────

    def _on_append_entries(self, from_node: NodeId, message: AppendEntries) -> None:
        if message.term < self.term:
            # It must learn that its time is over, or it would lead a minority for ever and we could not
            # follow it.
            stale = AppendResponse(self.term, False, Index(0), Term(0), message.round)
            self._reply_to_append(from_node, stale)
            return
        assert message.term > self.term or self.role is not Role.LEADER, "two leaders in one term"
        if message.term > self.term or self.role is not Role.FOLLOWER:
            self._become_follower(RoleEvent.LEADER_HEARD, message.term, from_node)
        else:
            self._hear_leader(from_node)
        if not self._log.matches(message.prev_index, message.prev_term):
            self._reject_append(from_node, message)
            return
        verified = Index(message.prev_index + len(message.entries))
        if message.entries:
            assert message.entries[0].index == message.prev_index + 1, "entries follow prev_index"
            assert message.entries[-1].index == verified, "entries must leave no gap"
            truncated = self._log.append_matching(message.entries)
            if truncated is not None:
                self._persists.truncated(truncated)
                self._events.info("log_truncated", term=self.term, from_index=truncated)
        self.leader_commit_index = max(self.leader_commit_index, message.commit_index)
        self._log.maybe_commit(min(message.commit_index, verified))
        self._acknowledge(from_node, message, verified)

    def _reject_append(self, leader: NodeId, message: AppendEntries) -> None:
        hint_index, hint_term = self._log.hint(message.prev_index, message.prev_term)
        self._events.debug("append_rejected", term=self.term, prev_index=message.prev_index, hint=hint_index)
        reply = AppendResponse(self.term, False, Index(0), Term(0), message.round, hint_index, hint_term)
        self._reply_to_append(leader, reply)

    def _acknowledge(self, leader: NodeId, message: AppendEntries, verified: Index) -> None:
        """Entries are acknowledged when they are durable. A heartbeat is answered at once, with what is
        durable already."""
        log = self._log
        index = verified if message.entries else min(verified, log.stable_index)
        if index < log.first_index - 1:
            index = Index(0)  # compacted: we agree there, but can no longer say in which term it was
        reply = AppendResponse(self.term, True, index, log.term(index), message.round)
        self._reply_to_append(leader, reply)

    def _reply_to_append(self, leader: NodeId, reply: AppendResponse) -> None:
        """At once if what it says is durable already: our term and the log up to match_index."""
        durable = reply.match_index <= self._log.stable_index and self._durable_term == self.term
        _add_reply(self._messages if durable else self._after_persist, leader, reply)

    # ── replication: leader ─────────────────────────────────────────────────────────────────────────────────

    def _append(self, kind: EntryKind, payload: bytes) -> Index:
        index = Index(self._log.last_index + 1)
        self._log.append(Entry(index, self.term, kind, payload))
        self._send_wanted = True
        return index

    def _on_append_response(self, from_node: NodeId, message: AppendResponse) -> None:
        if message.term > self.term:
            self._become_follower(RoleEvent.HIGHER_TERM, message.term, None)
            return
        progress = self._progress.get(from_node)
        if message.term < self.term or progress is None or self._ignore_foreign_ack(from_node, message):
            return
        assert self._lease is not None
        progress.heard_ticked_us = self._ticked_us
        self._lease.answered(from_node, message.round)
        if message.success:
            rose = progress.maybe_match(message.match_index, message.round)
            if rose and message.match_index > self._log.commit_index:
                self._maybe_commit()
        elif not progress.ignore_rejection(message.round):
            self._back_up(from_node, progress, message)
        if self._transfer is not None:
            self._maybe_send_timeout_now(from_node)
        if progress.next_index <= self._log.last_index and progress.can_send():
            self._send_wanted = True
        if self._read_wanted and self._lease.confirms(self._read_sent_round):
            self._send_wanted = True

    def _ignore_foreign_ack(self, from_node: NodeId, message: AppendResponse) -> bool:
        """An ack must name an entry of *our* log: same index, same term (regression 12)."""
        log = self._log
        if not message.success or log.first_index - 1 > message.match_index:
            return False
        if message.match_index <= log.last_index and log.term(message.match_index) == message.match_term:
            return False
        self._events.warning("ack_ignored", from_node=from_node, match_index=message.match_index)
        return True

    def _back_up(self, peer: NodeId, progress: Progress, message: AppendResponse) -> None:
        """The peer has not what we supposed. Go back to where the logs may agree (3.5)."""
        if message.hint_index < self._log.first_index - 1:
            self._needs_snapshot(peer, progress)
            return
        high = min(message.hint_index, self._log.last_index)
        next_index = Index(self._log.newest_of_term(high, message.hint_term) + 1)
        stuck = progress.state is ProgressState.PROBE and (
            max(next_index, progress.match_index + 1) >= progress.next_index
        )
        progress.become_probe(min(next_index, progress.next_index), self._last_round())
        if stuck:
            # It denies what it acknowledged. Never retried faster than heartbeats, and never believed.
            self._events.warning("peer_forgot_entries", peer=peer, match_index=progress.match_index)
            progress.probe_sent = True

    def _last_round(self) -> int:
        assert self._lease is not None
        return self._lease.round

    def _maybe_commit(self) -> bool:
        """Commit by counting, but only up to an entry of our own term (3.6.2)."""
        matched = {peer: int(self._progress[peer].match_index) for peer in self._peers}
        matched[self.node_id] = self._log.stable_index
        index = Index(self._quorum.value(matched))
        if index <= self._log.commit_index or self._log.term(index) != self.term:
            return False
        return self._log.maybe_commit(index)

    def _send_appends(self) -> None:
        """Fill every peer's window; then heartbeats to those that got nothing and are due."""
        lease = self._lease
        assert lease is not None
        if self._read_wanted and (
            self._read_sent_round == _NO_READ_ROUND or lease.confirms(self._read_sent_round)
        ):
            self._read_wanted = False
            self._read_sent_round = lease.round + 1
            for peer in self._peers:
                self._progress[peer].heartbeat_due |= peer in self._quorum.voters
        last_index = self._log.last_index
        for peer in self._peers:
            progress = self._progress[peer]
            while progress.next_index <= last_index and progress.can_send():
                self._send_entries(peer, progress)
            if progress.heartbeat_due:
                self._send_heartbeat(peer, progress)

    def _send_entries(self, peer: NodeId, progress: Progress) -> None:
        if progress.next_index < self._log.first_index:
            self._needs_snapshot(peer, progress)
            return
        entries = self._log.slice_to_send(progress.next_index, self.config.message_bytes_max)
        self._send_append(peer, progress, Index(progress.next_index - 1), entries)
        progress.sent_entries(entries[-1].index)

    def _send_heartbeat(self, peer: NodeId, progress: Progress) -> None:
        at_start = progress.state is ProgressState.SNAPSHOT  # where every log agrees
        prev_index = Index(0) if at_start else Index(progress.next_index - 1)
        self._send_append(peer, progress, prev_index, ())

    def _send_append(
        self, peer: NodeId, progress: Progress, prev_index: Index, entries: tuple[Entry, ...]
    ) -> None:
        assert self._lease is not None
        round_ = self._lease.draw(peer, self._now_us)
        prev_term = self._log.term(prev_index) if prev_index else Term(0)
        append = AppendEntries(self.term, prev_index, prev_term, entries, self._log.commit_index, round_)
        self._messages.append((peer, append))
        progress.sent_at_us = self._now_us
        progress.heartbeat_due = False

    def _needs_snapshot(self, peer: NodeId, progress: Progress) -> None:
        progress.become_snapshot()
        self._events.warning("peer_needs_snapshot", peer=peer, first_index=self._log.first_index)

    # ── transfer of leadership ──────────────────────────────────────────────────────────────────────────────

    def _transfer_target(self, to: NodeId | None) -> NodeId:
        """Who shall lead next. ValueError if nobody can."""
        live = [
            peer
            for peer in self._peers
            if peer in self.membership.voters
            and self._progress[peer].heard_ticked_us + self._promise_us >= self._ticked_us
        ]
        if to is None:
            if not live:
                raise ValueError("no other voter answers")
            return max(live, key=lambda peer: self._progress[peer].match_index)  # the first of equals
        if to == self.node_id:
            raise ValueError(f"{to} is the leader already")
        if to not in self.membership.voters:
            raise ValueError(f"{to} is not a voter of this shard")
        if to not in live:
            raise ValueError(f"{to} does not answer")
        return to

    def _maybe_send_timeout_now(self, peer: NodeId) -> bool:
        """Once the target has everything, tell it to campaign."""
        transfer, lease = self._transfer, self._lease
        assert transfer is not None
        assert lease is not None
        caught_up = self._progress[peer].match_index == self._log.last_index
        if peer != transfer.to or transfer.timeout_now_sent or not caught_up:
            return False
        transfer.timeout_now_sent = True
        lease.void = True  # before the message leaves, and for the rest of this term
        self._messages.append((peer, TimeoutNow(self.term)))
        return True

    def _abort_transfer(self) -> None:
        assert self._transfer is not None
        self._events.warning("transfer_aborted", term=self.term, to=self._transfer.to)
        self._transfer = None

    def _on_timeout_now(self, from_node: NodeId, message: TimeoutNow) -> None:
        if message.term < self.term or self.is_learner or self.role is Role.LEADER:
            self._events.debug("timeout_now_ignored", term=self.term, from_node=from_node)
            return
        if message.term > self.term or self.role is not Role.FOLLOWER:
            self._become_follower(RoleEvent.LEADER_HEARD, message.term, from_node)
        self._become_candidate(RoleEvent.TIMEOUT_NOW)

    # ── hard state ──────────────────────────────────────────────────────────────────────────────────────────

    def _take_hard_state(self) -> HardState | None:
        handed = self._handed_hard_state
        if self.term == handed.term and self.vote == handed.vote:
            return None
        self._handed_hard_state = HardState(self.term, self.vote)
        return self._handed_hard_state


def _add_reply(queue: list[tuple[NodeId, Message]], to: NodeId, reply: AppendResponse) -> None:
    """One ack for many: a success that says more replaces the one queued just before it."""
    if queue:
        last_to, last = queue[-1]
        if (
            last_to == to
            and type(last) is AppendResponse
            and last.success
            and last.term == reply.term
            and last.round <= reply.round
            and last.match_index <= reply.match_index
        ):
            queue[-1] = (to, reply)
            return
    queue.append((to, reply))
