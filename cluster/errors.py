"""One error tree. Every leaf a client can see says whether the command certainly took no effect.

`Outcome.DEFINITE`: the command was not executed and never will be; a retry is safe.
`Outcome.INDEFINITE`: it may or may not have been executed. When in doubt, indefinite is always safe.
"""

from enum import Enum


class Outcome(Enum):
    DEFINITE = "definite"
    INDEFINITE = "indefinite"


class AzimuthError(Exception):
    """Root of everything we raise on purpose."""


class ConfigError(AzimuthError):
    """The user's configuration or command line cannot be carried out. The text is one clear line."""


class EngineError(AzimuthError):
    """The engine is missing, too old, or did not behave as a Redis engine must."""


class WalCorrupt(AzimuthError):
    """A bad record stands before valid ones: the log cannot be trusted, the node must not vote."""


class WalFailed(AzimuthError):
    """A write or fsync failed once. Final: the node stops acknowledging and exits."""


class NotLeader(AzimuthError):
    """Proposed to a Raft node that is not (or no longer) the leader."""


class ReplyError(AzimuthError):
    """An error as a Redis client sees it. `outcome` tells what the client may conclude."""

    outcome = Outcome.DEFINITE
    code = "ERR"

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def resp(self) -> bytes:
        """The RESP error line, CR/LF in the text removed so that it cannot smuggle a second reply."""
        clean = self.text.replace("\r", " ").replace("\n", " ")
        # surrogateescape: the text may quote what a client sent, which need not be UTF-8
        return f"-{self.code} {clean}\r\n".encode("utf-8", "surrogateescape")


class Err(ReplyError):
    """A plain refusal (-ERR …)."""


class Moved(ReplyError):
    """The slot lives on another shard or the shard's primary is another node (-MOVED slot host:port)."""

    code = "MOVED"


class Ask(ReplyError):
    """The slot is on its way to another shard (-ASK slot host:port)."""

    code = "ASK"


class TryAgain(ReplyError):
    code = "TRYAGAIN"


class ClusterDown(ReplyError):
    """The shard has no serving primary now (-CLUSTERDOWN …)."""

    code = "CLUSTERDOWN"


class CrossSlot(ReplyError):
    code = "CROSSSLOT"


class ExecAbort(ReplyError):
    code = "EXECABORT"


class ReadOnly(ReplyError):
    """A write without a key reached a replica (-READONLY …)."""

    code = "READONLY"


class Loading(ReplyError):
    """This replica's engine is being rebuilt (-LOADING …)."""

    code = "LOADING"


class NoPermission(ReplyError):
    code = "NOPERM"


class InDoubt(ReplyError):
    """The fate of the write is unknown: it may be read later, or never (-INDOUBT …)."""

    outcome = Outcome.INDEFINITE
    code = "INDOUBT"
