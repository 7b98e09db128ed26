"""PySyncObj, the PyPI library, as it is: one `SyncObj` for each member of a shard.

No line of the library is changed. What it asks the system for is what differs, and only while its code runs
(`Inside`): the names `monotonicTime`, `random`, `os`, `open`, `mmap`, `shutil`, `gzip` and `logger` in its
modules mean this process's clock, chance, disk and trace. Its transport is ours (`syncobj_links.py`), its
files are its own on a simulated disk (`syncobj_files.py`).

How it is used, and why so:

* **Settings** are the library's, except: no thread (`autoTick=False`; `_turn` does what its thread does: a
  tick after whatever came in, at least twice a heartbeat, and an exception is logged and survived); election
  timeouts and heartbeat are those of the run, as every subject's, since the library's own (0.4 to 1.4 s)
  would make it wait longer for a leader; `connectionRetryTime` is half a second instead of five, in its
  favour, too; a journal and a full dump are kept; no fork for the dump (the same bytes at the same instant);
  the log is compacted after fewer entries (one for each `ENTRY_BYTES` of the run's `segment_bytes`, a limit
  that swarms draw tiny) and dumps are sent in smaller chunks, so that runs of some seconds with little data
  see both.
* **Reads** are replicated commands. The library has no linearizable read: it recommends reading the local
  copy, which may be stale on any node. `reads="local"` does that, on whoever believes to lead.
* **Two replicated methods**, `execute` and `multi`, instead of one for each command: they differ in nothing.
* A follower answers MOVED to the leader that it knows of.
* A journal that the library cannot open (it raises from its constructor) takes the machine out for good, as a
  corrupt log does with the product.
* A member that the topology calls journal-only is a full member here.

The module's name ends in an underscore because the library's is taken. Import it only where it is wanted:
importing it imports the library.
"""

import builtins
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import pysyncobj.journal
import pysyncobj.serializer
import pysyncobj.syncobj
from pysyncobj import FAIL_REASON, SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node as LibraryNode

from cluster.errors import WalCorrupt
from cluster.raft import RaftConfig
from cluster.shard.slots import key_slot
from cluster.sim.process import ProcessKilled, SimProcess
from cluster.sim.subjects import ClientSession, ClientTransport
from cluster.sim.subjects.syncobj_files import BusError, Files
from cluster.sim.subjects.syncobj_links import RawLinks, TcpLinks
from cluster.sim.subjects.syncobj_session import Command, Done, SyncObjSession
from cluster.sim.subjects.syncobj_store import READS, Data, run
from cluster.types import NodeId

JOURNAL = "pysyncobj.journal"
DUMP = "pysyncobj.dump"
TICK_US = 50_000  # the library's autoTickPeriod: it ticks no less often
ENTRY_BYTES = 256
CHUNK_BYTES = 256  # of a dump, in one message; see `syncobj_links` for the proportion
WRITE_BACK_EVERY_US = 500_000
STATES = ("follower", "candidate", "leader")
DIE_ODDS = 0.25  # that a process which is to die while it writes does so at this very write

_MODULES: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    (vars(pysyncobj.syncobj), ("monotonicTime", "random", "os", "createPoller", "logger")),
    (vars(pysyncobj.journal), ("open", "os", "mmap", "shutil")),
    (vars(pysyncobj.serializer), ("open", "os", "gzip", "atomicReplace", "logger")),
)
_ORIGINALS = [
    (namespace, {name: namespace.get(name, vars(builtins).get(name)) for name in names})
    for namespace, names in _MODULES
]


class Member(LibraryNode):  # type: ignore[misc]  # the library has no types
    """A member by its id. The library keeps members in sets: their order must not depend on str's hash."""

    def __hash__(self) -> int:
        return zlib.crc32(str(self.id).encode())


class Store(SyncObj):  # type: ignore[misc]
    """The replicated object."""

    def __init__(self, member: Member, others: Sequence[Member], conf: Any, links: Any) -> None:
        super().__init__(member, others, conf, transportClass=links)
        self.data: Data = {}  # all that is not the library's own is in its dumps

    @replicated  # type: ignore[untyped-decorator]
    def execute(self, words: Command) -> object:
        return run(self.data, words)

    @replicated  # type: ignore[untyped-decorator]
    def multi(self, commands: Sequence[Command]) -> object:
        return [run(self.data, words) for words in commands]


class _NoPoller:
    """There are no sockets."""

    def poll(self, timeout: float) -> None: ...


