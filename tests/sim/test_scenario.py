"""Scenario files: what they mean, how each mistake is told, and that no input at all gives a traceback."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.sim.scenario import (
    ACTIONS,
    CONDITIONS,
    TARGETS,
    WORKLOADS,
    Action,
    Condition,
    Options,
    Scenario,
    Target,
    TargetKind,
    Trigger,
    WorkloadKind,
    runs_live,
    times_of,
    where_of,
)
from cluster.sim.scenario_reader import parse_scenario
from cluster.sim.toml_lines import line_numbers, one_line, read_toml, shown

FOLDER = Path(__file__).resolve().parent.parent.parent / "scenarios"
FILES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.toml"))}

BASE = """\
title = "A title"
story = "A story."
duration_ms = 10000
subjects = ["azimuth", "async"]
[cluster]
shards = 2
[[workloads]]
kind = "register"
clients = 2
ops_per_second = 20
keys = 3
"""  # 11 lines


def parse(text: str) -> Scenario:
    return parse_scenario(text, "a.toml")


def with_steps(*steps: str, base: str = BASE) -> Scenario:
    return parse(base + "".join(f"[[steps]]\n{step}\n" for step in steps))


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def error_of_steps(*steps: str, base: str = BASE) -> str:
    """The message, line 1 being that of the first step's header."""
    message = error_of(base + "".join(f"[[steps]]\n{step}\n" for step in steps))
    match = re.fullmatch(r"a\.toml:(\d+): (.*)", message)
    assert match is not None, message
    return f"{int(match[1]) - base.count(chr(10))}: {match[2]}"


# -- what files mean ---------------------------------------------------------------------------------------


def test_a_file_becomes_a_scenario() -> None:
    scenario = with_steps(
        'at_ms = 1000\naction = "isolate"\ntarget = "primary_az:0001"\ndirection = "in"\nfor_ms = 500',
        'when = "primary_moved"\nafter_ms = 200\naction = "kill"\ntarget = "same"',
        'when = "previous_done"\naction = "cut"\nfrom = "0001-001"\nto = "replica:0002"',
    )
    assert (scenario.name, scenario.title, scenario.duration_ms) == ("a", "A title", 10_000)
    assert scenario.subjects == ("azimuth", "async")
    isolate, kill, cut = scenario.steps
    assert (isolate.line, isolate.trigger, isolate.target) == (
        12,
        Trigger(at_ms=1000),
        Target("primary_az", "0001"),
    )
    assert (isolate.options.direction, isolate.for_ms, isolate.lasts_ms) == ("in", 500, 500)
    assert (kill.trigger, kill.target) == (Trigger(when="primary_moved", after_ms=200), Target("same"))
    assert (cut.target, cut.options.link_from, cut.options.link_to) == (
        None,
        Target("node", "0001-001"),
        Target("replica", "0002"),
    )


def test_power_cut_is_kill_that_loses_what_was_not_synced() -> None:
    cut, kill, harder = with_steps(
        'at_ms = 1\naction = "power_cut"\ntarget = "all"',
        'at_ms = 2\naction = "kill"\ntarget = "all"',
        'at_ms = 3\naction = "kill"\ntarget = "all"\nlose_unsynced = true',
    ).steps
    assert cut.options.lose_unsynced and harder.options.lose_unsynced and not kill.options.lose_unsynced
    assert (where_of(cut), where_of(kill), where_of(harder)) == ("sim", "both", "sim")


def test_each_az_is_done_once_for_each() -> None:
    scenario = with_steps('at_ms = 0\naction = "restart"\ntarget = "each_az"\nevery_ms = 1000')
    assert times_of(scenario.steps[0], scenario.cluster) == 3
    assert scenario.steps[0].lasts_ms == 500
    assert runs_live(scenario)


def test_expectations_have_defaults_that_forgive_nothing() -> None:
    expect = parse(BASE).expect
    assert (expect.lost, expect.stale_reads, expect.linearizable, expect.replicas_agree) == (0, 0, True, True)
    assert (expect.unavailable_ms_max, expect.minority_acked_max, expect.of("async")) == (None, None, None)
    weak = parse(BASE + "[expect]\nlost = 2\n[expect.async]\nlost_min = 3\n").expect
    asynchronous = weak.of("async")
    assert weak.lost == 2
    assert asynchronous is not None and asynchronous.lost_min == 3


