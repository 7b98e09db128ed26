"""Our dataclasses to protobuf and back: the one place where both are known.

Decoding trusts nobody. Whatever bytes a peer sends, the answer is a message that keeps what
`raft/messages.py` promises, or `ProtocolError` with one line; never another exception. Checked here, so
that the core may assert it: known kinds and bodies, indexes and terms in range, entries that follow
`prev_index` without a gap and whose terms neither fall nor exceed the message's, names of sane length.

Messages are encoded one by one when they are sent, and a frame is those bytes put behind each other:
protobuf's encoding of a repeated field is exactly that, and a queue then knows how many bytes it holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from google.protobuf.message import DecodeError

from cluster.errors import AzimuthError
from cluster.raft.messages import (
    AppendEntries,
    AppendResponse,
    Entry,
    EntryKind,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    RequestVote,
    TimeoutNow,
    VoteResponse,
)
from cluster.runtime.pb import raft_pb2 as pb
from cluster.shard.gossip import Gossip
from cluster.types import Index, NodeId, ShardId, Term

PROTOCOL_VERSION = 1
NUMBER_MAX = 1 << 62  # terms, indexes, offsets: nobody gets there, and sums stay in 63 bits
NAME_BYTES_MAX = 255
GOSSIP_MAX = 16384  # a shard owns at least one slot

_KINDS = dict(enumerate(EntryKind))
assert all(number == kind for number, kind in _KINDS.items())
_MESSAGES_TAG = bytes([pb.Frame.MESSAGES_FIELD_NUMBER << 3 | 2])


class ProtocolError(AzimuthError):
    """A peer sent what no correct peer of this version sends."""


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame in each direction."""

    protocol_version: int
    cluster_id: str
    from_node: NodeId
    to_node: NodeId
    session: int


@dataclass(frozen=True, slots=True)
class Frame:
    """`sequence` counts the frames of one direction of one session, from 0 = the hello."""

    hello: Hello | None
    session: int
    sequence: int
    messages: list[Message | Gossip]


def encode_message(message: Message | Gossip) -> bytes:
    """One message as protobuf `Message`. AssertionError for numbers that protobuf cannot hold: our bug."""
    out = pb.Message()
    match message:
        case AppendEntries():
            out.append_entries.SetInParent()
            body = out.append_entries
            body.term = message.term
            body.prev_index = message.prev_index
            body.prev_term = message.prev_term
            body.commit_index = message.commit_index
            body.round = message.round
            add = body.entries.add
            for entry in message.entries:
                add(index=entry.index, term=entry.term, kind=entry.kind, payload=entry.payload)
        case AppendResponse():
            out.append_response.SetInParent()
            response = out.append_response
            response.term = message.term
            response.success = message.success
            response.match_index = message.match_index
            response.match_term = message.match_term
            response.round = message.round
            response.hint_index = message.hint_index
            response.hint_term = message.hint_term
        case RequestVote():
            out.request_vote.CopyFrom(
                pb.RequestVote(
                    term=message.term,
                    last_index=message.last_index,
                    last_term=message.last_term,
                    pre_vote=message.pre_vote,
                    transfer=message.transfer,
                )
            )
        case VoteResponse():
            out.vote_response.CopyFrom(
                pb.VoteResponse(term=message.term, granted=message.granted, pre_vote=message.pre_vote)
            )
        case TimeoutNow():
            out.timeout_now.CopyFrom(pb.TimeoutNow(term=message.term))
        case InstallSnapshot():
            out.install_snapshot.CopyFrom(
                pb.InstallSnapshot(
                    term=message.term,
                    last_index=message.last_index,
                    last_term=message.last_term,
                    snapshot_offset=message.snapshot_offset,
                    chunk=message.chunk,
                    done=message.done,
                )
            )
        case InstallSnapshotResponse():
            out.install_snapshot_response.CopyFrom(
                pb.InstallSnapshotResponse(
                    term=message.term,
                    last_index=message.last_index,
                    snapshot_offset=message.snapshot_offset,
                )
            )
        case Gossip():
            out.gossip.CopyFrom(
                pb.Gossip(
                    leaderships=[
                        pb.Leadership(shard=shard, term=term, leader=leader)
                        for shard, term, leader in message.leaderships
                    ]
                )
            )
        case _:
            assert_never(message)
    return out.SerializeToString()


def encode_frame(session: int, sequence: int, messages: Sequence[bytes]) -> bytes:
    """A frame of messages that `encode_message` made."""
    pieces = [pb.Frame(session=session, sequence=sequence).SerializeToString()]
    for message in messages:
        pieces += (_MESSAGES_TAG, _varint(len(message)), message)
    return b"".join(pieces)