class _Logger:
    """The library's log lines as events."""

    def __init__(self, process: SimProcess) -> None:
        self._log = process.log

    def _note(self, event: str, text: str, *args: object) -> None:
        self._log.info(event, text=text % args if args else text)

    def __getattr__(self, level: str) -> Callable[..., None]:
        return partial(self._note, f"library_{level}")

    def exception(self, text: str) -> None:
        error = sys.exc_info()[1]
        self._note("library_exception", f"{text}: {type(error).__name__}: {error}".replace("%", "%%"))


class PySyncObjNode:
    """A `SubjectNode`."""

    engine = None

    def __init__(self, process: SimProcess, subject: "PySyncObjSubject") -> None:
        process.wal = None  # the journal is the library's
        self._process = process
        self._subject = subject
        self.id = process.id
        self.life = process.machine.lives
        self.files = Files(process.machine.disk, self)
        self._ahead_us = 0  # how far the library's clock ran ahead within its last turns
        self._last_us = 0
        self._dead = False
        self._turn_asked = False
        self._last_tick_us = 0
        self._raft = process.sim.raft_config(process.spec)
        self._tick_us = min(TICK_US, self._raft.heartbeat_ms * 500)
        self._next_write_back_us = 0
        self._done: list[Callable[[], None]] = []
        self._views = self._make_views(process)
        self.store: Store | None = None
        # Members that vote without an engine are an idea of the product: here every one may lead.
        members = process.sim.topology.shard(process.spec.shard).nodes
        process.sim.serving_nodes[process.spec.shard] = [node.id for node in members]

    def _make_views(self, process: SimProcess) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        logger, files = _Logger(process), self.files
        names: dict[str, Any] = {
            "monotonicTime": self._monotonic,
            "random": process.rng,
            "createPoller": lambda kind: _NoPoller(),
            "logger": logger,
            "open": files.open,
            "os": files.os,
            "mmap": files.mmap,
            "shutil": files.shutil,
            "gzip": files.gzip,
            "atomicReplace": files.rename,
        }
        return [(namespace, {name: names[name] for name in wanted}) for namespace, wanted in _MODULES]

    # -- what the library finds ------------------------------------------------------------------------

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The library's code may run: the names in its modules are this process's."""
        for namespace, view in self._views:
            namespace.update(view)
        try:
            yield
        finally:
            for namespace, originals in _ORIGINALS:
                namespace.update(originals)
            if self._dead:  # a bare `except:` of the library may have swallowed it
                raise ProcessKilled

    def now_us(self) -> int:
        """The process's clock, which went on while this turn was at work."""
        now = max(self._process.now_us() + self._ahead_us, self._last_us)
        self._ahead_us = now - self._process.now_us()
        self._last_us = now
        return now

    def spend(self, us: int) -> None:
        self._ahead_us += us

    def _monotonic(self) -> float:
        return self.now_us() / 1_000_000

    def touch_disk(self) -> None:
        if self._process.machine.kill_at == "persist" and self._process.rng.random() < DIE_ODDS:
            self._dead = True
        if self._dead:
            self._process.machine.kill_at = None
            raise ProcessKilled

    def send(self, to: NodeId, message: object) -> None:
        if self._dead:
            raise ProcessKilled
        self._process.send(to, message)

    # -- its life --------------------------------------------------------------------------------------

    def start(self) -> None:
        process = self._process
        members = process.sim.topology.shard(process.spec.shard).nodes
        conf = self._subject.make_conf(self._raft, process.sim.config.segment_bytes)
        conf.onStateChanged = self._on_state_changed
        links = partial(RawLinks if self._subject.raw else TcpLinks, self)
        others = [Member(node.id) for node in members if node.id != self.id]
        with self._inside():
            try:
                self.store = Store(Member(self.id), others, conf, links)
            except (struct.error, ValueError, IndexError, OSError) as error:
                raise WalCorrupt(
                    f"the library cannot open its journal: {type(error).__name__}: {error}"
                ) from None
        self._links = self.store._SyncObj__transport

    def _on_state_changed(self, old: int, new: int) -> None:
        self._process.log.info(f"became_{STATES[new]}")

    def on_tick(self) -> None:
        now = self._process.now_us()
        if now >= self._next_write_back_us:
            self._next_write_back_us = now + WRITE_BACK_EVERY_US
            self.files.write_back()
        self._survive(self._links.on_timer)
        if now - self._last_tick_us >= self._tick_us:
            self._turn()

    def on_message(self, sender: NodeId, message: object) -> None:
        """As the library's poller: what is in the sockets is handled, then the next tick comes at once."""
        self._survive(partial(self._links.receive, sender, message))
        if not self._turn_asked:
            self._turn_asked = True
            self._process.call_soon(self._turn)

    def _turn(self) -> None:
        assert self.store is not None
        self._turn_asked = False
        self._last_tick_us = self._process.now_us()
        self._survive(self.store.doTick)

    def _survive(self, call: Callable[[], object]) -> None:
        """As the library's thread: an exception is logged, and it goes on."""
        with self._inside():
            try:
                call()
            except BusError:
                raise ProcessKilled from None
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                self._process.log.error("library_tick_failed", error=text)
            self._links.flush()
        self._tell()

    def _tell(self) -> None:
        """Clients are answered outside the library's code."""
        while self._done:
            done, self._done = self._done, []
            for each in done:
                each()

    # -- clients ---------------------------------------------------------------------------------------

    def open_session(self, transport: ClientTransport, address: str) -> ClientSession:
        return SyncObjSession(self, transport)

    def close_session(self, session: ClientSession) -> None:
        assert isinstance(session, SyncObjSession)
        session.close()

    def refusal(self, key: str) -> bytes | None:
        topology, store = self._process.sim.topology, self.store
        assert store is not None
        slot = key_slot(key.encode("latin-1"))
        shard = topology.shard_of_slot(slot)
        if shard.id != self._process.spec.shard:
            target = shard.nodes[0]
        elif store._isLeader():
            return None
        else:
            leader = store._getLeader()
            if leader is None or leader.id == self.id:
                return b"-CLUSTERDOWN no leader\r\n"
            target = topology.node(leader.id)
        return f"-MOVED {slot} {target.host}:{target.port}\r\n".encode()

    def execute(self, commands: Sequence[Command], done: Done, *, multi: bool) -> None:
        """Hand it to the library; `done` is called outside its code."""
        store = self.store
        assert store is not None
        if self._subject.reads == "local" and all(words[0] in READS for words in commands):
            results = [run(store.data, words) for words in commands]
            done(results if multi else results[0], FAIL_REASON.SUCCESS)
            return

        def on_result(result: object, reason: int) -> None:
            self._done.append(partial(done, result, reason))

        with self._inside():
            if multi:
                store.multi(commands, callback=on_result)
            else:
                store.execute(commands[0], callback=on_result)
        self._tell()

    # -- what the simulator asks -----------------------------------------------------------------------

    @property
    def leads(self) -> bool:
        return self.store is not None and bool(self.store._isLeader())

    @property
    def established(self) -> bool:
        """It leads, and the NO_OP that it began with is committed."""
        store = self.store
        return self.leads and store is not None and store.raftCommitIndex >= store._SyncObj__noopIDx

    @property
    def serves(self) -> bool:
        return self.leads

    @property
    def settled(self) -> bool:
        """Everything it knows to be committed is applied, and it knows of a leader."""
        store = self.store
        return (
            store is not None
            and store.raftLastApplied >= store.raftCommitIndex
            and store._getLeader() is not None
            and store.isReady()
        )

    @property
    def position(self) -> tuple[int, ...]:
        store = self.store
        return (0, 0) if store is None else (store.raftCurrentTerm, store.raftCommitIndex)

    def transfer(self) -> bool:
        return False


class PySyncObjSubject:
    """`raw`: without TCP between the nodes. `compact_after`: entries after which the log is compacted, if not
    as many as the run says."""

    name = "pysyncobj"

    def __init__(
        self,
        *,
        raw: bool = False,
        reads: Literal["replicated", "local"] = "replicated",
        compact_after: int | None = None,
    ) -> None:
        self.raw = raw
        self.reads = reads
        self._compact_after = compact_after

    def make_conf(self, raft: RaftConfig, segment_bytes: int) -> Any:
        return SyncObjConf(
            autoTick=False,
            raftMinTimeout=raft.election_timeout_min_ms / 1_000,
            raftMaxTimeout=raft.election_timeout_max_ms / 1_000,
            appendEntriesPeriod=min(raft.heartbeat_ms, raft.election_timeout_min_ms / 3.1) / 1_000,
            journalFile=JOURNAL,
            fullDumpFile=DUMP,
            useFork=False,
            logCompactionMinEntries=self._compact_after or max(2, segment_bytes // ENTRY_BYTES),
            logCompactionBatchSize=CHUNK_BYTES,
            connectionRetryTime=0.5,
        )

    def make_node(self, process: SimProcess) -> PySyncObjNode:
        return PySyncObjNode(process, self)
