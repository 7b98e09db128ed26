"""The model engine's keyspace and data commands: Valkey 9.1's replies and Valkey's effects, as far as they
go.

A handler takes the keyspace and the words of a command, changes data, and returns a reply value. What goes
into the effect stream follows three rules, the same as in the real engine:

1. A command that changed something is propagated as the client sent it, unless its handler put something
   else in `Keyspace.rewrite` (`EX` becomes `PXAT`, `SPOP` becomes `SREM`, a past expiry becomes `UNLINK`).
2. A command that changed nothing leaves nothing.
3. A key found expired is deleted on the spot, by an `UNLINK` of its own before the command's effect. On a
   replica it is only hidden: deleting is the primary's business, and commands from the feed see it as if
   alive.

Reply values: `Status`, int, bytes, None (null), NULL_ARRAY, list, dict (a map in RESP3), `SetReply`,
float, and `Refused` (an error, raised). `encode` writes them as RESP2 or RESP3.

Left out: every command that is not in `HANDLERS`, stream trimming, ZRANGE by score or name, key eviction.
Sets, hashes and KEYS come in insertion order, which is Valkey's only for small ones. Scores print as
Valkey prints them between 1e-4 and 1e16.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from cluster.engine.model_commands import COMMAND_TABLE


class Refused(Exception):
    """An error reply; the text is the whole line without the dash."""


class Status(bytes):
    """A simple string reply."""


class SetReply(list["Reply"]):
    """A set in RESP3, an array in RESP2."""


class ScoredReply(list["Reply"]):
    """[[member, score], …]: pairs in RESP3, flat in RESP2."""


class _NullArray:
    pass


NULL_ARRAY = _NullArray()
Reply = (
    Status
    | int
    | bytes
    | None
    | _NullArray
    | list["Reply"]
    | dict[bytes, "Reply"]
    | SetReply
    | ScoredReply
    | float
    | Refused
)
OK = Status(b"OK")


class SetValue(dict[bytes, None]):
    pass


class HashValue(dict[bytes, bytes]):
    pass


class SortedSet(dict[bytes, float]):
    pass


StreamId = tuple[int, int]


class Stream:
    def __init__(self) -> None:
        self.entries: list[tuple[StreamId, list[bytes]]] = []
        self.last: StreamId = (0, 0)


Value = bytes | list[bytes] | SetValue | HashValue | SortedSet | Stream
V = TypeVar("V", bytes, list[bytes], SetValue, HashValue, SortedSet, Stream)
T = TypeVar("T")
TYPE_NAMES: dict[type, bytes] = {
    bytes: b"string",
    list: b"list",
    SetValue: b"set",
    HashValue: b"hash",
    SortedSet: b"zset",
    Stream: b"stream",
}

WRONGTYPE = Refused("WRONGTYPE Operation against a key holding the wrong kind of value")
NOT_AN_INTEGER = Refused("ERR value is not an integer or out of range")
SYNTAX = Refused("ERR syntax error")
OVERFLOW = Refused("ERR increment or decrement would overflow")
INT64_MAX = 2**63 - 1
UINT64_MAX = 2**64 - 1

ARITIES: dict[bytes, int] = {}
FLAGS: dict[bytes, frozenset[bytes]] = {}


def _index_commands(rows: Iterable[object]) -> None:
    for row in rows:
        match row:
            case [bytes(name), int(arity), list(flags), *_, list(inner)]:
                ARITIES[name], FLAGS[name] = arity, frozenset(flags)
                _index_commands(inner)


_index_commands(COMMAND_TABLE)


def wrong_arity(name: bytes) -> Refused:
    return Refused(f"ERR wrong number of arguments for '{name.decode()}' command")


class Keyspace:
    """The data of one database and the effects of the execution unit under way."""

    def __init__(self, choose: Callable[[list[bytes], int], list[bytes]]) -> None:
        self.data: dict[bytes, Value] = {}
        self.expires: dict[bytes, int] = {}  # unix time, ms
        self.now_ms = 0  # stands still during a unit
        self.primary = False
        self.fed = False  # the unit comes from the feed
        self.effects: list[Sequence[bytes]] = []  # of the unit so far
        self.changes = 0
        self.rewrite: Sequence[bytes] | None = None
        self.choose = choose  # (members, how many) -> the ones that SPOP takes
        self.on_touched: Callable[[bytes], None] = lambda key: None  # for WATCH

    def run(self, argv: Sequence[bytes], work: Callable[[], Reply]) -> Reply:
        """One command: `work` does it; its effect, if it has one, joins the unit's."""
        before, self.rewrite = self.changes, None
        reply = work()
        if self.changes != before and self.primary:
            self.effects.append(self.rewrite if self.rewrite is not None else argv)
        return reply

    def is_expired(self, key: bytes) -> bool:
        return key in self.expires and self.now_ms > self.expires[key] and not self.fed

    def find(self, key: bytes) -> Value | None:
        if not self.is_expired(key):
            return self.data.get(key)
        if self.primary:
            self.expire_now(key)
        return None

    def expire_now(self, key: bytes) -> None:
        self._remove(key)
        self.effects.append([b"UNLINK", key])

    def typed(self, key: bytes, kind: type[V]) -> V | None:
        value = self.find(key)
        if value is not None and not isinstance(value, kind):
            raise WRONGTYPE
        return value

    def put(self, key: bytes, value: Value, keep_ttl: bool = False) -> None:
        """Set a whole value."""
        self.find(key)
        self.data[key] = value
        if not keep_ttl:
            self.expires.pop(key, None)
        self.touch(key)

    def delete(self, key: bytes) -> bool:
        if self.find(key) is None:
            return False
        self._remove(key)
        self.changes += 1
        return True

    def drop_if_empty(self, key: bytes) -> None:
        if not self.data[key]:
            del self.data[key]
            self.expires.pop(key, None)

    def touch(self, key: bytes) -> None:
        """The key was changed."""
        self.changes += 1
        self.on_touched(key)

    def _remove(self, key: bytes) -> None:
        del self.data[key]
        self.expires.pop(key, None)
        self.on_touched(key)

    def already_past(self, when_ms: int) -> bool:
        return when_ms <= self.now_ms and self.primary

    def clear(self) -> None:
        keys = list(self.data)
        self.data.clear()
        self.expires.clear()
        for key in keys:
            self.on_touched(key)


