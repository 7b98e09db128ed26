"""RESP, both directions: commands of clients in, replies of engines cut at their boundaries, replies of our
own out.

`CommandParser` accepts what stock Valkey 9.1 accepts and refuses the rest in Valkey's words; a differential
test holds it to that. It is on the path of every command, so it has two ways:

* the **fast way** takes a chunk apart with one `split` on CRLF and believes a command only if every header
  says exactly the length of the piece behind it. Such a command is strict by construction. From the first
  value on that contains CRLF or is longer than 4 KB it goes from header to header instead. Anything else (an
  inline command, half a command, an error) goes
* the **slow way**, a resumable state machine over a bytearray. It never looks twice at an argument it has
  taken and never reserves memory for a length that was only claimed.

`Command.raw` is a strict RESP2 array of bulk strings: the bytes as they came, or, for inline commands,
encoded anew.

Where we differ from stock Valkey, on purpose:
  - limits are lower (`ParserLimits`); beyond them the error is Valkey's for its own limit;
  - the first line of an HTTP header (`POST`, `Host:`) gets an error before the connection is closed, where
    Valkey only closes it. The reason is the same: a browser must not be talked into sending commands;
  - inline quoting is that of 9.1 whatever the engine is: the engine only ever sees arrays. A byte 0xFF in an
    inline word is kept, which 9.1.2 loses.

`reply_end` and `ReplySplitter` find where replies end and do not look inside. Streamed RESP3 types (`$?`,
`*?`) are left out: no engine sends them.
"""

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cluster.errors import Err

CRLF: Final = b"\r\n"
INT_MAX: Final = 2**31 - 1


class ProtocolError(Err):
    """The client does not speak RESP. Answer with `resp()`, then close: nothing after it can be
    understood.
    """

    def __init__(self, text: str) -> None:
        super().__init__(f"Protocol error: {text}")


