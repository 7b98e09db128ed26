"""Dataclasses to protobuf and back, and what a peer may not send."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from cluster.runtime.codec import (
    NUMBER_MAX,
    Hello,
    ProtocolError,
    decode_frame,
    decode_message,
    encode_frame,
    encode_hello,
    encode_message,
)
from cluster.runtime.pb import raft_pb2 as pb
from cluster.shard.gossip import Gossip
from cluster.types import Index, NodeId, ShardId, Term

numbers = st.integers(0, NUMBER_MAX)
terms = numbers.map(Term)
indexes = numbers.map(Index)
names = st.from_regex(r"[0-9]{4}-[0-9]{3}", fullmatch=True)


@st.composite
def append_entries(draw: st.DrawFn) -> AppendEntries:
    prev_index = draw(st.integers(0, NUMBER_MAX - 10))
    entry_terms = sorted(draw(st.lists(numbers, min_size=2, max_size=6)))
    entries = tuple(
        Entry(
            Index(prev_index + n),
            Term(term),
            draw(st.sampled_from(list(EntryKind))),
            draw(st.binary(max_size=300)),
        )
        for n, term in enumerate(entry_terms[1:-1], start=1)
    )
    return AppendEntries(
        Term(entry_terms[-1]),
        Index(prev_index),
        Term(entry_terms[0]),
        entries,
        draw(indexes),
        draw(numbers),
    )


messages: st.SearchStrategy[Message | Gossip] = st.one_of(
    append_entries(),
    st.builds(AppendResponse, terms, st.booleans(), indexes, terms, numbers, indexes, terms),
    st.builds(RequestVote, terms, indexes, terms, st.booleans(), st.booleans()),
    st.builds(VoteResponse, terms, st.booleans(), st.booleans()),
    st.builds(TimeoutNow, terms),
    st.builds(InstallSnapshot, terms, indexes, terms, numbers, st.binary(max_size=300), st.booleans()),
    st.builds(InstallSnapshotResponse, terms, indexes, numbers),
    st.builds(
        Gossip,
        st.lists(st.tuples(names.map(ShardId), terms, names.map(NodeId)), max_size=4).map(tuple),
    ),
)


@given(st.lists(messages, max_size=5), st.integers(0, 2**62), numbers)
def test_frames_come_back_as_they_were_sent(
    sent: list[Message | Gossip], session: int, sequence: int
) -> None:
    frame = decode_frame(encode_frame(session, sequence, [encode_message(message) for message in sent]))
    assert (frame.hello, frame.session, frame.sequence) == (None, session, sequence)
    assert frame.messages == sent


@given(messages)
def test_every_message_comes_back_with_its_exact_types(message: Message | Gossip) -> None:
    back = decode_message(encode_message(message))
    assert back == message and type(back) is type(message)
    if isinstance(back, AppendEntries):
        assert all(isinstance(entry.kind, EntryKind) for entry in back.entries)


def test_messages_of_nothing_but_zeros_are_still_messages() -> None:
    for message in (
        TimeoutNow(Term(0)),
        VoteResponse(Term(0), False),
        AppendEntries(Term(0), Index(0), Term(0), (), Index(0), 0),
        AppendResponse(Term(0), False, Index(0), Term(0), 0),
        RequestVote(Term(0), Index(0), Term(0)),
        InstallSnapshot(Term(0), Index(0), Term(0), 0, b"", False),
        InstallSnapshotResponse(Term(0), Index(0), 0),
        Gossip(()),
    ):
        assert decode_message(encode_message(message)) == message


def test_a_hand_made_frame_is_what_protobuf_itself_would_write() -> None:
    parts = [encode_message(TimeoutNow(Term(3))), encode_message(VoteResponse(Term(4), True)), b"\n" * 0]
    frame = pb.Frame(session=5, sequence=6, messages=[pb.Message.FromString(part) for part in parts])
    assert encode_frame(5, 6, parts) == frame.SerializeToString()


def test_a_frame_larger_than_a_short_varint_comes_back() -> None:
    for size in (0, 127, 128, 16383, 16384, 3_000_000):
        entry = Entry(Index(1), Term(1), EntryKind.EFFECTS, bytes(size))
        sent = AppendEntries(Term(1), Index(0), Term(0), (entry,), Index(0), 1)
        assert decode_frame(encode_frame(1, 1, [encode_message(sent)])).messages == [sent]


def test_hello_comes_back() -> None:
    hello = Hello(1, "c", NodeId("0001-001"), NodeId("0001-002"), 77)
    frame = decode_frame(encode_hello(hello))
    assert (frame.hello, frame.session, frame.sequence, frame.messages) == (hello, 77, 0, [])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    try:
        decode_frame(data)
    except ProtocolError as error:
        assert str(error) and "\n" not in str(error)


@given(messages, st.data())
def test_damaged_messages_are_messages_or_a_protocol_error(
    message: Message | Gossip, data: st.DataObject
) -> None:
    encoded = bytearray(encode_frame(1, 1, [encode_message(message)]))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        decode_frame(bytes(encoded))
    except ProtocolError:
        pass


def entry(index: int, term: int, kind: int = 1) -> pb.Entry:
    return pb.Entry(index=index, term=term, kind=kind, payload=b"x")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (pb.Message(), "without a known body"),
        (pb.Message(timeout_now=pb.TimeoutNow(term=2**64 - 1)), "out of range"),
        (pb.Message(request_vote=pb.RequestVote(last_index=2**63)), "out of range"),
        (pb.Message(append_entries=pb.AppendEntries(term=1, entries=[entry(1, 1, kind=9)])), "kind 9"),
        (pb.Message(append_entries=pb.AppendEntries(term=1, entries=[entry(2, 1)])), "stands where 1"),
        (
            pb.Message(
                append_entries=pb.AppendEntries(term=3, prev_index=4, entries=[entry(5, 1), entry(7, 1)])
            ),
            "7",
        ),
        (pb.Message(append_entries=pb.AppendEntries(term=1, entries=[entry(1, 2)])), "term 2"),
        (pb.Message(append_entries=pb.AppendEntries(term=3, prev_term=3, entries=[entry(1, 2)])), "term 2"),
        (
            pb.Message(gossip=pb.Gossip(leaderships=[pb.Leadership(shard="", term=1, leader="a")])),
            "shard name",
        ),
        (pb.Message(gossip=pb.Gossip(leaderships=[pb.Leadership(shard="1", leader="a\n")])), "leader name"),
        (
            pb.Message(gossip=pb.Gossip(leaderships=[pb.Leadership(shard="1", leader="a" * 256)])),
            "leader name",
        ),
    ],
)
def test_what_no_correct_peer_sends_is_a_protocol_error(message: pb.Message, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        decode_message(message.SerializeToString())
    with pytest.raises(ProtocolError, match=reason):
        decode_frame(encode_frame(1, 1, [message.SerializeToString()]))
