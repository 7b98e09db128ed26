"""From the first moment of a command to its last: signals, and errors that are no errors."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cli.main import Ending

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

INTERRUPTED_AT_AN_IMPORT = """
import os, signal, sys

class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGINT):
                os.kill(os.getpid(), number)

sys.meta_path.insert(0, Impatient())
sys.argv = ["azimuth", "status"]
from cli.main import main
main()
"""


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-P", *argv], capture_output=True, text=True, timeout=60, env=environment
    )


@pytest.fixture
def ending() -> Iterator[Ending]:
    saved = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield Ending()
    for number, handler in saved.items():
        signal.signal(number, handler)


@pytest.mark.slow
def test_ctrl_c_while_modules_are_being_imported_says_nothing() -> None:
    result = run("-c", INTERRUPTED_AT_AN_IMPORT)
    assert (result.returncode, result.stdout, result.stderr) in ((130, "", ""), (129, "", ""))


@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_ends_us_and_those_behind_it_do_not_disturb(
    ending: Ending, first: signal.Signals
) -> None:
    ending.listen()
    ending.ready()
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        signal.raise_signal(first)
    wanted = None if first == signal.SIGINT else 128 + first
    assert getattr(caught.value, "code", None) == wanted
    for number in SIGNALS:
        signal.raise_signal(number)  # somebody is impatient while things are being undone


def test_a_signal_before_all_is_ready_is_obeyed_then(ending: Ending) -> None:
    ending.listen()
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        ending.ready()
    assert caught.value.code == 143


def test_an_exception_that_got_lost_does_not_make_us_deaf(ending: Ending) -> None:
    ending.listen()
    ending.ready()
    ending.quiet_s = 0
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_that_whoever_started_us_ignores_stays_ignored(ending: Ending) -> None:
    """`nohup azimuth up`, or `azimuth up &` in a script."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ending.listen()
    ending.ready()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.raise_signal(signal.SIGHUP)


@pytest.mark.slow
def test_a_group_without_a_command_shows_its_help() -> None:
    result = run("-m", "cli.main", "az")
    assert (result.returncode, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0] == "Usage: azimuth az [OPTIONS] COMMAND [ARGS]..."
    assert "Commands:" in lines
