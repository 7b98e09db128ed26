"""One writing process of the durability demo: `python -m cluster.runtime.demo_worker`, its job as JSON on
stdin.

The job is one line: `{"run": "5d41", "worker": 0, "addresses": [[host, port], …], "shards": {"0001": [[0,
5460]], …}, "history": FILE, "pause_ms": 4}`. It works until stdin closes, so it ends with whoever started it.
Once a second or so it prints a line `{"acked": n, "in_doubt": n, "refused": n}`.

One thread a shard, each with a client of its own, so a shard without a primary holds up nobody else and the
write gap of each shard can be told. Every thread goes round the kinds of data; every value is unique in the
whole run. Lists and counters are shared between the workers, registers are a thread's own.

The history is a file of msgpack arrays, one an operation, written when the answer is known:
`[shard, kind, key, member, value, outcome, reply, read, start_us, end_us]`, times on the machine's monotonic
clock.
"""

import binascii
import json
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgpack
import redis

from cluster.runtime.demo_check import Kind, Op, Outcome, geo_score
from cluster.runtime.demo_client import classify, connect
from cluster.types import SLOT_COUNT

REPORT_INTERVAL_S = 0.25
SHARED_KEYS = 2  # lists and counters a shard, each written by all workers
FAILED_PAUSE_S = 0.01  # after an error, so that a dead shard is not hammered


def slot_of(key: str) -> int:
    """The slot of a key without a hash tag."""
    return binascii.crc_hqx(key.encode(), 0) % SLOT_COUNT


def keys_of_shard(stem: str, ranges: Sequence[Sequence[int]]) -> Iterator[str]:
    """Endless keys `stem:0`, `stem:1`, … that belong to the shard with these slots."""
    number = 0
    while True:
        key = f"{stem}:{number}"
        slot = slot_of(key)
        if any(first <= slot <= last for first, last in ranges):
            yield key
        number += 1


def take(keys: Iterator[str], count: int) -> list[str]:
    return [next(keys) for _ in range(count)]


