"""The command parser: alone (any way of cutting the bytes gives the same), and against a stock Valkey."""

import itertools
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.front import resp
from cluster.front.commands import unknown_command
from cluster.front.resp import (
    Command,
    CommandParser,
    CommandTooLarge,
    ParserLimits,
    ProtocolError,
    ReplySplitter,
    encode_command,
    reply_end,
    split_inline,
)
from tests.front.engine import StockEngine

Outcome = tuple[list[list[bytes]], bytes]  # the commands, and the error that ended it (b"" if none did)
SMALL = ParserLimits(args_max=50, bulk_bytes_max=2000, inline_bytes_max=200, query_bytes_max=5000)


def parse(chunks: Iterable[bytes], limits: ParserLimits | None = None) -> Outcome:
    """Feed the chunks, take everything after each."""
    parser = CommandParser(limits)
    commands: list[list[bytes]] = []
    for chunk in chunks:
        parser.feed(chunk)
        try:
            while (command := parser.next()) is not None:
                check_raw(command)
                commands.append(command.args)
        except ProtocolError as error:
            parser.feed(b"*1\r\n$4\r\nPING\r\n")
            with pytest.raises(ProtocolError, match="Protocol error"):
                parser.next()
            return commands, error.resp()
    return commands, b""


def parse_and_note_refusals(chunks: Iterable[bytes], limits: ParserLimits) -> list[list[bytes] | str]:
    """The same; a command that is too large stands there as what is said of it."""
    parser = CommandParser(limits)
    seen: list[list[bytes] | str] = []
    for chunk in chunks:
        parser.feed(chunk)
        while True:
            try:
                command = parser.next()
            except CommandTooLarge as error:
                seen.append(error.text)
                continue
            assert parser.buffered <= limits.command_bytes_max + len(chunk), "what is too large is not kept"
            if command is None:
                break
            check_raw(command)
            seen.append(command.args)
    return seen


def check_raw(command: Command) -> None:
    assert command.args, "a command has a name"
    assert command.raw == encode_command(command.args), "raw is the strict form of what was understood"


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def assert_cutting_does_not_matter(data: bytes, cut: int, limits: ParserLimits | None = None) -> Outcome:
    whole = parse([data], limits)
    assert parse([data[:cut], data[cut:]], limits) == whole
    if len(data) < 3000:
        assert parse(bytewise(data), limits) == whole
    return whole


@pytest.mark.parametrize("size", [1, 7, 100, 4096, 10_000])
def test_a_command_that_is_too_large_is_refused_in_its_turn_and_the_next_is_read(size: int) -> None:
    limits = ParserLimits(command_bytes_max=1000)
    at_limit = [b"SET", b"k", b"x" * (1000 - len(encode_command([b"SET", b"k", b"x" * 900])) + 900)]
    assert len(encode_command(at_limit)) == 1000
    ping = [b"PING"]
    commands = [
        ping,
        [b"SET", b"k", b"\r\n$1" * 1000],
        ping,
        at_limit,
        [b"MSET", *[b"some"] * 300, b"x" * 3000],
        [*at_limit[:2], at_limit[2] + b"y"],
        ping,
    ]
    stream = b"".join(encode_command(args) for args in commands)
    chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
    refusal = "command exceeds 1000 bytes; it was not executed"
    expected = [ping, refusal, ping, at_limit, refusal, refusal, ping]
    assert parse_and_note_refusals(chunks, limits) == expected


def test_what_is_too_large_must_be_well_formed_all_the_same() -> None:
    parser = CommandParser(ParserLimits(command_bytes_max=100))
    parser.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200\r\n" + bytes(150))
    assert parser.next() is None
    assert parser.buffered == 0
    parser.feed(bytes(50) + b"xy")
    with pytest.raises(ProtocolError, match="invalid CRLF"):
        parser.next()


# -- alone ----------------------------------------------------------------------------------------------

