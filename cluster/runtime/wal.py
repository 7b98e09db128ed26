"""The node's durable log: a `LogStorage` over `cluster/raft/journal.py` with one writer thread.

The loop hands appends over and goes on. The thread takes everything that has gathered, writes it as **one**
batch with one sync (group commit), and tells the loop once for the whole group; only then do `hard_state`,
`last_index`, `term` and `entries` know the new entries, and each append's `on_durable` runs, in order. So all
reading happens on the loop's thread and needs no lock, and nothing can be read, applied or acknowledged
before it is on the disk.

A failed write or fsync is **final**: nothing after it is acknowledged, `on_failed` is called once, and the
process has to end. Trying again would be worse than useless, since the kernel may have dropped the dirty
pages and would report success. What such a process leaves behind is settled by the next `open` (see the
journal).

When nothing waits, the thread zeroes blocks ahead of the log and prepares the next segment, so that the hot
path is a single system call. Whoever appends bounds what is in flight; the queue here has no limit of its
own.

Left out: compaction (4/5), see the journal's chapter for the door.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cluster.errors import WalFailed
from cluster.raft.durable_log import DurableLog
from cluster.raft.journal import Directory, Recovered, Written
from cluster.raft.messages import Entry, HardState
from cluster.runtime.files import RealDirectory
from cluster.types import Index, Log, Term

GROUP_BYTES_MAX = 16 << 20  # bounds how long one sync takes, and so the latency of what queues behind it
CACHE_BYTES_MAX = 8 << 20


@dataclass(slots=True)
class _Append:
    hard_state: HardState | None
    entries: Sequence[Entry]
    on_durable: Callable[[], None]


class _Seal: ...


class _Stop: ...


_SEAL, _STOP = _Seal(), _Stop()


class Wal:
    """See the module's chapter. Every method but the thread's own belongs to the loop's thread."""

    def __init__(
        self, directory: Directory, identity: str, segment_bytes: int, log: Log, cache_bytes: int
    ) -> None:
        """Recovers. For a directory of another kind than the real one; otherwise use `open`."""
        self._directory = directory
        self._log = log
        self._durable = DurableLog(directory, identity, segment_bytes, cache_bytes)
        self._journal = self._durable.journal
        self._queue: SimpleQueue[_Append | _Seal | _Stop] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._failed = False  # written by the writer's thread, read by the loop's
        self.counters = {
            "appends": 0,
            "batches": 0,  # groups made durable, one sync each
            "syncs": 0,  # batches and seals
            "bytes": 0,  # written for batches
        }
        self._report(self._journal.recovered)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        identity: str,
        segment_bytes: int = 64 << 20,
        log: Log,
        cache_bytes: int = CACHE_BYTES_MAX,
    ) -> "Wal":
        """Recover the log in `directory`, or begin one. `identity` (say `cluster/node`) is written into it.

        Raises WalCorrupt (the log cannot be trusted), ConfigError (another identity, format or process, or a
        directory that cannot be used), WalFailed (the disk refused). Whatever is raised, the directory is let
        go.
        """
        real = RealDirectory(directory)
        try:
            return cls(real, identity, segment_bytes, log, cache_bytes)
        except OSError as error:
            real.close()
            raise WalFailed(f"the log in {directory} cannot be opened: {error}") from error
        except BaseException:
            real.close()
            raise

    def _report(self, found: Recovered) -> None:
        if found.cut_bytes:
            self._log.warning(
                "wal_torn_tail_cut", segment=found.segment, position=found.end, bytes=found.cut_bytes
            )
        self._log.info(
            "wal_opened",
            segment=found.segment,
            last_index=self.last_index,
            term=self.hard_state.term,
            torn=bool(found.cut_bytes),
        )

    @property
    def hard_state(self) -> HardState:
        return self._durable.hard_state

    @property
    def first_index(self) -> Index:
        return self._durable.first_index

    @property
    def last_index(self) -> Index:
        return self._durable.last_index

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segments, reserved space included."""
        return self._journal.sizes

    def term(self, index: Index) -> Term:
        return self._durable.term(index)

    def entries(self, low: Index, high: Index, bytes_max: int) -> Sequence[Entry]:
        """As `LogStorage.entries`. Raises WalCorrupt if what the disk gives back is not what was written."""
        return self._durable.entries(low, high, bytes_max)

    def start(
        self,
        call_soon_threadsafe: Callable[..., object],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        """Begin to write. Callbacks run wherever `call_soon_threadsafe` takes them, which must be the loop's
        thread."""
        assert self._thread is None, "started once"
        self._call_soon = call_soon_threadsafe
        self._on_failed = on_failed
        self._thread = threading.Thread(target=self._run, name="wal", daemon=True)
        self._thread.start()

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None]
    ) -> None:
        """Make these durable, hard state first; then call `on_durable`. Returns at once. An entry at an
        existing index replaces it and everything after it. After a failure or `close` nothing is written and
        nothing called."""
        if not (self._closed or self._failed):
            self._queue.put(_Append(hard_state, entries, on_durable))

    def seal(self) -> None:
        """Say on the disk that everything so far was synced. Cheap when nothing was written since; for idle
        moments."""
        if not self._closed:
            self._queue.put(_SEAL)

    def close(self) -> None:
        """Write what was appended, seal, let the directory go. Blocks for a sync or two. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._queue.put(_STOP)
            self._thread.join()
        self._durable.close()
        close: Any = getattr(self._directory, "close", None)
        if close is not None:
            close()

    # The writer's thread

    def _run(self) -> None:
        try:
            while self._write_group():
                pass
            self._journal.seal()
        except BaseException as error:
            self._fail(error)

    def _write_group(self) -> bool:
        """Make what is queued durable. False once `close` was asked for and everything before it is
        written."""
        if self._queue.empty() and self._journal.idle():
            return True
        item = self._queue.get()
        group: list[_Append] = []
        size = 0
        while isinstance(item, _Append):
            group.append(item)
            for entry in item.entries:
                size += len(entry.payload)
            if size >= GROUP_BYTES_MAX or self._queue.empty():
                break
            item = self._queue.get()
        if group:
            self._write(group)
        if isinstance(item, _Seal) and self._queue.empty() and self._journal.seal():
            self.counters["syncs"] += 1
        return not isinstance(item, _Stop)

    def _write(self, group: list[_Append]) -> None:
        written = self._journal.write([(append.hard_state, append.entries) for append in group])
        counters = self.counters
        counters["appends"] += len(group)
        if written.bytes_written:
            counters["batches"] += 1
            counters["syncs"] += 1
            counters["bytes"] += written.bytes_written
        self._call_soon(self._on_written, written, group)

    def _fail(self, error: BaseException) -> None:
        self._failed = True
        if not isinstance(error, OSError):  # our bug, and as final as the disk's
            failure: BaseException = error
        else:
            failure = WalFailed(f"writing the log failed: {error}")
            failure.__cause__ = error
        try:
            self._call_soon(self._deliver_failure, failure)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._log.error("wal_failed", error=str(failure))

    # Back on the loop's thread

    def _on_written(self, written: Written, group: list[_Append]) -> None:
        self._durable.on_written(written)
        for append in group:
            append.on_durable()

    def _deliver_failure(self, failure: BaseException) -> None:
        self._log.error("wal_failed", error=str(failure))
        self._on_failed(failure)
