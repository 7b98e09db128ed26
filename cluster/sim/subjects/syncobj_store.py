"""A few Redis commands on a dict: the state machine that PySyncObj replicates for us.

`run` never raises: an exception in a replicated method would stop the library's apply loop at that entry for
ever (`SyncObj.__applyLogEntries` catches one kind only), which would be our fault, not the library's.

Everything is str, list and dict, whose order is the same in every run: what a dump holds must not depend on
PYTHONHASHSEED. A set is a dict without values.
"""

from collections.abc import Callable, Sequence
from typing import Any

Data = dict[str, Any]
Handler = Callable[[Data, Sequence[str]], object]

READS = frozenset({"GET", "LRANGE", "SMEMBERS"})


class Status(str):
    """A simple string, as `OK`."""

    __slots__ = ()


class Refused(str):
    """An error: code and text."""

    __slots__ = ()


OK = Status("OK")
WRONG_TYPE = Refused("WRONGTYPE Operation against a key holding the wrong kind of value")


def run(data: Data, words: Sequence[str]) -> object:
    """Execute one command: None, int, str, Status, Refused or a list of these."""
    handler = COMMANDS.get(words[0])
    if handler is None:
        return Refused(f"ERR unknown command '{words[0]}'")
    try:
        return handler(data, words[1:])
    except (AttributeError, TypeError, KeyError):
        return WRONG_TYPE
    except (ValueError, IndexError):
        return Refused("ERR syntax error")


def _set(data: Data, args: Sequence[str]) -> object:
    key, value, *rest = args
    old = data.get(key)
    if [word.upper() for word in rest] not in ([], ["GET"]):
        raise ValueError
    data[key] = value
    return old if rest else OK


def _setnx(data: Data, args: Sequence[str]) -> object:
    key, value = args
    if key in data:
        return 0
    data[key] = value
    return 1


def _get(data: Data, args: Sequence[str]) -> object:
    value = data.get(args[0])
    return value if value is None or isinstance(value, str) else WRONG_TYPE


def _getdel(data: Data, args: Sequence[str]) -> object:
    return data.pop(args[0], None) if isinstance(data.get(args[0], ""), str) else WRONG_TYPE


def _append(data: Data, args: Sequence[str]) -> object:
    data[args[0]] = data.get(args[0], "") + args[1]
    return len(data[args[0]])


def _incr(data: Data, args: Sequence[str]) -> object:
    data[args[0]] = str(int(data.get(args[0], "0")) + 1)
    return int(data[args[0]])


def _del(data: Data, args: Sequence[str]) -> object:
    return sum(data.pop(key, None) is not None for key in args)


def _rpush(data: Data, args: Sequence[str]) -> object:
    key, *values = args
    values_now: list[str] = data.setdefault(key, [])
    values_now.extend(values)
    return len(values_now)


def _lpush(data: Data, args: Sequence[str]) -> object:
    key, *values = args
    for value in values:
        data.setdefault(key, []).insert(0, value)
    return len(data[key])


def _rpop(data: Data, args: Sequence[str]) -> object:
    values = data.get(args[0])
    if values is None:
        return None
    value = values.pop()
    if not values:
        del data[args[0]]
    return value


def _lrange(data: Data, args: Sequence[str]) -> object:
    if list(args[1:]) != ["0", "-1"]:
        raise ValueError
    values = data.get(args[0], [])
    return list(values) if isinstance(values, list) else WRONG_TYPE


def _sadd(data: Data, args: Sequence[str]) -> object:
    key, *members = args
    have = data.setdefault(key, {})
    before = len(have)
    have.update(dict.fromkeys(members, ""))
    return len(have) - before


def _smembers(data: Data, args: Sequence[str]) -> object:
    return list(data.get(args[0], {}).keys())


def _hset(data: Data, args: Sequence[str]) -> object:
    key, field, value = args
    have = data.setdefault(key, {})
    new = field not in have
    have[field] = value
    return int(new)


def _hdel(data: Data, args: Sequence[str]) -> object:
    key, field = args
    return int(data.get(key, {}).pop(field, None) is not None)


def _hincrby(data: Data, args: Sequence[str]) -> object:
    key, field, by = args
    have = data.setdefault(key, {})
    have[field] = str(int(have.get(field, "0")) + int(by))
    return int(have[field])


COMMANDS: dict[str, Handler] = {
    "APPEND": _append,
    "DEL": _del,
    "GET": _get,
    "GETDEL": _getdel,
    "HDEL": _hdel,
    "HINCRBY": _hincrby,
    "HSET": _hset,
    "INCR": _incr,
    "LPUSH": _lpush,
    "LRANGE": _lrange,
    "RPOP": _rpop,
    "RPUSH": _rpush,
    "SADD": _sadd,
    "SET": _set,
    "SETNX": _setnx,
    "SMEMBERS": _smembers,
}
