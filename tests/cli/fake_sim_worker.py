"""Stands in for `cli/sim_worker.py`: answers at once, and badly where a test wants it.

Seeds 13, 113 and so on break a promise, 666 kills the process, the trace of 5 depends on PYTHONHASHSEED. 999
and 1999 never answer, but leave a file in the working directory to say that they have begun.
"""

import os
import signal
import sys
from pathlib import Path

from cli import sim_worker
from cluster.sim.history import LOST_WRITE, Violation
from cluster.sim.sweep import Summary


def answer(task: sim_worker.Task) -> list[Summary]:
    return [one(seed, task.subject) for seed in task.seeds]


def one(seed: int, subject: str) -> Summary:
    if seed == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed % 1000 == 999:
        Path(f"begun-{seed}").touch()
        signal.pause()
    print("noise that is no answer")
    lost = (Violation(LOST_WRITE, "k", "v1 is gone", (1, 2)),) if seed % 100 == 13 else ()
    trace = os.environ.get("PYTHONHASHSEED", "") if seed == 5 else "00000000"
    return Summary(seed, subject, lost, trace, 7, 2_000_000, 100, len(lost), 100)


if __name__ == "__main__":
    assert Path(sys.argv[0]).name == Path(__file__).name
    sim_worker.main(answer)
