"""Raft as a library that does no I/O. Knows nothing of Redis, AZs, gRPC, files or clocks.

The loop that a caller writes, in full::

    node = RaftNode(node_id=…, membership=…, config=RaftConfig(), storage=wal, rng=rng,
                    now_us=clock.now_us(), log=log)

    # whatever happens:
    node.tick(now_us)                              # about every tick_ms
    node.step(from_node, message, now_us)          # a message came in
    node.propose(EntryKind.EFFECTS, payload)       # a client wants something decided
    node.persisted(token, now_us)                  # a write finished

    # after each of them, or after a handful:
    while node.has_ready():
        ready = node.ready()
        if ready.persist is not None:
            wal.write_later(ready.hard_state, ready.entries, on_durable=lambda r=ready: finish(r))  # in order
        send(ready.messages)
        apply(ready.committed)

    def finish(ready):                             # writes finish in the order they were queued
        send(ready.messages_after_persist)
        node.persisted(ready.persist, clock.now_us())

`Ready` numbers the obligations. Reads: `lease_valid(now_us)` after executing the read; if it is False,
`read_round()` and wait for `read_confirmed`.

Messages (from → to, when)

**RequestVote** (candidate → voters). With `pre_vote`: would you vote for me in this term? Nobody's term
changes. Without: after the candidate's own vote is durable. With `transfer`: the leader asked for it,
promises do not hold it back.

**VoteResponse** (voter → candidate). A granted pre-vote carries the asked term, everything else the voter's
own. A vote leaves after it is durable. A voter that has promised patience to a leader refuses a pre-vote, and
does not answer a vote at all.

**AppendEntries** (leader → all). Entries after (prev_index, prev_term), or none: a heartbeat. Carries the
commit index; the follower believes it only as far as this very message verified its log.

**AppendResponse** (follower → leader). Success: durable and equal up to match_index, whose entry has
match_term. Otherwise a hint where the logs may agree. Echoes the round either way; of a higher term it
deposes the leader.

**TimeoutNow** (leader → its successor). Everything you need you have: campaign now.

**InstallSnapshot, InstallSnapshotResponse**: not sent and not understood before 4/5.
"""

from cluster.raft.config import RaftConfig
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
from cluster.raft.node import RaftNode
from cluster.raft.progress import ProgressState
from cluster.raft.quorum import Quorum, VoteResult
from cluster.raft.ready import PersistToken, Ready
from cluster.raft.roles import TRANSITIONS, Role, RoleEvent
from cluster.raft.storage import LogStorage, MemoryStorage

__all__ = [
    "TRANSITIONS",
    "AppendEntries",
    "AppendResponse",
    "Entry",
    "EntryKind",
    "HardState",
    "InstallSnapshot",
    "InstallSnapshotResponse",
    "LogStorage",
    "Membership",
    "MemoryStorage",
    "Message",
    "PersistToken",
    "ProgressState",
    "Quorum",
    "RaftConfig",
    "RaftNode",
    "Ready",
    "RequestVote",
    "Role",
    "RoleEvent",
    "TimeoutNow",
    "VoteResponse",
    "VoteResult",
]