# ---------------------------------------------------------------- numbers

_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")
_FLOAT = re.compile(rb"[+-]?(inf|infinity|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)", re.IGNORECASE)


def integer(raw: bytes, error: Refused = NOT_AN_INTEGER) -> int:
    if not _INTEGER.fullmatch(raw) or not -INT64_MAX - 1 <= (number := int(raw)) <= INT64_MAX:
        raise error
    return number


def _count(raw: bytes) -> int:
    error = Refused("ERR value is out of range, must be positive")
    number = integer(raw, error)
    if number < 0:
        raise error
    return number


def _score(raw: bytes) -> float:
    if not _FLOAT.fullmatch(raw):
        raise Refused("ERR value is not a valid float")
    return float(raw)


def _slice(start: int, stop: int, size: int) -> slice:
    """Redis's inclusive, negative-from-the-end range."""
    start = max(0, start + size if start < 0 else start)
    stop = stop + size if stop < 0 else stop
    return slice(start, max(start, stop + 1))


# ---------------------------------------------------------------- strings


def _get(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    return db.typed(argv[1], bytes)


def _set_options(words: Sequence[bytes]) -> tuple[frozenset[bytes], bytes, bytes]:
    """(flags among NX XX GET KEEPTTL, unit of the expiry or b"", its raw value)."""
    flags: set[bytes] = set()
    unit = raw = b""
    rest = iter(words)
    for word in rest:
        option = word.upper()
        if option in (b"NX", b"XX", b"GET") or (option == b"KEEPTTL" and not unit):
            flags.add(option)
        elif option in (b"EX", b"PX", b"EXAT", b"PXAT") and not unit and b"KEEPTTL" not in flags:
            unit, raw = option, next(rest, b"")
            if not raw:
                raise SYNTAX
        else:
            raise SYNTAX
    if {b"NX", b"XX"} <= flags:
        raise SYNTAX
    return frozenset(flags), unit, raw


def _set_expiry(db: Keyspace, unit: bytes, raw: bytes) -> int:
    when = integer(raw)
    if unit.startswith(b"EX"):
        when *= 1000
    if not unit.endswith(b"AT"):
        when += db.now_ms
    if integer(raw) <= 0 or when > INT64_MAX:
        raise Refused("ERR invalid expire time in 'set' command")
    return when


def _set(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    key, value = argv[1], argv[2]
    flags, unit, raw = _set_options(argv[3:])
    when = _set_expiry(db, unit, raw) if unit else None
    old = db.typed(key, bytes) if b"GET" in flags else None
    reply: Reply = old if b"GET" in flags else OK
    found = db.find(key) is not None
    if (b"NX" in flags and found) or (b"XX" in flags and not found):
        return old
    if when is not None and db.already_past(when):
        if db.delete(key):
            db.rewrite = [b"UNLINK", key]
        return reply
    db.put(key, value, keep_ttl=b"KEEPTTL" in flags)
    if when is not None:
        db.expires[key] = when
        db.rewrite = [*argv[:3], b"PXAT", b"%d" % when]
    elif b"GET" in flags:
        db.rewrite = [*argv[:3], *(word for word in argv[3:] if word.upper() != b"GET")]
    return reply


def _setnx(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if db.find(argv[1]) is not None:
        return 0
    db.put(argv[1], argv[2])
    return 1


def _mset(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if len(argv) % 2 == 0:
        raise wrong_arity(b"mset")
    for key, value in zip(argv[1::2], argv[2::2], strict=True):
        db.put(key, value)
    return OK


def _getset(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    old = db.typed(argv[1], bytes)
    db.put(argv[1], argv[2])
    db.rewrite = [b"SET", argv[1], argv[2]]
    return old


def _getdel(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    old = db.typed(argv[1], bytes)
    if db.delete(argv[1]):
        db.rewrite = [b"DEL", argv[1]]
    return old


def _add(db: Keyspace, key: bytes, delta: int) -> int:
    old = db.typed(key, bytes)
    number = (0 if old is None else integer(old)) + delta
    if not -INT64_MAX - 1 <= number <= INT64_MAX:
        raise OVERFLOW
    db.put(key, b"%d" % number, keep_ttl=True)
    return number


def _decrby(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    delta = integer(argv[2])
    if delta == -INT64_MAX - 1:
        raise Refused("ERR decrement would overflow")
    return _add(db, argv[1], -delta)


def _append(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    value = (db.typed(argv[1], bytes) or b"") + argv[2]
    db.put(argv[1], value, keep_ttl=True)
    return len(value)


# ---------------------------------------------------------------- any key


def _delete(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    return sum(db.delete(key) for key in argv[1:])


def _exists(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    return sum(db.find(key) is not None for key in argv[1:])


def _expiry_options(words: Sequence[bytes]) -> frozenset[bytes]:
    options = frozenset(word.upper() for word in words)
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise Refused("ERR Unsupported option " + word.decode("utf-8", "replace"))
    if b"NX" in options and len(options) > 1:
        raise Refused("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= options:
        raise Refused("ERR GT and LT options at the same time are not compatible")
    return options


def _expiry_applies(options: frozenset[bytes], current: int | None, when: int) -> bool:
    """Without an expiry a key counts as living for ever."""
    if current is None:
        return not options & {b"XX", b"GT"}
    if b"NX" in options or (b"GT" in options and when <= current):
        return False
    return not (b"LT" in options and when >= current)


def _expire(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    """EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT."""
    name, key = argv[0].lower(), argv[1]
    options = _expiry_options(argv[3:])
    when = integer(argv[2]) * (1 if name.startswith(b"p") else 1000)
    when += 0 if name.endswith(b"at") else db.now_ms
    if not -INT64_MAX <= when <= INT64_MAX:
        raise Refused(f"ERR invalid expire time in '{name.decode()}' command")
    if db.find(key) is None or not _expiry_applies(options, db.expires.get(key), when):
        return 0
    if db.already_past(when):
        db.delete(key)
        db.rewrite = [b"UNLINK", key]
        return 1
    db.expires[key] = when
    db.touch(key)
    if name != b"pexpireat":
        db.rewrite = [b"PEXPIREAT", key, b"%d" % when, *argv[3:]]
    return 1


def _ttl_ms(db: Keyspace, argv: Sequence[bytes]) -> int:
    if db.find(argv[1]) is None:
        return -2
    return max(0, db.expires[argv[1]] - db.now_ms) if argv[1] in db.expires else -1


def _ttl(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    left = _ttl_ms(db, argv)
    return left if left < 0 else (left + 500) // 1000


def _persist(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if db.find(argv[1]) is None or db.expires.pop(argv[1], None) is None:
        return 0
    db.touch(argv[1])
    return 1


def _type(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    value = db.find(argv[1])
    return Status(b"none" if value is None else TYPE_NAMES[type(value)])


def _glob(pattern: bytes) -> "re.Pattern[bytes]":
    """Redis's: `*`, `?`, `[a-c]`, `[^a]`, and a backslash before anything."""
    out = b""
    for token in re.findall(rb"\\.|\[[^\]]*\]|.", pattern, re.DOTALL):
        if token in (b"*", b"?"):
            out += {b"*": b".*", b"?": b"."}[token]
        elif token[:1] == b"[" and len(token) > 2:
            out += token
        else:
            out += re.escape(token[-1:])
    return re.compile(out, re.DOTALL)


def _keys(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    pattern = _glob(argv[1])
    return [key for key in db.data if pattern.fullmatch(key) and not db.is_expired(key)]


def _flush(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    """Propagated even when there was nothing to flush."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"SYNC", b"ASYNC")):
        raise SYNTAX
    db.clear()
    db.changes += 1
    return OK


# ---------------------------------------------------------------- lists


def _push(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    items = db.typed(argv[1], list)
    if items is None:
        items = db.data[argv[1]] = []
    if argv[0].lower() == b"rpush":
        items.extend(argv[2:])
    else:
        items[:0] = reversed(argv[2:])
    db.touch(argv[1])
    return len(items)


def _pop(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if len(argv) > 3:
        raise wrong_arity(argv[0].lower())
    count = _count(argv[2]) if len(argv) == 3 else None
    items = db.typed(argv[1], list)
    if items is None:
        return None if count is None else NULL_ARRAY
    wanted = min(len(items), 1 if count is None else count)
    if wanted == 0:
        return []
    if argv[0].lower() == b"lpop":
        taken = items[:wanted]
        del items[:wanted]
    else:
        taken = items[-wanted:][::-1]
        del items[-wanted:]
    db.drop_if_empty(argv[1])
    db.touch(argv[1])
    return taken[0] if count is None else [*taken]


def _lrange(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    start, stop = integer(argv[2]), integer(argv[3])
    items = db.typed(argv[1], list) or []
    return [*items[_slice(start, stop, len(items))]]


# ---------------------------------------------------------------- sets


def _sadd(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    members = db.typed(argv[1], SetValue)
    if members is None:
        members = SetValue()
        db.data[argv[1]] = members
    before = len(members)
    members.update(dict.fromkeys(argv[2:]))
    if len(members) > before:
        db.touch(argv[1])
    return len(members) - before


def _remove_members(db: Keyspace, key: bytes, members: dict[bytes, T] | None, gone: Iterable[bytes]) -> int:
    """SREM, HDEL, ZREM; how many there were."""
    if members is None:
        return 0
    before = len(members)
    for member in gone:
        members.pop(member, None)
    removed = before - len(members)
    if removed:
        db.drop_if_empty(key)
        db.touch(key)
    return removed


def _spop(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if len(argv) > 3:
        raise SYNTAX
    count = _count(argv[2]) if len(argv) == 3 else None
    key = argv[1]
    members = db.typed(key, SetValue)
    if members is None:
        return None if count is None else SetReply()
    if count == 0:
        return SetReply()
    if count is not None and count >= len(members):
        taken = list(members)
        db.delete(key)
        db.rewrite = [b"UNLINK", key]
        return SetReply(taken)
    taken = db.choose(list(members), 1 if count is None else count)
    _remove_members(db, key, members, taken)
    db.rewrite = [b"SREM", key, *taken]
    return taken[0] if count is None else SetReply(taken)


# ---------------------------------------------------------------- hashes


def _hset(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    if len(argv) % 2:
        raise wrong_arity(b"hset")
    fields = db.typed(argv[1], HashValue)
    if fields is None:
        fields = HashValue()
        db.data[argv[1]] = fields
    before = len(fields)
    fields.update(zip(argv[2::2], argv[3::2], strict=True))
    db.touch(argv[1])
    return len(fields) - before


def _hincrby(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    delta = integer(argv[3])
    fields = db.typed(argv[1], HashValue) or HashValue()
    number = integer(fields.get(argv[2], b"0"), Refused("ERR hash value is not an integer")) + delta
    if not -INT64_MAX - 1 <= number <= INT64_MAX:
        raise OVERFLOW
    fields[argv[2]] = b"%d" % number
    db.data[argv[1]] = fields
    db.touch(argv[1])
    return number


def _hgetall(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    return dict(db.typed(argv[1], HashValue) or {})


# ---------------------------------------------------------------- sorted sets

_ZADD_OPTIONS = (b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR")


def _zadd_words(argv: Sequence[bytes]) -> tuple[frozenset[bytes], list[tuple[float, bytes]]]:
    at = 2
    while at < len(argv) and argv[at].upper() in _ZADD_OPTIONS:
        at += 1
    options = frozenset(word.upper() for word in argv[2:at])
    pairs = argv[at:]
    if not pairs or len(pairs) % 2:
        raise SYNTAX
    if {b"NX", b"XX"} <= options:
        raise Refused("ERR XX and NX options at the same time are not compatible")
    if len(options & {b"GT", b"LT", b"NX"}) > 1:
        raise Refused("ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in options and len(pairs) > 2:
        raise Refused("ERR INCR option supports a single increment-element pair")
    return options, [(_score(raw), member) for raw, member in zip(pairs[::2], pairs[1::2], strict=True)]


def _zadd_score(options: frozenset[bytes], old: float | None, score: float) -> float | None:
    """The member's new score, or None: leave it as it is."""
    if b"INCR" in options and old is not None:
        score += old
        if score != score:
            raise Refused("ERR resulting score is not a number (NaN)")
    if old is None:
        return None if b"XX" in options else score
    if b"NX" in options or (b"GT" in options and score <= old) or (b"LT" in options and score >= old):
        return None
    return score


def _zadd(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    options, pairs = _zadd_words(argv)
    scores = db.typed(argv[1], SortedSet)
    if scores is None:
        scores = SortedSet()
    added = changed = 0
    score: float | None = None
    for given, member in pairs:
        old = scores.get(member)
        score = _zadd_score(options, old, given)
        if score is not None:
            added += old is None
            changed += score != old
            scores[member] = score
    if changed:
        db.data[argv[1]] = scores
        db.touch(argv[1])
    if b"INCR" in options:
        return score
    return changed if b"CH" in options else added


def _zscore(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    return (db.typed(argv[1], SortedSet) or SortedSet()).get(argv[2])


def ranked(scores: SortedSet) -> list[tuple[float, bytes]]:
    return sorted((score, member) for member, score in scores.items())


def _zrange(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    options = frozenset(word.upper() for word in argv[4:])
    if not options <= {b"WITHSCORES", b"REV"}:
        raise SYNTAX
    start, stop = integer(argv[2]), integer(argv[3])
    found = ranked(db.typed(argv[1], SortedSet) or SortedSet())
    if b"REV" in options:
        found.reverse()
    found = found[_slice(start, stop, len(found))]
    if b"WITHSCORES" in options:
        return ScoredReply([member, score] for score, member in found)
    return [member for _, member in found]


# ---------------------------------------------------------------- streams

_STREAM_ID = re.compile(rb"([0-9]{1,20})(?:-([0-9]{1,20}))?")
_BAD_ID = Refused("ERR Invalid stream ID specified as stream command argument")
_SMALL_ID = Refused("ERR The ID specified in XADD is equal or smaller than the target stream top item")
_LAST_ID = (UINT64_MAX, UINT64_MAX)


def _stream_id(raw: bytes, missing_sequence: int) -> StreamId:
    found = _STREAM_ID.fullmatch(raw)
    if found is None:
        raise _BAD_ID
    ms, sequence = int(found[1]), int(found[2]) if found[2] is not None else missing_sequence
    if max(ms, sequence) > UINT64_MAX:
        raise _BAD_ID
    return ms, sequence


def _after(last: StreamId) -> StreamId:
    return (last[0], last[1] + 1) if last[1] < UINT64_MAX else (last[0] + 1, 0)


def _new_stream_id(raw: bytes, asked: StreamId, last: StreamId) -> StreamId:
    """The id for XADD's `raw` (`asked` for what its digits say) after `last`."""
    if last == _LAST_ID:
        raise Refused("ERR The stream has exhausted the last possible ID, unable to add more items")
    if raw == b"*":
        return asked if asked > last else _after(last)
    if raw.endswith(b"-*"):
        asked = (asked[0], last[1] + 1 if asked[0] == last[0] else 0)
        if asked[1] > UINT64_MAX:
            raise _SMALL_ID
    if asked <= last:
        raise _SMALL_ID
    return asked


def _xadd(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    at = 3 if argv[2].upper() == b"NOMKSTREAM" else 2
    raw = argv[at] if at < len(argv) else b""
    asked = (db.now_ms, 0) if raw == b"*" else _stream_id(raw.removesuffix(b"-*"), 0)
    if len(argv) - at < 3 or (len(argv) - at) % 2 == 0:
        raise wrong_arity(b"xadd")
    if asked == (0, 0) and not raw.endswith(b"-*"):
        raise Refused("ERR The ID specified in XADD must be greater than 0-0")
    stream = db.typed(argv[1], Stream)
    if stream is None and at == 3:
        return None
    stream = stream or Stream()
    stream.last = _new_stream_id(raw, asked, stream.last)
    stream.entries.append((stream.last, list(argv[at + 1 :])))
    db.data[argv[1]] = stream
    db.touch(argv[1])
    name = b"%d-%d" % stream.last
    if b"*" in raw:
        db.rewrite = [*argv[:at], name, *argv[at + 1 :]]
    return name


def _bound(raw: bytes, missing_sequence: int) -> tuple[StreamId, bool]:
    """(id, whether it is itself left out)."""
    if raw in (b"-", b"+"):
        return ((0, 0) if raw == b"-" else _LAST_ID), False
    return _stream_id(raw.removeprefix(b"("), missing_sequence), raw.startswith(b"(")


def _xrange(db: Keyspace, argv: Sequence[bytes]) -> Reply:
    (start, start_out), (end, end_out) = _bound(argv[2], 0), _bound(argv[3], UINT64_MAX)
    if start_out and start == _LAST_ID:
        raise Refused("ERR invalid start ID for the interval")
    if end_out and end == (0, 0):
        raise Refused("ERR invalid end ID for the interval")
    count = None
    match [word.upper() for word in argv[4:]]:
        case []:
            pass
        case [b"COUNT", raw]:
            count = max(0, integer(raw))
        case _:
            raise SYNTAX
    stream = db.typed(argv[1], Stream)
    if stream is None:
        return []
    if count == 0:
        return NULL_ARRAY
    found: list[Reply] = [
        [b"%d-%d" % name, [*fields]]
        for name, fields in stream.entries
        if start <= name <= end and not (start_out and name == start) and not (end_out and name == end)
    ]
    return found if count is None else found[:count]


# ---------------------------------------------------------------- the table

Handler = Callable[[Keyspace, Sequence[bytes]], Reply]


def _size_of(kind: type[V]) -> Handler:
    def size(db: Keyspace, argv: Sequence[bytes]) -> Reply:
        value = db.typed(argv[1], kind)
        return 0 if value is None else len(value.entries if isinstance(value, Stream) else value)

    return size


HANDLERS: dict[bytes, Handler] = {
    b"get": _get,
    b"set": _set,
    b"setnx": _setnx,
    b"mset": _mset,
    b"getset": _getset,
    b"getdel": _getdel,
    b"incr": lambda db, argv: _add(db, argv[1], 1),
    b"decr": lambda db, argv: _add(db, argv[1], -1),
    b"incrby": lambda db, argv: _add(db, argv[1], integer(argv[2])),
    b"decrby": _decrby,
    b"append": _append,
    b"strlen": _size_of(bytes),
    b"del": _delete,
    b"unlink": _delete,
    b"exists": _exists,
    b"expire": _expire,
    b"pexpire": _expire,
    b"expireat": _expire,
    b"pexpireat": _expire,
    b"ttl": _ttl,
    b"pttl": _ttl_ms,
    b"persist": _persist,
    b"type": _type,
    b"keys": _keys,
    b"dbsize": lambda db, argv: len(db.data),
    b"flushall": _flush,
    b"flushdb": _flush,
    b"rpush": _push,
    b"lpush": _push,
    b"lpop": _pop,
    b"rpop": _pop,
    b"lrange": _lrange,
    b"llen": _size_of(list),
    b"sadd": _sadd,
    b"srem": lambda db, argv: _remove_members(db, argv[1], db.typed(argv[1], SetValue), argv[2:]),
    b"smembers": lambda db, argv: SetReply(db.typed(argv[1], SetValue) or ()),
    b"sismember": lambda db, argv: int(argv[2] in (db.typed(argv[1], SetValue) or ())),
    b"scard": _size_of(SetValue),
    b"spop": _spop,
    b"hset": _hset,
    b"hget": lambda db, argv: (db.typed(argv[1], HashValue) or HashValue()).get(argv[2]),
    b"hgetall": _hgetall,
    b"hdel": lambda db, argv: _remove_members(db, argv[1], db.typed(argv[1], HashValue), argv[2:]),
    b"hincrby": _hincrby,
    b"hlen": _size_of(HashValue),
    b"zadd": _zadd,
    b"zscore": _zscore,
    b"zrange": _zrange,
    b"zrem": lambda db, argv: _remove_members(db, argv[1], db.typed(argv[1], SortedSet), argv[2:]),
    b"zcard": _size_of(SortedSet),
    b"xadd": _xadd,
    b"xlen": _size_of(Stream),
    b"xrange": _xrange,
}


# ---------------------------------------------------------------- replies as RESP


def _number(score: float) -> bytes:
    """As Valkey prints a score: the shortest digits that give the same number back."""
    if score.is_integer() and abs(score) < 2**53:
        return b"%d" % score
    return re.sub(r"e([+-])0", r"e\1", repr(score)).encode()


def _array(mark: bytes, size: int, parts: Iterable[Reply], resp3: bool) -> bytes:
    return mark + b"%d\r\n" % size + b"".join(encode(part, resp3) for part in parts)


def encode(reply: Reply, resp3: bool = False) -> bytes:
    match reply:
        case None:
            return b"_\r\n" if resp3 else b"$-1\r\n"
        case Status():
            return b"+" + reply + b"\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case float():
            return b"," + _number(reply) + b"\r\n" if resp3 else encode(_number(reply))
        case Refused():
            # A client's word in the text must not begin a reply of its own.
            return b"-" + str(reply).encode().replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"
        case _NullArray():
            return b"_\r\n" if resp3 else b"*-1\r\n"
        case dict() if resp3:
            return _array(b"%", len(reply), (part for pair in reply.items() for part in pair), True)
        case dict():
            return _array(b"*", 2 * len(reply), (part for pair in reply.items() for part in pair), False)
        case ScoredReply() if not resp3:
            flat = [part for pair in reply if isinstance(pair, list) for part in pair]
            return _array(b"*", len(flat), flat, False)
        case _:
            return _array(b"~" if resp3 and isinstance(reply, SetReply) else b"*", len(reply), reply, resp3)