class CommandTooLarge(Err):
    """A command was larger than it may be. It was read to its end and thrown away; the connection is well."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"command exceeds {bytes_max} bytes; it was not executed")


class Command(NamedTuple):
    """One command of a client."""

    args: list[bytes]  # at least one
    raw: bytes  # the same as a strict RESP2 array of bulk strings


# What becomes one entry of the log must reach the other zones without keeping heartbeats waiting for an
# election timeout, on a busy machine too. docs/performance.md, "Large values", says what was measured.
COMMAND_BYTES_MAX: Final = 8 << 20


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """How much of one command is believed. Beyond it the connection ends, except for `command_bytes_max`."""

    args_max: int = 1024 * 1024
    bulk_bytes_max: int = 512 << 20  # one argument, as in Valkey
    inline_bytes_max: int = 64 << 10  # one line: an inline command, or a length
    query_bytes_max: int = 1 << 30  # one command, all of it, however little of it is kept
    command_bytes_max: int = COMMAND_BYTES_MAX  # one command that is executed; a larger one is refused


# Lengths as they may be written, and nothing else: no plus sign, no leading zero, no blank. Longer ones:
# _integer.
_HEADERS: Final = [b"$%d" % size for size in range(4096)]
_SPANS: Final = [
    len(header) + size + 4 for size, header in enumerate(_HEADERS)
]  # header and body, both CRLFs
_SIZES: Final = {b"%d" % size: size for size in range(len(_HEADERS))}
_COUNTS: Final = {b"*%d" % count: count for count in range(1, 1024)}
_FAST_BYTES_MAX: Final = (256 << 10) + 4096  # of one chunk; bounds the list of pieces
_JOIN_BYTES_MAX: Final = 1024  # half a command of up to so many bytes is read again together with its rest
_KEEP_BYTES_MAX: Final = 64 << 10  # consumed bytes that may stay in front of the buffer
_STRICT_INTEGER: Final = re.compile(rb"-?[1-9][0-9]{0,18}|0")
_ASTERISK: Final = ord("*")
_DOLLAR: Final = ord("$")
_new_tuple: Final = tuple.__new__  # half the cost of Command(args, raw)


class CommandParser:
    """Commands out of one client's bytes. `feed` what arrives, take commands with `next` until it says None.

    Invariants: `_ready` comes before `_buffer`. `_buffer[_start:]` begins with the first command that has
    not been taken; of it `_args` have been read, `_missing` are to come, the next header or body stands at
    `_position`, and `_bulk` is the length of the body that begins there (-1: a header comes next).
    `_missing == 0`: nothing of it was read. Once it is known to be too large (`_over`), what was read of it
    is thrown away and counted in `_dropped`, and `_start` goes along.
    """

    __slots__ = (
        "_args",
        "_buffer",
        "_bulk",
        "_dropped",
        "_failure",
        "_fast",
        "_limits",
        "_missing",
        "_over",
        "_position",
        "_ready",
        "_ready_bytes",
        "_start",
    )

    def __init__(self, limits: ParserLimits | None = None) -> None:
        self._limits = limits = limits or ParserLimits()
        self._ready: deque[Command] = deque()
        self._ready_bytes = 0
        self._buffer = bytearray()
        self._start = 0
        self._position = 0
        self._args: list[bytes] = []
        self._missing = 0
        self._bulk = -1
        self._over = False
        self._dropped = 0
        self._failure: ProtocolError | None = None
        # The fast way asks for no limit, so it is only taken where no limit can be met on it.
        self._fast = (
            limits.args_max >= len(_COUNTS)
            and limits.bulk_bytes_max >= len(_HEADERS)
            and min(limits.query_bytes_max, limits.command_bytes_max) >= _FAST_BYTES_MAX
        )

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not taken yet."""
        return self._ready_bytes + len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Add what the client sent. Never fails; after a ProtocolError it is ignored."""
        if self._buffer:
            if self._failure is not None:
                return
            if not self._fast or len(self._buffer) - self._start > _JOIN_BYTES_MAX:
                self._buffer += data
                return
            data = bytes(self._buffer[self._start :]) + data
            self._restart(self._buffer, 0)
            self._buffer.clear()
        if not self._fast or len(data) > _FAST_BYTES_MAX:
            self._buffer += data
            return
        tokens = data.split(CRLF)
        # One whole GET or SET, by far the most frequent chunk. IndexError: an argument longer than the table.
        try:
            if len(tokens) == 8:
                count, h1, a, h2, b, h3, c, end = tokens
                if (
                    count == b"*3"
                    and not end
                    and _HEADERS[len(b)] == h2
                    and _HEADERS[len(c)] == h3
                    and _HEADERS[len(a)] == h1
                ):
                    self._ready.append(_new_tuple(Command, ([a, b, c], data)))
                    self._ready_bytes += len(data)
                    return
            elif len(tokens) == 6:
                count, h1, a, h2, b, end = tokens
                if count == b"*2" and not end and _HEADERS[len(b)] == h2 and _HEADERS[len(a)] == h1:
                    self._ready.append(_new_tuple(Command, ([a, b], data)))
                    self._ready_bytes += len(data)
                    return
        except IndexError:
            pass
        taken = self._take_whole(data, tokens)
        if taken < len(data):
            self._buffer += memoryview(data)[taken:]

    def next(self) -> Command | None:
        """The next command, or None until more is fed. Raises CommandTooLarge in its place, and
        ProtocolError, then for ever the same one."""
        if self._ready:
            command = self._ready.popleft()
            self._ready_bytes -= len(command[1])
            return command
        if not self._buffer:
            return None
        return self._next_slowly()

    # -- the fast way --------------------------------------------------------------------------------------

    def _take_whole(self, data: bytes, tokens: list[bytes]) -> int:
        """Take the whole, strict commands at the beginning of `data`; returns how many bytes they are."""
        last = len(tokens) - 1  # the last piece is what follows the last CRLF: empty, or half a line
        index = position = 0
        try:
            while index < last:
                count = _COUNTS.get(tokens[index])
                if count is None:
                    return position
                stop = index + 2 * count + 1
                if stop > last:
                    return self._take_by_length(data, position)
                args = tokens[index + 2 : stop : 2]
                size = len(tokens[index]) + 2
                for arg in args:
                    index += 1
                    length = len(arg)
                    if _HEADERS[length] != tokens[index]:
                        return self._take_by_length(data, position)
                    size += _SPANS[length]
                    index += 1
                end = position + size
                self._ready.append(_new_tuple(Command, (args, data[position:end])))
                self._ready_bytes += size
                position = end
                index = stop
        except IndexError:
            return self._take_by_length(data, position)
        return position

    def _take_by_length(self, data: bytes, position: int) -> int:
        """The same, from header to header: for arguments that contain CRLF or are longer than the table."""
        while True:
            line = data.find(CRLF, position, position + 8)
            count = _COUNTS.get(data[position:line])
            if line < 0 or count is None:
                return position
            at = line + 2
            args: list[bytes] = []
            for _ in range(count):
                line = data.find(CRLF, at, at + 12)
                if line < 0 or data[at] != _DOLLAR:
                    return position
                size = _SIZES.get(data[at + 1 : line])
                if size is None:
                    size = _integer(data[at + 1 : line])
                    if size is None or not 0 <= size <= self._limits.bulk_bytes_max:
                        return position
                end = line + 2 + size
                if data[end : end + 2] != CRLF:
                    return position
                args.append(data[line + 2 : end])
                at = end + 2
            self._ready.append(_new_tuple(Command, (args, data[position:at])))
            self._ready_bytes += at - position
            position = at

    # -- the slow way --------------------------------------------------------------------------------------

    def _next_slowly(self) -> Command | None:
        if self._failure is not None:
            raise self._failure
        buffer = self._buffer
        while self._start < len(buffer):
            if self._missing == 0:
                if buffer[self._start] != _ASTERISK:
                    args = self._inline()
                    if args is None:
                        break
                    if args:
                        return Command(args, encode_command(args))
                    continue
                if not self._begin_array():
                    break
            if self._missing:
                if not self._read_args():
                    break
                if self._over:
                    self._restart(buffer, self._position)
                    raise CommandTooLarge(self._limits.command_bytes_max)
                command = Command(self._args, bytes(buffer[self._start : self._position]))
                self._restart(buffer, self._position)
                return command
        # Incomplete: forget what was consumed, keep the place.
        del buffer[: self._start]
        self._position -= self._start
        self._start = 0
        return None

    def _restart(self, buffer: bytearray, start: int) -> None:
        """The next command begins at `start`; nothing of it has been read."""
        self._start = self._position = start
        self._args = []
        self._missing = 0
        self._bulk = -1
        self._over = False
        self._dropped = 0
        if start >= len(buffer):
            buffer.clear()
            self._start = self._position = 0
        elif start > _KEEP_BYTES_MAX:
            del buffer[:start]
            self._start = self._position = 0

    def _fail(self, text: str) -> ProtocolError:
        self._failure = ProtocolError(text)
        self._args = []
        return self._failure

    def _line_end(self, too_big: str, expected: int) -> int:
        """Where the CR of the header line at `_position` stands; -1 while the line is incomplete.

        The order of the checks is Valkey's: whole line, first character, CRLF; the number comes last.
        """
        buffer, position = self._buffer, self._position
        line_max = self._limits.inline_bytes_max
        end = buffer.find(b"\r", position, position + line_max + 1)
        if end < 0:
            if len(buffer) - position > line_max:
                raise self._fail(too_big)
            return -1
        if end + 1 >= len(buffer):
            return -1
        if buffer[position] != expected:
            got = buffer[position : position + 1].decode("utf-8", "surrogateescape")
            raise self._fail(f"expected '{chr(expected)}', got '{got}'")
        if buffer[end + 1] != 0x0A:
            raise self._fail("invalid CRLF in request")
        return end

    def _begin_array(self) -> bool:
        """Read `*n`. False while the line is incomplete."""
        end = self._line_end("too big mbulk count string", _ASTERISK)
        if end < 0:
            return False
        count = _integer(self._buffer[self._position + 1 : end])
        if count is None or count > min(self._limits.args_max, INT_MAX):
            raise self._fail("invalid multibulk length")
        if count <= 0:  # `*0` and `*-1` are nothing, as is an empty line
            self._restart(self._buffer, end + 2)
            return True
        self._missing = count
        self._position = end + 2
        return True

    def _read_args(self) -> bool:
        """Read arguments until the command is complete. False while more has to come."""
        buffer, limits = self._buffer, self._limits
        while self._missing:
            if self._bulk < 0:
                end = self._line_end("too big bulk count string", _DOLLAR)
                if end < 0:
                    return False
                digits = bytes(buffer[self._position + 1 : end])
                size = _SIZES.get(digits)
                if size is None:
                    size = _integer(digits)
                if size is None or not 0 <= size <= limits.bulk_bytes_max:
                    raise self._fail("invalid bulk length")
                total = self._dropped + end + 4 + size - self._start
                if total > limits.query_bytes_max:
                    raise self._fail(f"command exceeds {limits.query_bytes_max} bytes")
                if total > limits.command_bytes_max:
                    self._over = True
                    self._args = []
                self._bulk = size
                self._position = end + 2
            if self._over:
                self._drop()
            end = self._position + self._bulk
            if len(buffer) < end + 2:
                return False
            if buffer[end] != 0x0D or buffer[end + 1] != 0x0A:
                raise self._fail("invalid CRLF in request")
            if not self._over:
                self._args.append(bytes(buffer[self._position : end]))
            self._position = end + 2
            self._bulk = -1
            self._missing -= 1
        return True

    def _drop(self) -> None:
        """Let go of the command up to here, and of what has come of the argument at `_position`."""
        here = min(self._bulk, len(self._buffer) - self._position)
        self._bulk -= here
        self._position += here
        self._dropped += self._position - self._start
        self._start = self._position

    def _inline(self) -> list[bytes] | None:
        """Read one line of words; [] for an empty one, None while it is incomplete."""
        buffer, start = self._buffer, self._start
        line_max = self._limits.inline_bytes_max
        end = buffer.find(b"\n", start, start + line_max + 1)
        # Valkey looks for the line end as C looks through a string: a NUL hides whatever follows it.
        if end < 0 or buffer.find(b"\0", start, end) >= 0:
            if len(buffer) - start > line_max:
                raise self._fail("too big inline request")
            return None
        line = bytes(buffer[start : end - 1 if end > start and buffer[end - 1] == 0x0D else end])
        args = split_inline(line)
        if args is None:
            raise self._fail("unbalanced quotes in request")
        if args and args[0].lower() in (b"post", b"host:"):
            raise self._fail("this is no HTTP server")
        self._restart(buffer, end + 1)
        return args


def _integer(digits: bytes | bytearray) -> int | None:
    """A length as Valkey's string2ll reads it: strict decimal within 64 bits."""
    if _STRICT_INTEGER.fullmatch(digits) is None:
        return None
    value = int(digits)
    return value if -(2**63) <= value < 2**63 else None


