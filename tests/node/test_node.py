"""Whole nodes on virtual time: what a client may conclude, whatever happens to its primary."""

from collections.abc import Callable, Sequence

import hiredis
import pytest

from cluster.engine.model_data import Refused
from cluster.node import Node
from cluster.raft.messages import Message
from cluster.raft.roles import RoleEvent
from cluster.shard.gossip import Gossip
from cluster.shard.replica import Serving, ShardReplica
from cluster.types import NodeId
from tests.node.world import Member, World


def text(reply: object) -> str:
    assert isinstance(reply, hiredis.ReplyError), reply
    return str(reply)


def test_a_write_is_acknowledged_after_a_majority_holds_it() -> None:
    world = World()
    primary = world.primary()
    client = world.client(primary)
    assert client.call("SET", "k", "v") == b"OK"
    holders = [
        member
        for member in world.members.values()
        if any(b"\r\nk\r\n" in entry.payload for entry in member.storage._entries)
    ]
    assert len(holders) >= 2
    assert client.call("GET", "k") == b"v"
    world.converge()


def test_without_a_majority_nothing_is_acknowledged_and_nothing_is_shown() -> None:
    world = World()
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "old")
    world.isolate(primary.id)
    client.send("SET", "k", "new")
    client.send("GET", "k")
    world.run(50_000)
    assert client.replies == [b"OK"]
    successor = world.primary(but=primary.id)
    assert world.client(successor).call("GET", "k") == b"old"
    world.run_until(lambda: len(client.replies) == 3)
    assert text(client.replies[1]).startswith("INDOUBT")
    assert text(client.replies[2]).startswith("TRYAGAIN")
    world.heal()
    world.converge()
    assert world.client(world.primary()).call("GET", "k") == b"old"


def test_a_dirty_primary_is_rebuilt_and_a_clean_one_fed_on() -> None:
    world = World(seed=3)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "a", "1")
    world.run(200_000)
    world.isolate(primary.id)
    client.send("SET", "a", "lost")
    world.primary(but=primary.id)
    world.heal()
    world.converge()
    assert primary.node.replica.serving is Serving.REPLICA
    reader = world.client(primary)
    assert reader.call("READONLY") == b"OK"
    assert reader.call("GET", "a") == b"1"


@pytest.mark.parametrize("seed", range(5))
def test_acknowledged_writes_survive_a_power_cut_of_everything(seed: int) -> None:
    world = World(seed=seed)
    client = world.client(world.primary())
    for number in range(20):
        assert client.call("RPUSH", "list", f"v{number}") == number + 1
    for node_id in sorted(world.members):
        world.crash(node_id)
    order = sorted(world.members)
    world.rng.shuffle(order)
    for node_id in order:
        world.start(node_id)
        world.run(world.rng.randint(0, 300_000))
    reader = world.client(world.primary())
    assert reader.call("LRANGE", "list", 0, -1) == [f"v{number}".encode() for number in range(20)]
    world.converge()


@pytest.mark.parametrize("seed", range(12))
def test_counters_count_once_through_crashes_and_partitions(seed: int) -> None:
    world = World(seed=100 + seed)
    world.drop_percent = seed % 4
    acked = in_doubt = 0
    highest = 0
    for turn in range(8):
        primary = world.primary()
        client = world.client(primary)
        for _ in range(5):
            client.send("INCR", "n")
        world.run(world.rng.randint(0, 3_000))
        victim = primary.id if world.rng.random() < 0.7 else world.rng.choice(sorted(world.members))
        how = world.rng.choice(["crash", "isolate", "pause"])
        getattr(world, how)(victim)
        world.run(1_500_000)
        world.heal()
        if how == "crash":
            world.start(victim)
        elif how == "pause":
            world.resume(victim)
        world.run(500_000)
        answered = [reply for reply in client.replies if isinstance(reply, int)]
        assert all(later > earlier for earlier, later in zip([highest, *answered], answered, strict=False)), (
            turn
        )
        acked += len(answered)
        definite = sum(
            1 for reply in client.replies if text_code(reply) in ("MOVED", "CLUSTERDOWN", "TRYAGAIN")
        )
        in_doubt += 5 - len(answered) - definite
        highest = max([highest, *answered])
    world.drop_percent = 0
    final = int(bytes(world.client(world.primary()).call("GET", "n") or b"0"))  # type: ignore[call-overload]
    assert acked <= final <= acked + in_doubt
    assert final >= highest
    world.converge()


