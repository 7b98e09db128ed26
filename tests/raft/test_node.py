"""What the golden scripts cannot show well: counts, sizes, order and refusals."""

import random
from collections.abc import Sequence

import pytest

from cluster.errors import ConfigError, NotLeader
from cluster.raft import (
    TRANSITIONS,
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    HardState,
    Membership,
    MemoryStorage,
    Message,
    RaftConfig,
    RaftNode,
    Ready,
    RequestVote,
    Role,
    VoteResponse,
)
from cluster.types import Index, Log, NodeId, NullLog, Term
from tests.raft.harness import Cluster, FixedRng, Member, preset_storage

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
TRIO = Membership(frozenset({A, B, C}))
MS = 1000


class Peer:
    """One node, and the test as everybody else."""

    def __init__(
        self,
        config: RaftConfig | None = None,
        membership: Membership = TRIO,
        storage: MemoryStorage | None = None,
        rng: random.Random | None = None,
        log: Log | None = None,
    ) -> None:
        self.now_us = 0
        self.storage = storage or MemoryStorage()
        self.node = RaftNode(
            node_id=A,
            membership=membership,
            config=config or RaftConfig(),
            storage=self.storage,
            rng=rng or FixedRng(150),
            now_us=0,
            log=log or NullLog(),
        )

    def role(self) -> str:
        return self.node.role.value

    def ready(self) -> Ready:
        """Take one Ready; its writes are done by `write`."""
        ready = self.node.ready()
        self.node.check_invariants()
        return ready

    def write(self, ready: Ready) -> list[tuple[NodeId, Message]]:
        """Make it durable; the messages that waited for that."""
        assert ready.persist is not None
        self.storage.append(ready.hard_state, ready.entries)
        self.node.persisted(ready.persist, self.now_us)
        self.node.check_invariants()
        return list(ready.messages_after_persist)

    def settle(self) -> list[tuple[NodeId, Message]]:
        """Everything at once; all messages in the order in which they may leave."""
        sent: list[tuple[NodeId, Message]] = []
        while self.node.has_ready():
            ready = self.ready()
            sent += ready.messages
            if ready.persist is not None:
                sent += self.write(ready)
        return sent

    def pass_time(self, ms: int) -> list[tuple[NodeId, Message]]:
        sent = []
        for _ in range(ms // 10):
            self.now_us += 10 * MS
            self.node.tick(self.now_us)
            sent += self.settle()
        return sent

    def get(self, from_node: NodeId, message: Message) -> list[tuple[NodeId, Message]]:
        self.node.step(from_node, message, self.now_us)
        return self.settle()

    def answer(self, sent: Sequence[tuple[NodeId, Message]]) -> list[tuple[NodeId, Message]]:
        """Every peer accepts every append in `sent`; what comes of it."""
        for to, message in sent:
            if isinstance(message, AppendEntries):
                index = Index(message.prev_index + len(message.entries))
                term = message.entries[-1].term if message.entries else message.prev_term
                self.node.step(
                    to, AppendResponse(message.term, True, index, term, message.round), self.now_us
                )
        return self.settle()

    def lead(self) -> None:
        """Elected, no-op committed, nothing in flight."""
        self.pass_time(150)
        self.get(B, VoteResponse(Term(self.node.term + 1), True, pre_vote=True))
        sent = self.get(B, VoteResponse(self.node.term, True))
        while sent:
            sent = self.answer(sent)
        assert self.node.is_leader
        assert self.node.commit_index == self.node.last_index


def appends(sent: Sequence[tuple[NodeId, Message]], to: NodeId) -> list[AppendEntries]:
    return [message for peer, message in sent if peer == to and isinstance(message, AppendEntries)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lease_ms", 126),
        ("lease_ms", 0),
        ("election_timeout_max_ms", 150),
        ("heartbeat_ms", 100),
        ("inflight_messages_max", 0),
    ],
)
def test_settings_that_contradict_each_other_are_refused(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match="raft: "):
        RaftConfig(**{field: value})  # type: ignore[arg-type] # one field by its name


def test_every_role_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(Role)
    assert {role for moves in TRANSITIONS.values() for role in moves.values()} == set(Role)


def test_an_idle_leader_sends_one_heartbeat_per_interval_and_peer() -> None:
    peer = Peer()
    peer.lead()
    count = 0
    for _ in range(100):
        sent = peer.pass_time(10)
        count += len(appends(sent, B))
        peer.answer(sent)
    assert 20 <= count <= 25


