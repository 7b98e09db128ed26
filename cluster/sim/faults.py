"""What can be done to a cluster, each with the way to undo it. Swarms and scenario files both use these.

Every fault says for itself what it mends: two that overlap (an AZ cut off twice) do not heal each other.

**Budget.** Whatever is killed, cut, stopped, slowed or filled, nothing acknowledged may be lost; so these
need no budget, and all nodes may go at once. What destroys *synced* bytes (`rot`, `misdirect`) would lose
data for certain if it hit a majority of a shard's disks; so a run has one AZ whose disks may rot, and a loss
is a bug.
"""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.sim.process import KILL_POINTS, Ending, Machine

if TYPE_CHECKING:
    from cluster.sim.simulation import Simulation

Undo = Callable[[], None]


def nothing() -> None:
    """There is nothing to undo."""


class Faults:
    def __init__(self, sim: "Simulation") -> None:
        self.sim = sim

    # -- processes -------------------------------------------------------------------------------------

    def kill(self, machines: Sequence[Machine], *, lose_unsynced: bool) -> Undo:
        """SIGKILL, or a power cut. They stay down until undone."""
        for machine in machines:
            machine.wanted = False
            machine.end(Ending.POWER if lose_unsynced else Ending.KILLED)
        return lambda: self.start(machines)

    def start(self, machines: Sequence[Machine]) -> None:
        for machine in machines:
            machine.wanted = True
            machine.boot()

    def kill_at(self, machine: Machine, point: int, *, lose_unsynced: bool) -> Undo:
        """It dies the next time it comes to this point in the code; a supervisor starts it again."""
        machine.kill_at = KILL_POINTS[point % len(KILL_POINTS)]
        machine.kill_loses = lose_unsynced

        def forget() -> None:
            machine.kill_at = None

        return forget

    def pause(self, machines: Sequence[Machine]) -> Undo:
        """SIGSTOP; their clocks go on."""
        stopped = [machine.process for machine in machines if machine.process is not None]
        for process in stopped:
            process.pause()

        def resume() -> None:
            for process in stopped:
                process.resume()

        return resume

    def suspend(self, machines: Sequence[Machine], ahead_us: int) -> Undo:
        """The machine sleeps: nothing runs, and on waking its clocks have jumped ahead."""
        resume = self.pause(machines)

        def wake() -> None:
            for machine in machines:
                machine.clock.jump(ahead_us)
            resume()

        return wake

    # -- links -----------------------------------------------------------------------------------------

    def isolate(self, machines: Sequence[Machine], direction: str = "both", *, clients: bool = False) -> Undo:
        """Cut off from all others. `in`: they hear nothing; `out`: nobody hears them."""
        inside = {machine.id for machine in machines}
        links = []
        for a, b in sorted(self.sim.network.links):
            if (a in inside) != (b in inside):
                outwards = a in inside
                if direction == "both" or (direction == "out") == outwards:
                    links.append((a, b))
        for a, b in links:
            self.sim.network.cut(a, b)
        if clients:
            self.sim.client_cut |= inside

        def mend() -> None:
            for a, b in links:
                self.sim.network.mend(a, b)
            if clients:
                self.sim.client_cut -= inside

        return mend

    def cut(self, senders: Sequence[Machine], receivers: Sequence[Machine]) -> Undo:
        """One way: what these send to those is lost."""
        links = [(a.id, b.id) for a in senders for b in receivers if a is not b]
        for a, b in links:
            self.sim.network.cut(a, b)

        def mend() -> None:
            for a, b in links:
                self.sim.network.mend(a, b)

        return mend

    def clog(self, machines: Sequence[Machine]) -> Undo:
        """Messages to and from them pile up; unclogged link by link, in another order."""
        inside = {machine.id for machine in machines}
        links = [
            link for link in sorted(self.sim.network.links) if (link[0] in inside) != (link[1] in inside)
        ]
        for a, b in links:
            self.sim.network.clog(a, b)

        def unclog() -> None:
            order = list(links)
            # Its own chance: a fault that is left out must change no other draw.
            random.Random(f"unclog {self.sim.config.seed} {self.sim.world.now}").shuffle(order)
            for place, (a, b) in enumerate(order):
                self.sim.world.after(place * 5_000, lambda a=a, b=b: self.sim.network.unclog(a, b))  # type: ignore[misc]

        return unclog

    def slow(self, machines: Sequence[Machine], delay_us: int) -> Undo:
        inside = {machine.id for machine in machines}
        links = [
            link
            for key, link in sorted(self.sim.network.links.items())
            if (key[0] in inside) != (key[1] in inside)
        ]
        for link in links:
            link.slow_us += delay_us

        def mend() -> None:
            for link in links:
                link.slow_us = max(0, link.slow_us - delay_us)

        return mend

    def lossy(self, machines: Sequence[Machine], drop_percent: float, duplicate_percent: float) -> Undo:
        inside = {machine.id for machine in machines}
        links = [
            link
            for key, link in sorted(self.sim.network.links.items())
            if key[0] in inside or key[1] in inside
        ]
        for link in links:
            link.drop_percent += drop_percent
            link.duplicate_percent += duplicate_percent

        def mend() -> None:
            for link in links:
                link.drop_percent = max(0.0, link.drop_percent - drop_percent)
                link.duplicate_percent = max(0.0, link.duplicate_percent - duplicate_percent)

        return mend

    # -- disks -----------------------------------------------------------------------------------------

    def disk_full(self, machines: Sequence[Machine]) -> Undo:
        for machine in machines:
            machine.disk.full = True

        def free() -> None:
            for machine in machines:
                machine.disk.full = False

        return free

    def disk_stall(self, machines: Sequence[Machine], duration_us: int) -> Undo:
        """Syncs that begin from now on end no sooner than this."""
        for machine in machines:
            machine.disk.stall_until = self.sim.world.now + duration_us

        def free() -> None:
            for machine in machines:
                machine.free_disk()

        return free

    def fail_sync(self, machine: Machine) -> Undo:
        """EIO once, then false success."""
        machine.disk.fail_syncs = 1
        return nothing

    def rot(self, machine: Machine) -> Undo:
        where = machine.disk.rot()
        if where:
            self.sim.trace.fault(f"{machine.id}: a bit flips in {where}")
        return nothing

    def misdirect(self, machine: Machine) -> Undo:
        machine.disk.misdirect_next = True
        return nothing

    # -- clocks ----------------------------------------------------------------------------------------

    def jump_clock(self, machines: Sequence[Machine], ahead_us: int) -> Undo:
        for machine in machines:
            machine.clock.jump(ahead_us)
        return nothing

    def jump_wall(self, machines: Sequence[Machine], by_us: int) -> Undo:
        for machine in machines:
            machine.clock.jump_wall(by_us)

        def back() -> None:
            for machine in machines:
                machine.clock.jump_wall(-by_us)

        return back

    def drift_clock(self, machines: Sequence[Machine], percent: float) -> Undo:
        for machine in machines:
            machine.clock.set_drift(int(percent * 10_000))

        def stop() -> None:
            for machine in machines:
                machine.clock.set_drift(0)

        return stop

    # -- engines ---------------------------------------------------------------------------------------

    def kill_engine(self, machine: Machine) -> Undo:
        engine = machine.node.engine if machine.node is not None else None
        if engine is not None and engine.is_running:
            engine.crash("killed")
        return nothing

    def hang_engine(self, machine: Machine, duration_us: int) -> Undo:
        if machine.process is not None:
            machine.process.hang_engine(duration_us)
        return nothing

    def break_feed(self, machine: Machine) -> Undo:
        engine = machine.node.engine if machine.node is not None else None
        if engine is not None and engine.is_running:
            engine.break_feed()
        return nothing

    # -- operations ------------------------------------------------------------------------------------

    def transfer(self, machine: Machine) -> Undo:
        process = machine.process
        if process is not None and process.node is not None and not process.paused:
            process.guarded(process.node.transfer)
        return nothing
