"""A disk whose power can be cut: what was not synced vanishes, tears, or stays, sector by sector.

It is a `Directory` for the *real* journal (`cluster/raft/journal.py`). The journal's calls return at once,
but each takes virtual time: `cursor` is when the call under way ends. So the world knows what the disk held
at any instant in the middle of a batch, and a power cut or a SIGKILL there finds exactly that.

* **SIGKILL at T**: what was written before T is in the page cache and survives; what the process would have
  written after T never was.
* **Power cut at T**: of what was written before T, the synced part survives; the rest survives by sectors of
  512 bytes, in any combination (so records tear, and later ones may be there without earlier ones). Of
  directory changes that were not synced, a prefix survives.
* **A sync that fails once** (`fail_syncs`): EIO; the pages count as clean from then on though they never
  reached the disk, so the next sync succeeds falsely. That is what Linux does.
* `full`: no new file (the journal reserves a segment's blocks when it makes it). `stall_until`: syncs take
  until then. `rot`: a flipped bit in synced bytes. `misdirect_next`: a write lands elsewhere.

Kept over the lives of a node's processes; `cluster/sim/wal.py` opens it anew in each.
"""

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.sim.world import World

SECTOR_BYTES = 512
_NEVER = 1 << 62


@dataclass(slots=True)
class _Write:
    when: int  # when it reached the page cache
    position: int
    data: bytes
    durable_at: int = _NEVER

    def without(self, low: int, high: int) -> "list[_Write]":
        """What is left of it when [low, high) is written anew."""
        end = self.position + len(self.data)
        if high <= self.position or low >= end:
            return [self]
        parts = []
        if self.position < low:
            parts.append(_Write(self.when, self.position, self.data[: low - self.position]))
        if high < end:
            parts.append(_Write(self.when, high, self.data[high - self.position :]))
        return parts


