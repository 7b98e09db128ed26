"""What was found in PySyncObj 0.3.17, each as the shortest schedule that shows it.

Three kinds, by what the library may be blamed for:

* **in order**: SIGKILL, late and lost connections; messages of a link stay in order, as TCP keeps them;
* **power**: un-synced bytes are gone;
* **raw**: messages doubled or overtaken, which its own transport does not do.

Every test says which function of the library does it. If one fails after an upgrade, the library has probably
been mended: take the row out of docs/track-record.md.
"""

import pytest

from cluster.errors import WalCorrupt
from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.simulation import Outcome, Simulation
from cluster.sim.subjects.pysyncobj_ import PySyncObjSubject
from tests.sim.syncobj_bench import Bench, KeepData, KeepSectors

OK = [("OK", 0)]


def run(seed: int, *faults: PlannedFault, compact_after: int) -> Outcome:
    """A whole run with TCP between the nodes and no power cut."""
    config = SimConfig(
        seed=seed,
        shards=1,
        workloads=(WorkloadConfig("list", 4, 120.0, 1, 8), WorkloadConfig("counter", 3, 30.0, 2, 4)),
        duration_us=4_000_000,
        faults=faults,
        op_timeout_us=3_000_000,
        restart_us=20_000,
    )
    return Simulation(config, subject=PySyncObjSubject(compact_after=compact_after)).run()


def read(bench: Bench, leader: str, follower: str, key: str, *others: str) -> object:
    """What a client reads now, through the log."""
    answers = bench.ask(leader, "GET", key)
    for _ in range(2):
        bench.replicate(leader, follower, *others)
    assert answers, "the read was not answered"
    return answers[0][0]


# -- in order ------------------------------------------------------------------------------------------


def test_sigkill_keeps_log_term_and_vote() -> None:
    """Fair is fair: since 0.3.16 term and vote are stored before they are acted upon."""
    bench = Bench()
    bench.elect("A", "B")
    answers = bench.ask("A", "SET", "k", "v")
    bench.replicate("A", "B")
    assert answers == OK
    bench.kill("A", "B", "C")
    for member in "ABC":
        bench.boot(member)
    assert bench.log_of("B") == [(1, 0), (2, 1), (3, 1)]
    assert (bench.store("B")._getTerm(), bench.inside("B", "votedForNodeId")) == (1, "0001-001")
    bench.elect("B", "C")
    assert read(bench, "B", "C", "k") == "v"


def cut_off_with_a_write_under_way(bench: Bench) -> list[tuple[object, int]]:
    """A leads and takes a write that nobody else hears of; B leads next and goes on until A's end is no
    longer in its log; A is back and B knows what it lacks."""
    bench.elect("A", "B")
    bench.replicate("A", "B", "C")
    answers = bench.ask("A", "SET", "k", "never committed")
    assert bench.log_of("A") == [(1, 0), (2, 1), (3, 1)]
    bench.elect("B", "C")
    for number in range(6):
        bench.ask("B", "SET", f"other{number}", "v")
    bench.replicate("B", "C")
    bench.tick("B")
    assert bench.log_of("B")[0][0] > 3, "the log was compacted"
    bench.ask("B", "SET", "other", "v")
    bench.replicate("B", "C")
    for link in ("AB", "BA"):
        bench.take(*link)  # lost while A was cut off
    bench.tick("B")
    bench.carry("BA", "AB")
    assert answers == []
    return answers


def test_a_follower_commits_its_own_entries_while_a_dump_arrives_and_acknowledges_them() -> None:
    """`__onMessageReceived`, append_entries: what follows "Install snapshot" sets `__raftCommitIndex` to
    min(leader's, own last index) for every message about a dump. These have no prevLogIdx: nobody has
    checked that the follower's log agrees with the leader's."""
    bench = Bench(compact_after=5)
    answers = cut_off_with_a_write_under_way(bench)
    bench.tick("B")
    first, *rest = bench.take("B", "A")
    assert first["serialized"][1], "the first chunk of the dump"
    bench.give("B", "A", [first])
    bench.tick("A")
    assert answers == OK, "the client was told that it is written"
    bench.give("B", "A", rest)
    bench.tick("A")
    assert read(bench, "B", "C", "k") is None


