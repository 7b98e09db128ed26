"""Reads: a leader that is no leader any more, or not yet, must not show anything.

The usual trap is set for it: it is cut off from its peers but not from its clients, another is elected and
takes writes, and all the while clients ask the old one.
"""

from cluster.sim.history import Op, Result
from cluster.sim.process import Machine
from tests.sim.regressions.raft import Story
from tests.sim.regressions.stage import MS, SECOND, SHORT, Stage
from tests.sim.regressions.table import Regression, attempt


def _paused(read_mode: str, *, counts: bool) -> list[str]:
    """Stopped with a GET (and an INCR) in its socket buffer, and woken when others have moved on."""
    stage = Stage("register", "counter", read_mode=read_mode, raft=SHORT)

    def script() -> None:
        stage.acked(stage.set())
        stage.acked(stage.incr())
        stage.settle()
        old = stage.primary()
        assert old.process is not None
        stage.acked(stage.get(old))
        old.process.pause()
        stage.isolate(old)
        late = [stage.get(old), *([stage.incr(old)] if counts else [])]
        stage.acked(stage.set(stage.primary(but=old)))
        stage.acked(stage.incr(stage.primary(but=old)))
        old.process.resume()
        for op in late:
            stage.done(op)
            stage.expect(op.result is not Result.OK, f"the old primary answered {op.command} with {op.reply}")

    return stage.play(script)


def scenario_20_paused_leader_read() -> list[str]:
    modes = ("lease", "quorum")
    return [line for mode in modes for counts in (False, True) for line in _paused(mode, counts=counts)]


def _ask_old_primary(stage: Stage, old: Machine) -> list[Op]:
    """One read every two milliseconds, sent to the old primary, while others elect and write, and on."""
    reads, client = [], stage.client()
    until = stage.sim.world.now + 2 * SECOND
    written = None
    while stage.sim.world.now < until:
        reads.append(stage.get(old, client))
        stage.go(2 * MS)
        newer = [machine for machine in stage.sim.primaries_of(old.shard) if machine is not old]
        if newer and written is None:
            written = stage.set(newer[0])
            until = stage.sim.world.now + 200 * MS
    stage.expect(written is not None, "nobody else was elected")
    for op in reads:
        stage.done(op)
    return reads


def _drifting(percents: tuple[float, float]) -> list[str]:
    """The primary's clock runs that much fast, the others' that much."""
    stage = Stage("register", raft=SHORT, client_delay_us=100)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        old = stage.primary()
        stage.sim.faults.drift_clock([old], percents[0])
        stage.sim.faults.drift_clock(stage.others(old), percents[1])
        stage.go(500 * MS)
        stage.acked(stage.get(old))
        stage.isolate(old)
        reads = _ask_old_primary(stage, old)
        stage.expect(any(op.result is Result.OK for op in reads), "no read within the lease: a weak story")
        stage.heal()

    return stage.play(script)


def _suspended(ahead_us: int) -> list[str]:
    """The machine sleeps: its clock jumps ahead when it wakes. Its lease must be over, whatever it did not
    live through."""
    stage = Stage("register", raft=SHORT)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        old = stage.primary()
        wake = stage.sim.faults.suspend([old], ahead_us)
        stage.isolate(old)
        get = stage.get(old)
        stage.acked(stage.set(stage.primary(but=old)))
        wake()
        stage.done(get)
        stage.expect(get.result is not Result.OK, f"after its sleep it showed {get.reply}")

    return stage.play(script)


def _clock_jumps() -> list[str]:
    """The primary's own clock jumps ahead while it works: its leases end early, nothing else."""
    stage = Stage("register")

    def script() -> None:
        primary = stage.primary()
        for ahead_us in (50 * MS, 120 * MS, 90 * SECOND):
            stage.acked(stage.set(primary))
            stage.sim.faults.jump_clock([primary], ahead_us)
            stage.acked(stage.get(primary))

    return stage.play(script)


def scenario_21_lease_clock() -> list[str]:
    return (
        _drifting((-9.0, 9.0)) + _drifting((9.0, -9.0)) + _suspended(0) + _suspended(SECOND) + _clock_jumps()
    )


def _core_waits() -> list[str]:
    """In the core: leadership is proven, but the no-op is not committed."""
    story = Story("cluster 1 2 3 timeouts 150 300 300; disk 1 term=1 log=1,1; disk 2 term=1 log=1,1")
    story.tell(
        "disk 3 term=1 log=1,1; start; hold 2; hold 3; time 150; deliver; write 2; deliver; read 1; run 50"
    )
    node = story.group.node("1")
    story.expect(node.is_leader and node.commit_index == 0, "the story has gone wrong")
    story.expect(not node.read_confirmed(node._round + 1), "a read confirmed before the no-op")
    story.expect(not any(node.read_confirmed(number) for number in range(1, 50)), "a read before the no-op")
    story.expect(not node.lease_valid(story.group.now_us), "a lease before the no-op")
    story.tell("release 2; deliver; run 50")
    story.expect(node.lease_valid(story.group.now_us), "no lease after it")
    return story.lines


def _node_waits(how: str) -> list[str]:
    """A whole node: after election, restart or transfer the others' disks hang, so the no-op cannot commit;
    a GET waits."""
    stage = Stage("register", op_timeout_us=8 * SECOND, unavailable_wait_us=6 * SECOND)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        old = stage.primary()
        if how == "election":
            # With a write in its successor's log of which nobody knows yet that it is committed.
            for other in stage.others(old):
                stage.cut(other, old)
            stage.set(old)
            stage.go(5 * MS)
            stage.kill(old)
            stage.heal()
        elif how == "restart":
            stage.kill(*stage.others())
            stage.start(*stage.others())
        else:
            assert old.node is not None
            stage.expect(old.node.transfer(), "no transfer")
        leads = [m for m in stage.others() if how == "restart" or m is not old]
        stage.until(lambda: any(m.node is not None and m.node.leads for m in leads), "an election")
        leader = next(m for m in leads if m.node is not None and m.node.leads)
        unstall = stage.sim.faults.disk_stall(stage.others(leader), 30 * SECOND)
        if stage.raft(leader).commit_index >= stage.raft(leader)._noop_index:
            raise AssertionError("the story has gone wrong: too late")
        get = stage.get(leader)
        stage.go(250 * MS)
        stage.expect(not stage.is_over(get), f"answered {get.reply} before the no-op was committed")
        unstall()
        stage.done(get)
        stage.start(old)

    return stage.play(script)


def scenario_22_read_before_noop() -> list[str]:
    found = attempt(_core_waits)
    for how in ("election", "restart", "transfer"):
        found += [f"{how}: {line}" for line in _node_waits(how)]
    return found


REGRESSIONS = (
    Regression(
        20,
        "paused-leader-read",
        "A primary that slept answers with the newest value or an error.",
        scenario_20_paused_leader_read,
    ),
    Regression(
        21, "lease-clock", "A lease is refused or linearizable on slow, jumped and suspended clocks.",
        scenario_21_lease_clock,
    ),
    Regression(
        22, "read-before-noop", "After election, restart and transfer reads wait for the no-op.",
        scenario_22_read_before_noop,
    ),
)  # fmt: skip
