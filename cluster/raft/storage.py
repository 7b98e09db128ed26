"""The stable part of the log as the core sees it. `runtime/wal.py` and the simulator's disk implement it.

The core only *reads* through this Protocol. It writes by handing entries out in `Ready`; the caller makes
them durable and says so with `RaftNode.persisted`. It asks only for what it was told is durable and has not
replaced since.
"""

from collections.abc import Sequence
from typing import Protocol

from cluster.raft.messages import Entry, HardState
from cluster.types import Index, Term


class LogStorage(Protocol):
    """Durable entries `first_index … last_index`, gapless, and the durable hard state."""

    @property
    def hard_state(self) -> HardState: ...

    @property
    def first_index(self) -> Index:
        """Index of the oldest entry that can be read; 1 until the log is compacted."""
        ...

    @property
    def last_index(self) -> Index:
        """0 when the log is empty."""
        ...

    def term(self, index: Index) -> Term:
        """Term of a stored entry; 0 for index 0. KeyError outside [first_index - 1, last_index]."""
        ...

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        """Entries low … high inclusive, cut after `bytes_max` payload bytes but never empty if low exists."""
        ...


class MemoryStorage:
    """A `LogStorage` in memory, for tests and for the simulator's disk. Entry i is _entries[i - 1]."""

    def __init__(self, hard_state: HardState | None = None, entries: Sequence[Entry] = ()) -> None:
        self._hard_state = hard_state or HardState(Term(0), None)
        self._entries: list[Entry] = list(entries)

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def first_index(self) -> Index:
        return Index(1)

    @property
    def last_index(self) -> Index:
        return Index(len(self._entries))

    def term(self, index: Index) -> Term:
        if index == 0:
            return Term(0)
        if not 1 <= index <= len(self._entries):
            raise KeyError(index)
        return self._entries[index - 1].term

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        found: list[Entry] = []
        size = 0
        for entry in self._entries[low - 1 : high]:
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def append(self, hard_state: HardState | None, entries: Sequence[Entry]) -> None:
        """Store durably; an entry at an existing index replaces it and everything after it."""
        if hard_state is not None:
            self._hard_state = hard_state
        for entry in entries:
            assert 1 <= entry.index <= len(self._entries) + 1, "entries must leave no gap"
            del self._entries[entry.index - 1 :]
            self._entries.append(entry)
