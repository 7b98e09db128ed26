"""redis-py's stock cluster client, so configured that it never sends a command twice by itself, and what its
errors mean.

A client that retries silently hides double application: an INCR whose answer was lost is sent again and both
count. Read in redis-py 8.1 (and unchanged in this since 6): three places can resend, and all are closed here.

* `RedisCluster.retry`: how often `_internal_execute_command` runs again after ConnectionError, TimeoutError,
  ClusterDownError or SlotNotCoveredError. Its default is 3; here a `Retry` with 0 retries.
* the pools' own `Retry`: set by `RedisCluster` itself to 0 retries, for connecting too.
* a health check before a command could reconnect: off unless `health_check_interval` is given.

What stays is following MOVED and ASK and waiting on TRYAGAIN (up to 16 times, `RedisClusterRequestTTL`). Each
of those is a node's word that it did *not* execute the command, so no command takes effect twice.
tests/cli/test_demo_client.py counts what arrives at a server that drops every connection.
"""

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from cluster.runtime.demo_check import Outcome

SOCKET_TIMEOUT_S = 3.0

# Errors by which a node says that it did not execute the command: -CLUSTERDOWN, -TRYAGAIN, -LOADING …
DEFINITE_ERRORS = (
    redis.exceptions.AskError,  # and MovedError, which inherits from it
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ClusterCrossSlotError,
    redis.exceptions.NoPermissionError,
)


# redis-py is only half annotated; what it returns is Any to us.
_make_node: Any = ClusterNode
_make_cluster: Any = RedisCluster


def connect(addresses: Sequence[tuple[str, int]], timeout_s: float = SOCKET_TIMEOUT_S) -> Any:
    """A RedisCluster without silent retries. Raises redis's RedisClusterException if no address answers."""
    return _make_cluster(
        startup_nodes=[_make_node(host, port) for host, port in addresses],
        retry=Retry(NoBackoff(), 0),
        # One shard without a primary must not stop work on the others.
        require_full_coverage=False,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        decode_responses=True,
    )


def classify(error: Exception) -> Outcome:
    """What the client may conclude from an error of one command. When in doubt: in doubt."""
    if type(error) is redis.exceptions.RedisClusterException and isinstance(error.__context__, Exception):
        # The slot table could not be renewed while the command's own error was being handled: that one
        # counts.
        return classify(error.__context__)
    if isinstance(error, redis.exceptions.ConnectionError) and refused_before_sending(error):
        return Outcome.REFUSED
    if isinstance(error, redis.exceptions.SlotNotCoveredError) and only_redirects(error.__context__):
        return Outcome.REFUSED  # the client knows no node to send it to
    if isinstance(error, redis.exceptions.ClusterError) and str(error) == "TTL exhausted.":
        return Outcome.REFUSED  # sixteen nodes in a row answered MOVED, ASK or TRYAGAIN
    if isinstance(error, DEFINITE_ERRORS):
        return Outcome.REFUSED
    return Outcome.IN_DOUBT


def refused_before_sending(error: BaseException) -> bool:
    """Whether the kernel refused the connection that the command was to go out on.

    redis-py refreshes its slot table while it handles an error, so an error of that may hide an earlier one:
    believed only if nothing but redirects happened before.
    """
    cause = error.__context__
    return isinstance(cause, ConnectionRefusedError) and only_redirects(cause.__context__)


def only_redirects(error: BaseException | None) -> bool:
    """Whether an error and all that it was raised in the handling of leave the command certainly unsent."""
    harmless = (redis.exceptions.MovedError, redis.exceptions.AskError, ConnectionRefusedError, LookupError)
    while error is not None:
        if not isinstance(error, harmless):
            return False
        error = error.__context__
    return True
