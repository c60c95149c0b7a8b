"""Whether a node's Hello proves that the store went back in time, and what is written of it.

Rules
1. A node that knows a newer incarnation, or that knows this store (its incarnation, or one that it
   comes from) and a higher generation, an attempt or an acknowledgement of it that the store does
   not have, has lived through a future that the store has lost. So has one whose reports of an attempt of
   this store's were acknowledged by one that it knows nothing of: it may have gone back twice.
2. An open attempt of an incarnation that this store has nothing to do with is as bad: somebody else
   drives this node. So is a newer one. Their links are refused until a person has released the
   fleet stop; links of nodes that have only lived longer are taken, for the fleet stands still and
   their reports are needed.
3. Attempts that luoctl began on the node (incarnation `local`) prove nothing.
4. The fleet stops once for one loss. What is known already stops nobody again: a store that has begun
   a new incarnation has stopped for it then (ports.Store.load), and what nodes bring that had
   not said Hello when a person accepted the differences is accepted too (FleetRow.unheard).
5. What the node has seen is kept on its row: its generation and what it was acknowledged, so that
   neither is held against the store again, and both sides of the difference for whoever looks.

What becomes of the attempt that the store has forgotten: transitions_forgotten.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from orchestrator.core.beyond import Beyond, Side
from orchestrator.core.messages import Hello
from orchestrator.core.model import Change, FleetRow, Guard, NewEvent, NodeRow, Row, guarding
from orchestrator.core.phases import SETTLED, Phase
from orchestrator.errors import StoreRegressed

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

LOCAL_INCARNATION = "local"
"""Of attempts that luoctl began; no store has it."""
STOPPED = "STORE_REGRESSED"


@dataclass(frozen=True, slots=True)
class Regression:
    """What a Hello proves."""

    error: StoreRegressed
    refused: bool
    """Its link is not taken (rule 2)."""
    known: bool
    """The fleet has stopped for this loss before (rule 4)."""


def regression(fleet: Fleet, known: NodeRow | None, message: Hello) -> Regression | None:
    """None if it proves nothing."""
    serial = message.highest_incarnation_serial
    accepted = 0 if fleet.row.stopped == STOPPED else fleet.row.regressed_serial
    if serial > max(fleet.incarnation_serial, accepted):
        error = _regressed(
            f"{message.node_id} knows incarnation {message.highest_incarnation or serial}, "
            "which is newer than this store's",
            message,
            incarnation_serial=serial,
        )
        return Regression(error, refused=True, known=False)
    highest = known.highest_generation if known is not None else 0
    ref = message.status.attempt
    if (
        ref is not None
        and ref.generation > highest
        and message.status.phase not in SETTLED
        and not of_this_store(fleet, message, ref.incarnation)
        and ref.incarnation != LOCAL_INCARNATION
    ):
        error = _regressed(
            f"{message.node_id} is {message.status.phase} in attempt {ref.generation} of another store",
            message,
            generation=ref.generation,
            incarnation=ref.incarnation,
        )
        return Regression(error, refused=True, known=False)
    if not of_this_store(fleet, message, message.highest_incarnation):
        elsewhere = _told_elsewhere(fleet, known, message)
        return Regression(elsewhere, refused=False, known=True) if elsewhere is not None else None
    lived = _lived_longer(known, message, highest)
    if lived is None:
        return None
    before = message.highest_incarnation != fleet.incarnation or message.node_id in fleet.row.unheard
    return Regression(lived, refused=False, known=before)


def of_this_store(fleet: Fleet, message: Hello, incarnation: str) -> bool:
    """Is an incarnation that the Hello names this store's, or one that this store was?"""
    if not incarnation:
        return False  # it has never been linked
    if incarnation == fleet.incarnation or incarnation in fleet.incarnations:
        return True
    # A person has seen that it knows more, and has let the fleet go on.
    return fleet.incarnation_serial < message.highest_incarnation_serial <= fleet.row.regressed_serial


def _lived_longer(known: NodeRow | None, message: Hello, highest: int) -> StoreRegressed | None:
    ref = message.status.attempt
    local = ref is not None and ref.incarnation == LOCAL_INCARNATION
    explained = local and ref is not None and ref.generation == message.highest_generation
    if message.highest_generation > highest and not explained:
        return _regressed(
            f"{message.node_id} has seen generation {message.highest_generation}, this store only {highest}",
            message,
            generation=message.highest_generation,
        )
    if ref is not None and not local and ref.generation > highest:
        return _regressed(
            f"{message.node_id} is in attempt {ref.generation}, which this store never made",
            message,
            generation=ref.generation,
        )
    if known is None or known.installation_id != message.installation_id:
        return None
    if message.acknowledged_seq > known.acknowledged_seq:
        return _regressed(
            f"report {message.acknowledged_seq} of {message.node_id} was acknowledged, and this store has "
            f"only {known.acknowledged_seq}",
            message,
            acknowledged_seq=message.acknowledged_seq,
        )
    return None


