"""Elections, votes and the log, on the pure core: the scripts are those of the golden files, the question is
another. A golden file shows everything that happens; here only what must not happen counts.

The group's own `Safety` (tests/raft/safety.py) watches every step.
"""

from collections.abc import Callable

from tests.raft.harness import Cluster
from tests.raft.script import Runner
from tests.sim.regressions.table import Regression, attempt


class Story:
    """A golden script's commands, and findings on the way."""

    def __init__(self, *commands: str) -> None:
        self.lines: list[str] = []
        self._runner = Runner()
        self.tell(*commands)

    @property
    def group(self) -> Cluster:
        return self._runner._group

    def tell(self, *commands: str) -> None:
        self._runner.run([part.strip() for command in commands for part in command.split(";")])

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.lines.append(text)

    def leaders(self) -> list[str]:
        return [str(node.node_id) for node in self.group.leaders()]

    def log(self, name: str) -> list[str]:
        """index/term of every entry that this node has."""
        node = self.group.node(name)
        return [f"{entry.index}/{entry.term}" for entry in node.entries(1, node.last_index, 1 << 30)]  # type: ignore[arg-type]

    def matched(self, leader: str, peer: str) -> int:
        return next(i for n, i in self.group.node(leader).match_indexes().items() if n == peer)


def told(story: Callable[[], Story]) -> Callable[[], list[str]]:
    return lambda: attempt(lambda: story().lines)


def _vote_then_crash() -> Story:
    """Node 3 grants node 1 its vote, and its power fails before the vote is on the disk; it votes again in
    that term."""
    story = Story("cluster 1 2 3 timeouts 150 250 300; start; hold 3; cut * 2; cut 2 *; time 150; deliver")
    story.expect(not story.leaders(), "a vote that was not durable has counted")
    story.tell("crash 3; mend; island 1; restart 3; run 400")
    story.expect("2" in story.leaders(), "the two that are left elect nobody")
    story.tell("mend; run 300")
    story.expect(len(story.leaders()) == 1, f"leaders: {story.leaders()}")
    return story


def _vote_survives() -> Story:
    """The same with the vote on the disk: after the crash it stands."""
    story = Story("cluster 1 2 3 timeouts 150 250 300; start; cut * 2; cut 2 *; time 150")
    story.tell("deliver 1 3; deliver 3 1; deliver 1 3; drop; crash 3; restart 3")
    story.expect(story.group.node("3").vote == "1", "a durable vote is forgotten")
    story.tell("mend; island 1; forge 2 3 vote? term=1 at=0/0; deliver 2 3")
    votes = [packet.message for packet in story.group.packets if packet.from_node == "3"]
    story.expect(not any(getattr(vote, "granted", False) for vote in votes), "two votes in term 1")
    return story


def _late_append() -> Story:
    """Copies of old appends arrive when more entries have been added since: nothing is cut."""
    story = Story("cluster 1 2 3 timeouts 150 300 300; start; run 200; propose 1 a; copy 1 2; deliver")
    story.tell("propose 1 b c; deliver; unstash; deliver")
    story.tell("forge 1 2 append term=1 at=1/1 round=1; forge 1 2 append term=1 at=0/0 round=1; deliver")
    story.expect(story.log("2") == ["1/1", "2/1", "3/1", "4/1"], f"node 2 has {story.log('2')}")
    story.expect(story.matched("1", "2") == 4, "the leader believes that node 2 has less")
    # Also where nothing of it is committed yet.
    story.tell("cut 2 1; cut 3 1; propose 1 d; copy 1 2; deliver; propose 1 e; deliver; unstash; deliver")
    story.expect(story.log("2")[-2:] == ["5/1", "6/1"], f"node 2 has {story.log('2')}")
    return story