def text_code(reply: object) -> str:
    return str(reply).split(" ")[0] if isinstance(reply, hiredis.ReplyError) else ""


def test_a_paused_primary_that_wakes_serves_nothing_stale() -> None:
    world = World(seed=8)
    old = world.primary()
    client = world.client(old)
    client.call("SET", "k", "old")
    world.pause(old.id)
    new = world.primary(but=old.id)
    assert world.client(new).call("SET", "k", "new") == b"OK"
    # The GET waits in the socket buffer of the paused node and is the first thing it sees.
    client.send("GET", "k")
    world.resume(old.id)
    world.run_until(lambda: len(client.replies) == 2)
    assert text_code(client.replies[1]) in ("TRYAGAIN", "MOVED", "CLUSTERDOWN")
    world.converge()


def test_a_replica_that_restarts_serves_nothing_older_than_before() -> None:
    world = World(seed=12)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "v")
    world.converge()
    replica = next(member for _, member in sorted(world.members.items()) if member is not primary)
    world.crash(replica.id)
    world.isolate(replica.id)
    world.start(replica.id)
    reader = world.client(replica)
    assert reader.call("READONLY") == b"OK"
    # It has the entry but cannot know whether it was committed; serving an empty engine would be wrong.
    assert text_code(reader.call("GET", "k")) in ("LOADING", "CLUSTERDOWN")
    world.heal()
    world.converge()
    assert reader.call("GET", "k") == b"v"


def test_a_whole_cluster_that_restarts_has_no_replica_that_serves_an_empty_engine() -> None:
    world = World(seed=13)
    world.client(world.primary()).call("SET", "k", "v")
    world.converge()
    for node_id in sorted(world.members):
        world.crash(node_id)
    for node_id in sorted(world.members):
        world.start(node_id)
    readers = [world.client(member) for _, member in sorted(world.members.items())]
    for reader in readers:
        reader.send("READONLY")
    for _ in range(200):
        world.run(5_000)
        for reader in readers:
            reader.send("GET", "k")
    world.run(2_000_000)
    values = [reply for reader in readers for reply in reader.replies[1:]]
    assert b"v" in values
    assert None not in values


def test_planned_failover_loses_nothing_and_leaves_nobody_in_doubt() -> None:
    world = World(seed=5)
    primary = world.primary()
    client = world.client(primary)
    for _ in range(20):
        client.send("INCR", "n")
    world.run(500)
    to = primary.node.transfer(None)
    for _ in range(20):
        client.send("INCR", "n")
    successor = world.primary(but=primary.id)
    assert successor.id == to
    world.run_until(lambda: len(client.replies) == 40)
    assert client.replies[:20] == list(range(1, 21))
    assert all(text_code(reply) == "MOVED" for reply in client.replies[20:] if not isinstance(reply, int))
    acked = sum(1 for reply in client.replies if isinstance(reply, int))
    assert world.client(successor).call("GET", "n") == str(acked).encode()
    world.converge()


def test_an_engine_that_dies_alone_is_rebuilt_and_never_answers_meanwhile() -> None:
    world = World(seed=6)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "v")
    primary.node.on_died("killed by the test")
    client.send("GET", "k")
    successor = world.primary()
    assert world.client(successor).call("GET", "k") == b"v"
    world.converge()


def test_a_member_without_engine_hands_leadership_over() -> None:
    world = World(seed=1, replicas=0)
    primary = world.primary()
    assert primary.id == "0001-001"
    client = world.client(primary)
    client.call("SET", "k", "v")
    world.crash(primary.id)
    world.run(1_500_000)
    world.start(primary.id)
    assert world.client(world.primary(within_us=20_000_000)).call("GET", "k") == b"v"


