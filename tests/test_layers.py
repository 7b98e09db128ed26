"""The layer table of docs/architecture.md, and what a pure package may not touch, held by walking every
import.

A breach is a sentence with file and line. The walk itself is tested on planted breaches at the end.
"""

import ast
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PURE = ("cluster.raft", "cluster.az", "cluster.engine", "cluster.shard", "cluster.front", "cluster.node")
NEUTRAL = ("cluster.types", "cluster.errors", "cluster.events")

# Who may import which of our packages, besides itself and the neutral modules. A longer name counts first.
# The front needs two interfaces that are nobody's behaviour: the topology's types and the Protocol of an
# engine.
LAYERS: dict[str, tuple[str, ...]] = {
    "cluster.types": (),
    "cluster.errors": (),
    "cluster.events": (),
    "cluster.raft": (),
    "cluster.az": (),
    "cluster.engine": (),
    "cluster.shard": ("cluster.raft", "cluster.az", "cluster.engine"),
    "cluster.front": (
        "cluster.shard.slots",
        "cluster.shard.shard_map",
        "cluster.az.topology",
        "cluster.engine.protocol",
    ),
    "cluster.node": PURE,
    "cluster.sim": PURE,
    "cluster.runtime": PURE,
    "cli": (*PURE, "cluster.runtime", "cluster.sim"),
    "cluster": (),
}

BANNED_IN_PURE = {
    "asyncio": "the shell drives, the core decides",
    "concurrent": "no threads",
    "datetime": "time is passed in",
    "fcntl": "no files",
    "glob": "no files",
    "grpc": "only cluster/runtime speaks gRPC",
    "io": "no files",
    "multiprocessing": "no processes",
    "os": "no files, no processes",
    "pathlib": "no files",
    "psutil": "no processes",
    "secrets": "chance is an rng argument",
    "select": "no sockets",
    "selectors": "no sockets",
    "shutil": "no files",
    "signal": "no processes",
    "socket": "no sockets",
    "ssl": "no sockets",
    "subprocess": "no processes",
    "tempfile": "no files",
    "threading": "no threads",
    "time": "time is passed in",
    "uuid": "chance is an rng argument",
    "uvloop": "the shell drives, the core decides",
}
BANNED_CALLS = {"open", "input", "print", "id", "hash"}  # hash() and id() differ from run to run


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer_of(module: str) -> str:
    return max((layer for layer in LAYERS if within(module, layer)), key=len)


def is_pure(module: str) -> bool:
    return any(within(module, package) for package in PURE)


def imports(tree: ast.Module, module: str, *, package: bool) -> Iterator[tuple[int, str]]:
    """Every module that is imported anywhere in the file, relative imports made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                kept = parents[: len(parents) - node.level + package]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from cluster.raft import messages` imports a module, `from cluster.raft import RaftNode`
                # a name: either lies within what the table says of cluster.raft.
                yield node.lineno, f"{base}.{alias.name}" if within(base, "cluster") else base


def may_import(module: str, target: str) -> bool:
    layer = layer_of(module)
    if layer != "cluster" and within(target, layer):
        return True
    return any(within(target, allowed) for allowed in (*NEUTRAL, *LAYERS[layer]))


def import_breaches(module: str, where: str, tree: ast.Module, *, package: bool) -> Iterator[str]:
    for line, target in imports(tree, module, package=package):
        top = target.split(".")[0]
        if top == "cluster" or top == "cli":
            if not may_import(module, target):
                yield f"{where}:{line}: {layer_of(module)} may not import {target}"
        elif is_pure(module) and top in BANNED_IN_PURE:
            yield f"{where}:{line}: {module} is pure and may not import {top} ({BANNED_IN_PURE[top]})"


def call_breaches(where: str, tree: ast.Module) -> Iterator[str]:
    """In a pure package: module-level random functions, and built-ins that reach outside or differ by run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            for alias in node.names:
                if alias.name != "Random":
                    yield f"{where}:{node.lineno}: random.{alias.name} shares one state; pass an rng"
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "random" and node.attr != "Random":
                yield f"{where}:{node.lineno}: random.{node.attr} shares one state; pass an rng"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in BANNED_CALLS:
                yield f"{where}:{node.lineno}: {node.func.id}() has no place in a pure package"
            elif node.func.id == "Random" and not node.args and not node.keywords:
                yield f"{where}:{node.lineno}: Random() without a seed draws one from the system"


