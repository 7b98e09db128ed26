"""The links between nodes, one for each direction of each pair: late, lost, doubled, reordered, cut, clogged.

What a link does to messages is its `LinkFaults`; a cut link swallows everything, also what is under way. A
clogged link keeps messages and lets them go, in order, when it is unclogged: so an old message can arrive
very late. Links keep the order of messages (the product's are streams) unless `reorder_percent` lets one be
overtaken; the Raft core promises to cope with all of that (`Ready`, step 2).

Also a half-dead link, which is one that is cut in one direction, and messages to a process that was killed
and restarted meanwhile, which arrive at the new one: the real transport's session id would drop them, so
this asks more of the core than the product does.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.sim.world import World
from cluster.types import NodeId

Deliver = Callable[[NodeId, NodeId, object], None]


@dataclass(slots=True)
class LinkFaults:
    """What the links of a run do when nothing is broken. Times in microseconds."""

    delay_min_us: int = 100
    delay_max_us: int = 1_000
    drop_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0


@dataclass(slots=True)
class Link:
    """One direction. `cuts` counts the reasons for which it is cut: each fault mends only its own."""

    cuts: int = 0
    clogs: int = 0
    slow_us: int = 0
    drop_percent: float = 0.0
    duplicate_percent: float = 0.0
    busy_until: int = 0  # keeps order
    clogged: list[object] = field(default_factory=list)


class Network:
    def __init__(
        self,
        world: World,
        rng: random.Random,
        nodes: tuple[NodeId, ...],
        faults: LinkFaults,
        deliver: Deliver,
    ) -> None:
        self._world = world
        self._random = rng.random
        self._deliver = deliver
        self.faults = faults
        self.links = {(a, b): Link() for a in nodes for b in nodes if a != b}
        self.sent = 0
        self.lost = 0

    def send(self, sender: NodeId, to: NodeId, message: object) -> None:
        link = self.links[sender, to]
        self.sent += 1
        if link.cuts:
            self.lost += 1
            return
        if link.clogs:
            link.clogged.append(message)
            return
        faults = self.faults
        drop = faults.drop_percent + link.drop_percent
        if drop and self._random() * 100 < drop:
            self.lost += 1
            return
        self._carry(sender, to, link, message)
        double = faults.duplicate_percent + link.duplicate_percent
        if double and self._random() * 100 < double:
            self._carry(sender, to, link, message)

    def _carry(self, sender: NodeId, to: NodeId, link: Link, message: object) -> None:
        faults, world = self.faults, self._world
        spread = faults.delay_max_us - faults.delay_min_us
        # A square makes short delays common and long ones rare, as they are.
        delay_us = faults.delay_min_us + int(spread * self._random() ** 2) + link.slow_us
        when = world.now + delay_us
        if faults.reorder_percent and self._random() * 100 < faults.reorder_percent:
            when += int(self._random() * 20 * faults.delay_max_us)
        else:
            if when <= link.busy_until:
                when = link.busy_until + 1
            link.busy_until = when

        def arrive() -> None:
            if link.cuts:
                self.lost += 1
            elif link.clogs:
                link.clogged.append(message)
            else:
                self._deliver(sender, to, message)

        world.at(when, arrive)

    # -- faults ----------------------------------------------------------------------------------------

    def cut(self, sender: NodeId, to: NodeId) -> None:
        self.links[sender, to].cuts += 1

    def mend(self, sender: NodeId, to: NodeId) -> None:
        link = self.links[sender, to]
        link.cuts = max(0, link.cuts - 1)

    def clog(self, sender: NodeId, to: NodeId) -> None:
        self.links[sender, to].clogs += 1

    def unclog(self, sender: NodeId, to: NodeId) -> None:
        """What was held goes out, in order."""
        link = self.links[sender, to]
        link.clogs = max(0, link.clogs - 1)
        if not link.clogs:
            held, link.clogged = link.clogged, []
            for message in held:
                self._carry(sender, to, link, message)

    def heal(self, nodes: set[NodeId] | None = None) -> None:
        """Every link between these nodes (None: all) works again."""
        for a, b in self.links:
            if nodes is None or (a in nodes and b in nodes):
                self._restore(a, b)

    def _restore(self, sender: NodeId, to: NodeId) -> None:
        link = self.links[sender, to]
        link.cuts = 0
        link.slow_us = 0
        link.drop_percent = link.duplicate_percent = 0.0
        if link.clogs:
            link.clogs = 1
            self.unclog(sender, to)

    def heal_links_of(self, nodes: set[NodeId]) -> None:
        """Every link that begins or ends at one of these works again."""
        for a, b in self.links:
            if a in nodes or b in nodes:
                self._restore(a, b)
