"""What must hold of one node between any two calls. Tests and the simulator check it after every step.

1. offset ≤ stable ≤ handed ≤ last, and commit ≤ last: nothing is durable that was not handed out, nothing
   committed that is not there.
2. delivered ≤ commit: only committed entries are applied.
3. The window is gapless, its terms never fall, and no entry is newer than our term.
4. Only a leader has progress, a lease and a transfer; it leads itself, voted for itself, and its term is
   durable.
5. A leader's view of a peer: match ≤ last, match < next ≤ last + 1, the in-flight window is bounded and in
   order.
6. A candidate voted for itself and knows no leader.
7. A learner is a follower.
8. Our term never falls behind the one handed out to be written, and the durable one never runs ahead.
9. An uncommitted entry of our own term exists only after the no-op of that term.
"""

from typing import TYPE_CHECKING

from cluster.raft.progress import ProgressState
from cluster.raft.roles import Role

if TYPE_CHECKING:
    from cluster.raft.node import RaftNode


def check(node: "RaftNode") -> None:
    """AssertionError at the first broken one."""
    _check_log(node)
    _check_role(node)
    if node.role is Role.LEADER:
        _check_leader(node)


def check_roles(node: "RaftNode") -> None:
    """All but the entries themselves (3), in constant time: for whoever checks after every step."""
    _check_indexes(node)
    _check_role(node)
    if node.role is Role.LEADER:
        _check_leader(node)


def _check_indexes(node: "RaftNode") -> None:
    log = node._log
    assert log.offset() <= log.stable_index <= log.handed_index <= log.last_index, "1: order of indexes"
    assert log.commit_index <= log.last_index, "1: commit past the end"
    assert log.delivered_index <= log.commit_index, "2: applied before it was committed"


def _check_log(node: "RaftNode") -> None:
    log = node._log
    _check_indexes(node)
    term = log.term(log.offset()) if log.offset() >= log.first_index - 1 else 0
    for place, entry in enumerate(log.window()):
        assert entry.index == log.offset() + 1 + place, "3: gap in the window"
        assert entry.term >= term, "3: terms fall along the log"
        term = entry.term
    assert log.offset() + len(log.window()) == log.last_index, "3: window ends elsewhere"
    assert log.last_term == term, "3: last_term"
    assert log.last_term <= node.term, "3: entry newer than our term"


def _check_role(node: "RaftNode") -> None:
    leads = node.role is Role.LEADER
    assert (node._lease is not None) == leads, "4: lease without leadership"
    assert leads or not node._progress, "4: progress without leadership"
    assert leads or node._transfer is None, "4: transfer without leadership"
    if node.role is Role.CANDIDATE:
        assert node.vote == node.node_id, "6: a candidate voted for itself"
        assert node.leader is None, "6: a candidate knows no leader"
    if node.is_learner:
        assert node.role is Role.FOLLOWER, "7: a learner is a follower"
    assert node._durable_term <= node._handed_hard_state.term <= node.term, "8: terms"


def _check_leader(node: "RaftNode") -> None:
    log = node._log
    assert node.leader == node.node_id, "4: leads itself"
    assert node.vote == node.node_id, "4: voted for itself"
    assert node._durable_term == node.term, "4: its term is durable"
    assert log.term(node._noop_index) == node.term, "9: no-op of the term"
    for peer in node._peers:
        progress = node._progress[peer]
        assert progress.match_index <= log.last_index, "5: match past our log"
        assert progress.match_index < progress.next_index <= log.last_index + 1, "5: next"
        assert len(progress.inflight) <= node.config.inflight_messages_max, "5: window"
        assert list(progress.inflight) == sorted(progress.inflight), "5: order in the window"
        if progress.state is not ProgressState.REPLICATE:
            assert not progress.inflight, "5: in flight outside REPLICATE"
