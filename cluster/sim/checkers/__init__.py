"""The checkers: what clients saw, and whether any correct system could have shown it.

They are pure functions over a history (`cluster.sim.history`); none of them knows how it came about. Each
workload is designed so that the reply is the witness, which makes checking a sort and a sweep, not a search:

| workload | module | needs | cost |
|---|---|---|---|
| register | `zones` | unique values | O(n log n) |
| list | `lists` | unique values; RPUSH returns the length | O(n log n) and once over all reads |
| counter | `counter` | INCR returns the value | O(n log n) |
| chain | `chain` | unique values; SET … GET returns the old one | O(n log n) for each final read |
| set | `sets` | unique members, never removed | O(n log n) and once over all reads |
| transaction | `transactions` | as list, on several keys | O(n log n) and once over all reads |
| small | `linearizability` | a short history | exponential at worst; bounded, undecided is red |
| effects | `digests` | replicas that stand still | one comparison for each node |

`ladder` (states that climb by one) and `findings` are what they share; `dependencies` and `graphs` (circles)
serve `transactions`.

All but `transactions` are exact in both directions: a history is refused iff no order explains it. (What
`transactions` leaves out stands there.) Only acknowledged reads count. An acknowledged write happened between
its begin and its end; one in doubt happened once at any time after its begin, or never, whatever its `reply`
and `ended_us` say; a failed one never. Times that are equal are concurrent, so a clock that is too coarse
hides violations and invents none.

A violation is told once, where it is most plainly visible, and what follows from it is left out as far as
that can be known: the number of lost writes is the number of acknowledged writes that are gone, and the
number of stale reads is the number of reads that were stale. Of a register only the newest acknowledged
value can be lost, once for each final read that lacks it: the older ones would have been overwritten anyway.
At most 100 violations of a kind are kept for each key.

Left out: the order that one client's own operations have beyond their times (a client that does not wait is
two clients), and whether a history is long or contended enough to prove anything; whoever made it knows.
"""

from collections.abc import Callable, Sequence

from cluster.sim.checkers.chain import check_chain
from cluster.sim.checkers.counter import check_counter
from cluster.sim.checkers.digests import check_digests
from cluster.sim.checkers.findings import malformed
from cluster.sim.checkers.linearizability import check_small
from cluster.sim.checkers.lists import check_list
from cluster.sim.checkers.sets import check_set
from cluster.sim.checkers.transactions import check_transactions
from cluster.sim.checkers.zones import check_register
from cluster.sim.history import NOT_LINEARIZABLE, Op, Violation, by_key, of_workload

__all__ = [
    "check_chain",
    "check_counter",
    "check_digests",
    "check_history",
    "check_list",
    "check_register",
    "check_set",
    "check_small",
    "check_transactions",
]

CHECKERS: dict[str, Callable[[str, Sequence[Op]], list[Violation]]] = {
    "register": check_register,
    "list": check_list,
    "counter": check_counter,
    "chain": check_chain,
    "set": check_set,
    "small": check_small,
}
WHOLE_HISTORY = "transaction"
NOT_JUDGED = "effects"  # by its replies; `check_digests` judges what it leaves behind


def check_history(history: Sequence[Op]) -> list[Violation]:
    """Every broken promise in a history of any mix of workloads, in an order that depends on nothing else."""
    violations = list(malformed(history))
    for op in history:
        if op.workload not in CHECKERS and op.workload not in (WHOLE_HISTORY, NOT_JUDGED):
            text = f"#{op.number}: nobody checks workload {op.workload}"
            violations.append(Violation(NOT_LINEARIZABLE, op.key, text, (op.number,)))
    for workload, check in CHECKERS.items():
        for key, ops in by_key(of_workload(history, workload)).items():
            violations += check(key, ops)
    violations += check_transactions(of_workload(history, WHOLE_HISTORY))
    return sorted(violations, key=lambda one: (one.key, one.ops, one.kind, one.text))
