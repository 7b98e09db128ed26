"""A shard's effect stream inside Raft entries: the header of an EFFECTS payload, and where each entry ends.

An EFFECTS payload is a 16-byte header and then the effect bytes `[start, end)` exactly as the engine wrote
them:

    byte 0      format version (1)
    bytes 1–3   zero
    bytes 4–7   crc32c of the whole stream before `start`, little-endian
    bytes 8–15  start offset, little-endian

The running checksum lets every replica verify, entry by entry, that the stream it applies is the one that the
primary cut, and lets a snapshot be proven to equal a prefix of the log. Left out: compression (entries are
small and already batched), encryption at rest (it belongs to the journal's files).
"""

import struct
from array import array
from bisect import bisect_right

import google_crc32c

from cluster.types import Index, Offset

FORMAT_VERSION = 1
_HEADER = struct.Struct("<B3xIQ")
HEADER_BYTES = _HEADER.size


class StreamDiverged(AssertionError):
    """An entry does not continue the stream that this node holds. Never go on: some replica is wrong."""


def extend_crc(crc: int, data: bytes) -> int:
    """crc32c of a stream whose checksum so far is `crc`, after `data`."""
    return int(google_crc32c.extend(crc, data))


def encode_effects(start: Offset, crc: int, data: bytes) -> bytes:
    return _HEADER.pack(FORMAT_VERSION, crc, start) + data


def decode_header(payload: bytes) -> tuple[Offset, int, Offset]:
    """`(start, crc of everything before start, end)` of an EFFECTS payload.

    Raises StreamDiverged for a format that this version cannot read: an older node must stop, not guess."""
    if len(payload) <= HEADER_BYTES:
        raise StreamDiverged("an EFFECTS entry carries no effects")
    version, crc, start = _HEADER.unpack_from(payload)
    if version != FORMAT_VERSION:
        raise StreamDiverged(f"effects of format {version}; this version reads format {FORMAT_VERSION}")
    return Offset(start), crc, Offset(start + len(payload) - HEADER_BYTES)


class CommittedStream:
    """The committed prefix of the stream: its length, its checksum, and which entry holds which offset.

    Invariants: ends are strictly increasing; `offset` is the last end (0 before the first entry);
    `index` is the last committed log index, whatever its kind.
    """

    def __init__(self) -> None:
        self.index = Index(0)
        self.offset = Offset(0)
        self.crc = 0
        self._entry_indexes = array("Q")
        self._entry_ends = array("Q")

    def extend(self, index: Index, payload: bytes) -> Offset:
        """One more committed EFFECTS entry. Returns the new offset; StreamDiverged if it does not fit."""
        start, crc, end = decode_header(payload)
        if start != self.offset or crc != self.crc:
            raise StreamDiverged(
                f"entry {index} continues {start} (crc {crc:08x}), we hold {self.offset} (crc {self.crc:08x})"
            )
        self.crc = extend_crc(crc, payload[HEADER_BYTES:])
        self.offset = end
        self.index = index
        self._entry_indexes.append(index)
        self._entry_ends.append(end)
        return end

    def skip(self, index: Index) -> None:
        """One more committed entry that carries no effects."""
        self.index = index

    def last_index_within(self, offset: Offset) -> Index:
        """The last EFFECTS entry that ends at or before `offset`; 0 if there is none."""
        position = bisect_right(self._entry_ends, offset)
        return Index(self._entry_indexes[position - 1]) if position else Index(0)
