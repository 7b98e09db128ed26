"""Disks that lose, tear, rot, refuse and hang: of the journal alone where every byte is tried, of a whole
cluster where it matters what a node then says.
"""

import itertools
import random

from cluster.errors import WalCorrupt
from cluster.raft import Entry, EntryKind, HardState
from cluster.raft.journal import Journal, JournalReader, segment_name
from cluster.sim.process import Machine
from cluster.types import Index, NodeId, Term
from tests.runtime.memory_disk import MemoryDisk, PowerCut
from tests.sim.regressions.stage import MS, SECOND, Stage
from tests.sim.regressions.table import SNAPSHOTS, Regression, attempt

IDENTITY = "c/0001-001"
SEGMENT_BYTES = 1024
State = tuple[HardState, tuple[Entry, ...]]


def entry(index: int, term: int, payload: bytes = b"") -> Entry:
    return Entry(
        Index(index), Term(term), EntryKind.EFFECTS, payload or b"entry %d of term %d" % (index, term)
    )


def voted(term: int, vote: str) -> HardState:
    return HardState(Term(term), NodeId(vote))


def open_journal(disk: MemoryDisk) -> Journal:
    return Journal.open(disk, IDENTITY, SEGMENT_BYTES)


def state_of(disk: MemoryDisk) -> State:
    """What a node would start with."""
    found = open_journal(disk).recovered
    reader = JournalReader(disk, IDENTITY, found.positions)
    return found.hard_state, tuple(reader.entries(1, found.positions.last_index, 1 << 30))


# -- the journal alone -------------------------------------------------------------------------------------


def _term_vote_torn() -> list[str]:
    disk = MemoryDisk()
    journal = open_journal(disk)
    old, new = voted(7, "0001-001"), voted(8, "0001-003")
    journal.write([(old, [])])
    start = journal._position
    journal.write([(new, [])])
    seen = set()
    for size in range(journal._position - start + 1):
        for low, high in ((start + size, journal._position), (start, start + size)):
            torn = disk.copy()
            torn.names[segment_name(1)].current[low:high] = bytes(high - low)
            seen.add(state_of(torn)[0])
    return [
        f"term {state.term} with vote {state.vote!r} after tearing"
        for state in sorted(seen, key=str)
        if state not in (old, new)
    ]


def scenario_02_term_vote_torn() -> list[str]:
    return attempt(_term_vote_torn)


def _dirent_lost() -> list[str]:
    lines = []
    for steps in range(1, 12):
        disk = MemoryDisk()
        journal = open_journal(disk)
        journal.write([(voted(1, "0001-001"), [entry(1, 1, b"a" * 700)])])
        disk.trip_at = disk.operations + steps
        acked = 1
        try:
            journal.write([(None, [entry(2, 1, b"b" * 700)])])
            acked = 2
        except PowerCut:
            pass
        survivor = MemoryDisk()  # every name that was not synced with its directory is gone
        for name, file in disk.durable_names.items():
            survivor.names[name] = file.survivor(survivor, random.Random(1))
        left = len(state_of(survivor)[1])
        if left < acked:
            lines.append(f"power cut at step {steps}: {acked} entries acknowledged, {left} are left")
    return lines


def scenario_06_dirent_lost() -> list[str]:
    return attempt(_dirent_lost)


def _torn_tail() -> list[str]:
    """The last batch has three records; of its sectors any may be there and any not."""
    disk = MemoryDisk()
    journal = open_journal(disk)
    journal.write([(voted(1, "0001-001"), [entry(1, 1), entry(2, 1)])])
    start, old = journal._position, bytes(disk.names[segment_name(1)].current)
    torn = [entry(3, 1, b"x" * 20), entry(4, 1, b"y" * 20), entry(5, 1, b"z" * 20)]
    journal.write([(None, torn)])
    step = (journal._position - start + 5) // 6
    lines = []
    for kept in itertools.product((False, True), repeat=6):
        cut = disk.copy()
        content = cut.names[segment_name(1)].current
        for place, keep in enumerate(kept):
            if not keep:
                low = start + place * step
                content[low : low + step] = old[low : low + step]
        lines += [f"sectors {''.join('01'[keep] for keep in kept)}: {line}" for line in _goes_on(cut, torn)]
    return lines


