"""Workload chain: `SET k v GET` → the old value, and `GET k`. Values are unique.

An acknowledged operation names the one right before it, so the operations form runs that must stand in the
history without a gap. A run starts at the first state or at a write in doubt whose value somebody claims:
what that replaced is unknown. The history is linearizable iff

1. claimed and read values were written by somebody, and each is claimed once;
2. no run is a circle, and each follows real time, its reads included;
3. runs can be put one after another, the one from the first state foremost. They are zones (zones.py): it is
   enough that no two of them must each precede the other.

A final read shows the end of the history: whatever was acknowledged before it and stands behind it, on
another branch, or in a run that cannot come before, is lost. Each cause is told once: what is lost or out of
order is left out of what follows. Cost: O(n log n), times the number of final reads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.sim.checkers.findings import Findings, shown, writes_of
from cluster.sim.checkers.zones import Zone, conflicts, first_zone
from cluster.sim.history import (
    ABORTED_READ,
    LOST_WRITE,
    NEVER_US,
    NOT_LINEARIZABLE,
    ORDER,
    STALE_READ,
    Op,
    Result,
    Violation,
)


@dataclass(slots=True, eq=False)
class Link:
    """One value in the chain: its write, who claims it, who reads it."""

    write: Op | None  # None wrote the first value
    before: "Link | None" = None
    after: "list[Link]" = field(default_factory=list)
    reads: list[Op] = field(default_factory=list)
    dropped: bool = False  # lost, or in a circle: already a finding

    @property
    def began_us(self) -> int:
        return -NEVER_US if self.write is None else self.write.began_us

    @property
    def ended_us(self) -> int:
        return self.write.ended_us if self.write and self.write.result is Result.OK else NEVER_US


def check_chain(key: str, ops: Sequence[Op]) -> list[Violation]:
    """All violations on one key."""
    check = ChainCheck(key, ops)
    check.add_claims()
    check.add_reads()
    check.drop_circles()
    check.drop_lost()
    check.check_forks()
    check.check_runs()
    return check.findings.violations


def subtree(link: Link) -> Iterator[Link]:
    """The link and all that follow it, except what was dropped."""
    waiting = [link]
    while waiting:
        link = waiting.pop()
        if not link.dropped:
            yield link
            waiting.extend(link.after)


class ChainCheck:
    def __init__(self, key: str, ops: Sequence[Op]) -> None:
        self.findings = Findings(key)
        self.ops = ops
        self.first = Link(None)
        self.links: dict[str | None, Link] = {None: self.first}
        for value, op in writes_of(ops, "SETGET", self.findings).items():
            self.links[value] = Link(op)

    # Building the runs.

    def find(self, op: Op) -> Link | None:
        """The link whose value `op` returned, if there can be one."""
        value = op.reply
        if value is not None and not isinstance(value, str):
            self.findings.odd_reply(op)
            return None
        link = self.links.get(value)
        if link is None or link.write is op:
            whose = "its own" if link else "which nobody wrote"
            self.findings.add(ABORTED_READ, f"#{op.number} returned {shown(value)}, {whose}", op)
            return None
        if link.write and link.write.result is Result.FAIL:
            text = f"#{op.number} returned {shown(value)} of #{link.write.number}, which failed"
            self.findings.add(ABORTED_READ, text, link.write, op)
            return None
        return link

    def add_claims(self) -> None:
        for link in self.links.values():
            if link.write and link.write.result is Result.OK:
                link.before = self.find(link.write)
                if link.before:
                    link.before.after.append(link)

    def add_reads(self) -> None:
        for op in self.ops:
            if op.command not in ("SETGET", "GET"):
                self.findings.odd_command(op)
            elif op.command == "GET" and op.result is Result.OK:
                link = self.find(op)
                if link and op.ended_us < link.began_us:
                    early_us = link.began_us - op.ended_us
                    text = f"#{op.number} shows {shown(op.reply)} {early_us} µs before it was written"
                    self.findings.add(ABORTED_READ, text, op, link.write)
                elif link:
                    link.reads.append(op)

    def roots(self) -> list[Link]:
        """Where runs start, and writes that perhaps never were, which do no harm."""
        return [link for link in self.links.values() if link.before is None and not link.dropped]

    # Leaving out what is certainly wrong.

    def drop_circles(self) -> None:
        rooted: set[str | None] = set()
        for root in self.roots():
            rooted.update(self.value(link) for link in subtree(root))
        for value, link in self.links.items():
            if value in rooted or link.before is None:
                continue
            path: dict[str | None, Link] = {}
            while self.value(link) not in path and not link.dropped:
                path[self.value(link)] = link
                assert link.before is not None
                link = link.before
            if not link.dropped:
                circle = list(path.values())[list(path).index(self.value(link)) :]
                text = f"{len(circle)} operations in a circle, each returned the value of the next"
                self.findings.add(NOT_LINEARIZABLE, text, *(one.write for one in circle))
            for one in path.values():
                one.dropped = True

    def drop_lost(self) -> None:
        """Everything acknowledged that cannot come before the value of a final read."""
        finals = [
            (op, link) for link in self.links.values() for op in link.reads if op.final and not link.dropped
        ]
        for op, link in sorted(finals, key=lambda final: (final[0].began_us, final[0].number)):
            if link.dropped:
                continue
            path: list[Link] = []
            step: Link | None = link
            while step is not None:
                path.append(step)
                step = step.before
            kept = {self.value(one) for one in path}
            tree = list(subtree(path[-1]))
            self.drop([one for one in tree if self.value(one) not in kept and one.ended_us < op.began_us], op)
            zone = self.zone(path)
            for root in self.roots():
                branch = list(subtree(root))
                other = self.zone(branch)
                is_newer = zone.first_end_us < other.last_begin_us and other.first_end_us < op.began_us
                if root in (path[-1], self.first) or not is_newer:
                    continue
                lost = [one for one in branch if one.ended_us < op.began_us]
                if lost:
                    self.drop(lost, op)
                    root.dropped = True
                else:
                    assert other.first is not None
                    text = (
                        f"final #{op.number} shows {shown(op.reply)}, #{other.first.number} had shown newer"
                    )
                    self.findings.add(STALE_READ, text, other.first, op)
                    link.reads.remove(op)
                    break

    def drop(self, lost: list[Link], final: Op) -> None:
        """Names acknowledged writes that a final read should show, and leaves out all that follows them."""
        for link in lost:
            assert link.write is not None
            text = (
                f"{shown(self.value(link))} of #{link.write.number} is acknowledged and cannot be older than "
                f"{shown(final.reply)}, which final #{final.number} shows"
            )
            self.findings.add(LOST_WRITE, text, link.write, final)
        for link in lost:
            for one in list(subtree(link)):
                one.dropped = True

    def check_forks(self) -> None:
        """Rule 1. The first branch stays, by the end of its operation."""
        for link in list(self.links.values()):
            link.after = [one for one in link.after if not one.dropped]
            link.after.sort(key=lambda one: one.ended_us)
            for other in link.after[1:]:
                kept = link.after[0].write
                assert kept is not None and other.write is not None
                text = f"#{kept.number} and #{other.write.number} both returned {shown(self.value(link))}"
                self.findings.add(NOT_LINEARIZABLE, text, kept, other.write)
                for one in list(subtree(other)):
                    one.dropped = True

    # What is left are runs without branches.

    def check_runs(self) -> None:
        zones: list[Zone] = []
        for root in self.roots():
            run = list(subtree(root))
            self.check_writes(run)
            self.check_reads(run)
            zones.append(self.zone([link for link in run if not link.dropped]))
        for one, other in conflicts(zones):
            ops = (one.first, one.last, other.first, other.last)
            numbers = [op.number for op in ops if op is not None]
            text = f"two runs of the chain must each come before the other, as #{numbers} show"
            self.findings.add(ORDER, text, *ops)

    def check_writes(self, run: list[Link]) -> None:
        """Each write ends after all that it follows have begun."""
        latest = run[0]
        for link in run[1:]:
            if link.ended_us < latest.began_us and latest.write and link.write:
                text = f"#{link.write.number} follows #{latest.write.number} and had ended before that began"
                self.findings.add(ORDER, text, link.write, latest.write)
                link.dropped = True
            elif link.began_us > latest.began_us:
                latest = link

    def check_reads(self, run: list[Link]) -> None:
        """Each read ends after all before its value have begun, and begins before any after it have ended."""
        latest = run[0]
        for link in run:
            if link.began_us > latest.began_us and not link.dropped:
                latest = link
            for op in link.reads:
                write = latest.write
                if write and op.ended_us < write.began_us and not link.dropped:
                    text = (
                        f"#{op.number} shows {shown(op.reply)} before #{write.number} began, which is older"
                    )
                    self.findings.add(ORDER, text, op, write)
            link.reads = [op for op in link.reads if op.ended_us >= latest.began_us]
        newer: Op | None = None  # the first to end of all that stand behind
        for link in reversed(run):
            for op in link.reads:
                if newer is not None and newer.ended_us < op.began_us:
                    text = (
                        f"#{op.number} shows {shown(op.reply)} after #{newer.number} had proved a newer value"
                    )
                    self.findings.add(STALE_READ, text, newer, op)
            link.reads = [op for op in link.reads if newer is None or newer.ended_us >= op.began_us]
            proofs = list(link.reads)
            if link.write and link.write.result is Result.OK and not link.dropped:
                proofs.append(link.write)
            newer = min([*proofs, *([newer] if newer else [])], key=lambda op: op.ended_us, default=None)

    def zone(self, links: list[Link]) -> Zone:
        zone = Zone(None, 0)
        for link in links:
            if link.write:
                zone.include(link.write)
            elif link is self.first:
                zone = first_zone()
            for op in link.reads:
                zone.include(op)
        return zone

    @staticmethod
    def value(link: Link) -> str | None:
        if link.write is None:
            return None
        assert isinstance(link.write.argument, str)
        return link.write.argument
