"""What clients do: each kind's replies are the witness that its checker reads (`cluster/sim/history.py`).

A kind draws an operation, says how it is sent, and turns the reply into what the history records. Keys carry
a hash tag of the shard they are meant for, so every shard gets its part. Values are `v1`, `v2` …, unique in
the run. `effects` is there for the replicas' digests: commands whose effects differ from what was asked
(expiry, SPOP, XADD *), whose replies nobody judges.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.shard.slots import key_slot
from cluster.sim.client import SimClient, pack
from cluster.sim.history import Op
from cluster.types import ShardId

if TYPE_CHECKING:
    from cluster.sim.simulation import Simulation

SMALL_OPS_PER_KEY = 60
SMALL_VALUES = ("a", "b", "c")


@dataclass(slots=True)
class Request:
    """An operation on its way: what to record, what to send."""

    shard: ShardId
    command: str
    key: str
    argument: object
    data: bytes
    replies: int = 1


def _text(reply: object) -> str | None:
    return reply.decode() if isinstance(reply, bytes) else None


def _texts(reply: object) -> list[str]:
    return (
        [item.decode() for item in reply if isinstance(item, bytes)] if isinstance(reply, (list, set)) else []
    )


class Workload:
    """One kind, over `keys` keys a shard."""

    kind = ""
    write_percent = 65

    def __init__(self, sim: "Simulation", keys: int, rng: random.Random) -> None:
        self.sim = sim
        self.rng = rng
        self.keys = keys
        self.shards = [shard.id for shard in sim.topology.shards]

    def pick(self) -> tuple[ShardId, str]:
        shard = self.shards[int(self.rng.random() * len(self.shards))]
        return shard, f"{{{self.sim.tags[shard]}}}{self.kind}{int(self.rng.random() * self.keys)}"

    def writes(self) -> bool:
        return self.rng.random() * 100 < self.write_percent

    def draw(self) -> Request:
        raise NotImplementedError  # each kind has its own

    def final_reads(self) -> list[Request]:
        """What to read when all is over: every key once."""
        return []

    def understand(self, op: Op, reply: object) -> object:
        """The reply as the history records it."""
        return reply

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        """Unique values that this reply acknowledges or shows."""
        return ()

    def all_keys(self) -> list[tuple[ShardId, str]]:
        return [
            (shard, f"{{{self.sim.tags[shard]}}}{self.kind}{number}")
            for shard in self.shards
            for number in range(self.keys)
        ]


def _command(shard: ShardId, name: str, key: str, argument: object, *words: str) -> Request:
    return Request(shard, name, key, argument, pack([word.encode() for word in words]))


class Register(Workload):
    kind = "register"
    write_percent = 45

    def draw(self) -> Request:
        shard, key = self.pick()
        if self.writes():
            value = self.sim.unique()
            return _command(shard, "SET", key, value, "SET", key, value)
        return self._get(shard, key)

    def _get(self, shard: ShardId, key: str) -> Request:
        return _command(shard, "GET", key, None, "GET", key)

    def final_reads(self) -> list[Request]:
        return [self._get(shard, key) for shard, key in self.all_keys()]

    def understand(self, op: Op, reply: object) -> object:
        return _text(reply) if op.command == "GET" else None

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        if op.command == "SET":
            return (str(op.argument),)
        return (reply.decode(),) if isinstance(reply, bytes) else ()


class List(Workload):
    kind = "list"

    def draw(self) -> Request:
        shard, key = self.pick()
        if self.writes():
            value = self.sim.unique()
            return _command(shard, "RPUSH", key, value, "RPUSH", key, value)
        return self._read(shard, key)

    def _read(self, shard: ShardId, key: str) -> Request:
        return _command(shard, "LRANGE", key, None, "LRANGE", key, "0", "-1")

    def final_reads(self) -> list[Request]:
        return [self._read(shard, key) for shard, key in self.all_keys()]

    def understand(self, op: Op, reply: object) -> object:
        return _texts(reply) if op.command == "LRANGE" else reply

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        return (str(op.argument),) if op.command == "RPUSH" else _texts(reply)[-3:]


class Counter(Workload):
    kind = "counter"

    def draw(self) -> Request:
        shard, key = self.pick()
        if self.writes():
            return _command(shard, "INCR", key, None, "INCR", key)
        return _command(shard, "GET", key, None, "GET", key)

    def final_reads(self) -> list[Request]:
        return [_command(shard, "GET", key, None, "GET", key) for shard, key in self.all_keys()]

    def understand(self, op: Op, reply: object) -> object:
        if op.command == "GET":
            return int(reply) if isinstance(reply, bytes) else 0
        return reply


class Chain(Workload):
    kind = "chain"

    def draw(self) -> Request:
        shard, key = self.pick()
        value = self.sim.unique()
        return _command(shard, "SETGET", key, value, "SET", key, value, "GET")

    def final_reads(self) -> list[Request]:
        return [_command(shard, "GET", key, None, "GET", key) for shard, key in self.all_keys()]

    def understand(self, op: Op, reply: object) -> object:
        return _text(reply)

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        shown = [str(op.argument)] if op.command == "SETGET" else []
        return [*shown, reply.decode()] if isinstance(reply, bytes) else shown


class Set(Workload):
    kind = "set"

    def draw(self) -> Request:
        shard, key = self.pick()
        if self.writes():
            value = self.sim.unique()
            return _command(shard, "SADD", key, value, "SADD", key, value)
        return _command(shard, "SMEMBERS", key, None, "SMEMBERS", key)

    def final_reads(self) -> list[Request]:
        return [_command(shard, "SMEMBERS", key, None, "SMEMBERS", key) for shard, key in self.all_keys()]

    def understand(self, op: Op, reply: object) -> object:
        return sorted(_texts(reply)) if op.command == "SMEMBERS" else reply

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        return (str(op.argument),) if op.command == "SADD" else _texts(reply)


class Transaction(Workload):
    kind = "transaction"

    def draw(self) -> Request:
        shard, _ = self.pick()
        tag = self.sim.tags[shard]
        parts: list[tuple[str, str, str | None]] = []
        for _ in range(self.rng.randint(2, 4)):
            key = f"{{{tag}}}transaction{int(self.rng.random() * max(2, self.keys))}"
            parts.append(("RPUSH", key, self.sim.unique()) if self.writes() else ("LRANGE", key, None))
        return self._request(shard, parts)

    def _request(self, shard: ShardId, parts: list[tuple[str, str, str | None]]) -> Request:
        words = [pack([b"MULTI"])]
        for command, key, value in parts:
            if value is not None:
                words.append(pack([command.encode(), key.encode(), value.encode()]))
            else:
                words.append(pack([command.encode(), key.encode(), b"0", b"-1"]))
        words.append(pack([b"EXEC"]))
        return Request(shard, "TXN", parts[0][1], tuple(parts), b"".join(words), len(words))

    def final_reads(self) -> list[Request]:
        found = []
        for shard in self.shards:
            tag = self.sim.tags[shard]
            keys = [f"{{{tag}}}transaction{number}" for number in range(max(2, self.keys))]
            found.append(self._request(shard, [("LRANGE", key, None) for key in keys]))
        return found

    def understand(self, op: Op, reply: object) -> object:
        return tuple(_texts(part) if isinstance(part, list) else part for part in self._parts(reply))

    def values_shown(self, op: Op, reply: object) -> Sequence[str]:
        argument: Any = op.argument
        shown = [value for _, _, value in argument if value is not None]
        for part in self._parts(reply):
            shown += _texts(part)[-2:]
        return shown

    def _parts(self, reply: object) -> Sequence[object]:
        return reply if isinstance(reply, list) else ()


class Small(Workload):
    kind = "small"

    def __init__(self, sim: "Simulation", keys: int, rng: random.Random) -> None:
        super().__init__(sim, keys, rng)
        self._drawn = 0

    def pick(self) -> tuple[ShardId, str]:
        """The search is exponential at worst, so a key is used for a while only."""
        self._drawn += 1
        shard = self.shards[int(self.rng.random() * len(self.shards))]
        era = self._drawn // (SMALL_OPS_PER_KEY * self.keys)
        return shard, f"{{{self.sim.tags[shard]}}}small{int(self.rng.random() * self.keys)}.{era}"

    def draw(self) -> Request:
        shard, key = self.pick()
        value = self.rng.choice(SMALL_VALUES)
        match self.rng.choice(("SET", "GET", "GET", "SETNX", "DEL")):
            case "SET":
                return _command(shard, "SET", key, value, "SET", key, value)
            case "SETNX":
                return _command(shard, "SETNX", key, value, "SETNX", key, value)
            case "DEL":
                return _command(shard, "DEL", key, None, "DEL", key)
            case _:
                return _command(shard, "GET", key, None, "GET", key)

    def understand(self, op: Op, reply: object) -> object:
        match op.command:
            case "GET":
                return _text(reply)
            case "SET":
                return None
            case _:
                return reply


class Effects(Workload):
    kind = "effects"

    def draw(self) -> Request:
        shard, key = self.pick()
        rng, value = self.rng, self.sim.unique()
        number = str(rng.randint(1, 9))
        words = rng.choice(
            (
                ("SET", f"{key}s", value, "PX", str(rng.randint(20, 3000))),
                ("SET", f"{key}s", value),
                ("APPEND", f"{key}a", number),
                ("PEXPIRE", f"{key}s", str(rng.randint(10, 2000))),
                ("PERSIST", f"{key}s"),
                ("GETDEL", f"{key}s"),
                ("HSET", f"{key}h", number, value),
                ("HINCRBY", f"{key}hc", number, "1"),
                ("HDEL", f"{key}h", number),
                ("SADD", f"{key}m", value, number),
                ("SPOP", f"{key}m"),
                ("ZADD", f"{key}z", number, value),
                ("ZREM", f"{key}z", value),
                ("XADD", f"{key}x", "*", "f", value),
                ("LPUSH", f"{key}l", value),
                ("RPOP", f"{key}l"),
                ("DEL", f"{key}m"),
                ("PEXPIRE", f"{key}l", str(rng.randint(10, 500))),
            )
        )
        return _command(shard, words[0], key, words[1:], *words)


KINDS: dict[str, Callable[["Simulation", int, random.Random], Workload]] = {
    "register": Register,
    "list": List,
    "counter": Counter,
    "chain": Chain,
    "set": Set,
    "transaction": Transaction,
    "small": Small,
    "effects": Effects,
}


class Driver:
    """A client that draws from one workload, `ops_per_second` on average, at most `depth` at a time.

    A probe goes on when `ops_max` is reached: it asks whether anybody serves."""

    def __init__(
        self, client: SimClient, workload: Workload, ops_per_second: float, depth: int, *, probe: bool = False
    ) -> None:
        self._client = client
        self._workload = workload
        self._mean_us = 1_000_000 / ops_per_second
        self._depth = depth
        self._probe = probe
        self._running = False

    def start(self) -> None:
        self._running = True
        self._later()

    def stop(self) -> None:
        self._running = False

    def _later(self) -> None:
        delay = self._client.rng.expovariate(1.0) * self._mean_us
        self._client.sim.world.after(int(delay), self._work)

    def _work(self) -> None:
        if not self._running:
            return
        sim = self._client.sim
        if self._client.outstanding < self._depth and (self._probe or sim.may_begin()):
            self.issue(self._workload.draw())
        self._later()

    def issue(self, request: Request, *, final: bool = False) -> Op:
        sim = self._client.sim
        op = sim.begin(self._client.number, self._workload.kind, request, final)
        self._client.submit(op, request.shard, request.data, request.replies)
        return op


def find_tags(sim: "Simulation") -> dict[ShardId, str]:
    """A hash tag for each shard."""
    tags: dict[ShardId, str] = {}
    number = 0
    while len(tags) < len(sim.topology.shards):
        tag = f"t{number}"
        tags.setdefault(sim.topology.shard_of_slot(key_slot(tag.encode())).id, tag)
        number += 1
    return tags