def test_targets_are_written_as_they_are_read() -> None:
    steps = with_steps(
        *(
            f'at_ms = 1\naction = "kill"\ntarget = "{target}"'
            for target in ("az-b", "0002-003", "all", "primary:0002", "majority", "random_node", "same")
        )
    ).steps
    assert [str(step.target) for step in steps] == [
        "az-b", "0002-003", "all", "primary:0002", "majority", "random_node", "same",
    ]  # fmt: skip


# -- the tables --------------------------------------------------------------------------------------------


def test_the_tables_have_every_word_once_and_in_order() -> None:
    assert tuple(ACTIONS) == get_args(Action)
    assert tuple(TARGETS) == get_args(TargetKind)
    assert tuple(CONDITIONS) == get_args(Condition)
    assert tuple(WORKLOADS) == get_args(WorkloadKind)


def test_every_option_of_an_action_is_a_field_with_its_default() -> None:
    """`Options` is filled from the table, so a default may stand in one place only."""
    defaults = {each.name: each.default for each in fields(Options)}
    seen = {option.attribute or key for spec in ACTIONS.values() for key, option in spec.options.items()}
    assert seen == set(defaults)
    for spec in ACTIONS.values():
        for key, option in spec.options.items():
            kind = option.kind if option.kind is not Target else type(None)
            assert type(defaults[option.attribute or key]) is kind
            if option.kind is str:
                assert option.default in option.words


