"""The command table: keys as the engine's COMMAND GETKEYS finds them, errors in its words, the allow-list."""

import random
import re
from collections.abc import Iterator

import hiredis
import pytest

from cluster.errors import CrossSlot, EngineError, Err
from cluster.front import commands
from cluster.front.commands import CommandSpec, CommandTable, Disposition
from cluster.front.resp import encode_command
from cluster.shard.slots import key_slot
from tests.front.engine import StockEngine, redis_binary, stock_engine


@pytest.fixture(scope="session")
def table(valkey: StockEngine) -> CommandTable:
    return read_table(valkey)


@pytest.fixture(scope="session")
def redis7() -> Iterator[StockEngine]:
    binary = redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH")
    with stock_engine(binary) as engine:
        yield engine


def read_table(engine: StockEngine) -> CommandTable:
    with engine.connect() as connection:
        return CommandTable.from_engine(connection.call(b"COMMAND"))


def words(text: str) -> list[bytes]:
    return [word.encode() for word in text.split()]


# -- keys -----------------------------------------------------------------------------------------------

COMMANDS_WITH_KEYS = """
get k | set k v EX 10 | getex k PERSIST | append k v | strlen k | incrbyfloat k 1.5 | setrange k 0 v
lcs a b | mget a b c | mset a 1 b 2 c 3 | msetnx a 1 b 2 | del a b c | unlink a b | exists a a b
touch a b | type k | rename a b | renamenx a b | copy a b REPLACE | dump k | restore k 0 x
expire k 1 NX | pexpireat k 1 | ttl k | object encoding k | object freq k | memory usage k SAMPLES 5
sort k | sort k BY w_* GET # LIMIT 0 1 STORE d | sort k STORE a STORE b | sort k GET STORE STORE d
sort k BY STORE | sort_ro k BY w_* | bitop AND d a b c | bitcount k 0 -1 | bitfield k GET u8 0
bitpos k 1 | lpush k a b | lmove a b LEFT RIGHT | rpoplpush a b | lmpop 2 a b LEFT COUNT 3
blmpop 0 2 a b LEFT | blpop a b c 0 | brpop a 1 | blmove a b LEFT LEFT 0 | brpoplpush a b 0
bzpopmin a b 0 | bzmpop 1 2 a b MIN | zmpop 1 a MAX | hset k f v | hmget k f g | hrandfield k | sadd k m
smove a b m | sdiff a b | sdiffstore d a b | sintercard 2 a b LIMIT 1 | sinterstore d a | sunion a b c
zadd k 1 m | zunionstore d 2 a b WEIGHTS 1 2 | zinterstore d 1 a | zdiffstore d 3 a b c
zunion 2 a b WITHSCORES | zinter 1 a | zdiff 2 a b | zintercard 2 a b | zrangestore d s 0 -1
zrangebyscore k 0 1 | geoadd k 1 2 m | georadius k 1 2 3 km | georadius k 1 2 3 km STORE d
georadius k 1 2 3 km STORE d STOREDIST e | georadiusbymember k m 1 km STOREDIST d
georadius_ro k 1 2 3 km | geosearchstore d s FROMMEMBER m BYRADIUS 1 km | pfadd k a | pfcount a b
pfmerge d a b | xadd k * f v | xread STREAMS a 0 | xread COUNT 2 BLOCK 0 STREAMS a b 0 0
xreadgroup GROUP g c STREAMS a b > > | xreadgroup GROUP STREAMS c STREAMS a > | xgroup CREATE k g $
xinfo STREAM k | xinfo GROUPS k | xack k g 1 | xclaim k g c 0 1 | xautoclaim k g c 0 0 | xsetid k 1-1
xdel k 1 | xtrim k MAXLEN 1 | eval s 2 a b x y | eval s 0 x | eval_ro s 1 a | evalsha s 1 a
evalsha_ro s 0 | fcall f 1 a x | fcall_ro f 2 a b | watch a b c | setex k 1 v | getset k v | psetex k 1 v
substr k 0 1 | hscan k 0 | sscan k 0 | zscan k 0
"""
VALKEY_9 = (
    "msetex 2 a 1 b 2 EX 5 | delifeq k v | hgetex k FIELDS 1 f | hsetex k FIELDS 1 f v | hgetdel k FIELDS 1 f"
)


def listed(text: str) -> list[list[bytes]]:
    return [words(command) for command in text.replace("\n", "|").split("|") if command.strip()]