args_strategy = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"", b"\r\n", b"$3\r\nabc\r\n", b"*1\r\n", b"\r", b"\n", b"x" * 5000, b"\r\n" * 40]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@given(st.lists(args_strategy, min_size=1, max_size=8), st.data())
@settings(deadline=None)
def test_every_command_comes_back_whole_however_it_is_cut(
    commands: list[list[bytes]], data: st.DataObject
) -> None:
    stream = b"".join(encode_command(args) for args in commands)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
    assert parse(chunks) == (commands, b"")


@pytest.mark.slow
@given(st.binary(max_size=300), st.integers(0, 300))
@settings(deadline=None, max_examples=300)
def test_random_bytes_never_raise_anything_else_and_cutting_does_not_matter(data: bytes, cut: int) -> None:
    assert_cutting_does_not_matter(data, cut, SMALL)


PIECES = [
    b"*",
    b"$",
    b"\r\n",
    b"\n",
    b"\r",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"9",
    b"PING",
    b'"',
    b"'",
    b"\\",
    b" ",
]
PIECES += [
    b"\\x41",
    b"\0",
    b"*1\r\n$4\r\nPING\r\n",
    b"*2\r\n$4\r\nECHO\r\n$1\r\n",
    b"x",
    b"+",
    b"\xfe",
    b"\t",
    b"\v",
]
resp_like = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@pytest.mark.slow
@given(resp_like, st.integers(0, 200))
@settings(deadline=None, max_examples=600)
def test_almost_resp_never_raises_anything_else_and_cutting_does_not_matter(data: bytes, cut: int) -> None:
    assert_cutting_does_not_matter(data, cut, SMALL)
    assert_cutting_does_not_matter(data, cut)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"*51\r\n", "invalid multibulk length"),
        (b"*1\r\n$2001\r\n", "invalid bulk length"),
        (
            b"*3\r\n$2000\r\n" + b"x" * 2000 + b"\r\n$2000\r\n" + b"x" * 2000 + b"\r\n$2000\r\n",
            "command exceeds 5000",
        ),
        (b"x" * 201, "too big inline request"),
        (b"x" * 201 + b"\r\n", "too big inline request"),
        (b"\0" * 201 + b"\n", "too big inline request"),
        (b"*" + b"1" * 200, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 200, "too big bulk count string"),
        (b"POST / HTTP/1.1\r\n", "this is no HTTP server"),
        (b"Host: example\r\n", "this is no HTTP server"),
    ],
)
def test_limits_end_the_connection(data: bytes, error: str) -> None:
    commands, reply = assert_cutting_does_not_matter(data, 7, SMALL)
    assert commands == []
    assert reply.startswith(b"-ERR Protocol error: " + error.encode())


def test_the_longest_line_is_still_a_line() -> None:
    for data in (b"x" * 200 + b"\n", b"x" * 199 + b"\r\n"):
        assert parse(bytewise(data), SMALL)[1] == b""
        assert parse([data], SMALL)[0] == [[data.strip()]]


def test_commands_before_an_error_are_delivered_first() -> None:
    stream = encode_command([b"SET", b"k", b"v"]) + encode_command([b"GET", b"k"]) + b"*1\r\n$-1\r\n"
    commands, error = assert_cutting_does_not_matter(stream, 30)
    assert commands == [[b"SET", b"k", b"v"], [b"GET", b"k"]]
    assert error == b"-ERR Protocol error: invalid bulk length\r\n"


def test_an_error_can_not_smuggle_a_line_into_its_reply() -> None:
    assert parse([b"*1\r\n\r\n"])[1] == b"-ERR Protocol error: expected '$', got ' '\r\n"
    assert parse([b"*1\r\n\xff\r\n"])[1] == b"-ERR Protocol error: expected '$', got '\xff'\r\n"


def test_claimed_lengths_reserve_no_memory() -> None:
    parser = CommandParser()
    parser.feed(b"*1048576\r\n$67108864\r\nx")
    assert parser.next() is None
    assert parser.buffered < 100