def test_what_undoes_an_action_takes_the_same_targets() -> None:
    for spec in ACTIONS.values():
        undo = next((each for name, each in ACTIONS.items() if name == spec.undo), None)
        if undo is not None:
            assert spec.targets <= undo.targets


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "A title"\n', "", "1: title is missing; it must be a string"),
        ('"A title"', '""', "1: title: must not be empty"),
        ('"A title"', '"A\\nB"', "1: title: must be one line"),
        ('"A title"', '"\\u001b[2J"', "1: title: must be plain text"),
        ('"A title"', "7", "1: title: must be a string, not 7"),
        ("10000", "true", "3: duration_ms: must be a whole number, not true"),
        ("10000", "10_000.5", "3: duration_ms: must be a whole number, not 10000.5"),
        ("10000", "99", "3: duration_ms: must be from 1000 to 600000, not 99"),
        ("10000", "9" * 4000, "3: duration_ms: must be from 1000 to 600000, not a number that large"),
        ("10000", "9" * 5000, "1: not TOML: Exceeds the limit"),
        ("10000", "1979-05-27", "3: duration_ms: must be a whole number, not a time"),
        ("duration_ms", "duration", "3: duration: is unknown here; there are title, story, duration_ms,"),
        ('["azimuth", "async"]', '["async"]', "4: subjects: must name azimuth"),
        (
            '["azimuth", "async"]',
            '["azimuth",\n"redis"]',
            "5: subjects: 'redis' is unknown; there are azimuth, async",
        ),
        ('["azimuth", "async"]', '["azimuth", "azimuth"]', "4: subjects: azimuth is named twice"),
        ("shards = 2", "shards = 17", "6: shards: must be from 1 to 16, not 17"),
        ("shards = 2", "shard = 2", "6: shard: is unknown here; there are shards, replicas, azs, read_mode"),
        ("shards = 2", 'azs = ["a",\n\n"all"]', "8: azs: 'all' means something else as a target"),
        ("shards = 2", 'azs = ["a", "a"]', "6: azs: a is named twice"),
        ("shards = 2", "azs = []", "6: azs: at least one availability zone is needed"),
        ("shards = 2", f"azs = {list('abcdefgh')}", "6: azs: must be at most 7"),
        ("shards = 2", 'azs = [["a"]]', "6: azs: must be a string, not a list"),
        ("shards = 2", 'read_mode = "fast"', "6: read_mode: 'fast' is unknown; there are lease, quorum"),
        ("[cluster]\nshards = 2", "cluster = 3", "5: cluster: must be a table, not 3"),
        ("[cluster]", "[raft]\nlease_ms = 140\n[cluster]", "5: raft: lease_ms must be 20 % below"),
        (
            "[cluster]",
            "[raft]\nelection_timeout_ms = [1]\n[cluster]",
            "6: election_timeout_ms: must be two numbers",
        ),
        (
            "[cluster]",
            "[raft]\nelection_timeout_ms = [1, 0]\n[cluster]",
            "6: election_timeout_ms: must be from 1 to",
        ),
        ('"register"', '"kv"', "8: kind: 'kv' is unknown; there are register, list, counter"),
        ("clients = 2\n", "", "7: clients is missing; it must be a whole number"),
        (
            'kind = "register"\nclients = 2\nops_per_second = 20',
            'kind = "small"\nclients = 2\nops_per_second = 31',
            "11: keys: 103 operations a key; small takes at most 100",
        ),
        ('"register"\nclients = 2', '"small"\nclients = 9', "9: clients: small takes at most 8"),
        ("keys = 3", 'keys = 3\n[[workloads]]\nkind = "register"', "13: kind: register is there twice"),
        (
            '"register"\nclients = 2\nops_per_second = 20\nkeys = 3',
            '"transaction"\nclients = 2\nops_per_second = 20\nkeys = 1',
            "11: keys: must be from 2 to",
        ),
        (
            '[[workloads]]\nkind = "register"\nclients = 2\nops_per_second = 20\nkeys = 3\n',
            "",
            "1: there are no [[workloads]]",
        ),
        ("keys = 3", "keys = 3\n[expect]\nlost = -1", "13: lost: must be from 0 to"),
        ("keys = 3", "keys = 3\n[expect]\nserves = 1", "13: serves: must be true or false, not 1"),
        (
            "keys = 3",
            "keys = 3\n[expect]\nlosses = 1",
            "13: losses: is unknown here; there are lost, stale_reads,",
        ),
        (
            "keys = 3",
            "keys = 3\n[expect]\nminority_acked_max = 0",
            "13: minority_acked_max: no step isolates anything",
        ),
        (
            "keys = 3",
            "keys = 3\n[expect.pysyncobj]\nlost_min = 0",
            "12: pysyncobj: pysyncobj is not one of the scenario's subjects",
        ),
        (
            "keys = 3",
            "keys = 3\n[expect.azimuth]\nlost_min = 0",
            "12: azimuth: what holds for azimuth stands in [expect]",
        ),
        (
            "keys = 3",
            "keys = 3\n[expect.async]\nlost = 0",
            "13: lost: is unknown here; there are lost_min, stale_reads_min",
        ),
        ("keys = 3", "keys = 3\nsteps = 4", "12: steps: is unknown here"),
        ("keys = 3", "keys = = 3", "11: not TOML: Invalid value"),
        ("keys = 3", 'keys = "3', "11: not TOML:"),
        ("keys = 3", "keys = 3\nkeys = 4", "12: not TOML: Cannot overwrite a value"),
        ("[cluster]", "x = " + "[" * 5000 + "]" * 5000 + "\n[cluster]", "1: nested too deeply"),
        ("A story.", "x" * 70_000, "1: longer than 64 kB"),
    ],
)
def test_a_mistake_outside_the_steps_is_one_line(old: str, new: str, message: str) -> None:
    assert BASE.count(old) == 1
    found = error_of(BASE.replace(old, new))
    assert found.startswith(f"a.toml:{message}"), found
    assert "\n" not in found and len(found) < 600


