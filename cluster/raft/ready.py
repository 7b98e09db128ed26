"""What the core hands to its caller, and how the caller says that something is durable.

Persisting is asynchronous and pipelined: the next `Ready` may be taken while earlier ones are still being
written. What keeps that safe is order (writes finish in the order they were handed out) and `PersistQueue`,
which remembers what each outstanding write will make durable and forgets what was overwritten since.
Comparing (index, term) afterwards would not do: an entry can be overwritten and come back (A, B, A), and the
write of the first A says nothing about the disk after B.

Left out: an explicit `advance`. Calling `RaftNode.ready` is the hand-over.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.raft.messages import Entry, HardState, Message
from cluster.raft.roles import Role
from cluster.types import Index, NodeId, Term


@dataclass(frozen=True, slots=True)
class PersistToken:
    """Names one write. Give it to `RaftNode.persisted` when that write and all earlier ones are durable."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything the core wants done now. Taken out once; the core takes it as promised.

    The caller must
    1. queue `entries` and `hard_state` to its log, behind everything of earlier Readies. Entries are in order
       and gapless; the first may have an index that is already in the log: then it replaces that entry and
       all after it.
    2. send `messages` at once, without waiting for 1 (a leader's AppendEntries may leave before its own
       fsync, 10.2.1). Messages may be lost, doubled or reordered on the way; the core copes.
    3. when 1 *and the writes of all earlier Readies* are durable, and readable through `LogStorage`: send
       `messages_after_persist`, then call `persisted(persist, now_us)`. Both, whenever `persist` is not None,
       also if there was nothing to write in this Ready: its messages still wait for the earlier writes. One
       call with the newest token stands for all earlier ones, so writes can share an fsync.
    4. apply `committed` in order. They need not be durable here yet: a quorum has them.
    After a crash nothing of this is remembered but what was durable: committed entries are handed out again
    from the start of the log.
    """

    hard_state: HardState | None
    entries: Sequence[Entry]
    messages: Sequence[tuple[NodeId, Message]]
    messages_after_persist: Sequence[tuple[NodeId, Message]]
    committed: Sequence[Entry]
    persist: PersistToken | None
    role: Role  # the soft state as of now
    term: Term
    leader: NodeId | None
    commit_index: Index


@dataclass(slots=True)
class _Write:
    sequence: int
    hard_state: HardState | None
    stable_index: Index  # what will be durable of the *present* log when this write is; 0 = it adds nothing


class PersistQueue:
    """The writes handed out and not yet known durable, oldest first."""

    def __init__(self) -> None:
        self._writes: deque[_Write] = deque()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._writes)

    def push(self, hard_state: HardState | None, last_index: Index) -> PersistToken:
        """`last_index`: of the entries in this write, 0 if it has none."""
        self._sequence += 1
        self._writes.append(_Write(self._sequence, hard_state, last_index))
        return PersistToken(self._sequence)

    def truncated(self, index: Index) -> None:
        """The log was cut from `index` on: no write under way makes anything at or after it durable any
        more."""
        for write in self._writes:
            if write.stable_index >= index:
                write.stable_index = Index(index - 1)

    def pop(self, token: PersistToken) -> tuple[HardState | None, Index]:
        """Everything up to `token` is durable: the newest hard state among it (None: none) and the stable
        index (0: none)."""
        hard_state, stable_index = None, Index(0)
        while self._writes and self._writes[0].sequence <= token.sequence:
            write = self._writes.popleft()
            hard_state = write.hard_state or hard_state
            stable_index = max(stable_index, write.stable_index)
        return hard_state, stable_index
