"""Starting, stopping, killing, pausing: real processes, with a fake in place of the node."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ConfigError, EngineError
from cluster.runtime.admin_client import AdminClient
from cluster.runtime.config import ClusterConfig
from cluster.runtime.launcher import Launcher, LaunchError, tail
from cluster.runtime.overview import collect
from cluster.runtime.processes import ProcessRef, family, is_alive, is_stopped
from cluster.runtime.up import UpOptions, check_agrees, down, free_base_port, plan, up
from cluster.types import NodeId
from tests.cli.conftest import FAKE_NODE

pytestmark = pytest.mark.slow

MakeLauncher = Callable[[], Launcher]


def test_up_makes_a_cluster_and_a_second_up_changes_nothing(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    first = up(launcher, options)
    assert first.created
    assert first.started == ["0001-001", "0001-002", "0001-003"]
    before = launcher.state()
    second = up(make_launcher(), UpOptions())
    assert not second.created
    assert second.started == []
    assert launcher.state() == before
    assert os.stat(launcher.directory).st_mode & 0o077 == 0


def test_down_ends_everything_and_up_brings_it_back_on_the_same_data(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    members = [member for ref in launcher.running().values() for member in family(ref)]
    assert len(members) == 6
    assert len(down(launcher)) == 3
    assert [ref for ref in members if is_alive(ref)] == []
    assert launcher.running() == {}
    assert down(launcher) == []
    again = up(make_launcher(), UpOptions())
    assert (again.created, len(again.started)) == (False, 3)
    assert (launcher.node_directory(NodeId("0001-001")) / "data").exists()


def test_wipe_removes_the_cluster_but_nothing_foreign(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    (launcher.directory / "mine.txt").write_text("keep")
    down(launcher, wipe=True)
    assert [path.name for path in launcher.directory.iterdir()] == ["mine.txt"]


def test_a_directory_of_someone_else_is_refused_untouched(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    launcher.directory.mkdir()
    (launcher.directory / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds other things"):
        up(launcher, options)
    assert [path.name for path in launcher.directory.iterdir()] == ["thesis.tex"]


def test_what_fails_half_way_leaves_nothing(make_launcher: MakeLauncher, options: UpOptions) -> None:
    launcher = make_launcher()
    (launcher.directory.parent / "fail").write_text("0001-003")
    with pytest.raises(LaunchError, match=r"node 0001-003 ended: this node was told to fail"):
        up(launcher, options)
    assert not launcher.directory.exists()
    launcher.directory.mkdir()
    with pytest.raises(LaunchError):
        up(make_launcher(), options)
    assert list(launcher.directory.iterdir()) == []


def test_one_node_that_cannot_start_again_takes_nothing_from_the_others(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    """Its log is rotten, say: the shard has a majority without it."""
    launcher = make_launcher()
    up(launcher, options)
    down(launcher)
    (launcher.directory.parent / "fail").write_text("0001-002")
    result = up(make_launcher(), UpOptions())
    assert result.failed == {"0001-002": "this node was told to fail"}
    assert result.started == ["0001-001", "0001-003"]
    assert set(launcher.running()) == {"0001-001", "0001-003"}
    again = up(make_launcher(), UpOptions())
    assert (again.started, again.failed) == ([], result.failed)
    assert set(launcher.running()) == {"0001-001", "0001-003"}
    (launcher.directory.parent / "fail").unlink()
    assert up(make_launcher(), UpOptions()).started == ["0001-002"]


def test_a_restart_that_would_leave_a_shard_without_majority_is_undone_and_keeps_the_data(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    down(launcher)
    (launcher.directory.parent / "fail").write_text("0001-002 0001-003")
    with pytest.raises(LaunchError, match=r"node 0001-00[23] ended: this node was told to fail"):
        up(make_launcher(), UpOptions())
    assert launcher.running() == {}
    assert (launcher.node_directory(NodeId("0001-001")) / "data").exists()


def test_engines_that_die_again_and_again_are_reported_soon(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    (launcher.directory.parent / "no-engine").touch()
    with pytest.raises(LaunchError, match=r"engine of node 0001-00. died 3 times.* code 1; it said: no$"):
        up(launcher, options)
    assert not launcher.directory.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "/nonexistent/valkey"}, "no such file"),
        ({"azs": ("only",)}, "no majority"),
        ({"azs": ("a", "a", "b")}, "named twice"),
        ({"shards": 0}, "not between"),
        ({"port": 70_000}, "port"),
        ({"election_timeout_ms": (300, 150)}, "above MIN"),
        ({"election_timeout_ms": (1, 2)}, "at least"),
    ],
)
def test_a_bad_option_is_one_line_and_creates_nothing(
    make_launcher: MakeLauncher, options: UpOptions, change: dict[str, object], words: str
) -> None:
    launcher = make_launcher()
    with pytest.raises((ConfigError, EngineError), match=words) as caught:
        up(launcher, replace(options, **change))  # type: ignore[arg-type]  # each row fits its field
    assert "\n" not in str(caught.value)
    assert not launcher.directory.exists()


def test_every_taken_port_is_named_before_anything_is_made(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    assert options.port is not None
    taken = [socket.create_server(("127.0.0.1", port)) for port in (options.port + 1, options.port + 10_002)]
    try:
        with pytest.raises(ConfigError, match=f"port {options.port + 1}, {options.port + 10_002} "):
            up(make_launcher(), options)
    finally:
        for one in taken:
            one.close()
    assert not make_launcher().directory.exists()


def test_options_that_contradict_the_saved_cluster_are_an_error(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    check_agrees(launcher.config, replace(options, shards=1, replicas=2, azs=("az-a", "az-b", "az-c")))
    for wrong in (UpOptions(shards=2), UpOptions(replicas=1), UpOptions(port=9), UpOptions(azs=("x",))):
        with pytest.raises(ConfigError, match="this cluster was made with"):
            up(make_launcher(), wrong)
    with pytest.raises(ConfigError, match="150,300, not 500,900"):
        up(make_launcher(), UpOptions(election_timeout_ms=(500, 900)))


def test_a_description_that_was_made_unsafe_is_refused_and_nothing_starts(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    down(launcher)
    text = launcher.config_path.read_text()
    launcher.config_path.write_text(text.replace('az = "az-b"', 'az = "az-a"'))
    for wrong in (UpOptions(), UpOptions(allow_unsafe_placement=True)):
        with pytest.raises(
            ConfigError, match=r"cluster\.toml: shard 0001: without az-a .* no majority"
        ) as caught:
            up(make_launcher(), wrong)
        assert "allow_unsafe_placement = true" in str(caught.value)
    with pytest.raises(ConfigError, match="no majority"):
        make_launcher().start(launcher.node_ids())
    assert launcher.running() == {}
    launcher.config_path.write_text(text)
    assert len(up(make_launcher(), UpOptions()).started) == 3


def test_unsafe_placement_that_was_allowed_is_remembered(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    unsafe = replace(options, azs=("az-a", "az-b"), allow_unsafe_placement=True)
    launcher = make_launcher()
    first = up(launcher, unsafe)
    assert len(first.warnings) == 1
    down(launcher)
    again = up(make_launcher(), UpOptions())
    assert (len(again.started), again.warnings) == (3, first.warnings)
    assert up(make_launcher(), UpOptions()).warnings == first.warnings


def test_killing_a_zone_takes_engines_with_it_and_starting_brings_it_back(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    nodes = launcher.nodes_of_az("az-b")
    members = family(launcher.running()[nodes[0]])
    assert len(members) == 2
    assert launcher.kill(nodes) == nodes
    assert [ref for ref in members if is_alive(ref)] == []
    assert launcher.kill(nodes) == []
    assert set(launcher.running()) == {"0001-001", "0001-003"}
    assert launcher.start(nodes) == nodes
    launcher.wait_serving(nodes)
    assert launcher.start(nodes) == []


def test_up_starts_what_was_killed(make_launcher: MakeLauncher, options: UpOptions) -> None:
    launcher = make_launcher()
    up(launcher, options)
    launcher.kill([NodeId("0001-003")])
    assert up(make_launcher(), UpOptions()).started == ["0001-003"]


def test_a_pid_that_was_given_out_again_is_not_touched(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    launcher.kill(launcher.node_ids())
    # As after a reboot: the record names a pid that now belongs to somebody else, here to this test.
    state = launcher.state()
    state.nodes = {NodeId("0001-001"): ProcessRef(os.getpid(), "an earlier boot")}
    state.write(launcher.directory / "state.json")
    assert launcher.running() == {}
    assert launcher.kill(launcher.node_ids()) == []
    assert launcher.stop(launcher.node_ids()) == []
    assert launcher.pause(launcher.node_ids()) == []


def test_a_node_that_nobody_recorded_is_found_again(make_launcher: MakeLauncher, options: UpOptions) -> None:
    launcher = make_launcher()
    up(launcher, options)
    running = launcher.running()
    (
        launcher.directory / "state.json"
    ).unlink()  # as if the starting command had been killed before writing it
    try:
        assert up(make_launcher(), UpOptions()).started == []
        assert launcher.running() == running
    finally:
        down(make_launcher())
    assert [ref for ref in running.values() if is_alive(ref)] == []


def test_pause_holds_nodes_and_engines_and_down_still_ends_them(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    nodes = launcher.nodes_of_az("az-a")
    members = family(launcher.running()[nodes[0]])
    assert launcher.pause(nodes) == nodes
    assert launcher.pause(nodes) == []
    assert all(is_stopped(ref) for ref in members)
    with AdminClient(launcher.topology.nodes) as admin:
        shard = collect(launcher, admin)["shards"][0]
    assert [node["state"] for node in shard["nodes"]] == ["paused", "running", "running"]
    assert shard["primary"] is None
    assert launcher.resume(nodes) == nodes
    assert launcher.resume(nodes) == []
    launcher.pause(nodes)
    assert len(launcher.stop(launcher.node_ids())) == 3
    assert [ref for ref in members if is_alive(ref)] == []


def test_isolating_cuts_the_zone_on_both_sides_and_survives_a_restart(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)

    def cut() -> dict[str, list[str]]:
        with AdminClient(launcher.topology.nodes) as admin:
            answers = admin.statuses(launcher.node_ids())
        return {node: list(answer.isolated_from) for node, answer in answers.items()}

    assert launcher.isolate("az-a", cut=True)
    assert not launcher.isolate("az-a", cut=True)
    expected = {"0001-001": ["az-b", "az-c"], "0001-002": ["az-a"], "0001-003": ["az-a"]}
    assert cut() == expected
    launcher.kill([NodeId("0001-002")])
    launcher.start([NodeId("0001-002")])
    launcher.wait_serving([NodeId("0001-002")])
    launcher.apply_isolation()
    assert cut() == expected
    assert launcher.isolate("az-a", cut=False)
    assert not launcher.isolate("az-a", cut=False)
    assert set(map(tuple, cut().values())) == {()}


def test_unknown_names_list_the_known_ones(make_launcher: MakeLauncher, options: UpOptions) -> None:
    launcher = make_launcher()
    up(launcher, options)
    with pytest.raises(ConfigError, match="has az-a, az-b, az-c"):
        launcher.nodes_of_az("az-x")
    with pytest.raises(ConfigError, match="has 0001-001, 0001-002, 0001-003"):
        launcher.node("0009-001")


def test_status_has_the_documented_form(make_launcher: MakeLauncher, options: UpOptions) -> None:
    launcher = make_launcher()
    up(launcher, options)
    launcher.kill([NodeId("0001-003")])
    with AdminClient(launcher.topology.nodes) as admin:
        overview = json.loads(json.dumps(collect(launcher, admin)))
    (shard,) = overview["shards"]
    assert (shard["id"], shard["slots"], shard["term"], shard["primary"]) == (
        "0001",
        ["0-16383"],
        1,
        "0001-001",
    )
    primary, replica, dead = shard["nodes"]
    assert (primary["role"], primary["alive"], primary["lag"]) == ("primary", True, 0)
    assert (replica["role"], replica["commit_offset"], replica["applied_offset"], replica["lag"]) == (
        "replica",
        10,
        8,
        2,
    )
    assert (dead["alive"], dead["state"], dead["role"], dead["az"]) == (False, "dead", None, "az-c")
    assert primary["address"] == f"127.0.0.1:{options.port}"


def test_status_finds_nodes_that_somebody_else_started(
    make_launcher: MakeLauncher, options: UpOptions, tmp_path: Path
) -> None:
    """A supervisor, with `azimuth node run`. And what answers for another cluster is nobody of ours."""
    launcher = make_launcher()
    launcher.create(plan(options))
    foreign = tmp_path / "other.toml"
    foreign.write_text(
        launcher.config_path.read_text().replace(f'"{launcher.topology.cluster_id}"', '"another"', 1)
    )
    started = []
    for node, config in (("0001-001", launcher.config_path), ("0001-002", foreign)):
        (tmp_path / node).mkdir()
        argv = [*FAKE_NODE, "--config", str(config), "--node", node, "--data", str(tmp_path / node)]
        started.append(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True))
    try:
        for process in started:
            assert process.stderr is not None
            assert "node_started" in process.stderr.readline()
        with AdminClient(launcher.topology.nodes) as admin:
            (shard,) = collect(launcher, admin)["shards"]
    finally:
        for process in started:
            process.terminate()
            process.communicate()
    assert [(node["alive"], node["state"], node["role"]) for node in shard["nodes"]] == [
        (True, "running", "primary"),
        (False, "dead", None),
        (False, "dead", None),
    ]
    assert shard["primary"] == "0001-001"


def test_two_ups_at_once_make_one_cluster(make_launcher: MakeLauncher, options: UpOptions) -> None:
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(up(make_launcher(), options).started)
        except (ConfigError, LaunchError) as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    launcher = make_launcher()
    assert sorted(launcher.running()) == launcher.node_ids()
    # One of them made it; the other was refused, or found it running.
    assert [outcome for outcome in outcomes if isinstance(outcome, list) and outcome]
    assert len([outcome for outcome in outcomes if isinstance(outcome, list) and outcome]) == 1


def test_an_up_that_does_not_get_the_lock_leaves_the_cluster_to_whoever_holds_it(
    make_launcher: MakeLauncher, options: UpOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, other = make_launcher(), make_launcher()
    monkeypatch.setattr("cluster.runtime.launcher.LOCK_TIMEOUT_S", 0.1)
    create, holding = launcher.create, ExitStack()

    def create_and_be_overtaken(config: ClusterConfig) -> bool:
        made = create(config)
        holding.enter_context(other.locked())
        return made

    monkeypatch.setattr(launcher, "create", create_and_be_overtaken)
    with holding, pytest.raises(LaunchError, match="another azimuth command"):
        up(launcher, options)
    assert other.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"nodes": 3, "isolated": []}', '{"nodes": {"0001-001": {"pid": "self", "bo', "\0\xff"]
)
def test_a_damaged_state_file_counts_as_none_and_the_nodes_are_found_again(
    make_launcher: MakeLauncher, options: UpOptions, text: str
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    running = launcher.running()
    path = launcher.directory / "state.json"
    path.write_text(text, encoding="latin-1")
    try:
        assert make_launcher().pause(launcher.nodes_of_az("az-b")) == ["0001-002"]
        assert launcher.running() == running
        path.write_text(text, encoding="latin-1")
        make_launcher().resume(launcher.node_ids())
        path.write_text(text, encoding="latin-1")
        assert make_launcher().isolate("az-c", cut=True)
        assert launcher.running() == running
        path.write_text(text, encoding="latin-1")
        assert up(make_launcher(), UpOptions()).started == []
    finally:
        path.write_text(text, encoding="latin-1")
        assert len(down(make_launcher())) == 3
    assert [ref for ref in running.values() if is_alive(ref)] == []


@pytest.mark.parametrize("shards", [1, 9])
def test_chosen_ports_are_none_that_outgoing_connections_get(shards: int) -> None:
    """Or a zone that is down could lose a port before it is back."""
    for _ in range(20):
        base = free_base_port(shards, 2, ("az-a", "az-b", "az-c"))
        assert 1024 <= base <= 32768 - 10_000 - 3 * shards


def test_tail_reads_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert tail(path, 3) == []
    path.write_text("".join(f"line {n}\n" for n in range(50_000)))
    assert tail(path, 2) == ["line 49998", "line 49999"]
    assert tail(path, 0) == []
    assert len(tail(path, 100_000)) == 50_000