def test_an_append_stream_carries_no_heartbeats_beside_it() -> None:
    peer = Peer()
    peer.lead()
    for _ in range(50):
        peer.node.propose(EntryKind.EFFECTS, b"x")
        sent = peer.settle() + peer.pass_time(10)
        assert all(append.entries for append in appends(sent, B))
        peer.answer(sent)


def test_proposals_that_gather_travel_in_one_message() -> None:
    peer = Peer()
    peer.lead()
    for _ in range(10):
        peer.node.propose(EntryKind.EFFECTS, b"x")
    (append,) = appends(peer.settle(), B)
    assert len(append.entries) == 10


def test_the_window_is_bounded_and_what_waited_then_goes_at_once() -> None:
    peer = Peer(RaftConfig(inflight_messages_max=3))
    peer.lead()
    sent = []
    for _ in range(10):
        peer.node.propose(EntryKind.EFFECTS, b"x")
        sent += peer.settle()
    first = appends(sent, B)
    assert [len(append.entries) for append in first] == [1, 1, 1]
    (late,) = appends(peer.answer([(B, first[0])]), B)
    assert len(late.entries) == 7


def test_messages_keep_to_their_size_unless_one_entry_is_larger() -> None:
    peer = Peer(RaftConfig(message_bytes_max=100))
    peer.lead()
    for size in (40, 40, 40, 500, 40):
        peer.node.propose(EntryKind.EFFECTS, b"x" * size)
    sizes = [[len(e.payload) for e in append.entries] for append in appends(peer.settle(), B)]
    assert sizes == [[40, 40], [40], [500], [40]]


def test_many_reads_share_one_round_of_heartbeats() -> None:
    peer = Peer()
    peer.lead()
    rounds = {peer.node.read_round() for _ in range(10)}
    first = peer.settle()
    assert len(rounds) == 1
    assert len(first) == 2
    later = peer.node.read_round()
    assert peer.settle() == [], "the first ones are under way"
    second = peer.answer(first)
    assert all(peer.node.read_confirmed(round_) for round_ in rounds)
    assert not peer.node.read_confirmed(later)
    assert len(second) == 2
    peer.answer(second)
    assert peer.node.read_confirmed(later)


def test_a_read_of_an_earlier_leadership_is_never_confirmed() -> None:
    peer = Peer()
    peer.lead()
    old = peer.node.read_round()
    peer.settle()
    peer.get(B, AppendResponse(Term(5), False, Index(0), Term(0), 0))
    assert peer.node.role is Role.FOLLOWER
    peer.lead()
    assert not peer.node.read_confirmed(old)
    round_ = peer.node.read_round()
    peer.answer(peer.settle())
    assert peer.node.read_confirmed(round_)
    assert not peer.node.read_confirmed(old)


def test_the_lease_counts_from_the_sending_not_from_the_answer() -> None:
    peer = Peer()
    peer.lead()
    peer.answer(peer.pass_time(100))
    sent_at = peer.now_us
    peer.node.read_round()
    sent = peer.settle()
    peer.now_us += 100 * MS
    peer.answer(sent)
    assert peer.node.lease_valid(sent_at + 110 * MS - 1)
    assert not peer.node.lease_valid(sent_at + 110 * MS)


def test_a_rejection_is_also_an_answer_of_a_loyal_follower() -> None:
    peer = Peer()
    peer.lead()
    peer.now_us += 500 * MS
    round_ = peer.node.read_round()
    (append,) = appends(peer.settle(), B)
    assert not peer.node.lease_valid(peer.now_us)
    peer.get(B, AppendResponse(peer.node.term, False, Index(0), Term(0), append.round, Index(0), Term(0)))
    assert peer.node.read_confirmed(round_)


def test_messages_wait_for_earlier_writes_also_when_their_own_ready_writes_nothing() -> None:
    peer = Peer()
    entry = Entry(Index(1), Term(1), EntryKind.NOOP, b"")
    peer.node.step(B, AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 1), 0)
    first = peer.ready()
    peer.node.step(B, AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 2), 0)
    second = peer.ready()
    assert not second.entries
    assert second.hard_state is None
    assert second.persist is not None
    assert [type(message) for _, message in second.messages_after_persist] == [AppendResponse]
    assert not first.messages
    assert not second.messages
    peer.write(first)
    peer.write(second)
    assert peer.node.stable_index == 1
    (_, ack) = peer.get(B, AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 3))[0]
    assert isinstance(ack, AppendResponse), "nothing under way any more: it leaves at once"