def _goes_on(disk: MemoryDisk, torn: list[Entry]) -> list[str]:
    """It starts with what was acknowledged and a prefix of the rest; what is written then is there, alone,
    wherever it ends."""
    try:
        _, found = state_of(disk)
        if list(found[:2]) != [entry(1, 1), entry(2, 1)] or list(found[2:]) != torn[: len(found) - 2]:
            return [f"left are entries {[item.index for item in found]}"]
        for size in range(1, 80, 8):
            further, new = disk.copy(), entry(len(found) + 1, 2, b"n" * size)
            open_journal(further).write([(None, [new])])
            again = state_of(further)[1]
            if again != (*found, new):
                return [
                    f"entries {[item.index for item in again]} after one more was written to {len(found)}"
                ]
    except WalCorrupt as error:
        return [f"it does not start: {error}"]
    return []


def scenario_07_torn_tail() -> list[str]:
    return attempt(_torn_tail)


# -- a whole cluster ---------------------------------------------------------------------------------------


def scenario_04_all_restart_cold() -> list[str]:
    """All die at once, and start in every order, some of them late. Replicas are asked all the while."""
    stage = Stage("list", "register")

    def script() -> None:
        term = 0
        value = str(stage.acked(stage.set()).argument)
        for number, order in enumerate(itertools.permutations(stage.others())):
            stage.acked(stage.rpush())
            stage.settle()
            stage.kill(*order, power=bool(number % 2))
            for machine in order:
                stage.start(machine)
                stage.go(60 * MS)
            shown = _ask_replicas(stage)
            stage.expect(shown <= {value}, f"after a restart of all a replica showed {sorted(shown)}")
            stage.acked(stage.rpush(), 5 * SECOND)
            stage.expect(stage.highest_term() > term, f"term {term} fell to {stage.highest_term()}")
            term = stage.highest_term()

    return stage.play(script)


def _ask_replicas(stage: Stage) -> set[str]:
    """READONLY GETs to every node, until all replicas are up to date: what they showed."""
    wires = [stage.wire(machine) for machine in stage.others() if machine.node is not None]
    for wire in wires:
        wire.send("READONLY")
    for _ in range(400):
        for wire in wires:
            wire.send("GET", stage.key("register"))
        stage.go(2 * MS)
        if stage.sim._settled():
            break
    lines = [line for wire in wires for line in wire.take().decode().split("\r\n")]
    return {line for line in lines if line.startswith("v") or line == "$-1"}


def scenario_05_ack_before_fsync() -> list[str]:
    """Slow disks; the instant a client hears of its write all nodes lose what is not synced."""
    stage = Stage("list", sync_min_us=5 * MS, sync_max_us=20 * MS)

    def script() -> None:
        stage.spoil_disks()
        for _ in range(6):
            stage.acked(stage.rpush())
            stage.kill(*stage.others(), power=True)
            stage.start(*stage.others())
            stage.primary()

    return stage.play(script)


def _rot(segment_bytes: int) -> list[str]:
    """A bit flips in a committed record of one node, which is then needed for a majority."""
    stage = Stage("list", segment_bytes=segment_bytes)

    def script() -> None:
        for _ in range(40):
            stage.acked(stage.rpush())
        stage.settle()
        rotten, _, gone = stage.others()
        stage.kill(rotten, gone)
        file = rotten.disk.names[segment_name(1)]
        file.rot(file.durable.index(b"\r\nv3\r\n") + 2, 0)
        stage.expect(_is_refused(stage, rotten), "a log with a hole in it is believed")
        rotten.disk.damaged = True
        stage.start(rotten)
        stage.go(2 * SECOND)
        stage.expect(rotten.node is None, f"{rotten.id} started on a log with a hole in it")
        stage.expect(rotten.corrupt, f"{rotten.id} has not noticed what its disk lost")
        stage.expect(not stage.sim.primaries_of(rotten.shard), "a primary without a healthy majority")
        stage.start(gone)  # the rotten one stays out: fetching its log again is 4/5
        stage.acked(stage.rpush(stage.primary()))

    return stage.play(script)


def _is_refused(stage: Stage, machine: Machine) -> bool:
    try:
        Journal.open(machine.disk, f"sim/{machine.id}", stage.sim.config.segment_bytes)
    except WalCorrupt:
        return True
    return False


