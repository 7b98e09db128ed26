"""The regression scenarios of the design's faults.md, each a fixed script: see `table`.

| module | scenarios | runs |
|---|---|---|
| disk | 2 to 10 | the journal on a disk in memory; whole nodes |
| raft | 1, 11 to 15, 31, 32 | the pure core, with the commands of the golden scripts |
| reads | 20 to 22 | whole nodes |
| engine | 23, 24, 28 to 30 | whole nodes |
| operations | 25, 26, 33, 34 | whole nodes |

Each has at least one *mutant* in `tests/sim/mutants.py`: a line of ours sabotaged, which must turn it red.
"""

from tests.sim.regressions import disk, engine, operations, raft, reads
from tests.sim.regressions.table import Regression

__all__ = ["REGRESSIONS", "Regression", "pending_lines"]

REGRESSIONS: dict[int, Regression] = {
    regression.number: regression
    for regression in sorted(
        (
            *disk.REGRESSIONS,
            *raft.REGRESSIONS,
            *reads.REGRESSIONS,
            *engine.REGRESSIONS,
            *operations.REGRESSIONS,
        ),
        key=lambda regression: regression.number,
    )
}


def pending_lines() -> list[str]:
    """What is not tested yet, and which issue brings it."""
    lines = []
    for regression in REGRESSIONS.values():
        title = f"regression {regression.number} {regression.name}"
        if regression.pending:
            lines.append(f"{title}: pending until {regression.pending}")
        elif regression.rest:
            lines.append(f"{title}: left out is {regression.rest}")
    return lines
