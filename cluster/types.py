"""The words of the project as types. No behaviour."""

from typing import NewType, Protocol

NodeId = NewType("NodeId", str)  # "0001-002"
ShardId = NewType("ShardId", str)  # "0001"
Az = NewType("Az", str)  # "az-a"
Slot = NewType("Slot", int)  # 0 … 16383
Term = NewType("Term", int)  # Raft term, from 1; 0 = none yet
Index = NewType("Index", int)  # Raft log index, from 1; 0 = before the log
Offset = NewType("Offset", int)  # position in a shard's effect stream, bytes; Valkey's replication offset

SLOT_COUNT = 16384


class Clock(Protocol):
    """A monotonic clock that goes on while the process is stopped or the machine is suspended."""

    def now_us(self) -> int:
        """Microseconds since some fixed point; never goes back."""
        ...


class Log(Protocol):
    """Structured events: a constant snake_case name, then fields. structlog's loggers fit."""

    def debug(self, event: str, **fields: object) -> object: ...
    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...
    def error(self, event: str, **fields: object) -> object: ...


class NullLog:
    """A `Log` that keeps nothing."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...
