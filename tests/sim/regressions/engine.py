"""Engines and writes: what a client may conclude from a reply, what a replica holds, and who may answer."""

from collections.abc import Callable

from cluster.raft.messages import Entry, EntryKind
from cluster.shard.replica import Serving
from cluster.shard.stream import encode_effects
from cluster.sim.history import Op, Result
from cluster.sim.process import KILL_POINTS, Machine
from cluster.sim.workloads import Driver
from cluster.types import Index
from tests.sim.regressions.stage import MS, SECOND, Stage
from tests.sim.regressions.table import LIVE, Regression


class Chopper:
    """Stands between an engine and its node and cuts the tap: of the next effects only the first `keep` bytes
    arrive, until `release`."""

    def __init__(self, stage: Stage, machine: Machine) -> None:
        engine = stage.node(machine).engine
        assert engine is not None
        self._events = engine.events
        self._held: list[bytes] = []
        self.keep: Callable[[bytes], int] | None = None
        self.arrived = 0
        engine.events = self  # type: ignore[assignment]  # the rest of it is passed on

    def __getattr__(self, name: str) -> object:
        return getattr(self._events, name)

    def on_effects(self, data: bytes) -> None:
        if self._held:
            self._held.append(data)
            return
        if self.keep is not None:
            kept = self.keep(data)
            self.keep = None
            self._held = [data[kept:]]
            data = data[:kept]
            self.arrived += 1
        if data:
            self._events.on_effects(data)

    def release(self) -> None:
        held, self._held = self._held, []
        for data in held:
            self._events.on_effects(data)


# -- what a reply means ------------------------------------------------------------------------------------


def _ambiguous(begin: Callable[[Stage, Machine], Op], *, survives: bool) -> list[str]:
    """The primary appends, and loses its role before it can commit. `survives`: a replica has the entry, so
    the next primary commits it; else it is gone. The client must not be told that nothing happened."""
    stage = Stage("register", "counter", "transaction")

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        primary = stage.primary()
        near, far = stage.others(primary)
        stage.cut(near, primary)
        stage.cut(far, primary)
        stage.cut(primary, far)
        if not survives:
            stage.cut(primary, near)
        op = begin(stage, primary)
        stage.go(5 * MS)
        read = stage.get(primary)
        stage.done(op)
        stage.done(read)
        stage.expect(op.result is Result.DOUBT, f"told that a write {op.result.value}")
        stage.expect(read.result is Result.FAIL, f"told that a read {read.result.value}")
        stage.heal()
        stage.primary()

    return stage.play(script)


def scenario_23_ambiguous_write() -> list[str]:
    begins: list[Callable[[Stage, Machine], Op]] = [Stage.set, Stage.incr, Stage.transaction]
    return [
        line
        for begin in begins
        for survives in (True, False)
        for line in _ambiguous(begin, survives=survives)
    ]


# -- once, and whole ---------------------------------------------------------------------------------------


def _killed_at(point: str, *, power: bool) -> list[str]:
    """Three INCRs are under way when a process dies at this point of the code."""
    stage = Stage("counter", restart_us=50 * MS)

    def script() -> None:
        stage.acked(stage.incr())
        stage.settle()
        primary = stage.primary()
        victims = stage.others(primary) if point in ("promote", "feed") else [primary]
        for victim in victims[: 1 if point == "feed" else None]:
            victim.kill_at, victim.kill_loses = point, power
        ops = [stage.incr(primary) for _ in range(3)]
        stage.go(3 * MS)
        if point == "promote":
            stage.kill(primary, power=power)
        elif point == "demote":
            stage.isolate(primary)
        for op in ops:
            stage.done(op)
        died = any(victim.lives > 1 or victim.process is None for victim in victims)
        stage.until(
            lambda: died or any(v.process is None or v.lives > 1 for v in victims), f"a death at {point}"
        )
        stage.heal()
        stage.start(primary)
        stage.acked(stage.incr(stage.primary()))

    return [f"killed at {point}: {line}" for line in stage.play(script)]


def _feed_breaks_inside_an_entry() -> list[str]:
    """A replica's engine has applied the first of five INCRs of one entry when its feed breaks."""
    stage = Stage("counter")

    def script() -> None:
        stage.acked(stage.incr())
        stage.settle()
        primary = stage.primary()
        engine = stage.node(stage.others(primary)[0]).engine
        assert engine is not None
        feed = engine.feed

        def feed_one_command(data: bytes) -> None:
            del engine.feed
            feed(data[: data.index(b"*2", 1) + 5])  # and a piece of the second
            engine.break_feed()

        engine.feed = feed_one_command  # type: ignore[method-assign]
        ops = [stage.incr(primary) for _ in range(5)]
        for op in ops:
            stage.acked(op)
        stage.settle()

    return stage.play(script)


