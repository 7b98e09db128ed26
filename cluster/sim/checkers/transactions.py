"""Workload transaction: `TXN` of RPUSH and LRANGE on several keys, after Elle's list-append (Kingsbury and
Alvaro 2020). It must be strictly serializable: one order of the transactions, which follows real time.

1. Each key by itself is a list (lists.py), whose pushes and reads have the intervals of their transactions.
   That finds what is lost, doubled, read though it failed, stale or misplaced within one key.
2. Inside a transaction nothing comes between: lengths of one key go up by its own pushes only.
3. All or nothing: if a push of a transaction was seen, a final read that began later shows its others.
4. Across keys, a graph: a push precedes the next push of its key (ww), a push precedes the reads that show it
   last (wr), a read precedes the next push that it doesn't show (rw), and a transaction precedes those that
   began after it had ended (time). A circle is a contradiction.

The positions of pushes are those that acknowledged ones returned and those in the longest read. A transaction
in doubt counts only if one of its pushes was seen; its unseen pushes then stand behind all known positions
without a gap. Cost: O(n log n).

What rules 1 to 3 named is left out of the graph, because circles would only repeat it. Left out altogether:
giving positions that nobody accounts for to particular transactions in doubt; rule 1 only counts them.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.sim.checkers.dependencies import Graph
from cluster.sim.checkers.findings import KIND_MAX, Findings, bounded, shown
from cluster.sim.checkers.graphs import components, shortest_circle
from cluster.sim.checkers.lists import ListCheck
from cluster.sim.history import CYCLE, NEVER_US, ORDER, Op, Result, Violation


@dataclass(slots=True, eq=False)
class Txn:
    op: Op
    parts: list[
        Op
    ]  # one for each command, with its own key, argument and reply, and the interval of the whole
    shown_us: int = NEVER_US  # when the first read that showed one of its pushes had ended

    @property
    def happened(self) -> bool:
        return self.op.result is Result.OK or self.shown_us < NEVER_US


def check_transactions(ops: Sequence[Op]) -> list[Violation]:
    """All violations of a whole history, each with the key that it concerns."""
    return TransactionCheck(ops).run()


class TransactionCheck:
    def __init__(self, ops: Sequence[Op]) -> None:
        self.violations: list[Violation] = []
        self.txns = [txn for op in ops if (txn := self.split(op)) is not None]
        parts: dict[str, list[Op]] = {}
        for txn in self.txns:
            for part in txn.parts:
                parts.setdefault(part.key, []).append(part)
        self.lists = {key: ListCheck(key, parts) for key, parts in sorted(parts.items())}

    def run(self) -> list[Violation]:
        for check in self.lists.values():
            self.violations += check.run()
        self.find_first_shown()
        self.check_atomicity()
        crowded = list(self.check_inside())
        named = {number for violation in self.violations for number in violation.ops}
        clean = [txn for txn in self.txns if txn.happened and txn.op.number not in named]
        explained = self.check_circles(clean)
        for violation in crowded:
            if explained.isdisjoint(violation.ops):
                self.violations.append(violation)
        return bounded(self.violations)

    def split(self, op: Op) -> Txn | None:
        """One operation for each command; None if it has no meaning."""
        findings = Findings(op.key)
        commands = op.argument if isinstance(op.argument, list | tuple) else ()
        sound = op.command == "TXN" and all(
            isinstance(one, list | tuple)
            and len(one) == 3
            and one[0] in ("RPUSH", "LRANGE")
            and isinstance(one[1], str)
            for one in commands
        )
        result, replies = op.result, [None] * len(commands)
        if not sound or not commands:
            findings.odd_command(op)
        elif op.result is Result.OK:
            if isinstance(op.reply, list | tuple) and len(op.reply) == len(commands):
                replies = list(op.reply)
            else:
                findings.odd_reply(op)
                result = Result.DOUBT
        self.violations += findings.violations
        if not sound or not commands:
            return None
        parts = [
            Op(
                op.number,
                op.client,
                op.workload,
                command,
                key,
                argument,
                op.began_us,
                op.ended_us,
                result,
                reply,
                op.final,
            )
            for (command, key, argument), reply in zip(commands, replies, strict=True)
        ]
        return Txn(op, parts)

    def find_first_shown(self) -> None:
        ends: dict[str, tuple[list[int], list[int]]] = {}
        for key, check in self.lists.items():
            reads = sorted((read for read in check.reads if read.agrees), key=lambda read: len(read.values))
            firsts: list[int] = []  # firsts[i]: when the first of reads[i:] had ended
            for read in reversed(reads):
                firsts.append(min(read.op.ended_us, firsts[-1] if firsts else NEVER_US))
            ends[key] = [len(read.values) for read in reads], firsts[::-1]
        for txn in self.txns:
            for part in txn.parts:
                place = self.place(part)
                lengths, firsts = ends[part.key]
                if place is not None and place <= len(self.lists[part.key].list):
                    txn.shown_us = min(txn.shown_us, firsts[bisect_left(lengths, place)])

    def place(self, part: Op) -> int | None:
        """The position of a push; None if it is unknown, or if this is none."""
        if part.command != "RPUSH" or not isinstance(part.argument, str):
            return None
        return self.lists[part.key].position(part.argument)

    def check_atomicity(self) -> None:
        """Rule 3, for transactions in doubt: what an acknowledged one lacks at the end is a lost write."""
        finals = {txn.op.number: txn for txn in self.txns if txn.op.final}
        shows: dict[int, dict[str, set[object]]] = {}
        for key, check in self.lists.items():
            for read in check.reads:
                if read.op.number in finals:
                    shows.setdefault(read.op.number, {}).setdefault(key, set()).update(read.values)
        for txn in self.txns:
            if txn.op.result is not Result.DOUBT:
                continue
            pushes = [part for part in txn.parts if part.command == "RPUSH"]
            for number, there in shows.items():
                seen = [part for part in pushes if part.argument in there.get(part.key, ())]
                cut = [part for part in pushes if part.argument not in there.get(part.key, (part.argument,))]
                if cut and (seen or txn.shown_us < finals[number].op.began_us):
                    told = ", ".join(f"{shown(part.argument)} on {part.key}" for part in cut)
                    text = f"of #{txn.op.number} {len(seen)} pushes are in final #{number} but not {told}"
                    findings = Findings(cut[0].key)
                    findings.add(ORDER, text, txn.op, finals[number].op)
                    self.violations += findings.violations
                    break

    def check_inside(self) -> Iterator[Violation]:
        """Rule 2. What shows too little is a finding. What shows too much is yielded, because a circle with
        the transaction that came between would tell more."""
        for txn in self.txns:
            lengths: dict[str, int] = {}  # key -> its length as this transaction must see it
            for part in txn.parts:
                length = self.length_after(part)
                before = lengths.get(part.key)
                if length is None:
                    lengths.pop(part.key, None)
                    continue
                lengths[part.key] = length
                expected = length if before is None else before + (part.command == "RPUSH")
                if length != expected:
                    text = (
                        f"inside #{txn.op.number} the length of {part.key} is {length} instead of {expected}"
                    )
                    violation = Violation(ORDER, part.key, text, (txn.op.number,))
                    if length > expected:
                        yield violation
                    else:
                        self.violations.append(violation)

    def length_after(self, part: Op) -> int | None:
        if part.command == "RPUSH":
            return self.place(part)
        if part.result is Result.OK and isinstance(part.reply, list | tuple):
            return len(part.reply)
        return None

    def check_circles(self, clean: list[Txn]) -> set[int]:
        """Rule 4. Returns the numbers of all transactions that lie on some circle."""
        ops = [txn.op for txn in clean]
        graph = Graph(ops)
        graph.add_time()
        for key, check in self.lists.items():
            graph.add_key(key, check)
        explained: set[int] = set()
        for component in components(graph.edges)[:KIND_MAX]:
            explained.update(ops[node].number for node in component if node < len(ops))
            circle = shortest_circle(graph.edges, component, len(ops))
            path = "".join(f"#{ops[node].number} -{meaning}-> " for node, meaning in circle)
            numbers = tuple(ops[node].number for node, _ in circle)
            key = ops[circle[0][0]].key
            self.violations.append(Violation(CYCLE, key, f"{path}#{numbers[0]}", numbers))
        return explained
