"""The files that PySyncObj sees: its own file code, unchanged, on a `SimDisk`.

The library writes its journal through `mmap`, its term and vote by writing a file beside and moving it over
the old one, and its full dump in the same way. `Files` stands in for what it asks the system for: `open`,
`mmap`, `os.path`, `os.rename`, `shutil.move`, `gzip`. A call reaches the page cache at once, as it does in
production, so a SIGKILL loses nothing of it. It reaches the disk when the library syncs it, which it does in
one place only (`mmap.flush` when it is shut down in order), or when the kernel writes it back by itself.

What the kernel does is modelled on the kind side, since a finding must not be ours:

* names are on the disk after 5 seconds (ext4's commit interval), data after 35 (dirty pages expire after 30,
  and the kernel looks every 5);
* a rename that *replaces* a file never comes before the new file's data, as with ext4's defaults, though
  POSIX does not ask for it: so the new content is there or the old one, never a torn one;
* a sector holds what it held at one instant: of the writes to it that were not synced, the first few are
  there, never a later one without an earlier one. Between sectors there is no order, as there is none in a
  page cache.

Left out: a mapped write beyond a full disk is SIGBUS in production; here the process dies the same way.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

from cluster.sim.disk import SECTOR_BYTES, SimDisk, SimFile

NAMES_DURABLE_AFTER_US = 5_000_000
DATA_DURABLE_AFTER_US = 35_000_000


class PageFile(SimFile):
    """A file whose writes go to the page cache at once and to the disk by whole sectors."""

    __slots__ = ()

    def write(self, position: int, data: bytes) -> None:
        self._disk.cursor = self._disk.now()
        super().write(position, data)

    def grow(self, size: int) -> None:
        """As `ftruncate`: zeros at the end. The new length is durable at once, which is kind."""
        for content in (self.current, self.durable):
            content += bytes(max(0, size - len(content)))

    def settle_data(self) -> None:
        """Its data comes before what happens next to its name."""
        self.write_back(self._disk.now(), self._disk.now())

    def on_power_cut(self, now: int) -> None:
        self.on_kill(now)
        rng = self._disk.rng
        # How much of the page cache the kernel had written back by itself: often nothing, sometimes all.
        odds = rng.choice((0.0, 0.0, 0.5, 0.5, 1.0))
        sectors: dict[int, list[tuple[int, bytes]]] = {}
        for write in self.pending:
            for number, start, data in _by_sector(write.position, write.data):
                sectors.setdefault(number, []).append((start, data))
        for number in sorted(sectors):
            writes = sectors[number]
            kept = {0.0: 0, 1.0: len(writes)}.get(odds)
            for start, data in writes[: rng.randint(0, len(writes)) if kept is None else kept]:
                self.durable[start : start + len(data)] = data
        self.pending.clear()
        self.lost.clear()
        self.current = bytearray(self.durable)


def _by_sector(position: int, data: bytes) -> Iterator[tuple[int, int, bytes]]:
    end = position + len(data)
    for number in range(position // SECTOR_BYTES, (end + SECTOR_BYTES - 1) // SECTOR_BYTES):
        low, high = max(position, number * SECTOR_BYTES), min(end, (number + 1) * SECTOR_BYTES)
        yield number, low, data[low - position : high - position]


class Fate(Protocol):
    """What may befall a process in the middle of its code."""

    def touch_disk(self) -> None:
        """The disk is about to change: a place where the process can be made to die."""
        ...

    def spend(self, us: int) -> None: ...


class _Writer:
    """`open(name, "wb")` and `"ab"`."""

    def __init__(self, fate: Fate, file: PageFile, position: int) -> None:
        self._fate = fate
        self._file = file
        self._position = position

    def write(self, data: bytes) -> int:
        self._fate.touch_disk()
        self._file.write(self._position, bytes(data))
        self._position += len(data)
        return len(data)

    def flush(self) -> None:
        """To the page cache, where it is already. No sync: that would be `os.fsync`, which nobody calls."""

    def close(self) -> None: ...

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None: ...


class _Descriptor:
    """`open(name, "r+b")`, of which only `fileno()` is used: a mapping is made of it."""

    def __init__(self, file: PageFile) -> None:
        self._file = file

    def fileno(self) -> PageFile:
        return self._file

    def close(self) -> None: ...


class _Mapping:
    """`mmap.mmap(fileno, 0)`."""

    def __init__(self, fate: Fate, disk: SimDisk, file: PageFile, length: int) -> None:
        assert length == 0
        if not file.size():
            raise ValueError("cannot mmap an empty file")
        self._fate = fate
        self._disk = disk
        self._file = file

    def size(self) -> int:
        return self._file.size()

    def resize(self, size: int) -> None:
        self._fate.touch_disk()
        if self._disk.full:
            raise BusError
        self._file.grow(size)

    def __getitem__(self, where: slice) -> bytes:
        return bytes(self._file.current[where])

    def __setitem__(self, where: slice, data: bytes) -> None:
        self._fate.touch_disk()
        self._file.write(where.start, data)

    def flush(self) -> None:
        """`msync`: this does sync."""
        self._file.sync()

    def close(self) -> None: ...


class BusError(BaseException):
    """A mapped page that the disk has no room for. It ends the process."""


class Files:
    """One process's view of its disk, and the names that the library's modules find it under."""

    def __init__(self, disk: SimDisk, fate: Fate) -> None:
        self._disk = disk
        self._fate = fate
        path = SimpleNamespace(exists=self._exists, isfile=self._exists)
        self.os = SimpleNamespace(path=path, rename=self._rename)
        self.mmap = SimpleNamespace(mmap=partial(_Mapping, fate, disk))
        self.shutil = SimpleNamespace(move=self._rename)
        self.gzip = SimpleNamespace(GzipFile=_gzip_file)
        self.rename = self._rename

    def open(self, name: str, mode: str) -> Any:
        if mode == "rb":
            return io.BytesIO(self._file(name).read(0, 1 << 40))
        if mode == "r+b":
            return _Descriptor(self._file(name))
        self._fate.touch_disk()
        if mode == "ab" and name in self._disk.names:
            return _Writer(self._fate, self._file(name), self._file(name).size())
        assert mode in ("wb", "ab"), mode
        with self._now():
            if name in self._disk.names:
                self._disk.unlink(name)
            file = PageFile(self._disk, b"")
            self._disk.add(name, file)
        return _Writer(self._fate, file, 0)

    def write_back(self) -> None:
        """The kernel's part. Call it now and then."""
        now = self._disk.now()
        self._disk.write_back(now - DATA_DURABLE_AFTER_US, now - NAMES_DURABLE_AFTER_US)

    def _exists(self, name: str) -> bool:
        return name in self._disk.names

    def _file(self, name: str) -> PageFile:
        file = self._disk.names.get(name)
        if file is None:
            raise FileNotFoundError(name)
        assert isinstance(file, PageFile)
        return file

    def _rename(self, old: str, new: str) -> None:
        self._fate.touch_disk()
        with self._now():
            if new in self._disk.names:
                self._file(old).settle_data()
            self._disk.rename(old, new)

    @contextmanager
    def _now(self) -> Iterator[None]:
        """A system call of the page cache takes no time that matters."""
        self._disk.cursor = self._disk.now()
        yield
        self._disk.cursor = self._disk.now()


def _gzip_file(fileobj: Any, mode: str = "rb") -> gzip.GzipFile:
    """As the library calls it, but without the hour in its header: two runs of a seed are equal."""
    return gzip.GzipFile(fileobj=fileobj, mode=mode, compresslevel=1, mtime=0)
