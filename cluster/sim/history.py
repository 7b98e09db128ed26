"""What clients saw: one `Op` for each operation, in the order in which they began.

The history is all that the checkers get. It is written by the simulator's clients and, in the same shape, by
real ones, so a checker never knows where a history comes from.

`Result` says what the client may conclude (Jepsen's ok, fail, info):

* OK: it was executed, once, and `reply` is what it returned.
* FAIL: a definite error; it was not executed and never will be.
* DOUBT: INDOUBT, a lost connection, a timeout, or the run ended first. It may have happened, may happen
  later, may never. When in doubt, DOUBT is always safe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

NEVER_US = 1 << 62  # the end of an operation whose end nobody saw


class Result(Enum):
    OK = "ok"
    FAIL = "fail"
    DOUBT = "doubt"


@dataclass(slots=True, eq=False)
class Op:
    """One operation of one client on one key (or, for a transaction, on several).

    | workload | command | argument | reply when OK |
    |---|---|---|---|
    | register | SET, GET | value; None | None; value or None |
    | list | RPUSH, LRANGE | value; None | length after it: int; list of all values |
    | counter | INCR, GET | None | the new value: int; int (0 if there is none) |
    | chain | SETGET (`SET k v GET`) | value | the old value or None |
    | set | SADD, SMEMBERS | value; None | 1; list of all members |
    | transaction | TXN | tuple of (command, key, argument), RPUSH and LRANGE only | tuple of their replies |
    | small | SET, GET, SETNX, DEL | value; None; value; None | None; value or None; 1 or 0; 1 or 0 |
    | effects | any | – | only the replicas' digests judge it |

    Values are unique in a history, except those of `small`. All values and keys are str.
    """

    number: int  # position in the history, from 0
    client: int
    workload: str
    command: str
    key: str  # of a transaction: the first of its keys
    argument: object
    began_us: int
    ended_us: int = NEVER_US
    result: Result = Result.DOUBT
    reply: object = None
    final: bool = False  # read when all faults were over: what it does not show is lost


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken. `kind` is one of the constants below; `text` is one line with figures."""

    kind: str
    key: str
    text: str
    ops: tuple[int, ...] = ()  # numbers of the operations that prove it


LOST_WRITE = "lost_write"  # acknowledged, and a later read does not show it
STALE_READ = "stale_read"  # it shows an older state than was visible before it began
DOUBLE_APPLY = "double_apply"  # one operation took effect twice
ABORTED_READ = "aborted_read"  # it shows a write that definitely failed, or that nobody made
ORDER = "order"  # effects contradict the order in which they were acknowledged
CYCLE = "cycle"  # transactions, each of which must precede the other
NOT_LINEARIZABLE = "not_linearizable"  # no order of the operations explains what was seen
DIVERGED = "diverged"  # replicas differ at one offset


def of_workload(history: Sequence[Op], workload: str) -> list[Op]:
    return [op for op in history if op.workload == workload]


def by_key(ops: Sequence[Op]) -> dict[str, list[Op]]:
    """Ops grouped by key, keys in the order of their first use."""
    found: dict[str, list[Op]] = {}
    for op in ops:
        found.setdefault(op.key, []).append(op)
    return found
