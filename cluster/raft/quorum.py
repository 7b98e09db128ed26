"""Majorities, plain and joint (4.3). One question in two forms: what have enough voters reached, have enough
agreed?

While a joint configuration is in force both its halves must agree, each by its own majority; learners never
count.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from cluster.raft.messages import Membership
from cluster.types import NodeId


class VoteResult(Enum):
    PENDING = "pending"
    WON = "won"
    LOST = "lost"


class Quorum:
    """The majorities of one membership, prepared once because they are asked on every ack."""

    def __init__(self, membership: Membership) -> None:
        """ValueError if nobody votes."""
        if not membership.voters:
            raise ValueError("a membership needs at least one voter")
        self.voters: Final = membership.voters | membership.outgoing
        halves = [membership.voters, membership.outgoing] if membership.outgoing else [membership.voters]
        self._halves: Final = tuple(tuple(sorted(half)) for half in halves)

    def value(self, values: Mapping[NodeId, int]) -> int:
        """The largest v such that a quorum has reached at least v. `values` names every voter."""
        lowest: int | None = None
        for half in self._halves:
            reached = sorted([values[voter] for voter in half])
            mine = reached[(len(half) - 1) // 2]
            if lowest is None or mine < lowest:
                lowest = mine
        assert lowest is not None
        return lowest

    def vote(self, votes: Mapping[NodeId, bool]) -> VoteResult:
        """Has the election been decided? Votes of non-voters in `votes` do not count."""
        result = VoteResult.WON
        for half in self._halves:
            needed = len(half) // 2 + 1
            granted = sum(1 for voter in half if votes.get(voter) is True)
            refused = sum(1 for voter in half if votes.get(voter) is False)
            if len(half) - refused < needed:
                return VoteResult.LOST
            if granted < needed:
                result = VoteResult.PENDING
        return result
