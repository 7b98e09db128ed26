"""Any workload: replicas that have applied the same effects hold the same data.

A node reports the offset up to which it has applied its shard's effect stream and a digest of its whole
dataset there. Equal offsets with different digests are a broken promise at any time. At the end, when nobody
writes and all have caught up, the offsets must be equal too, or there was nothing to compare.
"""

from collections.abc import Mapping

from cluster.sim.history import DIVERGED, Violation


def check_digests(
    shard: str, digests: Mapping[str, tuple[int, str]], *, at_end: bool = True
) -> list[Violation]:
    """`digests`: node -> (offset, digest). One violation for each offset at which replicas differ."""
    groups: dict[int, dict[str, list[str]]] = {}  # offset -> digest -> nodes
    for node, (offset, digest) in sorted(digests.items()):
        groups.setdefault(offset, {}).setdefault(digest, []).append(node)
    violations: list[Violation] = []
    for offset, holders in sorted(groups.items()):
        if len(holders) > 1:
            told = " but ".join(
                f"{digest} on {', '.join(nodes)}" for digest, nodes in sorted(holders.items())
            )
            violations.append(Violation(DIVERGED, shard, f"at offset {offset}: {told}"))
    if at_end and len(groups) > 1:
        nodes_at = (
            f"{offset} on {', '.join(sorted(node for nodes in holders.values() for node in nodes))}"
            for offset, holders in sorted(groups.items())
        )
        violations.append(
            Violation(DIVERGED, shard, f"applied offsets differ at the end: {'; '.join(nodes_at)}")
        )
    return violations
