"""What happened, as events: constant names with fields, the same that a node logs in production.

Every event goes into the world's trace hash. With a `sink` each is also a line for a person; without one
nothing is formatted, since a sweep runs millions of them.
"""

import zlib
from collections import Counter
from collections.abc import Callable

from cluster.sim.world import World
from cluster.types import NodeId

Sink = Callable[[int, str, str], None]  # true time, who, what


class Trace:
    def __init__(self, world: World, sink: Sink | None = None) -> None:
        self._world = world
        self.sink = sink
        self.marks: Counter[str] = Counter()  # how often each event happened; tests look for rare branches
        self.faults: list[tuple[int, str]] = []

    def of(self, node: NodeId) -> "NodeLog":
        return NodeLog(self, node)

    def event(self, who: str, name: str, fields: dict[str, object]) -> None:
        self.marks[name] += 1
        self._world.note(zlib.crc32(f"{who} {name}".encode()))
        self.tell(who, name, fields)

    def tell(self, who: str, name: str, fields: dict[str, object]) -> None:
        """A line for a person and nothing else: a traced run is the same run."""
        if self.sink is not None:
            told = " ".join(f"{key}={value}" for key, value in fields.items())
            self.sink(self._world.now, who, f"{name} {told}".rstrip())

    def fault(self, text: str) -> None:
        """Something that the simulator did to the cluster."""
        self.faults.append((self._world.now, text))
        self.event("fault", text, {})

    def phase(self, text: str) -> None:
        self.event("phase", text, {})


class NodeLog:
    """A `cluster.types.Log`."""

    __slots__ = ("_node", "_trace")

    def __init__(self, trace: Trace, node: NodeId) -> None:
        self._trace = trace
        self._node = node

    def debug(self, event: str, **fields: object) -> None:
        self._trace.tell(self._node, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._trace.event(self._node, event, fields)

    warning = info
    error = info
