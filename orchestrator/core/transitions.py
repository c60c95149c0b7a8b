"""What agents' messages do to rows: one pure function a message, each giving an Observation.

The caller commits `change` first (if it is not empty), then applies the committed rows and
`facts` to the Fleet, and only then answers: welcome, acknowledgement or refusal. A refusal
may come together with a change (STORE_REGRESSED stops the fleet and refuses the link).

Ingest writes NodeRow and AttemptRow (and FleetRow, when the store is proven to have gone
back in time). It never writes a rollout, and of members only this: a node that an operator's
`commit` finished after a cancel turns from UNCOMMITTED to UPDATED. What a settled attempt
means for its member, its retries and its rollout is the planner's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.facts import Heard, LinkDown
from orchestrator.core.messages import Heartbeat, Hello, Report, Welcome
from orchestrator.core.model import Change
from orchestrator.errors import LiverollError

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Observation:
    """What a message means: what to write, what was heard, and how to answer."""

    change: Change = Change()
    facts: tuple[Heard | LinkDown, ...] = ()
    """For Fleet.apply, after the change is committed."""
    refusal: LiverollError | None = None
    """End the link with this status."""
    welcome: Welcome | None = None
    """hello only."""
    acknowledge_seq: int | None = None
    """report only: acknowledge up to here, once the change is committed."""


def hello(fleet: Fleet, message: Hello, actor: str, now: datetime) -> Observation:
    """A node opens a link. welcome or refusal is set.

    Refusals: NodeIdConflict, StoreRegressed (change: the fleet stops).
    """
    raise NotImplementedError


def heartbeat(
    fleet: Fleet, node_id: str, message: Heartbeat, link_epoch: int, now: datetime
) -> Observation:
    """A node still beats. Writes only the edge of its health; the stamp is in `facts`.

    Refusals: StaleGeneration (STALE_LINK) under an older link epoch.
    """
    raise NotImplementedError


def report(fleet: Fleet, node_id: str, message: Report, link_epoch: int, now: datetime) -> Observation:
    """A node tells one journalled event. Idempotent; acknowledge_seq or refusal is set.

    Refusals: StaleGeneration (STALE_LINK) under an older link epoch, StoreRegressed for an
    attempt that this store should know but does not.
    """
    raise NotImplementedError


def link_down(fleet: Fleet, node_id: str, link_epoch: int, now: datetime) -> Observation:
    """A link ended. Nothing happens if a newer one has taken its place."""
    raise NotImplementedError
