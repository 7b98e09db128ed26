"""What a regression scenario is, and how a script's findings become lines.

A regression is a story that went wrong in some system before (the list is the design's faults.md, 1 to 34),
told as a fixed script: same seed, same faults at the same instants, every time. It returns one line for each
promise that was broken; none means that it holds. An assertion, in the script or in the product, is such a
line too: the product's own assertions are the sharpest checks there are.

What a scenario needs and does not exist yet is said by `pending` (the whole scenario waits) or `rest` (a
part of it does), with the issue that brings it. Both are printed with every run, never silently skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass

SNAPSHOTS = "4/5: snapshots and compaction"
MEMBERSHIP = "4/5: membership changes"
LIVE = "3/5: faults on real processes"
DATA_STRUCTURES = "5/5: scripts, eviction, stock clients' features"

Scenario = Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class Regression:
    number: int  # in faults.md
    name: str
    holds: str  # what must hold, one sentence
    run: Scenario | None = None  # None: pending
    pending: str = ""  # the issue that brings what the whole scenario needs
    rest: str = ""  # what is left out of it, and the issue that brings it

    def __post_init__(self) -> None:
        assert (self.run is None) == bool(self.pending), f"{self.number}: a script, or why there is none"


def lines_of(error: BaseException) -> list[str]:
    """What an exception says, with the place that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({trace.tb_frame.f_code.co_name}, line {trace.tb_lineno})" if trace is not None else ""
    return [f"{type(error).__name__}: {error}{where}"]


def attempt(script: Callable[[], list[str] | None]) -> list[str]:
    """The lines of a script; whatever it raises is one."""
    try:
        return script() or []
    except Exception as error:  # a scenario reports, whatever happens
        return lines_of(error)