KILL = 'action = "kill"\ntarget = "az-a"'


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (KILL, "1: the step has neither at_ms nor when; it needs exactly one of them"),
        (f'at_ms = 1\nwhen = "serving"\n{KILL}', "1: the step has both at_ms and when"),
        (f"at_ms = 1\nafter_ms = 1\n{KILL}", "3: after_ms: goes with when, not with at_ms"),
        (f'when = "quiet"\n{KILL}', "2: when: 'quiet' is unknown; there are serving, caught_up,"),
        (
            f'when = "previous_done"\n{KILL}',
            "2: when: previous_done speaks of steps above, and there are none",
        ),
        (f'when = "primary_moved"\n{KILL}', "2: when: primary_moved speaks of steps above"),
        (f"at_ms = 10001\n{KILL}", "2: at_ms: must be from 0 to 10000, not 10001"),
        (f"at_ms = 10000\n{KILL}", "1: the step begins at 10000 ms, and duration_ms is 10000"),
        (f'when = "serving"\nafter_ms = 10000\n{KILL}', "1: the step begins at 10000 ms"),
        (f"at_ms = 9000\nfor_ms = 1001\n{KILL}", "1: the step is over at 10001 ms, and duration_ms is 10000"),
        (f"at_ms = 4000\nrepeat = 7\nevery_ms = 1000\n{KILL}", "1: its last repetition begins at 10000 ms"),
        (f"at_ms = 1\nrepeat = 2\n{KILL}", "1: every_ms: repeat needs every_ms"),
        (f"at_ms = 1\nevery_ms = 2\n{KILL}", "3: every_ms: goes with repeat, at least 2, or with each_az"),
        (f"at_ms = 1\nrepeat = 0\n{KILL}", "3: repeat: must be from 1 to"),
        (
            f"at_ms = 1\nrepeat = 2\nevery_ms = 50\nfor_ms = 51\n{KILL}",
            "5: for_ms: each lasts 51 ms, longer than every_ms, 50",
        ),
        (
            'at_ms = 1\nrepeat = 2\nevery_ms = 50\naction = "disk_stall"\ntarget = "az-a"\nstall_ms = 60',
            "7: stall_ms: each lasts 60 ms",
        ),
        (
            'at_ms = 1\nrepeat = 2\nevery_ms = 50\naction = "restart"\ntarget = "az-a"',
            "5: action: each lasts 500 ms",
        ),
        ('at_ms = 1\naction = "kill"\ntarget = "each_az"', "1: every_ms: each_az needs every_ms"),
        (
            'at_ms = 1\naction = "kill"\ntarget = "each_az"\nevery_ms = 9\nrepeat = 2',
            "6: repeat: each_az is repeated for each AZ",
        ),
        (
            'at_ms = 1\naction = "explode"\ntarget = "az-a"',
            "3: action: 'explode' is unknown; there are kill, power_cut,",
        ),
        ('at_ms = 1\ntarget = "az-a"', "1: action is missing"),
        ('at_ms = 1\naction = "kill"', "1: target is missing"),
        (
            'at_ms = 1\naction = "kill"\ntarget = "az-d"',
            "4: target: 'az-d' is no target; there are az-a, az-b, az-c, 0001-002, all,",
        ),
        (
            'at_ms = 1\naction = "kill"\ntarget = "0001-004"',
            "4: target: there is no node '0001-004'; there are 0001-001 to 0002-003",
        ),
        (
            'at_ms = 1\naction = "kill"\ntarget = "primary:0003"',
            "4: target: there is no shard '0003'; there are 0001 to 0002",
        ),
        ('at_ms = 1\naction = "kill"\ntarget = "primary:"', "4: target: there is no shard ''"),
        ('at_ms = 1\naction = "kill"\ntarget = "primary"', "4: target: 'primary' is no target"),
        ('at_ms = 1\naction = "kill"\ntarget = "all:0001"', "4: target: 'all:0001' is no target"),
        ('at_ms = 1\naction = "kill"\ntarget = "az:az-a"', "4: target: 'az:az-a' is no target"),
        (
            'at_ms = 1\naction = "kill"\ntarget = "shard:0001"',
            "4: target: 'shard:0001' does not go here; there are az-a,",
        ),
        ('at_ms = 1\naction = "kill"\ntarget = "same"', "4: target: no step above had to find its target"),
        ('at_ms = 1\naction = "isolate"\ntarget = "all"', "4: target: 'all' does not go here"),
        (
            'at_ms = 1\naction = "transfer"\ntarget = "0001-001"',
            "4: target: '0001-001' does not go here; there are shard:0001",
        ),
        ('at_ms = 1\naction = "cut"\nfrom = "az-a"', "1: to is missing"),
        ('at_ms = 1\naction = "cut"\nfrom = "az-a"\nto = "az-a"', "5: to: az-a does not talk to itself"),
        ('at_ms = 1\naction = "cut"\nfrom = "all"\nto = "az-a"', "4: from: 'all' does not go here"),
        (
            'at_ms = 1\naction = "cut"\nfrom = "az-a"\nto = "az-b"\ntarget = "az-c"',
            "6: target: cut takes from, to, not this",
        ),
        (f"at_ms = 1\n{KILL}\ndelay_ms = 3", "5: delay_ms: kill takes target, lose_unsynced, not this"),
        (f"at_ms = 1\n{KILL}\ncolour = 3", "5: colour: is unknown here; there are at_ms, when,"),
        (f'at_ms = 1\n{KILL}\n"a\\nb" = 3', "5: a b: is unknown here"),
        (f"at_ms = 1\n{KILL}\nlose_unsynced = 1", "5: lose_unsynced: must be true or false, not 1"),
        (
            'at_ms = 1\naction = "start"\ntarget = "az-a"\nfor_ms = 3',
            "5: for_ms: start cannot be undone; there are kill,",
        ),
        (
            'at_ms = 1\naction = "isolate"\ntarget = "az-a"\ndirection = "up"',
            "5: direction: 'up' is unknown; there are both, in, out",
        ),
        ('at_ms = 1\naction = "slow"\ntarget = "az-a"', "1: delay_ms is missing; it must be a whole number"),
        (
            'at_ms = 1\naction = "slow"\ntarget = "az-a"\ndelay_ms = 0',
            "5: delay_ms: must be from 1 to 60000, not 0",
        ),
        ('at_ms = 1\naction = "lossy"\ntarget = "all"', "1: lossy needs drop_percent or duplicate_percent"),
        (
            'at_ms = 1\naction = "lossy"\ntarget = "all"\ndrop_percent = 101',
            "5: drop_percent: must be from 0 to 100",
        ),
        ('at_ms = 1\naction = "clock_jump"\ntarget = "all"\njump_ms = -5', "5: jump_ms: must be from 1 to"),
        (
            'at_ms = 1\naction = "clock_drift"\ntarget = "all"\npercent = 21',
            "5: percent: must be from -20 to 20",
        ),
        (
            'at_ms = 1\naction = "clock_drift"\ntarget = "all"\npercent = -17',
            "5: percent: clocks at 100 % and 83 % of true time",
        ),
    ],
)
def test_a_mistake_in_a_step_is_one_line(step: str, message: str) -> None:
    found = error_of_steps(step)
    assert found.startswith(message), found


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((f"at_ms = 5\n{KILL}", f"at_ms = 4\n{KILL}"), "6: at_ms: 4 is before 5 of a step above"),
        (
            (
                'when = "serving"\naction = "kill"\ntarget = "random_az"',
                'at_ms = 4\naction = "start"\ntarget = "same"',
            ),
            "6: at_ms: the step at line 12 may not have found its target by then; use when",
        ),
        (
            (f"at_ms = 1\n{KILL}", 'at_ms = 2\naction = "start"\ntarget = "same"'),
            "8: target: no step above had to find its target (primary:0001, primary_az:0001,",
        ),
        (
            (
                'at_ms = 1\naction = "clock_drift"\ntarget = "az-a"\npercent = 10',
                'at_ms = 1\naction = "clock_drift"\ntarget = "az-b"\npercent = -10',
            ),
            "10: percent: clocks at 110 % and 90 % of true time are more than 20 % apart",
        ),
    ],
)
def test_a_step_that_does_not_fit_those_above_is_refused(steps: tuple[str, ...], message: str) -> None:
    found = error_of_steps(*steps)
    assert found.startswith(message), found


