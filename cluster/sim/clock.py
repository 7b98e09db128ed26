"""What a node believes about time: a boot clock that drifts and jumps ahead, a wall clock that also jumps
back.

The boot clock stands for CLOCK_BOOTTIME: it never goes back and never stops. It starts anywhere, runs up to
some percent fast or slow, and may jump ahead (a machine that was suspended, a hypervisor that caught up).
The wall clock is what an engine expires keys by; it may be set to anything at any time.

The rule with safety in it is Raft's (`cluster/raft/config.py`): leases hold as long as no clock runs more
than `DRIFT_PERCENT_MAX` faster than another. So the drift drawn for a run stays within it, and a *jump* of a
single node's boot clock counts as time passed: it may only shorten that node's own lease, never a promise of
another. A jump ahead does shorten the promise of the node that jumps; that breaks the rule above, so jumps
are given to a whole machine only while it is stopped, as a real suspend does, unless a scenario says
otherwise (`clock_jump`, see there).
"""

from cluster.sim.world import World

WALL_START_US = 1_700_000_000_000_000


class NodeClock:
    """The clocks of one machine; they go on over the lives of its processes."""

    __slots__ = ("_base", "_base_true", "_ppm", "_wall_offset", "_world")

    def __init__(self, world: World, *, start_us: int = 0, drift_ppm: int = 0) -> None:
        self._world = world
        self._base = world.now + start_us
        self._base_true = world.now
        self._ppm = drift_ppm
        self._wall_offset = WALL_START_US

    def now_us(self) -> int:
        """The boot clock."""
        passed = self._world.now - self._base_true
        return self._base + passed + passed * self._ppm // 1_000_000

    def true_delay(self, delay_us: int) -> int:
        """How long a delay of `delay_us` on this clock really takes."""
        return delay_us if not self._ppm else delay_us * 1_000_000 // (1_000_000 + self._ppm)

    def set_drift(self, drift_ppm: int) -> None:
        self._base, self._base_true = self.now_us(), self._world.now
        self._ppm = drift_ppm

    def jump(self, ahead_us: int) -> None:
        """The boot clock, and the wall clock with it, goes ahead at once."""
        assert ahead_us >= 0, "a boot clock never goes back"
        self._base += ahead_us

    def jump_wall(self, by_us: int) -> None:
        """The wall clock alone is set, ahead or back."""
        self._wall_offset += by_us

    def wall_us(self) -> int:
        return self.now_us() + self._wall_offset


class WallClock:
    """The `Clock` of an engine."""

    __slots__ = ("_clock",)

    def __init__(self, clock: NodeClock) -> None:
        self._clock = clock

    def now_us(self) -> int:
        return self._clock.wall_us()
