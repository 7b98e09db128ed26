"""One shard's replica on one node: a Raft member joined to an engine.

It owns the answer to "may this node serve?", which is more than "is it the Raft leader?":

* **replica**: the engine is fed committed effects only.
* **promoting**: elected. The no-op of the new term commits, everything in the log is applied to the own
  engine, then the engine is promoted and the tap opened at exactly the committed offset.
* **primary**: the engine executes, the tap's effects are cut into entries, replies wait in the gate.
* **demoting**: leadership is lost. Lanes are closed, whoever waits is in doubt. The engine says at which
  offset it stands; if the committed log turns out to contain exactly what it executed, it is fed on from
  there. Otherwise it holds effects that never happened: it is emptied and rebuilt from the log. Nothing is
  served meanwhile.
* **rebuilding**: the engine is being fed the log and has not reached what is known to be committed. Known
  means: a leader has committed an entry of its own term, and has told how far. Before that a restarted node,
  or a whole cluster, knows of no commit at all, and an empty engine would look up to date.
* **journal**: no engine here (a member that only remembers). If it must lead, because it alone has the
  newest log, it brings a member with an engine up to date and hands over.

Rules that are kept here:
1. The engine is fed committed bytes only, each once, in order.
2. Commands reach the engine only in `PRIMARY` (or, read-only, in `REPLICA`).
3. Nothing is proposed but what the tap delivered in this very term of service.
4. An engine that executed anything uncommitted is never fed on; the decision is by (index, term), not by
   offset.

Left out: snapshots (4/5; until then a rebuild starts at offset 0), slot migration.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol, assert_never

from cluster.engine.protocol import Engine
from cluster.errors import NotLeader
from cluster.raft import RaftNode
from cluster.raft.messages import Entry, EntryKind
from cluster.shard.cutter import EffectCutter
from cluster.shard.gate import ReplyGate
from cluster.shard.stream import HEADER_BYTES, CommittedStream
from cluster.types import Clock, Index, Log, NodeId, Offset, Term


class Serving(Enum):
    BOOTING = "booting"
    REBUILDING = "rebuilding"
    REPLICA = "replica"
    PROMOTING = "promoting"
    PRIMARY = "primary"
    DEMOTING = "demoting"
    JOURNAL = "journal"


TRANSITIONS: dict[Serving, frozenset[Serving]] = {
    Serving.BOOTING: frozenset({Serving.REBUILDING, Serving.BOOTING}),
    Serving.REBUILDING: frozenset({Serving.REPLICA, Serving.BOOTING, Serving.REBUILDING}),
    Serving.REPLICA: frozenset({Serving.PROMOTING, Serving.BOOTING, Serving.REBUILDING}),
    Serving.PROMOTING: frozenset(
        {Serving.PRIMARY, Serving.REPLICA, Serving.REBUILDING, Serving.DEMOTING, Serving.BOOTING}
    ),
    Serving.PRIMARY: frozenset({Serving.DEMOTING, Serving.BOOTING}),
    Serving.DEMOTING: frozenset({Serving.REBUILDING, Serving.BOOTING}),
    Serving.JOURNAL: frozenset(),
}

FEED_CHUNK_BYTES = 1 << 20
OFFSET_POLL_US = 1_000
ENTRY_HOLD_US = 1_500
REBOOT_BACKOFF_US = 500_000
HANDOVER_RETRY_US = 300_000
DRAIN_LIMIT_US = 2_000_000


class ReplicaHost(Protocol):
    """What the replica asks of the node around it."""

    def call_later(self, delay_us: int, callback: Callable[[], None]) -> None: ...

    def on_serving_changed(self, serving: Serving) -> None:
        """The state changed; lanes to the engine are gone unless it went REBUILDING → REPLICA or REPLICA →
        PROMOTING."""
        ...

    def lanes_busy(self) -> bool:
        """Commands are on their way to the engine, or their replies back, on lanes that all clients share."""
        ...

    def touch(self) -> None:
        """Raft has something to hand out."""
        ...


class ShardReplica:
    def __init__(
        self,
        *,
        raft: RaftNode,
        engine: Engine | None,
        host: ReplicaHost,
        clock: Clock,
        log: Log,
        use_lease: bool,
    ) -> None:
        self.raft = raft
        self.engine = engine
        self.stream = CommittedStream()
        self.gate = ReplyGate(clock, raft, use_lease=use_lease)
        self.cutter = EffectCutter(self._propose, hold=self._hold_entry)
        self.serving = Serving.BOOTING if engine is not None else Serving.JOURNAL
        self.engine_version = ""
        self.command_table: object = None
        self.applied_offset = Offset(0)  # what the engine is known to hold
        self.draining_to: NodeId | None = None
        self._host = host
        self._clock = clock
        self._log = log
        self._feeding = False  # the feed is open and in step with `_fed_index`
        self._fed_index = Index(0)  # last committed entry handed to the feed
        self._rebuild_index: Index | None = None  # known committed when the feed began; None: not known yet
        self._rebuild_offset: Offset | None = None  # serve when this much is applied; None: not known yet
        self._polling = False
        self._promote_sent = False
        self._drain_deadline_us = 0
        self._next_handover_us = 0
        self._leader_term: Term | None = None  # the term we lead, None while we don't
        # Effects that this engine executed as primary and that were not committed when it stepped down:
        # (index, term, end).
        self._own_tail: list[tuple[Index, Term, Offset]] = []
        self._stepped_down_at = Offset(0)  # committed when it stepped down: up to here its effects are clean
        self._demoted_at: Offset | None = None  # where the demoted engine stands, until its fate is decided
        self._fed_offset = Offset(0)  # end of what was handed to the feed
        self._transferring = False

    # -- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.engine is not None:
            self.engine.boot()

    def stop(self) -> None:
        if self.engine is not None:
            self.engine.kill()

    @property
    def commit_offset(self) -> Offset:
        return self.stream.offset

    def _enter(self, serving: Serving) -> None:
        assert serving in TRANSITIONS[self.serving], f"{self.serving} → {serving}"
        if serving is self.serving:
            return
        self._log.info(
            "serving_changed", old=self.serving.value, new=serving.value, offset=self.stream.offset
        )
        self.serving = serving
        self._host.on_serving_changed(serving)

    # -- from Raft -------------------------------------------------------------------------------------

    def on_committed(self, entries: Sequence[Entry]) -> None:
        """Newly committed entries, in order. StreamDiverged stops the node."""
        for entry in entries:
            match entry.kind:
                case EntryKind.EFFECTS:
                    self.stream.extend(entry.index, entry.payload)
                case EntryKind.NOOP | EntryKind.MEMBERSHIP | EntryKind.CONTROL:
                    self.stream.skip(entry.index)
                case _:
                    assert_never(entry.kind)
        if self.serving is Serving.PRIMARY:
            self.applied_offset = self.stream.offset
            if self._leader_term is not None:
                self.cutter.on_committed(self.stream.offset, self._leader_term)
        elif self._demoted_at is not None:
            self._decide_demotion()
        else:
            self._pump_feed()
        self.gate.advance(self.stream.offset)
        self._maybe_promote()
        self._maybe_finish_drain()

    def on_progress(self) -> None:
        """A follower answered or time passed: leadership may be proven now."""
        self.gate.advance(self.stream.offset)
        self._maybe_finish_drain()

    def on_tick(self) -> None:
        self.on_progress()
        if self.serving is Serving.REBUILDING:
            self.poll_offset()
        self._maybe_promote()
        if self._leader_term is not None:
            if self.serving is Serving.PRIMARY:
                self.cutter.maybe_propose(self._leader_term)  # refused during a transfer that came to nothing
                self._check_oversized()
            else:
                self._maybe_hand_over()
        gave_up = self._transferring and self.raft.is_leader and self.raft.transferring_to is None
        if self.draining_to is not None and (gave_up or self._clock.now_us() > self._drain_deadline_us):
            self._log.warning("drain_gave_up", parked=len(self.gate))
            self._end_drain()

    def on_elected(self, term: Term) -> None:
        self._leader_term = term
        self._next_handover_us = self._clock.now_us() + HANDOVER_RETRY_US
        if self.serving is Serving.REPLICA:
            self._enter(Serving.PROMOTING)
        self._maybe_promote()

    def on_step_down(self) -> None:
        """Leadership is gone. Whoever waits is in doubt; the engine may not execute for anyone."""
        self._leader_term = None
        self.draining_to = None
        if self.serving is Serving.PRIMARY or (self.serving is Serving.PROMOTING and self._promote_sent):
            self._demote()
        elif self.serving is Serving.PROMOTING:
            self._enter(Serving.REPLICA)
            self._pump_feed()

    # -- taking over -----------------------------------------------------------------------------------

    def _maybe_promote(self) -> None:
        """Elected and everything in the log committed and applied: promote the engine, once."""
        if self._leader_term is None or self.engine is None:
            return
        if self.serving is Serving.REPLICA:
            self._enter(Serving.PROMOTING)
        if self.serving is not Serving.PROMOTING or self._promote_sent:
            return
        raft = self.raft
        if raft.commit_index != raft.last_index or raft.term_at(raft.commit_index) != self._leader_term:
            return  # the no-op of this term is not committed yet
        if self.stream.index != raft.commit_index or self._fed_index != self.stream.index:
            return
        if self.applied_offset == self.stream.offset:
            self._promote_sent = True
            self.engine.promote()
        else:
            self.poll_offset()

    def on_promoted(self, offset: Offset) -> None:
        assert self._promote_sent, "an engine promoted itself"
        if self._demoted_at is not None or self.serving is not Serving.PROMOTING:
            return  # leadership was lost meanwhile; the demotion is under way
        assert offset == self.stream.offset, f"promoted at {offset}, committed {self.stream.offset}"
        assert self._leader_term is not None
        self._feeding = False
        self._own_tail.clear()
        self.cutter.reset(offset, self.stream.crc)
        self.gate.reset(offset)
        self._enter(Serving.PRIMARY)

    def _maybe_hand_over(self) -> None:
        """Leading without an engine that can serve: let a member lead that can, if there is one."""
        now_us = self._clock.now_us()
        if self.serving is Serving.PROMOTING or now_us < self._next_handover_us:
            return
        self._next_handover_us = now_us + HANDOVER_RETRY_US
        self._host_transfer(None)

    def _host_transfer(self, to: NodeId | None) -> bool:
        try:
            chosen = self.raft.transfer(to, self._clock.now_us())
        except (ValueError, NotLeader) as error:
            self._log.info("handover_refused", reason=str(error))
            return False
        self._log.info("handover_started", to=chosen)
        self._host.touch()
        return True

    # -- a planned failover ----------------------------------------------------------------------------

    def drain_and_transfer(self, to: NodeId) -> None:
        """Planned failover: hold new commands back, let everything executed commit, then hand over.

        Raises ValueError with a clear text when this node is not a serving primary."""
        if self.serving is not Serving.PRIMARY:
            raise ValueError("this node is not the shard's primary")
        if self.draining_to is not None:
            raise ValueError("a failover is under way already")
        self.draining_to = to
        self._drain_deadline_us = self._clock.now_us() + DRAIN_LIMIT_US
        self._host.on_serving_changed(self.serving)
        self._maybe_finish_drain()

    def _maybe_finish_drain(self) -> None:
        if self.draining_to is None or len(self.gate) or not self.cutter.idle or self._host.lanes_busy():
            return
        if self.raft.commit_index != self.raft.last_index or self._transferring:
            return
        self._transferring = self._host_transfer(self.draining_to)
        if not self._transferring:
            self._end_drain()

    def _end_drain(self) -> None:
        self.draining_to = None
        self._transferring = False
        self._host.on_serving_changed(self.serving)

    # -- stepping down ---------------------------------------------------------------------------------

    def _demote(self) -> None:
        assert self.engine is not None
        self._transferring = False
        # Before on_promoted nothing was executed for anyone, and the cutter still holds an older service.
        self._own_tail = list(self.cutter.inflight) if self.serving is Serving.PRIMARY else []
        self._stepped_down_at = self.stream.offset
        self._promote_sent = False
        self._feeding = False
        self._demoted_at = None
        self.gate.abandon()
        self._enter(Serving.DEMOTING)
        self.engine.demote()

    def _decide_demotion(self) -> None:
        """Is what the engine executed exactly a prefix of the committed stream? (rule 4)"""
        offset = self._demoted_at
        assert offset is not None and self.engine is not None
        covering = next((entry for entry in self._own_tail if entry[2] >= offset), None)
        if offset <= self._stepped_down_at:
            clean = True
        elif covering is None or covering[2] != offset:
            clean = False  # it executed effects that were never even proposed
        elif self.stream.index < covering[0]:
            if self.raft.last_index >= covering[0] and self.raft.term_at(covering[0]) == covering[1]:
                return  # the entry is still in our log: its fate is not known yet
            clean = False  # a newer leader has replaced it
        else:
            clean = self.raft.term_at(covering[0]) == covering[1]
        self._demoted_at = None
        self._own_tail.clear()
        self._log.info("demotion_decided", clean=clean, offset=offset)
        if clean:
            self._continue_feed(offset)
        else:
            self._restart_feed()

    # -- feeding ---------------------------------------------------------------------------------------

    def on_feed_requested(self, offset: Offset | None) -> None:
        self._feeding = False
        if self._promote_sent:
            return  # it is on its way to primary: REPLICAOF NO ONE follows on another connection
        if self.serving is Serving.DEMOTING and offset is not None:
            self._demoted_at = offset
            self._decide_demotion()
        elif (
            offset is None
            or self.serving in (Serving.BOOTING, Serving.DEMOTING)
            or offset > self.stream.offset
        ):
            # A fresh engine, or one that holds what we cannot vouch for.
            self._restart_feed()
        else:
            self._continue_feed(offset)

    def _restart_feed(self) -> None:
        assert self.engine is not None
        self.engine.feed_full(Offset(0), b"")
        self._resume_feed_after(Index(0), Offset(0))

    def _continue_feed(self, offset: Offset) -> None:
        assert self.engine is not None
        self.engine.feed_continue(offset)
        self._resume_feed_after(self.stream.last_index_within(offset), offset)

    def _resume_feed_after(self, index: Index, offset: Offset) -> None:
        self._polling = False
        self._fed_index = index
        self._fed_offset = offset
        self.applied_offset = offset
        self._feeding = True
        self._rebuild_index = self._rebuild_offset = None
        self._enter(Serving.REBUILDING)
        self._pump_feed()
        self.poll_offset()

    def on_feed_lost(self) -> None:
        self._feeding = False

    def on_feed_drained(self) -> None:
        self._pump_feed()
        self._maybe_promote()

    def _pump_feed(self) -> None:
        """Feed committed entries until the engine's buffer is full or all are fed."""
        engine = self.engine
        if engine is None or not self._feeding:
            return
        while self._fed_index < self.stream.index and not engine.feed_full_up():
            entries = self.raft.entries(Index(self._fed_index + 1), self.stream.index, FEED_CHUNK_BYTES)
            for entry in entries:
                if entry.kind is EntryKind.EFFECTS:
                    self._feed_entry(engine, entry.payload)
                self._fed_index = entry.index

    def _feed_entry(self, engine: Engine, payload: bytes) -> None:
        start = int.from_bytes(payload[8:16], "little")
        skip = self._fed_offset - start  # > 0 when the engine resumed in the middle of an entry
        assert skip >= 0, "the feed would leave a gap"
        data = payload[HEADER_BYTES + skip :]
        engine.feed(data)
        self._fed_offset = Offset(self._fed_offset + len(data))

    # -- the engine's offset ---------------------------------------------------------------------------

    def poll_offset(self) -> None:
        """Learn how far the engine is; also for whoever asks for our status, at any time."""
        # An engine that is still booting answers nothing, and one question at a time waits for its answer.
        if self._feeding and not self._polling and self.engine is not None:
            self._polling = True
            self.engine.ask_offset()

    def on_offset(self, offset: Offset) -> None:
        if self.serving in (Serving.PRIMARY, Serving.BOOTING, Serving.DEMOTING):
            self._polling = False
            return
        if self._feeding:
            self.applied_offset = offset
        self._maybe_finish_rebuild()
        self._maybe_promote()  # still polling for it: the next question is asked a moment later, see below
        self._polling = False
        rebuilding = self.serving is Serving.REBUILDING and self._rebuild_index is not None
        if rebuilding or (self.serving is Serving.PROMOTING and not self._promote_sent):
            self._host.call_later(OFFSET_POLL_US, self.poll_offset)

    def _maybe_finish_rebuild(self) -> None:
        if self.serving is not Serving.REBUILDING or not self._feeding:
            return
        raft = self.raft
        if self._rebuild_index is None:
            if raft.leader is None or raft.term_at(raft.commit_index) != raft.term:
                return
            self._rebuild_index = max(raft.leader_commit_index, raft.commit_index)
        if self._rebuild_offset is None and self.stream.index >= self._rebuild_index:
            self._rebuild_offset = self.stream.offset
        if self._rebuild_offset is not None and self.applied_offset >= self._rebuild_offset:
            self._enter(Serving.REPLICA)

    # -- from the engine -------------------------------------------------------------------------------

    def on_booted(self, version: str, command_table: object) -> None:
        self.engine_version = version
        self.command_table = command_table

    def on_effects(self, data: bytes) -> None:
        if self.serving is Serving.PRIMARY and self._leader_term is not None:
            self.cutter.on_effects(data, self._leader_term)
            self._check_oversized()
            self._host.touch()

    def on_boundary(self, offset: Offset) -> None:
        """A lane learned that whole commands end at `offset`."""
        if self.serving is Serving.PRIMARY and self._leader_term is not None:
            self.cutter.on_boundary(offset, self._leader_term)
            self._check_oversized()
            self._host.touch()

    def _check_oversized(self) -> None:
        """A script or transaction did more than any entry can carry. It can't be cut and must not be
        proposed, for no peer would ever get it: throw it away with the engine. Whoever waits is in doubt."""
        if self.cutter.oversized:
            self._log.error("effects_too_large", bytes=self.cutter.tapped - self.cutter.proposed)
            self._replace_engine()

    def _propose(self, payload: bytes) -> Index | None:
        """None when this term of service is over, or a transfer is under way, and Raft says so first (rule
        3)."""
        if not self.raft.is_leader or self.raft.term != self._leader_term:
            return None
        try:
            return self.raft.propose(EntryKind.EFFECTS, payload)
        except NotLeader:
            return None

    def _hold_entry(self) -> None:
        self._host.call_later(ENTRY_HOLD_US, self._end_hold)

    def _end_hold(self) -> None:
        if self.serving is Serving.PRIMARY and self._leader_term is not None:
            self.cutter.flush(self._leader_term)
            self._host.touch()

    def on_tap_lost(self) -> None:
        """Effects may be missing: this engine is not primary any more, and dirty."""
        self._log.warning("tap_lost")
        self._replace_engine()

    def on_died(self, reason: str) -> None:
        self._log.warning("engine_died", reason=reason)
        self._replace_engine()

    def _replace_engine(self) -> None:
        assert self.engine is not None
        self.engine.kill()
        self._feeding = self._promote_sent = self._polling = False
        self._transferring = False
        self.draining_to = None
        self._demoted_at = None
        self._own_tail.clear()
        self.gate.abandon()
        self._enter(Serving.BOOTING)
        self._next_handover_us = self._clock.now_us() + HANDOVER_RETRY_US
        self._host.call_later(REBOOT_BACKOFF_US, self.engine.boot)
        if self._leader_term is not None:
            self._host_transfer(None)