def test_a_leader_that_is_writing_its_dump_makes_a_follower_commit_its_own_entries_too() -> None:
    """Meanwhile `Serializer.getTransmissionData` says None, and `__sendAppendEntries` sends just that, for a
    whole `appendEntriesPeriod` at a time. With fork it does so until the child is done: no matter how small
    the dump is, the follower ticks in between."""
    bench = Bench(compact_after=5)
    answers = cut_off_with_a_write_under_way(bench)
    bench.store("B").forceLogCompaction()
    bench.nodes["B"]._turn()
    bench.tick("B")
    first, *others = bench.take("B", "A")
    assert first["serialized"] is None
    assert len(others) > 10, "and so on, as fast as it can"
    bench.give("B", "A", [first])
    bench.tick("A")
    assert answers == OK
    assert read(bench, "B", "C", "k") is None


def test_an_ack_of_an_earlier_term_counts_in_a_later_one() -> None:
    """`next_node_idx` has no term, and `__onMessageReceived` believes it of any entry at that index."""
    bench = Bench(5)
    bench.elect("A", "B", "C")
    for number in range(3):
        bench.ask("A", "SET", "old", str(number))
    bench.tick("A")
    bench.carry("AB")
    late = bench.take("B", "A")  # says: I have everything up to 5. It is still under way.
    assert late[-1]["next_node_idx"] == 6
    for other in "CDE":
        bench.take("A", other)
    bench.elect("C", "D", "E")  # they have nothing of A's
    bench.carry("CA", "CB")
    assert bench.log_of("A") == bench.log_of("B") == [(1, 0), (2, 2)]
    for link in ("AC", "BC", "CD", "CE", "CA", "CB"):
        bench.take(*link)
    bench.elect("A", "D", "E")
    answers = bench.ask("A", "SET", "k", "v")
    for _ in range(2):
        bench.tick("A")
        bench.carry("AD", "DA")
    bench.give("B", "A", late)
    bench.tick("A")
    assert answers == OK, "acknowledged with A and D of five"
    bench.kill("A", "D")
    bench.elect("B", "C", "E")
    assert read(bench, "B", "C", "k", "E") is None


def test_a_pipelined_ack_makes_the_leader_send_again_and_the_follower_truncate_what_it_has_acked() -> None:
    """The leader's side: an ack of an earlier message sets `__raftNextIndex` back. The follower's side:
    whatever follows `prevLogIdx` is deleted (`__deleteEntriesFrom`) and added anew, equal or not. Between
    the two its journal lacks what it has acknowledged; a SIGKILL there is enough."""
    bench = Bench()
    bench.elect("A", "B")
    answers = bench.ask("A", "SET", "k", "v")
    bench.tick("A")
    bench.carry("AB")
    first, second = bench.take("B", "A")
    bench.give("B", "A", [first])
    bench.tick("A")
    (again,) = bench.take("A", "B")
    assert (again["prevLogIdx"], len(again["entries"])) == (2, 1), "sent a second time"
    bench.give("B", "A", [second])
    bench.tick("A")
    assert answers == OK
    bench.dies_at_write("B", 2, lambda: bench.give("A", "B", [again]))
    bench.kill("A")
    bench.boot("B")
    assert bench.log_of("B") == [(1, 0), (2, 1)]
    bench.elect("B", "C")
    assert read(bench, "B", "C", "k") is None


def compacting(bench: Bench) -> list[tuple[object, int]]:
    """B has just written its dump, not yet cut its journal, and acks one more write, which is committed."""
    bench.elect("A", "B")
    for number in range(6):
        bench.ask("A", "SET", "old", str(number))
    bench.replicate("A", "B")
    assert "pysyncobj.dump" in bench.disks["B"].names
    assert bench.log_of("B")[0] == (1, 0)
    answers = bench.ask("A", "SET", "k", "v")
    bench.tick("A")
    bench.carry("AB", "BA")
    bench.tick("A")
    assert answers == OK
    assert bench.log_of("B")[-1] == bench.log_of("A")[-1]
    return answers


def lost_after_restart_of_b(bench: Bench) -> bool:
    bench.kill("A")
    bench.boot("B")
    bench.elect("B", "C")
    bench.replicate("B", "C")
    bench.replicate("B", "C")
    return bench.store("B").data.get("k") is None and bench.store("C").data.get("k") is None


