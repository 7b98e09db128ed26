"""What Raft nodes remember and say: entries, hard state, membership, messages.

Own types; protobuf is met only in `cluster/runtime/codec.py`. Everything here is frozen.
Section numbers are those of Ongaro's thesis (2014).

Every message carries `term`. Replies to AppendEntries also carry the term of the entry they confirm,
so that an acknowledgement can never be taken for one of another term or another log (regression 12).
`round` is a number that the leader draws anew for every AppendEntries it sends and that the reply echoes:
it proves *when* the follower still followed (leader lease, 6.3; ReadIndex, 6.4).
"""

from dataclasses import dataclass
from enum import IntEnum

from cluster.types import Index, NodeId, Term

_NO_INDEX = Index(0)
_NO_TERM = Term(0)


class EntryKind(IntEnum):
    NOOP = 0  # appended by a new leader; its commit proves the leader's log (6.4, step 1)
    EFFECTS = 1  # bytes of the shard's effect stream
    MEMBERSHIP = 2  # a joint or final configuration (4.3); not proposed before 4/5
    CONTROL = 3  # a msgpack record of the shard (slots, users …); not proposed before 5/5


@dataclass(frozen=True, slots=True)
class Entry:
    """One log record. Raft never looks into `payload`."""

    index: Index
    term: Term
    kind: EntryKind
    payload: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before any message that depends on it leaves (3.8)."""

    term: Term
    vote: NodeId | None


@dataclass(frozen=True, slots=True)
class Membership:
    """Who votes. `outgoing` is non-empty only while a joint configuration is in force (4.3)."""

    voters: frozenset[NodeId]
    outgoing: frozenset[NodeId] = frozenset()
    learners: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class RequestVote:
    """Candidate asks for a vote (3.4); with `pre_vote`, only whether it would get one (9.6).

    In a pre-vote `term` is the term the candidate *would* run in. `transfer` is set when the current leader
    asked for this election (3.10): then the follower's promise to its leader does not hold it back.
    """

    term: Term
    last_index: Index
    last_term: Term
    pre_vote: bool = False
    transfer: bool = False


@dataclass(frozen=True, slots=True)
class VoteResponse:
    term: Term
    granted: bool
    pre_vote: bool = False


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """Leader replicates, and with no entries only says that it lives (3.5). Also carries the commit index."""

    term: Term
    prev_index: Index
    prev_term: Term
    entries: tuple[Entry, ...]
    commit_index: Index
    round: int


@dataclass(frozen=True, slots=True)
class AppendResponse:
    """`success`: the follower's log equals the leader's up to `match_index`, durably, and the entry there has
    `match_term`. Otherwise `hint_index`/`hint_term` say where the logs may still agree (3.5)."""

    term: Term
    success: bool
    match_index: Index
    match_term: Term
    round: int
    hint_index: Index = _NO_INDEX
    hint_term: Term = _NO_TERM


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader hands leadership over: campaign at once (3.10)."""

    term: Term


@dataclass(frozen=True, slots=True)
class InstallSnapshot:
    """A chunk of a snapshot for a follower whose next entry is no longer in the log (5.1). Not sent before
    4/5."""

    term: Term
    last_index: Index
    last_term: Term
    snapshot_offset: int
    chunk: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class InstallSnapshotResponse:
    term: Term
    last_index: Index
    snapshot_offset: int


Message = (
    RequestVote
    | VoteResponse
    | AppendEntries
    | AppendResponse
    | TimeoutNow
    | InstallSnapshot
    | InstallSnapshotResponse
)