def strict_integer(digits: bytes) -> int | None:
    """An integer argument as the engine reads one (numkeys …): no sign but minus, no leading zero, 64
    bits.
    """
    return _integer(digits)


# -- inline commands ---------------------------------------------------------------------------------------

_PLAIN_WORD: Final = re.compile(rb"[^ \t\r\n]+")
_BLANKS: Final = re.compile(rb"[ \t\r\n\v\f]*")
# A backslash before the quote that ends the whole line does not escape it (9.1 looks one character too
# short there).
_DOUBLE: Final = rb'"(?:[^"\\]|\\(?="\Z)|\\(?!"\Z)[\s\S])*+"'
_SINGLE: Final = rb"'(?:\\'(?!\Z)|[^'])*+'"
_WORD: Final = re.compile(rb"(?:[^ \t\r\n\"']++|" + _DOUBLE + rb"|" + _SINGLE + rb")++")
_PIECE: Final = re.compile(rb"[^\"']++|" + _DOUBLE + rb"|" + _SINGLE)
_ESCAPE: Final = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([\s\S]))")
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


def split_inline(line: bytes) -> list[bytes] | None:
    """The words of an inline command, quotes and escapes as in Valkey 9.1; None if a quote is not closed.

    Words end at blanks only, so `"a"b'c'` is one word; VT and FF separate nothing but may stand before a
    word.
    """
    if b'"' not in line and b"'" not in line:
        words = (word.lstrip(b"\v\f") for word in _PLAIN_WORD.findall(line))
        return [word for word in words if word]
    args: list[bytes] = []
    position = _skip_blanks(line, 0)
    while position < len(line):
        found = _WORD.match(line, position)
        if found is None:
            return None
        position = found.end()
        if position < len(line) and line[position] not in b" \t\r\n":
            return None  # a quote that is never closed
        args.append(b"".join(_unquote(piece) for piece in _PIECE.findall(found[0])))
        position = _skip_blanks(line, position)
    return args