def breaches(root: Path) -> list[str]:
    found: list[str] = []
    for top in ("cluster", "cli"):
        for path in sorted((root / top).rglob("*.py")):
            if path.is_relative_to(root / "cluster" / "runtime" / "pb"):
                continue
            module = module_name(path, root)
            where = str(path.relative_to(root))
            tree = ast.parse(path.read_text(encoding="utf-8"), where)
            found += import_breaches(module, where, tree, package=path.name == "__init__.py")
            if is_pure(module):
                found += call_breaches(where, tree)
    return found


def test_no_layer_imports_what_it_may_not_and_pure_packages_stay_pure() -> None:
    assert breaches(ROOT) == []


def test_every_package_has_its_line_in_the_table() -> None:
    packages = {
        f"cluster.{path.stem}"
        for path in (ROOT / "cluster").iterdir()
        if (path.is_dir() and any(path.glob("*.py"))) or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert packages - set(LAYERS) == set()


PLANTED = {
    "cluster/raft/node.py": ("import time", "cluster.raft.node is pure and may not import time"),
    "cluster/raft/log.py": (
        "from cluster.shard.slots import key_slot",
        "cluster.raft may not import cluster.shard",
    ),
    "cluster/raft/deep.py": ("def f():\n    import os.path", "deep is pure and may not import os"),
    "cluster/az/plan.py": ("import random\nrandom.shuffle([1])", "random.shuffle shares one state"),
    "cluster/az/draw.py": ("from random import choice", "random.choice shares one state"),
    "cluster/az/seed.py": ("from random import Random\nRandom()", "Random() without a seed"),
    "cluster/shard/replica.py": (
        "from ..runtime import wal",
        "cluster.shard may not import cluster.runtime.wal",
    ),
    "cluster/shard/__init__.py": ("from .. import front", "cluster.shard may not import cluster.front"),
    "cluster/shard/order.py": ("sorted([1], key=lambda x: hash(x))", "hash() has no place in a pure package"),
    "cluster/front/session.py": ("from cluster.shard import replica", "may not import cluster.shard.replica"),
    "cluster/front/dump.py": ("open('x')", "open() has no place in a pure package"),
    "cluster/front/both.py": ("import socket as s, grpc", "both is pure and may not import grpc"),
    "cluster/engine/model.py": ("from cluster import raft", "may not import cluster.raft"),
    "cluster/node.py": (
        "from cluster.runtime.wal import Wal",
        "cluster.node may not import cluster.runtime.wal",
    ),
    "cluster/runtime/main.py": (
        "import cluster.sim.clock",
        "cluster.runtime may not import cluster.sim.clock",
    ),
    "cluster/sim/net.py": (
        "from cluster.runtime import main",
        "cluster.sim may not import cluster.runtime.main",
    ),
    "cluster/types.py": ("from cluster import raft", "cluster.types may not import cluster.raft"),
}


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_breach_is_found(name: str, tmp_path: Path) -> None:
    source, expected = PLANTED[name]
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text(source)
    found = breaches(tmp_path)
    assert found, f"{name}: nothing was found"
    assert any(expected in breach for breach in found), found


CLEAN = {
    "cluster/raft/node.py": "import random\nfrom cluster.types import Term\ndef f(rng: random.Random): ...",
    "cluster/shard/replica.py": "from cluster.raft.messages import Entry\nfrom . import slots",
    "cluster/front/lane.py": "from cluster.engine.protocol import Engine\nfrom cluster.shard import slots",
    "cluster/runtime/main.py": "import os, time, asyncio\nfrom cluster.node import Node\nopen('x')",
    "cli/main.py": "from cluster.runtime.config import load",
}


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    for name in random.Random(1).sample(sorted(CLEAN), len(CLEAN)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(CLEAN[name])
    assert breaches(tmp_path) == []
