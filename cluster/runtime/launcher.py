"""A cluster on this machine as processes: a directory, and what runs out of it.

    DIR/cluster.toml         the cluster's description, written once by `create`
    DIR/state.json           which process each node is (pid and birth mark), which AZs are isolated
    DIR/lock                 held (flock) by whichever command is changing something
    DIR/nodes/<id>/          the node's data, and node.log with its JSON lines

Rules:
1. Everything that can be checked is checked before anything is created or started.
2. A directory is ours if it holds cluster.toml. One that is not ours and not empty is never written to.
3. state.json is replaced atomically after every start, so a command that dies leaves at most one process that
   nobody recorded; `_adopt` finds it by its command line, and all of them if the file is lost.
4. Signals go through `ProcessRef`s only (cluster/runtime/processes.py).
5. What fails half-way is undone: processes end, and a directory that `up` made disappears.
6. Only loopback: the launcher knows no other machine. Many hosts use `azimuth node run` under a supervisor.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from cluster.az.topology import NodeSpec, Topology
from cluster.errors import AzimuthError, ConfigError
from cluster.runtime.admin_client import AdminClient, Unreachable
from cluster.runtime.config import ClusterConfig, check_survives_a_zone, load, save
from cluster.runtime.pb import admin_pb2
from cluster.runtime.processes import (
    ProcessRef,
    family,
    identify,
    is_alive,
    is_stopped,
    keep_child,
    kill_families,
    reap_children,
    send_signal,
    signal_all,
    uninterrupted,
    wait_gone,
    wait_held,
)
from cluster.types import Az, NodeId, ShardId

CONFIG_NAME = "cluster.toml"
STATE_NAME = "state.json"
LOCK_NAME = "lock"
LOG_NAME = "node.log"
OUR_NAMES = frozenset({CONFIG_NAME, STATE_NAME, LOCK_NAME, "nodes"})

NODE_COMMAND = (sys.executable, "-P", "-m", "cluster.runtime.main")
LOCK_TIMEOUT_S = 90.0
TERM_TIMEOUT_S = 10.0
POLL_S = 0.05
ENGINE_DEATHS_MAX = 3  # in a row, half a second apart: it is no accident

Progress = Callable[[str], None]


class LaunchError(AzimuthError):
    """A process did not start, or would not end. The text is one clear line."""


@dataclass(slots=True)
class State:
    """What state.json holds."""

    nodes: dict[NodeId, ProcessRef] = field(default_factory=dict)
    isolated: list[Az] = field(default_factory=list)  # AZs whose links to all others are cut

    @classmethod
    def read(cls, path: Path) -> "State":
        """A file that is missing or damaged says nothing; whoever changes something looks for processes."""
        try:
            raw = json.loads(path.read_text())
            nodes = {
                NodeId(node): ProcessRef(int(ref["pid"]), str(ref["born"]))
                for node, ref in raw["nodes"].items()
            }
            return cls(nodes, [Az(az) for az in raw["isolated"]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def write(self, path: Path) -> None:
        raw = {
            "nodes": {node: {"pid": ref.pid, "born": ref.born} for node, ref in sorted(self.nodes.items())},
            "isolated": sorted(self.isolated),
        }
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(raw, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


class Launcher:
    """The processes of the cluster described in `directory`. Methods that change something take the lock."""

    def __init__(self, directory: Path, node_command: Sequence[str] = NODE_COMMAND) -> None:
        self.directory = directory.absolute()
        self.node_command = tuple(node_command)
        self._config: ClusterConfig | None = None
        self._lock_depth = 0

    # -- the directory -------------------------------------------------------------------------------------

    @property
    def config_path(self) -> Path:
        return self.directory / CONFIG_NAME

    @property
    def config(self) -> ClusterConfig:
        """The description in cluster.toml. ConfigError if there is none, or it is wrong."""
        if self._config is None:
            if not self.exists():
                raise ConfigError(f"no cluster in {self.directory}: run `azimuth up` first, or give --dir")
            self._config = load(self.config_path)
        return self._config

    @property
    def topology(self) -> Topology:
        return self.config.topology

    def exists(self) -> bool:
        return self.config_path.is_file()

    def node_directory(self, node: NodeId) -> Path:
        return self.directory / "nodes" / node

    def log_path(self, node: NodeId) -> Path:
        return self.node_directory(node) / LOG_NAME

    def check_usable(self) -> None:
        """ConfigError unless `directory` is ours, empty, or can be made."""
        path = self.directory
        try:
            if not path.exists():
                if not path.parent.is_dir():
                    raise ConfigError(f"--dir {path}: {path.parent} does not exist")
                if not os.access(path.parent, os.W_OK | os.X_OK):
                    raise ConfigError(f"--dir {path}: cannot write to {path.parent}")
                return
            if not path.is_dir():
                raise ConfigError(f"--dir {path}: not a directory")
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise ConfigError(f"--dir {path}: no permission to write there")
            # A lock alone is left by a command that died before it wrote anything else.
            if not self.exists() and any(entry.name != LOCK_NAME for entry in path.iterdir()):
                raise ConfigError(
                    f"--dir {path}: holds other things and no {CONFIG_NAME}; choose an empty one"
                )
        except OSError as error:
            raise ConfigError(f"--dir {path}: {error.strerror}") from None

    @contextmanager
    def locked(self, on_wait: Progress | None = None) -> Iterator[None]:
        """Only one command at a time changes a cluster. The directory must exist. Re-entrant."""
        if self._lock_depth:
            yield
            return
        descriptor = self._take_lock(on_wait)
        self._lock_depth += 1
        try:
            yield
        finally:
            self._lock_depth -= 1
            os.close(descriptor)

    def _take_lock(self, on_wait: Progress | None) -> int:
        path = self.directory / LOCK_NAME
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        said = False
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise ConfigError(f"cannot lock {path}: {error.strerror}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A `--wipe` may have removed the file between our open and our lock: then we hold nothing.
                if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
                os.close(descriptor)
                continue
            except BlockingIOError:
                os.close(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"another azimuth command has been working on {self.directory} for too long"
                )
            if not said and on_wait is not None:
                on_wait("waiting for another azimuth command on this directory")
                said = True
            time.sleep(POLL_S)

    def state(self) -> State:
        return State.read(self.directory / STATE_NAME)

    def _write_state(self, state: State) -> None:
        assert self._lock_depth > 0
        state.write(self.directory / STATE_NAME)

    # -- who runs ------------------------------------------------------------------------------------------

    def running(self) -> dict[NodeId, ProcessRef]:
        """The nodes whose process lives (paused ones too)."""
        reap_children()
        return {node: ref for node, ref in sorted(self.state().nodes.items()) if is_alive(ref)}

    def node_ids(self) -> list[NodeId]:
        return sorted(node.id for node in self.topology.nodes)

    def nodes_of_az(self, az: str) -> list[NodeId]:
        """Nodes in an AZ. ConfigError that lists the AZs if there is no such one."""
        if az not in self.topology.azs:
            raise ConfigError(
                f"no availability zone {az!r}; this cluster has {', '.join(sorted(self.topology.azs))}"
            )
        return sorted(node.id for node in self.topology.nodes if node.az == az)

    def node(self, node_id: str) -> NodeSpec:
        """ConfigError that lists the nodes if there is no such one."""
        for spec in self.topology.nodes:
            if spec.id == node_id:
                return spec
        raise ConfigError(f"no node {node_id!r}; this cluster has {', '.join(self.node_ids())}")

    # -- starting ------------------------------------------------------------------------------------------

    def create(self, config: ClusterConfig) -> bool:
        """Make the directory and its cluster.toml. Returns whether the directory itself was made (for
        undoing).
        """
        self.check_usable()
        made = not self.directory.exists()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        try:
            with self.locked():
                if self.exists():
                    raise LaunchError(f"another command has just made a cluster in {self.directory}")
                save(config, self.config_path)
        except BaseException:
            if made and not self.exists():
                (self.directory / LOCK_NAME).unlink(missing_ok=True)
                self.directory.rmdir()
            raise
        return made

    def start(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """Start those of `nodes` that do not run; returns them. Returns before they serve.

        Raises ConfigError if a port is taken or the placement not allowed, and LaunchError if a process
        cannot be started; then nothing that this call started remains.
        """
        check_survives_a_zone(self.config, self.config_path)
        with self.locked():
            state = self.state()
            self._adopt(state)
            missing = [n for n in nodes if n not in state.nodes or not is_alive(state.nodes[n])]
            check_ports_free([self.node(node) for node in missing])
            started: list[NodeId] = []
            try:
                for node in missing:
                    state.nodes[node] = self._spawn(node)
                    started.append(node)
                    self._write_state(state)
            except BaseException as error:
                with uninterrupted():
                    kill_families([state.nodes[node] for node in started])
                if isinstance(error, OSError):
                    raise LaunchError(f"cannot start a node: {error.strerror}") from None
                raise
            return started

    def _spawn(self, node: NodeId) -> ProcessRef:
        """A detached process: own session, no descriptors of ours, stderr to its log."""
        directory = self.node_directory(node)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self.log_path(node), flags, 0o600)
        try:
            child = subprocess.Popen(
                self._argv(node),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=directory,
                start_new_session=True,
                close_fds=True,
            )
        finally:
            os.close(log)
        keep_child(child)
        # It is our child and not reaped, so the pid is its own; if it has already ended, it counts as dead.
        return identify(child.pid) or ProcessRef(child.pid, "ended at once")

    def _argv(self, node: NodeId) -> list[str]:
        data = str(self.node_directory(node))
        return [*self.node_command, "--config", str(self.config_path), "--node", node, "--data", data]

    def _adopt(self, state: State) -> None:
        """Find nodes of ours that run but were not recorded: the command that started them was killed."""
        wanted = {tuple(self._argv(node)): node for node in self.node_ids()}
        for process in psutil.process_iter():
            try:
                node = wanted.get(tuple(process.cmdline()))
            except psutil.Error:
                continue
            ref = identify(process.pid) if node is not None else None
            if (
                node is not None
                and ref is not None
                and not (node in state.nodes and is_alive(state.nodes[node]))
            ):
                state.nodes[node] = ref
                self._write_state(state)

    # -- waiting -------------------------------------------------------------------------------------------

    def wait_serving(
        self,
        nodes: Sequence[NodeId] | None = None,
        timeout_s: float = 60.0,
        on_progress: Progress | None = None,
        *,
        spare_the_rest: bool = False,
    ) -> dict[NodeId, str]:
        """Wait until `nodes` (default all) answer and every shard of which a majority runs has a serving
        primary.

        Raises LaunchError as soon as one of them has ended, when the engines of a shard that does not serve
        die again and again, or at the timeout. With `spare_the_rest` a node that has ended is no error as
        long as every shard has a majority without it. Returns those, with their last words.
        """
        wanted = list(nodes) if nodes is not None else self.node_ids()
        deadline = time.monotonic() + timeout_s
        with AdminClient(self.topology.nodes) as admin:
            while True:
                ended = self._ended(wanted)
                electable = self._electable_shards()
                if ended and not (spare_the_rest and len(electable) == len(self.topology.shards)):
                    raise LaunchError(next(f"node {node} ended: {words}" for node, words in ended.items()))
                answers = admin.statuses(self.node_ids())
                silent = [node for node in wanted if node not in answers and node not in ended]
                primaries = {answer.shard for answer in answers.values() if answer.serving == "primary"}
                waiting = [shard for shard in electable if shard not in primaries]
                if not silent and not waiting:
                    return ended
                self._check_engines([answer for answer in answers.values() if answer.shard in waiting])
                missing = [f"node {node}" for node in silent] or [f"a primary of shard {s}" for s in waiting]
                if time.monotonic() > deadline:
                    raise LaunchError(f"after {timeout_s:.0f} s still waiting for {', '.join(missing)}")
                if on_progress is not None:
                    shards = len(self.topology.shards)
                    answering = f"{len(wanted) - len(silent) - len(ended)} of {len(wanted)} nodes answer"
                    on_progress(f"{answering}, {shards - len(waiting)} of {shards} shards serve")
                time.sleep(POLL_S)

    def _electable_shards(self) -> list[ShardId]:
        """Shards of which a majority of members runs and is not paused."""
        up = set(self.running()) - self.paused()
        shards = self.topology.shards
        return sorted(s.id for s in shards if 2 * sum(node.id in up for node in s.nodes) > len(s.nodes))

    def _ended(self, nodes: Sequence[NodeId]) -> dict[NodeId, str]:
        """Those that do not run, and the last that each said."""
        running = self.running()
        return {node: self._last_words(node) for node in nodes if node not in running}

    def _check_engines(self, answers: Sequence[admin_pb2.StatusReply]) -> None:
        for answer in sorted(answers, key=lambda answer: answer.node):
            if answer.engine_deaths >= ENGINE_DEATHS_MAX:
                deaths, trouble = answer.engine_deaths, answer.engine_trouble
                raise LaunchError(
                    f"the engine of node {answer.node} died {deaths} times at its start: {trouble}"
                )

    def _last_words(self, node: NodeId) -> str:
        lines = tail(self.log_path(node), 5)
        plain = [line for line in lines if line.strip() and not line.startswith("{")]
        return (plain or lines or ["it wrote nothing"])[-1].strip().removeprefix("azimuth: ")

    # -- ending and holding --------------------------------------------------------------------------------

    def stop(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """SIGTERM, wait, SIGKILL what is left, engines included. Returns the nodes that ran."""
        with self.locked():
            state = self.state()
            self._adopt(state)
            refs = {node: state.nodes[node] for node in nodes if node in state.nodes}
            alive = {node: ref for node, ref in refs.items() if is_alive(ref)}
            members = [member for ref in alive.values() for member in family(ref)]
            signal_all(alive.values(), signal.SIGTERM)
            signal_all(members, signal.SIGCONT)  # a paused process takes SIGTERM only when it goes on
            wait_gone(list(alive.values()), TERM_TIMEOUT_S)
            kill_families([ref for ref in alive.values() if is_alive(ref)])
            # An engine dies with its node by itself; what does not is ended here.
            signal_all(members, signal.SIGKILL)
            self._forget(state, list(refs), wait_gone(members, TERM_TIMEOUT_S))
            return sorted(alive)

    def kill(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """SIGKILL the nodes and their engines, all at once, and see them gone. Returns the nodes that ran."""
        with self.locked():
            state = self.state()
            self._adopt(state)
            alive = {n: state.nodes[n] for n in nodes if n in state.nodes and is_alive(state.nodes[n])}
            survivors = kill_families([alive[node] for node in sorted(alive)])
            self._forget(state, [node for node in nodes if node in state.nodes], survivors)
            return sorted(alive)

    def _forget(self, state: State, nodes: Sequence[NodeId], survivors: Sequence[ProcessRef]) -> None:
        for node in nodes:
            if not is_alive(state.nodes[node]):
                del state.nodes[node]
        if not state.nodes:
            state.isolated = []  # cut links live in the nodes: all new nodes, no cut
        self._write_state(state)
        if survivors:
            pids = ", ".join(str(ref.pid) for ref in survivors)
            raise LaunchError(f"could not end process {pids}")

    def pause(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """SIGSTOP nodes and engines. Returns those that were not paused before."""
        with self.locked():
            refs = self._running_of(nodes)
            fresh = [node for node, ref in refs.items() if not is_stopped(ref)]
            for ref in refs.values():
                send_signal(ref, signal.SIGSTOP)
            wait_held(list(refs.values()), True)
            members = [member for ref in refs.values() for member in family(ref)]
            signal_all(members, signal.SIGSTOP)
            wait_held(members, True)
            return fresh

    def resume(self, nodes: Sequence[NodeId]) -> list[NodeId]:
        """SIGCONT nodes and engines. Returns those that were paused."""
        with self.locked():
            refs = self._running_of(nodes)
            held = [node for node, ref in refs.items() if is_stopped(ref)]
            members = [member for ref in refs.values() for member in family(ref)]
            signal_all(members, signal.SIGCONT)
            wait_held(members, False)
            return held

    def paused(self) -> set[NodeId]:
        return {node for node, ref in self.running().items() if is_stopped(ref)}

    def _running_of(self, nodes: Sequence[NodeId]) -> dict[NodeId, ProcessRef]:
        self._adopt(self.state())
        running = self.running()
        return {node: running[node] for node in nodes if node in running}

    def wipe(self) -> None:
        """Delete the cluster's files, and the directory if nothing else is in it. Nothing may run."""
        with self.locked():
            assert not self.running(), "wipe of a running cluster"
            shutil.rmtree(self.directory / "nodes", ignore_errors=True)
            # cluster.toml after the data: an interrupted wipe leaves a directory that is still recognised.
            for name in (STATE_NAME, "state.tmp", CONFIG_NAME, LOCK_NAME):
                (self.directory / name).unlink(missing_ok=True)
            self._config = None
            try:
                self.directory.rmdir()
            except OSError:
                pass

    # -- links ---------------------------------------------------------------------------------------------

    def isolate(self, az: str, cut: bool) -> bool:
        """Cut or heal all links between an AZ and the others. Returns whether that changed anything."""
        self.nodes_of_az(az)
        with self.locked():
            state = self.state()
            self._adopt(state)
            if (az in state.isolated) == cut:
                return False
            state.isolated = sorted({*state.isolated, Az(az)} if cut else {*state.isolated} - {Az(az)})
            self._write_state(state)
            self.apply_isolation()
            return True

    def apply_isolation(self, timeout_s: float = 5.0) -> None:
        """Tell every running node which AZs it may not hear. Needed again after a node's start."""
        isolated = self.state().isolated
        paused = self.paused()
        with AdminClient(self.topology.nodes) as admin:
            for node in self.running():
                if node in paused:
                    continue  # the other end of each of its links is cut
                own = self.node(node).az
                others = [az for az in self.topology.azs if az != own]
                blocked = others if own in isolated else [az for az in others if az in isolated]
                try:
                    admin.isolate(node, blocked, timeout_s)
                except Unreachable as error:
                    raise LaunchError(f"cannot cut the links of {node}: {error}") from None


def check_ports_free(nodes: Sequence[NodeSpec]) -> None:
    """ConfigError that lists the taken ports."""
    taken = []
    for node in nodes:
        for port in {node.peer_port} if node.journal_only else {node.port, node.peer_port}:
            if not port_is_free(node.host, port):
                taken.append(port)
    if taken:
        ports = ", ".join(str(port) for port in sorted(taken))
        raise ConfigError(
            f"port {ports} on {nodes[0].host} in use: stop what uses it, or choose another --port"
        )


def port_is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file; [] if there is none. Reads from the end, so a long log costs nothing."""
    try:
        with open(path, "rb") as file:
            position = file.seek(0, os.SEEK_END)
            data = b""
            while position > 0 and data.count(b"\n") <= lines:
                step = min(1 << 16, position)
                position = file.seek(position - step)
                data = file.read(step) + data
    except OSError:
        return []
    return data.decode(errors="replace").splitlines()[-lines:] if lines > 0 else []
