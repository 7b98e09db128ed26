"""A closed-loop load generator: N connections, each sends a batch and waits for all its replies, again and
again.

    python -m cluster.runtime.bench.generator --port 7001 --work set --connections 50 --seconds 3

prints one JSON object. It speaks the Redis protocol over plain sockets on uvloop, so the load costs little
beside the server under test; the same program drives both sides of a comparison. A latency runs from handing
a batch to the socket until its last reply is parsed, so nothing hides between the two.

Works: `set` (SET key value), `set_waitaof` (SET key value, WAITAOF 1 1 0, both replies awaited: Valkey's way
to ask for the same promise that ours gives by itself), `get`, `mixed` (80 % GET, 20 % SET).
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import hiredis
import uvloop

WORKS = ("set", "set_waitaof", "get", "mixed")
FORGIVING_S = 30.0  # how much longer than asked a run may take before it is called hung


class BenchError(Exception):
    """A measurement that is no figure. The text is one clear line."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to do. `key_count` keys, named like redis-benchmark's, values of `value_bytes`."""

    port: int
    work: str = "set"
    host: str = "127.0.0.1"
    connections: int = 50
    seconds: float = 3.0
    warmup_s: float = 0.5
    value_bytes: int = 100
    key_count: int = 10_000
    pipeline: int = 1
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """One run: operations (not replies) a second, and latencies of a batch in µs."""

    ops: int
    seconds: float
    ops_per_s: float
    p50_us: int
    p99_us: int
    max_us: int


def encode(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments)


def make_batches(load: Load, rng: random.Random, count: int) -> list[bytes]:
    """Ready-made requests of `load.pipeline` operations each, over random keys."""

    def one() -> bytes:
        key = b"key:%012d" % rng.randrange(load.key_count)
        if load.work == "get" or (load.work == "mixed" and rng.random() < 0.8):
            return encode(b"GET", key)
        value = b"%0*x" % (load.value_bytes, rng.getrandbits(4 * load.value_bytes))
        request = encode(b"SET", key, value)
        return request + encode(b"WAITAOF", b"1", b"1", b"0") if load.work == "set_waitaof" else request

    return [b"".join(one() for _ in range(load.pipeline)) for _ in range(count)]


def reply_is_good(work: str, reply: object) -> bool:
    """SET answers OK, WAITAOF at least [1, 1], GET a value or nil; anything else makes the run no figure."""
    if isinstance(reply, list):
        return work == "set_waitaof" and len(reply) == 2 and reply[0] >= 1 and reply[1] >= 1
    return not isinstance(reply, hiredis.ReplyError)


class Client(asyncio.Protocol):
    """One connection of the load."""

    def __init__(self, load: Load, batches: Sequence[bytes], start: int, fail: Callable[[str], None]) -> None:
        self._batches = batches
        self._at = start
        self._per_batch = load.pipeline * (2 if load.work == "set_waitaof" else 1)
        self._work = load.work
        self._fail = fail
        self._reader = hiredis.Reader()
        self._missing = 0
        self._sent_ns = 0
        self._transport: asyncio.Transport | None = None
        self.latencies = array("q")  # ns per batch
        self.ended_ns = array("q")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def send(self) -> None:
        assert self._transport is not None
        self._missing = self._per_batch
        batch = self._batches[self._at % len(self._batches)]
        self._at += 1
        self._sent_ns = time.monotonic_ns()
        self._transport.write(batch)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply is not None and not reply_is_good(self._work, reply):
                self._fail(f"the server answered {reply!r}")
            self._missing -= 1
        if self._missing == 0:
            now = time.monotonic_ns()
            self.latencies.append(now - self._sent_ns)
            self.ended_ns.append(now)
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the server closed a connection")

    def stop(self) -> None:
        self._fail = lambda why: None
        if self._transport is not None:
            self._transport.abort()


async def drive(load: Load) -> Figures:
    """Run the load. Raises BenchError if a reply is an error or a connection breaks."""
    loop = asyncio.get_running_loop()
    broken: asyncio.Future[str] = loop.create_future()

    def fail(why: str) -> None:
        if not broken.done():
            broken.set_result(why)

    rng = random.Random(load.seed)
    batches = make_batches(load, rng, 4096)
    clients = [Client(load, batches, rng.randrange(4096), fail) for _ in range(load.connections)]
    try:
        for client in clients:
            await loop.create_connection(partial(_itself, client), load.host, load.port)
        for client in clients:
            client.send()
        await asyncio.wait([broken], timeout=load.warmup_s)
        begin_ns = time.monotonic_ns()
        await asyncio.wait([broken], timeout=load.seconds)
        end_ns = time.monotonic_ns()
    except OSError as error:
        raise BenchError(f"cannot connect to {load.host}:{load.port}: {error.strerror}") from None
    finally:
        for client in clients:
            client.stop()
    if broken.done():
        raise BenchError(broken.result())
    return figures(load, clients, begin_ns, end_ns)


def _itself(client: Client) -> Client:
    return client


def figures(load: Load, clients: Sequence[Client], begin_ns: int, end_ns: int) -> Figures:
    """Everything that ended inside the measured time, warm-up left out."""
    latencies = sorted(
        latency
        for client in clients
        for latency, ended in zip(client.latencies, client.ended_ns, strict=True)
        if begin_ns <= ended <= end_ns
    )
    if not latencies:
        raise BenchError("not one operation ended in the measured time")
    seconds = (end_ns - begin_ns) / 1e9
    ops = len(latencies) * load.pipeline
    return Figures(
        ops=ops,
        seconds=seconds,
        ops_per_s=ops / seconds,
        p50_us=percentile(latencies, 50) // 1000,
        p99_us=percentile(latencies, 99) // 1000,
        max_us=latencies[-1] // 1000,
    )


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Nearest rank: the smallest value that `percent` % of all are not above."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


def run_generator(load: Load) -> Figures:
    """Drive the load from a process of its own. Raises BenchError."""
    argv = [sys.executable, "-P", "-m", "cluster.runtime.bench.generator"]
    for name, value in asdict(load).items():
        argv += [f"--{name.replace('_', '-')}", str(value)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=load.warmup_s + load.seconds + FORGIVING_S
        )
    except subprocess.TimeoutExpired:
        raise BenchError("the load generator hung") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["the load generator said nothing"]
        raise BenchError(lines[-1])
    return Figures(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.runtime.bench.generator", description="Closed-loop load."
    )
    parser.add_argument("--work", choices=WORKS, default="set")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("connections", "value_bytes", "key_count", "pipeline", "seed"):
        default = Load.__dataclass_fields__[name].default
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    for name in ("seconds", "warmup_s"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=Load.__dataclass_fields__[name].default
        )
    load = Load(**vars(parser.parse_args()))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(drive(load))
    except BenchError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