def test_keys_of_another_shard_are_moved() -> None:
    world = World(seed=2, shards=3)
    first, second, third = (world.primary(f"000{number}") for number in (1, 2, 3))
    world.run(1_000_000)
    answers = {member.id: world.client(member).call("SET", "foo", "1") for member in (first, second, third)}
    assert sorted(text_code(reply) for reply in answers.values()) == ["", "MOVED", "MOVED"]
    owner = world.topology.shard_of_slot(12182)  # type: ignore[arg-type]  # the slot of "foo"
    leader = world.primary(owner.id)
    for node_id, reply in answers.items():
        if node_id != leader.id:
            assert text(reply) == f"MOVED 12182 127.0.0.1:{leader.node.spec.port}"
    assert text_code(world.client(first).call("MSET", "foo", 1, "bar", 2)) == "CROSSSLOT"


def test_a_transaction_is_all_or_nothing_and_in_one_entry() -> None:
    world = World(seed=4)
    client = world.client(world.primary())
    assert client.call("MULTI") == b"OK"
    assert client.call("SET", "{t}a", 1) == b"QUEUED"
    assert client.call("INCR", "{t}b") == b"QUEUED"
    assert client.call("EXEC") == [b"OK", 1]
    entries = [entry.payload for entry in world.primary().storage._entries if b"MULTI" in entry.payload]
    assert len(entries) == 1 and entries[0].endswith(b"EXEC\r\n")
    client.call("MULTI")
    assert text_code(client.call("NOSUCH")) == "ERR"
    assert text_code(client.call("EXEC")) == "EXECABORT"
    client.call("MULTI")
    client.call("SET", "{t}a", 2)
    assert client.call("DISCARD") == b"OK"
    assert client.call("GET", "{t}a") == b"1"


def test_watch_sees_changes_of_others() -> None:
    world = World(seed=4)
    primary = world.primary()
    one, other = world.client(primary), world.client(primary)
    assert one.call("WATCH", "k") == b"OK"
    other.call("SET", "k", "other")
    one.call("MULTI")
    one.call("SET", "k", "one")
    assert one.call("EXEC") is None
    assert one.call("GET", "k") == b"other"
    one.call("WATCH", "k")
    one.call("MULTI")
    one.call("SET", "k", "one")
    assert one.call("EXEC") == [b"OK"]


def test_a_watch_does_not_survive_its_primary() -> None:
    world = World(seed=9)
    primary = world.primary()
    client = world.client(primary)
    client.call("WATCH", "k")
    world.isolate(primary.id)
    world.primary(but=primary.id)
    world.heal()
    world.run(1_000_000)
    client.call("MULTI")
    client.send("SET", "k", "v")
    world.run(2_000_000)
    client.send("EXEC")
    world.run(2_000_000)
    assert client.replies[-1] is None or text_code(client.replies[-1]) == "EXECABORT"


def test_replies_keep_the_order_of_a_mixed_pipeline() -> None:
    world = World(seed=7)
    client = world.client(world.primary())
    for number in range(50):
        client.send("SET", f"k{number}", number)
        client.send("PING", f"p{number}")
        client.send("GET", f"k{number}")
        client.send("MULTI")
        client.send("INCR", f"k{number}")
        client.send("EXEC")
        client.send("NOSUCH")
    world.run_until(lambda: len(client.replies) == 350)
    for number in range(50):
        got = client.replies[number * 7 : number * 7 + 7]
        assert got[:3] == [b"OK", f"p{number}".encode(), str(number).encode()]
        assert got[3:6] == [b"OK", b"QUEUED", [number + 1]]
        assert text_code(got[6]) == "ERR"


def test_expired_keys_go_through_the_log_without_any_client() -> None:
    world = World(seed=7)
    client = world.client(world.primary())
    client.call("SET", "k", "v", "PX", 100)
    world.run(2_000_000)
    world.converge()
    assert any(
        b"UNLINK" in entry.payload or b"DEL" in entry.payload for entry in world.primary().storage._entries
    )