def test_buffered_counts_what_was_fed_and_not_taken() -> None:
    parser = CommandParser()
    one = encode_command([b"GET", b"k"])
    parser.feed(one * 3 + b"PING\r\n*2\r\n")
    assert parser.buffered == 3 * len(one) + 10
    for _ in range(3):
        parser.next()
    assert parser.buffered == 10
    assert parser.next() == Command([b"PING"], b"*1\r\n$4\r\nPING\r\n")
    assert parser.next() is None
    assert parser.buffered == 4


def lines_executed(data: bytes, piece: int) -> int:
    """How many lines of the parser run while it takes one command out of pieces."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != resp.__file__:
            return None
        count += event == "line"
        return trace

    parser = CommandParser()
    last = None
    sys.settrace(trace)
    try:
        for start in range(0, len(data), piece):
            parser.feed(data[start : start + piece])
            last = parser.next()
    finally:
        sys.settrace(None)
    assert last is not None
    assert last.raw == data
    return count


@pytest.mark.slow
def test_the_work_for_a_command_in_pieces_grows_with_its_size_and_not_faster() -> None:
    """Counts executed lines, not time: four times the command may take four times the work, not sixteen."""

    def many(count: int) -> bytes:
        return b"*%d\r\n" % count + b"$3\r\nabc\r\n" * count

    assert lines_executed(many(8000), 4096) < 5 * lines_executed(many(2000), 4096)

    def bulk(size: int) -> bytes:
        return encode_command([b"SET", b"k", b"v" * size])

    assert lines_executed(bulk(4 << 20), 16384) < 5 * lines_executed(bulk(1 << 20), 16384)


# -- inline ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", []),
        (b"  \t ", []),
        (b"SET k v", [b"SET", b"k", b"v"]),
        (b'ECHO "a b"', [b"ECHO", b"a b"]),
        (b'ECHO "\\x41\\n\\r\\t\\b\\a\\q\\""', [b"ECHO", b'A\n\r\t\b\aq"']),
        (b'ECHO "\\x4"', [b"ECHO", b"x4"]),
        (b"ECHO 'a\\'b\\n'", [b"ECHO", b"a'b\\n"]),
        (b"ECHO \"a\"b'c'd", [b"ECHO", b"abcd"]),
        (b'ECHO ""', [b"ECHO", b""]),
        (b"ECHO \x0ba\x0c", [b"ECHO", b"a\x0c"]),
        (b'ECHO "a\\"', [b"ECHO", b"a\\"]),
        (b"ECHO 'a\\'", [b"ECHO", b"a\\"]),
        (b'ECHO "abc', None),
        (b"ECHO 'a\\' b", None),
        (b"ECHO 'a'\"b", None),
    ],
)
def test_inline_words(line: bytes, words: list[bytes] | None) -> None:
    assert split_inline(line) == words


# -- against stock Valkey -------------------------------------------------------------------------------

LISTED = [
    b"*-1\r\n",
    b"*0\r\n",
    b"*1\r\n$-1\r\n",
    b"*+1\r\n$4\r\nPING\r\n",
    b"*01\r\n$4\r\nPING\r\n",
    b"*1\r\n$+4\r\nPING\r\n",
    b"*1\r\n$04\r\nPING\r\n",
    b"*1\n$4\nPING\n",
    b"*1\r\n$4\nPING\n\r\n",
    b"*1\rX$4\r\nPING\r\n",
    b"*1\r\n$4\rXPING\r\n",
    b"*1\r\n$4\r\nPINGXX*1\r\n$4\r\nPING\r\n",
    b"*2147483647x\r\n",
    b"*2147483648\r\n",
    b"*9223372036854775807\r\n",
    b"*9223372036854775808\r\n",
    b"*-9223372036854775808\r\n",
    b"*-9223372036854775809\r\n",
    b"*1\r\n$2147483648\r\n",
    b"*1\r\n$9223372036854775808\r\n",
    b"\r\n",
    b"\n",
    b"   \r\n",
    b"*1\r\nx4\r\nPING\r\n",
    b"*1\r\n\r\n",
    b"*1\r\n:4\r\n",
    b"*\r\n",
    b"*-\r\n",
    b"*-0\r\n",
    b"*-01\r\n",
    b"* 1\r\n",
    b"*1 \r\n",
    b"*1\r\n$\r\n",
    b"*1\r\n$ 4\r\n",
    b"*1\r\n$-0\r\n",
    b"*-5x\r\n",
    b"*1\r\r\n",
    b"*x\rX",
    b"*1\r\n$x\rX",
    b"*1\r\nx\rX",
    b"*0\rX",
    b"*1\r\n$0\r\n\r\n",
    b"*1\r\n\xff4\r\n",
    b"*1\r\n\x004\r\n",
    b"+PING\r\n",
    b"$4\r\nPING\r\n",
    b"\tPING\r\n",
    b"\x1fPING\r\n",
    b"PING\0\r\n",
    b"\0\r\n",
    b"A" * 65535 + b"\r\n",
    b'"" x\r\n',
    b'ECHO "a\\x41\\n\\tb"\r\n',
    b"ECHO 'a\\'b\\n'\r\n",
    b'ECHO "abc\r\n',
    b'ECHO "a"b\r\n',
    b'ECHO a"b"\r\n',
    b"ECHO a\rb\r\n",
    b"ECHO a\r\r\n",
    b"ECHO a\0b\r\n",
    b"ECHO '\\'\r\n",
    b'ECHO "\\"\r\n',
]
_PREFIX = b"q"
# Stock Valkey sees that a line is too long only if its end has not arrived: nothing may follow these.
TOO_LONG = [b"A" * 65537, b"*" + b"1" * 65536, b"*1\r\n$" + b"1" * 65536, b"*1\r\n" + b"x" * 65537]
_END = b"*2\r\n$4\r\nECHO\r\n$7\r\nthe-end\r\n"


def expected_reply(outcome: Outcome) -> bytes:
    """What a Valkey that understood these commands says: each is unknown to it, or an ECHO or PING."""
    commands, error = outcome
    replies = []
    for args in commands:
        name = args[0].lower()
        if name == b"echo" and len(args) == 2:
            replies.append(b"$%d\r\n%b\r\n" % (len(args[1]), args[1]))
        elif name == b"echo":
            replies.append(b"-ERR wrong number of arguments for 'echo' command\r\n")
        elif name == b"ping" and len(args) == 1:
            replies.append(b"+PONG\r\n")
        elif name == b"ping" and len(args) == 2:
            replies.append(b"$%d\r\n%b\r\n" % (len(args[1]), args[1]))
        elif name == b"ping":
            replies.append(b"-ERR wrong number of arguments for 'ping' command\r\n")
        else:
            replies.append(unknown_command_reply(args))
    return b"".join(replies) + error


def unknown_command_reply(args: list[bytes]) -> bytes:
    return unknown_command(args).resp()


def assert_same_as_valkey(engine: StockEngine, data: bytes, end: bytes = _END) -> None:
    stream = data + end
    with engine.connect() as connection:
        try:
            connection.send(stream)
            connection.end()
        except ConnectionError:
            pass  # it closed before we had said all
        said = connection.receive_all()
    assert expected_reply(parse([stream])) == said, data[:200]


@pytest.mark.parametrize("data", LISTED, ids=lambda data: repr(data[:24]))
def test_listed_forms_are_read_as_stock_valkey_reads_them(valkey: StockEngine, data: bytes) -> None:
    assert_same_as_valkey(valkey, data)


@pytest.mark.parametrize("data", TOO_LONG, ids=lambda data: repr(data[:8]))
def test_lines_that_never_end_are_refused_as_stock_valkey_refuses_them(
    valkey: StockEngine, data: bytes
) -> None:
    assert_same_as_valkey(valkey, data, end=b"")


def test_known_difference_a_byte_ff_stays_in_an_inline_word() -> None:
    """Valkey 9.1.2 silently loses it, and with it data: not a reading to copy."""
    assert parse([b"ECHO a\xffb\r\n"]) == ([[b"ECHO", b"a\xffb"]], b"")


# Names of real commands can't arise from these pieces, except for PING and ECHO.
inline_like = st.lists(
    st.sampled_from(
        [b"ECHO ", b'"', b"'", b"\\", b"\\x41", b"\\x4", b" ", b"a", b"\t", b"\v", b"\r", b"q", b"\\n"]
    ),
    max_size=14,
).map(lambda pieces: b"".join(pieces) + b"\r\n")


@pytest.mark.slow
@given(st.lists(inline_like, min_size=1, max_size=3).map(b"".join))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_quotes_are_read_as_stock_valkey_reads_them(valkey: StockEngine, data: bytes) -> None:
    assert_same_as_valkey(valkey, data)


@pytest.mark.slow
@given(resp_like)
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_almost_resp_is_read_as_stock_valkey_reads_it(valkey: StockEngine, data: bytes) -> None:
    assert_same_as_valkey(valkey, data)


# -- replies --------------------------------------------------------------------------------------------

line = st.binary(max_size=10).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
leaf = st.one_of(
    st.builds(
        lambda kind, text: kind + text + b"\r\n",
        st.sampled_from([b"+", b"-", b":", b"_", b"#", b",", b"("]),
        line,
    ),
    st.builds(
        lambda kind, data: kind + b"%d\r\n%b\r\n" % (len(data), data),
        st.sampled_from([b"$", b"!", b"="]),
        st.binary(max_size=20),
    ),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"$5000\r\n" + b"x" * 5000 + b"\r\n", b"*0\r\n", b"%0\r\n"]),
)


def aggregate(kind: bytes, items: list[bytes]) -> bytes:
    if kind in (b"%", b"|"):
        items = items[: len(items) // 2 * 2]
        head = kind + b"%d\r\n" % (len(items) // 2)
        return head + b"".join(items) + (b"+of\r\n" if kind == b"|" else b"")
    return kind + b"%d\r\n" % len(items) + b"".join(items)


replies = st.recursive(
    leaf,
    lambda inner: st.builds(
        aggregate, st.sampled_from([b"*", b"~", b">", b"%", b"|"]), st.lists(inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.lists(replies, min_size=1, max_size=5), st.data())
@settings(deadline=None)
def test_replies_are_cut_where_they_end(expected: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(expected)
    position, found = 0, []
    while position < len(stream):
        end = reply_end(stream, position)
        found.append(stream[position:end])
        position = end
    assert found == expected
    first = expected[0]
    cut = data.draw(st.integers(0, len(first) - 1))
    assert reply_end(first[:cut], 0) == -1
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter, split = ReplySplitter(), []
    for a, b in itertools.pairwise([0, *cuts, len(stream)]):
        split += splitter.feed(stream[a:b])
    assert split == expected
    assert splitter.buffered == 0


def test_a_splitter_fed_bytewise_gives_the_same() -> None:
    expected = [
        b"*2\r\n$3\r\nabc\r\n*1\r\n:1\r\n",
        b"+OK\r\n",
        b"|1\r\n+a\r\n+b\r\n%1\r\n+k\r\n_\r\n",
        b"$0\r\n\r\n",
    ]
    splitter = ReplySplitter()
    assert [reply for byte in bytewise(b"".join(expected)) for reply in splitter.feed(byte)] == expected


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\r\n",
        b"hello\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"*01\r\n",
        b"%-1\r\n",
        b"~-1\r\n",
        b"$?\r\n",
        b"*1\r\nx",
    ],
)
def test_what_is_no_reply_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="RESP reply"):
        reply_end(data, 0)
    with pytest.raises(ValueError, match="RESP reply"):
        ReplySplitter().feed(data)


@given(st.binary(max_size=60), st.integers(0, 60))
@settings(deadline=None)
def test_random_replies_give_an_end_or_a_value_error(data: bytes, position: int) -> None:
    try:
        end = reply_end(data, min(position, len(data)))
    except ValueError:
        return
    assert end == -1 or position < end <= len(data)
