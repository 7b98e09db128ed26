"""Clients that send nonsense to a whole node: valid and broken commands in any order, cut anywhere.

The reference is a count: the test knows of each piece it sends how many replies it is worth (an empty line
none, a command one, broken RESP one and the end). What must hold: no exception, for that ends a node; so many
replies, no more and no fewer; an ECHO answers in its turn; and another client notices nothing.
"""

import random
from dataclasses import dataclass

import hiredis
import pytest

from tests.node.world import Client, Member, World

LONG = b"1" * 5000  # more digits than int() takes from text
ODD = (
    b"",
    b"0",
    b"-1",
    b"3",
    b"\xff\xfe",
    b"a\r\n+OK\r\n",
    b"\xd9\xa1",
    LONG,
    b"99999999999999999999",
    b"nan",
)
KEYS = (b"k", b"{k}2", b"other", b"", b"\x00\r\n")
WORDS = (
    b"GET SET INCR DEL MGET MSET RPUSH LRANGE HSET ZADD EXPIRE SCAN DBSIZE INFO FLUSHALL RENAME COPY SORT "
    b"OBJECT PING ECHO SELECT WAIT AUTH HELLO RESET CLIENT CLUSTER READONLY READWRITE ASKING COMMAND "
    b"TIME RANDOMKEY MULTI EXEC DISCARD WATCH UNWATCH EVAL SUBSCRIBE MONITOR CONFIG SHUTDOWN "
    b"REPLCONF ROLE nonsense G\xcbT"
).split()
SUBWORDS = (
    b"ID GETNAME SETNAME SETINFO INFO LIST NO-EVICT KILL SLOTS SHARDS NODES KEYSLOT MYID REPLICAS "
    b"COUNTKEYSINSLOT HELP LIB-NAME AUTH SETNAME COUNT DOCS ENCODING STORE EX NX on"
).split()
STATES = (
    b"MULTI",
    b"MULTI",
    b"EXEC",
    b"EXEC",
    b"DISCARD",
    b"WATCH k",
    b"UNWATCH",
    b"HELLO 3",
    b"HELLO 2",
    b"RESET",
)
EMPTY = (b"*0\r\n", b"*-1\r\n", b"\r\n", b"  \r\n")
BROKEN = (
    b"*1\r\n$9223372036854775807\r\n",
    b"*9223372036854775808\r\n",
    b"*1\r\n$-1\r\n",
    b"*2\r\n$4\r\nPING\r\n+OK\r\n",
    b"*1\r\n$4\r\nPINGPING\r\n",
    b"*x\r\n",
    b'SET "a\r\n',
    b"POST / HTTP/1.1\r\n",
    b"x" * 70_000,
)


def pack(*args: bytes) -> bytes:
    return b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)


@dataclass(slots=True)
class Script:
    """What one client sends, and what it must hear."""

    data: bytes
    replies: int
    echoes: dict[int, bytes]  # number of the reply: the text
    ends: bool


def random_command(rng: random.Random) -> bytes:
    word = rng.choice(WORDS)
    if rng.random() < 0.2:
        word = word.lower()
    args = [rng.choice(rng.choice((KEYS, SUBWORDS, ODD))) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 6)))]
    return pack(word, *args)


def random_script(rng: random.Random) -> Script:
    script = Script(b"", 0, {}, False)
    pieces = []
    for number in range(rng.randint(1, 40)):
        kind = rng.random()
        if kind < 0.15:
            text = b"echo-%d" % number
            script.echoes[script.replies] = text
            pieces.append(pack(b"ECHO", text))
        elif kind < 0.20:
            pieces.append(rng.choice(EMPTY))
            continue
        elif kind < 0.40:
            pieces.append(pack(*rng.choice(STATES).split()))
        elif kind < 0.55:
            pieces.append(b"SET k inline\r\n")
        elif kind < 0.57:
            pieces.append(rng.choice((pack(b"QUIT"), *BROKEN)))
            script.ends = True
        else:
            pieces.append(random_command(rng))
        script.replies += 1
        if script.ends:
            pieces.append(random_command(rng))  # nobody reads it any more
            break
    script.data = b"".join(pieces)
    return script


def send_cut(world: World, client: Client, data: bytes, rng: random.Random) -> None:
    longest = rng.choice((1, 3, 50, 5_000, 1 << 20))
    if longest < 5:
        longest = max(longest, len(data) // 500)
    at = 0
    while at < len(data):
        size = rng.randint(1, longest)
        client.session.receive(data[at : at + size])
        at += size
        if rng.random() < 0.05:
            world.run(rng.randint(1, 3_000))


def play(world: World, member: Member, rng: random.Random) -> None:
    script = random_script(rng)
    client = world.client(member)
    send_cut(world, client, script.data, rng)
    world.run_until(lambda: len(client.replies) >= script.replies)
    world.run(1_000)
    assert len(client.replies) == script.replies, client.raw[-300:]
    assert client.closed == script.ends
    for index, text in script.echoes.items():
        assert client.replies[index] in (text, b"QUEUED"), (index, text, client.replies)
    member.node.close_session(client.session)


def start(seed: int) -> tuple[World, Member, Client]:
    world = World(seed)
    member = world.primary()
    witness = world.client(member)
    assert witness.call("SET", "witness", "0") == b"OK"
    return world, member, witness


@pytest.mark.parametrize("seed", range(4))
def test_every_command_gets_one_reply_in_its_turn(seed: int) -> None:
    world, member, witness = start(seed)
    rng = random.Random(seed)
    for number in range(120):
        play(world, member, rng)
        assert witness.call("SET", "witness", number) == b"OK"
    world.converge()


@pytest.mark.parametrize("seed", range(4))
def test_flipped_and_lost_bytes_harm_nobody_else(seed: int) -> None:
    world, member, witness = start(seed)
    rng = random.Random(seed)
    for number in range(120):
        data = bytearray(random_script(rng).data)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            data = data or bytearray(b"\r\n")
        client = world.client(member)
        send_cut(world, client, bytes(data), rng)
        if rng.random() < 0.5:
            world.run(2_000)
        member.node.close_session(client.session)
        assert witness.call("SET", "witness", number) == b"OK"
    world.converge()


@pytest.mark.parametrize("command", [b"SELECT", b"WAIT", b"HELLO", b"CLUSTER", b"CLIENT", b"AUTH", b"PING"])
def test_absurd_arguments_of_commands_that_the_front_answers(command: bytes) -> None:
    world, member, _ = start(0)
    for first in (*ODD, *SUBWORDS):
        for second in ODD:
            client = world.client(member)
            client.session.receive(
                pack(command, first) + pack(command, first, second) + pack(b"ECHO", b"end")
            )
            world.run_until(lambda client=client: len(client.replies) == 3)  # type: ignore[misc]
            assert client.replies[2] == b"end"
            assert not isinstance(client.replies[0], hiredis.ReplyError) or client.replies[0].args
            member.node.close_session(client.session)
