"""The write-ahead log: record format, recovery, writing and reading back. Pure: all input and output goes
through a `Directory`, which is real in `cluster/runtime/files.py` and simulated in the simulator and in
tests.

**Segments.** The log is a row of files `00000001.wal`, `00000002.wal` …, each made under a temporary name,
given its whole size, its header record and an fsync, and only then its name (rename, directory fsync). So a
segment that has a name has a durable header and a known size; a spare one may stand ready behind the segment
in use.

**Records.** 40 bytes, then the payload, then zeros up to a multiple of 8. Little endian.

    mark u32 | crc32c u32 | length u32 | kind u32 | position u32 | batch u32 | index u64 | term u64 | payload

The crc covers everything behind itself, and is seeded with the log's identity and the segment's number;
`position` is the record's own. A record that was written to the wrong place, or that a client smuggled in as
a value, is therefore no record. `batch` is the position at which the record's batch began.

| kind | index, term | payload |
|---|---|---|
| SEGMENT | 0 | first in each segment: format version, number, size, identity; crc seeded alike for all |
| BASE | last entry before it | first in each segment's first batch: where the segment before it ended |
| HARD_STATE | 0, term | the vote (3.8); repeated behind BASE, so that older segments may go |
| ENTRY + EntryKind | the entry's | the entry's; replaces an entry of that index and all behind it (3.5) |
| SEAL | 0 | none: proves that everything before it had reached the disk |

**Fault model.** A *batch* is what is written between two syncs. Only one batch is ever un-synced, and it lies
in one segment. After a power cut its pages may be there in any combination. So when a bad record is met at
position p of the last segment and a valid one further on belongs to a batch that began behind p, then p had
been synced before: that is rot, and `WalCorrupt`. If none does, p belongs to the torn last batch and is cut
off: overwritten with zeros and synced before anything else is written. A bad record in any earlier segment, a
missing or short segment, a segment that does not end where its successor says, a gap in indexes:
`WalCorrupt`. Nothing is repaired by guessing.

**After a failed fsync** the kernel may call a page clean that never reached the disk, and a restarted process
would read it. Recovery therefore writes the last batch again (also if it is a seal: that is a batch of its
own), syncs it, and seals it, before anybody believes it. The zeros of a cut may be lost in the same way, and
the torn batch come back behind what is written next; but a seal stands between, and behind a seal only a new
batch is believed.

**Limits.** Rot inside the very last un-sealed batch looks like a torn tail; `seal` in idle moments makes that
window small. A device that forgets several whole synced batches at the very end is beyond one log's means.

**Left out: compaction** (4/5). Its door: BASE carries index and term of the entry before the segment and the
hard state follows it, so the oldest segments can be unlinked in ascending order once a durable record says
that a snapshot covers them; `open` then accepts a first number above 1 if that record exists, and
`LogPositions` starts at it.
"""

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import google_crc32c

from cluster.errors import ConfigError, WalCorrupt
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.types import Index, NodeId, Term

FORMAT_VERSION = 1
RECORD_HEADER_BYTES = 40
PAYLOAD_BYTES_MAX = 256 << 20
SEGMENT_BYTES_MIN = 512
SEGMENT_BYTES_MAX = 1 << 30

KIND_SEGMENT = 1
KIND_BASE = 2
KIND_HARD_STATE = 3
KIND_SEAL = 4
KIND_ENTRY = 16  # + EntryKind

_MARK = b"\xa5Z\xc3r"
_PREFIX = struct.Struct("<4sI")
_BODY = struct.Struct("<IIIIQQ")
_SEGMENT = struct.Struct("<IIQ")  # version, number, size; then the identity
_BASE = struct.Struct("<IQ")  # number and end of the segment before
_PADDING = [bytes(n) for n in range(8)]
_HEADER_SEED = google_crc32c.value(b"azimuth wal segment")
_ENTRY_KINDS = {KIND_ENTRY + kind: kind for kind in EntryKind}

