"""Golden scripts: a story of a Raft group as a text file, with everything that happened written under each
block.

A file is a row of blocks, separated by blank lines. A block is comments (`# …`), commands, `---`, and what
they printed.

    cluster 1 2 3 timeouts 150 200 250 [learners 4]   the voters, and when each would campaign (ms after it
    last heard)
    disk N [term=T] [vote=V] [log=1,1,2]              before `start`: what N remembers; the log is given by
    its terms
    start [N …]                                       power on: these, or all
    run MS | time MS                                  time passes, with | without messages being delivered
    deliver [FROM TO [COUNT]]                         oldest first, and what that brings about; * is anybody
    drop [FROM TO] | stash [FROM TO] | copy FROM TO | unstash      lose | set aside | set a copy aside | put
    back
    cut FROM TO | island N … | mend                   a dead link, one way | N … cut off from the rest | all
    links work propose N TEXT … | transfer N [TO] | read N | reads N | lease N
    hold N | write N | release N                      its disk stops | finishes one write | works again
    crash N | restart N | pause N | resume N
    forge FROM TO KIND term=T …                       put a message on the wire that nobody sent
    status | log N
    quiet COMMAND …                                   any of these without printing

Heartbeats and the acks that answer them are not printed; `(cut)` marks what a dead link swallowed.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.errors import NotLeader
from cluster.raft import (
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    Message,
    RaftConfig,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cluster.types import Index, NodeId, Term
from tests.raft.harness import (
    Cluster,
    FixedRng,
    Member,
    Packet,
    preset_storage,
    show_entry,
)


def replay(path: Path) -> str:
    """The script with every output as it is now."""
    runner = Runner()
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return "\n\n".join(_replay_block(runner, block) for block in blocks) + "\n"


def _replay_block(runner: "Runner", block: str) -> str:
    lines = block.split("\n")
    given = lines[: lines.index("---")] if "---" in lines else lines
    commands = [line for line in given if line.strip() and not line.startswith("#")]
    if not commands:
        return "\n".join(given)
    return "\n".join([*given, "---", *(runner.run(commands) or ["(nothing)"])])


class Runner:
    def __init__(self) -> None:
        self._lines: list[str] = []
        self._members: list[Member] = []
        self._learners: list[NodeId] = []
        self._cluster: Cluster | None = None
        self._stash: list[Packet] = []
        self._reads: dict[str, list[int]] = {}

    def run(self, commands: list[str]) -> list[str]:
        """What these commands print."""
        self._lines = []
        for command in commands:
            self._run_one(*command.split())
        return self._lines

    def _run_one(self, name: str, *words: str) -> None:
        if name == "quiet":
            printed = self._lines
            self._lines = []
            self._run_one(*words)
            self._lines = printed
            return
        act: Callable[..., None] = getattr(self, f"_do_{name}")
        act(*words)

    def _print(self, line: str) -> None:
        self._lines.append(line)

    @property
    def _group(self) -> Cluster:
        assert self._cluster is not None, "start first"
        return self._cluster

    def _ids(self) -> list[NodeId]:
        return list(self._group.members)

    # ── setting up ──────────────────────────────────────────────────────────────────────────────────────────

    def _do_cluster(self, *words: str) -> None:
        groups: dict[str, list[str]] = {"voters": [], "timeouts": [], "learners": [], "config": []}
        current = "voters"
        for word in words:
            if word in groups:
                current = word
            else:
                groups[current].append(word)
        names = groups["voters"] + groups["learners"]
        timeouts = [int(word) for word in groups["timeouts"]] + [300] * len(names)
        self._learners = [NodeId(name) for name in groups["learners"]]
        numbers = {name: int(number) for name, number in (word.split("=") for word in groups["config"])}
        config = replace(RaftConfig(), **numbers)  # type: ignore[arg-type] # the flags are not set by scripts
        self._members = [
            Member(NodeId(name), preset_storage(0, None, ()), config, FixedRng(timeout))
            for name, timeout in zip(names, timeouts, strict=False)
        ]

    def _do_disk(self, name: str, *words: str) -> None:
        fields = dict(word.split("=") for word in words)
        terms = [int(term) for term in fields.get("log", "").split(",") if term]
        member = next(member for member in self._members if member.node_id == name)
        member.disk.storage = preset_storage(int(fields.get("term", "0")), fields.get("vote"), terms)

    def _do_start(self, *names: str) -> None:
        if self._cluster is None:
            self._cluster = Cluster(self._members, learners=self._learners, trace=self._print)
        for name in names or self._ids():
            self._group.start(NodeId(name))

    # ── time and messages ───────────────────────────────────────────────────────────────────────────────────

    def _do_run(self, ms: str) -> None:
        self._group.run(int(ms))

    def _do_time(self, ms: str) -> None:
        for _ in range(int(ms) // 10):
            self._group.advance(10)

    def _do_deliver(self, from_node: str = "*", to: str = "*", count: str = "1000000") -> None:
        left = int(count)

        def wanted(packet: Packet) -> bool:
            nonlocal left
            if left == 0 or not _matches(packet, from_node, to):
                return False
            left -= 1
            return True

        self._group.deliver_all(wanted)

    def _take(self, from_node: str, to: str) -> list[Packet]:
        taken = [packet for packet in self._group.packets if _matches(packet, from_node, to)]
        self._group.packets = [
            packet for packet in self._group.packets if not _matches(packet, from_node, to)
        ]
        return taken

    def _do_drop(self, from_node: str = "*", to: str = "*") -> None:
        self._take(from_node, to)

    def _do_stash(self, from_node: str = "*", to: str = "*") -> None:
        self._stash += self._take(from_node, to)

    def _do_copy(self, from_node: str, to: str) -> None:
        self._stash += [packet for packet in self._group.packets if _matches(packet, from_node, to)]

    def _do_unstash(self) -> None:
        self._group.packets += self._stash
        self._stash = []

    def _do_cut(self, from_node: str, to: str) -> None:
        self._group.cut |= {
            (a, b) for a in self._ids() for b in self._ids() if from_node in ("*", a) and to in ("*", b)
        }

    def _do_island(self, *names: str) -> None:
        rest = [name for name in self._ids() if name not in names]
        for name in names:
            for other in rest:
                self._group.cut |= {(NodeId(name), other), (other, NodeId(name))}

    def _do_mend(self) -> None:
        self._group.cut.clear()

    def _do_forge(self, from_node: str, to: str, kind: str, *words: str) -> None:
        fields = dict(word.split("=") for word in words)
        self._group.packets.append(Packet(NodeId(from_node), NodeId(to), _forge(kind, fields)))

    # ── requests ────────────────────────────────────────────────────────────────────────────────────────────

    def _do_propose(self, name: str, *texts: str) -> None:
        try:
            self._group.act(
                NodeId(name),
                lambda node: [node.propose(EntryKind.EFFECTS, text.encode()) for text in texts],
            )
        except NotLeader as error:
            self._print(f"{name} refuses: {error}")

    def _do_transfer(self, name: str, to: str | None = None) -> None:
        target = NodeId(to) if to is not None else None
        try:
            self._group.act(NodeId(name), lambda node: node.transfer(target, self._group.clock(NodeId(name))))
        except ValueError as error:
            self._print(f"{name} refuses: {error}")

    def _do_read(self, name: str) -> None:
        try:
            round_ = self._group.act(NodeId(name), lambda node: node.read_round())
        except NotLeader as error:
            self._print(f"{name} refuses: {error}")
            return
        assert isinstance(round_, int)
        reads = self._reads.setdefault(name, [])
        reads.append(round_)
        self._print(f"{name} begins read {len(reads)}")

    def _do_reads(self, name: str) -> None:
        node = self._group.node(name)
        for number, round_ in enumerate(self._reads.get(name, ()), 1):
            self._print(
                f"{name} read {number}: {'confirmed' if node.read_confirmed(round_) else 'not confirmed'}"
            )

    def _do_lease(self, name: str) -> None:
        valid = self._group.node(name).lease_valid(self._group.clock(NodeId(name)))
        self._print(f"{name} {'has a lease' if valid else 'has no lease'}")

    # ── machines ────────────────────────────────────────────────────────────────────────────────────────────

    def _do_hold(self, name: str) -> None:
        self._group.members[NodeId(name)].disk.held = True

    def _do_write(self, name: str) -> None:
        assert self._group.write_one(NodeId(name)), "no write is waiting"

    def _do_release(self, name: str) -> None:
        self._group.release_disk(NodeId(name))

    def _do_crash(self, name: str) -> None:
        self._group.crash(NodeId(name))

    def _do_restart(self, name: str) -> None:
        self._group.members[NodeId(name)].disk.held = False
        self._group.start(NodeId(name))

    def _do_pause(self, name: str) -> None:
        self._group.members[NodeId(name)].paused = True

    def _do_resume(self, name: str) -> None:
        self._group.members[NodeId(name)].paused = False

    # ── looking ─────────────────────────────────────────────────────────────────────────────────────────────

    def _do_status(self) -> None:
        for name, member in self._group.members.items():
            node = member.node
            if node is None:
                self._print(f"{name} down")
                continue
            role = "learner" if node.is_learner else node.role.value
            last = f"{node.last_index}/{node.term_at(node.last_index)}"
            line = (
                f"{name} {role} term={node.term} leader={node.leader or '-'} commit={node.commit_index} "
                f"last={last} stable={node.stable_index}"
            )
            if node.is_leader:
                matched = (f"{peer}:{index}" for peer, index in sorted(node.match_indexes().items()))
                line += f" match={','.join(matched)}"
            self._print(line)

    def _do_log(self, name: str) -> None:
        node = self._group.node(name)
        entries = node.entries(Index(1), node.last_index, 1 << 30)
        self._print(f"{name} log {' '.join(show_entry(entry) for entry in entries)}")


def _matches(packet: Packet, from_node: str, to: str) -> bool:
    return from_node in ("*", packet.from_node) and to in ("*", packet.to)


def _forge(kind: str, fields: dict[str, str]) -> Message:
    term = Term(int(fields["term"]))
    index, entry_term = (int(part) for part in fields.get("at", "0/0").split("/"))
    match kind:
        case "ack":
            return AppendResponse(term, True, Index(index), Term(entry_term), int(fields["round"]))
        case "append":
            commit = Index(int(fields.get("commit", "0")))
            entries = tuple(_parse_entry(word) for word in fields.get("entries", "").split(",") if word)
            round_ = int(fields["round"])
            return AppendEntries(term, Index(index), Term(entry_term), entries, commit, round_)
        case "vote":
            return VoteResponse(term, True)
        case "vote?":
            return RequestVote(term, Index(index), Term(entry_term), transfer="transfer" in fields)
        case "timeout-now":
            return TimeoutNow(term)
    raise AssertionError(f"cannot forge {kind}")


def _parse_entry(word: str) -> Entry:
    place, text = word.split(":")
    index, term = place.split("/")
    return Entry(Index(int(index)), Term(int(term)), EntryKind.EFFECTS, text.encode())
