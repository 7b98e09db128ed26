"""What must hold at every instant, watched from outside every node: `Safety` remembers more than any of them.

Checked after every event of a node, in the order of the Raft paper's figure 3.2 and then ours:

1. **Election safety**: a term has one leader; a node's durable vote in a term never changes.
2. **Log matching**: entries of equal index and term are equal, and so are their predecessors.
3. **Leader completeness**: a new leader has everything that was committed in earlier terms.
4. **State-machine safety**: what is committed at an index is committed there for ever, on every node.
5. **Durability**: what is committed is on the disks of a quorum from then on; what a node was told is durable
   is there after any crash (`on_recovered` compares).
6. **Commit is monotone**: in one life commit_index never falls and never passes the end of the log.
7. **Leases are disjoint**: no lease is valid beside a newer leader.
8. **No reply before commit, no read of uncommitted data**: when a reply leaves a node, every value it shows
   or acknowledges is in an entry that is committed (values are unique, so they can be looked up).
9. **A demoted engine serves nothing**: a node that is neither primary nor replica has no lane to its engine.
10. **One primary that can answer**: two nodes of a shard never both serve with a valid lease.

The raft core's own invariants are checked whenever an index, the term or the role has moved, and now and then
otherwise; its window of entries now and then.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.errors import WalCorrupt
from cluster.front.session import Route
from cluster.raft import Quorum, RaftNode, Role, invariants
from cluster.raft.journal import Written
from cluster.raft.messages import Entry, EntryKind, HardState, Membership
from cluster.shard.replica import Serving
from cluster.sim.history import Violation
from cluster.types import Index, NodeId, ShardId, Term

if TYPE_CHECKING:
    from cluster.sim.process import SimProcess
    from cluster.sim.simulation import Simulation

NO_TERM, NO_INDEX = Term(0), Index(0)
NO_STATE = HardState(NO_TERM, None)
VALUE = re.compile(rb"v[0-9]+(?![0-9])")
INVARIANT = "invariant"
UNCOMMITTED_REPLY = "uncommitted_reply"
ROLES_CHECK_EVERY = 16  # events in which no index moved
WINDOW_CHECK_EVERY = 512


@dataclass(slots=True)
class _View:
    """What was last seen of one life of one node."""

    term: Term = NO_TERM
    role: Role = Role.FOLLOWER
    commit_index: Index = NO_INDEX
    serving: Serving | None = None


@dataclass(slots=True)
class _Disk:
    """What a node was told is durable: the term of each entry, and term and vote."""

    terms: list[int] = field(default_factory=list)  # of entry i at i - 1
    hard_state: HardState = NO_STATE
    writing_from: int = 1 << 62  # a batch under way may replace entries from here on


@dataclass(slots=True)
class _Shard:
    quorum: Quorum
    voters: list[NodeId]
    leaders: dict[int, NodeId] = field(default_factory=dict)
    term_max: int = 0  # highest term that had a leader
    entries: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # (term before, crc)
    committed: list[int] = field(default_factory=list)  # term of entry i at i - 1
    committed_in: list[int] = field(default_factory=list)  # the term in which it was
    values: set[bytes] = field(default_factory=set)  # all unique values in committed entries


class Safety:
    """For the `azimuth` subject. AssertionError if anything is broken; the simulation makes a violation of
    it."""

    def __init__(self, sim: "Simulation") -> None:
        self._sim = sim
        self._views: dict[NodeId, _View] = {}
        self._disks: dict[NodeId, _Disk] = {node.id: _Disk() for node in sim.topology.nodes}
        self.shards: dict[ShardId, _Shard] = {}
        for shard in sim.topology.shards:
            voters = [node.id for node in shard.nodes]
            self.shards[shard.id] = _Shard(Quorum(Membership(voters=frozenset(voters))), voters)

    # -- disks -----------------------------------------------------------------------------------------

    def on_recovered(self, process: "SimProcess") -> None:
        """A life began: its log must hold what earlier lives were told is durable (5)."""
        self._views[process.id] = _View()
        wal = process.wal
        assert wal is not None
        disk = self._disks[process.id]
        told = disk.hard_state
        now = wal.hard_state
        kept = min(len(disk.terms), disk.writing_from - 1)
        if process.machine.disk.damaged and (wal.last_index < kept or now.term < told.term):
            # Rot in the last batch that nothing follows looks like a torn tail: one log cannot tell (see the
            # journal's chapter). Within the budget: such a node is taken out for good.
            raise WalCorrupt("the last batch was destroyed after it had been synced")
        assert now.term >= told.term, f"durable term {told.term} is {now.term} after recovery"
        if now.term == told.term:
            assert told.vote in (None, now.vote), f"durable vote {told.vote} is {now.vote} after recovery"
        assert wal.last_index >= kept, f"{kept} entries were durable, {wal.last_index} are left"
        for index in range(1, kept + 1):
            assert wal.term(Index(index)) == disk.terms[index - 1], f"durable entry {index} has changed"

    def on_opened(self, process: "SimProcess") -> None:
        """Recovery has synced what it found: that is durable now, whether or not anybody had been told."""
        disk, wal = self._disks[process.id], process.wal
        assert wal is not None
        disk.terms = [wal.term(Index(index)) for index in range(1, wal.last_index + 1)]
        disk.hard_state = wal.hard_state
        disk.writing_from = 1 << 62

    def on_persist(
        self, process: "SimProcess", hard_state: HardState | None, entries: Sequence[Entry]
    ) -> None:
        """The core hands entries out to be written (2)."""
        if not entries:
            return
        node = self._raft(process)
        shard = self.shards[process.spec.shard]
        before = node.term_at(Index(entries[0].index - 1))
        for entry in entries:
            known = (before, zlib.crc32(entry.payload) ^ entry.kind)
            assert shard.entries.setdefault((entry.index, entry.term), known) == known, (
                f"two entries {entry.index} of term {entry.term}"
            )
            before = entry.term
        disk = self._disks[process.id]
        disk.writing_from = min(disk.writing_from, entries[0].index)

    def on_written(self, process: "SimProcess", written: Written) -> None:
        """A node is told that a batch is durable (1, 5)."""
        disk = self._disks[process.id]
        if written.hard_state is not None:
            old, new = disk.hard_state, written.hard_state
            if old.term == new.term:
                assert old.vote in (None, new.vote), f"{process.id}: two votes in term {new.term}"
            disk.hard_state = new
        shard = self.shards[process.spec.shard]
        for entry in written.entries:
            if entry.index <= len(disk.terms):
                replaced = disk.terms[entry.index - 1]
                del disk.terms[entry.index - 1 :]
                disk.terms.append(entry.term)
                if replaced != entry.term:
                    for index in range(entry.index, len(shard.committed) + 1):
                        self._check_durable(shard, index)
            else:
                assert entry.index == len(disk.terms) + 1, "a gap in the durable log"
                disk.terms.append(entry.term)
        disk.writing_from = 1 << 62
        wal = process.wal
        if wal is not None:
            pending = wal.pending_from()
            if pending is not None:
                disk.writing_from = pending

    def _check_durable(self, shard: _Shard, index: int) -> None:
        term = shard.committed[index - 1]
        has = {}
        for voter in shard.voters:
            terms = self._disks[voter].terms
            has[voter] = int(len(terms) >= index and terms[index - 1] == term)
        assert shard.quorum.value(has) == 1, f"entry {index} is committed but not durable on a quorum"

    # -- nodes -----------------------------------------------------------------------------------------

    def _raft(self, process: "SimProcess") -> RaftNode:
        node: RaftNode = process.node.raft  # type: ignore[union-attr]  # only azimuth nodes are watched
        return node

    def observer(self, process: "SimProcess") -> Callable[[], None]:
        """What looks at this process after every event. Cheap when nothing has changed: it is the hottest
        function of a run."""
        raft = self._raft(process)
        log = raft._log
        replica = process.node.replica  # type: ignore[union-attr]
        view = self._views[process.id]
        shard = self.shards[process.spec.shard]
        seen = (0, 0, 0)
        events = 0

        def observe() -> None:
            nonlocal seen, events
            events += 1
            indexes = (log.last_index, log.stable_index, log.commit_index)
            if raft.term != view.term or raft.role is not view.role:
                invariants.check_roles(raft)
                self._on_role(process, raft, view)
            elif indexes != seen or not events % ROLES_CHECK_EVERY:
                invariants.check_roles(raft)
                if not events % WINDOW_CHECK_EVERY:
                    raft.check_invariants()
            seen = indexes
            if raft.commit_index != view.commit_index:
                self._on_commit(process, raft, view)
            if raft.term < shard.term_max and raft.role is Role.LEADER:
                assert not raft.lease_valid(process.now_us()), (
                    f"{process.id}: a lease beside a newer leader (7)"
                )
            if replica.serving is not view.serving:
                self._on_serving(process, replica.serving, view)

        return observe

    def _on_role(self, process: "SimProcess", raft: RaftNode, view: _View) -> None:
        assert raft.term >= view.term, f"{process.id}: the term went back"
        if raft.role is Role.LEADER and (view.role is not Role.LEADER or view.term != raft.term):
            self._on_leader(process, raft)
        view.term, view.role = raft.term, raft.role

    def _on_leader(self, process: "SimProcess", raft: RaftNode) -> None:
        shard = self.shards[process.spec.shard]
        known = shard.leaders.setdefault(raft.term, process.id)
        assert known == process.id, f"term {raft.term} has two leaders, {known} and {process.id} (1)"
        shard.term_max = max(shard.term_max, raft.term)
        for index in range(len(shard.committed), 0, -1):
            if shard.committed_in[index - 1] < raft.term:
                assert index <= raft.last_index, f"{process.id} leads without committed entry {index} (3)"
                assert raft.term_at(Index(index)) == shard.committed[index - 1], (
                    f"{process.id} leads with another entry {index} than was committed (3)"
                )
                break  # by log matching (2) everything before it is equal
        for voter in shard.voters:
            other = self._sim.machines[voter].process
            if other is not None and other is not process and other.node is not None:
                leader = self._raft(other)
                if leader.term < raft.term and leader.role is Role.LEADER:
                    assert not leader.lease_valid(other.now_us()), (
                        f"{process.id} leads term {raft.term}, {other.id} has a lease of {leader.term} (7)"
                    )

    def _on_commit(self, process: "SimProcess", raft: RaftNode, view: _View) -> None:
        assert raft.commit_index > view.commit_index, f"{process.id}: commit_index went back (6)"
        assert raft.commit_index <= raft.last_index, f"{process.id}: committed past the end (6)"
        shard = self.shards[process.spec.shard]
        committed = shard.committed
        for index in range(view.commit_index + 1, raft.commit_index + 1):
            term = raft.term_at(Index(index))
            if index > len(committed):
                entry = raft.entries(Index(index), Index(index), 1)[0]  # may find that the disk is rotten
                committed.append(term)
                shard.committed_in.append(raft.term)
                self._check_durable(shard, index)
                if entry.kind is EntryKind.EFFECTS:
                    shard.values.update(VALUE.findall(entry.payload))
            else:
                assert committed[index - 1] == term, f"two entries committed at {index} (4)"
        view.commit_index = raft.commit_index

    def _on_serving(self, process: "SimProcess", serving: Serving, view: _View) -> None:
        view.serving = serving
        node = process.node.inner  # type: ignore[union-attr]
        lanes = [route for (route, _), lane in node._lanes.items() if not lane.closed]
        if serving is not Serving.PRIMARY:
            assert Route.PRIMARY not in lanes, f"{process.id}: {serving.value} with a primary's lanes (9)"
        if serving not in (Serving.PRIMARY, Serving.REPLICA, Serving.PROMOTING):
            assert not lanes, f"{process.id}: {serving.value} with lanes to its engine (9)"
        # One that wakes up may believe to be primary for a moment: without a lease it says nothing.
        if serving is Serving.PRIMARY and self._raft(process).lease_valid(process.now_us()):
            for voter in self.shards[process.spec.shard].voters:
                other = self._sim.machines[voter].process
                if other is None or other is process or other.node is None:
                    continue
                if other.node.replica.serving is Serving.PRIMARY:  # type: ignore[attr-defined]
                    assert not self._raft(other).lease_valid(other.now_us()), (
                        f"{process.id} and {other.id} are both primary with a lease (10)"
                    )

    # -- replies ---------------------------------------------------------------------------------------

    def on_reply(self, shard: ShardId, node: NodeId, values: Sequence[str], number: int) -> Violation | None:
        """A reply that shows or acknowledges these values leaves `node` now (8)."""
        known = self.shards[shard].values
        for value in values:
            if value.encode() not in known:
                text = f"{node} let out {value} before it was committed"
                return Violation(UNCOMMITTED_REPLY, value, text, (number,))
        return None


class NoSafety:
    """For subjects that promise nothing."""

    def on_recovered(self, process: "SimProcess") -> None: ...
    def on_opened(self, process: "SimProcess") -> None: ...
    def on_persist(
        self, process: "SimProcess", hard_state: HardState | None, entries: Sequence[Entry]
    ) -> None: ...
    def on_written(self, process: "SimProcess", written: Written) -> None: ...
    def observer(self, process: "SimProcess") -> Callable[[], None] | None:
        return None

    def on_reply(self, shard: ShardId, node: NodeId, values: Sequence[str], number: int) -> Violation | None:
        return None
