"""`azimuth scenario`: files are found by name and by path, shown, checked; an editor can jump to errors."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli.scenario as subject
from cli.commands import cli
from cluster.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = sorted(path.stem for path in (ROOT / "scenarios").glob("*.toml"))
GOOD = """\
title = "Mine"
story = "It is short."
duration_ms = 2000
[[workloads]]
kind = "counter"
clients = 1
ops_per_second = 10
keys = 1
[[steps]]
when = "serving"
after_ms = 100
action = "restart"
target = "each_az"
every_ms = 600
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def scenario(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["scenario", *arguments], env={"COLUMNS": "160"})


# -- finding -----------------------------------------------------------------------------------------------


def test_a_name_is_found_in_the_checkout_from_anywhere(here: Path) -> None:
    assert subject.find("az_loss") == subject.find("az_loss.toml") == ROOT / "scenarios" / "az_loss.toml"


def test_a_folder_here_comes_first_and_adds_names(here: Path) -> None:
    (here / "scenarios").mkdir()
    for name in ("az_loss", "mine"):
        (here / "scenarios" / f"{name}.toml").write_text(GOOD)
    assert subject.find("az_loss") == Path("scenarios/az_loss.toml")
    assert [path.stem for path in subject.known_files()] == sorted([*NAMES, "mine"])


def test_a_path_comes_before_all_names(here: Path) -> None:
    (here / "az_loss").write_text(GOOD)
    assert subject.find("az_loss") == Path("az_loss")
    assert subject.load(Path("az_loss")).title == "Mine"


