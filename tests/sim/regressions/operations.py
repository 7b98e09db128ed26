"""Links that work in one direction only, and leadership that is moved on purpose: service in a bound, nothing
lost, no term storm."""

from cluster.sim.history import Result
from cluster.sim.process import Machine
from tests.sim.regressions.stage import MS, SECOND, SHARD, ScriptClient, Stage
from tests.sim.regressions.table import LIVE, MEMBERSHIP, SNAPSHOTS, Regression

ELECTION_US = 300 * MS  # the longest patience
AZS = ("az-a", "az-b", "az-c", "az-d", "az-e")
SERVES_US = 3 * ELECTION_US + 300 * MS  # three of them, and a client that finds its way

# -- half of a network -------------------------------------------------------------------------------------


def _links(name: str, terms_max: int) -> list[str]:
    """Some directions of some links are dead for five seconds. A connected majority is left."""
    stage = Stage("list")

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        other, third = stage.others(primary)
        term = stage.highest_term()
        for sender, receiver in LINKS[name](primary, other, third):
            stage.cut(sender, receiver)
        stage.go(2 * SECOND)  # nobody writes: every log is as long as the others
        _expect_calm(stage, term, terms_max)
        began, acked = stage.sim.world.now, 0
        until = began + 3 * SECOND
        while stage.sim.world.now < until:
            op = stage.done(stage.rpush(stage.primary(within_us=SERVES_US)))
            if op.result is Result.OK:
                if stage.sim.world.now - began > ELECTION_US:
                    acked += 1
                stage.go(50 * MS)
        stage.expect(acked > 30, f"only {acked} writes in three seconds")
        _expect_calm(stage, term, terms_max)
        stage.heal()
        stage.acked(stage.rpush(stage.primary()))

    return [f"{name}: {line}" for line in stage.play(script)]


def _expect_calm(stage: Stage, term: int, terms_max: int) -> None:
    risen = stage.highest_term() - term
    stage.expect(risen <= terms_max, f"a storm: {risen} terms")


LINKS = {
    "half-dead link to the primary": lambda a, b, c: [(b, a)],
    "half-dead link from the primary": lambda a, b, c: [(a, b)],
    "deaf primary": lambda a, b, c: [(b, a), (c, a)],
    "mute primary": lambda a, b, c: [(a, b), (a, c)],
    "deaf replica": lambda a, b, c: [(a, b), (c, b)],
    "bridge": lambda a, b, c: [(a, b), (b, a)],
}


def scenario_25_half_dead_link() -> list[str]:
    return [line for name in LINKS for line in _links(name, terms_max=2)]


# -- handing over ------------------------------------------------------------------------------------------


def _transfer(stage: Stage, machine: Machine, to: Machine) -> None:
    stage.node(machine).inner.transfer(to.id)


def _target_sleeps() -> list[str]:
    """The successor is stopped before it hears that it is to lead: given up after one election timeout."""
    stage = Stage("list")

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        target = stage.others(primary)[0]
        assert target.process is not None
        target.process.pause()
        _transfer(stage, primary, target)
        stage.acked(stage.rpush(primary), 4 * ELECTION_US)
        target.process.resume()
        stage.settle()
        stage.acked(stage.rpush(stage.primary()))

    return stage.play(script)


def _leader_falls() -> list[str]:
    """It loses its role in the middle of handing over, is elected again, and hands over once more."""
    stage = Stage("list")

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        target, third = stage.others(primary)
        stage.cut(primary, target)
        _transfer(stage, primary, target)
        stage.isolate(primary)
        stage.until(lambda: not stage.raft(primary).is_leader, "its fall")
        stage.kill(target)
        stage.heal()
        # Of the two that are left it has the newest log, or asks first: make sure that it leads again.
        for _ in range(10):
            leader = stage.primary()
            if leader is primary:
                break
            _transfer(stage, leader, primary)
            stage.go(ELECTION_US)
        stage.expect(stage.primary() is primary, "the story has gone wrong: it leads no more")
        stage.acked(stage.rpush(primary), 4 * ELECTION_US)
        _transfer(stage, primary, third)
        stage.acked(stage.rpush(stage.primary(but=primary, within_us=SERVES_US)))
        stage.start(target)

    return stage.play(script)


def _target_dies() -> list[str]:
    """The successor has heard and dies at once; the shard elects."""
    stage = Stage("list")

    def script() -> None:
        stage.acked(stage.rpush())
        stage.settle()
        primary = stage.primary()
        target = stage.others(primary)[0]
        target.kill_at = "persist"
        _transfer(stage, primary, target)
        stage.until(lambda: target.process is None, "its death")
        stage.acked(stage.rpush(stage.primary(within_us=SERVES_US)))

    return stage.play(script)


def scenario_26_transfer_interrupted() -> list[str]:
    return _target_sleeps() + _leader_falls() + _target_dies()


