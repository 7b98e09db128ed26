"""The model against the real Valkey, command by command: same replies, same effects, same data in the end.

Not compared, since nobody can: times to the millisecond, ids made from the clock, the order of unordered
replies, and which members SPOP takes when it does not take all.
"""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cluster.engine.model import ModelEngine
from cluster.engine.protocol import Engine
from cluster.runtime.valkey import ValkeyEngine
from cluster.types import Offset
from tests.engine.driving import (
    DEADLINE_S,
    Client,
    Recorder,
    digest_of,
    feed_empty,
    new_engine,
    pack,
    promoted,
    until_offset,
)

# What the letters of a template stand for.
WORDS: dict[str, list[str]] = {
    "K": ["k1", "k2", "k3"],
    "V": ["a", "", "1", "-7", "10", "01", " 1", "9223372036854775807", "\r\n*1\r\n", "x" * 40],
    "M": ["a", "b", "c", "d"],
    "I": ["0", "1", "-1", "2", "-3", "100", "9223372036854775807", "-9223372036854775808", "a", "1.5", ""],
    "F": ["0", "1", "-2.5", "3.0", "1e3", "inf", "-inf", "+inf", "nan", "a", "0.1", ".5", "7."],
    "T": ["100", "5000", "0", "-1", "a", "9223372036854775807"],
    "Q": ["100000", "0", "-1", "a", "9223372036854775807"],
    "P": ["4102444800000", "1", "0", "-1", "x"],
    "O": ["NX", "XX", "GT", "LT", "nx", "FOO"],
    "X": ["1-1", "5", "5-*", "0-*", "0-0", "7-3", "*", "-", "18446744073709551615-1", "a-1"],
    "R": ["-", "+", "5", "(5-1", "1-1", "(7", "7-3", "x"],
    "C": ["NX", "XX", "GT", "LT", "CH", "INCR"],
    "B": ["*", "k*", "k?", "[a-k]1", "[^z]2", "k\\1", "nothing"],
}

TEMPLATES = """
GET K|SET K V|SET K V O|SET K V GET|SET K V O GET|SET K V EX T|SET K V PX Q O|SET K V PXAT P
SET K V EXAT T GET|SET K V KEEPTTL|SET K V KEEPTTL GET|set K V ex 100|SET K V EX|SET K V EX T PX Q|SETNX K V
MSET K V K V|MSET K V K|GETSET K V|GETDEL K|DEL K|DEL K K K|UNLINK K|EXISTS K K|EXPIRE K T|EXPIRE K T O
EXPIRE K T O O|PEXPIRE K Q|PEXPIREAT K P|PEXPIREAT K P O|pexpireat K P|EXPIREAT K T|TTL K|PERSIST K
INCR K|DECR K|INCRBY K I|DECRBY K I|APPEND K V|STRLEN K
RPUSH K V V|LPUSH K M|LPOP K|RPOP K|LPOP K I|RPOP K I|LPOP K I I|LRANGE K I I|LLEN K
SADD K M M|SREM K M M|SMEMBERS K|SISMEMBER K M|SCARD K|SPOP K 9|SPOP K 0|SPOP K -1|SPOP K a|SPOP K 1 1
HSET K M V|HSET K M V M V|HSET K M V M|HGET K M|HGETALL K|HDEL K M M|HINCRBY K M I|HLEN K
ZADD K F M|ZADD K F M F M|ZADD K C F M|ZADD K C C F M|ZADD K C F M F M|ZADD K F|ZADD K C F|ZSCORE K M
ZRANGE K I I|ZRANGE K I I WITHSCORES|ZRANGE K I I REV|ZRANGE K I I REV WITHSCORES|ZRANGE K I I FOO
ZREM K M M|ZCARD K|XADD K X M V|XADD K X M|XADD K NOMKSTREAM X M V
XLEN K|XRANGE K R R|XRANGE K R R COUNT I|XRANGE K R R FOO
DBSIZE|FLUSHALL|FLUSHALL ASYNC|FLUSHDB SYNC|FLUSHALL FOO|TYPE K|KEYS B|SELECT 0|SELECT 1|SELECT a
PING|PING V|PING V V|ECHO V|ECHO|GET|GET K K|NOSUCH K V|CLIENT SETNAME M|CLIENT GETNAME|CLIENT NOSUCH|CLIENT
CLIENT SETINFO LIB-NAME M|CLIENT SETINFO M M|COMMAND NOSUCH|HELLO a|HELLO 9|HELLO 2 FOO|UNWATCH|WATCH K
WATCH K K|MULTI|MULTI|MULTI|EXEC|EXEC|EXEC|DISCARD|MULTI a|EXEC a
"""

