"""The simulated disk, and what the journal makes of the worst it can do."""

import random

import pytest

from cluster.errors import WalCorrupt
from cluster.raft.journal import (
    KIND_HARD_STATE,
    RECORD_HEADER_BYTES,
    Journal,
    encode_record,
    segment_name,
    segment_seed,
)
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.sim.disk import SimDisk
from cluster.sim.world import World
from cluster.types import Index, NodeId, Term

IDENTITY = "c/0001-001"


class Bench:
    """A disk, its journal, and time that passes only when asked."""

    def __init__(self, seed: int = 1, segment_bytes: int = 4096) -> None:
        self.world = World(seed)
        self.disk = SimDisk(self.world, random.Random(seed))
        self.segment_bytes = segment_bytes
        self.journal = self.open()

    def open(self) -> Journal:
        self.disk.begin()
        self.journal = Journal.open(self.disk, IDENTITY, self.segment_bytes)
        self.wait()
        return self.journal

    def wait(self) -> None:
        """Until the disk has done what it was told."""
        self.world.run_until(max(self.disk.cursor, self.world.now))

    def write(self, index: int, term: int = 1, size: int = 20, count: int = 1) -> None:
        self.disk.begin()
        entries = [entry(index + more, term, size) for more in range(count)]
        self.journal.write([(None, entries)])

    def vote(self, term: int, vote: str) -> None:
        self.disk.begin()
        self.journal.write([(HardState(Term(term), NodeId(vote)), ())])

    def last_index(self) -> int:
        return self.journal.recovered.positions.last_index


def entry(index: int, term: int = 1, size: int = 20) -> Entry:
    return Entry(Index(index), Term(term), EntryKind.EFFECTS, b"%d" % index * size)


def test_a_seal_whose_sync_failed_does_not_make_the_log_corrupt_after_the_next_power_cut() -> None:
    bench = Bench()
    bench.write(1)
    bench.wait()
    bench.disk.fail_syncs = 1
    with pytest.raises(OSError):
        bench.journal.seal()
    bench.disk.on_kill()  # the process exits; the seal is in the page cache, and not on the disk
    bench.open()
    bench.write(2)
    bench.wait()
    bench.disk.on_power_cut()
    bench.open()
    assert bench.last_index() == 2


def test_a_batch_that_was_cut_in_vain_is_not_taken_for_part_of_what_stands_before_it_now() -> None:
    """A torn batch at p is cut, but the sync of the cut fails: the zeros are in the page cache only. The next
    life sees a clean log and seals it at p; after a power cut the rest of the torn batch is back behind that.
    """
    bench = Bench()
    bench.write(1)
    bench.wait()
    bench.disk.begin()
    assert bench.journal.seal()
    bench.wait()
    file = bench.disk.names[segment_name(1)]
    end = bench.journal._position
    seal = end - RECORD_HEADER_BYTES
    ghost = encode_record(segment_seed(IDENTITY, 1), end, seal, KIND_HARD_STATE, 0, 7, b"\x010001-009")
    file.durable[end : end + len(b"".join(ghost))] = b"".join(ghost)
    bench.disk.on_power_cut()
    bench.open()
    assert bench.journal.recovered.cut_bytes > 0
    assert bench.journal.recovered.hard_state.term == 0
    bench.write(2)
    bench.wait()
    bench.disk.on_power_cut()
    bench.open()
    assert bench.last_index() == 2


def test_what_was_synced_survives_a_power_cut_and_what_was_not_may_go() -> None:
    survived = set()
    for seed in range(30):
        bench = Bench(seed)
        bench.write(1)
        bench.wait()
        bench.write(2)  # its sync is under way
        bench.world.run_until(bench.world.now + 10)
        bench.disk.on_power_cut()
        bench.open()
        survived.add(bench.last_index())
    assert survived == {1, 2}


def test_a_killed_process_has_written_what_it_wrote_before_and_nothing_later() -> None:
    bench = Bench()
    bench.write(1)
    bench.disk.on_kill()  # at this very moment: the page cache holds it
    bench.open()
    assert bench.last_index() == 1
    bench.disk.cursor = bench.world.now + 1_000  # the process is busy with something else first
    bench.write(2)
    bench.disk.on_kill()
    bench.open()
    assert bench.last_index() == 1


def test_a_record_of_many_sectors_tears() -> None:
    torn = 0
    for seed in range(30):
        bench = Bench(seed, segment_bytes=65536)
        bench.write(1, size=200, count=20)
        bench.world.run_until(bench.world.now + 10)
        bench.disk.on_power_cut()
        bench.open()
        torn += 0 < bench.last_index() < 20
    assert torn > 0


def test_a_flipped_bit_in_what_others_follow_is_found() -> None:
    bench = Bench()
    for index in range(1, 6):
        bench.write(index)
        bench.wait()
    bench.disk.names[segment_name(1)].rot(400, 3)
    bench.disk.on_kill()
    with pytest.raises(WalCorrupt):
        bench.open()


def test_a_disk_that_is_full_refuses_new_files_only() -> None:
    bench = Bench()
    bench.disk.full = True
    bench.write(1)
    bench.wait()
    with pytest.raises(OSError):
        for index in range(2, 200):
            bench.write(index, size=100)
    bench.disk.on_kill()
    bench.disk.full = False
    bench.open()
    assert bench.last_index() >= 1


def test_a_stall_that_ends_lets_go_what_waits() -> None:
    bench = Bench()
    bench.disk.stall_until = bench.world.now + 30_000_000
    bench.write(1)
    assert bench.disk.cursor >= bench.world.now + 30_000_000
    bench.disk.free()
    assert bench.disk.cursor < bench.world.now + 1_000
    bench.wait()
    bench.disk.on_power_cut()
    bench.open()
    assert bench.last_index() == 1
