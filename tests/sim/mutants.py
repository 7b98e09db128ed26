"""Sabotage: proves that the regressions, and the random sweep, would notice if a rule were broken.

    make mutants                                   all of them, about ten minutes
    python -m tests.sim.mutants --only 13,20 --seeds 200 --jobs 2

A *mutant* is one line of ours changed so that it breaks one rule. For each, the tree is copied to a scratch
directory, the line is changed there, and two things must turn red: the regression script of its number, and
some seed of the random sweep (the same runs as `azimuth sim sweep`, from seed 0 up). A mutant that the sweep
cannot find says why (`reason`); such a rule is held by its script alone, or by a second rule behind it.

`old` must occur exactly once in its file: tests/sim/test_regressions.py checks that for all of them, so no
mutant rots unnoticed. Exit code 1 if a script stays green, or if the sweep finds nothing where it should.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("cluster", "cli", "tests", "scenarios", "pyproject.toml")
SEED_LIMIT_S = 120  # a mutant may make a run go round in circles
NODE, LOG, LEASE = "cluster/raft/node.py", "cluster/raft/log.py", "cluster/raft/lease.py"
JOURNAL, DURABLE_LOG = "cluster/raft/journal.py", "cluster/raft/durable_log.py"
REPLICA, CUTTER, GATE = "cluster/shard/replica.py", "cluster/shard/cutter.py", "cluster/shard/gate.py"
STREAM, SHARD_MAP = "cluster/shard/stream.py", "cluster/shard/shard_map.py"
SESSION, WHOLE_NODE = "cluster/front/session.py", "cluster/node.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    number: int  # of the regression that must turn red
    file: str
    old: str  # occurs once in the file
    new: str
    why: str  # what the sabotage does
    sweep: bool = True  # the random sweep must find it as well
    reason: str = ""  # why it need not

    def apply(self, source: str) -> str:
        assert source.count(self.old) == 1, f"{self.file}: {source.count(self.old)} times {self.old!r}"
        return source.replace(self.old, self.new)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        1,
        NODE,
        "        self._after_persist.append((from_node, VoteResponse(self.term, granted)))",
        "        self._messages.append((from_node, VoteResponse(self.term, granted)))",
        "a vote leaves before it is durable",
    ),
    Mutant(
        1,
        NODE,
        "        self.vote = storage.hard_state.vote",
        "        self.vote = None",
        "a restarted node has forgotten its vote",
    ),
    Mutant(
        2,
        JOURNAL,
        "data[at + _PREFIX.size : start]), payload) != crc:",
        "data[at + _PREFIX.size : start]), payload) == 0:",
        "records are believed without their checksum",
    ),
    Mutant(
        4,
        REPLICA,
        "            if raft.leader is None or raft.term_at(raft.commit_index) != raft.term:",
        "            if raft.leader is None:",
        "a restarted replica serves before it knows what is committed",
    ),
    Mutant(
        4,
        DURABLE_LOG,
        "        self.hard_state = found.hard_state",
        "        self.hard_state = type(found.hard_state)(Term(0), None)",
        "a restarted node has forgotten its term",
    ),
    Mutant(
        5,
        NODE,
        "        durable = reply.match_index <= self._log.stable_index and self._durable_term == self.term",
        "        durable = self._durable_term == self.term",
        "a follower acknowledges entries before they are durable",
    ),
    Mutant(
        6,
        JOURNAL,
        "    directory.rename(temporary, segment_name(number))\n    directory.sync_dir()",
        "    directory.rename(temporary, segment_name(number))",
        "a segment's name is not synced",
    ),
    Mutant(
        7,
        JOURNAL,
        "            if later is not None and later.batch > position:",
        "            if later is not None:",
        "a torn last batch is taken for rot, and the node refuses to start",
    ),
    Mutant(
        7,
        JOURNAL,
        "        if found.cut_bytes:\n",
        "        if False:\n",
        "what was cut off stays on the disk behind the end of the log",
    ),
    Mutant(
        8,
        JOURNAL,
        "            if later is not None and later.batch > position:",
        "            if later is None and position < 0:",
        "rot in the middle of the log is cut off like a torn tail",
    ),
    Mutant(
        9,
        JOURNAL,
        "        if found.batch:",
        "        if False:",
        "after a failed fsync the page cache is believed",
    ),
    Mutant(
        10,
        NODE,
        "        matched[self.node_id] = self._log.stable_index",
        "        matched[self.node_id] = self._log.last_index",
        "a leader counts itself before its own disk has written",
    ),
    Mutant(
        11,
        LOG,
        "                if entry.index < self.first_index or self.term(entry.index) == entry.term:",
        "                if entry.index < self.first_index:",
        "an append that arrives late cuts matching entries",
    ),
    Mutant(
        12,
        NODE,
        "        if message.term < self.term or progress is None or self._ignore_foreign_ack(from_node, message):",
        "        if progress is None:",
        "acks are believed whatever term and log they are of",
    ),
    Mutant(
        13,
        NODE,
        "        if index <= self._log.commit_index or self._log.term(index) != self.term:",
        "        if index <= self._log.commit_index:",
        "entries of older terms are committed by counting",
    ),
    Mutant(
        14,
        NODE,
        "        self._votes = {}  # our own vote counts once it is durable, see `persisted`",
        "        # our own vote counts once it is durable, see `persisted`",
        "pre-votes count as votes",
    ),
    Mutant(
        14,
        NODE,
        "        elif self.role is Role.CANDIDATE and message.term == self.term:",
        "        elif self.role is Role.CANDIDATE:",
        "votes of older terms count",
    ),
    Mutant(
        14,
        NODE,
        "            and self.vote in (None, from_node)",
        "            and self.vote != self.node_id",
        "a node votes for everybody who asks",
    ),
    Mutant(
        15,
        NODE,
        "        self._log.maybe_commit(min(message.commit_index, verified))",
        "        self._log.maybe_commit(min(message.commit_index, self._log.last_index))",
        "a follower commits what it has not compared",
    ),
    Mutant(
        15,
        LOG,
        "        if index <= self.commit_index:\n            return False\n",
        "",
        "commit_index follows whatever it is told, also back",
    ),
    Mutant(
        20,
        GATE,
        "        if leased and not self._parked and offset <= self._committed:",
        "        if not self._parked and offset <= self._committed:",
        "replies leave without proof that this node still leads",
    ),
    Mutant(
        21,
        NODE,
        "        lease_us = self.config.lease_ms * 1000",
        "        lease_us = self.config.lease_ms * 2000",
        "the lease is longer than the promises it rests on",
    ),
    Mutant(
        22,
        NODE,
        "            and self._transfer is None\n            and self._log.commit_index >= self._noop_index\n",
        "            and self._transfer is None\n",
        "a lease counts before the no-op of its term is committed",
    ),
    Mutant(
        22,
        REPLICA,
        "        if raft.commit_index != raft.last_index or raft.term_at(raft.commit_index) != self._leader_term:",
        "        if False:",
        "a new primary serves before the no-op of its term is committed",
    ),
    Mutant(
        23,
        SESSION,
        "    if mark == Mark.WRITE:",
        "    if mark is None:",
        "a write that was under way is answered as if it had not happened",
    ),
    Mutant(
        23,
        SESSION,
        "        self._inflight.append(Mark.WRITE if transaction.writes else Mark.READ)",
        "        self._inflight.append(Mark.READ)",
        "a transaction that was under way is answered as if it had not happened",
    ),
    Mutant(
        24,
        REPLICA,
        "        skip = self._fed_offset - start  # > 0 when the engine resumed in the middle of an entry",
        "        skip = 0",
        "an engine whose feed broke inside an entry is fed the whole entry again",
    ),
    Mutant(
        24,
        REPLICA,
        "            clean = self.raft.term_at(covering[0]) == covering[1]",
        "            clean = True",
        "effects that a newer leader replaced stay in the engine",
    ),
    Mutant(
        25,
        NODE,
        "        if self._quorum.value(heard) + self._patience_us < self._ticked_us:",
        "        if self._quorum.value(heard) + self._patience_us < 0:",
        "a leader that hears nobody leads on",
    ),
    Mutant(
        25,
        NODE,
        "            message.term > self.term\n            and not self._has_promised()\n",
        "            message.term > self.term\n",
        "a pre-vote is granted although a leader is alive",
    ),
    Mutant(
        26,
        NODE,
        "        if self._transfer is not None and self._ticked_us >= self._transfer.give_up_ticked_us:",
        "        if self._transfer is not None and self._ticked_us < 0:",
        "a transfer is never given up",
    ),
    Mutant(
        28,
        WHOLE_NODE,
        "        if self.replica.cutter.wants_boundary:",
        "        if False:",
        "an expiry without a client never gets into the log",
    ),
    Mutant(
        28,
        STREAM,
        "        if start != self.offset or crc != self.crc:",
        "        if False:",
        "a replica goes on with a stream that is not its own",
        sweep=False,
        reason="a second wall: nothing of ours cuts a stream wrongly, so nothing runs into it",
    ),
    Mutant(
        29,
        REPLICA,
        "        if self.applied_offset == self.stream.offset:\n            self._promote_sent = True",
        "        if self._feeding:\n            self._promote_sent = True",
        "an engine is promoted before it has applied what it was fed",
    ),
    Mutant(
        29,
        REPLICA,
        "        if self._rebuild_offset is not None and self.applied_offset >= self._rebuild_offset:",
        "        if self._rebuild_offset is not None:",
        "a replica serves before its new engine holds what the old one held",
    ),
    Mutant(
        30,
        CUTTER,
        "        self.tapped = Offset(self.tapped + len(data))\n",
        "        self.tapped = Offset(self.tapped + len(data))\n        self._boundaries.append(self.tapped)\n",
        "an entry may end wherever the tap was cut",
    ),
    Mutant(
        31,
        NODE,
        "        index = verified if message.entries else min(verified, log.stable_index)\n",
        "        index = verified\n"
        "        if not message.entries:\n"
        "            reply = AppendResponse(self.term, True, index, log.term(index), message.round)\n"
        "            self._messages.append((leader, reply))\n"
        "            return\n",
        "a heartbeat is answered with what is in memory",
    ),
    Mutant(
        32,
        LOG,
        "        return (last_term, last_index) >= (self.last_term, self.last_index)",
        "        return True",
        "a node without the data may win",
    ),
    Mutant(
        33,
        NODE,
        "        lease.void = True  # before the message leaves, and for the rest of this term\n",
        "",
        "the lease comes back when a transfer is given up, though the successor may still hear of it",
    ),
    Mutant(
        33,
        REPLICA,
        "        if self.draining_to is None or len(self.gate) or not self.cutter.idle or self._host.lanes_busy():",
        "        if self.draining_to is None:",
        "leadership is handed over while commands are under way",
    ),
    Mutant(
        34,
        SHARD_MAP,
        "        if known is None or term > known.term:",
        "        if known is None:",
        "a node believes the first leader of a shard for ever",
    ),
)


# -- a scratch copy ----------------------------------------------------------------------------------------


@contextmanager
def scratch(parent: Path, mutant: Mutant) -> Iterator[Path]:
    """A copy of the tree with this line changed. Gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix=f"mutant-{mutant.number}-", dir=parent))
    try:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, directory / name)
        target = directory / mutant.file
        target.write_text(mutant.apply(target.read_text(encoding="utf-8")), encoding="utf-8")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Children:
    """Processes under way, so that they can be ended when somebody presses Ctrl-C."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[str]] = []
        self.stopped = False

    def ask(self, directory: Path, *words: str) -> dict[str, Any]:
        """Run this module in the scratch copy; the last line it prints is the answer."""
        environment = {**os.environ, "PYTHONPATH": str(directory)}
        command = [sys.executable, "-m", "tests.sim.mutants", *words]
        with self._lock:
            if self.stopped:
                raise KeyboardInterrupt
            child = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            self._running.append(child)
        out, err = child.communicate()
        with self._lock:
            self._running.remove(child)
        if self.stopped:
            raise KeyboardInterrupt
        if child.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{err}")
        answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        assert Path(answer["tree"]) == directory.resolve(), f"{answer['tree']} was tested, not the copy"
        return answer

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            for child in self._running:
                child.kill()


# -- inside a scratch copy ---------------------------------------------------------------------------------


def run_regression(number: int) -> dict[str, Any]:
    from tests.sim.regressions import REGRESSIONS

    regression = REGRESSIONS[number]
    assert regression.run is not None
    with limited() as ended:
        lines = regression.run()
    return {"lines": ended or lines}


def run_sweep(seeds: int) -> dict[str, Any]:
    from cluster.sim import swarm
    from cluster.sim.simulation import Simulation

    for seed in range(seeds):
        found: list[str] = []
        with limited() as ended:
            outcome = Simulation(swarm.draw_config(seed)).run()
            found = [f"{violation.kind}: {violation.text}" for violation in outcome.violations]
        if found or ended:
            return {"seed": seed, "found": (found or ended)[0]}
    return {"seed": None, "found": ""}


@contextmanager
def limited() -> Iterator[list[str]]:
    """What goes round in circles, or breaks the simulator itself, is a finding too."""
    ended: list[str] = []

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no end within {SEED_LIMIT_S} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SEED_LIMIT_S)
    try:
        yield ended
    except Exception as error:
        ended.append(f"{type(error).__name__}: {error}")
    finally:
        signal.alarm(0)


# -- all of them -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Verdict:
    mutant: Mutant
    lines: list[str]  # what the regression said
    seed: int | None = None  # the first red one
    found: str = ""
    wall_s: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.lines) and (self.seed is not None or not self.mutant.sweep)


def judge(children: Children, parent: Path, mutant: Mutant, seeds: int) -> Verdict:
    began = time.monotonic()
    with scratch(parent, mutant) as directory:
        verdict = Verdict(mutant, children.ask(directory, "--regression", str(mutant.number))["lines"])
        if mutant.sweep:
            answer = children.ask(directory, "--sweep", str(seeds))
            verdict.seed, verdict.found = answer["seed"], answer["found"]
    verdict.wall_s = time.monotonic() - began
    return verdict


def row(verdict: Verdict, seeds: int) -> str:
    mutant = verdict.mutant
    red = "red" if verdict.lines else "GREEN"
    if not mutant.sweep:
        swept = f"not swept: {mutant.reason}"
    elif verdict.seed is None:
        swept = f"NOTHING in {seeds} seeds"
    else:
        swept = f"seed {verdict.seed}: {verdict.found.split(':')[0]}"
    return f"| {mutant.number} | {mutant.why} (`{mutant.file}`) | {red} | {swept} |"


def run_all(chosen: Sequence[Mutant], seeds: int, jobs: int) -> list[Verdict]:
    """In the order of the table. KeyboardInterrupt ends every child and removes every copy."""
    children = Children()
    verdicts: dict[int, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="azimuth-mutants-") as parent, ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(judge, children, Path(parent), mutant, seeds): place
            for place, mutant in enumerate(chosen)
        }
        try:
            for future in as_completed(futures):
                verdict = verdicts[futures[future]] = future.result()
                note = f"{row(verdict, seeds)} {verdict.wall_s:.0f} s"
                print(f"[{len(verdicts)}/{len(chosen)}] {note}", file=sys.stderr, flush=True)
                for line in [*verdict.lines[:2], verdict.found]:
                    print(f"        {line[:200]}", file=sys.stderr, flush=True)
        except BaseException:
            children.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [verdicts[place] for place in sorted(verdicts)]


def report(verdicts: Sequence[Verdict], seeds: int) -> bool:
    from tests.sim.regressions import pending_lines

    print("| regression | sabotage | its script | the sweep: first red seed |")
    print("|---|---|---|---|")
    for verdict in verdicts:
        print(row(verdict, seeds))
    print()
    for line in pending_lines():
        print(line)
    bad = [verdict for verdict in verdicts if not verdict.ok]
    swept = [verdict for verdict in verdicts if verdict.mutant.sweep]
    print(
        f"\n{len(verdicts)} mutants: {sum(bool(v.lines) for v in verdicts)} scripts red, "
        f"{sum(v.seed is not None for v in swept)} of {len(swept)} found by the sweep within {seeds} seeds"
    )
    return not bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", help="numbers of regressions, as 13,20")
    parser.add_argument("--seeds", type=int, default=200, help="how far the sweep looks for each mutant")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--regression", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sweep", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.regression is not None or options.sweep is not None:
        import cluster

        answer = (
            run_regression(options.regression) if options.regression is not None else run_sweep(options.sweep)
        )
        print(json.dumps({"tree": str(Path(cluster.__file__).resolve().parents[1]), **answer}))
        return 0

    def on_term(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_term)
    numbers = None if options.only is None else {int(word) for word in options.only.split(",")}
    chosen = [mutant for mutant in MUTANTS if numbers is None or mutant.number in numbers]
    try:
        verdicts = run_all(chosen, options.seeds, options.jobs)
    except KeyboardInterrupt:
        print("interrupted; the scratch copies are removed", file=sys.stderr)
        return 130
    return 0 if report(verdicts, options.seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
