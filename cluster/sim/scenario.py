"""Scenarios: a cluster, workloads, faults and expectations as data, and the words that they may use.

One TOML file, one `Scenario`. It runs in the simulator and, where its faults allow it (`runs_live`), on real
processes. It computes nothing: the tables below are its whole language, they are what `scenario_reader`
checks a file against, and the reference in docs/scenarios.md is printed from them.

What whoever runs a scenario guarantees:

1. Time counts from the moment when every shard serves for the first time and the workloads begin.
2. A step with `at_ms` begins then. A step with `when` is looked at from the moment when the step above it in
   the file has begun its last repetition, and begins `after_ms` after its condition first holds.
3. A target that has to be found (`primary:0001`, `random_az`) is found when the step begins, and again for
   each repetition; of a shard without a primary, the node that leads it is taken, or else its first one.
   `same` is what was found last by a step that had to find its target.
4. What `for_ms` undoes is what its own step did: a link that two steps have cut is whole when both are over.
5. A fault that has nothing to do (`kill` what is dead, `resume` what runs) does nothing. A process that ends
   by itself, because its disk failed, is started again; one that a step has killed is not.
6. At `duration_ms` the workloads end and so do all faults: what is dead starts, links and disks are whole,
   clocks run evenly. Then the cluster must serve, everything is read back, and the history is judged. A step
   that has not begun by then makes the run red: it has not tested what it says.

Everything random (`random_az`, `minority`) is drawn from the run's seed.

Left out: expressions, variables, including other files. Twenty files that say everything are easier to
believe than five that refer to each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from cluster.az.topology import Topology, plan_topology
from cluster.raft.config import DRIFT_PERCENT_MAX, RaftConfig
from cluster.types import Az

ReadMode = Literal["lease", "quorum"]
WorkloadKind = Literal["register", "list", "counter", "chain", "set", "transaction", "small", "effects"]
Condition = Literal["serving", "caught_up", "primary_moved", "previous_done"]
Subject = Literal["azimuth", "async", "pysyncobj"]
Where = Literal["sim", "live", "both"]
Direction = Literal["both", "in", "out"]
TargetKind = Literal[
    "az",
    "node",
    "all",
    "primary",
    "primary_az",
    "replica",
    "minority",
    "majority",
    "random_az",
    "random_node",
    "each_az",
    "shard",
    "same",
]
Action = Literal[
    "kill",
    "power_cut",
    "start",
    "restart",
    "pause",
    "resume",
    "isolate",
    "cut",
    "slow",
    "lossy",
    "heal",
    "disk_full",
    "disk_stall",
    "disk_heal",
    "clock_jump",
    "clock_drift",
    "engine_kill",
    "engine_hang",
    "transfer",
]

DURATION_MS_MAX: Final = 600_000
SHARDS_MAX: Final = 16  # more tell nothing that these do not
REPLICAS_MAX: Final = 5
AZS_MAX: Final = 7
CLIENTS_MAX: Final = 64  # of one workload
OPS_PER_SECOND_MAX: Final = 10_000
KEYS_MAX: Final = 10_000
REPEAT_MAX: Final = 1_000
SMALL_CLIENTS_MAX: Final = 8  # its checker searches: these bound how long
SMALL_OPS_PER_KEY_MAX: Final = 100
_BASE_PORT: Final = 7001


# -- what a file says --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClusterPart:
    """`[cluster]`: what runs."""

    shards: int = 3
    replicas: int = 2  # full nodes a shard besides the primary; journal-only ones make the voters odd
    azs: tuple[Az, ...] = (Az("az-a"), Az("az-b"), Az("az-c"))
    read_mode: ReadMode = "lease"

    def topology(self) -> Topology:
        """The layout, as `azimuth up` would make it. ConfigError if there is none."""
        return plan_topology(
            name="scenario",
            cluster_id="scenario",
            shards=self.shards,
            replicas=self.replicas,
            azs=self.azs,
            host="127.0.0.1",
            base_port=_BASE_PORT,
        )


@dataclass(frozen=True, slots=True)
class WorkloadPart:
    """One of `[[workloads]]`."""

    kind: WorkloadKind
    clients: int
    ops_per_second: int  # of all its clients together
    keys: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """When a step begins: at a time, or on a condition. Exactly one of the two is not None."""

    at_ms: int | None = None
    when: Condition | None = None
    after_ms: int = 0  # how long after the condition first held; 0 with at_ms

    def __str__(self) -> str:
        if self.when is None:
            return f"{self.at_ms} ms"
        return f"{self.when} + {self.after_ms} ms" if self.after_ms else self.when


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a step is done to. `name` is the AZ, node or shard of the kinds that have one, else empty."""

    kind: TargetKind
    name: str = ""

    def __str__(self) -> str:
        """As it stands in the file."""
        if self.kind in ("az", "node"):
            return self.name
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True, slots=True)
class Options:
    """What an action needs besides its target. One that the action does not take has its default here."""

    lose_unsynced: bool = False  # kill; always True for power_cut
    direction: Direction = "both"  # isolate, seen from the target: "in" = it hears nothing
    clients: bool = False  # isolate: clients do not reach it either
    link_from: Target | None = None  # cut: messages from these … (key `from`); never None there
    link_to: Target | None = None  # cut: … to these are lost (key `to`); never None there
    delay_ms: int = 0  # slow: one way, on top of what the link takes
    drop_percent: int = 0  # lossy
    duplicate_percent: int = 0  # lossy
    stall_ms: int = 0  # disk_stall: how long no fsync ends
    jump_ms: int = 0  # clock_jump: ahead, always positive
    percent: int = 0  # clock_drift: how much faster than true time; negative: slower
    down_ms: int = 0  # restart: from kill to start