def test_the_newest_token_stands_for_all_earlier_ones() -> None:
    peer = Peer(membership=Membership(frozenset({A})))
    peer.lead()
    readies = []
    for text in (b"1", b"2", b"3"):
        peer.node.propose(EntryKind.EFFECTS, text)
        readies.append(peer.ready())
    for ready in readies:
        peer.storage.append(ready.hard_state, ready.entries)
    assert readies[-1].persist is not None
    peer.node.persisted(readies[-1].persist, peer.now_us)
    assert peer.node.commit_index == peer.node.last_index == 4


def test_a_long_replay_is_handed_out_in_pieces() -> None:
    entries = [Entry(Index(i), Term(1), EntryKind.EFFECTS, b"x" * 10) for i in range(1, 101)]
    storage = MemoryStorage(HardState(Term(1), None), entries)
    peer = Peer(RaftConfig(apply_bytes_max=95), storage=storage)
    peer.node.step(B, AppendEntries(Term(1), Index(100), Term(1), (), Index(100), 1), 0)
    pieces = []
    while peer.node.has_ready():
        ready = peer.ready()
        pieces.append(list(ready.committed))
        if ready.persist is not None:
            peer.write(ready)
    assert [entry for piece in pieces for entry in piece] == entries
    assert max(len(piece) for piece in pieces) == 9


def test_old_entries_leave_memory_and_are_read_from_storage() -> None:
    peer = Peer(RaftConfig(cache_bytes_max=2000))
    peer.lead()
    for number in range(100):
        peer.node.propose(EntryKind.EFFECTS, b"%d" % number)
        peer.answer(peer.settle())
    assert len(peer.node._log.window()) < 20
    found = peer.node.entries(Index(2), Index(101), 1 << 20)
    assert [entry.payload for entry in found] == [b"%d" % number for number in range(100)]
    assert peer.node.term_at(Index(5)) == 1


def test_a_heartbeat_is_answered_while_the_disk_hangs_but_only_with_what_is_durable() -> None:
    peer = Peer()
    peer.get(B, AppendEntries(Term(1), Index(0), Term(0), (), Index(0), 1))
    entry = Entry(Index(1), Term(1), EntryKind.NOOP, b"")
    peer.node.step(B, AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 2), 0)
    hanging = peer.ready()
    peer.node.step(B, AppendEntries(Term(1), Index(1), Term(1), (), Index(1), 3), 0)
    ready = peer.ready()
    assert ready.messages == [(B, AppendResponse(Term(1), True, Index(0), Term(0), 3))]
    assert list(ready.committed) == [entry], "a quorum has it, this disk need not"
    assert hanging.messages_after_persist == [(B, AppendResponse(Term(1), True, Index(1), Term(1), 2))]


def test_many_appends_before_a_ready_are_acknowledged_by_one_message() -> None:
    peer = Peer()
    for number in range(1, 6):
        entry = Entry(Index(number), Term(1), EntryKind.EFFECTS, b"x")
        prev = (Index(number - 1), Term(1 if number > 1 else 0))
        peer.node.step(B, AppendEntries(Term(1), *prev, (entry,), Index(0), number), 0)
    assert peer.settle() == [(B, AppendResponse(Term(1), True, Index(5), Term(1), 5))]


def test_what_a_node_cannot_do_it_refuses() -> None:
    peer = Peer()
    with pytest.raises(NotLeader, match="a is follower"):
        peer.node.propose(EntryKind.EFFECTS, b"x")
    with pytest.raises(NotLeader):
        peer.node.read_round()
    with pytest.raises(ValueError, match="not the leader"):
        peer.node.transfer(None, 0)
    with pytest.raises(KeyError):
        peer.node.term_at(Index(1))
    peer.lead()
    with pytest.raises(ValueError, match="membership"):
        peer.node.propose(EntryKind.MEMBERSHIP, b"")
    peer.node.transfer(B, peer.now_us)
    assert peer.node.transferring_to == B
    with pytest.raises(NotLeader, match="handing over to b"):
        peer.node.propose(EntryKind.EFFECTS, b"x")
    with pytest.raises(ValueError, match="already handing over"):
        peer.node.transfer(C, peer.now_us)


def test_a_learner_counts_neither_for_commits_nor_for_reads() -> None:
    peer = Peer(membership=Membership(frozenset({A, B}), learners=frozenset({C})))
    peer.lead()
    index = peer.node.propose(EntryKind.EFFECTS, b"x")
    sent = peer.settle()
    round_ = peer.node.read_round()
    sent += peer.settle()
    peer.answer([(to, message) for to, message in sent if to == C])
    assert peer.node.commit_index < index
    assert not peer.node.read_confirmed(round_)
    assert peer.node.match_indexes() == {A: index, B: index - 1, C: index}


