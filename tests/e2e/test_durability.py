"""Real processes, real Valkey, real SIGKILL: what was acknowledged is there."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster.types import NodeId
from tests.e2e.raw import DEFINITE, Client, Cluster, Connection, InDoubtError, NotSentError, code, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
AZS = ("az-a", "az-b", "az-c")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def sharded(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", shards=3) as running:
        yield running


class Writer(threading.Thread):
    """RPUSH of unique values and INCR, one after the other, each outcome remembered."""

    def __init__(self, client: Client, name: str) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.list, self.counter = f"list:{name}", f"counter:{name}"
        self.acked: list[str] = []
        self.doubtful: set[str] = set()
        self.incremented = self.maybe_incremented = 0
        self.stopping = threading.Event()
        self.sent = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            self.sent += 1
            value = f"v{self.sent}"
            outcome = self._do(self.list, "RPUSH", self.list, value)
            if outcome is True:
                self.acked.append(value)
            elif outcome is None:
                self.doubtful.add(value)
            outcome = self._do(self.counter, "INCR", self.counter)
            self.incremented += outcome is True
            self.maybe_incremented += outcome is None

    def _do(self, key: str, *args: str) -> bool | None:
        """True: done; False: certainly not; None: who knows."""
        try:
            reply = self.client.call(key, *args)
        except NotSentError:
            return False
        except InDoubtError:
            return None
        if isinstance(reply, int):
            return True
        return False if code(reply) in DEFINITE else None

    def finish(self) -> None:
        self.stopping.set()
        self.join(30)
        assert not self.is_alive()

    def check(self, client: Client) -> None:
        """Every acknowledged value once and in order, nothing that was never sent, the counter within its
        doubt.
        """
        stored = client.until_answered(self.list, "LRANGE", self.list, 0, -1)
        assert isinstance(stored, list)
        values = [value.decode() for value in stored]
        assert len(set(values)) == len(values), "a value was applied twice"
        missing = set(self.acked) - set(values)
        assert not missing, f"acknowledged and lost: {sorted(missing)}"
        assert set(values) <= set(self.acked) | self.doubtful, "a definite failure was applied"
        acked = [value for value in values if value in set(self.acked)]
        assert acked == self.acked, "acknowledged writes changed their order"
        final = client.until_answered(self.counter, "GET", self.counter)
        assert isinstance(final, bytes)
        assert self.incremented <= int(final) <= self.incremented + self.maybe_incremented


def writers(cluster: Cluster, count: int) -> list[Writer]:
    started = [Writer(cluster.client(), str(number)) for number in range(count)]
    for writer in started:
        writer.start()
    return started


def more_acked(started: list[Writer], by: int = 20) -> None:
    """Wait until every writer got `by` more acknowledgements: the cluster serves."""
    before = [len(writer.acked) for writer in started]
    wait_for(
        lambda: all(len(w.acked) >= had + by for w, had in zip(started, before, strict=True)),
        "writers go on",
    )


def test_two_azs_killed_one_after_the_other_lose_nothing(sharded: Cluster) -> None:
    started = writers(sharded, 4)
    more_acked(started)
    for az in ("az-a", "az-b"):
        sharded.kill_az(az)
        more_acked(started)
        sharded.start_az(az)
        sharded.launcher.wait_serving()
        more_acked(started)
    for writer in started:
        writer.finish()
    sharded.assert_replicas_agree()
    client = sharded.client()
    for writer in started:
        writer.check(client)


def test_the_same_az_killed_twice_in_a_row_loses_nothing(cluster: Cluster) -> None:
    started = writers(cluster, 3)
    more_acked(started)
    az = cluster.az_of(cluster.primary())
    for _ in range(2):
        cluster.kill_az(az)
        cluster.start_az(az)
        more_acked(started)
    for writer in started:
        writer.finish()
    cluster.assert_replicas_agree()
    for writer in started:
        writer.check(cluster.client())


def test_everything_killed_at_once_comes_back_with_every_acknowledged_write(cluster: Cluster) -> None:
    for _ in range(2):
        started = writers(cluster, 3)
        more_acked(started)
        cluster.launcher.kill(cluster.launcher.node_ids())
        for writer in started:
            writer.finish()
        cluster.again()
        client = cluster.client()
        for writer in started:
            writer.check(client)
            for key in (writer.list, writer.counter):  # for the second round; deleting twice does no harm
                assert client.until_answered(key, "DEL", key) == 1
    cluster.assert_replicas_agree()


def test_a_paused_primary_that_wakes_serves_neither_stale_reads_nor_acks(cluster: Cluster) -> None:
    old = cluster.primary()
    first = Connection(cluster.address(old))
    assert first.call("SET", "k", "old") == b"OK"
    cluster.launcher.pause([old])
    new = cluster.primary(but=old)
    second = Connection(cluster.address(new))
    assert second.call("SET", "k", "new") == b"OK"
    first.send("GET", "k")
    first.send("SET", "k", "never acknowledged by the old primary")
    cluster.launcher.resume([old])
    read, written = first.read(), first.read()
    assert code(read) in ("TRYAGAIN", "MOVED", "CLUSTERDOWN"), read
    assert code(written) in ("INDOUBT", "MOVED", "CLUSTERDOWN"), written
    value = cluster.client().until_answered("k", "GET", "k")
    assert value == b"new"
    cluster.assert_replicas_agree()


def test_an_isolated_primary_acknowledges_nothing(cluster: Cluster) -> None:
    old = cluster.primary()
    connection = Connection(cluster.address(old), timeout_s=30)
    assert connection.call("SET", "k", "old") == b"OK"
    cluster.launcher.isolate(cluster.az_of(old), True)
    connection.send("SET", "k", "lost")
    new = cluster.primary(but=old)
    assert code(connection.read()) in ("INDOUBT", "CLUSTERDOWN", "MOVED")
    assert Connection(cluster.address(new)).call("GET", "k") == b"old"
    cluster.launcher.isolate(cluster.az_of(old), False)
    cluster.assert_replicas_agree()


def test_an_engine_killed_alone_answers_nobody_and_comes_back(cluster: Cluster) -> None:
    client = cluster.client()
    assert client.call("k", "SET", "k", "v") == b"OK"
    for _ in range(2):
        primary = cluster.primary()
        engine = cluster.engine_pid(primary)
        assert engine > 0
        os.kill(engine, signal.SIGKILL)
        assert client.until_answered("k", "GET", "k") == b"v"
        wait_for(partial(other_engine, cluster, primary, engine), "the engine is back")
    cluster.assert_replicas_agree()


def test_a_node_killed_alone_takes_its_engine_along(cluster: Cluster) -> None:
    primary = cluster.primary()
    engine = cluster.engine_pid(primary)
    os.kill(cluster.launcher.running()[primary].pid, signal.SIGKILL)
    wait_for(lambda: not _exists(engine), "the engine died with its node")
    assert cluster.primary(but=primary) != primary


def test_planned_failover_leaves_nobody_in_doubt(cluster: Cluster) -> None:
    from cluster.runtime.admin_client import AdminClient

    started = writers(cluster, 3)
    more_acked(started)
    primary = cluster.primary()
    with AdminClient(cluster.launcher.topology.nodes) as admin:
        reply = admin.transfer(primary)
    assert reply.accepted, reply.reason
    assert cluster.primary(but=primary) != primary
    more_acked(started)
    for writer in started:
        writer.finish()
        assert writer.maybe_incremented == 0 and not writer.doubtful
        writer.check(cluster.client())


def other_engine(cluster: Cluster, node: NodeId, engine: int) -> bool:
    return cluster.engine_pid(node) not in (0, engine)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
