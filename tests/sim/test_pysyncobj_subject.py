"""PySyncObj as a subject: the adapter is fair and repeatable. What was found: test_pysyncobj_findings.py.

Fair means: with nothing broken, and when an AZ is killed, every checker is content; the library's files are
synced exactly when it asks for that; between nodes there is TCP, however bad the network is.
"""

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pysyncobj.syncobj
import pytest
from pysyncobj import FAIL_REASON

from cluster.sim.config import PlannedFault, SimConfig, WorkloadConfig
from cluster.sim.disk import SimDisk
from cluster.sim.history import LOST_WRITE
from cluster.sim.simulation import Outcome, Simulation
from cluster.sim.subjects import ClientTransport
from cluster.sim.subjects.pysyncobj_ import Member, PySyncObjSubject
from cluster.sim.subjects.syncobj_files import PageFile
from cluster.sim.subjects.syncobj_links import TcpLinks
from cluster.sim.subjects.syncobj_session import Command, Done, SyncObjSession
from cluster.sim.subjects.syncobj_store import Data, Refused, run
from cluster.sim.world import World
from cluster.types import NodeId
from tests.sim.syncobj_bench import Bench, KeepNothing

JUDGED = ("register", "list", "counter", "chain", "set", "transaction", "small")


def work(seed: int, *faults: PlannedFault, duration_us: int = 3_000_000, **settings: Any) -> Outcome:
    config = SimConfig(
        seed=seed,
        shards=1,
        workloads=tuple(WorkloadConfig(kind, 2, 10.0, 2, 2) for kind in JUDGED),
        duration_us=duration_us,
        faults=faults,
        op_timeout_us=3_000_000,
    )
    return Simulation(config, subject=PySyncObjSubject(**settings)).run()


def kinds(outcome: Outcome) -> set[str]:
    return {violation.kind for violation in outcome.violations}


# -- whole runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_quiet_run_breaks_no_promise_and_is_the_same_run_each_time() -> None:
    first, second = work(1), work(1)
    assert first.ok, first.violations
    assert first.acked > 100
    assert first.in_doubt == 0
    assert (first.trace_hash, first.unseed) == (second.trace_hash, second.unseed)
    assert pysyncobj.syncobj.random is random, "the library is as it was"


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"compact_after": 20}])
def test_the_loss_of_an_az_loses_nothing(settings: dict[str, int]) -> None:
    kill = PlannedFault(at_us=1_000_000, kind="kill", pick=0.1, duration_us=1_500_000)
    outcome = work(2, kill, duration_us=6_000_000, **settings)
    assert outcome.ok, outcome.violations
    assert outcome.acked > 100


@pytest.mark.slow
def test_a_power_cut_of_all_loses_acknowledged_writes() -> None:
    cut = PlannedFault(at_us=2_000_000, kind="power_cut_all", pick=0.0, duration_us=100_000)
    assert any(LOST_WRITE in kinds(work(seed, cut)) for seed in range(3))


# -- files ---------------------------------------------------------------------------------------------