def test_a_joint_membership_needs_both_majorities() -> None:
    d, e, f = NodeId("d"), NodeId("e"), NodeId("f")
    peer = Peer(membership=Membership(frozenset({A, B, C}), outgoing=frozenset({d, e, f})))
    peer.pass_time(150)
    for voter in (B, d):
        peer.get(voter, VoteResponse(Term(1), True, pre_vote=True))
    assert peer.role() == "pre_candidate"
    peer.get(e, VoteResponse(Term(1), True, pre_vote=True))
    assert peer.role() == "candidate"
    for voter in (B, C, d):
        peer.get(voter, VoteResponse(Term(1), True))
    assert peer.role() == "candidate"
    sent = peer.get(e, VoteResponse(Term(1), True))
    assert peer.role() == "leader"
    peer.answer([(to, message) for to, message in sent if to in (B, C, d)])
    assert peer.node.commit_index == 0
    peer.answer([(to, message) for to, message in sent if to == e])
    assert peer.node.commit_index == 1


def first_campaign_ms(config: RaftConfig, seed: int) -> int:
    peer = Peer(config, rng=random.Random(seed))
    ms = 0
    while peer.node.role is Role.FOLLOWER:
        peer.pass_time(10)
        ms += 10
    return ms


def test_the_preferred_leader_is_early_and_the_reluctant_member_late() -> None:
    preferred = [first_campaign_ms(RaftConfig(preferred=True), seed) for seed in range(20)]
    usual = [first_campaign_ms(RaftConfig(), seed) for seed in range(20)]
    reluctant = [first_campaign_ms(RaftConfig(reluctant=True), seed) for seed in range(20)]
    assert 150 <= min(preferred) <= max(preferred) <= 170
    assert 150 <= min(usual) < 200 < max(usual) <= 310
    assert 450 <= min(reluctant) <= max(reluctant) <= 610


def test_in_a_new_group_the_others_leave_the_first_election_to_the_preferred_one() -> None:
    yielding = [first_campaign_ms(RaftConfig(yield_ms=1_500), seed) for seed in range(20)]
    assert 1_650 <= min(yielding) <= max(yielding) <= 1_810
    assert first_campaign_ms(RaftConfig(preferred=True), 1) < 200


class LeveledLog(NullLog):
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.told.append(("debug", event))

    def info(self, event: str, **fields: object) -> None:
        self.told.append(("info", event))


@pytest.mark.parametrize("refused", [False, True])
def test_of_a_row_of_campaigns_in_vain_only_the_first_is_told(refused: bool) -> None:
    """A node without a majority campaigns for ever, several times a second."""
    log = LeveledLog()
    peer = Peer(log=log)

    def campaigns(count: int) -> list[str]:
        """The levels at which so many of them are told."""
        log.told.clear()
        while sum(event == "became_pre_candidate" for _, event in log.told) < count:
            for to, message in peer.pass_time(10):
                if refused and isinstance(message, RequestVote):
                    peer.get(to, VoteResponse(peer.node.term, False, pre_vote=True))
        return [level for level, event in log.told if event in ("became_pre_candidate", "became_follower")]

    told = campaigns(4)
    assert told[:2] == (["info", "info"] if refused else ["info", "debug"])
    assert told.count("info") == (2 if refused else 1)
    assert len(told) == (8 if refused else 4)
    peer.get(B, AppendEntries(Term(1), Index(0), Term(0), (), Index(0), 1))
    assert campaigns(2)[0] == "info", "a new row begins once a leader was heard"


def test_a_refused_pre_candidate_asks_again_soon() -> None:
    """The leader died; another voter heard it last, a moment later, and keeps its promise a moment longer."""
    peer = Peer(rng=FixedRng(300))
    peer.pass_time(300)
    peer.get(B, VoteResponse(Term(0), False, pre_vote=True))
    peer.get(C, VoteResponse(Term(0), False, pre_vote=True))
    assert peer.role() == "follower"
    assert any(isinstance(message, RequestVote) for _, message in peer.pass_time(150))


def test_a_vote_request_within_a_promise_changes_nothing_at_all() -> None:
    peer = Peer()
    peer.get(B, AppendEntries(Term(3), Index(0), Term(0), (), Index(0), 1))
    assert peer.get(C, RequestVote(Term(7), Index(9), Term(6))) == []
    assert (peer.node.term, peer.node.vote, peer.node.leader) == (3, None, B)


class CompactedStorage(MemoryStorage):
    """The first entries are gone: what 4/5 will make of every log."""

    def __init__(self, first_index: int, entries: Sequence[Entry]) -> None:
        super().__init__(HardState(Term(1), None), entries)
        self._first = Index(first_index)

    @property
    def first_index(self) -> Index:
        return self._first

    def term(self, index: Index) -> Term:
        if 0 <= index < self._first - 1:
            raise KeyError(index)
        return super().term(index)


