"""What can be put into the simulator: anything that is a set of node processes which clients talk RESP to.

A subject says how one life of one node is made. Everything else (world, network, disks, clients, workloads,
faults, checkers) is the same for all, so their rows in one table can be compared.

* **azimuth**: `cluster/node.py` as it is. Loses nothing.
* **async**: a primary, asynchronous replicas, failover to the most advanced one, which is ElastiCache's way.
  Loses acknowledged writes when a primary's AZ dies.
* **pysyncobj**: the PyPI library on the simulated network, its journal and dump on the simulated disk. What
  was found is in docs/track-record.md.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cluster.engine.model import ModelEngine
from cluster.types import NodeId

if TYPE_CHECKING:
    from cluster.sim.process import SimProcess


class ClientTransport(Protocol):
    """A client's connection as a node sees it (`cluster.front.session.Transport`)."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ClientSession(Protocol):
    def receive(self, data: bytes) -> None: ...


class SubjectNode(Protocol):
    """One life of one node. Every method returns at once; a raised exception is the end of the process."""

    def start(self) -> None: ...
    def on_tick(self) -> None: ...
    def on_message(self, sender: NodeId, message: object) -> None: ...
    def open_session(self, transport: ClientTransport, address: str) -> ClientSession: ...
    def close_session(self, session: ClientSession) -> None: ...

    @property
    def serves(self) -> bool:
        """It takes writes now, as far as it knows."""
        ...

    @property
    def settled(self) -> bool:
        """It is up to date as far as it knows: a replica or a primary."""
        ...

    @property
    def leads(self) -> bool:
        """It is, or believes to be, its shard's leader."""
        ...

    @property
    def established(self) -> bool:
        """It leads, and a majority has agreed to something of its own: it can make progress."""
        ...

    @property
    def position(self) -> tuple[int, ...]:
        """How far it is; equal on all nodes of a shard when nothing happens any more."""
        ...

    @property
    def engine(self) -> ModelEngine | None:
        """Its engine, if it has one."""
        ...

    def transfer(self) -> bool:
        """A planned failover. False if it is not possible now."""
        ...


class Subject(Protocol):
    name: str

    def make_node(self, process: "SimProcess") -> SubjectNode: ...


def nodes_in_order(nodes: Sequence[NodeId]) -> list[NodeId]:
    return sorted(nodes)
