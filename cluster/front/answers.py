"""Commands that the front answers itself, one function each: connection state, and what needs no data.

Every function gets the session, the arguments and a `NodeView`, and returns RESP bytes in the session's
protocol or raises a ReplyError. Left out until 5/5: AUTH with users, CLIENT TRACKING, KILL and PAUSE.
"""

from collections.abc import Callable
from typing import Protocol

from cluster.az.topology import Topology
from cluster.errors import Err, ReplyError
from cluster.front.cluster_replies import answer as answer_cluster
from cluster.front.resp import (
    encode_array,
    encode_bulk,
    encode_integer,
    encode_map,
    encode_null,
    strict_integer,
)
from cluster.front.session import OK, Session
from cluster.shard.shard_map import ShardMap
from cluster.types import NodeId


class NoProto(ReplyError):
    code = "NOPROTO"


class WrongPass(ReplyError):
    code = "WRONGPASS"


class NodeView(Protocol):
    """What the answers need to know of the node."""

    node_id: NodeId
    topology: Topology
    shard_map: ShardMap
    sessions: dict[int, Session]

    @property
    def is_primary(self) -> bool: ...
    @property
    def engine_version(self) -> str: ...
    def replicas_in_step(self) -> int: ...


Answer = Callable[[Session, list[bytes], NodeView], bytes]


def ping(session: Session, args: list[bytes], view: NodeView) -> bytes:
    if len(args) > 2:
        raise Err("wrong number of arguments for 'ping' command")
    return encode_bulk(args[1]) if len(args) == 2 else b"+PONG\r\n"


def echo(session: Session, args: list[bytes], view: NodeView) -> bytes:
    return encode_bulk(args[1])


def ok(session: Session, args: list[bytes], view: NodeView) -> bytes:
    return OK


def select(session: Session, args: list[bytes], view: NodeView) -> bytes:
    index = strict_integer(args[1])
    if index is None:
        raise Err("invalid DB index")
    if index != 0:
        raise Err("SELECT is not allowed in cluster mode")
    return OK


def auth(session: Session, args: list[bytes], view: NodeView) -> bytes:
    if len(args) == 3 and args[1] != b"default":
        raise WrongPass("invalid username-password pair or user is disabled.")
    if len(args) > 3:
        raise Err("syntax error")
    if len(args) == 3:
        return OK  # the default user has no password: any is right, as in Valkey
    raise Err(
        "AUTH <password> called without any password configured for the default user. "
        "Are you sure your configuration is correct?"
    )


def hello(session: Session, args: list[bytes], view: NodeView) -> bytes:
    protocol = session.protocol
    name: bytes | None = None
    if len(args) > 1:
        if args[1] not in (b"2", b"3"):
            if not args[1].lstrip(b"-").isdigit():
                raise Err("Protocol version is not an integer or out of range")
            raise NoProto("unsupported protocol version")
        protocol = int(args[1])
        rest = args[2:]
        while rest:
            option = rest[0].upper()
            if option == b"AUTH" and len(rest) >= 3:
                auth(session, [b"AUTH", rest[1], rest[2]], view)
                rest = rest[3:]
            elif option == b"SETNAME" and len(rest) >= 2:
                name = checked_name(rest[1])
                rest = rest[2:]
            else:
                raise Err(f"Syntax error in HELLO option '{rest[0].decode(errors='replace')}'")
    session.set_protocol(protocol)
    if name is not None:
        session.name = name
    product, _, number = view.engine_version.partition(" ")  # empty until the engine has told it
    fields = [
        (b"server", encode_bulk((product or "Valkey").lower().encode())),
        (b"version", encode_bulk((number or "0.0.0").encode())),
        (b"proto", encode_integer(protocol)),
        (b"id", encode_integer(session.id)),
        (b"mode", encode_bulk(b"cluster")),
        (b"role", encode_bulk(b"master" if view.is_primary else b"replica")),
        (b"modules", encode_array([])),
    ]
    return encode_map([(encode_bulk(key), value) for key, value in fields], protocol)


def reset(session: Session, args: list[bytes], view: NodeView) -> bytes:
    session.reset()
    return b"+RESET\r\n"


def readonly(session: Session, args: list[bytes], view: NodeView) -> bytes:
    session.readonly = True
    return OK


def readwrite(session: Session, args: list[bytes], view: NodeView) -> bytes:
    session.readonly = False
    return OK


def cluster(session: Session, args: list[bytes], view: NodeView) -> bytes:
    return answer_cluster(
        args,
        topology=view.topology,
        shard_map=view.shard_map,
        node_id=view.node_id,
        protocol=session.protocol,
    )


def wait(session: Session, args: list[bytes], view: NodeView) -> bytes:
    """Every reply that has left was committed: a majority holds it. So the answer needs no waiting."""
    for number in args[1:]:
        if not number.isdigit():
            raise Err("value is not an integer or out of range")
    if not view.is_primary:
        raise Err("WAIT cannot be used with replica instances.")
    return encode_integer(view.replicas_in_step())


def checked_name(name: bytes) -> bytes:
    if any(byte < 33 or byte > 126 for byte in name):
        raise Err("Client names cannot contain spaces, newlines or special characters.")
    return name


def describe(session: Session, now_is_self: bool = False) -> bytes:
    """One line of CLIENT LIST."""
    library = session.library
    return (
        f"id={session.id} addr={session.address} name={session.name.decode()} resp={session.protocol} db=0 "
        f"flags={'r' if session.readonly else 'N'} cmd={session.last_command or 'NULL'} "
        f"tot-cmds={session.commands} lib-name={library.get(b'lib-name', b'').decode(errors='replace')} "
        f"lib-ver={library.get(b'lib-ver', b'').decode(errors='replace')}"
    ).encode()


def client(session: Session, args: list[bytes], view: NodeView) -> bytes:
    sub = args[1].lower()
    match sub:
        case b"id":
            return encode_integer(session.id)
        case b"getname":
            return encode_bulk(session.name) if session.name else encode_null(session.protocol)
        case b"setname":
            session.name = checked_name(args[2])
            return OK
        case b"setinfo":
            attribute = args[2].lower()
            if attribute not in (b"lib-name", b"lib-ver"):
                raise Err(f"Unrecognized option '{args[2].decode(errors='replace')}'")
            session.library[attribute] = checked_name(args[3])
            return OK
        case b"info":
            return encode_bulk(describe(session) + b"\n")
        case b"list":
            lines = [describe(view.sessions[key]) for key in sorted(view.sessions)]
            return encode_bulk(b"\n".join(lines) + b"\n")
        case b"no-evict" | b"no-touch":
            if args[2].lower() not in (b"on", b"off"):
                raise Err("syntax error")
            return OK
        case _:
            name = args[1].decode(errors="replace")
            raise Err(f"CLIENT {name.upper()} is not supported by this version of azimuth")


ANSWERS: dict[str, Answer] = {
    "ping": ping,
    "echo": echo,
    "select": select,
    "auth": auth,
    "hello": hello,
    "reset": reset,
    "quit": ok,
    "readonly": readonly,
    "readwrite": readwrite,
    "asking": ok,
    "cluster": cluster,
    "wait": wait,
    "client": client,
}
