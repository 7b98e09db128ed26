"""Ties a child's life to its parent's: `python -I -S guard.py HOW PARENT_PID PROGRAM ARGUMENT…`.

An engine whose node is gone is an orphan that may never serve, so it must die with the node, also when the
node is SIGKILLed and can tidy up nothing. Two ways, chosen by HOW:

* `signal` (Linux): the kernel is asked to SIGKILL us when the thread that started us ends
  (PR_SET_PDEATHSIG), and the setting survives exec, so the guard *becomes* the program: same pid, nothing
  of the guard remains. The parent may have died before the kernel was asked; then our parent is no longer
  PARENT_PID, and we do not start at all.
* `pipe` (elsewhere): the guard stays as the program's parent and watches its standard input, a pipe that
  nobody but the node holds. When it closes, the program is killed. When the program ends first, the guard
  ends as it did.

Only the standard library, and little of it: this runs at every start of an engine. It is a script, never
imported.
"""

import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
EXIT_ORPHANED = 113  # the parent was gone before the program started


def run_until_parent_dies(parent: int, argv: list[str]) -> None:
    """Become the program, to be killed with the parent. Does not return."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"guard: prctl(PR_SET_PDEATHSIG) failed, errno {ctypes.get_errno()}")
    if os.getppid() != parent:
        sys.exit(EXIT_ORPHANED)
    os.execv(argv[0], argv)


def run_until_pipe_closes(argv: list[str]) -> int:
    """Start the program, kill it when standard input closes, return the exit code it ended with."""
    import select
    import subprocess

    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        readable, _, _ = select.select([0], [], [], 0.2)
        if readable and not os.read(0, 4096):
            child.kill()
            child.wait()
    return child.returncode


def main() -> None:
    how, parent, argv = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    try:
        if how == "signal":
            run_until_parent_dies(parent, argv)
        code = run_until_pipe_closes(argv)
    except OSError as error:
        sys.exit(f"guard: cannot run {argv[0]}: {error.strerror}")
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