_PAGE = 4096
_ZERO_STEP_BYTES = 256 << 10  # about half a millisecond of disk time
_ZERO_AHEAD_BYTES = 1 << 20


class File(Protocol):
    """One file of a `Directory`. Errors are OSError."""

    def size(self) -> int: ...

    def data_end(self) -> int:
        """All bytes from here to `size` are zero and cost nothing to skip. `size` if that is not known."""
        ...

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""
        ...

    def write(self, position: int, data: bytes) -> None:
        """All of `data`. Not durable before `sync`."""
        ...

    def write_durable(self, position: int, data: bytes) -> None:
        """All of `data`, on the disk when this returns. Says nothing about earlier un-synced writes."""
        ...

    def sync(self) -> None:
        """Everything written to this file, and its size, is on the disk when this returns."""
        ...

    def close(self) -> None: ...


class Directory(Protocol):
    """A flat directory. Names are ours, never a peer's. Errors are OSError."""

    def list(self) -> Sequence[str]: ...

    def create(self, name: str, size: int) -> File:
        """A new file of `size` zero bytes, its blocks reserved. Fails if the name exists."""
        ...

    def open(self, name: str) -> File: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, name: str) -> None: ...

    def sync_dir(self) -> None:
        """Creations, renames and unlinks so far survive a power cut when this returns."""
        ...


class Record(NamedTuple):
    position: int
    end: int  # where the next record starts
    kind: int
    batch: int
    entry_index: int
    term: int
    payload: bytes


def segment_name(number: int) -> str:
    return f"{number:08d}.wal"


def segment_seed(identity: str, number: int) -> int:
    """What the crc of every record but the header starts from."""
    return int(google_crc32c.value(b"%d %s" % (number, identity.encode())))


def encode_record(
    seed: int, position: int, batch: int, kind: int, index: int, term: int, payload: bytes
) -> tuple[bytes, bytes, bytes]:
    """Header, payload and padding: three pieces, so that a large payload is copied only when they are
    joined."""
    size = len(payload)
    assert size <= PAYLOAD_BYTES_MAX, "payload too large for a record"
    body = _BODY.pack(size, kind, position, batch, index, term)
    crc = google_crc32c.extend(seed, body)
    if size:
        crc = google_crc32c.extend(crc, payload)
    return _PREFIX.pack(_MARK, crc) + body, payload, _PADDING[-size & 7]


def decode_record(seed: int, data: bytes, at: int, position: int) -> Record | None:
    """The record at `data[at:]` if it is whole and was written to `position` of this segment; otherwise
    None."""
    if at + RECORD_HEADER_BYTES > len(data):
        return None
    mark, crc = _PREFIX.unpack_from(data, at)
    if mark != _MARK:
        return None
    size, kind, own_position, batch, index, term = _BODY.unpack_from(data, at + _PREFIX.size)
    start = at + RECORD_HEADER_BYTES
    padding = -size & 7
    if own_position != position or batch > position or start + size + padding > len(data):
        return None
    payload = data[start : start + size]
    if google_crc32c.extend(google_crc32c.extend(seed, data[at + _PREFIX.size : start]), payload) != crc:
        return None
    if data[start + size : start + size + padding] != _PADDING[padding]:
        return None
    return Record(
        position, position + RECORD_HEADER_BYTES + size + padding, kind, batch, index, term, payload
    )


def encode_vote(vote: NodeId | None) -> bytes:
    return b"" if vote is None else b"\x01" + vote.encode()


def decode_vote(payload: bytes) -> NodeId | None:
    return None if not payload else NodeId(payload[1:].decode())


