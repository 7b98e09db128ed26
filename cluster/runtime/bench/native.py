"""redis-benchmark (Debian package redis-tools), for loads it can express: it costs far less CPU than ours."""

import csv
import shutil
import subprocess

from cluster.runtime.bench.generator import BenchError

RUN_TIMEOUT_S = 300


def find_redis_benchmark() -> str | None:
    return shutil.which("redis-benchmark")


def run_redis_benchmark(
    binary: str, port: int, test: str, requests: int, connections: int = 50, value_bytes: int = 100,
    key_count: int = 10_000, pipeline: int = 1,
) -> float:  # fmt: skip
    """Operations a second. Raises BenchError if it fails or an answer was an error."""
    argv = [
        binary,
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-t",
        test,
        "-c",
        str(connections),
        "-n",
        str(requests),
    ]
    argv += ["-d", str(value_bytes), "-r", str(key_count), "-P", str(pipeline), "--csv"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise BenchError(f"redis-benchmark did not end in {RUN_TIMEOUT_S} s") from None
    rows = [
        row for row in csv.reader(done.stdout.splitlines()) if len(row) > 1 and row[0].upper() == test.upper()
    ]
    if done.returncode != 0 or not rows or "Error from server" in done.stdout + done.stderr:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
        raise BenchError(f"redis-benchmark failed: {lines[-1]}")
    return float(rows[0][1])
