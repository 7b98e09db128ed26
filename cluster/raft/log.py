"""The Raft log as the core sees it: storage below, a window of recent entries in memory above.

    1 … offset            only in storage
    offset + 1 … last     in the window (`_window[i - offset - 1]` is entry i), the durable ones among them as
    a cache

    offset ≤ stable ≤ handed ≤ last          commit ≤ last          delivered ≤ commit
    └ durable  └ given out to be written

Truncation happens only for a real conflict (3.5): an entry of another term at the same index. Cutting at or
below commit_index would undo what clients were told, so it is an assertion. Terms never fall along the log,
so the newest entry of at most a given term is found by bisection, without reading the log.

Storage may still hold overwritten entries above `offset` until the write that replaces them is done; it is
never asked for them. Left out: compaction. `LogStorage.first_index` is honoured on reading (`first_index`),
nothing here moves it.
"""

from collections.abc import Sequence

from cluster.raft.messages import Entry
from cluster.raft.storage import LogStorage
from cluster.types import Index, Term

_ENTRY_OVERHEAD_BYTES = 128  # an Entry object besides its payload, roughly


class RaftLog:
    """All indexes are Raft log indexes from 1; 0 stands before the log."""

    def __init__(self, storage: LogStorage, cache_bytes_max: int) -> None:
        self._storage = storage
        self._cache_bytes_max = cache_bytes_max
        self._window: list[Entry] = []
        self._window_bytes = 0
        last = storage.last_index
        self._offset = last
        self.last_index = last
        self.last_term = storage.term(last)
        self.stable_index = last
        self.handed_index = last
        self.commit_index = Index(storage.first_index - 1)
        self.delivered_index = self.commit_index
        self._slice_key = (Index(0), Index(0), Index(0))
        self._slice: tuple[Entry, ...] = ()

    @property
    def first_index(self) -> Index:
        return self._storage.first_index

    def term(self, index: Index) -> Term:
        """Term of the entry at `index`; 0 for 0. KeyError if it was compacted away or never existed."""
        place = index - self._offset - 1
        if place >= 0:
            if index > self.last_index:
                raise KeyError(index)
            return self._window[place].term
        return self._storage.term(index)

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        """Entries low … high inclusive, cut after `bytes_max` payload bytes but never empty if low exists."""
        high = min(high, self.last_index)
        if low > high:
            return ()
        if low > self._offset:
            return self._from_window(low, high, bytes_max)
        found = list(self._storage.entries(low, min(high, self._offset), bytes_max))
        if found and found[-1].index == self._offset < high:
            left = bytes_max - sum(len(entry.payload) for entry in found)
            more = self._from_window(Index(self._offset + 1), high, left) if left > 0 else ()
            found.extend(more if sum(len(entry.payload) for entry in more) <= left else ())
        return found

    def slice_to_send(self, low: Index, bytes_max: int) -> tuple[Entry, ...]:
        """Entries low … last within `bytes_max`. Peers at the same place share one tuple."""
        key = (low, self.last_index, self._offset)
        if key != self._slice_key:
            self._slice = tuple(self.entries(low, self.last_index, bytes_max))
            self._slice_key = key
        return self._slice

    def append(self, entry: Entry) -> None:
        """Add one entry at the end."""
        assert entry.index == self.last_index + 1, "entries must leave no gap"
        assert entry.term >= self.last_term, "terms never fall along the log"
        self._window.append(entry)
        self._window_bytes += len(entry.payload) + _ENTRY_OVERHEAD_BYTES
        self.last_index = entry.index
        self.last_term = entry.term

    def matches(self, index: Index, term: Term) -> bool:
        """Have we the leader's entry (index, term)? Entries up to commit_index every later leader has
        (3.6.3)."""
        if index > self.last_index:
            return False
        if index < self.first_index - 1:
            return True
        matched = self.term(index) == term
        assert matched or index > self.commit_index, "a leader contradicts a committed entry"
        return matched

    def append_matching(self, entries: Sequence[Entry]) -> Index | None:
        """Entries of the leader that follow one we have: add what is missing. Entries we already have stay as
        they are, and so does all behind them: a late message tells nothing about what came after it. The
        index of the first entry that was cut, else None."""
        truncated: Index | None = None
        for place, entry in enumerate(entries):
            if entry.index <= self.last_index:
                if entry.index < self.first_index or self.term(entry.index) == entry.term:
                    continue
                truncated = entry.index
                self._truncate(entry.index)
            for new in entries[place:]:
                self.append(new)
            break
        return truncated

    def hint(self, prev_index: Index, prev_term: Term) -> tuple[Index, Term]:
        """Where our log may still agree with one that has (prev_index, prev_term) and ours does not (3.5,
        fast back-up)."""
        index = self.newest_of_term(min(Index(prev_index - 1), self.last_index), prev_term)
        return index, self.term(index)

    def newest_of_term(self, high: Index, term: Term) -> Index:
        """The highest index ≤ high whose term is at most `term`; not below first_index - 1."""
        low = Index(self.first_index - 1)  # known to do; the answer is in low … high
        while low < high:
            middle = Index((low + high + 1) // 2)
            if self.term(middle) <= term:
                low = middle
            else:
                high = Index(middle - 1)
        return low

    def is_up_to_date(self, last_index: Index, last_term: Term) -> bool:
        """Is a log that ends so at least as complete as ours (3.6.1)?"""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def hand_out(self) -> Sequence[Entry]:
        """The entries that nobody was yet told to write."""
        if self.handed_index == self.last_index:
            return ()
        new = self._window[self.handed_index - self._offset :]
        self.handed_index = self.last_index
        return new

    def stable_to(self, index: Index) -> None:
        """Everything up to `index` of the present log is durable."""
        assert index <= self.handed_index, "durable before it was handed out"
        if index > self.stable_index:
            self.stable_index = index
            if self._window_bytes > self._cache_bytes_max:
                self._trim()

    def maybe_commit(self, index: Index) -> bool:
        """Raise commit_index to `index`; True if that moved it."""
        assert index <= self.last_index, "commit past the end of the log"
        if index <= self.commit_index:
            return False
        self.commit_index = index
        return True

    def deliver(self, bytes_max: int) -> Sequence[Entry]:
        """The next committed entries to apply, within `bytes_max`."""
        if self.delivered_index == self.commit_index:
            return ()
        found = self.entries(Index(self.delivered_index + 1), self.commit_index, bytes_max)
        assert found, "a committed entry is missing"
        assert found[0].index == self.delivered_index + 1, "committed entries must be applied in order"
        self.delivered_index = found[-1].index
        return found

    def window(self) -> Sequence[Entry]:
        """The entries in memory, for checks."""
        return self._window

    def offset(self) -> Index:
        """Index before the window, for checks."""
        return self._offset

    def _from_window(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        found = self._window[low - self._offset - 1 : high - self._offset]
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.payload)
            if size > bytes_max and count:
                return found[:count]
        return found

    def _truncate(self, index: Index) -> None:
        assert index > self.commit_index, "a committed entry must never be cut"
        keep = Index(index - 1)
        if keep <= self._offset:
            self._window.clear()
            self._window_bytes = 0
            self._offset = keep
        else:
            cut = self._window[keep - self._offset :]
            del self._window[keep - self._offset :]
            self._window_bytes -= sum(len(entry.payload) + _ENTRY_OVERHEAD_BYTES for entry in cut)
        self.last_index = keep
        self.last_term = self.term(keep)
        self.stable_index = min(self.stable_index, keep)
        self.handed_index = min(self.handed_index, keep)
        self._slice_key = (Index(0), Index(0), Index(0))

    def _trim(self) -> None:
        """Forget the oldest durable entries, a quarter of the cache at a time so that the list is seldom
        shifted."""
        target = self._cache_bytes_max * 3 // 4
        count = 0
        while self._window_bytes > target and self._offset + count < self.stable_index:
            self._window_bytes -= len(self._window[count].payload) + _ENTRY_OVERHEAD_BYTES
            count += 1
        del self._window[:count]
        self._offset = Index(self._offset + count)