@pytest.mark.parametrize(
    ("cluster", "target", "message"),
    [
        ('azs = ["a", "b"]', "minority", "of 2 AZs none is a minority"),
        ("replicas = 0", "replica:0001", "shard 0001 has no replica"),
        ('azs = ["x", "y", "z"]', "az-a", "'az-a' is no target; there are x, y, z, 0001-002,"),
    ],
)
def test_a_target_that_this_cluster_does_not_have_is_refused(cluster: str, target: str, message: str) -> None:
    base = BASE.replace("shards = 2", cluster)
    found = error_of_steps(f'at_ms = 1\naction = "kill"\ntarget = "{target}"', base=base)
    assert found.startswith(f"4: target: {message}"), found


def test_the_file_is_called_in_messages_as_the_caller_calls_it_and_on_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario("", "some/where/x\ny.toml")
    assert str(caught.value) == "some/where/x y.toml:1: title is missing; it must be a string"
    assert parse_scenario(BASE, "some/where/x.toml").name == "x"


# -- the files of the project ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_is_a_scenario_of_some_seconds_under_load(name: str) -> None:
    scenario = parse_scenario(FILES[name], f"{name}.toml")
    assert scenario.name == name
    assert 10_000 <= scenario.duration_ms <= 20_000
    assert 80 <= sum(workload.ops_per_second for workload in scenario.workloads) <= 120
    assert {workload.kind for workload in scenario.workloads} == set(WORKLOADS) - {"small"}
    assert scenario.steps
    assert len(scenario.title) <= 80
    assert 200 <= len(scenario.story) <= 700
    assert scenario.expect.lost == scenario.expect.stale_reads == 0
    assert scenario.expect.linearizable and scenario.expect.replicas_agree and scenario.expect.serves