def test_a_kill_between_dump_and_compaction_empties_the_journal() -> None:
    """`_onTick` writes the dump in one tick and cuts the journal in a later one (with fork: when the child is
    done). After a restart in between, `__loadDumpFile` finds that the journal does not begin with the dump's
    last two entries, and clears it: whatever came after the dump is gone."""
    bench = Bench(compact_after=5)
    compacting(bench)
    bench.kill("B")
    assert lost_after_restart_of_b(bench)


def test_a_kill_within_compaction_empties_the_journal() -> None:
    """`FileJournal.deleteEntriesTo` clears the file and adds what is to stay, in place."""
    bench = Bench(compact_after=5)
    compacting(bench)
    bench.dies_at_write("B", 2, lambda: bench.tick("B"))
    assert lost_after_restart_of_b(bench)


@pytest.mark.slow
def test_a_sigkill_of_all_members_loses_acknowledged_writes() -> None:
    """The same in a whole run: members compact when their logs are equally long, so they are all in between
    at once."""
    all_three = (8 * 3 + 7.5) / 1_000_003
    kill = PlannedFault(at_us=2_000_000, kind="kill_some", pick=all_three, duration_us=300_000, amount=0.9)
    assert any(run(seed, kill, compact_after=5).lost for seed in range(8))


def test_a_cut_off_leader_serves_its_local_copy_for_half_a_minute() -> None:
    """There is no read that asks a quorum. `leaderFallbackTimeout` is 30 s, and nothing checks even that
    before a local read; the library's documentation warns of two leaders at a time."""
    bench = Bench(reads="local")
    bench.elect("A", "B")
    bench.replicate("A", "B", "C")
    bench.elect("B", "C")  # A hears nothing of it
    answers = bench.ask("B", "SET", "k", "new")
    bench.replicate("B", "C")
    assert answers == OK
    for _ in range(200):
        bench.tick("A")
    assert bench.leads("A")
    assert bench.ask("A", "GET", "k") == [(None, 0)]


# -- power ---------------------------------------------------------------------------------------------


def test_an_acknowledged_write_is_in_nobodys_disk() -> None:
    """`FileJournal.add` writes through a mapping; `ResizableFile.flush` (msync) is called from `_destroy`
    only."""
    bench = Bench()
    bench.elect("A", "B")
    answers = bench.ask("A", "SET", "k", "v")
    for _ in range(30):
        bench.replicate("A", "B", "C")
    assert answers == OK
    bench.cut("A", "B", "C")
    for member in "ABC":
        bench.boot(member)
        assert bench.log_of(member) == [(1, 0)]


def test_a_vote_is_forgotten_and_one_term_has_two_leaders() -> None:
    """`MetaStorer.storeMeta` writes a file beside and moves it over the old one, and syncs neither file nor
    directory, though the comment at its caller, `FileJournal.setCurrentTerm`, says why it must be durable."""
    bench = Bench()
    bench.elect("A", "B")
    bench.carry("AB", "BA")
    bench.cut("B")
    bench.boot("B")
    assert (bench.store("B")._getTerm(), bench.inside("B", "votedForNodeId")) == (0, None)
    bench.elect("C", "B")
    assert bench.leads("A")
    assert bench.store("A")._getTerm() == bench.store("C")._getTerm() == 1
    first = bench.ask("C", "SET", "k", "of C")
    bench.replicate("C", "B")
    second = bench.ask("A", "SET", "k", "of A")
    bench.tick("A")
    bench.tick("A")
    bench.carry("AB", "BA")
    bench.replicate("A", "B")
    bench.replicate("A", "B")
    assert first == second == OK
    assert bench.log_of("A") == bench.log_of("C"), "two logs, equal in index and term"
    assert bench.store("A").data != bench.store("C").data


def test_a_torn_journal_is_not_opened_at_all() -> None:
    """The offset of the last record stands in the file's header; if the header is on the disk and the record
    is not, `FileJournal.__init__` unpacks nothing and raises."""
    bench = Bench()
    bench.elect("A", "B")
    bench.ask("A", "SET", "k", "v" * 600)
    bench.ask("A", "SET", "k", "v")
    bench.replicate("A", "B")
    keep_names(bench, "B")
    bench.disks["B"].rng = KeepSectors(True)
    bench.cut("B")
    with pytest.raises(WalCorrupt, match="unpack requires a buffer"):
        bench.boot("B")