def test_the_library_syncs_nothing_and_neither_do_we(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a sync")

    for owner, name in ((PageFile, "sync"), (PageFile, "write_durable"), (SimDisk, "sync_dir")):
        monkeypatch.setattr(owner, name, refuse)
    bench = Bench(compact_after=5)
    bench.elect("A", "B")
    for number in range(12):
        bench.ask("A", "SET", "k", str(number))
        bench.replicate("A", "B", "C")
    assert bench.log_of("B")[0][0] > 1
    bench.kill("B")
    bench.boot("B")


def a_file(content: bytes = b"") -> tuple[SimDisk, PageFile]:
    disk = SimDisk(World("disk"), random.Random(1))
    file = PageFile(disk, content)
    disk.add("file", file)
    return disk, file


def test_a_sector_never_shows_a_later_write_without_an_earlier_one() -> None:
    for seed in range(60):
        disk, file = a_file(bytes(2048))
        disk.rng.seed(seed)
        for number in range(1, 9):
            for sector in range(4):
                file.write(sector * 512 + number * 8, bytes([number]))
        file.on_power_cut(disk.now())
        for sector in range(4):
            kept = file.durable[sector * 512 : (sector + 1) * 512].replace(b"\0", b"")
            assert kept == bytes(range(1, len(kept) + 1))


def test_a_sigkill_keeps_what_was_written() -> None:
    disk, file = a_file(b"....")
    file.write(1, b"ab")
    disk.on_kill()
    assert file.current == b".ab."


def test_what_is_old_enough_is_on_the_disk() -> None:
    bench = Bench()
    bench.elect("A", "B")
    bench.replicate("A", "B")
    bench.world.now += 40_000_000
    bench.nodes["B"].files.write_back()
    before = bench.log_of("B")
    bench.cut("B")
    bench.boot("B")
    assert bench.log_of("B") == before == [(1, 0), (2, 1)]


def test_a_file_moved_over_another_is_the_old_one_or_the_new_one() -> None:
    seen = set()
    for kept in (0, 1, 2):
        bench = Bench()
        files, disk = bench.nodes["A"].files, bench.disks["A"]
        for name, content in (("x", b"old"), ("x.tmp", b"new")):
            with files.open(name, "wb") as file:
                file.write(content)
            if name == "x":
                bench.world.now += 40_000_000
                files.write_back()
        files.rename("x.tmp", "x")
        rng = KeepNothing()
        rng.randint = lambda low, high, kept=kept: kept  # type: ignore[method-assign, misc]
        disk.rng = rng
        bench.cut("A")
        seen.add(bytes(disk.names["x"].current))
    assert seen == {b"old", b"new"}


# -- links ---------------------------------------------------------------------------------------------


class Pair:
    """Two ends of the links, and a network between them that a test can make as bad as it likes."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.now = 1_000_000
        self.wire: list[tuple[int, int, str, object]] = []  # when, tie, to whom, what
        self.bad = False
        self.cut = False
        self.events: dict[str, list[object]] = {"A": [], "B": []}
        self._sent = 0
        self.ends: dict[str, TcpLinks] = {}
        self.life(1)

    def life(self, number: int) -> None:
        for name in ("A", "B"):
            self.restart(name, number)

    def restart(self, name: str, life: int) -> None:
        other = "B" if name == "A" else "A"
        host: Any = SimpleNamespace(
            id=NodeId(name), life=life, now_us=lambda: self.now, spend=lambda us: None,
            send=lambda to, message: self._send(to, message),
        )  # fmt: skip
        conf = SimpleNamespace(connectionTimeout=3.5, connectionRetryTime=0.5)
        sync_obj = SimpleNamespace(conf=conf, addOnTickCallback=lambda callback: None)
        end = TcpLinks(host, sync_obj, Member(name), [Member(other)])
        end.setOnNodeConnectedCallback(lambda node: self.events[name].append("connected"))
        end.setOnNodeDisconnectedCallback(lambda node: self.events[name].append("disconnected"))
        end.setOnMessageReceivedCallback(lambda node, message: self.events[name].append(message["n"]))
        self.ends[name] = end

    def _send(self, to: NodeId, message: object) -> None:
        copies = self._rng.choice((0, 1, 1, 1, 2)) if self.bad else 1
        for _ in range(0 if self.cut else copies):
            self._sent += 1
            delay = self._rng.randrange(200, 60_000) if self.bad else 500
            self.wire.append((self.now + delay, self._sent, to, message))

    def say(self, sender: str, number: int) -> bool:
        other = "B" if sender == "A" else "A"
        sent = self.ends[sender].send(Member(other), {"n": number})
        self.ends[sender].flush()
        return sent

    def run(self, milliseconds: int) -> None:
        for _ in range(milliseconds // 10):
            self.now += 10_000
            for item in sorted(self.wire, key=lambda item: item[:2]):
                if item[0] <= self.now and item in self.wire:
                    self.wire.remove(item)
                    self.ends[item[2]].receive(NodeId("A" if item[2] == "B" else "B"), cast(Any, item[3]))
            for end in self.ends.values():
                end.on_library_tick()
                end.on_timer()

    def heard(self, name: str) -> list[object]:
        return [event for event in self.events[name] if isinstance(event, int)]


@pytest.mark.parametrize("seed", range(5))
def test_a_bad_network_is_repaired_as_tcp_does_it(seed: int) -> None:
    pair = Pair(seed)
    pair.run(100)
    pair.bad = True
    for number in range(40):
        assert pair.say("A", number)
        assert pair.say("B", number)
        pair.run(20)
    pair.bad = False
    pair.run(8_000)
    assert pair.heard("A") == pair.heard("B") == list(range(40))
    assert pair.events["A"].count("disconnected") == 0


def test_a_connection_on_which_nothing_is_read_ends_at_the_next_send_and_both_hear_of_it() -> None:
    pair = Pair(1)
    pair.run(100)
    assert pair.say("A", 1)
    pair.run(4_000)
    assert not pair.say("A", 2)
    pair.run(1_000)
    assert pair.events["A"] == ["connected", "disconnected", "connected"]
    assert pair.events["B"] == ["connected", 1, "disconnected", "connected"]


def test_what_was_sent_into_a_cut_link_arrives_if_it_mends_in_time_and_else_never() -> None:
    pair = Pair(1)
    pair.run(100)
    pair.cut = True
    assert pair.say("B", 1)
    pair.run(2_000)
    pair.cut = False
    pair.run(2_000)
    assert pair.heard("A") == [1]
    pair.cut = True
    pair.say("B", 2)
    pair.run(4_000)
    pair.cut = False
    pair.run(3_000)
    pair.say("B", 3)
    pair.run(1_000)
    assert 2 not in pair.heard("A")


def test_a_restarted_peer_is_connected_again_and_gets_nothing_of_before() -> None:
    pair = Pair(1)
    pair.run(100)
    pair.restart("A", 2)
    pair.say("B", 1)
    pair.run(2_000)
    assert pair.events["B"] == ["connected", "disconnected", "connected"]
    assert pair.heard("A") == []
    assert pair.say("A", 2)
    pair.run(100)
    assert pair.heard("B") == [2]


# -- clients -------------------------------------------------------------------------------------------


class Wires:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Answers:
    """A node that answers when the test says so."""

    def __init__(self) -> None:
        self.data: Data = {}
        self.refused: bytes | None = None
        self.waiting: list[Callable[[int], None]] = []

    def refusal(self, key: str) -> bytes | None:
        return self.refused

    def execute(self, commands: Sequence[Command], done: Done, *, multi: bool) -> None:
        def finish(reason: int) -> None:
            results = (
                [run(self.data, words) for words in commands] if reason == FAIL_REASON.SUCCESS else [None]
            )
            done(results if multi else results[0], reason)

        self.waiting.append(finish)


def session() -> tuple[SyncObjSession, Answers, Wires]:
    node, wires = Answers(), Wires()
    transport: ClientTransport = wires
    return SyncObjSession(node, transport), node, wires


def test_replies_come_in_the_order_of_the_commands() -> None:
    client, node, wires = session()
    client.receive(b"SET k v\r\nGET k\r\nNOPE x\r\n")
    node.waiting[1](FAIL_REASON.SUCCESS)
    assert wires.written == b""
    node.waiting[0](FAIL_REASON.SUCCESS)
    assert wires.written == b"+OK\r\n$-1\r\n-CLUSTERDOWN this subject does not have the command\r\n"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (FAIL_REASON.QUEUE_FULL, b"-CLUSTERDOWN"), (FAIL_REASON.MISSING_LEADER, b"-CLUSTERDOWN"),
        (FAIL_REASON.DISCARDED, b"-CLUSTERDOWN"), (FAIL_REASON.NOT_LEADER, b"-CLUSTERDOWN"),
        (FAIL_REASON.REQUEST_DENIED, b"-CLUSTERDOWN"), (FAIL_REASON.LEADER_CHANGED, b"-INDOUBT"),
        (FAIL_REASON.UNKNOWN_OUTCOME, b"-INDOUBT"),
    ],
)  # fmt: skip
def test_what_a_failure_means_for_a_client(reason: int, code: bytes) -> None:
    client, node, wires = session()
    client.receive(b"INCR k\r\n")
    node.waiting[0](reason)
    assert wires.written.startswith(code)


def test_a_transaction_is_one_command() -> None:
    client, node, wires = session()
    client.receive(b"MULTI\r\nRPUSH k a\r\nLRANGE k 0 -1\r\nEXEC\r\n")
    assert len(node.waiting) == 1
    node.waiting[0](FAIL_REASON.SUCCESS)
    assert wires.written == b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n*1\r\n$1\r\na\r\n"


def test_a_transaction_on_a_follower_is_moved() -> None:
    client, node, wires = session()
    node.refused = b"-MOVED 1 sim:7001\r\n"
    client.receive(b"MULTI\r\nRPUSH k a\r\nEXEC\r\n")
    assert wires.written.startswith(b"+OK\r\n-MOVED 1 sim:7001\r\n-EXECABORT")
    assert node.waiting == []


def test_a_follower_names_the_leader_it_knows_of() -> None:
    bench = Bench()
    assert bench.nodes["C"].refusal("k") == b"-CLUSTERDOWN no leader\r\n"
    bench.elect("A", "B")
    bench.carry("AC")
    assert bench.nodes["A"].refusal("k") is None
    assert bench.nodes["C"].refusal("k") == b"-MOVED 7629 sim:7001\r\n"


def test_no_command_raises() -> None:
    data: Data = {}
    for line in ("RPUSH l a", "SADD s a", "SET k v", "HSET h f 1"):
        assert not isinstance(run(data, line.split()), Refused)
    for line in (
        "INCR l", "INCR k", "GET l", "APPEND s x", "SADD k a", "GET", "RPUSH k a", "LRANGE k 0 -1",
        "SET k v PX 1", "NOPE k", "HINCRBY k f 1", "RPOP s", "LPUSH k a", "SMEMBERS l",
    ):  # fmt: skip
        assert isinstance(run(data, line.split()), Refused), line
