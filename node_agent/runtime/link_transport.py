"""The narrow waist of the link: what carries messages, and the words both ends agree on.

A transport moves LinkRequest up and LinkResponse down and knows nothing else. The gRPC one is
in link_grpc.py, imported only when a link is opened; simulation puts an in-memory one here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from liveroll.v1 import agent_pb2 as pb

from node_agent.core.attempt import Attempt
from node_agent.core.phases import Verdict
from node_agent.core.report import NodeStatus


class Transport(Protocol):
    """One open stream. Failures raise errors.LinkError (with the peer's reason, if it gave one)."""

    async def send(self, message: pb.LinkRequest) -> None:
        """Returns once the stream took it; waits while the peer does not read."""
        ...

    async def receive(self) -> pb.LinkResponse | None:
        """The next message; None once the peer ended the stream without an error."""
        ...


Connector = Callable[[], AbstractAsyncContextManager[Transport]]
"""Opens a fresh stream; leaving the context ends it."""


@dataclass(frozen=True, slots=True)
class HelloFacts:
    """Who is calling and where it stands (proto Hello)."""

    node_id: str
    installation_id: str
    boot_id: str
    release: str
    hardware_model: str
    capabilities: tuple[str, ...]
    labels: Mapping[str, str]
    highest_generation: int
    incarnation: str
    incarnation_serial: int
    status: NodeStatus
    boot_verdict: Verdict | None
    agent_version: str
    staged_artifacts: tuple[str, ...]
    rollback_artifact: str
    command_line: str
    acknowledged_seq: int = 0
    """Reports up to here need not be sent again."""
    attempt: Attempt | None = None
    """The attempt of status, as the journal has it."""
    other_luo: tuple[str, ...] = ()
    """LUO's ABI strings of the other model."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the orchestrator's Welcome laid down for this link."""

    incarnation: str
    incarnation_serial: int
    link_epoch: int
    active_heartbeat_s: float
    idle_heartbeat_s: float
    acknowledged_seq: int
