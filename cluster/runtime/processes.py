"""Processes that outlive the command which started them: who they are, and ending them for certain.

A pid alone names nobody: the kernel gives it out again. A `ProcessRef` is a pid and a birth mark, and every
signal goes through one, so a stale record can never hit a stranger. On Linux the mark is the boot id and the
start time in clock ticks since boot, which no change of the wall clock can move; elsewhere it is psutil's
creation time.

A node is started as leader of a session of its own. Its *family* is what descends from it or lives in its
session:
the node, its engine, and whatever the engine forks. A family is stopped before it is killed, so that nothing
new is born between looking and killing.

A zombie counts as gone: it runs no code and holds no socket; only its parent has not asked yet.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.01


@dataclass(frozen=True, slots=True, order=True)
class ProcessRef:
    pid: int
    born: str  # birth mark; equal pids with equal marks are the same process


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


_BOOT_ID = _boot_id()


def _read_stat(pid: int) -> tuple[str, str] | None:
    """State letter and birth mark of a pid; None if there is no such process."""
    if _BOOT_ID:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return fields[0], f"{_BOOT_ID}:{fields[19]}"
    try:
        process = psutil.Process(pid)
        state = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}.get(process.status(), "R")
        return state, f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def identify(pid: int) -> ProcessRef | None:
    """Who has this pid now; None if nobody, or only a zombie."""
    found = _read_stat(pid)
    return None if found is None or found[0] in "ZXx" else ProcessRef(pid, found[1])


def is_alive(ref: ProcessRef) -> bool:
    return identify(ref.pid) == ref


def is_stopped(ref: ProcessRef) -> bool:
    """Whether it is alive and held by SIGSTOP."""
    found = _read_stat(ref.pid)
    return found is not None and found[1] == ref.born and found[0] in "Tt"


def send_signal(ref: ProcessRef, number: signal.Signals) -> bool:
    """Signal exactly this process. False if it is gone."""
    if not is_alive(ref):
        return False
    try:
        os.kill(ref.pid, number)
    except ProcessLookupError:
        return False
    return True


def family(ref: ProcessRef) -> list[ProcessRef]:
    """The process, if it lives, then all its descendants and everything in its session, by pid."""
    if not is_alive(ref):
        return []
    pids: set[int] = set()
    try:
        pids.update(child.pid for child in psutil.Process(ref.pid).children(recursive=True))
    except psutil.NoSuchProcess:
        pass
    pids.update(session_pids(ref.pid))
    pids.discard(ref.pid)
    refs = [identify(pid) for pid in sorted(pids)]
    return [ref, *(found for found in refs if found is not None)]


def session_pids(session: int) -> list[int]:
    """Pids whose session leader is, or was, `session`. A session id is not given out again while it has
    members.
    """
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session:
                found.append(pid)
        except OSError:
            continue
    return found


def signal_all(refs: Iterable[ProcessRef], number: signal.Signals) -> int:
    """Signal every one that lives; returns how many."""
    return sum(1 for ref in refs if send_signal(ref, number))


def wait_gone(refs: Sequence[ProcessRef], timeout_s: float) -> list[ProcessRef]:
    """Wait until none is alive; returns those that still are."""
    deadline = time.monotonic() + timeout_s
    while True:
        reap_children()
        alive = [ref for ref in refs if is_alive(ref)]
        if not alive or time.monotonic() >= deadline:
            return alive
        time.sleep(POLL_S)


def wait_held(refs: Sequence[ProcessRef], held: bool, timeout_s: float = 5.0) -> None:
    """Wait until SIGSTOP (or SIGCONT) has taken effect on all that live; a busy machine takes its time."""
    deadline = time.monotonic() + timeout_s
    while any(is_alive(ref) and is_stopped(ref) != held for ref in refs) and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def kill_families(leaders: Sequence[ProcessRef], timeout_s: float = 10.0) -> list[ProcessRef]:
    """SIGKILL the leaders and all that belongs to them at once; returns what would not die.

    All leaders are stopped first: a zone dies as a zone, and no engine is respawned meanwhile.
    """
    with uninterrupted():  # between stopping and killing, a Ctrl-C would leave them stopped
        signal_all(leaders, signal.SIGSTOP)
        wait_held(leaders, True)
        members = [member for leader in leaders for member in family(leader)]
        signal_all(leaders, signal.SIGKILL)
        signal_all(members, signal.SIGKILL)
        return wait_gone(members, timeout_s)


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off what would end us while something is being undone: impatience shall leave nothing behind.

    What came meanwhile is delivered at the end, each signal once. Sections may be nested.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    saved = {number: signal.signal(number, lambda n, _: came.append(n)) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
        for put_off in sorted(set(came)):
            signal.raise_signal(put_off)


_children: list[subprocess.Popen[bytes]] = []


def keep_child(child: subprocess.Popen[bytes]) -> None:
    """Remember a subprocess.Popen that we started, to reap it when it ends while we still run."""
    _children.append(child)


def reap_children() -> None:
    for child in list(_children):
        if child.poll() is not None:
            _children.remove(child)
