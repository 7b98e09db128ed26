"""RaftLog with its persist queue against a dumb twin: a list of entries, a list that is the disk, a list of
writes on their way."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.raft import Entry, EntryKind, HardState, MemoryStorage, PersistToken
from cluster.raft.log import RaftLog
from cluster.raft.ready import PersistQueue
from cluster.types import Index, Term

LOTS = 1 << 40


def entry(index: int, term: int, size: int = 3) -> Entry:
    return Entry(Index(index), Term(term), EntryKind.EFFECTS, b"%d" % term + b"x" * size)


def stored(terms: list[int]) -> MemoryStorage:
    entries = [entry(place + 1, term) for place, term in enumerate(terms)]
    return MemoryStorage(HardState(Term(9), None), entries)


class LogTwin(RuleBasedStateMachine):
    @initialize(
        terms=st.lists(st.integers(1, 3), max_size=6).map(sorted), cache=st.sampled_from([1, 400, 1 << 20])
    )
    def begin(self, terms: list[int], cache: int) -> None:
        self.disk = stored(terms)
        self.log = RaftLog(self.disk, cache)
        self.queue = PersistQueue()
        self.twin = list(self.disk.entries(Index(1), self.disk.last_index, LOTS))
        self.commit = 0
        self.delivered: list[Entry] = []
        self.writes: list[tuple[PersistToken, list[Entry]]] = []
        self.term = max([3, *terms])

    @rule(count=st.integers(1, 4), newer=st.booleans(), size=st.integers(0, 200))
    def append(self, count: int, newer: bool, size: int) -> None:
        self.term += newer
        for _ in range(count):
            new = entry(len(self.twin) + 1, self.term, size)
            self.log.append(new)
            self.twin.append(new)

    @rule(back=st.integers(0, 6), count=st.integers(0, 5))
    def late_append(self, back: int, count: int) -> None:
        """A leader repeats what we have: nothing may change."""
        low = max(0, len(self.twin) - back)
        assert self.log.append_matching(self.twin[low : low + count]) is None

    @rule(back=st.integers(0, 6), same=st.integers(0, 3), count=st.integers(1, 4))
    def conflicting_append(self, back: int, same: int, count: int) -> None:
        """A new leader agrees with `same` of the last `back` entries and replaces the rest."""
        low = max(self.commit, len(self.twin) - back)
        keep = min(low + same, len(self.twin))
        self.term += 1
        news = [entry(keep + 1 + place, self.term) for place in range(count)]
        cut = self.log.append_matching(self.twin[low:keep] + news)
        assert cut == (keep + 1 if keep < len(self.twin) else None)
        if cut is not None:
            self.queue.truncated(cut)
        self.twin[keep:] = news

    @rule()
    def hand_out(self) -> None:
        entries = list(self.log.hand_out())
        token = self.queue.push(None, entries[-1].index if entries else Index(0))
        self.writes.append((token, entries))

    @precondition(lambda self: self.writes)
    @rule(count=st.integers(1, 3))
    def finish_writes(self, count: int) -> None:
        done, self.writes = self.writes[:count], self.writes[count:]
        for _, entries in done:
            self.disk.append(None, entries)
        _, index = self.queue.pop(done[-1][0])
        if index:
            self.log.stable_to(index)

    @rule(ahead=st.integers(1, 4))
    def commit_more(self, ahead: int) -> None:
        target = min(self.commit + ahead, len(self.twin))
        assert self.log.maybe_commit(Index(target)) == (target > self.commit)
        self.commit = max(self.commit, target)

    @rule(bytes_max=st.integers(0, 300))
    def deliver(self, bytes_max: int) -> None:
        self.delivered += self.log.deliver(bytes_max)
        assert self.delivered == self.twin[: len(self.delivered)]
        assert len(self.delivered) <= self.commit

    @rule(low=st.integers(1, 12), length=st.integers(0, 12), bytes_max=st.integers(0, 500))
    def read(self, low: int, length: int, bytes_max: int) -> None:
        wanted = self.twin[low - 1 : low + length]
        got = list(self.log.entries(Index(low), Index(low + length), bytes_max))
        assert got == wanted[: len(got)]
        assert bool(got) == bool(wanted), "never empty if there is one"
        size = sum(len(one.payload) for one in got)
        assert size <= bytes_max or len(got) == 1
        if len(got) < len(wanted):
            assert size + len(wanted[len(got)].payload) > bytes_max, "cut too early"

    @invariant()
    def same_as_twin(self) -> None:
        if not hasattr(self, "twin"):
            return
        assert self.log.last_index == len(self.twin)
        assert [self.log.term(Index(place + 1)) for place in range(len(self.twin))] == [
            one.term for one in self.twin
        ]
        assert self.log.last_term == (self.twin[-1].term if self.twin else 0)

    @invariant()
    def stable_means_durable_now_and_later(self) -> None:
        if not hasattr(self, "twin"):
            return
        upto = self.log.stable_index
        assert list(self.disk.entries(Index(1), upto, LOTS)) == self.twin[:upto]
        for _, entries in self.writes:
            assert not entries or entries[0].index > upto, "a write on its way replaces a stable entry"
        if not self.writes and self.log.handed_index == self.log.last_index:
            assert upto == len(self.twin), "all written, but not all stable"


TestLogTwin = LogTwin.TestCase
TestLogTwin.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


@given(st.lists(st.integers(1, 5), max_size=12).map(sorted), st.integers(0, 14), st.integers(0, 6))
def test_newest_of_term_is_found_as_by_looking_at_every_entry(terms: list[int], high: int, term: int) -> None:
    log = RaftLog(stored(terms), 1)
    high = min(high, len(terms))
    slow = max([0, *(index for index in range(1, high + 1) if terms[index - 1] <= term)])
    assert log.newest_of_term(Index(high), Term(term)) == slow


@given(st.data())
def test_backing_up_by_hints_ends_where_the_logs_agree(data: st.DataObject) -> None:
    """Two logs as Raft can make them: a common beginning, then terms that the other has not. The leader needs
    at most one rejection per foreign term, and never goes below the common beginning by more than the
    follower's hint says."""
    common = sorted(data.draw(st.lists(st.integers(1, 3), max_size=5)))
    leader = common + sorted(data.draw(st.lists(st.sampled_from([4, 6, 8]), max_size=6)))
    follower = common + sorted(data.draw(st.lists(st.sampled_from([5, 7, 9]), max_size=6)))
    ours, theirs = RaftLog(stored(leader), 1), RaftLog(stored(follower), 1)
    prev = ours.last_index
    rejections = 0
    while not theirs.matches(prev, ours.term(prev)):
        hint_index, hint_term = theirs.hint(prev, ours.term(prev))
        following = ours.newest_of_term(min(hint_index, ours.last_index), hint_term)
        assert following < prev, "no progress"
        prev = following
        rejections += 1
    assert prev <= len(common)
    assert rejections <= len({*leader[len(common) :]}) + len({*follower[len(common) :]}) + 1