def test_no_more_sessions_than_allowed_and_closed_ones_are_forgotten() -> None:
    world = World()
    primary = world.primary()
    client = world.client(primary)
    assert list(primary.node.sessions) == [client.session.id]
    primary.node.close_session(client.session)
    assert not primary.node.sessions


def test_the_journal_keeps_its_promise_of_odd_voters() -> None:
    world = World(replicas=1)
    assert [node.journal_only for node in world.topology.shards[0].nodes] == [False, False, True]
    assert NodeId("0001-003") in world.journal_only


def test_asking_for_status_while_the_engine_boots_does_not_keep_it_from_serving() -> None:
    world = World(seed=1)
    for member in world.members.values():
        ask, replica = member.engine.ask_offset, member.node.replica

        def ask_unless_booting(ask: Callable[[], None] = ask, replica: ShardReplica = replica) -> None:
            if replica.serving is not Serving.BOOTING:  # a real engine has no connection yet, and drops it
                ask()

        member.engine.ask_offset = ask_unless_booting  # type: ignore[method-assign]  # the test's own fault
        replica.poll_offset()  # what the Admin service does for every Status
    world.primary(within_us=2_000_000)
    world.converge()


def test_losing_a_sessions_own_connection_leaves_what_is_in_flight_elsewhere_alone() -> None:
    world = World(seed=4)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "v")
    client.call("WATCH", "k")
    own = max(primary.engine._lanes)  # the newest
    client.send("GET", "k")
    client.send("PING", "after")
    primary.engine._lanes[own].end()
    world.run_until(lambda: len(client.replies) == 4)
    assert client.replies[2:] == [b"v", b"after"]
    client.send("MULTI")
    client.send("SET", "k", "mine")
    client.send("EXEC")  # the WATCH went with its connection
    world.run(1_000_000)
    assert client.replies[4:] == [b"OK", b"QUEUED", None]


def test_a_role_that_a_busy_engine_refuses_is_asked_again_on_every_lane() -> None:
    """After SCRIPT KILL the engine answers one more time that it is busy."""
    world = World(seed=4)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "v")
    engine, role = primary.engine, primary.engine.role

    def busy() -> object:
        raise Refused("BUSY Valkey is busy running a script.")

    engine.role = busy  # type: ignore[method-assign, assignment]  # the test's own fault
    client.send("WATCH", "k")
    world.run(50_000)
    assert len(client.replies) == 1
    engine.role = role  # type: ignore[method-assign]
    world.run_until(lambda: client.replies[1:] == [b"OK"])


def test_what_a_transfer_that_came_to_nothing_held_back_is_proposed_after_it() -> None:
    world = World(seed=5)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "short", "v", "PX", 60)
    target = next(member for _, member in sorted(world.members.items()) if member is not primary)
    world.run(20_000)
    world.pause(target.id)
    primary.node.transfer(target.id)
    world.run_until(lambda: primary.node.raft.transferring_to is not None)
    offset = primary.node.replica.commit_offset
    world.run(200_000)  # the key expires meanwhile
    assert primary.node.replica.cutter.tapped > offset == primary.node.replica.commit_offset
    world.run(3_000_000)
    assert primary.node.raft.is_leader
    assert client.call("GET", "other") is None
    assert primary.node.replica.commit_offset > offset
    world.resume(target.id)
    world.converge()


def test_planned_failover_waits_for_commands_that_are_on_their_way_to_the_engine() -> None:
    world = World(seed=5)
    primary = world.primary()
    client = world.client(primary)
    for _ in range(20):
        client.send("INCR", "n")
    primary.node.transfer(None)
    world.run_until(lambda: len(client.replies) == 20)
    assert client.replies == list(range(1, 21))
    assert world.client(world.primary(but=primary.id)).call("GET", "n") == b"20"


