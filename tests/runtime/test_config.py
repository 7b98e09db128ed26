"""The cluster's TOML file: what is saved is what is loaded; every mistake is one line with file and key."""

import os
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.az.topology import NodeSpec, ShardSpec, Topology, plan_topology
from cluster.errors import ConfigError
from cluster.raft.config import RaftConfig
from cluster.runtime.config import ClusterConfig, Limits, load, render, save
from cluster.shard.slots import ranges_of
from cluster.types import SLOT_COUNT, Az, NodeId

AZS = (Az("az-a"), Az("az-b"), Az("az-c"))


def usual(shards: int = 1, replicas: int = 2) -> ClusterConfig:
    return ClusterConfig(
        plan_topology(
            name="t",
            cluster_id="c",
            shards=shards,
            replicas=replicas,
            azs=AZS,
            host="127.0.0.1",
            base_port=7001,
        )
    )


# -- round trip -----------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@st.composite
def configs(draw: st.DrawFn) -> ClusterConfig:
    """Any valid configuration: odd names, scattered slots, several hosts, odd numbers."""
    azs = tuple(Az(az) for az in draw(st.lists(names, min_size=1, max_size=4, unique=True)))
    planned = plan_topology(
        name="t",
        cluster_id="c",
        shards=draw(st.integers(1, 4)),
        replicas=draw(st.integers(0, 3)),
        azs=azs,
        host=draw(st.sampled_from(["127.0.0.1", "::1", "db-1.example"])),
        base_port=draw(st.integers(1, 50_000)),
    )
    cut = draw(st.integers(1, 50))  # slots dealt out like cards, `cut` at a time
    shards = tuple(
        ShardSpec(
            shard.id,
            tuple(ranges_of(s for s in range(SLOT_COUNT) if s // (cut * 50) % len(planned.shards) == place)),
            tuple(
                replace(node, journal_only=node.journal_only and draw(st.booleans())) for node in shard.nodes
            ),
        )
        for place, shard in enumerate(planned.shards)
    )
    election_min = draw(st.integers(100, 5000))
    lease = election_min * draw(st.integers(60, 83)) // 100
    return ClusterConfig(
        topology=Topology(draw(names), draw(names), azs, shards),
        raft=RaftConfig(
            election_timeout_min_ms=election_min,
            election_timeout_max_ms=election_min + draw(st.integers(1, 5000)),
            heartbeat_ms=draw(st.integers(1, lease - 11)),
            lease_ms=lease,
        ),
        read_mode=draw(st.sampled_from(["lease", "quorum"])),
        engine_path=draw(st.none() | st.text(min_size=1, max_size=20)),
        limits=Limits(
            draw(st.integers(1, 10**6)), draw(st.integers(0, 10**6)), draw(st.integers(1 << 20, 64 << 20))
        ),
        allow_unsafe_placement=draw(st.booleans()),
    )


@pytest.mark.slow
@given(configs())
@settings(max_examples=25, deadline=None)
def test_what_is_saved_is_what_is_loaded(config: ClusterConfig) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cluster.toml"
        save(config, path)
        assert load(path) == config


@pytest.mark.slow
def test_the_largest_cluster_fits(tmp_path: Path) -> None:
    config = usual(shards=500, replicas=5)
    save(config, tmp_path / "c.toml")
    assert load(tmp_path / "c.toml") == config


def test_the_file_is_private_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    save(usual(), path)
    save(usual(shards=2), path)
    assert os.listdir(tmp_path) == ["cluster.toml"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(load(path).topology.shards) == 2


def test_a_file_that_can_not_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    for path in (tmp_path / "missing" / "c.toml", tmp_path / "dir"):
        with pytest.raises(ConfigError, match=r"^.*: cannot be written: [a-z ]+$"):
            save(usual(), path)
    assert os.listdir(tmp_path) == ["dir"]


def test_only_what_is_needed_has_to_be_there(tmp_path: Path) -> None:
    text = render(usual())
    head, _, shards = text.partition("[raft]")
    path = tmp_path / "c.toml"
    path.write_text(head + shards[shards.index("[[shards]]") :].replace("journal_only = false\n", ""))
    assert load(path) == usual()


def test_what_differs_from_node_to_node() -> None:
    config = usual(replicas=1)
    settings_of = [config.raft_config(NodeId(f"0001-00{n}")) for n in (1, 2, 3)]
    assert [raft.preferred for raft in settings_of] == [True, False, False]
    assert [raft.reluctant for raft in settings_of] == [False, False, True]


# -- mistakes -------------------------------------------------------------------------------------------

GOOD = render(usual())
MISTAKES = [
    ('name = "t"\n', "", "name: missing"),
    ('name = "t"', "name = 5", "name: must be a string, not a whole number"),
    ('name = "t"', 'name = ""', "name: '' must be letters"),
    ('name = "t"', 'name = "t"\ncolour = "red"', "colour: unknown key"),
    ('name = "t"', 'name = "t', "not TOML: .*line 4"),
    ('name = "t"', 'name = "t"\nname = "u"', "not TOML: .*line 5"),
    ('cluster_id = "c"', "cluster_id = 1979-05-27", "cluster_id: must be a string, not a time"),
    ('"az-b"', "7", r"azs\[1\]: must be a string, not a whole number"),
    ('"az-b"', '"az-a"', "azs: az-a is named twice"),
    ("[raft]", "[rafts]", "rafts: unknown key"),
    ("[raft]", "[raft]\ntick_ms = 3", r"raft.tick_ms: unknown key"),
    (
        "heartbeat_ms = 40",
        "heartbeat_ms = true",
        "raft.heartbeat_ms: must be a whole number, not true or false",
    ),
    ("heartbeat_ms = 40", "heartbeat_ms = 4.5", "raft.heartbeat_ms: must be a whole number, not a fraction"),
    ("heartbeat_ms = 40", "heartbeat_ms = 0", "raft: heartbeat_ms must be positive"),
    ("lease_ms = 110", "lease_ms = 150", "raft: lease_ms must be 20 % below election_timeout_min_ms"),
    ("lease_ms = 110", "lease_ms = 45", "raft: heartbeat_ms . tick_ms must be below lease_ms"),
    ("    150,\n", "", "raft.election_timeout_ms: must be two numbers, from and to"),
    ("    150,\n", "    400,\n", "raft: election_timeout_max_ms must be above"),
    (
        'read_mode = "lease"',
        'read_mode = "maybe"',
        'raft.read_mode: must be "lease" or "quorum", not \'maybe\'',
    ),
    ("sessions_max = 10000", "sessions_max = 0", "limits.sessions_max: must be positive"),
    ("sessions_max = 10000", "sessions = 1", "limits.sessions: unknown key"),
    (
        "unavailable_wait_ms = 1000",
        "unavailable_wait_ms = -1",
        "limits.unavailable_wait_ms: must not be negative",
    ),
    (
        "command_bytes_max = 8388608",
        "command_bytes_max = 100000000",
        "limits.command_bytes_max: must be between 1048576 and 67108864",
    ),
    ("[limits]", "[engine]\npath = 3\n[limits]", "engine.path: must be a string"),
    ("[limits]", "[engine]\nargs = []\n[limits]", "engine.args: unknown key"),
    ('"0-16383"', '"0-16384"', r"shards\[0\].slots\[0\]: slot range 0-16384 is not within"),
    ('"0-16383"', '"all"', r"shards\[0\].slots\[0\]: 'all' is no slot range; write 0-5460 or 42"),
    ('"0-16383"', '"0-9", "9-16383"', "shard 0001: slot 9 already belongs to shard 0001"),
    ('"0-16383"', '"1-16383"', "shards: slot 0 belongs to no shard"),
    ('"0001-002"', '"0001-001"', "node 0001-001: id is used twice"),
    ('az = "az-b"', 'az = "az-x"', "node 0001-002: az 'az-x' is not one of az-a, az-b, az-c"),
    ("port = 7002", "port = 7001", "node 0001-002: port 7001 on 127.0.0.1 is already used by node 0001-001"),
    ("peer_port = 17003", "peer_port = 7001", "node 0001-003: peer_port 7001 on 127.0.0.1 is already used"),
    ("port = 7002", "port = 70000", "node 0001-002: port 70000 is not between 1 and 65535"),
    ("port = 7002", 'port = "7002"', r"shards\[0\].nodes\[1\].port: must be a whole number, not a string"),
    ("port = 7002", "port = 7002\nzone = 1", r"shards\[0\].nodes\[1\].zone: unknown key"),
    ("port = 7002\n", "", r"shards\[0\].nodes\[1\].port: missing"),
]


@pytest.mark.parametrize(("old", "new", "error"), MISTAKES, ids=[mistake[2][:50] for mistake in MISTAKES])
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in GOOD
    path = tmp_path / "cluster.toml"
    path.write_text(GOOD.replace(old, new, 1))
    expect(path, error)


def expect(path: Path, error: str) -> None:
    with pytest.raises(ConfigError, match=f": {error}") as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "cluster_id: missing"),
        (b'cluster_id = "c"\nname = "t"\nazs = ["a"]\n', "shards: missing"),
        (
            b'cluster_id = "c"\nname = "t"\nazs = ["a"]\nshards = 3\n',
            "shards: must be a list, not a whole number",
        ),
        (
            b'cluster_id = "c"\nname = "t"\nazs = ["a"]\nshards = []\n',
            "shards: there must be 1 to 500, not 0",
        ),
        (b'cluster_id = "c"\nname = "t"\nazs = ["a"]\nshards = [1]\n', r"shards\[0\]: must be a table"),
        (b'name = "t"\n\xff = 1', r"not UTF-8 \(at line 2\)"),
        (b"\x00\x01\x02", "not TOML"),
        (b"x = " + b"[" * 100_000, "nested too deeply|not TOML"),
        (b"# " + b"x" * (9 << 20), "larger than 8 MB"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, data: bytes, error: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(data)
    expect(path, f"({error})")


def test_a_file_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    expect(tmp_path / "cluster.toml", "no such file or directory")
    expect(tmp_path, "is a directory")


@pytest.mark.slow
@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_are_never_anything_but_a_config_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "c.toml"
        path.write_bytes(data)
        with pytest.raises(ConfigError):
            load(path)


@pytest.mark.slow
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_loaded_or_refused_in_one_line(data: st.DataObject) -> None:
    lines = GOOD.splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 1))
    what = data.draw(st.sampled_from(["drop", "twice", "cut", "swap"]))
    match what:
        case "drop":
            del lines[place]
        case "twice":
            lines.insert(place, lines[place])
        case "cut":
            lines[place] = lines[place][: len(lines[place]) // 2] + "\n"
        case _:
            other = data.draw(st.integers(0, len(lines) - 1))
            lines[place], lines[other] = lines[other], lines[place]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "c.toml"
        path.write_text("".join(lines))
        try:
            load(path)
        except ConfigError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(f"{path}: ")


def test_a_node_of_the_file_knows_its_shard(tmp_path: Path) -> None:
    save(usual(), tmp_path / "c.toml")
    node = load(tmp_path / "c.toml").topology.node(NodeId("0001-002"))
    assert isinstance(node, NodeSpec)
    assert node.shard == "0001"
