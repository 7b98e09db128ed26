"""Whatever goes wrong, nothing that must hold is broken (safety.py), and a healed group works again.

Reproduce a red seed with `.venv/bin/pytest tests/raft/test_chaos.py -k 'seed and NUMBER'`, or in Python:
`run_seed(NUMBER, STEPS)`.
"""

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.raft.chaos import Chaos, run_seed

pytestmark = pytest.mark.slow

STEPS = 1500
PICK = st.integers(0, 63)


@pytest.mark.parametrize("seed", range(60))
def test_seed(seed: int) -> None:
    run_seed(seed, STEPS)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = run_seed(7, 500), run_seed(7, 500)
    assert first.cluster.safety.committed == second.cluster.safety.committed
    assert first.cluster.now_us == second.cluster.now_us


def test_chaos_reaches_the_rare_branches() -> None:
    """Or its greenness would mean little."""
    seen: set[str] = set()
    commits = reads = leases = 0
    for seed in range(100, 116):
        chaos = run_seed(seed, STEPS)
        seen |= chaos.cluster.marks
        commits += chaos.cluster.safety.committed_max()
        reads += chaos.cluster.safety.reads_confirmed
        leases += chaos.cluster.safety.leases_seen
    assert seen >= {
        "append_rejected",
        "log_truncated",
        "quorum_lost",
        "transfer_aborted",
        "vote_withheld",
        "became_leader",
    }
    assert commits > 500
    assert reads > 50
    assert leases > 500


class Group(RuleBasedStateMachine):
    """The same troubles, chosen and shrunk by hypothesis."""

    @initialize(seed=st.integers(0, 99), voters=st.sampled_from([1, 2, 3, 3, 5]))
    def begin(self, seed: int, voters: int) -> None:
        self.chaos = Chaos(random.Random(seed), voters)
        self.chaos.linger(320)

    @rule(ms=st.integers(1, 400))
    def linger(self, ms: int) -> None:
        self.chaos.linger(ms)

    @rule(ms=st.integers(1, 20))
    def advance(self, ms: int) -> None:
        self.chaos.advance(ms)

    @rule(count=st.integers(1, 12))
    def deliver_oldest(self, count: int) -> None:
        self.chaos.deliver_oldest(count)

    @rule(pick=PICK)
    def deliver(self, pick: int) -> None:
        self.chaos.deliver(pick)

    @rule(pick=PICK)
    def deliver_twice(self, pick: int) -> None:
        self.chaos.deliver_twice(pick)

    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        self.chaos.drop(pick)

    @rule(pick=PICK)
    def delay(self, pick: int) -> None:
        self.chaos.delay(pick)

    @precondition(lambda self: self.chaos.stuck)
    @rule()
    def undelay(self) -> None:
        self.chaos.undelay()

    @precondition(lambda self: self.chaos.cluster.leaders())
    @rule(pick=PICK, count=st.integers(1, 4))
    def propose(self, pick: int, count: int) -> None:
        self.chaos.propose(pick, count)

    @precondition(lambda self: self.chaos.cluster.leaders())
    @rule()
    def read(self) -> None:
        self.chaos.read()

    @precondition(lambda self: self.chaos.cluster.leaders())
    @rule(pick=PICK)
    def transfer(self, pick: int) -> None:
        self.chaos.transfer(pick)

    @rule(pick=PICK, kept=st.integers(0, 2))
    def crash(self, pick: int, kept: int) -> None:
        self.chaos.crash(pick, kept)

    @precondition(lambda self: len(self.chaos.cluster.running()) < len(self.chaos.ids))
    @rule(pick=PICK)
    def restart_or_resume(self, pick: int) -> None:
        self.chaos.restart(pick)
        self.chaos.resume(pick)

    @rule(pick=PICK)
    def pause(self, pick: int) -> None:
        self.chaos.pause(pick)

    @rule(pick=PICK)
    def hold_disk(self, pick: int) -> None:
        self.chaos.hold_disk(pick)

    @rule(pick=PICK)
    def write_one(self, pick: int) -> None:
        self.chaos.write_one(pick)

    @rule(pick=PICK)
    def release_disk(self, pick: int) -> None:
        self.chaos.release_disk(pick)

    @rule(pick=PICK)
    def cut_pair(self, pick: int) -> None:
        self.chaos.cut_pair(pick)

    @rule(pick=PICK)
    def cut(self, pick: int) -> None:
        self.chaos.cut(pick)

    @precondition(lambda self: self.chaos.cluster.cut)
    @rule()
    def mend(self) -> None:
        self.chaos.mend()

    @invariant()
    def leases_hold(self) -> None:
        if hasattr(self, "chaos"):
            self.chaos.cluster.check_leases()

    def teardown(self) -> None:
        if hasattr(self, "chaos"):
            self.chaos.check_recovery()


TestGroup = Group.TestCase
TestGroup.settings = settings(
    max_examples=40,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