class LogPositions:
    """Where each entry lies and which term it has: 4 bytes an entry, plus a little for each segment and term.

    Positions rise with the index even after entries were replaced, because replacing removes all that follow.
    So the segment, like the term, is kept once for each run of indexes.
    """

    def __init__(self, first_index: int = 1, base_term: int = 0) -> None:
        self.first_index = Index(first_index)
        self._base_term = Term(base_term)
        self._positions = array("I")
        self._segment_starts: list[int] = []  # first index of each run
        self._segments: list[int] = []
        self._segment_ends: list[int] = []  # position behind the run's last record
        self._term_starts: list[int] = []
        self._terms: list[int] = []

    @property
    def last_index(self) -> Index:
        return Index(self.first_index - 1 + len(self._positions))

    def put(self, index: int, term: int, segment: int, position: int, end: int) -> None:
        """Entry `index` now lies there; whatever stood at it or behind it is gone."""
        last = self.first_index - 1 + len(self._positions)
        assert self.first_index <= index <= last + 1, "entries must leave no gap"
        if index <= last:
            self._truncate(index)
        if not self._segments or self._segments[-1] != segment:
            self._segment_starts.append(index)
            self._segments.append(segment)
            self._segment_ends.append(end)
        self._segment_ends[-1] = end
        if not self._terms or self._terms[-1] != term:
            self._term_starts.append(index)
            self._terms.append(term)
        self._positions.append(position)

    def _truncate(self, index: int) -> None:
        del self._positions[index - self.first_index :]
        while self._segment_starts and self._segment_starts[-1] >= index:
            del self._segment_starts[-1], self._segments[-1], self._segment_ends[-1]
        while self._term_starts and self._term_starts[-1] >= index:
            del self._term_starts[-1], self._terms[-1]

    def term(self, index: int) -> Term:
        """KeyError outside [first_index - 1, last_index]."""
        if index == self.first_index - 1:
            return self._base_term
        if not self.first_index <= index <= self.last_index:
            raise KeyError(index)
        if index >= self._term_starts[-1]:  # nearly always
            return Term(self._terms[-1])
        return Term(self._terms[bisect_right(self._term_starts, index) - 1])

    def span(self, low: int, high: int, bytes_max: int) -> tuple[int, list[int], int]:
        """Segment, positions of entries from `low` on that lie in that segment, and where the last of them
        ends at most. Stops at `high`, at the segment's end, and once the positions are `bytes_max` apart."""
        assert self.first_index <= low <= high <= self.last_index
        run = bisect_right(self._segment_starts, low) - 1
        is_last_run = run + 1 == len(self._segments)
        run_last = self.last_index if is_last_run else self._segment_starts[run + 1] - 1
        found: list[int] = []
        first = self._positions[low - self.first_index]
        for index in range(low, min(high, run_last) + 1):
            position = self._positions[index - self.first_index]
            if found and position - first > bytes_max + RECORD_HEADER_BYTES * len(found) * 2:
                break
            found.append(position)
        following = low + len(found)
        if following <= run_last:
            return self._segments[run], found, self._positions[following - self.first_index]
        return self._segments[run], found, self._segment_ends[run]


@dataclass(slots=True)
class Written:
    """One durable batch, for whoever keeps the positions."""

    segment: int
    hard_state: HardState | None  # the last one of the batch
    entries: list[Entry]
    spans: list[tuple[int, int]]  # position and end of each entry's record
    bytes_written: int

    def put_into(self, positions: LogPositions) -> None:
        for entry, (position, end) in zip(self.entries, self.spans, strict=True):
            positions.put(entry.index, entry.term, self.segment, position, end)


@dataclass(slots=True)
class Recovered:
    """What `Recovery` found. `cut_bytes` > 0: a torn batch was cut off behind `end`."""

    hard_state: HardState
    positions: LogPositions
    segment: int  # the one to go on in
    size: int
    end: int
    batch: int  # where its last batch begins
    sealed: bool
    spare: int | None
    cut_bytes: int
    previous_end: int  # where the segment before `segment` ended


