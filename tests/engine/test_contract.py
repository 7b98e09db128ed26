"""One contract, every engine: the model, the bundled Valkey, and a Redis from PATH if there is one."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cluster.engine.model import ModelEngine
from cluster.engine.protocol import Engine
from cluster.types import Offset
from tests.engine.driving import (
    KINDS,
    Client,
    Maker,
    Recorder,
    digest_of,
    engines,
    feed_empty,
    new_primary,
    pack,
    promoted,
    run,
    until_loaded,
    until_offset,
)

Story = Callable[[Maker], Awaitable[None]]
Play = Callable[[Story], None]

STREAM = b"".join(
    [
        pack("SELECT", "0"),
        pack("SET", "k", "v"),
        pack("SET", "later", "v", "PXAT", 4102444800000),
        pack("MULTI"),
        pack("RPUSH", "l", "a", "b"),
        pack("INCR", "n"),
        pack("EXEC"),
        pack("SADD", "s", "x", "y"),
        pack("SREM", "s", "x"),
        pack("UNLINK", "k"),
        pack("XADD", "st", "5-1", "f", b"\r\n*1\r\n"),
    ]
)


@pytest.fixture(params=KINDS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Runs a story with engines of one kind."""

    def play_it(story: Story) -> None:
        async def whole() -> None:
            async with engines(request.param, tmp_path) as make:
                await story(make)

        run(whole())

    return play_it


async def settled(recorder: Recorder, client: Client) -> bytes:
    """All effects so far, once the tap has reached what ROLE says on the client's lane."""
    offset = await client.role_offset()
    await recorder.until(lambda: recorder.position >= offset)
    assert recorder.position == offset
    return bytes(recorder.effects)


async def fed(engine: Engine, recorder: Recorder, pieces: list[bytes]) -> None:
    await feed_empty(engine, recorder)
    for piece in pieces:
        engine.feed(piece)
    await until_offset(engine, recorder, sum(len(piece) for piece in pieces))


def in_pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def test_a_new_engine_reports_its_version_and_commands_and_asks_for_everything(play: Play) -> None:
    async def story(make: Maker) -> None:
        _, recorder = await make()
        assert recorder.version
        assert isinstance(recorder.command_table, list)
        get = next(entry for entry in recorder.command_table if entry[0] == b"get")
        assert get[1:6] == [2, [b"readonly", b"fast"], 1, 1, 1]
        await recorder.until_event("feed_requested", None)

    play(story)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_stream_cut_anywhere_gives_the_same_data_and_offset(play: Play, size: int) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await fed(engine, recorder, in_pieces(STREAM, size))
        whole, whole_recorder = await make()
        await fed(whole, whole_recorder, [STREAM])
        assert await digest_of(engine) == await digest_of(whole)
        assert (await digest_of(engine))[0] == len(STREAM)
        client = Client(engine)
        assert await client.call("LRANGE", "l", 0, -1) == [b"a", b"b"]
        assert await client.call("GET", "n") == b"1"
        assert await client.call("EXISTS", "k") == 0

    play(story)