class SimFile:
    """`File`. `current` is what a process reads; `durable` is what surely survives."""

    __slots__ = ("_disk", "current", "durable", "lost", "pending")

    def __init__(self, disk: "SimDisk", content: bytes) -> None:
        self._disk = disk
        self.durable = bytearray(content)
        self.current = bytearray(content)
        self.pending: list[_Write] = []
        self.lost: list[_Write] = []  # in the page cache, counted as clean, not on the disk

    def size(self) -> int:
        return len(self.current)

    def data_end(self) -> int:
        return len(self.current.rstrip(b"\0"))

    def read(self, position: int, size: int) -> bytes:
        return bytes(self.current[position : position + size])

    def write(self, position: int, data: bytes) -> None:
        self._put(position, data)

    def _put(self, position: int, data: bytes) -> _Write:
        disk = self._disk
        if disk.misdirect_next:
            disk.misdirect_next = False
            disk.damaged = True
            position = disk.rng.randrange(0, max(1, len(self.current) - len(data)))
        if position + len(data) > len(self.current):  # a batch larger than a segment makes its file grow
            growth = bytes(position + len(data) - len(self.current))
            self.current += growth
            self.durable += growth
        self.current[position : position + len(data)] = data
        if self.lost:
            self.lost = [part for old in self.lost for part in old.without(position, position + len(data))]
        write = _Write(disk.cursor, position, data)
        self.pending.append(write)
        disk.cursor += 1 + len(data) // 2048
        return write

    def write_durable(self, position: int, data: bytes) -> None:
        self._settle()
        write = self._put(position, data)
        if self._disk.failed():
            self.pending.remove(write)
            self.lost.append(write)
            raise OSError(errno.EIO, "Input/output error")
        self._disk.spend_sync()
        write.durable_at = self._disk.cursor

    def sync(self) -> None:
        self._settle()
        if self._disk.failed():
            self.lost += [write for write in self.pending if write.durable_at == _NEVER]
            self.pending = [write for write in self.pending if write.durable_at != _NEVER]
            raise OSError(errno.EIO, "Input/output error")
        self._disk.spend_sync()
        for write in self.pending:
            write.durable_at = min(write.durable_at, self._disk.cursor)

    def close(self) -> None: ...

    def write_back(self, before: int, now: int) -> None:
        """The kernel wrote back what was written before that time."""
        for write in self.pending:
            if write.when <= before:
                write.durable_at = min(write.durable_at, now)
        self._settle()

    def _settle(self) -> None:
        """What is durable by now needs no memory of how it came to be. Order of writes matters: only a
        prefix can be folded."""
        now, count = self._disk.now(), 0
        for write in self.pending:
            if write.durable_at > now:
                break
            self.durable[write.position : write.position + len(write.data)] = write.data
            count += 1
        del self.pending[:count]

    def on_kill(self, now: int) -> None:
        """The process is gone at `now`: what it had not written yet, it never will."""
        self._settle()
        self.pending = [write for write in self.pending if write.when <= now]
        for write in self.pending:
            if write.durable_at > now:
                write.durable_at = _NEVER  # nobody waits for that sync any more; the page is still dirty
        self.current = bytearray(self.durable)
        for write in sorted([*self.lost, *self.pending], key=lambda write: write.when):
            self.current[write.position : write.position + len(write.data)] = write.data

    def on_power_cut(self, now: int) -> None:
        self.on_kill(now)
        rng = self._disk.rng
        # How much of the page cache the kernel had written back by itself: often nothing, sometimes all.
        odds = rng.choice((0.0, 0.0, 0.5, 0.5, 1.0))
        for write in self.pending:
            if write.durable_at <= now:
                self._keep(write, 1.0)
            else:
                self._keep(write, odds)
        self.pending.clear()
        self.lost.clear()  # counted as clean: nobody wrote them back
        self.current = bytearray(self.durable)

    def _keep(self, write: _Write, odds: float) -> None:
        end = write.position + len(write.data)
        for start in range(write.position - write.position % SECTOR_BYTES, end, SECTOR_BYTES):
            if odds >= 1.0 or self._disk.rng.random() < odds:
                low, high = max(start, write.position), min(start + SECTOR_BYTES, end)
                self.durable[low:high] = write.data[low - write.position : high - write.position]

    def rot(self, position: int, bit: int) -> None:
        """A bit flips on the medium; what was read before stays in nobody's cache."""
        self._settle()
        for content in (self.durable, self.current):
            content[position] ^= 1 << bit


@dataclass(slots=True)
class _NameChange:
    when: int
    kind: str  # create, rename, unlink
    name: str
    to: str
    file: SimFile | None
    durable_at: int = _NEVER