def _told_elsewhere(fleet: Fleet, known: NodeRow | None, message: Hello) -> StoreRegressed | None:
    """An attempt of this store's, whose newest reports were acknowledged by one that this store never was:
    by a future that it has lost, if it went back twice. They come no more."""
    ref = message.status.attempt
    own = fleet.attempts.get((message.node_id, ref.generation)) if ref is not None else None
    if ref is None or own is None or own.incarnation != ref.incarnation or message.status.seq <= own.seq:
        return None
    return _lived_longer(known, message, highest=message.highest_generation)


def stopped(row: FleetRow, found: StoreRegressed, now: datetime) -> FleetRow:
    """The fleet row with its stop, by a node's word."""
    serial = int(found.fields.get("incarnation_serial", "0"))
    still = row if stands(row) else _stopped(row, found.message, now)
    return replace(still, regressed_serial=max(row.regressed_serial, serial))


def stop_regressed(row: FleetRow, why: str, now: datetime) -> Change:
    """The stop by the store's own word. Nothing starts until a person has seen it, also where another
    stop stood."""
    event = NewEvent("fleet.stopped", why, cause=STOPPED)
    return Change((_stopped(row, why, now),), events=(event,))


def stands(row: FleetRow) -> bool:
    """Whether the fleet is stopped because the store went back in time, and nobody has accepted it."""
    return row.stopped == STOPPED


def _stopped(row: FleetRow, why: str, now: datetime) -> FleetRow:
    return replace(
        row,
        losses=_loss(row),
        stopped=STOPPED,
        stop_message=why,
        stopped_by="orchestrator",
        stopped_at=now,
        unheard=frozenset(),
    )


def _loss(row: FleetRow, *, known: bool = False) -> int:
    """The number of the loss that is noticed: a new one, unless the fleet has stopped for it (rule 4)."""
    return row.losses + (not known and not stands(row))


def noticed(
    fleet: Fleet, known: NodeRow | None, node: NodeRow, message: Hello, found: Regression, now: datetime
) -> NodeRow:
    """The node's row with both sides of the difference; what was noticed first of this loss stays.

    node: as its Hello describes it.
    """
    before = known.beyond if known is not None else None
    loss = _loss(fleet.row, known=found.known)
    if before is not None and (before.loss, before.store.incarnation) == (loss, fleet.incarnation):
        return replace(node, beyond=replace(before, refused=found.refused))
    newest = fleet.newest_attempt(message.node_id)
    ref = message.status.attempt
    has = known or NodeRow(message.node_id)
    beyond = Beyond(
        at=now,
        evidence=found.error.message,
        store=Side(
            fleet.incarnation,
            has.highest_generation,
            newest.generation if newest is not None else 0,
            newest.phase if newest is not None else Phase.IDLE,
            has.release,
        ),
        node=Side(
            message.highest_incarnation,
            message.highest_generation,
            ref.generation if ref is not None else 0,
            message.status.phase,
            message.release,
        ),
        rollback_artifact=has.rollback_artifact,
        command_line=has.command_line,
        loss=loss,
        refused=found.refused,
    )
    return replace(node, beyond=beyond)


def kept_and_stopped(
    fleet: Fleet,
    known: NodeRow | None,
    node: NodeRow,
    found: Regression,
    enrolled: Sequence[NewEvent],
    now: datetime,
) -> Change:
    """Of a link that is refused: the fleet stops, and what the node has seen is kept (rule 5); of a
    node that the store has forgotten, too. A fleet that stands still for it is not stopped again by
    every node that dials.

    node: as its Hello describes it. enrolled: the events of a node that is not known.
    """
    if known is None:
        kept = replace(node, link_up=False, incarnation="")
    else:
        kept = replace(known, highest_generation=node.highest_generation, beyond=node.beyond)
    after = stopped(fleet.row, found.error, now)
    writes: list[Row] = [row for row, before in ((kept, known), (after, fleet.row)) if row != before]
    as_is = [row for row in (kept, after) if row in (known, fleet.row)]
    guards: tuple[Guard, ...] = tuple(guarding(row) for row in as_is)
    if not writes:
        return Change()
    return Change(tuple(writes), guards, events=(*enrolled, told(fleet, node.node_id, found)))


def told(fleet: Fleet, node_id: str, found: Regression) -> NewEvent:
    """The event of a Hello that proves it: the fleet stops, or has stopped for it before."""
    if found.known or stands(fleet.row):
        return NewEvent("node.beyond", found.error.message, node_id=node_id, cause=STOPPED)
    return NewEvent("fleet.stopped", found.error.message, node_id=node_id, cause=STOPPED)


def _regressed(message: str, hello: Hello, **fields: Any) -> StoreRegressed:
    return StoreRegressed(
        message,
        remedy=(
            "Nothing starts until a person has looked: the database was restored from an older copy, or the "
            "node belongs to another orchestrator. See `liveroll differences`, then release the fleet stop."
        ),
        node_id=hello.node_id,
        **fields,
    )
