"""The log's format and recovery against a disk that loses, tears and rots."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError, WalCorrupt
from cluster.raft.journal import (
    RECORD_HEADER_BYTES,
    Journal,
    JournalReader,
    LogPositions,
    decode_record,
    encode_record,
    header_bytes,
    segment_name,
    segment_seed,
)
from cluster.raft.messages import Entry, EntryKind, HardState
from cluster.raft.storage import MemoryStorage
from cluster.types import Index, NodeId, Term
from tests.runtime.memory_disk import MemoryDisk, PowerCut

IDENTITY = "c/0001-001"
SEGMENT_BYTES = 1024
Append = tuple[HardState | None, list[Entry]]
State = tuple[HardState, tuple[Entry, ...]]


def entry(index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(Index(index), Term(term), EntryKind.EFFECTS, payload or b"payload of %d/%d" % (index, term))


def hard_state(term: int, vote: str | None = "0001-002") -> HardState:
    return HardState(Term(term), None if vote is None else NodeId(vote))


def state_of(disk: MemoryDisk) -> State:
    """What a node would start with. Raises what `Journal.open` raises."""
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    found = journal.recovered
    reader = JournalReader(disk, IDENTITY, found.positions)
    entries = reader.entries(1, found.positions.last_index, 1 << 30)
    for item in entries:
        assert found.positions.term(item.index) == item.term
    return found.hard_state, tuple(entries)


def twin_state(twin: MemoryStorage) -> State:
    return twin.hard_state, tuple(twin.entries(Index(1), twin.last_index, 1 << 30))


def states_within(before: State, batch: Sequence[Append]) -> list[State]:
    """Every state on the way from `before` through the records of `batch`."""
    twin = MemoryStorage(before[0], before[1])
    found = [before]
    for state, entries in batch:
        for step in [(state, []), *((None, [one]) for one in entries)]:
            twin.append(*step)
            found.append(twin_state(twin))
    return found


def small_log(*, sealed: bool) -> tuple[MemoryDisk, list[State], tuple[str, int]]:
    """A log of several segments with overwritten entries. Also the states that the last batch may leave
    behind, first the one before it, last the one with it; and the file and position where that batch
    begins."""
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    twin = MemoryStorage()
    batches: list[list[Append]] = [
        [(hard_state(1), []), (None, [entry(1, 1), entry(2, 1)])],
        [(None, [entry(3, 1, b"x" * 300), entry(4, 1)])],
        [(hard_state(2, None), [entry(4, 2)]), (None, [entry(5, 2), entry(6, 2, b"\0" * 50)])],
        [(None, [entry(7, 2, b"y" * 401)])],
        [(hard_state(3), [entry(6, 3), entry(7, 3)])],
        [(None, [entry(8, 3, b"z" * 333)])],
        [(None, [entry(9, 3)])],
        [(hard_state(4), [entry(10, 4), entry(11, 4)])],
    ]
    allowed: list[State] = []
    begins = (segment_name(1), 0)
    for batch in batches:
        written = journal.write(batch)
        allowed = states_within(twin_state(twin), batch)
        for append in batch:
            twin.append(*append)
        begins = (segment_name(written.segment), journal._position - written.bytes_written)
    if sealed:
        assert journal.seal()
        assert not journal.seal()
    assert len(disk.names) >= 3
    assert allowed[-1] == twin_state(twin) == state_of(disk.copy())
    return disk, allowed, begins


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_one_damaged_byte_anywhere_is_harmless_or_refused(sealed: bool, flip: int) -> None:
    disk, allowed, (last_name, last_position) = small_log(sealed=sealed)
    refused = cut = 0
    for name in disk.list():
        for position in range(len(disk.names[name].current)):
            damaged = disk.copy()
            damaged.names[name].current[position] ^= flip
            try:
                state = state_of(damaged)
            except WalCorrupt as error:
                assert "\n" not in str(error) and ".wal at " in str(error)
                refused += 1
                continue
            if state != allowed[-1]:
                assert not sealed and name == last_name and position >= last_position, (name, position)
                assert state in allowed
                cut += 1
            assert state_of(damaged.copy()) == state, "the second start sees what the first one saw"
    assert refused > 0
    assert (cut > 0) != sealed


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
def test_a_file_cut_at_any_byte_is_refused_unless_nothing_is_missing(sealed: bool) -> None:
    disk, allowed, _ = small_log(sealed=sealed)
    for name in disk.list():
        for size in range(len(disk.names[name].current)):
            damaged = disk.copy()
            del damaged.names[name].current[size:]
            with pytest.raises(WalCorrupt):
                state_of(damaged)
    assert state_of(disk) == allowed[-1]


@pytest.mark.slow
def test_zeros_from_any_byte_on_cut_nothing_but_the_last_batch() -> None:
    disk, allowed, (last_name, last_position) = small_log(sealed=False)
    for name in disk.list():
        for position in range(last_position if name == last_name else 0, SEGMENT_BYTES):
            damaged = disk.copy()
            damaged.names[name].current[position:] = bytes(len(damaged.names[name].current) - position)
            try:
                state = state_of(damaged)
            except WalCorrupt:
                assert name != last_name
                continue
            assert state == allowed[-1] or (name == last_name and state in allowed)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_segment_is_refused(missing: int) -> None:
    disk, _, _ = small_log(sealed=True)
    del disk.names[segment_name(missing)]
    with pytest.raises(WalCorrupt, match="missing"):
        state_of(disk)


def test_segments_in_each_others_place_are_refused() -> None:
    disk, _, _ = small_log(sealed=True)
    one, two = segment_name(1), segment_name(2)
    disk.names[one], disk.names[two] = disk.names[two], disk.names[one]
    with pytest.raises(WalCorrupt, match="another name"):
        state_of(disk)


def test_another_identity_is_a_configuration_error() -> None:
    disk, _, _ = small_log(sealed=True)
    with pytest.raises(ConfigError, match="0001-009"):
        Journal.open(disk, "c/0001-009", SEGMENT_BYTES)


def test_a_record_written_to_another_place_is_no_record() -> None:
    seed = segment_seed(IDENTITY, 1)
    record = b"".join(encode_record(seed, 64, 64, 17, 1, 1, b"value"))
    assert decode_record(seed, record, 0, 64) is not None
    assert decode_record(seed, record, 0, 128) is None
    assert decode_record(segment_seed(IDENTITY, 2), record, 0, 64) is None
    assert decode_record(segment_seed("c/0001-002", 1), record, 0, 64) is None


def test_a_value_that_looks_like_a_later_record_does_not_stop_a_torn_tail_from_being_cut() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    journal.write([(None, [entry(1, 1)])])
    at = journal._position
    guess = b"".join(encode_record(segment_seed("guess", 1), at + 40, at + 40, 4, 0, 0, b""))
    journal.write([(None, [entry(2, 1, guess)])])
    disk.names[segment_name(1)].current[at] ^= 1
    assert state_of(disk)[1] == (entry(1, 1),)


@pytest.mark.parametrize("pages", range(2**6))
def test_any_pages_of_the_unsynced_batch_leave_what_was_acknowledged(pages: int) -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    acked: list[Append] = [(hard_state(1), [entry(1, 1), entry(2, 1)])]
    journal.write(acked)
    before = states_within((hard_state(0, None), ()), acked)[-1]
    batch: list[Append] = [(hard_state(2), [entry(2, 2), entry(3, 2, b"v" * 150), entry(4, 2)])]
    old = bytes(disk.names[segment_name(1)].current)
    start = journal._position
    journal.write(batch)
    file = disk.names[segment_name(1)]
    step = (journal._position - start + 5) // 6
    for page in range(6):
        if not pages & 1 << page:
            low = start + page * step
            file.current[low : low + step] = old[low : low + step]
    state = state_of(disk)
    assert state in states_within(before, batch)
    if pages == 2**6 - 1:
        assert state == states_within(before, batch)[-1]


def test_a_hard_state_torn_at_every_byte_is_the_old_pair_or_the_new_one() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    journal.write([(hard_state(7, "0001-001"), [])])
    start = journal._position
    journal.write([(hard_state(8, "0001-003"), [])])
    seen = set()
    for size in range(journal._position - start + 1):
        for keep_front in (True, False):
            torn = disk.copy()
            content = torn.names[segment_name(1)].current
            low, high = (start + size, journal._position) if keep_front else (start, start + size)
            content[low:high] = bytes(high - low)
            seen.add(state_of(torn)[0])
    assert seen == {hard_state(7, "0001-001"), hard_state(8, "0001-003")}


def random_batch(rng: random.Random, twin: MemoryStorage) -> list[Append]:
    shadow = MemoryStorage(twin.hard_state, twin.entries(Index(1), twin.last_index, 1 << 30))
    batch: list[Append] = []
    for _ in range(rng.randint(1, 3)):
        term = Term(shadow.hard_state.term)
        state = None
        if term == 0 or rng.random() < 0.3:
            term = Term(term + 1)
            state = HardState(term, rng.choice([None, NodeId("0001-001"), NodeId("0001-002")]))
        index = shadow.last_index + 1
        if state is not None and index > 1 and rng.random() < 0.5:
            index = rng.randint(max(1, index - 4), index)
        entries = [
            Entry(Index(index + n), term, EntryKind.EFFECTS, rng.randbytes(rng.choice([0, 5, 40, 300])))
            for n in range(rng.randint(0 if state else 1, 3))
        ]
        shadow.append(state, entries)
        batch.append((state, entries))
    return batch


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_power_cuts_at_any_moment_never_take_what_was_acknowledged(seed: int) -> None:
    """Write, seal, idle and recover; the power goes at a random operation; every write that returned is
    there."""
    rng = random.Random(seed)
    disk = MemoryDisk()
    twin = MemoryStorage()
    for _ in range(12):
        disk.trip_at = disk.operations + rng.randint(1, 25)
        batch: list[Append] = []
        try:
            journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
            while True:
                batch = []
                if rng.random() < 0.3:
                    journal.idle()
                if rng.random() < 0.2:
                    journal.seal()
                batch = random_batch(rng, twin)
                journal.write(batch)
                for append in batch:
                    twin.append(*append)
        except PowerCut:
            if rng.random() < 0.5:
                disk = disk.after_power_cut(rng)
        disk.trip_at = None
        allowed = states_within(twin_state(twin), batch)
        state = state_of(disk)
        assert state in allowed
        twin = MemoryStorage(*state)


def test_a_segment_whose_name_was_lost_was_never_acknowledged() -> None:
    """Regression dirent-lost: cut the power at each step of making a segment, losing all un-synced names."""
    for steps in range(1, 12):
        disk = MemoryDisk()
        journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
        journal.write([(hard_state(1), [entry(1, 1, b"a" * 700)])])
        disk.trip_at = disk.operations + steps
        acked = False
        try:
            journal.write([(None, [entry(2, 1, b"b" * 700)])])
            acked = True
        except PowerCut:
            pass
        survivor = MemoryDisk()
        for name, file in disk.durable_names.items():
            survivor.names[name] = file.survivor(survivor, random.Random(1))
        last = len(state_of(survivor)[1])
        assert last == 2 if acked else last in (1, 2)


def test_idle_makes_the_next_segment_before_it_is_needed() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    journal.write([(hard_state(1), [entry(1, 1, b"a" * 600)])])
    while journal.idle():
        pass
    assert disk.list() == [segment_name(1), segment_name(2)]
    before = disk.operations
    journal.write([(None, [entry(2, 1, b"b" * 600)])])
    assert disk.operations == before + 1, "one durable write, no creation on the way"
    assert len(state_of(disk)[1]) == 2


def test_an_entry_larger_than_a_segment_has_one_of_its_own() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    journal.write([(hard_state(1), [entry(1, 1)])])
    journal.write([(None, [entry(2, 1, b"b" * 5000)])])
    journal.write([(None, [entry(3, 1)])])
    assert [len(one.payload) for one in state_of(disk)[1]] == [14, 5000, 14]
    assert len(disk.names) == 3


def test_recovery_writes_the_last_unsealed_batch_again_and_seals_it() -> None:
    """After an fsync error a restarted process may read pages that never reached the disk."""
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    journal.write([(hard_state(1), [entry(1, 1)])])
    file = disk.names[segment_name(1)]
    start = header_bytes(IDENTITY)
    file.durable[start:] = bytes(len(file.durable) - start)  # the cache has it, the platter does not
    expected = state_of(disk)
    assert state_of(disk.after_power_cut(random.Random(3))) == expected
    assert expected[1] == (entry(1, 1),)


def test_reading_back_rotten_entries_is_refused() -> None:
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    written = journal.write([(hard_state(1), [entry(1, 1), entry(2, 1)])])
    positions = LogPositions()
    written.put_into(positions)
    reader = JournalReader(disk, IDENTITY, positions)
    assert reader.entries(1, 2, 1 << 20) == [entry(1, 1), entry(2, 1)]
    disk.names[segment_name(1)].current[written.spans[1][0] + RECORD_HEADER_BYTES] ^= 4
    assert reader.entries(1, 1, 1 << 20) == [entry(1, 1)]
    with pytest.raises(WalCorrupt, match="entry 2"):
        reader.entries(1, 2, 1 << 20)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 1500))
def test_reads_equal_the_twin_whatever_was_overwritten(seed: int, bytes_max: int) -> None:
    rng = random.Random(seed)
    disk = MemoryDisk()
    journal = Journal.open(disk, IDENTITY, SEGMENT_BYTES)
    twin = MemoryStorage()
    positions = LogPositions()
    for _ in range(12):
        batch = random_batch(rng, twin)
        journal.write(batch).put_into(positions)
        for append in batch:
            twin.append(*append)
    assert positions.last_index == twin.last_index
    reader = JournalReader(disk, IDENTITY, positions)
    for low in range(1, twin.last_index + 1):
        assert positions.term(low) == twin.term(Index(low))
        high = Index(rng.randint(low, twin.last_index))
        assert reader.entries(low, high, bytes_max) == list(twin.entries(Index(low), high, bytes_max))
    with pytest.raises(KeyError):
        positions.term(twin.last_index + 1)
    with pytest.raises(KeyError):
        positions.term(-1)