class Journal:
    """The writing side. One thread at a time may call its methods; `open` recovers.

    `write` returns only when the batch is durable. An OSError out of any method is final: the caller must not
    use the journal again, because nobody can say what is on the disk (an fsync that failed may succeed
    falsely later).
    """

    def __init__(self, directory: Directory, identity: str, segment_bytes: int, found: Recovered) -> None:
        self._directory = directory
        self._identity = identity
        self._segment_bytes = segment_bytes
        self._segment = found.segment
        self._file = directory.open(segment_name(found.segment))
        self._seed = segment_seed(identity, found.segment)
        self._size = found.size
        self._position = found.end
        self._sealed = found.sealed
        self._spare = found.spare
        self._previous_end = found.previous_end
        self._zeroed = found.end
        self._hard_state = found.hard_state
        self._last_index = found.positions.last_index
        self._last_term = found.positions.term(self._last_index)
        self.sizes = 0  # bytes of all segments on disk
        self.recovered = found

    @classmethod
    def open(cls, directory: Directory, identity: str, segment_bytes: int) -> "Journal":
        """Recover, make what was found durable, seal it. Raises WalCorrupt, ConfigError (another log's
        identity)."""
        assert SEGMENT_BYTES_MIN <= segment_bytes <= SEGMENT_BYTES_MAX
        assert header_bytes(identity) <= SEGMENT_BYTES_MIN
        for name in sorted(directory.list()):
            if name.endswith(".tmp"):  # never had its name, so nothing in it was ever believed
                directory.unlink(name)
        numbers = segment_numbers(directory)
        if not numbers:
            create_segment(directory, identity, 1, segment_bytes)
            numbers = [1]
        found = Recovery(directory, identity).run(numbers)
        journal = cls(directory, identity, segment_bytes, found)
        journal._settle(found)
        for number in numbers:
            file = directory.open(segment_name(number))
            journal.sizes += file.size()
            file.close()
        return journal

    def _settle(self, found: Recovered) -> None:
        """Cut for good, and make sure that what recovery read is what the disk holds."""
        if found.cut_bytes:
            self._file.write(found.end, bytes(found.cut_bytes))
        if found.batch:  # a seal as well: its own sync may be the one that failed
            self._file.write(found.batch, self._file.read(found.batch, found.end - found.batch))
        self._file.sync()
        self._directory.sync_dir()
        self.seal()

    @property
    def sealed(self) -> bool:
        return self._sealed

    def write(self, appends: Iterable[tuple[HardState | None, Sequence[Entry]]]) -> Written:
        """Make these durable as one batch, in order. On return they are on the disk."""
        appends = list(appends)
        size = _batch_bytes(appends)
        pieces: list[bytes] = []
        if self._position + size > self._size and not self._fresh():
            self._roll()
        batch = at = self._position
        if self._fresh():
            at = self._start_segment(pieces)
        written = Written(self._segment, None, [], [], 0)
        for hard_state, entries in appends:
            if hard_state is not None:
                at = self._put_hard_state(pieces, at, batch, hard_state)
                written.hard_state = hard_state
            for entry in entries:
                assert 1 <= entry.index <= self._last_index + 1, "entries must leave no gap"
                start = at
                kind = KIND_ENTRY + entry.kind
                at = self._put(pieces, at, batch, kind, entry.index, entry.term, entry.payload)
                self._last_index, self._last_term = entry.index, entry.term
                written.entries.append(entry)
                written.spans.append((start, at))
        if pieces:
            self._file.write_durable(batch, b"".join(pieces))
            self._position = at
            self._sealed = False
        written.bytes_written = at - batch
        return written

    def seal(self) -> bool:
        """Prove that everything before this had reached the disk. False if that is proven already."""
        if self._sealed:
            return False
        if self._position + RECORD_HEADER_BYTES > self._size:
            return False  # no room: the next segment's first batch is the proof
        pieces: list[bytes] = []
        end = self._put(pieces, self._position, self._position, KIND_SEAL, 0, 0, b"")
        self._file.write_durable(self._position, b"".join(pieces))
        self._position = end
        self._sealed = True
        return True

    def idle(self) -> bool:
        """One short piece of work that is better done now than when somebody waits. False: nothing left to
        do.

        Overwrites reserved blocks with zeros a little ahead (a sync of a block that was reserved but never
        written costs the file system a metadata commit: 240 µs instead of 140 µs here), and makes the next
        segment.
        """
        start = max(self._zeroed, _up_to_page(self._position))
        if start < min(self._position + _ZERO_AHEAD_BYTES, self._size):
            end = min(start + _ZERO_STEP_BYTES, self._size)
            self._file.write_durable(start, bytes(end - start))
            self._zeroed = end
            return True
        if self._spare is None and self._position > self._size // 2:
            self._make_spare()
            return True
        return False

    def close(self) -> None:
        self._file.close()

    def _fresh(self) -> bool:
        """Nothing but the header stands in the current segment."""
        return self._position == header_bytes(self._identity)

    def _make_spare(self) -> None:
        self._spare = self._segment + 1
        create_segment(self._directory, self._identity, self._spare, self._segment_bytes)
        self.sizes += self._segment_bytes

    def _roll(self) -> None:
        """Go on in the next segment. Everything in the current one is durable: batches don't straddle
        segments."""
        if self._spare is None:
            self._make_spare()
        self._file.close()
        assert self._spare is not None
        self._previous_end = self._position
        self._segment, self._spare = self._spare, None
        self._file = self._directory.open(segment_name(self._segment))
        self._seed = segment_seed(self._identity, self._segment)
        self._size = self._file.size()
        self._position = self._zeroed = header_bytes(self._identity)

    def _start_segment(self, pieces: list[bytes]) -> int:
        base = _BASE.pack(self._segment - 1, self._previous_end)
        batch = self._position
        at = self._put(pieces, batch, batch, KIND_BASE, self._last_index, self._last_term, base)
        return self._put_hard_state(pieces, at, batch, self._hard_state)

    def _put_hard_state(self, pieces: list[bytes], at: int, batch: int, hard_state: HardState) -> int:
        assert hard_state.term >= self._hard_state.term, "the term never falls"
        self._hard_state = hard_state
        return self._put(pieces, at, batch, KIND_HARD_STATE, 0, hard_state.term, encode_vote(hard_state.vote))

    def _put(
        self, pieces: list[bytes], at: int, batch: int, kind: int, index: int, term: int, payload: bytes
    ) -> int:
        record = encode_record(self._seed, at, batch, kind, index, term, payload)
        pieces += record
        return at + RECORD_HEADER_BYTES + len(record[1]) + len(record[2])


