"""The durable log as its readers see it: a `LogStorage` over a journal that somebody else writes.

Writing has two shells: a thread with real fsyncs (`cluster/runtime/wal.py`) and the simulator's disk
(`cluster/sim/wal.py`). What is known to be durable, and how it is read back, is here, once for both:
nothing is known before `on_written` says that its batch is on the disk.
"""

from collections import deque
from collections.abc import Sequence

from cluster.raft.journal import Directory, Journal, JournalReader, LogPositions, Written
from cluster.raft.messages import Entry
from cluster.types import Index, Term


class RecentEntries:
    """The newest durable entries, up to a number of payload bytes: what followers and the engine ask for
    most."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._entries: deque[Entry] = deque()

    def put(self, entry: Entry) -> None:
        entries = self._entries
        while entries and entries[-1].index >= entry.index:
            self._bytes -= len(entries.pop().payload)
        assert not entries or entries[-1].index == entry.index - 1
        entries.append(entry)
        self._bytes += len(entry.payload)
        while self._bytes > self._bytes_max or len(entries) > 4096:
            self._bytes -= len(entries.popleft().payload)

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry] | None:
        """None if the oldest ones asked for are no longer here."""
        if not self._entries or low < self._entries[0].index:
            return None
        first = low - self._entries[0].index
        found: list[Entry] = []
        size = 0
        for at in range(first, min(first + high - low + 1, len(self._entries))):
            entry = self._entries[at]
            size += len(entry.payload)
            if found and size > bytes_max:
                break
            found.append(entry)
        return found


class DurableLog:
    """A `LogStorage`. Opening it recovers: WalCorrupt, ConfigError (another log's identity), OSError."""

    def __init__(self, directory: Directory, identity: str, segment_bytes: int, cache_bytes: int) -> None:
        self.journal = Journal.open(directory, identity, segment_bytes)
        found = self.journal.recovered
        self.hard_state = found.hard_state
        self.cut_bytes = found.cut_bytes  # > 0: a torn batch was cut off
        self._positions: LogPositions = found.positions
        self._reader = JournalReader(directory, identity, self._positions)
        self._recent = RecentEntries(cache_bytes)

    @property
    def first_index(self) -> Index:
        return self._positions.first_index

    @property
    def last_index(self) -> Index:
        return self._positions.last_index

    def term(self, index: Index) -> Term:
        return self._positions.term(index)

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        """As `LogStorage.entries`. Raises WalCorrupt if what the disk gives back is not what was written."""
        found = self._recent.entries(low, high, bytes_max)
        return self._reader.entries(low, high, bytes_max) if found is None else found

    def on_written(self, written: Written) -> None:
        """This batch, and all before it, is durable."""
        if written.hard_state is not None:
            self.hard_state = written.hard_state
        written.put_into(self._positions)
        for entry in written.entries:
            self._recent.put(entry)

    def close(self) -> None:
        self._reader.close()
        self.journal.close()
