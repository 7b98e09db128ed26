"""Worker processes for sweeps: started by us, fed one task at a time, and all gone when the pool is closed.

Not `concurrent.futures`: its workers share pipes, so they outlive a parent that is killed, and they hear the
terminal's Ctrl-C, too. Here each worker has pipes of its own, whose end is its end, and a process group of
its own, so only the parent hears Ctrl-C. It then kills them: a run under way is worth nothing.

Each gets its PYTHONHASHSEED, if one is wanted: two workers with two of them must tell the same of one seed.
"""

import os
import pickle
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

from cli.sim_worker import Task
from cluster.errors import AzimuthError
from cluster.sim.sweep import Summary

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "cli.sim_worker")


class Worker:
    def __init__(self, hash_seed: int | None) -> None:
        environment = dict(os.environ)
        if hash_seed is not None:
            environment["PYTHONHASHSEED"] = str(hash_seed)
        self.task: Task | None = None
        self.process = subprocess.Popen(
            WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, process_group=0,
            stderr=None if os.environ.get("AZIMUTH_DEBUG") else subprocess.DEVNULL,
        )  # fmt: skip

    def begin(self, task: Task) -> None:
        self.task = task
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(pickle.dumps(task))
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def finish(self) -> list[Summary]:
        """Wait for the answer. AzimuthError if the process has ended instead."""
        assert self.process.stdout is not None
        try:
            answer: list[Summary] = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise self._ended() from None
        self.task = None
        return answer

    def _ended(self) -> AzimuthError:
        code = self.process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        seeds = " ".join(map(str, self.task.seeds)) if self.task is not None else "none"
        return AzimuthError(f"the process that ran seed {seeds} {how} (AZIMUTH_DEBUG=1 shows why)")


class Pool:
    """`with Pool(jobs) as pool: for task, summaries in pool.run(tasks): …`"""

    def __init__(self, jobs: int, *, hash_seed: int | None = None) -> None:
        self._jobs = jobs
        self._hash_seed = hash_seed
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except BrokenPipeError:
                    pass  # what it was told last was still in our buffer
        self._workers.clear()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Summary]]]:
        """Each task with its answer, as they come; with one job in the order of the tasks. The next task is
        under way before an answer is handed out."""
        waiting = iter(tasks)
        with selectors.DefaultSelector() as selector:
            for task in waiting:
                worker = Worker(self._hash_seed)
                self._workers.append(worker)
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                worker.begin(task)
                if len(self._workers) == self._jobs:
                    break
            while any(worker.task is not None for worker in self._workers):
                for key, _ in selector.select():
                    yield self._turn(key.data, waiting)

    def _turn(self, worker: Worker, waiting: Iterator[Task]) -> tuple[Task, list[Summary]]:
        """Take its answer, give it the next task."""
        task = worker.task
        summaries = worker.finish()
        assert task is not None
        following = next(waiting, None)
        if following is not None:
            worker.begin(following)
        return task, summaries