def _batch_bytes(appends: Sequence[tuple[HardState | None, Sequence[Entry]]]) -> int:
    """At most this many bytes, give or take padding: enough to decide on a new segment."""
    size = 0
    for hard_state, entries in appends:
        if hard_state is not None:
            size += RECORD_HEADER_BYTES + 8 + len(hard_state.vote or "")
        for entry in entries:
            size += RECORD_HEADER_BYTES + 8 + len(entry.payload)
    return size


def _up_to_page(position: int) -> int:
    return (position + _PAGE - 1) // _PAGE * _PAGE


def header_bytes(identity: str) -> int:
    """Where the first record behind a segment's header stands."""
    size = RECORD_HEADER_BYTES + _SEGMENT.size + len(identity.encode())
    return size + (-size & 7)


def segment_numbers(directory: Directory) -> list[int]:
    """Numbers of the segments that exist, ascending, without a hole. Raises WalCorrupt."""
    numbers = sorted(
        int(name[:8])
        for name in directory.list()
        if len(name) == 12 and name.endswith(".wal") and name[:8].isdigit()
    )
    for expected, number in enumerate(numbers, start=1):
        if number != expected:
            raise WalCorrupt(f"{segment_name(expected)} is missing from the log")
    return numbers


def create_segment(directory: Directory, identity: str, number: int, size: int) -> None:
    """A segment that holds only its header. It gets its name when that is durable."""
    payload = _SEGMENT.pack(FORMAT_VERSION, number, size) + identity.encode()
    temporary = f"{number:08d}.tmp"
    file = directory.create(temporary, size)
    file.write(0, b"".join(encode_record(_HEADER_SEED, 0, 0, KIND_SEGMENT, 0, 0, payload)))
    file.sync()
    file.close()
    directory.rename(temporary, segment_name(number))
    directory.sync_dir()


