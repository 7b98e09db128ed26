"""Histories for the checkers' tests: written as stories, drawn at random, and judged by a dumb twin.

A story has one operation a line, numbered from 0:

    0-10 SET a              acknowledged; began at 0 µs, ended at 10 µs
    20-30 GET = a           with its reply: a word, a number, or [a list]
    40-50 SET b ?           in doubt; whatever follows the time, it may happen later
    60-70 SET c !           failed
    80-90 GET = a final     read when all faults were over
    0-9 TXN RPUSH x a; LRANGE y = 1; [b c]
"""

import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Sequence

from cluster.sim.checkers import check_history
from cluster.sim.history import NEVER_US, Op, Result

Found = list[tuple[str, tuple[int, ...]]]


def story(workload: str, text: str) -> list[Op]:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return [_op(workload, number, line) for number, line in enumerate(lines)]


def _op(workload: str, number: int, line: str) -> Op:
    words = line.split()
    final = words[-1] == "final"
    if final:
        words.pop()
    result = {"?": Result.DOUBT, "!": Result.FAIL}.get(words[-1], Result.OK)
    if result is not Result.OK:
        words.pop()
    began, _, ended = words[0].partition("-")
    said, _, returned = " ".join(words[1:]).partition(" = ")
    command, _, argument = said.partition(" ")
    op = Op(number, number, workload, command, "k", argument or None, int(began), int(ended), result)
    op.final = final
    if command == "TXN":
        parts = [(*part.split(), None) for part in argument.split("; ")]
        op.argument = tuple(part[:3] for part in parts)
        op.key = str(parts[0][1])
        op.reply = tuple(_value(part) for part in returned.split("; ")) if returned else None
    else:
        op.reply = _value(returned)
    return op


def _value(text: str) -> object:
    if text.startswith("["):
        return text.strip("[]").split()
    if text in ("", "nothing"):
        return None
    return int(text) if text.lstrip("-").isdigit() else text


def found(workload: str, text: str) -> Found:
    return findings(story(workload, text))


def findings(history: Sequence[Op]) -> Found:
    return [(one.kind, one.ops) for one in check_history(history)]


# The objects. Each takes a state that can be hashed and returns the next one and the reply.

State = Hashable
Step = tuple[State, object]


def register(state: State, command: str, argument: object) -> Step:
    return (argument, None) if command == "SET" else (state, state)


def append(state: State, command: str, argument: object) -> Step:
    assert isinstance(state, tuple)
    if command == "RPUSH":
        state = (*state, argument)
        return state, len(state)
    return state, list(state)


def counter(state: State, command: str, argument: object) -> Step:
    assert isinstance(state, int)
    height = state + (command == "INCR")
    return height, height


def chain(state: State, command: str, argument: object) -> Step:
    return (argument, state) if command == "SETGET" else (state, state)


def members(state: State, command: str, argument: object) -> Step:
    assert isinstance(state, frozenset)
    return (state | {argument}, 1) if command == "SADD" else (state, sorted(state))


def small(state: State, command: str, argument: object) -> Step:
    match command:
        case "SETNX":
            return (argument, 1) if state is None else (state, 0)
        case "DEL":
            return None, int(state is not None)
    return register(state, command, argument)


def lists(state: State, command: str, argument: object) -> Step:
    assert isinstance(state, tuple) and isinstance(argument, tuple)
    keys = dict(state)
    replies = []
    for part, key, value in argument:
        keys[key], reply = append(keys.get(key, ()), part, value)
        replies.append(reply)
    return tuple(sorted(keys.items())), tuple(replies)


OBJECTS: dict[str, tuple[State, Callable[[State, str, object], Step]]] = {
    "register": (None, register),
    "list": ((), append),
    "counter": (0, counter),
    "chain": (None, chain),
    "set": (frozenset(), members),
    "small": (None, small),
    "transaction": ((), lists),
}
READS = {"GET", "LRANGE", "SMEMBERS"}


# The dumb twin.


def is_explained(history: Sequence[Op]) -> bool:
    """Whether any order explains a history of one object, by trying all of them."""
    state, step = OBJECTS[history[0].workload]
    acked = [op for op in history if op.result is Result.OK]
    doubts = [op for op in history if op.result is Result.DOUBT and op.command not in READS]

    def search(state: State, acked: list[Op], doubts: list[Op]) -> bool:
        if not acked:
            return True
        limit = min(op.ended_us for op in acked)
        for op in acked:
            if op.began_us <= limit:
                after, reply = step(state, op.command, op.argument)
                if reply == op.reply and search(after, [one for one in acked if one is not op], doubts):
                    return True
        return any(
            search(step(state, op.command, op.argument)[0], acked, [one for one in doubts if one is not op])
            for op in doubts
            if op.began_us <= limit
        )

    return search(state, acked, doubts)


def is_explained_by_permutation(history: Sequence[Op]) -> bool:
    """The same from the definition: all permutations of all choices of operations in doubt."""
    start, step = OBJECTS[history[0].workload]
    acked = [op for op in history if op.result is Result.OK]
    doubts = [op for op in history if op.result is Result.DOUBT]
    for count in range(len(doubts) + 1):
        for chosen in itertools.combinations(doubts, count):
            for order in itertools.permutations([*acked, *chosen]):
                if _follows_time(order) and _fits(start, step, order):
                    return True
    return False


def _follows_time(order: Sequence[Op]) -> bool:
    return not any(
        later.result is Result.OK and later.ended_us < earlier.began_us
        for at, earlier in enumerate(order)
        for later in order[at + 1 :]
    )