def test_a_transaction_without_its_exec_moves_nothing(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        before = pack("SELECT", 0) + pack("SET", "a", 1)
        await fed(engine, recorder, [before])
        dangling = pack("MULTI") + pack("SET", "a", 2) + pack("SET", "b", 2)
        engine.feed(dangling)
        client = Client(engine)
        for _ in range(20):
            assert await client.call("GET", "a") == b"1"
        recorder.offset = -1
        engine.ask_offset()
        await recorder.until(lambda: recorder.offset >= 0)
        assert recorder.offset == len(before)
        engine.feed(pack("EXEC"))
        await until_offset(engine, recorder, len(before) + len(dangling + pack("EXEC")))
        assert await client.call("GET", "b") == b"2"

    play(story)


def test_a_dangling_transaction_is_forgotten_by_a_promotion(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        before = pack("SELECT", 0) + pack("SET", "a", 1)
        await fed(engine, recorder, [before])
        engine.feed(pack("MULTI") + pack("SET", "a", 2))
        engine.promote()
        assert await recorder.until_event("promoted") == ("promoted", len(before))
        client = Client(engine)
        assert await client.call("GET", "a") == b"1"
        assert await client.call("INCR", "n") == 1
        assert await settled(recorder, client) == pack("SELECT", 0) + pack("INCR", "n")

    play(story)


def test_a_promotion_stands_where_the_stream_ended(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await fed(engine, recorder, [STREAM])
        engine.promote()
        assert await recorder.until_event("promoted") == ("promoted", len(STREAM))
        client = Client(engine)
        assert await client.role_offset() == len(STREAM)

    play(story)


Commands = list[tuple[str, ...]]
COMMANDS_AND_EFFECTS: list[tuple[Commands, Commands]] = [
    ([("SET", "k", "v")], [("SELECT", "0"), ("SET", "k", "v")]),
    ([("GET", "k")], []),
    ([("SET", "k", "w", "NX")], []),
    ([("SET", "k", "w", "GET")], [("SET", "k", "w")]),
    ([("PEXPIREAT", "k", "4102444800000")], [("PEXPIREAT", "k", "4102444800000")]),
    ([("SET", "gone", "v", "PXAT", "4102444800000")], [("SET", "gone", "v", "PXAT", "4102444800000")]),
    ([("SADD", "s", "one")], [("SADD", "s", "one")]),
    ([("SPOP", "s")], [("SREM", "s", "one")]),
    ([("GETSET", "k", "x")], [("SET", "k", "x")]),
    ([("GETDEL", "k")], [("DEL", "k")]),
    ([("DEL", "nothing")], []),
    ([("MULTI",), ("INCR", "n"), ("EXEC",)], [("INCR", "n")]),
    (
        [("MULTI",), ("INCR", "n"), ("GET", "n"), ("LPUSH", "l", "a"), ("EXEC",)],
        [("MULTI",), ("INCR", "n"), ("LPUSH", "l", "a"), ("EXEC",)],
    ),
    ([("MULTI",), ("SET", "n", "0"), ("DISCARD",)], []),
    ([("XADD", "st", "7-*", "f", "v")], [("XADD", "st", "7-0", "f", "v")]),
    ([("FLUSHALL",)], [("FLUSHALL",)]),
]


def test_effects_are_these_bytes(play: Play) -> None:
    async def story(make: Maker) -> None:
        _, recorder, client = await new_primary(make)
        seen = b""
        for commands, effects in COMMANDS_AND_EFFECTS:
            for command in commands:
                await client.call(*command)
            everything = await settled(recorder, client)
            assert everything == seen + b"".join(pack(*effect) for effect in effects), commands
            seen = everything

    play(story)


def test_an_expired_key_is_deleted_by_an_effect_of_its_own(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        await client.call("SET", "k", "v", "PX", 1)
        deletions = (pack("UNLINK", "k"), pack("DEL", "k"))
        async with asyncio.timeout(60):
            while not bytes(recorder.effects).endswith(deletions):
                if isinstance(engine, ModelEngine):
                    engine.tick()
                await asyncio.sleep(0.001)
        await settled(recorder, client)

    play(story)


def test_role_on_a_lane_covers_everything_before_it(play: Play) -> None:
    async def story(make: Maker) -> None:
        _, recorder, client = await new_primary(make)
        client.lane.write(b"".join(pack("RPUSH", "l", n) for n in range(50)) + pack("ROLE"))
        for n in range(50):
            assert await client.reply() == n + 1
        role = await client.reply()
        await recorder.until(lambda: recorder.position >= role[1])
        assert recorder.position == role[1]
        assert bytes(recorder.effects).endswith(pack("RPUSH", "l", 49))

    play(story)


def test_the_recorded_stream_makes_an_equal_engine(play: Play) -> None:
    async def story(make: Maker) -> None:
        first, recorder, client = await new_primary(make)
        for n in range(20):
            await client.call("SET", f"k{n % 7}", n, "EX", 100)
            await client.call("HSET", "h", f"f{n % 5}", n)
            await client.call("ZADD", "z", n, f"m{n % 6}")
            await client.call("XADD", "st", "*", "n", n)
            await client.call("SADD", "s", n)
        await client.call("SPOP", "s", 5)
        stream = await settled(recorder, client)
        second, second_recorder = await make()
        await fed(second, second_recorder, in_pieces(stream, 11))
        assert await digest_of(second) == await digest_of(first)
        await promoted(second, second_recorder)
        assert second_recorder.start == recorder.position

    play(story)


def test_a_clean_demotion_continues_and_can_be_promoted_again(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        await client.call("SET", "k", 1)
        stream = await settled(recorder, client)
        engine.demote()
        assert await recorder.until_event("feed_requested") == ("feed_requested", len(stream))
        await asyncio.wait_for(client.closed.wait(), 60)
        engine.feed_continue(Offset(len(stream)))
        more = pack("SELECT", 0) + pack("SET", "k", 2)
        engine.feed(more)
        await until_offset(engine, recorder, len(stream + more))
        await promoted(engine, recorder)
        assert recorder.start == len(stream + more)
        client = Client(engine)
        assert await client.call("GET", "k") == b"2"
        assert await client.call("SET", "k", 3) == b"OK"
        assert await settled(recorder, client) == pack("SELECT", 0) + pack("SET", "k", 3)

    play(story)


def test_a_dirty_demotion_is_wiped_by_a_full_feed(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        await client.call("SET", "never-committed", 1)
        stream = await settled(recorder, client)
        engine.demote()
        assert await recorder.until_event("feed_requested") == ("feed_requested", len(stream))
        engine.feed_full(Offset(0), b"")
        engine.feed(STREAM)
        await until_offset(engine, recorder, len(STREAM))
        client = Client(engine)
        assert await client.call("GET", "never-committed") is None
        other, other_recorder = await make()
        await fed(other, other_recorder, [STREAM])
        assert await digest_of(engine) == await digest_of(other)

    play(story)


def test_a_full_feed_may_begin_at_any_offset(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await recorder.until_event("feed_requested", None)
        engine.feed_full(Offset(10**12), b"")
        engine.feed(STREAM)
        await until_offset(engine, recorder, 10**12 + len(STREAM))

    play(story)


def test_a_replica_reads_but_refuses_writes(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await fed(engine, recorder, [STREAM])
        client = Client(engine)
        assert await client.call("GET", "n") == b"1"
        assert str(await client.call("SET", "n", 2)).startswith("READONLY")
        assert (await digest_of(engine))[0] == len(STREAM)

    play(story)


def test_a_demotion_closes_lanes_and_no_more_effects_come(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        other = Client(engine)
        await other.call("PING")
        await settled(recorder, client)
        client.lane.write(pack("SET", "k", "in flight"))
        before = recorder.position
        engine.demote()
        await asyncio.wait_for(client.closed.wait(), 60)
        await asyncio.wait_for(other.closed.wait(), 60)
        event = await recorder.until_event("feed_requested")
        assert event[1] in (before, before + len(pack("SELECT", 0) + pack("SET", "k", "in flight")))
        assert recorder.position == before
        client.lane.write(pack("PING"))  # ignored

    play(story)


def test_a_lane_closed_by_us_says_nothing_more(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, _, client = await new_primary(make)
        client.lane.write(pack("PING"))
        client.lane.close()
        client.lane.close()
        other = Client(engine)
        for _ in range(5):
            await other.call("PING")
        assert not client.closed.is_set()
        assert not client.raw

    play(story)


def test_a_killed_engine_is_silent_and_boots_again_empty(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        await client.call("SET", "k", 1)
        client.lane.write(pack("SET", "k", 2))
        recorder.log.clear()
        engine.kill()
        engine.kill()
        engine.boot()
        await recorder.until_event("booted")
        assert recorder.log == [] or recorder.log[0][0] == "feed_requested"
        await feed_empty(engine, recorder)
        await until_loaded(engine)
        await promoted(engine, recorder)
        assert recorder.start == 0
        assert await Client(engine).call("DBSIZE") == 0
        assert not client.closed.is_set()

    play(story)


def test_a_lane_of_a_stopped_engine_is_closed(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, _ = await make()
        engine.kill()
        await asyncio.wait_for(Client(engine).closed.wait(), 60)

    play(story)


def test_promotion_without_a_stream_is_death(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await recorder.until_event("feed_requested", None)
        engine.promote()
        died = await recorder.until_event("died")
        assert died == ("died", "promoted before it was fed")

    play(story)


def test_a_promotion_overtaken_by_a_demotion_is_not_reported(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await fed(engine, recorder, [STREAM])
        engine.promote()
        engine.demote()
        assert await recorder.until_event("feed_requested") == ("feed_requested", len(STREAM))
        engine.feed_continue(Offset(len(STREAM)))
        await promoted(engine, recorder)
        assert recorder.start == len(STREAM)
        assert recorder.log == []

    play(story)


def test_an_engine_may_be_promoted_again_without_being_fed(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder, client = await new_primary(make)
        await client.call("SET", "k", 1)
        stream = await settled(recorder, client)
        engine.demote()
        await recorder.until_event("feed_requested", len(stream))
        await promoted(engine, recorder)
        assert recorder.start == len(stream)
        client = Client(engine)
        await client.call("INCR", "k")
        assert await settled(recorder, client) == pack("SELECT", 0) + pack("INCR", "k")

    play(story)


def test_an_engine_may_be_promoted_in_the_same_breath_as_it_is_fed(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await recorder.until_event("feed_requested", None)
        engine.feed_full(Offset(100), b"")
        engine.promote()
        assert await recorder.until_event("promoted") == ("promoted", 100)

    play(story)


def test_feed_reports_that_it_is_full_and_when_it_has_drained(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, recorder = await make()
        await feed_empty(engine, recorder)
        engine.feed(pack("SELECT", 0))
        assert not engine.feed_full_up()
        fed_bytes = len(pack("SELECT", 0))
        big = pack("SET", "k", bytes(1024 * 1024))
        while not engine.feed_full_up():
            engine.feed(big)
            fed_bytes += len(big)
        await recorder.until_event("feed_drained")
        assert not engine.feed_full_up()
        await until_offset(engine, recorder, fed_bytes)

    play(story)


def test_a_watched_key_that_changed_stops_the_transaction(play: Play) -> None:
    async def story(make: Maker) -> None:
        engine, _, client = await new_primary(make)
        other = Client(engine)
        await client.call("WATCH", "k")
        await other.call("SET", "k", 1)
        await client.call("MULTI")
        await client.call("SET", "k", 2)
        assert await client.call("EXEC") is None
        assert await client.call("GET", "k") == b"1"

    play(story)
