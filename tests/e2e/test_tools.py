"""Tools that ask a node what it is before they talk to it."""

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.e2e.conftest import RunningCluster, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

MakeCluster = Callable[..., RunningCluster]


def redis_cli() -> str:
    found = shutil.which("valkey-cli") or shutil.which("redis-cli")
    if found is None:
        pytest.skip("no redis-cli on PATH")
    return found


@pytest.mark.parametrize("protocol", [2, 3])
def test_info_says_cluster_wherever_it_stands(make_cluster: MakeCluster, protocol: int) -> None:
    cluster = make_cluster()
    spec = cluster.launcher.node(cluster.primary())
    client: Any = redis.Redis(host=spec.host, port=spec.port, protocol=protocol, decode_responses=True)
    with client:
        hello = client.execute_command("HELLO", protocol)
        fields = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
        assert (fields["server"], fields["mode"]) == ("valkey", "cluster")
        assert fields["version"].split(".")[0].isdecimal()
        for transaction in (False, True):
            pipeline = client.pipeline(transaction=transaction)
            pipeline.set("k", "server_mode:standalone\r\n")
            for section in ("server", "cluster", "everything"):
                pipeline.info(section)
                pipeline.get("k")
            done, server, value, enabled, value2, everything, value3 = pipeline.execute()
            assert done is True
            assert value == value2 == value3 == "server_mode:standalone\r\n"
            assert server["server_mode"] == everything["server_mode"] == "cluster"
            assert enabled["cluster_enabled"] == everything["cluster_enabled"] == 1


def test_redis_cli_takes_it_for_a_cluster(make_cluster: MakeCluster) -> None:
    program = redis_cli()
    cluster = make_cluster(shards=3)
    cluster.wait_caught_up()
    spec = cluster.launcher.node(cluster.primary())

    def run(*words: str) -> str:
        argv = [program, "--no-auth-warning", "--cluster", words[0], f"{spec.host}:{spec.port}", *words[1:]]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.stdout

    # Who leads the other shards travels by gossip: a moment after the start not everybody has heard of it.
    wait_until(lambda: "All nodes agree about slots configuration" in run("check"), "all nodes agree")
    assert "All 16384 slots covered" in run("check")
    assert "0 keys in 3 masters" in run("info")
    assert run("call", "ping").count("PONG") == 9
