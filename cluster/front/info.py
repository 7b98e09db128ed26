"""INFO as a member of a cluster says it.

The engine under a node runs by itself: its own cluster mode is off, and its INFO says so. Clients and tools
(`redis-cli --cluster`) ask INFO whether they talk to a cluster, and to them a node is one. So these lines of
the engine's reply are rewritten, and nothing else:

    server_mode:standalone, redis_mode:standalone   → …:cluster
    cluster_enabled:0                               → cluster_enabled:1

The reply is one bulk string, or a verbatim string in RESP3; inside EXEC it is an element of an array. Errors
pass as they are.
"""

import re
from typing import Final, Protocol

from cluster.front.resp import reply_end

_MODE: Final = re.compile(rb"^((?:server|redis)_mode):standalone\r?$", re.M)
_ENABLED: Final = re.compile(rb"^cluster_enabled:0\r?$", re.M)


def as_cluster(reply: bytes) -> bytes:
    """One whole reply to INFO, rewritten."""
    if reply[:1] not in (b"$", b"=") or reply[1:2] == b"-":
        return reply
    head = reply.index(b"\r\n")
    body = reply[head + 2 : -2]
    body = _MODE.sub(rb"\1:cluster\r", body)
    body = _ENABLED.sub(b"cluster_enabled:1\r", body)
    return b"%b%d\r\n%b\r\n" % (reply[:1], len(body), body)


def elements_as_cluster(reply: bytes, places: frozenset[int]) -> bytes:
    """The reply to EXEC, with those of its elements rewritten that answer INFO."""
    if reply[:1] != b"*":
        return reply
    position = reply.index(b"\r\n") + 2
    pieces = [reply[:position]]
    place = 0
    while position < len(reply):
        end = reply_end(reply, position)
        element = reply[position:end]
        pieces.append(as_cluster(element) if place in places else element)
        position = end
        place += 1
    return b"".join(pieces)


class Receiver(Protocol):
    def deliver(self, data: bytes, count: int) -> None: ...


class InfoReceiver:
    """Stands between a lane and a session for the reply to one command: INFO, or an EXEC with INFO in it."""

    __slots__ = ("_places", "_receiver")

    def __init__(self, receiver: Receiver, places: frozenset[int] | None = None) -> None:
        """`places`: which elements of an EXEC; None: the reply itself."""
        self._receiver = receiver
        self._places = places

    def deliver(self, data: bytes, count: int) -> None:
        assert count == 1, "one receiver, one reply"
        rewritten = as_cluster(data) if self._places is None else elements_as_cluster(data, self._places)
        self._receiver.deliver(rewritten, 1)