def test_effects_too_large_for_an_entry_cost_an_engine_and_not_the_shard() -> None:
    world = World(seed=3)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "{t}k", "old")
    for member in world.members.values():
        member.node.replica.cutter._entry_bytes_max = 1000
    client.send("MULTI")
    for number in range(10):
        client.send("SET", f"{{t}}{number}", "x" * 200)
    client.send("EXEC")
    world.run_until(lambda: len(client.replies) == 13)
    assert text_code(client.replies[-1]) == "INDOUBT"
    reader = world.client(world.primary())
    assert reader.call("GET", "{t}k") == b"old"
    assert reader.call("GET", "{t}0") is None
    assert reader.call("SET", "{t}k", "new") == b"OK"
    world.converge()


@pytest.mark.parametrize("name", ["RESET", "QUIT"])
def test_reset_and_quit_leave_a_transaction(name: str) -> None:
    world = World(seed=3)
    client = world.client(world.primary())
    client.call("MULTI")
    client.call("SET", "k", "v")
    assert client.call(name) == (b"RESET" if name == "RESET" else b"OK")
    assert client.closed == (name == "QUIT")
    if name == "RESET":
        assert client.call("GET", "k") is None


def test_a_client_that_takes_no_replies_has_no_more_commands_executed() -> None:
    world = World(seed=3)
    client = world.client(world.primary())
    client.session.choke(True)  # what the shell says when its write buffer is full
    for _ in range(50):
        client.send("INCR", "n")
    world.run(100_000)
    assert world.client(world.primary()).call("GET", "n") is None
    client.session.choke(False)
    world.run_until(lambda: client.replies == list(range(1, 51)))