def scenario_08_mid_log_rot() -> list[str]:
    """In a segment that was finished, and in the one in use."""
    return _rot(4 << 10) + _rot(64 << 10)


def scenario_09_fsync_eio_once() -> list[str]:
    """A replica whose ack counts gets EIO once. Then the page cache lies: what it read back after its restart
    is on no disk unless it was written again."""
    stage = Stage("list", restart_us=50 * MS)

    def script() -> None:
        stage.spoil_disks()
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        victim, away = stage.others(primary)
        stage.kill(away)
        victim.disk.fail_syncs = 1
        lives = victim.lives
        op = stage.rpush(primary)
        stage.until(lambda: victim.process is None, "the end of a process whose fsync failed")
        stage.expect(not stage.is_over(op), "acknowledged although one fsync of two failed")
        stage.until(lambda: victim.lives > lives and victim.node is not None, "its restart")
        stage.acked(op)
        # All power goes, and the old primary does not come back: now only the victim's disk has it.
        stage.kill(primary, victim, power=True)
        stage.start(victim, away)
        stage.primary(but=primary)
        stage.acked(stage.rpush())
        stage.start(primary)

    return stage.play(script)


def scenario_10_disk_full_and_stall() -> list[str]:
    return _disk_full() + _disk_stall()


def _disk_full() -> list[str]:
    """The primary's disk is full when its log needs another segment: it goes, another serves in time."""
    stage = Stage("list", segment_bytes=4 << 10)

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        stage.sim.faults.disk_full([primary])
        for _ in range(200):
            stage.done(stage.rpush())
            if primary.process is None:
                break
        stage.expect(primary.process is None, "a node with a full disk goes on")
        stage.primary(but=primary, within_us=3 * 300 * MS + 100 * MS)
        stage.acked(stage.rpush())
        stage.expect(not (primary.node and primary.node.leads), "a node with a full disk leads")

    return stage.play(script)


def _disk_stall() -> list[str]:
    """Disks hang: no ack that would need one of them, and service as long as a majority writes."""
    stage = Stage("list", op_timeout_us=4 * SECOND)

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        slow, other = stage.others(primary)
        # The leader's own disk: the other two write.
        unstall = stage.sim.faults.disk_stall([primary], 30 * SECOND)
        stage.acked(stage.rpush(primary), 900 * MS)
        # And a replica's: what is written is on one disk, and nobody may hear of it.
        unstall_both = stage.sim.faults.disk_stall([slow], 30 * SECOND)
        op = stage.rpush(primary)
        stage.go(2 * SECOND)
        stage.expect(not stage.is_over(op), "acknowledged with one durable copy")
        unstall_both()
        stage.acked(op)
        unstall()
        stage.expect(other.node is not None, "a healthy node has gone")

    return stage.play(script)


REGRESSIONS = (
    Regression(
        2, "term-vote-torn", "A torn hard state is the old pair or the new one.", scenario_02_term_vote_torn
    ),
    Regression(3, "rewrite-keeps-hardstate", "Compaction of the log keeps term and vote.", pending=SNAPSHOTS),
    Regression(
        4,
        "all-restart-cold",
        "Terms never fall and nothing acknowledged is gone.",
        scenario_04_all_restart_cold,
    ),
    Regression(
        5,
        "ack-before-fsync",
        "Every acknowledgement outlives a power cut of all.",
        scenario_05_ack_before_fsync,
    ),
    Regression(
        6, "dirent-lost", "A segment whose name was lost was never acknowledged.", scenario_06_dirent_lost
    ),
    Regression(
        7, "torn-tail", "Only what was not acknowledged goes, and the node starts.", scenario_07_torn_tail
    ),
    Regression(
        8,
        "mid-log-rot",
        "A node whose log has rotted neither starts nor votes on what is left.",
        scenario_08_mid_log_rot,
        rest=f"fetching the rotten log again ({SNAPSHOTS})",
    ),
    Regression(
        9,
        "fsync-eio-once",
        "After a failed fsync a node stops, and believes no page cache.",
        scenario_09_fsync_eio_once,
    ),
    Regression(
        10,
        "disk-full-and-stall",
        "No acknowledgement rests on a disk that refuses or hangs, and others serve in time.",
        scenario_10_disk_full_and_stall,
    ),
)
