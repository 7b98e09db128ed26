"""What must hold of a whole group, whatever happens: the five properties of Raft (figure 3.2) and ours on
top.

`Safety` watches from outside. It sees every node after every step and every durable write, and remembers more
than any node does: all leaders, all entries, all commits there ever were.

* election safety: a term has one leader; a node's durable vote in a term never changes
* log matching: entries of equal index and term are equal, and so are their predecessors
* leader completeness: a new leader has everything that was committed in earlier terms
* state machine safety: nodes apply the same entries, in order, and only what was committed; commit_index
  never goes back in a life
* durability: what is committed is, from then on for ever, on the disks of a quorum
* lease: while a lease is valid no newer leader exists, and its holder has seen every commit there is
* read rounds: a confirmed read sees every commit that was known anywhere when it began
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.raft import Entry, EntryKind, HardState, MemoryStorage, Quorum, RaftNode, Role
from cluster.types import Index, NodeId, Term

NO_INDEX, NO_TERM = Index(0), Term(0)
Content = tuple[Term, EntryKind, bytes]


@dataclass
class Read:
    """A ReadIndex read under way."""

    round: int
    floor: Index  # highest commit known anywhere when it began


@dataclass
class View:
    """What was last seen of one life of one node."""

    commit_index: Index = NO_INDEX
    role: Role = Role.FOLLOWER
    term: Term = NO_TERM
    log_end: tuple[Index, Term] | None = None
    reads: list[Read] = field(default_factory=list)


class Safety:
    def __init__(self, quorum: Quorum, storages: Mapping[NodeId, MemoryStorage]) -> None:
        self._quorum = quorum
        self._storages = storages
        self._leaders: dict[Term, NodeId] = {}
        self._entries: dict[
            tuple[Index, Term], tuple[Term, EntryKind, bytes]
        ] = {}  # (term before, kind, payload)
        self.committed: dict[Index, Content] = {}
        self._committed_in: dict[Index, Term] = {}  # the term in which that happened
        self._votes: dict[tuple[NodeId, Term], NodeId] = {}
        self._views: dict[NodeId, View] = {}
        self.reads_confirmed = 0
        self.leases_seen = 0

    def born(self, node_id: NodeId) -> None:
        """A new life: it may know less than the last one did."""
        self._views[node_id] = View()

    def committed_max(self) -> Index:
        return Index(len(self.committed))

    def begin_read(self, node: RaftNode) -> None:
        self._views[node.node_id].reads.append(Read(node.read_round(), self.committed_max()))

    def check_node(self, node: RaftNode) -> None:
        """After every step of `node`."""
        node.check_invariants()
        view = self._views[node.node_id]
        self._check_log_matching(node, view)
        if node.role is Role.LEADER and (view.role is not Role.LEADER or view.term != node.term):
            self._check_new_leader(node)
        assert node.term >= view.term, "term went back"
        assert node.commit_index >= view.commit_index, "commit_index went back"
        for index in range(view.commit_index + 1, node.commit_index + 1):
            self._check_commit(node, Index(index))
        view.commit_index, view.role, view.term = node.commit_index, node.role, node.term
        self._check_reads(node, view)

    def check_lease(self, node: RaftNode, now_us: int) -> None:
        """At any instant, for every living node, also a stopped one: it may wake just now."""
        if node.lease_valid(now_us):
            self.leases_seen += 1
            assert node.term == max(self._leaders), "a lease beside a newer leader"
            assert node.commit_index == self.committed_max(), "a leaseholder that misses a commit"

    def check_applied(self, entries: list[Entry], entry: Entry) -> None:
        """`entry` is about to be applied after `entries`."""
        assert entry.index == (entries[-1].index + 1 if entries else 1), "applied out of order"
        assert self.committed[entry.index] == (entry.term, entry.kind, entry.payload), (
            "applied something else"
        )

    def check_write(self, node_id: NodeId, hard_state: HardState | None, overwritten: Index | None) -> None:
        """After a durable write; `overwritten`: the first index that was replaced by it."""
        if hard_state is not None and hard_state.vote is not None:
            vote = self._votes.setdefault((node_id, hard_state.term), hard_state.vote)
            assert vote == hard_state.vote, "two votes in one term"
        if overwritten is not None:
            for index in range(overwritten, self.committed_max() + 1):
                self._check_durable(Index(index))

    def _check_log_matching(self, node: RaftNode, view: View) -> None:
        end = (node.last_index, node.term_at(node.last_index))
        if end == view.log_end:
            return
        view.log_end = end
        before = Term(0)
        for entry in node.entries(Index(1), node.last_index, 1 << 40):
            content = (before, entry.kind, entry.payload)
            known = self._entries.setdefault((entry.index, entry.term), content)
            assert known == content, "logs differ before an equal entry"
            before = entry.term

    def _check_new_leader(self, node: RaftNode) -> None:
        assert self._leaders.setdefault(node.term, node.node_id) == node.node_id, "two leaders in one term"
        for index, (term, _, _) in self.committed.items():
            if self._committed_in[index] >= node.term:
                continue  # a leader of an old term whose votes came in late; nobody will follow it
            assert index <= node.last_index, "a leader lacks a committed entry"
            assert node.term_at(index) == term, "a leader has another entry where one was committed"

    def _check_commit(self, node: RaftNode, index: Index) -> None:
        entry = node.entries(index, index, 1)[0]
        content = (entry.term, entry.kind, entry.payload)
        if index not in self.committed:
            self.committed[index] = content
            self._committed_in[index] = node.term
            self._check_durable(index)
        assert self.committed[index] == content, "two entries committed at one index"

    def _check_durable(self, index: Index) -> None:
        term = self.committed[index][0]
        has = {
            voter: int(storage.last_index >= index and storage.term(index) == term)
            for voter, storage in self._storages.items()
        }
        assert self._quorum.value(has) == 1, f"entry {index} is committed but not durable on a quorum"

    def _check_reads(self, node: RaftNode, view: View) -> None:
        if node.role is not Role.LEADER:
            view.reads.clear()
        for read in [read for read in view.reads if node.read_confirmed(read.round)]:
            assert node.commit_index >= read.floor, "a confirmed read misses a commit"
            view.reads.remove(read)
            self.reads_confirmed += 1