def _skip_blanks(line: bytes, position: int) -> int:
    found = _BLANKS.match(line, position)
    assert found is not None, "the pattern matches nothing, too"
    return found.end()


def _unquote(piece: bytes) -> bytes:
    if piece[:1] == b'"':
        return _ESCAPE.sub(_unescape, piece[1:-1])
    if piece[:1] == b"'":
        return piece[1:-1].replace(b"\\'", b"'")
    return piece


def _unescape(found: re.Match[bytes]) -> bytes:
    if found[1] is not None:
        return bytes([int(found[1], 16)])
    return _ESCAPES.get(found[2], found[2])


# -- where replies end -------------------------------------------------------------------------------------

_LINES: Final = frozenset(b"+-:_#,(")  # one line each
_BULKS: Final = frozenset(b"$!=")  # a length, then so many bytes
_LISTS: Final = frozenset(b"*~>")  # so many replies
_PAIRS: Final = frozenset(b"%|")  # twice as many
_KINDS: Final = _LINES | _BULKS | _LISTS | _PAIRS
_ATTRIBUTE: Final = ord("|")  # precedes the reply that it belongs to
_INCOMPLETE: Final = (-1, 0)


def reply_end(buffer: bytes, position: int) -> int:
    """End of the one RESP2 or RESP3 reply that begins at `position`; -1 while it is incomplete.

    ValueError if it is not RESP. An attribute belongs to the reply behind it. What is inside a reply is not
    checked. For aggregates that arrive in many pieces use `ReplySplitter`: this begins anew each time.
    """
    waiting = 1
    while waiting:
        line = buffer.find(CRLF, position)
        if line >= 0 and buffer[position] in _LINES:
            position = line + 2
        elif (
            line >= 0
            and buffer[position] == _DOLLAR
            and (size := _SIZES.get(buffer[position + 1 : line])) is not None
        ):
            position = line + size + 4
            if position > len(buffer):
                return -1
        else:
            position, more = _element_end(buffer, position)
            if position < 0:
                return -1
            waiting += more
        waiting -= 1
    return position