def keep_names(bench: Bench, *members: str) -> None:
    """Six seconds pass: names that were made before are on the disk."""
    bench.world.now += 6_000_000
    for member in members:
        bench.nodes[member].files.write_back()


def test_a_hole_in_the_journal_is_served_as_data() -> None:
    """Records have lengths but no checksum."""
    bench = Bench()
    bench.elect("A", "B")
    answers = bench.ask("A", "SET", "k", "v" * 1500)
    bench.replicate("A", "B")
    assert answers == OK
    keep_names(bench, "A", "B", "C")
    for member in "AB":
        bench.disks[member].rng = KeepSectors(True, False, True, True)
    bench.cut("A", "B", "C")
    for member in "AB":
        bench.boot(member)
    bench.elect("B", "A")
    value = read(bench, "B", "A", "k")
    assert isinstance(value, str)
    assert value != "v" * 1500
    assert value.strip("v").strip("\0") == ""


def test_a_journal_that_outlives_its_dump_leaves_a_member_that_votes_and_never_applies() -> None:
    """Compaction relies on a dump that nobody synced. Without it the log begins at some index and
    `__raftLastApplied` at 1: `__getEntries(2, …)` is empty for ever, no line is logged, and the member can
    still be elected: then no command is ever answered."""
    bench = Bench(compact_after=5)
    bench.elect("A", "B")
    keep_names(bench, "A", "B")
    for number in range(6):
        bench.ask("A", "SET", "old", str(number))
    bench.replicate("A", "B")
    bench.tick("A", "B")
    assert bench.log_of("B")[0][0] > 1, "the log was compacted"
    bench.disks["B"].rng = KeepData()
    bench.cut("B")
    assert "pysyncobj.dump" not in bench.disks["B"].names
    bench.boot("B")
    bench.logs["B"].events.clear()
    bench.elect("B", "A")
    answers = bench.ask("B", "SET", "k", "v")
    for _ in range(5):
        bench.replicate("B", "A")
    assert bench.store("B").raftCommitIndex == bench.log_of("B")[-1][0]
    assert bench.store("B").raftLastApplied == 1
    assert answers == []
    assert [event for event in bench.logs["B"].events if event.startswith("library")] == []


# -- raw -----------------------------------------------------------------------------------------------


def test_raw_an_empty_append_that_comes_late_truncates_what_was_acknowledged() -> None:
    """`__onMessageReceived` deletes everything after `prevLogIdx`, though nothing contradicts it."""
    bench = Bench()
    bench.elect("A", "B")
    bench.carry("AB", "BA")
    bench.tick("A")
    (late,) = bench.take("A", "B")
    assert (late["prevLogIdx"], late["entries"]) == (2, [])
    answers = bench.ask("A", "SET", "k", "v")
    bench.tick("A")
    bench.carry("AB", "BA")
    bench.tick("A")
    assert answers == OK
    bench.give("A", "B", [late])
    assert bench.log_of("B") == [(1, 0), (2, 1)]
    bench.kill("A")
    bench.elect("B", "C")
    assert read(bench, "B", "C", "k") is None


def test_raw_a_vote_that_comes_twice_counts_twice() -> None:
    """`__votesCount += 1` does not ask whose vote it is."""
    bench = Bench(5)
    bench.ask_for_votes("A")
    bench.carry("AB")
    vote = bench.take("B", "A")
    bench.give("B", "A", [*vote, *vote])
    assert bench.leads("A"), "with two of five"


def test_raw_a_forwarded_command_that_comes_twice_is_executed_twice() -> None:
    """`apply_command` is appended whenever it comes; its request_id is used for the answer only."""
    bench = Bench()
    bench.elect("A", "B")
    bench.replicate("A", "B", "C")
    answers = bench.ask("C", "INCR", "k")
    command = bench.take("C", "A")
    bench.give("C", "A", [message for message in [*command, *command] if message["type"] == "apply_command"])
    bench.replicate("A", "B", "C")
    bench.carry("AC")
    bench.tick("C")
    bench.replicate("A", "B", "C")
    assert bench.store("A").data == {"k": "2"}
    assert len(answers) <= 1