def _replaced_entry() -> list[str]:
    """The primary has executed INCRs that a newer leader's entries replace: its engine must forget them. It
    is primary again afterwards."""
    stage = Stage("counter")

    def script() -> None:
        stage.acked(stage.incr())
        stage.settle()
        old = stage.primary()
        stage.isolate(old)
        stage.incr(old)
        newer = stage.primary(but=old)
        for _ in range(3):
            stage.acked(stage.incr(newer))
        stage.heal()
        stage.settle()
        stage.kill(newer)
        stage.acked(stage.incr(stage.primary(but=newer)))
        stage.start(newer)

    return stage.play(script)


def scenario_24_apply_once() -> list[str]:
    found = [
        line for power in (False, True) for point in KILL_POINTS for line in _killed_at(point, power=power)
    ]
    return found + _feed_breaks_inside_an_entry() + _replaced_entry()


def _transaction_cut(keep: Callable[[bytes], int]) -> list[str]:
    """Part of a transaction's effects have come out of the tap when the primary dies."""
    stage = Stage("transaction")

    def script() -> None:
        stage.acked(stage.transaction())
        stage.settle()
        primary = stage.primary()
        chopper = Chopper(stage, primary)
        chopper.keep = keep
        op = stage.transaction(primary)
        stage.go(20 * MS)
        stage.expect(chopper.arrived == 1, "the story has gone wrong")
        stage.expect(not stage.is_over(op), "acknowledged before all of it was there")
        stage.kill(primary)
        stage.acked(stage.transaction(stage.primary(but=primary)))
        stage.start(primary)

    return stage.play(script)


def scenario_30_transaction_cut() -> list[str]:
    """At the first byte, behind the MULTI, between the two RPUSHes, before the last byte."""
    cuts: list[Callable[[bytes], int]] = [
        lambda data: 1,
        lambda data: data.index(b"MULTI\r\n") + 7,
        lambda data: data.rindex(b"*3\r\n"),
        lambda data: len(data) - 1,
    ]
    return [line for keep in cuts for line in _transaction_cut(keep)]


# -- equal replicas ----------------------------------------------------------------------------------------


def _effects() -> list[str]:
    """Commands whose effects differ from what was asked, while primaries change; digests must agree."""
    stage = Stage("effects")

    def script() -> None:
        driver = Driver(stage.client(), stage.workload("effects"), 400.0, 8, probe=True)
        driver.start()
        for turn in range(4):
            stage.go(400 * MS)
            primary = stage.primary()
            if turn % 2:
                stage.kill(primary)
                stage.go(500 * MS)
                stage.start(primary)
            else:
                stage.isolate(primary)
                stage.go(500 * MS)
                stage.heal()
        driver.stop()
        stage.go(SECOND)

    return stage.play(script)


def _expiry_without_clients() -> list[str]:
    """A key expires and nobody sends anything: the deletion goes through the log all the same."""
    stage = Stage("effects")

    def script() -> None:
        wire = stage.wire(stage.primary())
        wire.send("SET", stage.key("effects"), "soon gone", "PX", "40")
        stage.until(lambda: wire.raw == b"+OK\r\n", "the reply")
        offset = stage.replica(stage.primary()).commit_offset
        stage.go(400 * MS)
        stage.expect(stage.replica(stage.primary()).commit_offset > offset, "the expiry is in no entry")

    return stage.play(script)


def _diverged_halts() -> list[str]:
    """A replica is given a committed entry that does not continue its stream: it stops and serves nothing."""
    stage = Stage("register")
    stage.allow(lambda violation: "StreamDiverged" in violation.text)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        victim = stage.others(stage.primary())[0]
        replica = stage.replica(victim)
        entry = Entry(
            Index(replica.stream.index + 1),
            stage.raft(victim).term,
            EntryKind.EFFECTS,
            encode_effects(replica.stream.offset, replica.stream.crc ^ 1, b"*1\r\n$4\r\nPING\r\n"),
        )
        process = victim.process
        assert process is not None
        process.guarded(lambda: replica.on_committed([entry]))
        stage.expect(victim.process is None, "it goes on with a stream that is not its own")

    return stage.play(script)


def scenario_28_engine_divergence() -> list[str]:
    return _effects() + _expiry_without_clients() + _diverged_halts()


# -- an engine alone ---------------------------------------------------------------------------------------


