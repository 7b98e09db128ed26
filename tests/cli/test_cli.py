"""The command line as a user meets it: help that teaches, errors of one line, exit codes, no traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.commands import cli
from cluster.runtime.up import UpOptions, up
from tests.cli.conftest import FAKE_NODE, MakeLauncher


def azimuth(
    *arguments: str, cwd: Path | None = None, timeout_s: float = 60
) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "COLUMNS": "200", "TERM": "dumb"}
    environment.pop("AZIMUTH_DIR", None)
    return subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=timeout_s, env=environment, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in sorted(group.commands.items()):
        yield (*prefix, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))


def test_every_command_is_there() -> None:
    names = {" ".join(path) for path in commands(cli)}
    zone = {f"az {name}" for name in ("kill", "start", "pause", "resume", "isolate", "heal")}
    one = {f"node {name}" for name in ("kill", "start", "pause", "resume", "run")}
    files = {f"scenario {name}" for name in ("list", "show", "check")}
    simulator = {f"sim {name}" for name in ("run", "sweep", "shrink", "determinism")}
    alone = {"up", "down", "status", "logs", "demo", "bench", "az", "node", "scenario", "sim"}
    assert names == alone | zone | one | files | simulator


@pytest.mark.parametrize("path", [(), *commands(cli)], ids=" ".join)
def test_help_teaches_by_example(path: tuple[str, ...]) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert f"azimuth {' '.join(path)}".strip() in result.output.replace("cli", "azimuth", 1)
    assert "Example" in result.output or not path
    assert "azimuth " in result.output.partition("Options:")[0]


def test_version_and_bare_call() -> None:
    assert azimuth("--version").stdout.startswith("azimuth 0.")
    bare = azimuth()
    assert bare.returncode == 0
    assert "azimuth up" in bare.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["up", "--nonsense"], "No such option"),
        (["up", "--shards", "many"], "'many' is not a valid integer"),
        (["up", "--shards", "-1"], "-1 is not between"),
        (["up", "--port", "99999"], "99999"),
        (["up", "--azs", ""], "azs"),
        (["up", "--azs", "a,b"], "no majority"),
        (["up", "--engine", "/no/such/engine"], "no such file"),
        (["up", "--engine", "/bin/true"], "neither a Valkey nor a Redis"),
        (["up", "--dir", "/proc/nope/deep"], "does not exist"),
        (["up", "--dir", "/dev/null"], "not a directory"),
        (["up", "--election-timeout-ms", "fast"], "is not MIN,MAX"),
        (["up", "--election-timeout-ms", "300,100"], "MAX above MIN"),
        (["status"], "no cluster in"),
        (["down"], "no cluster in"),
        (["az", "kill", "az-a"], "no cluster in"),
        (["az", "kill"], "Missing argument 'AZ'"),
        (["node", "start", "0001-001"], "no cluster in"),
        (["node", "run", "--config", "none.toml", "--node", "0001-001"], "none.toml"),
        (["logs", "0001-001"], "no cluster in"),
        (["bench", "--only", "P77"], "no measurement 'P77'; there are P1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_creates_nothing(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = azimuth(*arguments, cwd=tmp_path)
    assert result.returncode not in (0, None)
    assert words in result.stderr
    assert result.stderr.startswith("azimuth: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shards = 3",
        "not toml at all [",
        'cluster_id = "x"\nname = "y"\nazs = []\ncolour = "red"\n',
        "\x00\xff",
    ],
)
def test_a_wrong_cluster_toml_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / ".azimuth").mkdir()
    (tmp_path / ".azimuth" / "cluster.toml").write_bytes(text.encode("latin-1"))
    for arguments in (["status"], ["up"], ["az", "kill", "az-a"], ["down"]):
        result = azimuth(*arguments, cwd=tmp_path)
        assert result.returncode == 1
        assert result.stderr.startswith("azimuth: ")
        assert "cluster.toml" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["down"], ["down", "--wipe"], ["az", "kill", "az-a"], ["status"]], ids=str
)
def test_nothing_is_written_into_a_directory_without_a_cluster(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = azimuth(*arguments, "--dir", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith(f"azimuth: no cluster in {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_commands_on_a_running_cluster(
    make_launcher: MakeLauncher, options: UpOptions, tmp_path: Path
) -> None:
    """With fake nodes, which the commands cannot tell from real ones, except that none is started here."""
    launcher = make_launcher()
    up(launcher, options)
    where = ["--dir", str(launcher.directory)]

    def run(*arguments: str) -> str:
        result = azimuth(*arguments, *where)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        return result.stdout

    assert "already running" in run("up")
    assert json.loads(run("up", "--json"))["started"] == []
    overview = json.loads(run("status", "--json"))
    assert overview["shards"][0]["primary"] == "0001-001"
    table = run("status")
    assert "0001-003" in table and "az-c" in table and f"127.0.0.1:{options.port}" in table
    assert run("az", "pause", "az-b") == "az-b: paused 0001-002\n"
    assert run("az", "pause", "az-b") == "az-b: paused already, nothing to do\n"
    assert run("az", "start", "az-b") == "az-b: 0001-002 paused; use resume\n"
    assert run("az", "resume", "az-b") == "az-b: resumed 0001-002\n"
    assert run("az", "resume", "az-b") == "az-b: not paused, nothing to do\n"
    assert run("az", "isolate", "az-c") == "az-c: isolated\n"
    assert run("az", "isolate", "az-c") == "az-c: isolated already, nothing to do\n"
    assert run("az", "heal", "az-c") == "az-c: healed\n"
    assert run("az", "heal", "az-c") == "az-c: not isolated, nothing to do\n"
    assert run("az", "start", "az-a") == "az-a: running already, nothing to do\n"
    assert run("node", "kill", "0001-003") == "0001-003: killed 0001-003\n"
    assert run("node", "kill", "0001-003") == "0001-003: dead already, nothing to do\n"
    assert run("node", "pause", "0001-003") == "0001-003: not running, nothing to do\n"
    assert run("az", "kill", "az-b") == "az-b: killed 0001-002\n"
    assert json.loads(run("logs", "0001-001", "-n", "1")) == {"event": "node_started"}
    assert run("down") == "stopped 1 node\n"
    assert run("down") == "no node was running\n"
    assert "deleted" in run("down", "--wipe")
    assert not launcher.directory.exists()


def test_unknown_names_are_answered_with_the_known_ones(
    make_launcher: MakeLauncher, options: UpOptions
) -> None:
    launcher = make_launcher()
    up(launcher, options)
    wrong_az = azimuth("az", "kill", "az-x", "--dir", str(launcher.directory))
    assert (wrong_az.returncode, wrong_az.stdout) == (1, "")
    assert "this cluster has az-a, az-b, az-c" in wrong_az.stderr
    wrong_node = azimuth("logs", "0001-009", "--dir", str(launcher.directory))
    assert "this cluster has 0001-001, 0001-002, 0001-003" in wrong_node.stderr
    assert FAKE_NODE[0] == sys.executable


def test_following_a_log_ends_cleanly_on_ctrl_c(make_launcher: MakeLauncher, options: UpOptions) -> None:
    import signal

    launcher = make_launcher()
    up(launcher, options)
    argv = [
        sys.executable,
        "-P",
        "-m",
        "cli.main",
        "logs",
        "0001-001",
        "-f",
        "--dir",
        str(launcher.directory),
    ]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "node_started" in process.stdout.readline()
        with open(launcher.log_path(launcher.node("0001-001").id), "a") as log:
            log.write("one more\n")
        assert process.stdout.readline() == "one more\n"
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, complaints.strip()) == (130, "")
