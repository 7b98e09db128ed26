"""Tools of the engine tests: a recorder of events, a client over a lane, and engines to order."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import uvloop

from cluster.engine.model import ModelEngine
from cluster.engine.protocol import Engine
from cluster.errors import EngineError
from cluster.runtime.valkey import ValkeyEngine, check_engine, find_engine
from cluster.types import NullLog, Offset

REPLICATION_ID = "5ead" * 10
DEADLINE_S = 60.0


def redis_binary() -> Path | None:
    """A Redis from PATH that is new enough, if there is one."""
    found = shutil.which("redis-server")
    try:
        return Path(found) if found and check_engine(Path(found)) else None
    except EngineError:
        return None


KINDS = ["model", "valkey"] + (["redis"] if redis_binary() else [])


class WallClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


class Recorder:
    """`EngineEvents` that remembers. `log` is [("booted",), ("feed_requested", 0), …]; effects are apart."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.effects = bytearray()
        self.start = 0  # the offset of effects[0]
        self.offset = 0
        self.version = ""
        self.command_table: object = None
        self._changed = asyncio.Event()

    def _note(self, *event: object) -> None:
        self.log.append(event)
        self._changed.set()

    def on_booted(self, version: str, command_table: object) -> None:
        self.version, self.command_table = version, command_table
        self._note("booted")

    def on_feed_requested(self, offset: Offset | None) -> None:
        self._note("feed_requested", offset)

    def on_feed_drained(self) -> None:
        self._note("feed_drained")

    def on_feed_lost(self) -> None:
        self._note("feed_lost")

    def on_offset(self, offset: Offset) -> None:
        self.offset = offset
        self._changed.set()

    def on_promoted(self, offset: Offset) -> None:
        self.start = offset
        self.effects.clear()
        self._note("promoted", offset)

    def on_effects(self, data: bytes) -> None:
        self.effects += data
        self._changed.set()

    def on_tap_lost(self) -> None:
        self._note("tap_lost")

    def on_died(self, reason: str) -> None:
        self._note("died", reason)

    @property
    def position(self) -> int:
        """How far the tap has come."""
        return self.start + len(self.effects)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def until_event(self, *event: object) -> tuple[object, ...]:
        """Wait for the next event that starts so; it and everything before it is forgotten."""

        def matches(one: tuple[object, ...]) -> bool:
            return one[: len(event)] == event

        try:
            await self.until(lambda: any(matches(one) for one in self.log))
        except TimeoutError:
            raise AssertionError(f"no {event} among {self.log}") from None
        while not matches(found := self.log.pop(0)):
            pass
        return found


class Client:
    """Commands over one lane."""

    def __init__(self, engine: Engine) -> None:
        self._reader = hiredis.Reader()
        self._replies: asyncio.Queue[object] = asyncio.Queue()
        self.raw = bytearray()
        self.closed = asyncio.Event()
        self.lane = engine.open_lane(self._on_data, self.closed.set)

    def _on_data(self, data: bytes) -> None:
        self.raw += data
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._replies.put_nowait(reply)

    async def reply(self) -> Any:
        return await asyncio.wait_for(self._replies.get(), DEADLINE_S)

    async def call(self, *words: bytes | str | int) -> Any:
        self.lane.write(pack(*words))
        return await self.reply()

    async def role_offset(self) -> int:
        role = await self.call("ROLE")
        assert role[0] == b"master", role
        return int(role[1])


def pack(*words: bytes | str | int) -> bytes:
    return bytes(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says a 1-tuple


def run(test: Coroutine[Any, Any, None]) -> None:
    """One test on uvloop, as the runtime runs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test)


Maker = Callable[..., Awaitable[tuple[Engine, Recorder]]]


@asynccontextmanager
async def engines(kind: str, directory: Path) -> AsyncIterator[Maker]:
    """Gives `make()`, which boots one more engine of that kind; all are ended afterwards, come what may."""
    made: list[Engine] = []

    async def make(**options: Any) -> tuple[Engine, Recorder]:
        recorder = Recorder()
        engine = new_engine(kind, directory / str(len(made)), recorder, **options)
        made.append(engine)
        engine.boot()
        await recorder.until_event("booted")
        return engine, recorder

    try:
        yield make
    finally:
        for engine in made:
            engine.kill()
            if isinstance(engine, ValkeyEngine):
                await asyncio.wait_for(engine.wait_ended(), DEADLINE_S)


def new_engine(kind: str, directory: Path, recorder: Recorder, **options: Any) -> Engine:
    loop = asyncio.get_running_loop()
    if kind == "model":
        return ModelEngine(events=recorder, clock=WallClock(), defer=loop.call_soon)
    binary = find_engine(None) if kind == "valkey" else redis_binary()
    assert binary is not None
    return ValkeyEngine(
        binary=binary,
        directory=directory,
        replication_id=REPLICATION_ID,
        events=recorder,
        log=NullLog(),
        loop=loop,
        **options,
    )


async def feed_empty(engine: Engine, recorder: Recorder) -> None:
    """A fresh engine becomes an empty replica at offset 0."""
    await recorder.until_event("feed_requested", None)
    engine.feed_full(Offset(0), b"")


async def until_offset(engine: Engine, recorder: Recorder, offset: int) -> None:
    """Poll until the engine says that it has applied everything before `offset`."""
    async with asyncio.timeout(DEADLINE_S):
        while recorder.offset != offset:
            before = recorder.offset
            engine.ask_offset()
            await asyncio.sleep(0.001 if recorder.offset == before else 0)


async def promoted(engine: Engine, recorder: Recorder) -> None:
    engine.promote()
    await recorder.until_event("promoted")


async def new_primary(make: Maker, **options: Any) -> tuple[Engine, Recorder, Client]:
    """An empty primary and a client of it."""
    engine, recorder = await make(**options)
    await feed_empty(engine, recorder)
    await until_loaded(engine)
    await promoted(engine, recorder)
    return engine, recorder, Client(engine)


async def until_loaded(engine: Engine) -> None:
    """A digest is only given by an engine that stands in the stream."""
    await digest_of(engine)


async def digest_of(engine: Engine) -> tuple[int, str]:
    answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
    engine.ask_digest(lambda offset, digest: answer.set_result((offset, digest)))
    return await asyncio.wait_for(answer, DEADLINE_S)
