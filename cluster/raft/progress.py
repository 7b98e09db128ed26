"""What a leader knows of one peer, and when it may send to it.

    PROBE      where the logs agree is not known: one message at a time, wait for its answer
    REPLICATE  they agree at match_index: optimistic, pipelined, up to `inflight_messages_max` unanswered
    messages
    SNAPSHOT   the peer's next entry is no longer in our log. A door for 4/5: it gets heartbeats only

           success                      rejected or lost
    PROBE ─────────> REPLICATE ──────────────────────────────> PROBE        either ──next entry compacted──>
    SNAPSHOT

Loss is found by heartbeats: they stand at next_index - 1, behind everything sent, so a peer that missed a
message rejects the next heartbeat, and one that merely is slow to write accepts it (and says how far it is
durable).
"""

from collections import deque
from enum import Enum

from cluster.types import Index


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One peer as its leader sees it. `next_index > match_index` always."""

    __slots__ = (
        "heard_ticked_us",
        "heartbeat_due",
        "inflight",
        "inflight_messages_max",
        "match_index",
        "next_index",
        "probe_sent",
        "reset_round",
        "sent_at_us",
        "state",
    )

    def __init__(self, next_index: Index, inflight_messages_max: int, round_: int, ticked_us: int) -> None:
        self.state = ProgressState.PROBE
        self.match_index = Index(0)  # highest index known to be equal to ours and durable there
        self.next_index = next_index  # the next entry to send
        self.inflight: deque[Index] = deque()  # last index of each unanswered message, REPLICATE only
        self.inflight_messages_max = inflight_messages_max
        self.probe_sent = False  # PROBE: wait for an answer (a heartbeat also asks)
        self.reset_round = round_  # a rejection of this round or an older one tells nothing new
        self.heard_ticked_us = ticked_us  # when it last answered in this term, on the tick clock
        self.sent_at_us: int | None = None  # when the last AppendEntries left
        self.heartbeat_due = False

    def can_send(self) -> bool:
        """Entries may go out to it now (not counting heartbeats)."""
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) < self.inflight_messages_max
        return self.state is ProgressState.PROBE and not self.probe_sent

    def sent_entries(self, last_index: Index) -> None:
        """A message with entries up to `last_index` is on its way."""
        if self.state is ProgressState.REPLICATE:
            self.inflight.append(last_index)
            self.next_index = Index(last_index + 1)
        else:
            self.probe_sent = True

    def maybe_match(self, match_index: Index, round_: int) -> bool:
        """A success. True if match_index rose. Old successes never lower anything."""
        rose = match_index > self.match_index
        if rose:
            self.match_index = match_index
            if self.next_index <= match_index:
                self.next_index = Index(match_index + 1)
        inflight = self.inflight
        while inflight and inflight[0] <= match_index:
            inflight.popleft()
        if self.state is not ProgressState.REPLICATE and round_ > self.reset_round:
            self.become_replicate()
        return rose

    def ignore_rejection(self, round_: int) -> bool:
        """It rejects something sent before we last changed our mind about this peer."""
        return round_ <= self.reset_round

    def become_replicate(self) -> None:
        self.state = ProgressState.REPLICATE
        self.probe_sent = False
        self.inflight.clear()

    def become_probe(self, next_index: Index, round_: int) -> None:
        """Start again from `next_index`. Answers to rounds up to `round_` are old from now on."""
        self.state = ProgressState.PROBE
        self.next_index = Index(max(next_index, self.match_index + 1))
        self.probe_sent = False
        self.inflight.clear()
        self.reset_round = round_

    def become_snapshot(self) -> None:
        self.state = ProgressState.SNAPSHOT
        self.inflight.clear()