def test_a_peer_that_needs_a_compacted_entry_gets_heartbeats_only_and_still_counts_as_loyal() -> None:
    entries = [Entry(Index(i), Term(1), EntryKind.EFFECTS, b"x") for i in range(1, 11)]
    peer = Peer(storage=CompactedStorage(6, entries), membership=Membership(frozenset({A, B})))
    assert peer.node.commit_index == 5
    peer.pass_time(150)
    peer.get(B, VoteResponse(Term(2), True, pre_vote=True))
    (append,) = appends(peer.get(B, VoteResponse(Term(2), True)), B)
    peer.get(B, AppendResponse(Term(2), False, Index(0), Term(0), append.round, Index(2), Term(1)))
    (heartbeat,) = appends(peer.pass_time(40), B)
    assert (heartbeat.prev_index, heartbeat.prev_term, heartbeat.entries) == (0, 0, ())
    round_ = peer.node._last_round()
    peer.answer([(B, heartbeat)])
    assert peer.node._lease is not None
    assert peer.node._lease.confirms(round_)
    assert peer.node.match_indexes()[B] == 0


def test_a_peer_that_denies_what_it_acknowledged_is_not_asked_faster_than_by_heartbeats() -> None:
    """A follower with a wiped disk that came back under its old name: it must not be believed, nor melt the
    wire."""
    peer = Peer()
    peer.lead()
    sent = 0
    for _ in range(100):
        for append in appends(peer.pass_time(10), B):
            sent += 1
            reply = AppendResponse(peer.node.term, False, Index(0), Term(0), append.round, Index(0), Term(0))
            sent += len(appends(peer.get(B, reply), B))
    assert sent < 60
    assert peer.node.match_indexes()[B] == 1


def test_three_nodes_agree_on_a_thousand_entries_through_a_small_window() -> None:
    config = RaftConfig(inflight_messages_max=2, message_bytes_max=50, cache_bytes_max=500)
    members = [
        Member(NodeId(str(n)), preset_storage(0, None, ()), config, FixedRng(100 + 50 * n)) for n in (1, 2, 3)
    ]
    cluster = Cluster(members)
    for member in members:
        cluster.start(member.node_id)
    cluster.run(200)
    for number in range(1000):
        cluster.node("1").propose(EntryKind.EFFECTS, b"%d" % number)
        cluster.act(NodeId("1"), RaftNode.check_invariants)
        if number % 50 == 0:
            cluster.deliver_all()
    cluster.run(100)
    logs = [[entry.payload for entry in member.applied] for member in members]
    assert logs[0] == logs[1] == logs[2] == [b"", *(b"%d" % n for n in range(1000))]


def test_a_clock_that_jumps_ahead_breaks_no_promise_to_the_leader() -> None:
    """The leader's lease counts on it. A promise in absolute time alone would be over after such a jump."""
    peer = Peer()
    heartbeat = AppendEntries(Term(1), Index(0), Term(0), (), Index(0), 1)
    peer.node.step(B, heartbeat, 0)
    peer.settle()
    jumped = 3_600_000 * MS
    peer.node.tick(jumped)
    peer.node.step(C, RequestVote(Term(2), Index(9), Term(1), pre_vote=True), jumped)
    peer.node.step(C, RequestVote(Term(2), Index(9), Term(1)), jumped)
    replies = [message for _, message in peer.settle() if isinstance(message, VoteResponse)]
    assert replies == [VoteResponse(Term(1), False, pre_vote=True)]
    for tick in range(1, 20):
        peer.node.tick(jumped + tick * 10 * MS)
    peer.node.step(C, RequestVote(Term(2), Index(9), Term(1), pre_vote=True), jumped + 200 * MS)
    assert (C, VoteResponse(Term(2), True, pre_vote=True)) in peer.settle()


def test_a_node_whose_disk_stands_still_makes_up_one_term_and_no_more() -> None:
    """It can win no election, and every term that it speaks of sends the others' candidates back."""
    peer = Peer()
    terms = set()
    for tick in range(1, 400):
        peer.node.tick(tick * 10 * MS)
        while peer.node.has_ready():
            ready = peer.ready()  # what it wants written never is
            for to, message in ready.messages:
                if isinstance(message, RequestVote) and message.pre_vote:
                    answer = VoteResponse(message.term, True, pre_vote=True)
                    peer.node.step(to, answer, tick * 10 * MS)
        terms.add(peer.node.term)
    assert terms == {0, 1}