@dataclass(frozen=True, slots=True)
class Step:
    """One of `[[steps]]`, in the order of the file."""

    line: int  # of its [[steps]] in the file
    trigger: Trigger
    action: Action
    target: Target | None  # None: of cut (see its options), and of a heal of every link
    options: Options = Options()
    for_ms: int | None = None  # each repetition undoes itself so long after it began; None: it stays
    repeat: int = 1  # how often it is done in all; for each_az 1: it is done once for each AZ
    every_ms: int = 0  # from one repetition to the next, from one AZ to the next; else 0

    @property
    def lasts_ms(self) -> int:
        """From the beginning of one repetition until it is over by itself; 0 if it never is."""
        return self.options.down_ms or self.options.stall_ms or self.for_ms or 0


@dataclass(frozen=True, slots=True)
class SubjectExpect:
    """`[expect.async]`, `[expect.pysyncobj]`: what that subject must get wrong, or the scenario is weak."""

    subject: Subject
    lost_min: int = 0
    stale_reads_min: int = 0


@dataclass(frozen=True, slots=True)
class Expect:
    """`[expect]`: what must hold for Azimuth at the end."""

    lost: int = 0  # acknowledged writes that are missing, at most
    stale_reads: int = 0  # at most
    linearizable: bool = True  # no checker finds anything
    replicas_agree: bool = True  # equal digests at equal offsets
    acked_min: int = 1  # operations acknowledged during the faults, or the run proves nothing
    serves: bool = True  # after the faults every shard serves
    unavailable_ms_max: int | None = None  # longest time that a shard had no serving primary; simulator only
    minority_acked_max: int | None = None  # answers of an isolated minority whose leases are over
    subjects: tuple[SubjectExpect, ...] = ()

    def of(self, subject: Subject) -> SubjectExpect | None:
        """What another subject must get wrong; None if the file does not say."""
        return next((each for each in self.subjects if each.subject == subject), None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A whole file, checked: every name in it exists and nothing in it contradicts the rest."""

    name: str  # the file's, without .toml
    title: str
    story: str
    duration_ms: int  # of workloads and faults; then everything heals and is judged
    cluster: ClusterPart = ClusterPart()
    raft: RaftConfig = field(default_factory=RaftConfig)
    workloads: tuple[WorkloadPart, ...] = ()
    steps: tuple[Step, ...] = ()
    expect: Expect = Expect()
    subjects: tuple[Subject, ...] = ("azimuth",)


# -- the words it may use ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetSpec:
    form: str  # as it is written
    text: str
    found: bool = False  # found or drawn when the step begins; `same` means it


TARGETS: Final[Mapping[TargetKind, TargetSpec]] = {
    "az": TargetSpec("az-a", "all nodes of this AZ"),
    "node": TargetSpec("0001-002", "this node"),
    "all": TargetSpec("all", "all nodes"),
    "primary": TargetSpec("primary:0001", "the node that is primary of this shard now", found=True),
    "primary_az": TargetSpec(
        "primary_az:0001", "all nodes of the AZ in which the primary of this shard is now", found=True
    ),
    "replica": TargetSpec(
        "replica:0001", "a node with an engine of this shard that is not its primary", found=True
    ),
    "minority": TargetSpec("minority", "the largest number of AZs that is less than half, drawn", found=True),
    "majority": TargetSpec(
        "majority", "the smallest number of AZs that is more than half, drawn", found=True
    ),
    "random_az": TargetSpec("random_az", "one AZ, drawn", found=True),
    "random_node": TargetSpec("random_node", "one node, drawn", found=True),
    "each_az": TargetSpec("each_az", "one AZ after another, in the cluster's order, `every_ms` apart"),
    "shard": TargetSpec("shard:0001", "this shard as a whole"),
    "same": TargetSpec("same", "what was found last by a step that had to find its target"),
}
NODES: Final[frozenset[TargetKind]] = frozenset(TARGETS) - {"shard"}
ENDS: Final = NODES - {"all", "each_az"}  # of a one-way cut

CONDITIONS: Final[Mapping[Condition, str]] = {
    "serving": "every shard has a primary that serves",
    "caught_up": "every node that is alive has applied everything that is committed",
    "primary_moved": "every shard that has lost its primary to a step above has another one that serves",
    "previous_done": "the step above is over: all its repetitions have begun, and its `for_ms` has passed",
}


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """A key that an action takes. `default` None: it must be given."""

    kind: type[int] | type[bool] | type[str] | type[Target]
    text: str
    default: int | bool | str | None = None
    least: int = 0  # of an int
    most: int = 0
    words: tuple[str, ...] = ()  # of a str
    where: Where = "both"  # other than its default
    attribute: str = ""  # of Options, if it is not the key


@dataclass(frozen=True, slots=True)
class ActionSpec:
    text: str
    targets: frozenset[TargetKind]
    where: Where
    undo: str | None = None  # what for_ms does in the end; None: it is not allowed
    options: Mapping[str, OptionSpec] = field(default_factory=dict)
    target_required: bool = True


def _ms(text: str, default: int | None = None, most: int = 60_000) -> OptionSpec:
    return OptionSpec(int, text, default, least=1, most=most)


# Where a fault can be made on real processes: signals, links that our own transport drops or delays, a full
# file system, the admin service. Not there: losing what a kernel has been given (the death of a process does
# not), a disk that stands still, a clock that changes under a running process (a time namespace shifts it
# only at birth), messages lost out of the middle of a TCP stream.
ACTIONS: Final[Mapping[Action, ActionSpec]] = {
    "kill": ActionSpec(
        "SIGKILL nodes with their engines, all at once",
        NODES,
        "both",
        undo="start",
        options={
            "lose_unsynced": OptionSpec(bool, "bytes not yet fsynced are lost, too", False, where="sim"),
        },
    ),
    "power_cut": ActionSpec("`kill` with `lose_unsynced`", NODES, "sim", undo="start"),
    "start": ActionSpec("start what is dead, on its old disk", NODES, "both"),
    "restart": ActionSpec(
        "`kill`, and `start` after `down_ms`",
        NODES,
        "both",
        options={"down_ms": _ms("how long it is dead", 500)},
    ),
    "pause": ActionSpec("SIGSTOP: it stands still with all connections open", NODES, "both", undo="resume"),
    "resume": ActionSpec("SIGCONT what is paused", NODES, "both"),
    "isolate": ActionSpec(
        "cut all links between the target and the other nodes",
        NODES - {"all"},
        "both",
        undo="mend these links",
        options={
            "direction": OptionSpec(
                str,
                'as the target sees it: `"in"`, it hears nothing; `"out"`, nobody hears it',
                "both",
                words=get_args(Direction),
            ),
            "clients": OptionSpec(bool, "clients do not reach it either", False),
        },
    ),
    "cut": ActionSpec(
        "lose all messages `from` some nodes `to` others; those the other way arrive",
        frozenset(),
        "both",
        undo="mend these links",
        options={
            "from": OptionSpec(Target, "who is not heard", attribute="link_from"),
            "to": OptionSpec(Target, "who does not hear", attribute="link_to"),
        },
        target_required=False,
    ),
    "slow": ActionSpec(
        "delay every message between nodes that leaves or reaches the target",
        NODES,
        "both",
        undo="full speed again",
        options={"delay_ms": _ms("how much longer one way takes")},
    ),
    "lossy": ActionSpec(
        "lose or duplicate some of the messages between nodes that leave or reach the target",
        NODES,
        "sim",
        undo="mend these links",
        options={
            "drop_percent": OptionSpec(int, "how many are lost", 0, least=0, most=100),
            "duplicate_percent": OptionSpec(int, "how many arrive twice", 0, least=0, most=100),
        },
    ),
    "heal": ActionSpec(
        "end `isolate`, `cut`, `slow` and `lossy`: on every link, or on those of the target",
        NODES,
        "both",
        target_required=False,
    ),
    "disk_full": ActionSpec("nothing more fits on the disk (ENOSPC)", NODES, "both", undo="disk_heal"),
    "disk_stall": ActionSpec(
        "the disk stands still: no fsync ends before it is over",
        NODES,
        "sim",
        options={"stall_ms": _ms("for how long")},
    ),
    "disk_heal": ActionSpec("end `disk_full`, and `disk_stall` before its time", NODES, "both"),
    "clock_jump": ActionSpec(
        "the clock jumps ahead",
        NODES,
        "sim",
        options={"jump_ms": _ms("how far", most=3_600_000)},
    ),
    "clock_drift": ActionSpec(
        "the clock runs faster or slower from now on",
        NODES,
        "sim",
        undo="true time again",
        options={
            "percent": OptionSpec(
                int,
                f"how much faster than true time, negative: slower; "
                f"any two clocks of a file at most {DRIFT_PERCENT_MAX} % apart",
                least=-DRIFT_PERCENT_MAX,
                most=DRIFT_PERCENT_MAX,
            )
        },
    ),
    "engine_kill": ActionSpec("SIGKILL only the engine; its node rebuilds it", NODES, "both"),
    "engine_hang": ActionSpec("the engine answers nothing any more", NODES, "both", undo="resume the engine"),
    "transfer": ActionSpec(
        "planned failover: the primary hands the shard to a replica", frozenset({"shard"}), "both"
    ),
}

WORKLOADS: Final[Mapping[WorkloadKind, str]] = {
    "register": "`SET` with values that are written once, and `GET`",
    "list": "`RPUSH` and `LRANGE`",
    "counter": "`INCR` and `GET`",
    "chain": "`SET k v GET`: each write tells what it replaced",
    "set": "`SADD` and `SMEMBERS`",
    "transaction": "`MULTI` of `RPUSH` and `LRANGE` on two to four keys",
    "small": "`SET`, `GET`, `SETNX` and `DEL` of few values, judged by search: "
    f"at most {SMALL_CLIENTS_MAX} clients and {SMALL_OPS_PER_KEY_MAX} operations a key",
    "effects": "hashes, sorted sets, streams, expiry, scripts: only the replicas' digests judge it",
}


def runs_live(scenario: Scenario) -> bool:
    """Whether each of its faults can be made on real processes, too."""
    return all(where_of(step) != "sim" for step in scenario.steps)


def times_of(step: Step, cluster: ClusterPart) -> int:
    """How often it is done in all."""
    each_az = step.target is not None and step.target.kind == "each_az"
    return len(cluster.azs) if each_az else step.repeat


def where_of(step: Step) -> Where:
    """Where this step can be carried out, its options considered."""
    spec = ACTIONS[step.action]
    for key, option in spec.options.items():
        if option.where != "both" and getattr(step.options, option.attribute or key) != option.default:
            return option.where
    return spec.where