def test_what_is_too_large_is_refused_definitely_and_the_connection_goes_on() -> None:
    world = World(seed=3)
    client = world.client(world.primary())
    limit = world.primary().node.settings.command_bytes_max
    refusal = f"ERR command exceeds {limit} bytes; it was not executed"
    client.send("SET", "k", "before")
    client.send("SET", "k", "x" * limit)
    client.send("GET", "k")
    client.send("MULTI")
    client.send("SET", "k", "y" * limit)
    client.send("SET", "k", "z")
    client.send("EXEC")
    client.send("MULTI")
    client.send("SET", "k", "x" * (limit // 2))
    client.send("APPEND", "k", "y" * (limit // 2))
    client.send("DISCARD")
    client.send("GET", "k")
    world.run_until(lambda: len(client.replies) == 12)
    aborted = "EXECABORT Transaction discarded because of previous errors."
    said = [str(reply) if isinstance(reply, Exception) else reply for reply in client.replies]
    assert said == [
        *(b"OK", refusal, b"before"),
        *(b"OK", refusal, b"QUEUED", aborted),
        *(b"OK", b"QUEUED", f"ERR transaction exceeds {limit} bytes", b"OK", b"before"),
    ]


def write_and_crash_before_anybody_hears_of_the_commit(world: World) -> Member:
    """A write that every log holds, and of which only the crashed primary knew that it is committed."""
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "old")
    world.converge()
    others = [member for _, member in sorted(world.members.items()) if member is not primary]
    last = [member.storage.last_index for member in others]
    client.send("SET", "k", "new")
    world.run_until(
        lambda: all(member.storage.last_index > index for member, index in zip(others, last, strict=True))
    )
    assert all(member.node.raft.commit_index < member.storage.last_index for member in others)
    world.crash(primary.id)
    return primary


@pytest.mark.parametrize("seed", range(3))
def test_a_new_primary_has_applied_what_its_first_commit_brought(seed: int) -> None:
    """Also when it looks between the commit and its delivery: a tick may come in one turn with the acks."""
    world = World(seed=seed)
    for member in world.members.values():

        def messages_and_tick(
            sender: NodeId,
            messages: Sequence[Message | Gossip],
            node: Node = member.node,
            receive: Callable[[NodeId, Sequence[Message | Gossip]], None] = member.node.on_peer_messages,
        ) -> None:
            receive(sender, messages)
            node.on_tick()

        member.node.on_peer_messages = messages_and_tick  # type: ignore[method-assign]
    crashed = write_and_crash_before_anybody_hears_of_the_commit(world)
    assert world.client(world.primary()).call("GET", "k") == b"new"
    world.start(crashed.id)
    world.converge()


def test_a_new_primary_waits_for_an_engine_that_applies_slowly() -> None:
    """Bytes that were fed and not applied would be gone with REPLICAOF NO ONE."""
    world = World(seed=2)
    for member in world.members.values():

        def feed_slowly(data: bytes, feed: Callable[[bytes], None] = member.engine.feed) -> None:
            world.at(world.now + 30_000, lambda: feed(data))

        member.engine.feed = feed_slowly  # type: ignore[method-assign]
    crashed = write_and_crash_before_anybody_hears_of_the_commit(world)
    assert world.client(world.primary()).call("GET", "k") == b"new"
    world.start(crashed.id)
    world.converge()


def test_a_watch_whose_connection_went_fails_its_exec() -> None:
    world = World(seed=4)
    primary = world.primary()
    client = world.client(primary)
    client.call("WATCH", "k")
    client.call("GET", "k")
    primary.node._lose_lanes()  # as when the engine closes the connection that all share
    world.client(primary).call("SET", "k", "other")
    client.call("MULTI")
    client.call("SET", "k", "mine")
    assert client.call("EXEC") is None
    assert client.call("GET", "k") == b"other"


def test_a_restarted_replica_serves_nothing_older_than_what_it_had_not_on_its_disk_yet() -> None:
    """It may show what is committed before its own disk has it; after a power cut it must not go back."""
    world = World(seed=12)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "old")
    world.converge()
    replica = next(member for _, member in sorted(world.members.items()) if member is not primary)
    world.slow_disks.add(replica.id)
    for number in range(20):  # too large for one message: it is told of them one after the other
        assert client.call("SET", "k", "x" * (600_000 + number)) == b"OK"
    reader = world.client(replica)
    reader.call("READONLY")
    world.run_until(lambda: reader.call("STRLEN", "k") == 600_019)
    world.crash(replica.id)
    world.slow_disks.clear()
    world.start(replica.id)
    reader = world.client(replica)
    reader.send("READONLY")
    for _ in range(1000):
        world.run(100)
        reader.send("STRLEN", "k")
    world.run(2_000_000)
    values = {reply for reply in reader.replies[1:] if isinstance(reply, int)}
    assert values == {600_019}


def test_a_feed_that_breaks_inside_an_entry_goes_on_inside_it() -> None:
    world = World(seed=12)
    primary = world.primary()
    client = world.client(primary)
    client.call("RPUSH", "list", "first")
    world.converge()
    replica = next(member for _, member in sorted(world.members.items()) if member is not primary)
    feed = replica.engine.feed

    def feed_one_command(data: bytes) -> None:
        replica.engine.feed = feed  # type: ignore[method-assign]
        feed(data[: data.index(b"*3", 1) + 5])  # and a piece of the second
        replica.engine.break_feed()

    replica.engine.feed = feed_one_command  # type: ignore[method-assign]
    for number in range(5):
        client.send("RPUSH", "list", number)
    world.run_until(lambda: len(client.replies) == 6)
    world.converge()
    reader = world.client(replica)
    reader.call("READONLY")
    assert reader.call("LRANGE", "list", 0, -1) == [b"first", b"0", b"1", b"2", b"3", b"4"]


def test_an_entry_that_a_newer_leader_has_cut_off_makes_its_engine_dirty() -> None:
    """Three entries of its own, and the newer leader's log is shorter: nothing is ever committed over the
    last."""
    world = World(seed=3)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "old")
    world.converge()
    world.isolate(primary.id)
    for number in range(3):
        client.send("SET", "k", f"{number}" * 40_000)
        world.run(5_000)
    assert len(primary.node.replica.cutter.inflight) == 3
    world.primary(but=primary.id)
    world.run(1_000_000)
    world.heal()
    world.converge()
    assert world.client(world.primary()).call("GET", "k") == b"old"


def test_commits_of_a_newer_leader_do_not_vouch_for_what_an_old_primary_executed() -> None:
    """A paused primary finds the newer term and its commits in one turn; they reach further than its own
    effects."""
    world = World(seed=3)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "old")
    world.converge()
    world.drop_percent = 100
    client.send("SET", "k", "lost")
    world.run_until(lambda: len(primary.node.replica.cutter.inflight) == 1)
    world.run(3_000)
    world.pause(primary.id)
    world.drop_percent = 0
    other = world.client(world.primary(but=primary.id))
    assert other.call("SET", "other", "x" * 1000) == b"OK"
    world.run(100_000)
    world.resume(primary.id)
    world.converge()
    assert other.call("GET", "k") == b"old"


