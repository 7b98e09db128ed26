"""A directory in memory whose power can be cut: only what was synced is sure to survive, the rest comes and
goes.

What was written but not synced survives by sectors, in any combination; names that were not synced with the
directory may be the old or the new ones. `operations` counts everything that changes the disk, and `trip_at`
makes the n-th such operation raise instead of completing, after leaving its bytes un-synced.
"""

import random
from collections.abc import Sequence

SECTOR = 64


class PowerCut(Exception):
    """Not an OSError: nobody may handle it."""


class MemoryFile:
    def __init__(self, disk: "MemoryDisk", size: int) -> None:
        self.disk = disk
        self.durable = bytearray(size)
        self.current = bytearray(size)
        self.pending: list[tuple[int, bytes]] = []

    def size(self) -> int:
        return len(self.current)

    def data_end(self) -> int:
        return len(self.current.rstrip(b"\0"))

    def read(self, position: int, size: int) -> bytes:
        return bytes(self.current[position : position + size])

    def write(self, position: int, data: bytes) -> None:
        _put(self.current, position, data)
        self.pending.append((position, data))
        self.disk.count()

    def write_durable(self, position: int, data: bytes) -> None:
        _put(self.current, position, data)
        self.pending.append((position, data))
        self.disk.count()
        self.pending.pop()
        _put(self.durable, position, data)

    def sync(self) -> None:
        self.disk.count()
        for (
            position,
            data,
        ) in self.pending:  # dirty pages only: what the system believes written, it won't write again
            _put(self.durable, position, data)
        self.pending.clear()

    def close(self) -> None: ...

    def survivor(self, disk: "MemoryDisk", rng: random.Random) -> "MemoryFile":
        content = bytearray(self.durable)
        for position, data in self.pending:
            for start in range(position - position % SECTOR, position + len(data), SECTOR):
                if rng.random() < 0.5:
                    low, high = max(start, position), min(start + SECTOR, position + len(data))
                    _put(content, low, data[low - position : high - position])
        file = MemoryFile(disk, 0)
        file.durable, file.current = content, bytearray(content)
        return file


class MemoryDisk:
    """A `Directory`."""

    def __init__(self) -> None:
        self.names: dict[str, MemoryFile] = {}
        self.durable_names: dict[str, MemoryFile] = {}
        self.operations = 0
        self.trip_at: int | None = None
        self.trip: Exception = PowerCut()

    def count(self) -> None:
        self.operations += 1
        if self.trip_at is not None and self.operations >= self.trip_at:
            raise self.trip

    def list(self) -> Sequence[str]:
        return sorted(self.names)

    def create(self, name: str, size: int) -> MemoryFile:
        assert name not in self.names
        self.names[name] = MemoryFile(self, size)
        self.count()
        return self.names[name]

    def open(self, name: str) -> MemoryFile:
        return self.names[name]

    def rename(self, old: str, new: str) -> None:
        self.names[new] = self.names.pop(old)
        self.count()

    def unlink(self, name: str) -> None:
        del self.names[name]
        self.count()

    def sync_dir(self) -> None:
        self.count()
        self.durable_names = dict(self.names)

    def after_power_cut(self, rng: random.Random) -> "MemoryDisk":
        """What the next boot finds. Directory changes since the last sync are lost or there, all or none."""
        disk = MemoryDisk()
        names = self.names if rng.random() < 0.5 else self.durable_names
        for name in sorted(names):
            disk.names[name] = names[name].survivor(disk, rng)
        disk.durable_names = dict(disk.names)
        return disk

    def copy(self) -> "MemoryDisk":
        """The same bytes, all of them durable."""
        disk = MemoryDisk()
        for name, file in self.names.items():
            disk.names[name] = MemoryFile(disk, 0)
            disk.names[name].durable = bytearray(file.current)
            disk.names[name].current = bytearray(file.current)
        disk.durable_names = dict(disk.names)
        return disk


def _put(content: bytearray, position: int, data: bytes) -> None:
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    content[position : position + len(data)] = data