def _element_end(buffer: bytes | bytearray, position: int) -> tuple[int, int]:
    """Where the element at `position` ends, an aggregate's header by itself, and how many elements that
    header announces.
    """
    line = buffer.find(CRLF, position)
    if line < 0:
        if position < len(buffer) and buffer[position] not in _KINDS:
            raise ValueError(f"not a RESP reply: {bytes(buffer[position : position + 16])!r}")
        return _INCOMPLETE
    kind = buffer[position]
    if kind in _LINES:
        return line + 2, 0
    if kind not in _KINDS:
        raise ValueError(f"not a RESP reply: {bytes(buffer[position : position + 16])!r}")
    size = _SIZES.get(bytes(buffer[position + 1 : line]))
    if size is None:
        size = _reply_size(bytes(buffer[position + 1 : line]), kind)
    if kind in _BULKS:
        end = line + 2 if size < 0 else line + size + 4
        return (end, 0) if end <= len(buffer) else _INCOMPLETE
    if kind in _LISTS:
        return line + 2, max(size, 0)
    return line + 2, 2 * size + (kind == _ATTRIBUTE)


def _reply_size(digits: bytes, kind: int) -> int:
    """A length beyond the table. -1 is RESP2's null, which only bulk strings and arrays have."""
    size = _integer(digits)
    if size is None or size < -1 or (size == -1 and kind not in b"$*"):
        raise ValueError(f"not a length of a RESP reply: {digits[:24]!r}")
    return size