def test_the_files_use_every_action_but_those_that_for_ms_stands_for() -> None:
    used = {step.action for name, text in FILES.items() for step in parse_scenario(text, name).steps}
    assert set(ACTIONS) - used == {"resume"}


def test_where_asynchronous_replication_must_lose_a_primary_is_alone_or_all_power_is_gone() -> None:
    """A scenario that claims to be strong enough has the fault that makes it so."""
    strong = {}
    for name, text in FILES.items():
        scenario = parse_scenario(text, name)
        asynchronous = scenario.expect.of("async")
        if asynchronous is not None and asynchronous.lost_min > 0:
            strong[name] = scenario
    assert {"az_loss", "power_cut_all", "az_partition_symmetric", "minority_serves_nothing"} <= set(strong)
    for name, scenario in strong.items():
        assert any(
            (
                step.action == "isolate"
                and step.target is not None
                and step.target.kind in ("primary_az", "minority")
            )
            or (step.action == "power_cut" and step.target == Target("all"))
            for step in scenario.steps
        ), name


# -- lines -------------------------------------------------------------------------------------------------


def test_lines_survive_everything_that_toml_can_hide_a_key_behind() -> None:
    text = '''\
# [not.a.table]
a = 1 # b = 2
"b.c" . 'd e' = """
[no]
key = "value"
"""""

[t]
x = [ # ] a comment, no bracket
  1, "]",
  { y = 2, z.w = "}" },
  [3,
   4]]
s = 'C:\\'
l = \'\'\'
k = 1\'\'\'\'
[[steps]]
k = "\\u0041\\""
"\\u0041" = 1979-05-27 07:32:00
[[steps.q]]
[[steps]]
when = true
[[steps.q]]
z = 1
[steps.q.v]
t = 1
'''.replace("\n", "\r\n")
    lines = line_numbers(text)
    assert set(lines) == set(paths_of(tomllib.loads(text)))
    expected: dict[tuple[str | int, ...], int] = {
        (): 1,
        ("a",): 2,
        ("b.c",): 3,
        ("b.c", "d e"): 3,
        ("t",): 8,
        ("t", "x"): 9,
        ("t", "x", 1): 10,
        ("t", "x", 2, "z", "w"): 11,
        ("t", "x", 3): 12,
        ("t", "x", 3, 1): 13,
        ("t", "s"): 14,
        ("t", "l"): 15,
        ("steps",): 17,
        ("steps", 0): 17,
        ("steps", 0, "A"): 19,
        ("steps", 0, "q", 0): 20,
        ("steps", 1): 21,
        ("steps", 1, "when"): 22,
        ("steps", 1, "q", 0): 23,
        ("steps", 1, "q", 0, "v"): 25,
        ("steps", 1, "q", 0, "v", "t"): 26,
    }
    assert {path: lines[path] for path in expected} == expected


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, each in value.items():
            found += paths_of(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            found += paths_of(each, (*path, index))
    return found


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["a", "b", "[", "]", "#", "="]
)
scalars = (
    st.integers(-9, 9)
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.datetimes()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
    | st.text("\"\\\n[]{}#=' ,", max_size=12)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@given(st.dictionaries(keys, values, max_size=5), st.booleans())
@settings(max_examples=150)
@pytest.mark.slow
def test_every_path_of_any_document_has_its_line(document: dict[str, Any], multiline: bool) -> None:
    text = tomli_w.dumps(document, multiline_strings=multiline)
    lines = line_numbers(text)
    assert set(lines) == set(paths_of(tomllib.loads(text)))
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), max_size=8))
@settings(max_examples=60)
@pytest.mark.slow
def test_a_key_stands_on_the_line_on_which_it_was_written(pairs: list[tuple[str, int]]) -> None:
    """Arrays of tables with blank lines and comments between: the line of each is known beforehand."""
    text, expected = "", {}
    counts: dict[str, int] = {}
    for name, blanks in pairs:
        text += "\n# [[x]]\n" * blanks + f"[[{name}]]\nk = 1\n"
        index = counts.get(name, 0)
        counts[name] = index + 1
        expected[name, index, "k"] = text.count("\n")
    lines = line_numbers(text)
    assert {path: lines[path] for path in expected} == expected