def _fits(state: State, step: Callable[[State, str, object], Step], order: Sequence[Op]) -> bool:
    for op in order:
        state, reply = step(state, op.command, op.argument)
        if op.result is Result.OK and reply != op.reply:
            return False
    return True


# Random histories.


def draw(rng: random.Random, workload: str, fresh: Iterator[str]) -> tuple[str, object]:
    """Some command and its argument."""
    writes = rng.random() < 0.55
    match workload:
        case "register":
            return ("SET", next(fresh)) if writes else ("GET", None)
        case "list":
            return ("RPUSH", next(fresh)) if writes else ("LRANGE", None)
        case "counter":
            return ("INCR" if writes else "GET"), None
        case "chain":
            return ("SETGET", next(fresh)) if rng.random() < 0.75 else ("GET", None)
        case "set":
            return ("SADD", next(fresh)) if writes else ("SMEMBERS", None)
        case "small":
            command = rng.choice(("SET", "GET", "GET", "SETNX", "DEL"))
            return command, rng.choice("ab") if command in ("SET", "SETNX") else None
    parts = []
    for _ in range(rng.randint(1, 3)):
        part = ("RPUSH", next(fresh)) if rng.random() < 0.6 else ("LRANGE", None)
        parts.append((part[0], rng.choice("xy"), part[1]))
    return "TXN", tuple(parts)


def simulate(rng: random.Random, workload: str, *, clients: int, count: int, step_us: int = 4) -> list[Op]:
    """What clients of a correct object may see; short steps make many times equal."""
    fresh = (f"v{number}" for number in itertools.count())
    free_at = [rng.randint(0, step_us) for _ in range(clients)]
    ops: list[Op] = []
    points: list[tuple[float, float, int]] = []  # when it takes effect
    for at in range(count):
        client = rng.randrange(clients)
        command, argument = draw(rng, workload, fresh)
        began = free_at[client] + rng.randint(0, step_us)
        ended = began + rng.randint(0, step_us)
        free_at[client] = ended
        op = Op(at, client, workload, command, "k", argument, began, ended, Result.OK)
        op.final = command in READS and rng.random() < 0.2
        ops.append(op)
        point: float | None = rng.uniform(began, ended)
        luck = rng.random()
        if luck < 0.2:
            op.result = Result.DOUBT
            op.ended_us = rng.choice((ended, NEVER_US))
            point = rng.choice((point, rng.uniform(began, began + 10 * step_us), None))
        elif luck < 0.3:
            op.result, point = Result.FAIL, None
        if point is not None:
            points.append((point, rng.random(), at))
    state, step = OBJECTS[workload]
    for _, _, at in sorted(points):
        state, reply = step(state, ops[at].command, ops[at].argument)
        if ops[at].result is Result.OK:
            ops[at].reply = reply
    _read_all(ops, step, state)
    return in_order(ops)


def _read_all(ops: list[Op], step: Callable[[State, str, object], Step], state: State) -> None:
    """A final read, after which only operations in doubt may still happen; those have happened already."""
    workload = ops[0].workload
    command, argument = {
        "list": ("LRANGE", None),
        "set": ("SMEMBERS", None),
        "transaction": ("TXN", (("LRANGE", "x", None), ("LRANGE", "y", None))),
    }.get(workload, ("GET", None))
    began = max(op.began_us for op in ops) + 1000
    op = Op(len(ops), 99, workload, command, "k", argument, began, began + 1, Result.OK, final=True)
    op.reply = step(state, command, argument)[1]
    ops.append(op)


def in_order(ops: list[Op]) -> list[Op]:
    ops.sort(key=lambda op: op.began_us)
    for number, op in enumerate(ops):
        op.number = number
    return ops


def spoil(rng: random.Random, history: list[Op]) -> list[Op]:
    """The same history with something changed, which may or may not make it wrong."""
    for _ in range(rng.choice((0, 1, 1, 2))):
        op = rng.choice(history)
        match rng.randrange(6):
            case 0:
                other = rng.choice(history)
                if other.command == op.command and op.command != "TXN":
                    op.reply, other.reply = other.reply, op.reply
            case 1:
                began = max(0, op.began_us + rng.randint(-12, 12))
                op.ended_us += began - op.began_us if op.ended_us < NEVER_US else 0
                op.began_us = began
            case 2:
                op.result = rng.choice(tuple(Result))
            case 3:
                op.reply = _other_reply(rng, op.reply)
                if op.command == "SMEMBERS" and isinstance(op.reply, list):
                    op.reply.sort()  # as the twin's
            case 4:
                op.final = not op.final
            case 5:
                op.ended_us = op.began_us if op.ended_us == NEVER_US else op.ended_us + rng.randint(0, 6)
    return in_order(history)


def _other_reply(rng: random.Random, reply: object) -> object:
    match reply:
        case int():
            return max(0, reply + rng.choice((-1, 1)))
        case list():
            values = list(reply)
            match rng.randrange(3):
                case 0:
                    return values[:-1]
                case 1:
                    return sorted([*values, f"v{rng.randrange(6)}"])
                case _:
                    return [*values, f"v{rng.randrange(6)}"]
        case tuple() if reply:
            at = rng.randrange(len(reply))
            return (*reply[:at], _other_reply(rng, reply[at]), *reply[at + 1 :])
        case str() | None:
            return rng.choice((None, "v0", "v1", "v2", "a", "b"))
    return reply