class ReplySplitter:
    """Whole replies out of one engine connection's bytes. Looks at each element once, however the bytes are
    cut.
    """

    __slots__ = ("_buffer", "_position", "_size", "_waiting")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0  # the next element of the first incomplete reply
        self._waiting = 1  # elements that it still needs
        self._size = 0  # not worth looking before the buffer is so long

    @property
    def buffered(self) -> int:
        """Bytes of the reply that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Add what the engine sent; returns the replies that became whole, in order, byte for byte.

        ValueError if it is not RESP; nothing after that can be understood.
        """
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._size:
                return []
            buffer = self._buffer
        replies: list[bytes] = []
        start, position, waiting = 0, self._position, self._waiting
        while True:
            end, more = _element_end(buffer, position)
            if end < 0:
                break
            position = end
            waiting += more - 1
            if not waiting:
                replies.append(bytes(buffer[start:position]))
                start = position
                waiting = 1
        self._position, self._waiting = position - start, waiting
        self._keep(buffer, start)
        return replies

    def _keep(self, buffer: bytes | bytearray, start: int) -> None:
        """Keep the incomplete reply that begins at `start`."""
        if buffer is self._buffer:
            del self._buffer[:start]
        else:
            self._buffer += memoryview(buffer)[start:]
        self._size = self._position + _bulk_bytes(self._buffer, self._position)


def _bulk_bytes(buffer: bytearray, position: int) -> int:
    """How many bytes the bulk at `position` has, if its header is there: until they have come it need not
    be looked at.
    """
    line = buffer.find(CRLF, position, position + 32)
    if line < 0 or buffer[position] not in _BULKS:
        return 0
    return line + 4 - position + max(_reply_size(bytes(buffer[position + 1 : line]), buffer[position]), 0)


# -- encoders ----------------------------------------------------------------------------------------------
# Aggregates take encoded elements. `protocol` is 2 or 3: what RESP2 lacks is said in its nearest form.


def encode_simple(text: str) -> bytes:
    """`+text`; the text must be one line."""
    assert "\r" not in text and "\n" not in text, "a simple string is one line"
    return b"+%b\r\n" % text.encode()


def encode_error(text: str) -> bytes:
    """`-text`, where the text begins with its code; line ends become blanks, so that it cannot smuggle a
    second reply.
    """
    return b"-%b\r\n" % text.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogateescape")


def encode_integer(value: int) -> bytes:
    return b":%d\r\n" % value


def encode_bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def encode_array(items: Sequence[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def encode_map(pairs: Sequence[tuple[bytes, bytes]], protocol: int) -> bytes:
    """A map; in RESP2 a flat array of keys and values."""
    body = b"".join([part for pair in pairs for part in pair])
    return b"%%%d\r\n%b" % (len(pairs), body) if protocol == 3 else b"*%d\r\n%b" % (2 * len(pairs), body)


def encode_set(items: Sequence[bytes], protocol: int) -> bytes:
    return b"%b%d\r\n%b" % (b"~" if protocol == 3 else b"*", len(items), b"".join(items))


def encode_push(items: Sequence[bytes], protocol: int) -> bytes:
    return b"%b%d\r\n%b" % (b">" if protocol == 3 else b"*", len(items), b"".join(items))


def encode_null(protocol: int) -> bytes:
    """No value; in RESP2 a null bulk string."""
    return b"_\r\n" if protocol == 3 else b"$-1\r\n"


def encode_null_array(protocol: int) -> bytes:
    """No list, as EXEC says after a WATCH that failed; the same as `encode_null` in RESP3."""
    return b"_\r\n" if protocol == 3 else b"*-1\r\n"


def encode_boolean(value: bool, protocol: int) -> bytes:
    if protocol == 3:
        return b"#t\r\n" if value else b"#f\r\n"
    return encode_integer(int(value))


def encode_double(value: float, protocol: int) -> bytes:
    """A double; in RESP2 its text as a bulk string. `inf`, `-inf`, `nan`, and whole numbers without a
    fraction.
    """
    text = (
        (b"%d" % value)
        if value == value and abs(value) < 2**53 and value == int(value)
        else repr(value).encode()
    )
    return b",%b\r\n" % text if protocol == 3 else encode_bulk(text)


def encode_verbatim(text: bytes, protocol: int) -> bytes:
    """Text for people (CLUSTER INFO …); in RESP2 a bulk string."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else encode_bulk(text)


def encode_command(args: Iterable[bytes]) -> bytes:
    """A command as a strict array of bulk strings."""
    return encode_array([encode_bulk(arg) for arg in args])
