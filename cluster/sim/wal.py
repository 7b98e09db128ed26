"""The durable log of a simulated node: the real journal on the simulated disk, written in groups as the
runtime's thread does.

While one group is under way what is appended gathers for the next. A disk that refuses is final: nothing is
called any more, and the process ends (`on_failed`), as in production.
"""

from collections.abc import Callable, Sequence

from cluster.errors import WalFailed
from cluster.raft.durable_log import DurableLog
from cluster.raft.journal import Written
from cluster.raft.messages import Entry, HardState
from cluster.sim.disk import SimDisk

Append = tuple[HardState | None, Sequence[Entry], Callable[[], None]]
SEAL_AFTER_IDLE_US = 500_000


class SimWal(DurableLog):
    """A `LogStorage` and what the runtime's `Wal` is: `append`, then `on_durable`, in order."""

    def __init__(
        self,
        disk: SimDisk,
        identity: str,
        *,
        segment_bytes: int,
        cache_bytes: int,
        at: Callable[[int, Callable[[], None]], None],
        on_failed: Callable[[BaseException], None],
        on_written: Callable[[Written], None],
        on_opened: Callable[[], None],
    ) -> None:
        """`at` runs a callback of this process at a true time. Recovers: WalCorrupt, WalFailed."""
        self._disk = disk
        self._at = at
        self._on_failed = on_failed
        self._observe = on_written
        self._queue: list[Append] = []
        self._busy = True
        self._failed = False
        disk.begin()
        try:
            super().__init__(disk, identity, segment_bytes, cache_bytes)
        except OSError as error:
            raise WalFailed(f"the log cannot be opened: {error}") from error
        self._waits_for: Callable[[], None] | None = None  # what follows the disk work under way
        self._turn = 0
        self._on_opened = on_opened
        self._when_done(self._opened)

    def _opened(self) -> None:
        self._next()
        self._on_opened()

    def append(
        self, hard_state: HardState | None, entries: Sequence[Entry], on_durable: Callable[[], None]
    ) -> None:
        if not self._failed:
            self._queue.append((hard_state, entries, on_durable))
            if not self._busy:
                self._write_group()

    def idle_work(self) -> None:
        """What the runtime's thread does when nothing waits: a seal, zeroing ahead, the next segment."""
        if not self._busy and not self._failed:
            self._busy = True
            self._disk.begin()
            try:
                if not self.journal.idle():
                    self.journal.seal()
            except OSError as error:
                self._fail(error)
                return
            self._when_done(self._next)

    def _when_done(self, callback: Callable[[], None]) -> None:
        """When the disk has done what it was told so far."""
        self._turn += 1
        turn = self._turn
        self._waits_for = callback

        def done() -> None:
            if turn == self._turn:
                self._waits_for = None
                callback()

        self._at(self._disk.cursor, done)

    def on_disk_freed(self) -> None:
        """The disk was stalled and is not any more: what is under way ends now."""
        if self._waits_for is not None:
            self._when_done(self._waits_for)

    def pending_from(self) -> int | None:
        """The lowest index in what is queued or being written; None if nothing is."""
        return min((append[1][0].index for append in self._queue if append[1]), default=None)

    def _write_group(self) -> None:
        group, self._queue = self._queue, []
        self._busy = True
        self._disk.begin()
        try:
            written = self.journal.write([(hard_state, entries) for hard_state, entries, _ in group])
        except OSError as error:
            self._fail(error)
            return

        def done() -> None:
            self.on_written(written)
            self._observe(written)
            for _, _, on_durable in group:
                on_durable()
            self._next()

        self._when_done(done)

    def _next(self) -> None:
        self._busy = False
        if self._queue:
            self._write_group()

    def _fail(self, error: OSError) -> None:
        self._failed = True
        failure = WalFailed(f"writing the log failed: {error}")
        failure.__cause__ = error
        # When the call would have returned, as in production: until then the node does not know.
        self._when_done(lambda: self._on_failed(failure))
