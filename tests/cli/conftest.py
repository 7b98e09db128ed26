import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.runtime.launcher import Launcher
from cluster.runtime.processes import ProcessRef, family, kill_families
from cluster.runtime.up import UpOptions, free_base_port

MakeLauncher = Callable[[], Launcher]

AZS = ("az-a", "az-b", "az-c")
FAKE_NODE = (sys.executable, "-P", str(Path(__file__).with_name("fake_node.py")))


@pytest.fixture
def make_launcher(tmp_path: Path) -> Iterator[MakeLauncher]:
    """Launchers of one directory whose nodes are fakes; whatever they started is ended by pid afterwards."""
    made: list[Launcher] = []

    def make() -> Launcher:
        made.append(Launcher(tmp_path / "c", FAKE_NODE))
        return made[-1]

    yield make
    leaders: set[ProcessRef] = set()
    for launcher in made:
        if launcher.exists():
            leaders.update(launcher.state().nodes.values())
    kill_families([ref for leader in sorted(leaders) for ref in family(leader)])


@pytest.fixture
def options() -> UpOptions:
    """A one-shard cluster on ports that are free now."""
    return UpOptions(shards=1, port=free_base_port(1, 2, AZS))