class SimDisk:
    """`Directory` of one node."""

    def __init__(
        self, world: World, rng: random.Random, *, sync_min_us: int = 60, sync_max_us: int = 400
    ) -> None:
        self._world = world
        self.rng = rng
        self.sync_min_us = sync_min_us
        self.sync_max_us = sync_max_us
        self.cursor = 0
        self.names: dict[str, SimFile] = {}
        self._durable_names: dict[str, SimFile] = {}
        self._changes: list[_NameChange] = []
        self.full = False
        self.fail_syncs = 0
        self.stall_until = 0
        self.misdirect_next = False
        self.damaged = False  # synced bytes were destroyed here
        self.syncs_failed = 0

    def now(self) -> int:
        return self._world.now

    def begin(self) -> None:
        """The caller starts a piece of disk work now; when it has called all it wants, `cursor` is when it is
        done."""
        self.cursor = max(self.cursor, self._world.now)

    def failed(self) -> bool:
        if self.fail_syncs:
            self.fail_syncs -= 1
            self.syncs_failed += 1
            return True
        return False

    def spend_sync(self) -> None:
        spread = self.sync_max_us - self.sync_min_us
        self.cursor += self.sync_min_us + int(spread * self.rng.random() ** 3)
        if self.cursor < self.stall_until:
            self.cursor = self.stall_until

    def free(self) -> None:
        """A stall is over: what was under way is done a moment from now."""
        self.stall_until = 0
        now = self.now()
        if self.cursor > now + self.sync_max_us:
            self.cursor = now + self.sync_max_us
            for file in self._files():
                for write in file.pending:
                    write.when = min(write.when, self.cursor)
                    if write.durable_at != _NEVER:
                        write.durable_at = min(write.durable_at, self.cursor)
            for change in self._changes:
                change.when = min(change.when, self.cursor)
                if change.durable_at != _NEVER:
                    change.durable_at = min(change.durable_at, self.cursor)

    # -- Directory -------------------------------------------------------------------------------------

    def list(self) -> Sequence[str]:
        return sorted(self.names)

    def create(self, name: str, size: int) -> SimFile:
        file = SimFile(self, bytes(size))
        self.add(name, file)
        return file

    def add(self, name: str, file: SimFile) -> None:
        """A new file, of whatever kind it is."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        assert name not in self.names
        self._change("create", name, "", file)

    def open(self, name: str) -> SimFile:
        return self.names[name]

    def rename(self, old: str, new: str) -> None:
        self._change("rename", old, new, None)

    def unlink(self, name: str) -> None:
        self._change("unlink", name, "", None)

    def sync_dir(self) -> None:
        self._settle()
        if self.failed():
            raise OSError(errno.EIO, "Input/output error")
        self.spend_sync()
        for change in self._changes:
            change.durable_at = min(change.durable_at, self.cursor)

    def _change(self, kind: str, name: str, to: str, file: SimFile | None) -> None:
        self._settle()
        change = _NameChange(self.cursor, kind, name, to, file)
        _apply(self.names, change)
        self._changes.append(change)
        self.cursor += 20

    def _settle(self) -> None:
        now = self.now()
        while self._changes and self._changes[0].durable_at <= now:
            _apply(self._durable_names, self._changes.pop(0))

    # -- what happens to it ----------------------------------------------------------------------------

    def write_back(self, data_before: int, names_before: int) -> None:
        """What a kernel does by itself in time: what was written before these times is on the disk now."""
        now = self.now()
        for change in self._changes:
            if change.when <= names_before:
                change.durable_at = min(change.durable_at, now)
        for file in self._files():
            file.write_back(data_before, now)
        self._settle()

    def on_kill(self) -> None:
        now = self.now()
        self._settle()
        self._changes = [change for change in self._changes if change.when <= now]
        for change in self._changes:
            if change.durable_at > now:
                change.durable_at = _NEVER
        self.names = dict(self._durable_names)
        for change in self._changes:
            _apply(self.names, change)
        for file in self._files():
            file.on_kill(now)
        self.cursor = now

    def on_power_cut(self) -> None:
        self.on_kill()
        now = self.now()
        kept = self.rng.randint(0, len(self._changes))
        while kept < len(self._changes) and self._changes[kept].durable_at <= now:
            kept += 1
        for change in self._changes[:kept]:
            _apply(self._durable_names, change)
        self._changes.clear()
        self.names = dict(self._durable_names)
        for file in self._files():
            file.on_power_cut(now)

    def _files(self) -> Sequence[SimFile]:
        return [self.names[name] for name in sorted(self.names)]

    def rot(self) -> str:
        """Flip a bit somewhere in what is written. Says where, for the trace; "" if there is nothing."""
        files = [(name, self.names[name]) for name in sorted(self.names) if self.names[name].data_end() > 0]
        if not files:
            return ""
        name, file = self.rng.choice(files)
        position = self.rng.randrange(file.data_end())
        self.damaged = True
        file.rot(position, self.rng.randrange(8))
        return f"{name} at {position}"

    @property
    def bytes_used(self) -> int:
        return sum(file.size() for file in self.names.values())


def _apply(names: dict[str, SimFile], change: _NameChange) -> None:
    match change.kind:
        case "create":
            assert change.file is not None
            names[change.name] = change.file
        case "rename":
            if change.name in names:
                names[change.to] = names.pop(change.name)
        case _:
            names.pop(change.name, None)