@pytest.mark.parametrize("seed", range(6))
def test_leadership_lost_while_the_engine_is_being_promoted(seed: int) -> None:
    world = World(seed=seed)
    world.client(world.primary()).call("SET", "k", "v")
    world.converge()
    sent: list[Member] = []
    for _, member in sorted(world.members.items()):

        def promote(member: Member = member, promote: Callable[[], None] = member.engine.promote) -> None:
            sent.append(member)
            promote()

        member.engine.promote = promote  # type: ignore[method-assign]
    old = world.primary()
    world.crash(old.id)
    world.run_until(lambda: bool(sent))
    node = sent[0].node
    node.raft._become_follower(RoleEvent.QUORUM_LOST, node.raft.term, None)
    node._notice_role()
    assert node.replica.serving is Serving.DEMOTING
    world.start(old.id)
    world.run(2_000_000)
    world.converge()
    assert world.client(world.primary()).call("GET", "k") == b"v"


def test_a_command_for_another_lane_waits_for_the_replies_of_the_first() -> None:
    world = World(seed=4)
    primary = world.primary()
    client = world.client(primary)
    client.call("SET", "k", "v")
    shared = primary.engine._lanes[max(primary.engine._lanes)]
    write = shared.write
    shared.write = lambda data: world.at(world.now + 20_000, lambda: write(data))  # type: ignore[method-assign]
    client.send("GET", "k")
    client.send("WATCH", "k")
    client.send("GET", "k")
    world.run_until(lambda: len(client.replies) == 4)
    assert client.replies[1:] == [b"v", b"OK", b"v"]


def test_a_number_of_ten_thousand_digits_is_refused_and_ends_nothing() -> None:
    world = World(seed=1)
    client = world.client(world.primary())
    for command in (["SELECT", "9" * 10_000], ["WAIT", "9" * 10_000, "0"], ["HELLO", "9" * 10_000]):
        client.call(*command)
    assert text_code(client.replies[0]) == "ERR"
    assert text_code(client.replies[2]) in ("ERR", "NOPROTO")
    assert client.call("PING") == b"PONG"


def test_a_multi_before_the_engine_has_told_its_commands_does_not_let_its_parts_through() -> None:
    """Clients send a transaction in one piece. Were MULTI refused, the commands behind it would each be
    executed by itself, although every reply says that nothing was."""
    world = World()
    primary = world.primary()
    client = world.client(primary)
    table, primary.node.table = primary.node.table, None
    for words in (("MULTI",), ("RPUSH", "k", "a"), ("EXEC",), ("MULTI",), ("RPUSH", "k", "b"), ("EXEC",)):
        client.send(*words)
    world.run_until(lambda: len(client.replies) == 2)  # the wait for a primary is over
    primary.node.table = table
    world.run_until(lambda: len(client.replies) == 6)
    assert client.replies[0] == client.replies[3] == b"OK"
    assert text(client.replies[1]).startswith("CLUSTERDOWN")
    assert text(client.replies[2]).startswith("EXECABORT")
    assert client.replies[4:] == [b"QUEUED", [1]]
    assert client.call("LRANGE", "k", 0, -1) == [b"b"]
