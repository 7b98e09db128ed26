"""What one transaction must precede, as a graph (transactions.py says what its edges mean).

Besides a node for each transaction there are nodes that only pass an order on. Real time has one for each
end: a transaction points to the node of its end, each such node to the next, and the last before a begin to
the transaction that begins, so n operations cost 2n edges and not n². A key has one for the end of what is
known: whoever has read all of it comes before it, whoever pushed nobody knows where comes behind it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

from cluster.sim.checkers.lists import ListCheck
from cluster.sim.history import Op, Result


class Graph:
    """What must precede what. The first nodes are the transactions; the others only pass an order on."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self.ops = ops
        self.nodes = {op.number: node for node, op in enumerate(ops)}
        self.edges: list[list[tuple[int, str]]] = [[] for _ in ops]

    def add_node(self) -> int:
        self.edges.append([])
        return len(self.edges) - 1

    def add_edge(self, one: int, other: int, meaning: str) -> None:
        if one != other:
            self.edges[one].append((other, meaning))

    def add_time(self) -> None:
        ends = sorted({op.ended_us for op in self.ops if op.result is Result.OK})
        first = len(self.edges)
        for at in range(len(ends)):
            self.add_node()
            if at:
                self.add_edge(first + at - 1, first + at, "time")
        for node, op in enumerate(self.ops):
            if op.result is Result.OK:
                self.add_edge(node, first + bisect_left(ends, op.ended_us), "time")
            ended = bisect_left(ends, op.began_us)
            if ended:
                self.add_edge(first + ended - 1, node, "time")

    def add_key(self, key: str, check: ListCheck) -> None:
        """Edges ww, wr and rw. Positions whose writers are not in the graph are skipped."""
        known: list[tuple[int, int]] = []  # (position, node)
        unplaced: list[int] = []
        for value, op in check.pushes.items():
            node, place = self.nodes.get(op.number), check.position(value)
            if node is not None and place is not None:
                known.append((place, node))
            elif node is not None:
                unplaced.append(node)
        known.sort()
        for (_, one), (_, other) in pairwise(known):
            self.add_edge(one, other, f"ww {key}")
        reads = [
            (len(read.values), self.nodes[read.op.number])
            for read in check.reads
            if read.agrees and read.op.number in self.nodes
        ]
        places = [place for place, _ in known]
        for length, reader in reads:
            at = bisect_right(places, length)
            if at:
                self.add_edge(known[at - 1][1], reader, f"wr {key}")
            if at < len(known):
                self.add_edge(reader, known[at][1], f"rw {key}")
        if unplaced:
            self.add_unplaced(key, check, known, reads, unplaced)

    def add_unplaced(
        self,
        key: str,
        check: ListCheck,
        known: list[tuple[int, int]],
        reads: list[tuple[int, int]],
        unplaced: list[int],
    ) -> None:
        """They stand behind every position up to the first that nobody is known to have taken."""
        taken = {check.position(value) for value in check.pushes}
        filled = len(check.list)
        while filled + 1 in taken:
            filled += 1
        end = self.add_node()
        last = max(((place, node) for place, node in known if place <= filled), default=(0, end))
        if last[1] not in unplaced:
            self.add_edge(last[1], end, f"ww {key}")
        for length, reader in reads:
            if length >= last[0]:
                self.add_edge(reader, end, f"rw {key}")
        for node in unplaced:
            self.add_edge(end, node, f"rw {key}")
