"""Signals reach exactly the process that was meant."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from cluster.runtime.processes import (
    ProcessRef,
    family,
    identify,
    is_alive,
    is_stopped,
    kill_families,
    send_signal,
    uninterrupted,
    wait_gone,
)

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    processes: list[subprocess.Popen[str]] = []

    def run(code: str) -> "subprocess.Popen[str]":
        argv = [sys.executable, "-c", code]
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return processes[-1]

    yield run
    for process in processes:
        ref = identify(process.pid)
        if ref is not None:
            kill_families([ref])
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


Start = Callable[[str], "subprocess.Popen[str]"]


def named(process: "subprocess.Popen[str]") -> ProcessRef:
    ref = identify(process.pid)
    assert ref is not None
    return ref


def test_a_process_is_known_by_more_than_its_pid(start: Start) -> None:
    ref = named(start("import time; time.sleep(600)"))
    assert is_alive(ref)
    stranger = ProcessRef(ref.pid, "born at another time")
    assert not is_alive(stranger)
    assert not send_signal(stranger, signal.SIGKILL)
    assert family(stranger) == []
    assert kill_families([stranger]) == []
    assert is_alive(ref), "a signal meant for an earlier owner of the pid has hit the new one"


def test_a_zombie_counts_as_gone(start: Start) -> None:
    process = start("pass")
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    assert identify(process.pid) is None


def test_killing_a_family_takes_its_children_too(start: Start) -> None:
    process = start(PARENT)
    assert process.stdout is not None
    child = identify(int(process.stdout.readline()))
    leader = named(process)
    assert child is not None
    assert family(leader) == [leader, child]
    assert kill_families([leader]) == []
    assert not is_alive(leader)
    assert not is_alive(child)


def test_a_child_whose_parent_died_is_still_found_by_its_session(start: Start) -> None:
    process = start(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {PARENT!r}])\ntime.sleep(600)"
    )
    assert process.stdout is not None
    grandchild = identify(int(process.stdout.readline()))
    leader = named(process)
    middle = next(ref for ref in family(leader) if ref not in (leader, grandchild))
    send_signal(middle, signal.SIGKILL)
    assert wait_gone([middle], 10) == []
    assert grandchild is not None
    assert grandchild in family(leader)
    assert kill_families([leader]) == []
    assert not is_alive(grandchild)


def test_pausing_and_resuming_is_seen(start: Start) -> None:
    ref = named(start("import time; time.sleep(600)"))
    assert not is_stopped(ref)
    send_signal(ref, signal.SIGSTOP)
    assert eventually(lambda: is_stopped(ref))
    assert is_alive(ref)
    send_signal(ref, signal.SIGCONT)
    assert eventually(lambda: not is_stopped(ref))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_must_not_be_interrupted_is_not_and_hears_of_it_afterwards(number: signal.Signals) -> None:
    heard: list[int] = []
    saved = signal.signal(number, lambda number, frame: heard.append(number))
    try:
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            assert heard == [], "an inner section has ended, the outer one has not"
        assert heard == [number]
        with uninterrupted():
            pass
        assert heard == [number]
    finally:
        signal.signal(number, saved)


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return true()