def encode_hello(hello: Hello) -> bytes:
    return pb.Frame(
        session=hello.session,
        hello=pb.Hello(
            protocol_version=hello.protocol_version,
            cluster_id=hello.cluster_id,
            from_node=hello.from_node,
            to_node=hello.to_node,
            session=hello.session,
        ),
    ).SerializeToString()


def decode_frame(data: bytes) -> Frame:
    """Raises ProtocolError."""
    try:
        frame = pb.Frame.FromString(data)
    except DecodeError:
        raise ProtocolError("not a frame") from None
    hello = None
    if frame.HasField("hello"):
        hello = _hello(frame.hello)
    return Frame(hello, frame.session, frame.sequence, [_message(message) for message in frame.messages])


def decode_message(data: bytes) -> Message | Gossip:
    """Raises ProtocolError."""
    try:
        return _message(pb.Message.FromString(data))
    except DecodeError:
        raise ProtocolError("not a message") from None


def _message(message: pb.Message) -> Message | Gossip:
    match message.WhichOneof("body"):
        case "append_entries":
            return _append_entries(message.append_entries)
        case "append_response":
            return _append_response(message.append_response)
        case "request_vote":
            vote = message.request_vote
            return RequestVote(
                _term(vote.term), _index(vote.last_index), _term(vote.last_term), vote.pre_vote, vote.transfer
            )
        case "vote_response":
            response = message.vote_response
            return VoteResponse(_term(response.term), response.granted, response.pre_vote)
        case "timeout_now":
            return TimeoutNow(_term(message.timeout_now.term))
        case "install_snapshot":
            part = message.install_snapshot
            return InstallSnapshot(
                _term(part.term),
                _index(part.last_index),
                _term(part.last_term),
                _number(part.snapshot_offset, "offset"),
                part.chunk,
                part.done,
            )
        case "install_snapshot_response":
            done = message.install_snapshot_response
            return InstallSnapshotResponse(
                _term(done.term), _index(done.last_index), _number(done.snapshot_offset, "offset")
            )
        case "gossip":
            return _gossip(message.gossip)
        case _:  # nothing set, or a body that a newer version has
            raise ProtocolError("a message without a known body")


def _append_entries(body: pb.AppendEntries) -> AppendEntries:
    message_term = _term(body.term)
    prev_index = _index(body.prev_index)
    prev_term = _term(body.prev_term)
    following, term = prev_index + 1, int(prev_term)
    entries: list[Entry] = []
    for entry in body.entries:
        kind = _KINDS.get(entry.kind)
        if kind is None:
            raise ProtocolError(f"entry kind {entry.kind} is unknown")
        if entry.index != following:
            raise ProtocolError(f"entry {entry.index} stands where {following} belongs")
        if not term <= entry.term <= message_term:
            raise ProtocolError(
                f"entry {entry.index} has term {entry.term}, outside {term} to {message_term}"
            )
        following, term = following + 1, entry.term
        entries.append(Entry(Index(entry.index), Term(term), kind, entry.payload))
    return AppendEntries(
        message_term,
        prev_index,
        prev_term,
        tuple(entries),
        _index(body.commit_index),
        _number(body.round, "round"),
    )


def _append_response(body: pb.AppendResponse) -> AppendResponse:
    return AppendResponse(
        _term(body.term),
        body.success,
        _index(body.match_index),
        _term(body.match_term),
        _number(body.round, "round"),
        _index(body.hint_index),
        _term(body.hint_term),
    )


def _gossip(body: pb.Gossip) -> Gossip:
    if len(body.leaderships) > GOSSIP_MAX:
        raise ProtocolError(f"gossip of {len(body.leaderships)} shards")
    return Gossip(
        tuple(
            (ShardId(_name(one.shard, "shard")), _term(one.term), NodeId(_name(one.leader, "leader")))
            for one in body.leaderships
        )
    )


def _hello(hello: pb.Hello) -> Hello:
    return Hello(
        hello.protocol_version,
        _name(hello.cluster_id, "cluster"),
        NodeId(_name(hello.from_node, "node")),
        NodeId(_name(hello.to_node, "node")),
        hello.session,
    )


def _number(value: int, what: str) -> int:
    if value > NUMBER_MAX:
        raise ProtocolError(f"{what} {value} is out of range")
    return value


def _term(value: int) -> Term:
    if value > NUMBER_MAX:
        raise ProtocolError(f"term {value} is out of range")
    return Term(value)


def _index(value: int) -> Index:
    if value > NUMBER_MAX:
        raise ProtocolError(f"index {value} is out of range")
    return Index(value)


def _name(value: str, what: str) -> str:
    """Names end up in logs and file names of reports: short, and nothing that breaks a line."""
    if not value or len(value) > NAME_BYTES_MAX or not value.isprintable():
        raise ProtocolError(f"a {what} name of {len(value)} characters, or with unprintable ones")
    return value


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