def _engine_killed(role: str) -> list[str]:
    """Its engine dies and the node lives: until it holds everything again it answers with errors."""
    stage = Stage("register", engine_boot_us=100 * MS)

    def script() -> None:
        value = str(stage.acked(stage.set()).argument)
        stage.settle()
        primary = stage.primary()
        victim = primary if role == "primary" else stage.others(primary)[0]
        wire = stage.wire(victim)
        wire.send("READONLY")
        stage.go(5 * MS)
        wire.take()
        writes = [stage.set(victim), stage.set(victim)] if role == "primary" else []
        stage.sim.faults.kill_engine(victim)
        answers = b""
        for _ in range(300):
            wire.send("GET", stage.key("register"))
            stage.go(2 * MS)
            answers += wire.take()
        shown = {value, *(str(op.argument) for op in writes)}
        stage.expect(b"$-1" not in answers, f"an empty engine answered on {victim.id}")
        told = {line.decode() for line in answers.split(b"\r\n") if line.startswith(b"v")}
        stage.expect(told <= shown, f"{victim.id} answered {sorted(told - shown)}")
        for op in writes:
            stage.done(op)
        stage.settle()
        stage.expect(victim.lives == 1, "the node died with its engine")

    return [f"engine of a {role} killed: {line}" for line in stage.play(script)]


def _engine_hangs(duration_us: int) -> list[str]:
    """It is stopped: no ack and no read; it wakes, or is declared dead."""
    stage = Stage("register", op_timeout_us=20 * SECOND)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        primary = stage.primary()
        stage.sim.faults.hang_engine(primary, duration_us)
        write, read = stage.set(primary), stage.get(primary)
        stage.go(min(duration_us, 9 * SECOND) - 50 * MS)
        stage.expect(not stage.is_over(write), "a stopped engine's write is acknowledged")
        stage.expect(not stage.is_over(read), f"a stopped engine's read shows {read.reply}")
        stage.done(write)
        stage.done(read)
        stage.acked(stage.get())

    return stage.play(script)


def _slow_feed(stage: Stage, machine: Machine) -> None:
    """From now on what its engine is fed takes 60 ms to arrive; what it is asked does not."""
    engine, process = stage.node(machine).engine, machine.process
    assert engine is not None and process is not None
    feed = engine.feed
    engine.feed = lambda data: process.after(60 * MS, lambda: feed(data))  # type: ignore[method-assign]


def _rebuilds_slowly() -> list[str]:
    """A replica whose engine died and is fed again: it shows nothing before it has applied that."""
    stage = Stage("register")

    def script() -> None:
        value = str(stage.acked(stage.set()).argument)
        stage.settle()
        victim = stage.others(stage.primary())[0]
        _slow_feed(stage, victim)
        wire = stage.wire(victim)
        wire.send("READONLY")
        stage.sim.faults.kill_engine(victim)
        stage.go(20 * MS)
        wire.take()
        for _ in range(400):
            wire.send("GET", stage.key("register"))
            stage.go(2 * MS)
        answers = {line for line in wire.take().decode().split("\r\n") if line.startswith(("v", "$-1"))}
        stage.expect(answers == {value}, f"a replica that is being rebuilt showed {sorted(answers)}")

    return stage.play(script)


def _applies_slowly() -> list[str]:
    """A new primary whose engine has been fed and has not applied it yet waits for it."""
    stage = Stage("list")

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        old = stage.primary()
        for machine in stage.others(old):
            _slow_feed(stage, machine)
        stage.acked(stage.rpush(old))
        target = stage.node(old).inner.transfer(None)
        stage.until(lambda: any(m.id == target for m in stage.sim.primaries_of(old.shard)), "the successor")
        stage.expect(stage.replica(stage.primary()).serving is Serving.PRIMARY, "no primary")
        stage.acked(stage.rpush(stage.primary()))

    return stage.play(script)


def scenario_29_orphan_engine() -> list[str]:
    found = _engine_killed("primary") + _engine_killed("replica")
    found += _engine_hangs(2 * SECOND) + _engine_hangs(11 * SECOND)
    return found + _rebuilds_slowly() + _applies_slowly()


REGRESSIONS = (
    Regression(
        23,
        "ambiguous-write",
        "A write whose fate is open is INDOUBT, never a definite error.",
        scenario_23_ambiguous_write,
    ),
    Regression(24, "apply-once", "Whatever dies in between, an INCR counts once.", scenario_24_apply_once),
    Regression(
        28,
        "engine-divergence",
        "Digests of all replicas are equal at equal offset, and one that diverged halts.",
        scenario_28_engine_divergence,
        rest=f"Lua, TIME, RANDOMKEY and eviction, which the model engine has not ({LIVE})",
    ),
    Regression(
        29,
        "orphan-engine",
        "A node whose engine died, hangs or lags acknowledges nothing and shows nothing.",
        scenario_29_orphan_engine,
        rest=f"an engine that outlives its node ({LIVE})",
    ),
    Regression(
        30,
        "transaction-cut",
        "A transaction is on every replica as a whole or not at all.",
        scenario_30_transaction_cut,
    ),
)
