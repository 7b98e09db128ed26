"""Every story under tests/scripts/raft happens again exactly as it is written down."""

from pathlib import Path

import pytest

from tests.raft.script import replay

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts" / "raft").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    printed = replay(path)
    if request.config.getoption("--rewrite"):
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 20
