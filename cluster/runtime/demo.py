"""The durability demo: write through a stock client, kill availability zones, and look for what was lost.

The story, told by `Demo.run`:

 1. a cluster of 3 shards × 3 AZs, in a temporary directory on free ports unless one is given;
 2. three writing processes (cluster/runtime/demo_worker.py), nine clients, every kind of data;
 3. SIGKILL every process of one AZ while they write, go on writing, start it again, wait until it has caught
   up;
 4. the same with another AZ; both times the AZ with the most primaries among those not yet killed;
 5. stop writing, read everything back through the client, judge it (cluster/runtime/demo_check.py), and
   compare
    the digests of all replicas of each shard at equal offset.

The demo fails if anything acknowledged is not there, anything was applied twice, anything refused is there, a
replica differs, or a zone does not catch up in time. Whatever happens, also Ctrl-C, its processes and files
go.

Left out: it judges no order between clients and injects nothing but SIGKILL; the simulator does.
"""

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from cluster.az.topology import check_placement
from cluster.errors import AzimuthError
from cluster.runtime.admin_client import AdminClient
from cluster.runtime.demo_check import Final, Kind, Outcome, Verdict, check, longest_gaps_ms
from cluster.runtime.demo_client import connect
from cluster.runtime.demo_worker import read_history
from cluster.runtime.launcher import Launcher
from cluster.runtime.pb import admin_pb2
from cluster.runtime.processes import uninterrupted
from cluster.runtime.up import (
    DEFAULT_AZS,
    DEFAULT_REPLICAS,
    DEFAULT_SHARDS,
    UpOptions,
    down,
    free_base_port,
    up,
)
from cluster.types import Az, NodeId, ShardId

WORKERS = 3
CATCH_UP_TIMEOUT_S = 40.0
READ_TIMEOUT_S = 40.0
DIGEST_TIMEOUT_S = 30.0
READ_BATCH = 200
POLL_S = 0.05


class DemoFailed(AzimuthError):
    """The demo could not be carried out (which is not the same as having found a loss)."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """How long each part takes. Changed only by tests."""

    warm_up_s: float = 2.0
    down_s: float = 4.0  # an AZ stays dead
    after_s: float = 1.0  # after catching up
    pause_ms: int = 4  # between the operations of one client
    kills: int = 2
    shards: int = DEFAULT_SHARDS


@dataclass(slots=True)
class DemoView:
    """What a live view shows; replaced values only, read by another thread at any moment."""

    phase: str = "starting the cluster"
    azs: dict[str, str] = field(default_factory=dict)  # az → up, killed, catching up
    primaries: dict[str, str] = field(default_factory=dict)  # shard → node (az)
    acked: int = 0
    in_doubt: int = 0
    refused: int = 0
    per_second: float = 0.0
    events: list[tuple[float, str]] = field(default_factory=list)  # (seconds since the start, what)


@dataclass(slots=True)
class DemoResult:
    verdict: Verdict
    gaps_ms: dict[str, int]
    catch_up_ms: list[int]
    digests: dict[str, dict[str, str]]  # shard → node → digest
    digests_equal: bool
    write_seconds: float
    seconds: float
    killed: list[str]

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.digests_equal

    def as_json(self) -> dict[str, Any]:
        verdict = self.verdict
        return {
            "acked": verdict.acked,
            "in_doubt": verdict.in_doubt,
            "lost": verdict.lost,
            "reads_checked": verdict.reads_checked,
            "write_gap_ms_max": max(self.gaps_ms.values(), default=0),
            "catch_up_ms": max(self.catch_up_ms, default=0),
            "digests_equal": self.digests_equal,
            "ok": self.ok,
            "refused": verdict.refused,
            "duplicated": verdict.duplicated,
            "ghosts": verdict.ghosts,
            "findings": verdict.findings,
            "write_gap_ms": self.gaps_ms,
            "catch_up_ms_each": self.catch_up_ms,
            "digests": self.digests,
            "azs_killed": self.killed,
            "acked_per_s": round(verdict.acked / self.write_seconds) if self.write_seconds else 0,
            "write_seconds": round(self.write_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


class Workers:
    """The writing processes. They end when their standard input closes, so they cannot outlive us."""

    def __init__(self, jobs: Sequence[dict[str, Any]]) -> None:
        self.histories = [Path(job["history"]) for job in jobs]
        self._processes: list[subprocess.Popen[str]] = []
        self._reports: list[dict[str, int]] = [{} for _ in jobs]
        argv = [sys.executable, "-P", "-m", "cluster.runtime.demo_worker"]
        for job in jobs:
            output = open(f"{job['history']}.progress", "w")  # noqa: SIM115  # the child's; ours closes below
            try:
                # A session of their own: Ctrl-C at the terminal is for us alone, who then close their input.
                process = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, text=True,
                    start_new_session=True,
                )  # fmt: skip
            finally:
                output.close()
            self._processes.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()

    def totals(self) -> dict[str, int]:
        """Acked, in doubt and refused so far. DemoFailed if a worker has ended."""
        for index, history in enumerate(self.histories):
            lines = last_lines(Path(f"{history}.progress"))
            if self._processes[index].poll() is not None:
                raise DemoFailed(f"a writing process ended: {lines[-1] if lines else 'without a word'}")
            for line in reversed(lines):
                try:
                    self._reports[index] = json.loads(line)
                    break
                except ValueError:
                    continue
        return {name: sum(r.get(name, 0) for r in self._reports) for name in ("acked", "in_doubt", "refused")}

    def stop(self) -> None:
        """Let every operation under way finish and be recorded. DemoFailed if a worker did not end well."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                raise DemoFailed("a writing process did not stop") from None
            if code != 0:
                raise DemoFailed(f"a writing process ended with code {code}")

    def kill(self) -> None:
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                try:
                    process.stdin.close()
                except OSError:
                    pass
            process.kill()
            process.wait()


