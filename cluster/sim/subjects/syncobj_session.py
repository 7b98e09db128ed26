"""A client's connection to a PySyncObj node: RESP, MULTI, EXEC, redirects. As small as the workloads allow.

A command is answered when the library calls back, and in the order in which they came. What the library's
reasons for a failure mean for a client:

| FAIL_REASON | is it certain that it was not executed? | answer |
|---|---|---|
| QUEUE_FULL, MISSING_LEADER, NOT_LEADER, REQUEST_DENIED | yes, it never got into a log | CLUSTERDOWN |
| DISCARDED | yes: another entry was applied at its index | CLUSTERDOWN |
| LEADER_CHANGED, UNKNOWN_OUTCOME | no: it had been handed to a leader | INDOUBT |
| no call at all | no | nothing: the client's own timeout |
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pysyncobj import FAIL_REASON

from cluster.front.resp import CommandParser, encode_array, encode_bulk, encode_error, encode_integer
from cluster.sim.subjects import ClientTransport
from cluster.sim.subjects.syncobj_store import COMMANDS, Refused, Status

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
EXEC_ABORT = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
IN_DOUBT = b"-INDOUBT the outcome is not known\r\n"
NOT_HERE = b"-CLUSTERDOWN this subject does not have the command\r\n"
DEFINITE = frozenset(
    {
        FAIL_REASON.QUEUE_FULL, FAIL_REASON.MISSING_LEADER, FAIL_REASON.DISCARDED, FAIL_REASON.NOT_LEADER,
        FAIL_REASON.REQUEST_DENIED,
    }
)  # fmt: skip

Command = tuple[str, ...]
Done = Callable[[object, int], None]  # result, FAIL_REASON


class Executor(Protocol):
    """The node."""

    def refusal(self, key: str) -> bytes | None:
        """MOVED or CLUSTERDOWN; None if this node leads the key's shard as far as it knows."""
        ...

    def execute(self, commands: Sequence[Command], done: Done, *, multi: bool) -> None: ...


class SyncObjSession:
    """A `ClientSession`."""

    def __init__(self, node: Executor, transport: ClientTransport) -> None:
        self._node = node
        self._transport: ClientTransport | None = transport
        self._parser = CommandParser()
        self._replies: deque[list[bytes | None]] = deque()
        self._queued: list[Command] | None = None
        self._aborted = False

    def receive(self, data: bytes) -> None:
        self._parser.feed(data)
        while (command := self._parser.next()) is not None:
            words = [arg.decode("latin-1") for arg in command.args]
            self._handle((words[0].upper(), *words[1:]))
        self.flush()

    def close(self) -> None:
        self._transport = None

    def flush(self) -> None:
        """Write what is answered, in order."""
        found = []
        while self._replies and self._replies[0][0] is not None:
            reply = self._replies.popleft()[0]
            assert reply is not None
            found.append(reply)
        if found and self._transport is not None:
            self._transport.write(b"".join(found))

    def _handle(self, words: Command) -> None:
        if words[0] == "MULTI":
            self._queued, self._aborted = [], False
            self._answer(OK)
        elif words[0] == "EXEC" and self._queued is not None:
            self._exec()
        elif (error := self._error(words)) is not None:
            self._aborted = True
            self._answer(error)
        elif self._queued is not None:
            self._queued.append(words)
            self._answer(QUEUED)
        else:
            self._run((words,), multi=False)

    def _error(self, words: Command) -> bytes | None:
        if (
            words[0] not in COMMANDS
            or len(words) < 2
            or (words[0] == "SET" and words[3:] not in ((), ("GET",)))
        ):
            return NOT_HERE
        return self._node.refusal(words[1])

    def _exec(self) -> None:
        commands, self._queued = self._queued, None
        if self._aborted or not commands:
            self._answer(EXEC_ABORT if self._aborted else b"*0\r\n")
        elif (error := self._node.refusal(commands[0][1])) is not None:
            self._answer(error)
        else:
            self._run(commands, multi=True)

    def _answer(self, reply: bytes) -> None:
        self._replies.append([reply])

    def _run(self, commands: Sequence[Command], *, multi: bool) -> None:
        slot: list[bytes | None] = [None]
        self._replies.append(slot)

        def done(result: object, reason: int) -> None:
            if reason == FAIL_REASON.SUCCESS:
                slot[0] = encode(result)
            elif reason in DEFINITE:
                slot[0] = b"-CLUSTERDOWN reason %d\r\n" % reason
            else:
                slot[0] = IN_DOUBT
            self.flush()

        self._node.execute(commands, done, multi=multi)


def encode(result: object) -> bytes:
    match result:
        case None:
            return b"$-1\r\n"
        case int():
            return encode_integer(result)
        case Refused():
            return encode_error(result)
        case Status():
            return b"+%b\r\n" % result.encode("latin-1")
        case str():
            return encode_bulk(result.encode("latin-1"))
        case list():
            return encode_array([encode(item) for item in result])
        case _:
            raise AssertionError(f"a reply of type {type(result).__name__}")