def _old_ack() -> Story:
    """An ack of term 1 arrives at the same leader in term 2, whose log is another one; then acks of its own
    term that name a foreign entry."""
    story = Story("cluster 1 2 3 timeouts 150 300 300; start; run 200")
    story.tell("hold 1; cut 1 2; propose 1 a b; deliver 1 3; stash 3 1")
    story.tell("crash 1; restart 1; mend; island 3; run 160; propose 1 c; run 50")
    story.tell("hold 2; propose 1 d; mend; read 1; drop 1 3; unstash; deliver 3 1")
    story.expect(story.matched("1", "3") == 0, "an ack of term 1 moved match_index in term 2")
    round_ = story.group.node("1").read_round()
    story.tell("time 40; drop", f"forge 3 1 ack term=1 at=3/1 round={round_}", "deliver 3 1")
    story.expect(not story.group.node("1").read_confirmed(round_), "an ack of term 1 confirmed a read")
    story.tell("forge 3 1 ack term=2 at=3/1 round=1; forge 3 1 ack term=2 at=9/2 round=1; deliver 3 1")
    story.expect(story.matched("1", "3") == 0, "an ack of a foreign entry moved match_index")
    story.tell("release 2; run 100")
    story.expect(story.log("3") == story.log("1"), "node 3 is not put right")
    return story


def _figure_8() -> Story:
    """Entry 2 of term 2 comes to lie on three disks of five while node 1 leads term 4."""
    story = Story(
        "cluster 1 2 3 4 5 timeouts 150 300 300 300 160 config message_bytes_max=1",
        "disk 1 term=3 log=1,2; disk 2 term=3 log=1,2; disk 3 term=3 log=1; disk 4 term=3 log=1",
        "disk 5 term=3 log=1,3; start; hold 2; island 5; time 150",
        "deliver 1 *; deliver * 1; deliver 1 *; write 2; deliver * 1; deliver 1 2; deliver 1 3 1",
        "deliver 3 1; deliver 1 3; deliver 3 1; drop; cut 1 4; time 40; deliver 1 2; deliver 2 1; drop",
    )
    matched = [story.matched("1", peer) for peer in ("1", "2", "3")]
    story.expect(min(matched) >= 2, f"the story has gone wrong: {matched}")
    commit = story.group.node("1").commit_index
    story.expect(commit == 0, f"entry {commit} of an older term is committed by counting")
    # This is why: node 5 can still be elected, and replaces entry 2 everywhere.
    story.tell("crash 1; crash 2; mend; run 600")
    story.expect(story.log("3")[:2] == ["1/1", "2/3"], f"node 3 has {story.log('3')}")
    return story


def _duplicate_vote() -> Story:
    """One vote thrice, a vote of a node that does not vote, and one of an older term: no quorum."""
    story = Story(
        "cluster 1 2 3 4 5 timeouts 150 300 300 300 300; start 1 2 3; hold 3; time 150",
        "deliver 1 2; deliver 1 3; deliver 2 1; deliver 3 1; deliver 1 *; copy 2 1; copy 2 1; deliver",
        "unstash; deliver; forge 9 1 vote term=1; forge 4 1 vote term=0; deliver",
    )
    story.expect(not story.leaders(), "two voters of five made a leader")
    story.tell("release 3; deliver")
    story.expect(story.leaders() == ["1"], "the third vote does not decide it")
    return story


def _old_vote() -> Story:
    """A vote for term 1 arrives while its candidate runs in term 2; then one after it has stepped down."""
    story = Story(
        "cluster 1 2 3 timeouts 150 300 300; start 1 2; time 150; deliver 1 2; deliver 2 1; deliver 1 2",
        "stash 2 1; time 150; deliver 1 2; deliver 2 1; drop 1 2; unstash; deliver 2 1",
    )
    story.expect(story.group.node("1").term == 2, "the story has gone wrong")
    story.expect(not story.leaders(), "a vote of term 1 elected a leader of term 2")
    story.tell("forge 2 1 append term=3 at=0/0 round=1; deliver; forge 3 1 vote term=2; deliver")
    story.expect(not story.leaders(), "a vote made a leader of a node that had stepped down")
    return story


def _two_candidates() -> Story:
    """Two ask for a vote in one term, and the first asks twice."""
    story = Story("cluster 1 2 3 timeouts 300 300 300; start 3")
    story.tell("forge 1 3 vote? term=1 at=0/0; forge 2 3 vote? term=1 at=0/0; forge 1 3 vote? term=1 at=0/0")
    story.tell("deliver * 3")
    granted = [str(packet.to) for packet in story.group.packets if getattr(packet.message, "granted", False)]
    story.expect(granted == ["1", "1"], f"votes of term 1 went to {granted}")
    return story


