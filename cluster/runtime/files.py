"""A real directory as the journal needs one (`cluster/raft/journal.py`): private, locked, synced.

Files are 0600, directories 0700, names are relative to a directory descriptor, never followed through a
symbolic link and created exclusively. The directory is locked with flock for as long as it is open, so that
two processes can't write one log. `write_durable` is one system call where the system has RWF_DSYNC (Linux),
because each return from a system call has to win the interpreter lock again.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ConfigError

_DSYNC = getattr(os, "RWF_DSYNC", 0)
_FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone does not reach the platter
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def sync_file(descriptor: int) -> None:
    """Data and size of the file are on the disk when this returns."""
    if _FULL_SYNC is not None:
        fcntl.fcntl(descriptor, _FULL_SYNC)
    else:
        os.fdatasync(descriptor)


class RealFile:
    """A `File` of the journal. Not for several writers at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def data_end(self) -> int:
        """Reserved blocks that were never written count as holes: a fresh segment is not read through."""
        size = self.size()
        try:
            end = 0
            while end < size:
                start = os.lseek(self._descriptor, end, os.SEEK_DATA)
                end = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            return size
        except OSError as error:
            return end if error.errno == errno.ENXIO else size  # no data behind `end`; or cannot tell
        except AttributeError:
            return size

    def read(self, position: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, position)
        if len(data) == size or not data:
            return data
        pieces = [data]  # one read ends at 2 GB, or where a signal came
        while data and (size := size - len(data)) > 0:
            position += len(data)
            data = os.pread(self._descriptor, size, position)
            pieces.append(data)
        return b"".join(pieces)

    def write(self, position: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view = view[count:]
            position += count

    def write_durable(self, position: int, data: bytes) -> None:
        if not _DSYNC:
            self.write(position, data)
            self.sync()
            return
        count = os.pwritev(self._descriptor, [data], position, _DSYNC)
        if count < len(data):  # a nearly full disk, or a signal: say the rest
            self.write_durable(position + count, data[count:])

    def sync(self) -> None:
        sync_file(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


class RealDirectory:
    """A `Directory` of the journal, made if it does not exist. Raises ConfigError if another process has
    it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _make(path)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"cannot open the log directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"the log directory {path} is in use by another process") from error

    def list(self) -> Sequence[str]:
        return sorted(os.listdir(self._descriptor))

    def create(self, name: str, size: int) -> RealFile:
        descriptor = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._descriptor)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        except OSError:
            os.close(descriptor)
            raise
        return RealFile(descriptor)

    def open(self, name: str) -> RealFile:
        return RealFile(os.open(name, _FLAGS, dir_fd=self._descriptor))

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._descriptor)

    def sync_dir(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _make(path: Path) -> None:
    """Create `path` and what lacks above it, and make each new name durable in its parent."""
    missing = [path, *path.parents]
    for directory in reversed(missing):
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            continue
        parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
