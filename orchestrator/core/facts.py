"""What `Fleet.apply` takes: committed rows, and what this process has heard of links and replicas.

Rows are durable facts; the others are not, and a restart forgets them (every link that no living
replica vouches for is then UNKNOWN until its node says Hello or the grace ends).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from orchestrator.core.model import Row, Stamp


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a message came in, on both clocks of the process that it came to."""

    wall: datetime
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A node said something on a live link (Hello, Heartbeat or Report)."""

    node_id: str
    at: datetime
    stamp: Stamp | None = None
    came: Arrival | None = None
    """When the message came in; `at` is when it was taken, which may be later."""
    widest: timedelta = timedelta(0)
    """The longest wait between two words of the node in its open attempt (link_gap.py); the
    fleet's to fill in."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """A node's link ended."""

    node_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class GraceEnds:
    """From then on links of which nothing is known count as down."""

    at: datetime


@dataclass(frozen=True, slots=True)
class Replicas:
    """Which orchestrators of the store are known to live. The newest of these facts is all of them."""

    mine: str
    """The process that knows it."""
    alive: frozenset[str]
    """Their own leases run; mine is one of them."""
    gone: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))
    """Those whose lease has ended since this process began → when it learnt of it."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """A row is gone (retention)."""

    table: str
    key: tuple[str, ...]


Fact = Row | Heard | LinkDown | GraceEnds | Replicas | Deleted