class Recorder:
    """The history file and the running totals. For several threads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._pack = msgpack.Packer()
        self.totals = {Outcome.OK: 0, Outcome.REFUSED: 0, Outcome.IN_DOUBT: 0}

    def record(self, shard: str, op: Op, start_us: int, end_us: int) -> None:
        row = (
            shard,
            op.kind,
            op.key,
            op.member,
            op.value,
            int(op.outcome),
            op.reply,
            op.read,
            start_us,
            end_us,
        )
        with self._lock:
            self._file.write(self._pack.pack(row))
            if not op.read:
                self.totals[op.outcome] += 1


def read_history(path: Path) -> Iterator[tuple[str, Op, int, int]]:
    """(shard, operation, start_us, end_us) in the order they were recorded."""
    with open(path, "rb") as file:
        for shard, kind, key, member, value, outcome, reply, read, start_us, end_us in msgpack.Unpacker(file):
            yield shard, Op(kind, key, member, value, Outcome(outcome), reply, read), start_us, end_us


class ShardWriter(threading.Thread):
    """All kinds of writes to one shard, one after the other, until `stop`."""

    def __init__(self, job: dict[str, Any], shard: str, recorder: Recorder, stop: threading.Event) -> None:
        super().__init__(name=f"shard {shard}", daemon=True)
        self._job = job
        self._shard = shard
        self._recorder = recorder
        self._stop_event = stop
        self._addresses = [(str(host), int(port)) for host, port in job["addresses"]]
        self._unique = 0
        ranges = job["shards"][shard]
        me = f"{job['worker']}"
        stem = f"demo-{job['run']}"  # keys of this run alone, also in a cluster that has seen others
        self._strings = keys_of_shard(f"{stem}:string:{me}", ranges)
        self._register = next(keys_of_shard(f"{stem}:register:{me}", ranges))
        self._lists = take(keys_of_shard(f"{stem}:list", ranges), SHARED_KEYS)
        self._hash = next(keys_of_shard(f"{stem}:hash:{me}", ranges))
        self._zset = next(keys_of_shard(f"{stem}:zset", ranges))
        self._geo = next(keys_of_shard(f"{stem}:geo", ranges))
        self._counters = take(keys_of_shard(f"{stem}:counter", ranges), SHARED_KEYS)

    def run(self) -> None:
        client = self._connect()
        steps = (self._string, self._set_register, self._push, self._hset, self._zadd, self._geoadd,
        self._incr,
                 self._get_register)  # fmt: skip
        turn = 0
        while not self._stop_event.is_set():
            good = steps[turn % len(steps)](client, turn // len(steps))
            turn += 1
            self._stop_event.wait(self._job["pause_ms"] / 1000 if good else FAILED_PAUSE_S)
        if client is not None:
            client.close()

    def _connect(self) -> Any:
        """Connecting is not an operation: tried until it works, or the work is over."""
        while not self._stop_event.is_set():
            try:
                return connect(self._addresses)
            except (redis.RedisError, redis.exceptions.RedisClusterException):
                self._stop_event.wait(0.1)
        return None

    def _unique_value(self) -> str:
        self._unique += 1
        return f"{self._job['worker']}-{self._shard}-{self._unique}"

    def _do(
        self, kind: Kind, key: str, member: str, value: str, call: Callable[[], object], read: bool = False
    ) -> bool:
        """One operation and its record. Returns whether it was acknowledged."""
        start = time.monotonic_ns() // 1000
        reply = 0
        answer: object = None
        try:
            answer = call()
            outcome = Outcome.OK
        except Exception as error:  # of any kind: what is not understood is in doubt, and the work goes on
            outcome = classify(error)
        end = time.monotonic_ns() // 1000
        if outcome is Outcome.OK and read:
            member = str(answer or "")
        elif outcome is Outcome.OK and kind in ("list", "counter"):
            assert isinstance(answer, int)
            reply = answer
        self._recorder.record(self._shard, Op(kind, key, member, value, outcome, reply, read), start, end)
        return outcome is Outcome.OK

    def _string(self, client: Any, turn: int) -> bool:
        key, value = next(self._strings), self._unique_value()
        return self._do("string", key, value, "", lambda: client.set(key, value))

    def _set_register(self, client: Any, turn: int) -> bool:
        value = self._unique_value()
        return self._do("register", self._register, value, "", lambda: client.set(self._register, value))

    def _get_register(self, client: Any, turn: int) -> bool:
        return self._do("register", self._register, "", "", lambda: client.get(self._register), read=True)

    def _push(self, client: Any, turn: int) -> bool:
        key, value = self._lists[turn % SHARED_KEYS], self._unique_value()
        return self._do("list", key, value, "", lambda: client.rpush(key, value))

    def _hset(self, client: Any, turn: int) -> bool:
        name, value = f"f{turn}", self._unique_value()
        return self._do("hash", self._hash, name, value, lambda: client.hset(self._hash, name, value))

    def _zadd(self, client: Any, turn: int) -> bool:
        member = self._unique_value()
        return self._do(
            "zset", self._zset, member, str(turn), lambda: client.zadd(self._zset, {member: turn})
        )

    def _geoadd(self, client: Any, turn: int) -> bool:
        place = self._unique_value()
        longitude, latitude = turn % 360 - 180 + 0.5, turn % 160 - 80 + 0.5
        score = str(geo_score(longitude, latitude))
        spot = (longitude, latitude, place)
        return self._do("geo", self._geo, place, score, lambda: client.geoadd(self._geo, spot))

    def _incr(self, client: Any, turn: int) -> bool:
        key = self._counters[turn % SHARED_KEYS]
        return self._do("counter", key, "", "", lambda: client.incr(key))


def work(job: dict[str, Any]) -> None:
    stop = threading.Event()
    with open(job["history"], "wb") as file:
        recorder = Recorder(file)
        writers = [ShardWriter(job, shard, recorder, stop) for shard in sorted(job["shards"])]
        for writer in writers:
            writer.start()
        try:
            while all(writer.is_alive() for writer in writers):
                report(recorder)
                if select.select([sys.stdin], [], [], REPORT_INTERVAL_S)[0]:
                    break  # stdin was closed
            broken = not all(writer.is_alive() for writer in writers)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
    report(recorder)
    if broken:
        sys.exit("a writer of the demo ended early")


def report(recorder: Recorder) -> None:
    totals = {outcome.name.lower(): count for outcome, count in recorder.totals.items()}
    print(
        json.dumps({"acked": totals["ok"], "in_doubt": totals["in_doubt"], "refused": totals["refused"]}),
        flush=True,
    )


if __name__ == "__main__":
    try:
        work(json.loads(sys.stdin.readline()))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