def last_lines(path: Path, size: int = 4096) -> list[str]:
    with open(path, "rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - size))
        return file.read().decode(errors="replace").splitlines()


class Demo:
    """One run. `view` changes while `run` goes on; everything is cleaned up when `run` returns or raises."""

    def __init__(self, directory: Path | None = None, plan: DemoPlan | None = None) -> None:
        self.plan = plan or DemoPlan()
        self.view = DemoView()
        self._begin = time.monotonic()
        self._given_directory = directory
        self._work = Path()
        self._launcher = Launcher(Path())
        self._admin: AdminClient | None = None
        self._workers: Workers | None = None
        self._ran_before = False  # the given cluster ran already, and shall go on
        self._written_from_us = 0
        self._rate_from = (0.0, 0)

    def run(self) -> DemoResult:
        """The whole story. Raises AzimuthError if it cannot be told to its end."""
        self._begin = time.monotonic()
        self._work = Path(tempfile.mkdtemp(prefix="azdemo-"))
        try:
            self._launcher = Launcher(self._given_directory or self._work / "c")
            self._bring_up()
            return self._with_cluster()
        finally:
            with uninterrupted():
                self._clean_up()

    def _with_cluster(self) -> DemoResult:
        self._start_writing()
        self._write_for(self.plan.warm_up_s, "writing")
        killed: list[str] = []
        catch_up_ms: list[int] = []
        for _ in range(self.plan.kills):
            az = self._next_az(killed)
            killed.append(az)
            catch_up_ms.append(self._lose_and_regain(az))
        assert self._workers is not None
        stop_us = now_us()
        self._workers.totals()
        self._workers.stop()
        self._say("writing stopped")
        verdict, gaps_ms = self._judge(self._workers.histories, stop_us)
        digests, equal = self._compare_digests()
        return DemoResult(
            verdict=verdict,
            gaps_ms=gaps_ms,
            catch_up_ms=catch_up_ms,
            digests=digests,
            digests_equal=equal,
            write_seconds=(stop_us - self._written_from_us) / 1e6,
            seconds=time.monotonic() - self._begin,
            killed=killed,
        )

    # -- the cluster ---------------------------------------------------------------------------------------

    def _bring_up(self) -> None:
        options = UpOptions()
        if not self._launcher.exists():
            port = free_base_port(self.plan.shards, DEFAULT_REPLICAS, DEFAULT_AZS)
            options = UpOptions(shards=self.plan.shards, port=port)
        result = up(self._launcher, options, self._set_phase)
        if result.failed:
            raise DemoFailed(
                "; ".join(f"node {node} does not start: {why}" for node, why in result.failed.items())
            )
        self._ran_before = not result.created and not result.started
        topology = self._launcher.topology
        unsafe = check_placement(topology)
        if unsafe:
            raise DemoFailed(f"this cluster cannot lose a zone: {unsafe[0]}")
        self._admin = AdminClient(topology.nodes)
        self.view.azs = dict.fromkeys(topology.azs, "up")
        counts = f"{len(topology.nodes)} nodes in {len(topology.azs)} AZs"
        self._say(f"{counts} serve after {result.seconds:.1f} s")

    def _statuses(self) -> dict[NodeId, admin_pb2.StatusReply]:
        assert self._admin is not None
        answers = self._admin.statuses(self._launcher.node_ids(), timeout_s=0.5)
        primaries = dict(self.view.primaries)
        for node, answer in sorted(answers.items(), key=lambda item: item[1].term):
            if answer.serving == "primary":
                primaries[answer.shard] = f"{node} ({answer.az})"
        for shard, primary in sorted(primaries.items()):
            if self.view.primaries.get(shard) not in (None, primary):
                self._say(f"shard {shard}: {primary} is primary now")
        self.view.primaries = primaries
        return answers

    def _next_az(self, killed: Sequence[str]) -> Az:
        """Of the AZs not yet killed the one with the most primaries; the first of equals."""
        counts = Counter(answer.az for answer in self._statuses().values() if answer.serving == "primary")
        candidates = [az for az in sorted(self._launcher.topology.azs) if az not in killed]
        return max(candidates, key=lambda az: counts[az])

    def _lose_and_regain(self, az: Az) -> int:
        """Kill an AZ, write on, start it, wait until it holds everything. Returns the catch-up time, ms."""
        nodes = self._launcher.nodes_of_az(az)
        self._launcher.kill(nodes)
        self._set_az(az, "killed")
        self._say(f"{az}: SIGKILL to all its processes")
        self._write_for(self.plan.down_s, f"{az} is dead, writing on")
        begin = time.monotonic()
        self._launcher.start(nodes)
        self._set_az(az, "catching up")
        self._say(f"{az}: started again")
        self._wait_caught_up(nodes)
        took_ms = round((time.monotonic() - begin) * 1000)
        self._set_az(az, "up")
        self._say(f"{az}: caught up after {took_ms / 1000:.1f} s")
        self._write_for(self.plan.after_s, "writing")
        return took_ms

    def _wait_caught_up(self, nodes: Sequence[NodeId]) -> None:
        """Until each node's engine has applied what its shard had committed when we first looked."""
        deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
        goals: dict[str, int] = {}
        self._set_phase("waiting until the zone has caught up")
        while True:
            answers = self._statuses()
            for answer in answers.values():
                if answer.serving == "primary":
                    goals.setdefault(answer.shard, answer.commit_offset)
            behind = [node for node in nodes if not has_caught_up(answers.get(node), goals)]
            if not behind:
                return
            if time.monotonic() > deadline:
                raise DemoFailed(f"{', '.join(behind)} did not catch up within {CATCH_UP_TIMEOUT_S:.0f} s")
            self._look_at_workers()
            time.sleep(POLL_S)

    # -- writing -------------------------------------------------------------------------------------------

    def _start_writing(self) -> None:
        topology = self._launcher.topology
        addresses = [[node.host, node.port] for node in topology.nodes if not node.journal_only]
        run = secrets.token_hex(4)
        jobs = [
            {
                "run": run,
                "worker": worker,
                # Each begins with another node, so that no one of them must be alive.
                "addresses": addresses[worker:] + addresses[:worker],
                "shards": {shard.id: [[r.first, r.last] for r in shard.slots] for shard in topology.shards},
                "history": str(self._work / f"history-{worker}"),
                "pause_ms": self.plan.pause_ms,
            }
            for worker in range(WORKERS)
        ]
        self._workers = Workers(jobs)
        deadline = time.monotonic() + 30
        while self._workers.totals()["acked"] == 0:
            if time.monotonic() > deadline:
                raise DemoFailed("the writing processes got no write acknowledged in 30 s")
            time.sleep(POLL_S)
        self._written_from_us = now_us()
        self._say(f"{WORKERS} processes with {WORKERS * len(topology.shards)} clients write")

    def _write_for(self, seconds: float, phase: str) -> None:
        self._set_phase(phase)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._statuses()
            self._look_at_workers()
            time.sleep(POLL_S)

    def _look_at_workers(self) -> None:
        assert self._workers is not None
        totals = self._workers.totals()
        now, (then, acked_then) = time.monotonic(), self._rate_from
        if now - then > 1:
            self.view.per_second = (totals["acked"] - acked_then) / (now - then) if then else 0.0
            self._rate_from = (now, totals["acked"])
        self.view.acked, self.view.in_doubt, self.view.refused = (
            totals["acked"], totals["in_doubt"], totals["refused"],
        )  # fmt: skip

    # -- judging -------------------------------------------------------------------------------------------

    def _judge(self, histories: Sequence[Path], stop_us: int) -> tuple[Verdict, dict[str, int]]:
        self._set_phase("reading everything back")
        ops = []
        acks: dict[str, list[int]] = {shard.id: [] for shard in self._launcher.topology.shards}
        for path in histories:
            for shard, op, _, end_us in read_history(path):
                ops.append(op)
                if op.outcome is Outcome.OK and not op.read:
                    acks[shard].append(end_us)
        topology = self._launcher.topology
        addresses = [(node.host, node.port) for node in topology.nodes if not node.journal_only]
        final = read_back(addresses, {(op.kind, op.key) for op in ops})
        verdict = check(ops, final)
        self.view.acked, self.view.in_doubt = verdict.acked, verdict.in_doubt
        self._say(f"read back {len(final)} keys: {'all there' if verdict.ok else 'NOT as promised'}")
        return verdict, longest_gaps_ms(acks, self._written_from_us, stop_us)

    def _compare_digests(self) -> tuple[dict[str, dict[str, str]], bool]:
        self._set_phase("comparing the digests of all replicas")
        assert self._admin is not None
        digests: dict[str, dict[str, str]] = {}
        equal = True
        for shard in self._launcher.topology.shards:
            nodes = [node.id for node in shard.nodes if not node.journal_only]
            found = wait_equal_offsets(self._admin, shard.id, nodes)
            digests[shard.id] = {node: reply.digest for node, reply in sorted(found.items())}
            equal = equal and len({reply.digest for reply in found.values()}) == 1
        self._say(f"digests of all replicas {'agree' if equal else 'DIFFER'}")
        return digests, equal

    # -- words and cleaning --------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self.view.events = [*self.view.events, (time.monotonic() - self._begin, text)]

    def _set_phase(self, text: str) -> None:
        self.view.phase = text

    def _set_az(self, az: str, state: str) -> None:
        self.view.azs = {**self.view.azs, az: state}

    def _clean_up(self) -> None:
        if self._workers is not None:
            self._workers.kill()
        if self._admin is not None:
            self._admin.close()
        try:
            if not self._launcher.exists():
                pass
            elif self._given_directory is None:
                # Nothing of it is kept, so nothing needs to end in good order.
                self._launcher.kill(self._launcher.node_ids())
            elif self._ran_before:
                self._launcher.start(self._launcher.node_ids())  # what an interrupted demo has killed
            else:
                down(self._launcher)
        finally:
            shutil.rmtree(self._work, ignore_errors=True)


def now_us() -> int:
    return time.monotonic_ns() // 1000


def has_caught_up(answer: "admin_pb2.StatusReply | None", goals: dict[str, int]) -> bool:
    if answer is None or answer.shard not in goals:
        return False
    offset = answer.commit_offset if answer.serving == "journal" else answer.applied_offset
    return answer.serving in ("primary", "replica", "journal") and offset >= goals[answer.shard]


def wait_equal_offsets(
    admin: AdminClient, shard: ShardId, nodes: Sequence[NodeId]
) -> "dict[NodeId, admin_pb2.DigestReply]":
    """Digests of all nodes at one and the same offset. DemoFailed if they do not meet in time."""
    deadline = time.monotonic() + DIGEST_TIMEOUT_S
    while True:
        found = admin.digests(nodes)
        if len(found) == len(nodes) and len({reply.offset for reply in found.values()}) == 1:
            return found
        if time.monotonic() > deadline:
            offsets = ", ".join(f"{node} at {found[node].offset if node in found else '?'}" for node in nodes)
            raise DemoFailed(f"the replicas of shard {shard} do not meet at one offset: {offsets}")
        time.sleep(POLL_S)


def read_back(addresses: Sequence[tuple[str, int]], places: Iterable[tuple[Kind, str]]) -> Final:
    """Read every key through the cluster client. Reads may be repeated: they change nothing."""
    readers: dict[Kind, Callable[[Any, str], Any]] = {
        "string": lambda pipe, key: pipe.get(key),
        "register": lambda pipe, key: pipe.get(key),
        "list": lambda pipe, key: pipe.lrange(key, 0, -1),
        "hash": lambda pipe, key: pipe.hgetall(key),
        "zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
        "geo": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),  # a geo set is a sorted set
        "counter": lambda pipe, key: pipe.get(key),
    }
    todo = sorted(places)
    final: dict[tuple[Kind, str], Any] = {}
    deadline = time.monotonic() + READ_TIMEOUT_S
    while len(final) < len(todo):
        batch = todo[len(final) : len(final) + READ_BATCH]
        try:
            client = connect(addresses)
            try:
                for begin in range(len(final), len(todo), READ_BATCH):
                    batch = todo[begin : begin + READ_BATCH]
                    with client.pipeline() as pipe:
                        for kind, key in batch:
                            readers[kind](pipe, key)
                        answers = pipe.execute()
                    final.update({p: as_found(p[0], a) for p, a in zip(batch, answers, strict=True)})
            finally:
                client.close()
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            if time.monotonic() > deadline:
                raise DemoFailed(f"reading back failed: {error}") from None
            time.sleep(POLL_S)
    return final


def as_found(kind: Kind, answer: Any) -> Any:
    """A client's answer in the form that `demo_check.Final` wants."""
    match kind:
        case "zset" | "geo":
            return {member: str(int(score)) for member, score in answer}
        case "counter":
            return int(answer or 0)
        case _:
            return answer