UNORDERED = (b"KEYS", b"SMEMBERS", b"HGETALL", b"SPOP", b"EXEC")

Command = tuple[int, tuple[str, ...]]  # which of two clients, and the words


def filled(template: str) -> st.SearchStrategy[tuple[str, ...]]:
    name, *rest = template.split()
    return st.tuples(st.just(name), *(st.sampled_from(WORDS.get(word, [word])) for word in rest))


commands = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from([one for line in TEMPLATES.split("\n") for one in line.split("|") if one]).flatmap(
            filled
        ),
    ),
    min_size=1,
    max_size=25,
)


def without_times(data: bytes) -> bytes:
    """Milliseconds since 1970 of our time, and stream ids made of them, as T."""
    return re.sub(rb"\b1[0-9]{12}(-[0-9]+)?\b", b"T", data)


def comparable(command: tuple[str, ...], reply: bytes) -> object:
    reply = without_times(reply)
    return sorted(reply.split(b"\r\n")) if command[0].upper().encode() in UNORDERED else reply


async def answered(client: Client, command: tuple[str, ...]) -> bytes:
    client.raw.clear()
    await client.call(*command)
    return bytes(client.raw)


async def dump(client: Client) -> dict[bytes, object]:
    """All keys with type and content, in an order that is the same for equal data."""
    reads = {
        b"string": ("GET", "{}"),
        b"list": ("LRANGE", "{}", "0", "-1"),
        b"set": ("SMEMBERS", "{}"),
        b"hash": ("HGETALL", "{}"),
        b"zset": ("ZRANGE", "{}", "0", "-1", "WITHSCORES"),
        b"stream": ("XRANGE", "{}", "-", "+"),
    }
    found: dict[bytes, object] = {}
    for key in await client.call("KEYS", "*"):
        kind = await client.call("TYPE", key)
        words = [key if word == "{}" else word for word in reads[kind]]
        await answered(client, ("PING",))
        client.raw.clear()
        await client.call(*words)
        lines = without_times(bytes(client.raw)).split(b"\r\n")
        found[key] = (
            kind,
            await client.call("TTL", key),
            sorted(lines) if kind in (b"set", b"hash") else lines,
        )
    return found


class Side:
    """One primary, and what it has said in this example."""

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self.engine, self.recorder = engine, recorder
        self.start = 0

    async def begin(self, resp3: bool) -> None:
        """An empty primary, just promoted, so that its first effect selects the database again."""
        self.engine.demote()
        await self.recorder.until_event("feed_requested")
        self.engine.feed_full(Offset(0), b"")
        await promoted(self.engine, self.recorder)
        self.clients = [Client(self.engine), Client(self.engine)]
        if resp3:
            for client in self.clients:
                await client.call("HELLO", 3)

    async def effects(self) -> bytes:
        watcher = Client(self.engine)
        offset = await watcher.role_offset()
        await self.recorder.until(lambda: self.recorder.position >= offset)
        watcher.lane.close()
        return bytes(self.recorder.effects)

    def end(self) -> None:
        for client in self.clients:
            client.lane.close()


