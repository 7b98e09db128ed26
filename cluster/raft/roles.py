"""Roles and the only legal moves between them. A move that is not in the table is our bug and raises
KeyError.

A learner is a follower that never leaves `FOLLOWER`: whether a node votes is said by its membership, not by
its role.
"""

from enum import Enum


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre_candidate"  # asks whether it would be elected, in its old term (9.6)
    CANDIDATE = "candidate"
    LEADER = "leader"


class RoleEvent(Enum):
    ELECTION_TIMEOUT = "election_timeout"
    PRE_VOTE_WON = "pre_vote_won"
    PRE_VOTE_LOST = "pre_vote_lost"
    VOTE_WON = "vote_won"
    VOTE_LOST = "vote_lost"
    VOTE_GRANTED = "vote_granted"  # to another; a candidate has none left to grant
    TIMEOUT_NOW = "timeout_now"  # the leader hands over (3.10)
    LEADER_HEARD = "leader_heard"  # AppendEntries of this term or a newer one
    HIGHER_TERM = "higher_term"
    QUORUM_LOST = "quorum_lost"  # check-quorum (6.2)


TRANSITIONS: dict[Role, dict[RoleEvent, Role]] = {
    Role.FOLLOWER: {
        RoleEvent.ELECTION_TIMEOUT: Role.PRE_CANDIDATE,
        RoleEvent.TIMEOUT_NOW: Role.CANDIDATE,
        RoleEvent.VOTE_GRANTED: Role.FOLLOWER,
        RoleEvent.LEADER_HEARD: Role.FOLLOWER,
        RoleEvent.HIGHER_TERM: Role.FOLLOWER,
    },
    Role.PRE_CANDIDATE: {
        RoleEvent.ELECTION_TIMEOUT: Role.PRE_CANDIDATE,
        RoleEvent.PRE_VOTE_WON: Role.CANDIDATE,
        RoleEvent.PRE_VOTE_LOST: Role.FOLLOWER,
        RoleEvent.VOTE_GRANTED: Role.FOLLOWER,
        RoleEvent.LEADER_HEARD: Role.FOLLOWER,
        RoleEvent.HIGHER_TERM: Role.FOLLOWER,
    },
    Role.CANDIDATE: {
        RoleEvent.ELECTION_TIMEOUT: Role.PRE_CANDIDATE,
        RoleEvent.VOTE_WON: Role.LEADER,
        RoleEvent.VOTE_LOST: Role.FOLLOWER,
        RoleEvent.LEADER_HEARD: Role.FOLLOWER,
        RoleEvent.HIGHER_TERM: Role.FOLLOWER,
    },
    Role.LEADER: {
        RoleEvent.LEADER_HEARD: Role.FOLLOWER,  # of a newer term; two of one term are ruled out before
        RoleEvent.HIGHER_TERM: Role.FOLLOWER,
        RoleEvent.QUORUM_LOST: Role.FOLLOWER,
    },
}
