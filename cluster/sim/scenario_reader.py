"""Scenario files read strictly: `parse_scenario` gives a whole, consistent `Scenario` or one clear line.

Everything that can be known before a run is checked here: a name that does not exist in this cluster, an
option that the action has no use for, a trigger that cannot come true, a step that would begin after the end,
clocks further apart than a lease allows for. So whoever runs a scenario checks nothing.

What a key may be stands in the tables of `scenario`; here are the rules between them. Pure: text in, data
out. Files are for the caller to find.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import get_args

from cluster.az.topology import NODE_ID_PATTERN, NodeSpec, Topology
from cluster.errors import ConfigError
from cluster.raft.config import DRIFT_PERCENT_MAX, RaftConfig
from cluster.sim.scenario import (
    ACTIONS,
    AZS_MAX,
    CLIENTS_MAX,
    CONDITIONS,
    DURATION_MS_MAX,
    ENDS,
    KEYS_MAX,
    OPS_PER_SECOND_MAX,
    REPEAT_MAX,
    REPLICAS_MAX,
    SHARDS_MAX,
    SMALL_CLIENTS_MAX,
    SMALL_OPS_PER_KEY_MAX,
    TARGETS,
    WORKLOADS,
    Action,
    ActionSpec,
    ClusterPart,
    Expect,
    Options,
    OptionSpec,
    ReadMode,
    Scenario,
    Step,
    Subject,
    SubjectExpect,
    Target,
    TargetKind,
    Trigger,
    WorkloadKind,
    WorkloadPart,
    times_of,
)
from cluster.sim.toml_lines import Table, listed, read_toml, shown
from cluster.types import Az, ShardId


def parse_scenario(text: str, file: str) -> Scenario:
    """What a scenario file says. `file` is how messages call it; its last part names the scenario.

    ConfigError if it is none: one line, `FILE:LINE: what is wrong and what is allowed`.
    """
    root = read_toml(text, file)
    root.only("title", "story", "duration_ms", "subjects", "cluster", "raft", "workloads", "steps", "expect")
    title, story = _prose(root, "title"), _prose(root, "story")
    duration_ms = root.number("duration_ms", 1_000, DURATION_MS_MAX)
    subjects = _read_subjects(root)
    cluster, topology = _read_cluster(root.table("cluster"))
    raft = _read_raft(root.table("raft"))
    workloads = _read_workloads(root.tables("workloads"), duration_ms)
    if not workloads:
        root.fail("there are no [[workloads]], so nothing could be lost")
    reader = _StepReader(cluster, topology, duration_ms)
    steps = tuple(reader.read(table) for table in root.tables("steps"))
    expect = _read_expect(root.table("expect"), subjects, steps)
    name = file.replace("\\", "/").rpartition("/")[2].removesuffix(".toml")
    return Scenario(name, title, story, duration_ms, cluster, raft, workloads, steps, expect, subjects)


def _prose(root: Table, key: str) -> str:
    text = root.take(key, str).strip()
    if not text:
        root.fail("must not be empty", key)
    if key == "title" and "\n" in text:
        root.fail("must be one line", key)
    if not all(char.isprintable() or char == "\n" for char in text):
        root.fail("must be plain text, without tabs and control characters", key)
    return text


def _read_subjects(root: Table) -> tuple[Subject, ...]:
    subjects: list[Subject] = root.words("subjects", get_args(Subject), ["azimuth"])
    if "azimuth" not in subjects:
        root.fail("must name azimuth, whose promises the scenario tests", "subjects")
    return tuple(subjects)


def _read_cluster(table: Table) -> tuple[ClusterPart, Topology]:
    table.only("shards", "replicas", "azs", "read_mode")
    default = ClusterPart()
    azs = table.texts("azs", list(default.azs))
    if len(azs) > AZS_MAX:
        table.fail(f"must be at most {AZS_MAX}", "azs")
    for index, az in enumerate(azs):
        if az in TARGETS or NODE_ID_PATTERN.fullmatch(az):
            table.fail(f"{shown(az)} means something else as a target; call the AZ otherwise", "azs", index)
    read_modes: tuple[ReadMode, ...] = get_args(ReadMode)
    part = ClusterPart(
        shards=table.number("shards", 1, SHARDS_MAX, default.shards),
        replicas=table.number("replicas", 0, REPLICAS_MAX, default.replicas),
        azs=tuple(Az(az) for az in azs),
        read_mode=table.word("read_mode", read_modes, default.read_mode),
    )
    try:
        return part, part.topology()
    except ConfigError as error:  # of the AZs: the numbers are within bounds
        table.fail(str(error).removeprefix("azs: "), "azs")


def _read_raft(table: Table) -> RaftConfig:
    table.only("election_timeout_ms", "heartbeat_ms", "lease_ms")
    default = RaftConfig()
    election = table.numbers(
        "election_timeout_ms",
        1,
        DURATION_MS_MAX,
        [default.election_timeout_min_ms, default.election_timeout_max_ms],
    )
    if len(election) != 2:
        table.fail("must be two numbers, from and to", "election_timeout_ms")
    heartbeat_ms = table.number("heartbeat_ms", 1, DURATION_MS_MAX, default.heartbeat_ms)
    lease_ms = table.number("lease_ms", 1, DURATION_MS_MAX, default.lease_ms)
    try:
        return RaftConfig(
            election_timeout_min_ms=election[0],
            election_timeout_max_ms=election[1],
            heartbeat_ms=heartbeat_ms,
            lease_ms=lease_ms,
        )
    except ConfigError as error:
        table.fail(str(error))


def _read_workloads(tables: Sequence[Table], duration_ms: int) -> tuple[WorkloadPart, ...]:
    found: dict[WorkloadKind, WorkloadPart] = {}
    for table in tables:
        table.only("kind", "clients", "ops_per_second", "keys")
        kind = table.word("kind", tuple(WORKLOADS))
        if kind in found:
            table.fail(f"{kind} is there twice; give one of them more clients", "kind")
        part = WorkloadPart(
            kind,
            clients=table.number("clients", 1, CLIENTS_MAX),
            ops_per_second=table.number("ops_per_second", 1, OPS_PER_SECOND_MAX),
            keys=table.number("keys", 2 if kind == "transaction" else 1, KEYS_MAX),
        )
        if kind == "small":
            _check_small(table, part, duration_ms)
        found[kind] = part
    return tuple(found.values())


def _check_small(table: Table, part: WorkloadPart, duration_ms: int) -> None:
    if part.clients > SMALL_CLIENTS_MAX:
        table.fail(f"small takes at most {SMALL_CLIENTS_MAX}: its checker searches", "clients")
    per_key = part.ops_per_second * duration_ms // (1_000 * part.keys)
    if per_key > SMALL_OPS_PER_KEY_MAX:
        table.fail(
            f"{per_key} operations a key; small takes at most {SMALL_OPS_PER_KEY_MAX}: its checker searches",
            "keys",
        )


# -- steps -------------------------------------------------------------------------------------------------


class _StepReader:
    """Reads steps in order and remembers what those above allow to the next."""

    def __init__(self, cluster: ClusterPart, topology: Topology, duration_ms: int) -> None:
        self._cluster = cluster
        self._topology = topology
        self._duration_ms = duration_ms
        self._previous: Step | None = None
        self._latest_ms = 0  # at_ms of the last step that has one
        self._finder: Step | None = None  # the last one that had to find its target
        self._drifts = {0}  # percent; the nodes that no step names run true

    def read(self, table: Table) -> Step:
        action = table.word("action", tuple(ACTIONS))
        spec = ACTIONS[action]
        self._refuse_others(table, action)
        step = Step(
            line=table.line,
            trigger=self._trigger(table),
            action=action,
            target=self._target(table, spec),
            options=self._options(table, action),
            for_ms=self._for_ms(table, action),
            repeat=table.number("repeat", 1, REPEAT_MAX, 1),
            every_ms=table.number("every_ms", 0, self._duration_ms, 0),
        )
        self._check_repetition(table, step)
        self._check_end(table, step)
        self._check_same(table, step)
        self._check_drift(table, step)
        self._remember(step)
        return step

    def _remember(self, step: Step) -> None:
        self._previous = step
        self._latest_ms = step.trigger.at_ms or self._latest_ms
        if step.target is not None and TARGETS[step.target.kind].found:
            self._finder = step

    # -- when ----------------------------------------------------------------------------------------------

    def _trigger(self, table: Table) -> Trigger:
        if ("at_ms" in table) == ("when" in table):
            have = "both at_ms and when" if "at_ms" in table else "neither at_ms nor when"
            table.fail(f"the step has {have}; it needs exactly one of them")
        if "when" in table:
            when = table.word("when", tuple(CONDITIONS))
            if when in ("primary_moved", "previous_done") and self._previous is None:
                table.fail(f"{when} speaks of steps above, and there are none", "when")
            return Trigger(when=when, after_ms=table.number("after_ms", 0, self._duration_ms, 0))
        if "after_ms" in table:
            table.fail("goes with when, not with at_ms", "after_ms")
        at_ms = table.number("at_ms", 0, self._duration_ms)
        if at_ms < self._latest_ms:
            table.fail(f"{at_ms} is before {self._latest_ms} of a step above; order them by time", "at_ms")
        return Trigger(at_ms=at_ms)

    def _for_ms(self, table: Table, action: Action) -> int | None:
        if "for_ms" not in table:
            return None
        if ACTIONS[action].undo is None:
            undone = listed(name for name, spec in ACTIONS.items() if spec.undo is not None)
            table.fail(f"{action} cannot be undone; there are {undone}", "for_ms")
        return table.number("for_ms", 1, self._duration_ms)

    def _check_repetition(self, table: Table, step: Step) -> None:
        each_az = step.target is not None and step.target.kind == "each_az"
        if each_az and "repeat" in table:
            table.fail("each_az is repeated for each AZ and takes no repeat", "repeat")
        if (step.repeat > 1 or each_az) != (step.every_ms > 0):
            what = "each_az" if each_az else "repeat"
            table.fail(
                f"{what} needs every_ms, the time from one to the next"
                if step.every_ms == 0
                else "goes with repeat, at least 2, or with each_az",
                "every_ms",
            )
        if step.every_ms and step.lasts_ms > step.every_ms:
            key = next(key for key in ("for_ms", "down_ms", "stall_ms", "action") if key in table)
            table.fail(f"each lasts {step.lasts_ms} ms, longer than every_ms, {step.every_ms}", key)

    def _check_end(self, table: Table, step: Step) -> None:
        """The last repetition begins, and is over, before the run is."""
        times = times_of(step, self._cluster)
        begin = (step.trigger.at_ms or 0) + step.trigger.after_ms + (times - 1) * step.every_ms
        last = "the step" if times == 1 else "its last repetition"
        if begin >= self._duration_ms:
            table.fail(f"{last} begins at {begin} ms, and duration_ms is {self._duration_ms}")
        if begin + step.lasts_ms > self._duration_ms:
            table.fail(
                f"{last} is over at {begin + step.lasts_ms} ms, and duration_ms is {self._duration_ms}"
            )

    # -- whom ----------------------------------------------------------------------------------------------

    def _target(self, table: Table, spec: ActionSpec) -> Target | None:
        if not spec.targets or ("target" not in table and not spec.target_required):
            return None
        return self._parse_target(table, "target", spec.targets)

    def _parse_target(self, table: Table, key: str, allowed: frozenset[TargetKind]) -> Target:
        text = table.take(key, str)
        target = self._find(table, key, text)
        if target is None or target.kind not in allowed:
            reason = "is no target" if target is None else "does not go here"
            table.fail(f"{shown(text)} {reason}; there are {listed(self._forms(allowed))}", key)
        return target

    def _forms(self, kinds: frozenset[TargetKind]) -> list[str]:
        """How these kinds of targets are written, with the AZs of this cluster."""
        azs = list(self._topology.azs)
        forms = [[spec.form] if kind != "az" else azs for kind, spec in TARGETS.items() if kind in kinds]
        return [form for each in forms for form in each]

    def _find(self, table: Table, key: str, text: str) -> Target | None:
        """What the text means; None if nothing. Names must exist."""
        topology = self._topology
        head, colon, name = text.partition(":")
        if text in topology.azs:
            return Target("az", text)
        if NODE_ID_PATTERN.fullmatch(text):
            self._must_exist(table, key, "node", text, [node.id for node in topology.nodes])
            return Target("node", text)
        for kind, spec in TARGETS.items():
            if kind == head and (":" in spec.form) == bool(colon) and kind not in ("az", "node"):
                if colon:
                    self._must_exist(table, key, "shard", name, [shard.id for shard in topology.shards])
                self._check_kind(table, key, kind, name)
                return Target(kind, name)
        return None

    def _must_exist(self, table: Table, key: str, what: str, name: str, names: Sequence[str]) -> None:
        if name not in names:
            table.fail(f"there is no {what} {shown(name)}; there are {names[0]} to {names[-1]}", key)

    def _check_kind(self, table: Table, key: str, kind: TargetKind, name: str) -> None:
        """That the cluster has such a thing."""
        if kind == "minority" and len(self._topology.azs) < 3:
            table.fail(f"of {len(self._topology.azs)} AZs none is a minority", key)
        if kind == "replica" and sum(_has_engine(n) for n in self._topology.shard(ShardId(name)).nodes) < 2:
            table.fail(f"shard {name} has no replica; give the cluster more replicas", key)
        if kind == "same" and self._finder is None:
            kinds = listed(spec.form for spec in TARGETS.values() if spec.found)
            table.fail(f"no step above had to find its target ({kinds})", key)

    def _check_same(self, table: Table, step: Step) -> None:
        """`same` is known when the step begins: one that waits for nothing may not rely on one that waits."""
        targets = (step.target, step.options.link_from, step.options.link_to)
        if all(target is None or target.kind != "same" for target in targets):
            return
        assert self._finder is not None, "_check_kind has seen to it"
        if step.trigger.at_ms is not None and self._finder.trigger.at_ms is None:
            table.fail(
                f"the step at line {self._finder.line} may not have found its target by then; use when",
                "at_ms",
            )

    # -- how -----------------------------------------------------------------------------------------------

    def _options(self, table: Table, action: Action) -> Options:
        values: dict[str, object] = {
            option.attribute or key: self._option(table, key, option)
            for key, option in ACTIONS[action].options.items()
        }
        if action == "power_cut":
            values["lose_unsynced"] = True
        options = Options(**values)  # type: ignore[arg-type]  # a test holds the table against the fields
        if action == "lossy" and not options.drop_percent and not options.duplicate_percent:
            table.fail("lossy needs drop_percent or duplicate_percent")
        if options.link_from is not None and options.link_from == options.link_to:
            table.fail(f"{options.link_to} does not talk to itself", "to")
        return options

    def _option(self, table: Table, key: str, option: OptionSpec) -> object:
        if option.kind is Target:
            return self._parse_target(table, key, ENDS)
        if option.kind is str:
            assert isinstance(option.default, str), "every word has a default"
            return table.word(key, option.words, option.default)
        if option.kind is bool:
            return table.take(key, bool, bool(option.default))
        assert not isinstance(option.default, str), "a number's default is a number"
        return table.number(key, option.least, option.most, option.default)

    def _refuse_others(self, table: Table, action: Action) -> None:
        """A key that another action takes deserves a better hint than an unknown one."""
        spec = ACTIONS[action]
        own = [*(["target"] if spec.targets else []), *spec.options]
        others = ["target", *(key for other in ACTIONS.values() for key in other.options)]
        for key in others:
            if key in table and key not in own:
                table.fail(f"{action} takes {listed(own)}, not this", key)
        table.only("at_ms", "when", "after_ms", "action", *own, "for_ms", "repeat", "every_ms")

    def _check_drift(self, table: Table, step: Step) -> None:
        """Beyond DRIFT_PERCENT_MAX a lease proves nothing: a stale read would be no bug."""
        if step.action != "clock_drift":
            return
        self._drifts.add(step.options.percent)
        fastest, slowest = 100 + max(self._drifts), 100 + min(self._drifts)
        if fastest * 100 > slowest * (100 + DRIFT_PERCENT_MAX):
            table.fail(
                f"clocks at {fastest} % and {slowest} % of true time are more than "
                f"{DRIFT_PERCENT_MAX} % apart; no lease promises anything beyond",
                "percent",
            )


def _has_engine(node: NodeSpec) -> bool:
    return not node.journal_only


# -- expectations ------------------------------------------------------------------------------------------


def _read_expect(table: Table, subjects: Sequence[Subject], steps: Sequence[Step]) -> Expect:
    _refuse_other_subjects(table, subjects)
    others = [subject for subject in subjects if subject != "azimuth"]
    table.only(*(each.name for each in fields(Expect) if each.name != "subjects"), *others)
    default = Expect()
    most = 1_000_000
    has_limit, cut_off = "unavailable_ms_max" in table, "minority_acked_max" in table
    expect = Expect(
        lost=table.number("lost", 0, most, default.lost),
        stale_reads=table.number("stale_reads", 0, most, default.stale_reads),
        linearizable=table.take("linearizable", bool, default.linearizable),
        replicas_agree=table.take("replicas_agree", bool, default.replicas_agree),
        acked_min=table.number("acked_min", 0, most, default.acked_min),
        serves=table.take("serves", bool, default.serves),
        unavailable_ms_max=table.number("unavailable_ms_max", 0, DURATION_MS_MAX, 0) if has_limit else None,
        minority_acked_max=table.number("minority_acked_max", 0, most, 0) if cut_off else None,
        subjects=tuple(
            _read_subject_expect(table.table(subject), subject) for subject in others if subject in table
        ),
    )
    if cut_off and not any(step.action == "isolate" for step in steps):
        table.fail("no step isolates anything, so there is no minority", "minority_acked_max")
    return expect


def _read_subject_expect(table: Table, subject: Subject) -> SubjectExpect:
    table.only("lost_min", "stale_reads_min")
    return SubjectExpect(
        subject,
        lost_min=table.number("lost_min", 0, 1_000_000, 0),
        stale_reads_min=table.number("stale_reads_min", 0, 1_000_000, 0),
    )


def _refuse_other_subjects(table: Table, subjects: Sequence[Subject]) -> None:
    for subject in get_args(Subject):
        if subject in table and subject not in subjects:
            table.fail(f"{subject} is not one of the scenario's subjects, {listed(subjects)}", subject)
    if "azimuth" in table:
        table.fail("what holds for azimuth stands in [expect] itself", "azimuth")
