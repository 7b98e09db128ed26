"""What a client hears of the engine's INFO."""

import pytest

from cluster.front.info import as_cluster, elements_as_cluster
from cluster.front.resp import reply_end

ENGINE = (
    b"# Server\r\nserver_name:valkey\r\nserver_mode:standalone\r\nredis_mode:standalone\r\nos:x\r\n"
    b"\r\n# Cluster\r\ncluster_enabled:0\r\n\r\n# Keyspace\r\ndb0:keys=1\r\n"
)
NODE = ENGINE.replace(b"standalone", b"cluster").replace(b"enabled:0", b"enabled:1")


def bulk(body: bytes, kind: bytes = b"$") -> bytes:
    return b"%b%d\r\n%b\r\n" % (kind, len(body), body)


@pytest.mark.parametrize(("kind", "head"), [(b"$", b""), (b"=", b"txt:")])
def test_a_node_says_that_it_is_a_cluster(kind: bytes, head: bytes) -> None:
    rewritten = as_cluster(bulk(head + ENGINE, kind))
    assert rewritten == bulk(head + NODE, kind)
    assert reply_end(rewritten, 0) == len(rewritten)


@pytest.mark.parametrize(
    "reply",
    [b"-ERR no\r\n", bulk(b""), b"$-1\r\n", bulk(b"db0:server_mode:standalone\r\ncluster_enabled:01\r\n")],
)
def test_everything_else_passes_as_it_is(reply: bytes) -> None:
    assert as_cluster(reply) == reply


def test_inside_a_transaction_only_the_replies_to_info_are_rewritten() -> None:
    value = bulk(ENGINE)  # somebody keeps such a text under a key
    reply = b"*4\r\n" + value + b":1\r\n" + bulk(ENGINE) + b"*1\r\n" + value
    rewritten = elements_as_cluster(reply, frozenset({2}))
    assert rewritten == b"*4\r\n" + value + b":1\r\n" + bulk(NODE) + b"*1\r\n" + value
    assert elements_as_cluster(b"*-1\r\n", frozenset({0})) == b"*-1\r\n"
    assert elements_as_cluster(b"-EXECABORT x\r\n", frozenset({0})) == b"-EXECABORT x\r\n"
