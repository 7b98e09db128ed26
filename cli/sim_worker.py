"""A process that runs seeds for `cli/sim_pool.py`: a pickled `Task` in, pickled summaries out, until the end.

It ends when its standard input does, so it cannot outlive whoever asked by more than the run under way.
"""

import gc
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cluster.sim.scenario import Scenario
from cluster.sim.sweep import Summary, run_chunk


@dataclass(frozen=True, slots=True)
class Task:
    seeds: tuple[int, ...]
    subject: str = "azimuth"
    scenario: Scenario | None = None


def run_task(task: Task) -> list[Summary]:
    return run_chunk(task.seeds, subject=task.subject, scenario=task.scenario)


def main(answer: Callable[[Task], list[Summary]] = run_task) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    # A run makes millions of short-lived objects, all of which die with it: looking for cycles meanwhile took
    # a seventh of the time.
    gc.disable()
    gc.freeze()
    while True:
        try:
            task = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answers.write(pickle.dumps(answer(task)))
        answers.flush()
        gc.collect()


if __name__ == "__main__":
    # Pickle names classes by module: this one must have the same name on both sides.
    from cli import sim_worker

    try:
        sim_worker.main()
    except BrokenPipeError:
        pass  # nobody listens any more
