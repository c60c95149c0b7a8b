"""What the runner's inbox holds beside commands, and who the node is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.model import Problem
from node_agent.core.report import CommandRefusal, StageResult
from node_agent.errors import Retry


@dataclass(frozen=True, slots=True)
class Identity:
    """What Hello says of the node beside its state."""

    node_id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    agent_version: str = ""
    linked: bool = True
    """False: there is no orchestrator, and reports are not kept for one."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An effect's event; stale if another effect has begun since."""

    epoch: int
    event: ev.Event


@dataclass(frozen=True, slots=True)
class Staged:
    """A STAGE has ended."""

    result: StageResult


@dataclass(frozen=True, slots=True)
class Met:
    """The orchestrator's store incarnation."""

    incarnation: str
    serial: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A command could not be read."""

    refusal: CommandRefusal


Item = cmd.LinkCommand | Happened | Staged | Met | Unreadable

BUSY = Problem(
    "AGENTBUSY",
    Retry.CALL,
    "the agent's inbox is full",
    "Send it again; the agent is working through what it has.",
)
"""The answer where a command found no place."""