def engine_keys(engine_reply: object) -> list[bytes] | None:
    """What COMMAND GETKEYS says: the keys, [] for none, None if it can't tell from these arguments."""
    if isinstance(engine_reply, hiredis.ReplyError):
        return [] if "no key arguments" in str(engine_reply) else None
    assert isinstance(engine_reply, list)
    return engine_reply


def assert_same_keys(engine: StockEngine, engine_table: CommandTable, cases: list[list[bytes]]) -> int:
    """Returns for how many the engine named keys."""
    named = 0
    with engine.connect() as connection:
        for args in cases:
            expected = engine_keys(connection.call(b"COMMAND", b"GETKEYS", *args))
            got = engine_table.lookup(args).keys(args)
            assert sorted(got) == sorted(expected or []), args
            named += bool(expected)
    return named


def test_keys_are_those_that_valkey_finds(valkey: StockEngine, table: CommandTable) -> None:
    cases = listed(COMMANDS_WITH_KEYS) + listed(VALKEY_9)
    assert assert_same_keys(valkey, table, cases) >= len(cases) - 3  # eval s 0 and evalsha_ro s 0 have none


def test_keys_are_those_that_redis_7_finds(redis7: StockEngine) -> None:
    # Of two STOREs Redis 7 counts both. The command itself only writes to the last, as we and Valkey say.
    cases = [args for args in listed(COMMANDS_WITH_KEYS) if not {b"STORE", b"STOREDIST"} <= set(args)]
    assert assert_same_keys(redis7, read_table(redis7), cases) >= len(cases) - 3


def test_upper_and_mixed_case_options_find_the_same_keys(table: CommandTable) -> None:
    for text in ("XREAD count 1 streams a b 0 0", "xRead COUNT 1 StReAmS a b 0 0"):
        args = words(text)
        assert table.lookup(args).keys(args) == [b"a", b"b"]


POOL = words("a b c {t}x 0 1 2 3 -1 99 STORE STOREDIST STREAMS BY GET LIMIT km k m GROUP COUNT BLOCK KEYS")
POOL += [b"", b"x" * 50]


@pytest.mark.slow
def test_random_arguments_have_the_keys_that_valkey_finds(valkey: StockEngine, table: CommandTable) -> None:
    rng = random.Random(7)
    cases = []
    served = (Disposition.PLAIN, Disposition.BLOCKING, Disposition.TRANSACTION)
    for spec in table.all_specs():
        if spec.is_keyless or spec.disposition not in served or spec.subcommands or spec.name == "spublish":
            continue  # GETKEYS does not count shard channels
        name = [part.encode() for part in spec.full_name.split("|")]
        for _ in range(60 if "movablekeys" in spec.flags else 8):
            count = spec.arity if spec.arity > 0 else -spec.arity + rng.randrange(6)
            cases.append([*name, *(rng.choice(POOL) for _ in range(count - len(name)))])
    assert assert_same_keys(valkey, table, cases) > 500


def test_an_odd_number_of_keys_names_none_and_the_engine_refuses_it(
    valkey: StockEngine, table: CommandTable
) -> None:
    with valkey.connect() as connection:
        for count in (b"01", b"+1", b" 1", b"1 ", b"1x", b"-1", b"99", b"9223372036854775808", b""):
            for args in (
                [b"eval", b"return 1", count, b"k"],
                [b"sintercard", count, b"k"],
                [b"zunionstore", b"d", count, b"k"],
                [b"blmpop", b"0.01", count, b"k", b"LEFT"],
                [b"zmpop", count, b"k", b"MIN"],
            ):
                assert isinstance(connection.call(*args), hiredis.ReplyError), args
                assert table.lookup(args).keys(args) in ([], [b"d"]), args


def test_a_command_has_one_slot_or_none_or_is_refused(table: CommandTable) -> None:
    def slot(text: str) -> int | None:
        args = words(text)
        return table.lookup(args).slot(args)

    assert slot("get foo") == key_slot(b"foo")
    assert slot("mget {x}1 {x}2 {x}3") == key_slot(b"x")
    assert slot("object encoding foo") == key_slot(b"foo")
    assert slot("spublish foo hello") == key_slot(b"foo")
    assert slot("dbsize") is None
    assert slot("eval s 0") is None
    for text in ("mget a b", "eval s 2 a b", "sort a STORE b", "xread STREAMS a b 0 0", "sintercard 2 a b"):
        with pytest.raises(CrossSlot, match="Keys in request don't hash to the same slot"):
            slot(text)


