"""One start of an engine by itself, before nodes are started with it.

`--version` says little: a program may lack a library, an option that we set, or the right to listen. A node
whose engine does not come up tries again and again, since most such troubles pass; a user who has just named
the engine should hear of it at once.
"""

import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cluster.errors import EngineError
from cluster.runtime.valkey_binary import (
    BACKLOG,
    GUARD,
    MAXCLIENTS,
    SOCKET_PATH_BYTES_MAX,
    command_line,
    describe_exit,
    guarded,
    last_words,
)

TRIAL_TIMEOUT_S = 10.0
POLL_S = 0.005


def try_engine(path: Path, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
    """Start the engine as a node does, see that it answers, end it. Takes some 0.1 s. Raises EngineError, one
    line that ends with the last that the engine said. Where temporary directories have very long names,
    nothing is tried.
    """
    with tempfile.TemporaryDirectory(prefix="azimuth-try-") as name:
        directory = Path(name)
        door = directory / "engine.sock"
        if len(os.fsencode(door)) > SOCKET_PATH_BYTES_MAX:
            return
        log = directory / "engine.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                guarded(command_line(path, directory, door, MAXCLIENTS, BACKLOG)),
                stdin=subprocess.PIPE if GUARD == "pipe" else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            trouble = _trouble(process, door, log, timeout_s)
        finally:
            _end(process)
    if trouble:
        raise EngineError(f"engine {str(path)!r}: {trouble}")


def _trouble(process: "subprocess.Popen[bytes]", door: Path, log: Path, timeout_s: float) -> str:
    """Wait for an answer; "" if one came."""
    deadline = time.monotonic() + timeout_s
    while not _answers(door):
        if process.poll() is not None:
            return describe_exit(process.returncode, log)
        if time.monotonic() > deadline:
            said = last_words(log)
            return f"does not answer within {timeout_s:g} s of its start" + (said and f"; it said: {said}")
        time.sleep(POLL_S)
    return ""


def _answers(door: Path) -> bool:
    """Whether it takes an order. An error is an answer too: at least it speaks."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(0.5)
        try:
            link.connect(str(door))
            link.sendall(b"PING\r\n")
            return link.recv(1) in (b"+", b"-")
        except OSError:
            return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()  # the guard ends it
    else:
        process.kill()
    process.wait()