def _under_load() -> list[str]:
    """Three planned failovers while clients write and read; nobody is left in doubt, nothing rolls back."""
    stage = Stage("register", "counter", "list", op_timeout_us=5 * SECOND)

    def script() -> None:
        ops = []
        for _ in range(3):
            stage.settle()
            primary = stage.primary()
            target = stage.others(primary)[0]
            for turn in range(30):
                if turn == 10:
                    _transfer(stage, primary, target)
                ops += [stage.set(), stage.incr(), stage.rpush(), stage.get()]
                stage.go(MS)
            stage.until(lambda: target in stage.sim.primaries_of(SHARD), "the successor", SERVES_US)  # noqa: B023
            stage.acked(stage.get(target))
        for op in ops:
            stage.done(op)
        doubts = [op.number for op in ops if op.result is Result.DOUBT]
        stage.expect(not doubts, f"{len(doubts)} operations are in doubt after planned failovers")
        stage.expect(sum(op.result is Result.OK for op in ops) > 300, "too few acknowledged: a weak story")

    return stage.play(script)


def _late_timeout_now() -> list[str]:
    """The word to campaign is stuck on its way; the leader gives the transfer up; then the word arrives. The
    successor is elected at once, past all promises, and the old leader, which hears nothing of it, must not
    answer by its lease."""
    stage = Stage("register", op_timeout_us=3 * SECOND)

    def script() -> None:
        stage.acked(stage.set())
        stage.settle()
        old = stage.primary()
        target, third = stage.others(old)
        stage.sim.network.clog(old.id, target.id)
        _transfer(stage, old, target)
        stage.until(lambda: stage.raft(old).transferring_to is not None, "the transfer")
        stage.until(lambda: stage.raft(old).transferring_to is None, "its end")
        stage.acked(stage.get(old))
        stage.go(100 * MS)
        stage.cut(target, old)
        stage.cut(third, old)
        stage.sim.network.unclog(old.id, target.id)
        client = stage.client()
        reads = []
        written = None
        for _ in range(120):
            reads.append(stage.get(old, client))
            stage.go(MS)
            if written is None and target in stage.sim.primaries_of(SHARD):
                written = stage.set(target)
        stage.expect(written is not None, "the story has gone wrong: the word did not arrive")
        stage.heal()

    return stage.play(script)


def scenario_33_planned_failover() -> list[str]:
    return _under_load() + _late_timeout_now()


def _goes_on(stage: Stage, client: ScriptClient, primary: Machine) -> None:
    """The client gets a write through in time, and all nodes that live name this primary."""
    by = stage.sim.world.now + 2 * SECOND
    while stage.done(stage.rpush(client=client)).result is not Result.OK:
        if stage.sim.world.now > by:
            stage.expect(False, "a client that knew the old primary finds no way")
            return
    stage.go(100 * MS)
    address = f"{primary.spec.host}:{primary.spec.port}"
    for machine in stage.sim.machines_in_order:
        if machine.node is None or machine is primary or machine.spec.journal_only:
            continue
        wire = stage.wire(machine)
        wire.send("GET", stage.key("list"))
        stage.go(20 * MS)
        answer = wire.take().decode().strip()
        stage.expect(answer.endswith(address), f"{machine.id} says {answer!r}, the primary is at {address}")


def scenario_34_two_failovers() -> list[str]:
    """The second primary dies while the first is still away. One client that knew only the first goes on, and
    every node, also of another shard, names the newest primary."""
    stage = Stage("list", shards=2, azs=AZS, replicas=4, op_timeout_us=500 * MS)

    def script() -> None:
        client = stage.client()
        first = stage.primary()
        stage.acked(stage.rpush(first, client))
        stage.settle()
        stage.kill(first)
        second = stage.primary(but=first, within_us=SERVES_US)
        _goes_on(stage, client, second)
        stage.kill(second)
        third = stage.primary(but=second, within_us=SERVES_US)
        _goes_on(stage, client, third)
        stage.start(first, second)
        stage.settle()
        _goes_on(stage, client, stage.primary())

    return stage.play(script)


REGRESSIONS = (
    Regression(
        16,
        "single-server-2015",
        "A membership change before the no-op is refused; quorums are never disjoint.",
        pending=MEMBERSHIP,
    ),
    Regression(
        17,
        "removed-node-returns",
        "No vote of a removed node counts, and it serves nobody.",
        pending=MEMBERSHIP,
    ),
    Regression(18, "island", "An isolated leader that removes the rest commits nothing.", pending=MEMBERSHIP),
    Regression(
        19,
        "snapshot-races",
        "A snapshot is never half applied, and none is sent in a circle.",
        pending=SNAPSHOTS,
    ),
    Regression(
        25,
        "half-dead-link",
        "A connected majority serves within a bound, and terms do not storm.",
        scenario_25_half_dead_link,
    ),
    Regression(
        26,
        "transfer-interrupted",
        "A leader whose handing over came to nothing, or that is elected again, accepts writes.",
        scenario_26_transfer_interrupted,
    ),
    Regression(27, "swizzle", "Links clogged and unclogged during a membership change.", pending=MEMBERSHIP),
    Regression(
        33,
        "planned-failover",
        "Moving a primary on purpose rolls no key back and leaves nobody in doubt.",
        scenario_33_planned_failover,
    ),
    Regression(
        34,
        "two-failovers",
        "After two failovers in a row a client goes on, and all nodes name the newest primary.",
        scenario_34_two_failovers,
        rest=f"nodes whose addresses change, and stock clients ({LIVE})",
    ),
)