# -- errors ---------------------------------------------------------------------------------------------

WRONG = [
    words("foo"),
    words("foo a b c"),
    [b"fo\r\no", b"a\nb"],
    [b"f\0oo", b"a\0b", b"c"],
    [b"f\xff", b"\xfe"],
    [b"x" * 200, b"y" * 200, b"z"],
    [b"foo", *[b"ab"] * 60],
    [b""],
    words("get"),
    words("GET a b"),
    words("set a"),
    words("client"),
    words("CLIENT foo"),
    words("object nope k"),
    words("object encoding"),
    words("Client SetName"),
    words("xgroup create a"),
    words("memory usage"),
    [b"script", b"a\xff\r\nb"],
    words("command foo"),
    [b"xinfo", b"y" * 300],
]


@pytest.mark.parametrize("args", WRONG, ids=lambda args: repr(args[:2])[:40])
def test_errors_are_those_of_valkey(valkey: StockEngine, table: CommandTable, args: list[bytes]) -> None:
    with pytest.raises(Err) as error:
        table.lookup(args)
    with valkey.connect() as connection:
        connection.send(encode_command(args))
        connection.end()
        assert connection.receive_all() == error.value.resp()


# -- dispositions ---------------------------------------------------------------------------------------

MEMORYDB_REFUSES = """
acl deluser u | acl load | acl save | acl setuser u | bgrewriteaof | bgsave | cluster addslots 1
cluster delslots 1 | cluster setslot 1 STABLE | config get x | config set a b | debug object k
migrate h 1 k 0 1 | module list | psync a 1 | replicaof h 1 | save | shutdown | slaveof h 1 | sync
"""
WOULD_BREAK_US = """
monitor | failover | swapdb 0 1 | move k 1 | copy a b DB 1 | copy a b DB | copy a b REPLACE DB 3
replconf a b | restore-asking k 0 x | pfdebug a b | pfselftest | waitaof 1 1 0 | client pause 10
client unpause | client kill ID 1 | client reply OFF | script debug YES | cluster failover
cluster reset | cluster forget x | client tracking ON | clusterscan 0
"""


@pytest.mark.parametrize(
    "text", [c.strip() for c in re.split(r"[|\n]", MEMORYDB_REFUSES + WOULD_BREAK_US) if c.strip()]
)
def test_what_memorydb_refuses_and_what_would_break_the_engine_is_refused(
    table: CommandTable, text: str
) -> None:
    spec = table.lookup(words(text.upper()))
    assert spec.disposition is Disposition.REFUSED
    assert re.fullmatch(r"'[a-z|-]+'( to another database)? is refused: .+", spec.refusal)


def disposition(table: CommandTable, text: str) -> Disposition:
    return table.lookup(words(text)).disposition


def test_dispositions(table: CommandTable) -> None:
    for text in ("ping", "client setname x", "cluster slots", "wait 1 0", "hello 3", "asking", "select 0"):
        assert disposition(table, text) is Disposition.LOCAL, text
    for text in ("multi", "exec", "discard", "watch k", "unwatch"):
        assert disposition(table, text) is Disposition.TRANSACTION, text
    for text in (
        "get k",
        "copy a b",
        "copy a b DB 0",
        "xread STREAMS k 0",
        "eval s 0",
        "script load s",
        "info",
    ):
        assert disposition(table, text) is Disposition.PLAIN, text
    for text in (
        "blpop k 0",
        "xread BLOCK 0 STREAMS k $",
        "xreadgroup GROUP g c block 1 STREAMS k >",
        "script kill",
    ):
        assert disposition(table, text) is Disposition.BLOCKING, text
    for text in (
        "subscribe c",
        "psubscribe c",
        "ssubscribe c",
        "unsubscribe",
        "punsubscribe",
        "sunsubscribe",
    ):
        assert disposition(table, text) is Disposition.PUBSUB, text


def test_every_command_that_may_block_has_a_lane_of_its_own(table: CommandTable) -> None:
    for spec in table.all_specs():
        if "blocking" in spec.flags and spec.disposition is not Disposition.REFUSED and spec.name != "wait":
            assert spec.is_blocking or (spec.variant is not None and spec.variant.is_blocking), spec.name