class Recovery:
    """Reads all segments in order and says what the log is. Writes nothing."""

    def __init__(self, directory: Directory, identity: str) -> None:
        self._directory = directory
        self._identity = identity
        self._hard_state = HardState(Term(0), None)
        self._positions = LogPositions()
        self._previous_end = 0  # where the segment before ended

    def run(self, numbers: Sequence[int]) -> Recovered:
        """Raises WalCorrupt, ConfigError. `numbers` ascend from 1 without a hole."""
        last = numbers[-1]
        data, size = self._load(last)
        spare: int | None = None
        if last > 1 and not data[header_bytes(self._identity) :].strip(b"\0"):
            spare, last = last, last - 1
        for number in numbers[: last - 1]:
            self._replay(number, *self._load(number), is_last=False)
        if spare is not None:
            data, size = self._load(last)
        found = self._replay(last, data, size, is_last=True)
        found.spare = spare
        if spare is not None and found.batch == 0:
            raise WalCorrupt(f"{segment_name(last)} is empty although {segment_name(spare)} exists")
        return found

    def _load(self, number: int) -> tuple[bytes, int]:
        """What the segment holds up to its trailing zeros, and its size."""
        name = segment_name(number)
        file = self._directory.open(name)
        actual = file.size()
        data = file.read(0, max(file.data_end(), SEGMENT_BYTES_MIN))  # at least the header
        file.close()
        header = decode_record(_HEADER_SEED, data, 0, 0)
        if header is None or header.kind != KIND_SEGMENT or len(header.payload) < _SEGMENT.size:
            raise WalCorrupt(f"{name} at 0: the segment's header is damaged")
        version, own_number, size = _SEGMENT.unpack_from(header.payload)
        identity = header.payload[_SEGMENT.size :].decode(errors="replace")
        if version != FORMAT_VERSION:
            raise ConfigError(f"{name} has log format {version}, this program writes {FORMAT_VERSION}")
        if identity != self._identity:
            raise ConfigError(f"{name} is the log of {identity!r}, not of {self._identity!r}")
        if own_number != number:
            raise WalCorrupt(f"{name} at 0: this is segment {own_number} under another name")
        if actual < size:
            raise WalCorrupt(f"{name} at {actual}: the segment is shorter than it was made ({size} bytes)")
        return data, actual

    def _replay(self, number: int, data: bytes, size: int, *, is_last: bool) -> Recovered:
        seed = segment_seed(self._identity, number)
        position = header_bytes(self._identity)
        used = len(data.rstrip(b"\0"))
        batch, sealed, cut_bytes, replayed = 0, True, 0, 0
        while position < used:
            record = decode_record(seed, data, position, position)
            if record is None and len(data) < size:  # its payload may end in skipped zeros
                data += bytes(size - len(data))
                continue
            if record is not None and sealed and record.batch != position:
                # Behind a seal a batch begins. This is what a cut left on the medium when its sync failed.
                record = None
            if record is None:
                self._refuse_rot(number, seed, data, position, used, is_last=is_last)
                cut_bytes = used - position
                break
            if record.batch not in (batch, position):
                raise _corrupt(number, position, "the record belongs to no batch")
            self._apply(number, record, is_first=replayed == 0)
            replayed += 1
            batch, sealed, position = record.batch, record.kind == KIND_SEAL, record.end
        if not is_last and not replayed:
            raise _corrupt(number, position, "the segment is empty although another follows")
        previous_end, self._previous_end = self._previous_end, position
        return Recovered(
            hard_state=self._hard_state,
            positions=self._positions,
            segment=number,
            size=size,
            end=position,
            batch=batch,
            sealed=sealed,
            spare=None,
            cut_bytes=cut_bytes,
            previous_end=previous_end,
        )

    def _refuse_rot(
        self, number: int, seed: int, data: bytes, position: int, used: int, *, is_last: bool
    ) -> None:
        """Return only if the bad record at `position` can be part of a batch that was never synced."""
        if not is_last:
            raise _corrupt(number, position, "a bad record in a segment that was finished")
        at = data.find(_MARK, position)
        while at >= 0:
            later = decode_record(seed, data, at, at) if at > position else None
            if later is not None and later.batch > position:
                raise _corrupt(number, position, f"a bad record before a valid one at {at}")
            at = data.find(_MARK, at + 1)

    def _apply(self, number: int, record: Record, *, is_first: bool) -> None:
        if is_first != (record.kind == KIND_BASE):
            raise _corrupt(number, record.position, "a segment's first record must say what precedes it")
        kind = _ENTRY_KINDS.get(record.kind)
        if kind is not None:
            self._apply_entry(number, record)
        elif record.kind == KIND_HARD_STATE:
            if record.term < self._hard_state.term:
                raise _corrupt(number, record.position, "the term falls")
            self._hard_state = HardState(Term(record.term), decode_vote(record.payload))
        elif record.kind == KIND_BASE:
            self._check_base(number, record)
        elif record.kind != KIND_SEAL:
            raise _corrupt(number, record.position, f"record kind {record.kind} is unknown to this version")

    def _apply_entry(self, number: int, record: Record) -> None:
        last = self._positions.last_index
        if not self._positions.first_index <= record.entry_index <= last + 1:
            raise _corrupt(number, record.position, f"entry {record.entry_index} follows entry {last}")
        if record.term < self._positions.term(record.entry_index - 1):
            raise _corrupt(
                number, record.position, f"entry {record.entry_index} has a lower term than the one before"
            )
        self._positions.put(record.entry_index, record.term, number, record.position, record.end)

    def _check_base(self, number: int, record: Record) -> None:
        last = self._positions.last_index
        here = (number - 1, self._previous_end, last, self._positions.term(last))
        if (*_BASE.unpack(record.payload), record.entry_index, record.term) != here:
            raise _corrupt(number, record.position, "the segment before it does not end where this one says")