class Pair:
    def __init__(self, runner: "asyncio.Runner", directory: Path) -> None:
        self.runner, self.directory = runner, directory
        runner.run(self.boot())

    async def boot(self) -> None:
        self.sides = []
        for kind in ("model", "valkey"):
            recorder = Recorder()
            engine = new_engine(kind, self.directory / kind, recorder)
            self.sides.append(Side(engine, recorder))
            engine.boot()
            await feed_empty(engine, recorder)
            await promoted(engine, recorder)

    async def shut(self) -> None:
        for side in self.sides:
            side.engine.kill()
            if isinstance(side.engine, ValkeyEngine):
                await asyncio.wait_for(side.engine.wait_ended(), DEADLINE_S)

    async def compare(self, story: list[Command], resp3: bool) -> None:
        for side in self.sides:
            await side.begin(resp3)
        for who, command in story:
            replies = [comparable(command, await answered(side.clients[who], command)) for side in self.sides]
            effects = [without_times(await side.effects()) for side in self.sides]
            assert replies[0] == replies[1], (command, replies)
            assert effects[0] == effects[1], (command, effects)
        fresh = [Client(side.engine) for side in self.sides]
        assert await dump(fresh[0]) == await dump(fresh[1])
        for side, client in zip(self.sides, fresh, strict=True):
            await self.check_replica_of(side, client)
            client.lane.close()
            side.end()

    async def check_replica_of(self, side: Side, client: Client) -> None:
        """A model fed with the side's effects, in small pieces, holds the same."""
        stream = await side.effects()
        recorder = Recorder()
        replica = new_engine("model", self.directory, recorder)
        replica.boot()
        await feed_empty(replica, recorder)
        for at in range(0, len(stream), 13):
            replica.feed(stream[at : at + 13])
        await until_offset(replica, recorder, len(stream))
        assert await dump(Client(replica)) == await dump(client)
        if isinstance(side.engine, ModelEngine):
            assert await digest_of(replica) == await digest_of(side.engine)
        replica.kill()


def new_runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as directory, new_runner() as runner:
        made = Pair(runner, Path(directory))
        try:
            yield made
        finally:
            runner.run(made.shut())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=commands, resp3=st.booleans())
@example(
    story=[
        (0, ("MULTI",)),
        (0, ("SET", "k1", "v", "NX", "EX", "100")),
        (0, ("INCR", "k2")),
        (0, ("EXEC",)),
        (0, ("WATCH", "k1")),
        (1, ("SET", "k1", "w")),
        (0, ("MULTI",)),
        (0, ("GET", "k1")),
        (0, ("EXEC",)),
    ],
    resp3=False,
)
def test_the_model_does_as_valkey_does(pair: Pair, story: list[Command], resp3: bool) -> None:
    pair.runner.run(pair.compare(story, resp3))


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "k"),
        ("SET", "k", "new", "NX"),
        ("SET", "k", "new", "KEEPTTL"),
        ("INCR", "k"),
        ("RPUSH", "k", "a"),
        ("SADD", "k", "a"),
        ("HSET", "k", "a", "b"),
        ("ZADD", "k", "1", "a"),
        ("XADD", "k", "1-1", "a", "b"),
        ("EXPIRE", "k", "100"),
        ("PERSIST", "k"),
        ("GETDEL", "k"),
        ("DEL", "k", "other"),
        ("MSET", "other", "1", "k", "2"),
        ("TTL", "k"),
        ("EXISTS", "k"),
        ("APPEND", "k", "x"),
        ("TYPE", "k"),
    ],
)
def test_a_command_that_meets_an_expired_key_deletes_it_first(pair: Pair, command: tuple[str, ...]) -> None:
    """With Valkey's timer off, so that the command is what finds it."""

    async def story() -> None:
        said = []
        for side in pair.sides:
            await side.begin(resp3=False)
            client = side.clients[0]
            if isinstance(side.engine, ValkeyEngine):
                assert await client.call("DEBUG", "SET-ACTIVE-EXPIRE", 0) == b"OK"
            await client.call("SET", "k", "v", "PX", 1)
            await client.call("SET", "other", "v", "PX", 1)
            async with asyncio.timeout(DEADLINE_S):
                while await client.call("KEYS", "*"):  # noqa: ASYNC110 (only asking tells)
                    await asyncio.sleep(0.001)
            reply = await answered(client, command)
            said.append((reply, without_times(await side.effects())))
            side.end()
        assert said[0] == said[1]
        assert pack("UNLINK", "k") in said[0][1]

    pair.runner.run(story())