# -- any input ---------------------------------------------------------------------------------------------

WORDS = sorted({word for text in FILES.values() for word in re.findall(r"[\w.:-]+|[^\w\s]", text)})
junk = st.sampled_from(
    [*WORDS, *"\n\"'[]{}\0\r\té", '"""', "[[", "]]", "-1", "1e9", "nan", "9" * 30, "true", "[]"]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A real file with a few words replaced, added, doubled or cut out."""
    text = FILES[draw(st.sampled_from(sorted(FILES)))]
    for _ in range(draw(st.integers(1, 4))):
        spans = [match.span() for match in re.finditer(r"[\w.:-]+|[^\w\s]|\n", text)]
        begin, end = spans[draw(st.integers(0, len(spans) - 1))]
        kind = draw(st.sampled_from(["replace", "insert", "cut", "double"]))
        if kind == "replace":
            text = text[:begin] + draw(junk) + text[end:]
        elif kind == "insert":
            text = text[:begin] + draw(junk) + text[begin:]
        elif kind == "cut":
            text = text[:begin] + text[begin + draw(st.integers(1, 300)) :]
        else:
            line_end = text.find("\n", begin) + 1
            text = text[:line_end] + text[text.rfind("\n", 0, begin) + 1 :]
    return text


def scenario_or_one_line(text: str) -> None:
    try:
        scenario = parse(text)
    except ConfigError as error:
        assert re.fullmatch(r"a\.toml:[1-9]\d*: [^\n\r]{1,600}", str(error)), str(error)
        assert int(str(error).split(":")[1]) <= text.count("\n") + 1
        assert str(error).isprintable()
    else:
        assert scenario.workloads and scenario.title


@given(mutated())
@settings(max_examples=200)
@pytest.mark.slow
def test_a_mutated_file_is_a_scenario_or_one_clear_line(text: str) -> None:
    scenario_or_one_line(text)


@given(st.text(max_size=60) | st.lists(junk, max_size=30).map("".join))
@settings(max_examples=200)
@pytest.mark.slow
def test_any_text_is_a_scenario_or_one_clear_line(text: str) -> None:
    scenario_or_one_line(text)


top_keys = st.sampled_from(
    ["title", "story", "duration_ms", "subjects", "cluster", "raft", "workloads", "steps", "expect"]
)


@given(st.dictionaries(top_keys, values))
@settings(max_examples=150)
@pytest.mark.slow
def test_any_value_in_the_place_of_another_is_one_clear_line(document: dict[str, Any]) -> None:
    base = tomllib.loads(FILES["az_loss"])
    scenario_or_one_line(tomli_w.dumps({**base, **document}))


def test_what_messages_quote_is_short_and_printable() -> None:
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 1000)) < 50
    assert shown(1 << 20_000) == "a number that large"
    assert one_line("a\x1b[2J\n b\ud800") == "a [2J b "
    with pytest.raises(ConfigError, match="is unknown here"):
        read_toml('"\\u001b" = 1', "a.toml").only("b")