def _corrupt(number: int, position: int, what: str) -> WalCorrupt:
    return WalCorrupt(f"{segment_name(number)} at {position}: {what}")


class JournalReader:
    """Reads durable entries back, each checked again. May live in another thread than the `Journal`."""

    def __init__(self, directory: Directory, identity: str, positions: LogPositions) -> None:
        self._directory = directory
        self._identity = identity
        self._positions = positions
        self._files: dict[int, tuple[File, int]] = {}  # segment -> file, seed; the oldest opened goes first

    def entries(self, low: int, high: int, bytes_max: int) -> list[Entry]:
        """As `LogStorage.entries`. Raises WalCorrupt if the disk no longer gives back what was written."""
        found: list[Entry] = []
        size = 0
        index = low
        high = min(high, self._positions.last_index)
        while index <= high and (not found or size <= bytes_max):
            segment, positions, end = self._positions.span(index, high, bytes_max - size)
            file, seed = self._file(segment)
            start = positions[0]
            data = file.read(start, end - start)
            for position in positions:
                entry = self._entry(segment, seed, data, position, position - start, index)
                size += len(entry.payload)
                if found and size > bytes_max:
                    return found
                found.append(entry)
                index += 1
        return found

    def close(self) -> None:
        for number in sorted(self._files):
            self._files[number][0].close()
        self._files.clear()

    def _entry(self, segment: int, seed: int, data: bytes, position: int, at: int, index: int) -> Entry:
        record = decode_record(seed, data, at, position)
        kind = None if record is None else _ENTRY_KINDS.get(record.kind)
        if record is None or kind is None or record.entry_index != index:
            raise _corrupt(segment, position, f"entry {index} can no longer be read back")
        return Entry(Index(index), Term(record.term), kind, record.payload)

    def _file(self, segment: int) -> tuple[File, int]:
        found = self._files.get(segment)
        if found is None:
            if len(self._files) >= 8:
                self._files.pop(next(iter(self._files)))[0].close()
            file = self._directory.open(segment_name(segment))
            found = self._files[segment] = (file, segment_seed(self._identity, segment))
        return found
