"""Prints the state diagrams of docs/protocol.md from the tables that the code itself goes by.

    python docs/diagrams.py            print all blocks
    python docs/diagrams.py --write    put them into docs/protocol.md

A block stands between `<!-- diagram: NAME -->` and `<!-- end of NAME -->`. tests/test_docs.py fails when the
document and the tables say different things. States appear in the order of their enum, so the output never
depends on the order of a set.
"""

import sys
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from cluster.raft.roles import TRANSITIONS as ROLE_TRANSITIONS  # noqa: E402  # after the path, for a plain checkout
from cluster.raft.roles import Role  # noqa: E402
from cluster.shard.replica import TRANSITIONS as SERVING_TRANSITIONS  # noqa: E402
from cluster.shard.replica import Serving  # noqa: E402

PROTOCOL = ROOT / "docs" / "protocol.md"


def _state_diagram(starts: list[Enum], arrows: list[tuple[Enum, Enum, str]]) -> str:
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {start.value}" for start in starts]
    for old, new, why in arrows:
        lines.append(f"    {old.value} --> {new.value}" + (f": {why}" if why else ""))
    return "\n".join(lines)


def roles() -> str:
    """Raft roles. Events with the same two ends share an arrow, in the order of the table."""
    arrows: list[tuple[Enum, Enum, str]] = []
    for old in Role:
        by_target: dict[Role, list[str]] = {}
        for event, new in ROLE_TRANSITIONS[old].items():
            by_target.setdefault(new, []).append(event.value)
        arrows += [(old, new, ", ".join(by_target[new])) for new in Role if new in by_target]
    return _state_diagram([Role.FOLLOWER], arrows)


def serving() -> str:
    """What a node does for clients. A state may also be entered again from itself; that is not drawn."""
    arrows: list[tuple[Enum, Enum, str]] = [
        (old, new, "")
        for old in Serving
        for new in Serving
        if new in SERVING_TRANSITIONS[old] and new is not old
    ]
    return _state_diagram([Serving.BOOTING, Serving.JOURNAL], arrows)


BLOCKS = {"roles": roles, "serving": serving}


def markers(name: str) -> tuple[str, str]:
    return f"<!-- diagram: {name} -->", f"<!-- end of {name} -->"


def block(name: str) -> str:
    """One block as it stands in the document, markers included."""
    begin, end = markers(name)
    return f"{begin}\n```mermaid\n{BLOCKS[name]()}\n```\n{end}"


def with_blocks(text: str) -> str:
    """`text` with every block brought up to date. ValueError if a marker is missing."""
    for name in BLOCKS:
        begin, end = markers(name)
        start = text.index(begin)
        text = text[:start] + block(name) + text[text.index(end, start) + len(end) :]
    return text


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        PROTOCOL.write_text(with_blocks(PROTOCOL.read_text(encoding="utf-8")), encoding="utf-8")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        print("\n\n".join(block(name) for name in BLOCKS))


if __name__ == "__main__":
    main()