def test_nothing_with_the_admin_flag_passes_but_reading_and_logs(table: CommandTable) -> None:
    passing = {spec.full_name for spec in table.all_specs() if "admin" in spec.flags and is_served(spec)}
    harmless = (
        r"acl\|(dryrun|getuser|list|log|users)|client\|(list|no-evict)|cluster\|(replicas|slaves)"
        r"|(commandlog|latency|slowlog)\|.*"
    )
    assert [name for name in sorted(passing) if not re.fullmatch(harmless, name)] == []


def is_served(spec: CommandSpec) -> bool:
    return spec.disposition is not Disposition.REFUSED


def test_each_command_is_classified_once_and_every_one_of_valkey_9_is(table: CommandTable) -> None:
    groups = [commands.LOCAL, commands.TRANSACTION, commands.PUBSUB, commands.BLOCKING, commands.PLAIN]
    groups.append(frozenset(commands.REFUSED))
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(set(names))
    unknown = [
        s.full_name for s in table.all_specs() if "unknown to this version" in s.refusal and not s.subcommands
    ]
    assert unknown == []


def test_a_command_that_nobody_classified_is_refused() -> None:
    entry = [b"frobnicate", 2, [b"write"], 1, 1, 1, [], [], [], []]
    spec = CommandTable.from_engine([entry]).lookup([b"FROBNICATE", b"k"])
    assert spec.disposition is Disposition.REFUSED
    assert spec.refusal == "'frobnicate' is refused: unknown to this version of azimuth"


def test_an_unknown_subcommand_of_a_served_container_is_refused() -> None:
    sub = [b"object|destroy", 3, [b"write"], 2, 2, 1, [], [], [], []]
    entry = [b"object", -2, [], 0, 0, 0, [], [], [], [sub]]
    spec = CommandTable.from_engine([entry]).lookup([b"OBJECT", b"DESTROY", b"k"])
    assert spec.disposition is Disposition.REFUSED


def test_writes_need_the_primary_and_reads_do_not(table: CommandTable) -> None:
    for text in (
        "set k v",
        "eval s 0",
        "evalsha s 0",
        "fcall f 0",
        "publish c m",
        "spublish c m",
        "pfcount k",
        "flushall",
        "function flush",
        "xreadgroup GROUP g c STREAMS k >",
        "sort k",
        "georadius k 1 1 1 m",
    ):
        spec = table.lookup(words(text))
        assert (spec.is_write, spec.is_read) == (True, False), text
    for text in (
        "get k",
        "eval_ro s 0",
        "fcall_ro f 0",
        "xread STREAMS k 0",
        "sort_ro k",
        "scan 0",
        "keys *",
    ):
        spec = table.lookup(words(text))
        assert (spec.is_write, spec.is_read) == (False, True), text
    for spec in table.all_specs():
        assert not ("write" in spec.flags and not spec.is_write), spec.full_name


def test_names(table: CommandTable) -> None:
    spec = table.lookup(words("CLIENT SETNAME x"))
    assert (spec.name, spec.full_name) == ("client", "client|setname")
    assert table.lookup([b"gEt", b"k"]) is table.lookup([b"GET", b"k"])
    assert table.lookup(words("dbsize")).is_keyless
    assert not table.lookup(words("eval s 0")).is_keyless


@pytest.mark.slow
def test_odd_spellings_do_not_fill_the_memory(table: CommandTable) -> None:
    rng = random.Random(1)
    for _ in range(20_000):
        name = "".join(rng.choice((letter, letter.upper())) for letter in "zremrangebyscore").encode()
        assert table.lookup([name, b"k", b"0", b"1"]).name == "zremrangebyscore"
    assert len(table._spellings) <= table._spellings_max


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        b"OK",
        [1],
        [[b"get", 2, [b"readonly"], 1, 1, 1, [b"@read"]]],  # Redis 6.2: no key specifications
        [[b"get", 2, [], 1, 1, 1, [], [], [[b"flags", []]], []]],
        [[b"get", b"x", [], 1, 1, 1, [], [], [], []]],
    ],
)
def test_a_reply_of_another_shape_is_one_clear_engine_error(reply: object) -> None:
    with pytest.raises(EngineError, match="COMMAND") as error:
        CommandTable.from_engine(reply)
    assert "\n" not in str(error.value)


def test_a_resp3_reply_gives_the_same_table(valkey: StockEngine, table: CommandTable) -> None:
    with valkey.connect() as connection:
        connection.call(b"HELLO", b"3")
        resp3 = CommandTable.from_engine(connection.call(b"COMMAND"))
    assert resp3.specs == table.specs