def _commit_monotone() -> Story:
    """Appends that claim commits beyond what they verify, and old ones that claim less."""
    story = Story("cluster 1 2 3 timeouts 150 300 300; disk 2 term=1 log=1,1,1; disk 1 term=2 log=1,2")
    story.tell("disk 3 term=2 log=1,2; start 2")
    node = story.group.node("2")
    story.tell("forge 1 2 append term=2 at=1/1 commit=3 round=1; deliver")
    story.expect(node.commit_index == 1, f"committed {node.commit_index}, verified 1")
    story.tell("forge 1 2 append term=2 at=0/0 commit=0 round=2; deliver")
    story.expect(node.commit_index == 1, f"commit_index went back to {node.commit_index}")
    story.tell("forge 1 2 append term=2 at=1/1 entries=2/2:old2 commit=9 round=3; deliver")
    story.expect(node.commit_index == 2, f"committed {node.commit_index}, verified 2")
    story.expect(node.last_index == 2, "the foreign tail is still there")
    return story


def _empty_append() -> Story:
    """Node 2 has the entry in memory, not on its disk, and answers heartbeats that stand behind it."""
    story = Story(
        "cluster 1 2 3 timeouts 150 300 300; start; run 200; island 3; hold 2; propose 1 a; deliver"
    )
    story.tell("run 200")
    story.expect(story.matched("1", "2") == 1, "an empty append acknowledged what is not durable")
    story.expect(story.group.node("1").commit_index == 1, "committed with one durable copy")
    story.expect(story.group.node("1").lease_valid(story.group.now_us), "its slow disk cost the lease")
    story.tell("crash 2; restart 2; mend; run 100")
    story.expect(story.group.node("1").commit_index == 2, "written at last, not committed")
    return story


def _empty_replica() -> Story:
    """Node 3 lost everything and is the most eager; then it and one that has the data are all there is."""
    story = Story(
        "cluster 1 2 3 timeouts 300 300 150; disk 1 term=2 log=1,1,2; disk 2 term=2 log=1,1,2; start; run 400"
    )
    story.expect(story.leaders() == ["1"], f"leaders: {story.leaders()}")
    story.expect(story.log("3")[:3] == ["1/1", "2/1", "3/2"], f"node 3 has {story.log('3')}")
    story = Story("cluster 1 2 3 timeouts 300 300 150; disk 1 term=2 log=1,1,2; disk 2 term=2 log=1,1,2")
    story.tell("start 1 3; run 1000")
    story.expect(story.leaders() == ["1"], f"leaders: {story.leaders()}")
    story.expect(story.log("1")[:3] == ["1/1", "2/1", "3/2"], f"node 1 has {story.log('1')}")
    return story


def scenario_01_vote_then_crash() -> list[str]:
    return told(_vote_then_crash)() + told(_vote_survives)()


def scenario_11_late_append() -> list[str]:
    return told(_late_append)()


def scenario_12_old_ack() -> list[str]:
    return told(_old_ack)()


def scenario_13_figure_8() -> list[str]:
    return told(_figure_8)()


def scenario_14_votes() -> list[str]:
    return told(_duplicate_vote)() + told(_old_vote)() + told(_two_candidates)()


def scenario_15_commit_monotone() -> list[str]:
    return told(_commit_monotone)()


def scenario_31_empty_append() -> list[str]:
    return told(_empty_append)()


def scenario_32_empty_replica() -> list[str]:
    return told(_empty_replica)()


REGRESSIONS = (
    Regression(
        1,
        "vote-then-crash",
        "A node votes once a term, also across a power cut.",
        scenario_01_vote_then_crash,
    ),
    Regression(
        11, "late-append", "Old and empty appends that arrive late cut nothing.", scenario_11_late_append
    ),
    Regression(12, "old-ack", "Acks of another term or another log move nothing.", scenario_12_old_ack),
    Regression(13, "figure-8", "An older term's entry is not committed by counting.", scenario_13_figure_8),
    Regression(
        14, "dup-vote", "No leader without a quorum of distinct votes of its term.", scenario_14_votes
    ),
    Regression(
        15,
        "commit-monotone",
        "commit_index never goes back, nor past what was verified.",
        scenario_15_commit_monotone,
    ),
    Regression(
        31,
        "ack-before-durable",
        "An empty append acknowledges only what is durable.",
        scenario_31_empty_append,
    ),
    Regression(
        32,
        "empty-replica",
        "A node without the data never leads those that have it.",
        scenario_32_empty_replica,
    ),
)