def test_where_there_are_no_scenarios_it_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "BESIDE_PACKAGE", here / "nowhere")
    result = scenario("list")
    assert (result.exit_code, result.output) == (
        1,
        "Error: there is no folder scenarios here, or it is empty\n",
    )
    with pytest.raises(
        ConfigError, match="no scenario 'az_loss'; there is no folder scenarios here; give a path"
    ):
        subject.find("az_loss")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonsense", "no scenario 'nonsense'; there are az_flapping, az_loss, "),
        ("", "no scenario ''; there are "),
        ("no/such.toml", "no/such.toml: no such file"),
        ("such.toml", "such.toml: no such file"),
        ("/", "/: no such file"),
        ("a\nb", "no scenario 'a\\nb'; there are "),
        ("a\0b", "no scenario 'a\\x00b'; there are "),
        ("x" * 5000, "no scenario 'xxx"),
    ],
)
def test_what_is_not_there_is_one_line(here: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        subject.find(name)
    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()


def test_what_cannot_be_read_is_one_line(here: Path) -> None:
    (here / "latin.toml").write_bytes(b'title = "x"\nstory = "\xe9"\n')
    (here / "large.toml").write_text("# " + "x" * 300_000)
    (here / "directory.toml").mkdir()
    for name, message in (
        ("latin.toml", "latin.toml:2: not UTF-8"),
        ("large.toml", "large.toml:1: longer than 64 kB; this is no scenario"),
        ("directory.toml", "directory.toml: is a directory"),
        ("gone.toml", "gone.toml: no such file or directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            subject.load(Path(name))
        assert str(caught.value) == message


# -- list, show, check -------------------------------------------------------------------------------------


def test_list_names_every_scenario_and_where_it_can_run(here: Path) -> None:
    result = scenario("list")
    assert result.exit_code == 0
    for name in NAMES:
        assert re.search(rf"^{name} ", result.output, re.M)
    assert re.search(r"^clock_drift .* simulator *$", result.output, re.M)
    assert re.search(r"^az_loss .* simulator, processes *$", result.output, re.M)


def test_list_json_is_one_object(here: Path) -> None:
    rows = {row["name"]: row for row in json.loads(scenario("list", "--json").output)["scenarios"]}
    assert sorted(rows) == NAMES
    assert rows["power_cut_all"]["runs_live"] is False
    assert rows["az_loss"] == {
        "name": "az_loss",
        "path": str(ROOT / "scenarios" / "az_loss.toml"),
        "title": "An availability zone is lost in the middle of writes, and comes back",
        "duration_ms": 12000,
        "steps": 4,
        "runs_live": True,
        "subjects": ["azimuth", "async", "pysyncobj"],
    }


def test_list_goes_on_after_a_broken_file_and_fails(here: Path) -> None:
    (here / "scenarios").mkdir()
    (here / "scenarios" / "broken.toml").write_text("title = 3")
    result = scenario("list")
    assert result.exit_code == 1
    assert result.stderr == "scenarios/broken.toml:1: title: must be a string, not 3\n"
    assert "az_loss" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_show_tells_the_whole_file(here: Path, name: str) -> None:
    result = scenario("show", name)
    assert result.exit_code == 0
    parsed = subject.load(subject.find(name))
    assert parsed.title in result.output
    for step in parsed.steps:
        assert re.search(rf"^ *{step.line}  .*\b{step.action}\b", result.output, re.M)
    assert "no lost write" in result.output


def test_show_draws_the_time(here: Path) -> None:
    """A repetition begins at ●, lasts along ━; what waits for a condition has no bar."""
    result = scenario("show", "az_flapping")
    bar = re.search(r"[●━ ]*●[●━ ]*", result.output)
    assert bar is not None and bar[0].count("●") == 8
    (here / "mine.toml").write_text(GOOD)
    shown = scenario("show", "mine.toml").output
    assert "serving + 100 ms" in shown and "restart each_az every 600 ms" in shown and "●" not in shown
    (here / "mine.toml").write_text(GOOD.replace('when = "serving"\nafter_ms = 100', "at_ms = 0"))
    assert scenario("show", "mine.toml").output.count("●") == 3


def test_show_prints_what_a_file_says_and_never_obeys_it(here: Path) -> None:
    (here / "mine.toml").write_text(GOOD.replace("Mine", "[red]Mine[/red]"))
    assert "[red]Mine[/red]" in scenario("show", "mine.toml").output
    (here / "mine.toml").write_text(GOOD.replace("Mine", "\\u001b[2JMine"))
    result = scenario("show", "mine.toml")
    assert isinstance(result.exception, ConfigError)
    assert (
        str(result.exception) == "mine.toml:1: title: must be plain text, without tabs and control characters"
    )


def test_check_says_in_one_line_each_what_is_right_and_what_is_wrong(here: Path) -> None:
    (here / "good.toml").write_text(GOOD)
    (here / "bad.toml").write_text(GOOD.replace('target = "each_az"', 'target = "az-z"'))
    good = scenario("check", "good.toml", "az_loss")
    assert good.exit_code == 0
    assert good.output.splitlines()[0] == "good.toml: ok, 2 s, 1 step, 1 workload"
    assert good.output.count("\n") == 2
    both = scenario("check", "good.toml", "bad.toml", "gone.toml")
    assert both.exit_code == 1
    assert both.stdout == "good.toml: ok, 2 s, 1 step, 1 workload\n"
    first, second = both.stderr.splitlines()
    assert first.startswith(
        "bad.toml:13: target: 'az-z' is no target; there are az-a, az-b, az-c, 0001-002, all,"
    )
    assert second == "gone.toml: no such file"


def test_check_json_is_one_object(here: Path) -> None:
    (here / "good.toml").write_text(GOOD)
    result = scenario("check", "--json", "good.toml", "gone.toml")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "ok": False,
        "files": [
            {"file": "good.toml", "ok": True, "error": None},
            {"file": "gone.toml", "ok": False, "error": "gone.toml: no such file"},
        ],
    }


def test_all_files_of_the_project_are_right(here: Path) -> None:
    result = scenario("check", *NAMES)
    assert (result.exit_code, result.output.count(": ok, ")) == (0, len(NAMES))
