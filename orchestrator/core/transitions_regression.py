"""Whether a node's Hello proves that the store went back in time.

Rules
1. A node that knows a newer incarnation serial, a higher generation of this incarnation, or an
   attempt of it that the store never made, has seen a future that the store has forgotten.
2. An unsettled attempt of a foreign incarnation is as bad: somebody else drives this node.
3. Attempts that luoctl began on the node (incarnation `local`) prove nothing.
4. Whatever a person has released the fleet stop over is not held against the store again: the
   generation is kept on the node's row, the serial on the fleet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.messages import Hello
from orchestrator.core.model import Change, FleetRow, NewEvent, NodeRow, Row
from orchestrator.core.phases import SETTLED
from orchestrator.errors import StoreRegressed

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

LOCAL_INCARNATION = "local"
"""Of attempts that luoctl began; no store has it."""
STOPPED = "STORE_REGRESSED"


def regression(fleet: Fleet, known: NodeRow | None, message: Hello) -> StoreRegressed | None:
    """What the Hello proves; None if it proves nothing."""
    serial = message.highest_incarnation_serial
    accepted = 0 if fleet.row.stopped == STOPPED else fleet.row.regressed_serial
    if serial > max(fleet.incarnation_serial, accepted):
        return _regressed(
            f"{message.node_id} knows incarnation {message.highest_incarnation or serial}, "
            "which is newer than this store's",
            message,
            incarnation_serial=serial,
        )
    highest = known.highest_generation if known is not None else 0
    ref = message.status.attempt
    local = ref is not None and ref.incarnation == LOCAL_INCARNATION
    ours = message.highest_incarnation == fleet.incarnation
    explained = local and ref is not None and ref.generation == message.highest_generation
    if ours and message.highest_generation > highest and not explained:
        return _regressed(
            f"{message.node_id} has seen generation {message.highest_generation}, this store only {highest}",
            message,
            generation=message.highest_generation,
        )
    if ref is None or local:
        return None
    attempt = fleet.attempts.get((message.node_id, ref.generation))
    unknown = attempt is None or attempt.incarnation != ref.incarnation
    if unknown and ref.incarnation == fleet.incarnation and ref.generation > highest:
        return _regressed(
            f"{message.node_id} is in attempt {ref.generation}, which this store never made",
            message,
            generation=ref.generation,
        )
    if unknown and message.status.phase not in SETTLED and ref.generation > highest:
        return _regressed(
            f"{message.node_id} is {message.status.phase} in attempt {ref.generation} of another store",
            message,
            generation=ref.generation,
            incarnation=ref.incarnation,
        )
    return None


def stopped(row: FleetRow, found: StoreRegressed, now: datetime) -> FleetRow:
    """The fleet row with its stop."""
    serial = int(found.fields.get("incarnation_serial", "0"))
    return replace(
        row,
        stopped=STOPPED,
        stop_message=found.message,
        stopped_by="orchestrator",
        stopped_at=row.stopped_at if row.stopped == STOPPED else now,
        regressed_serial=max(row.regressed_serial, serial),
    )


def kept_and_stopped(
    row: FleetRow,
    known: NodeRow | None,
    node: NodeRow,
    found: StoreRegressed,
    enrolled: Sequence[NewEvent],
    now: datetime,
) -> Change:
    """The fleet stops, and what the node has seen is kept (rule 4): of a node that the store has
    forgotten, too. A fleet that stands still for it is not stopped again by every node that dials.

    node: as its Hello describes it. enrolled: the events of a node that is not known.
    """
    if known is None:
        kept = replace(node, link_up=False)
    else:
        kept = replace(known, highest_generation=node.highest_generation)
    after = stopped(row, found, now)
    stands = row.stopped == after.stopped and row.regressed_serial == after.regressed_serial
    writes: list[Row] = []
    if kept != known:
        writes.append(kept)
    if not stands:
        writes.append(after)
    if not writes:
        return Change()
    told = NewEvent("fleet.stopped", found.message, node_id=node.node_id, cause=STOPPED)
    return Change(tuple(writes), events=(*enrolled, told))


def _regressed(
    message: str,
    hello: Hello,
    *,
    generation: int = 0,
    incarnation: str = "",
    incarnation_serial: int = 0,
) -> StoreRegressed:
    return StoreRegressed(
        message,
        remedy=(
            "Nothing starts until a person has looked: the database was restored from an older copy, or the "
            "node belongs to another orchestrator. Compare `liveroll nodes` with the fleet, then release "
            "the fleet stop."
        ),
        node_id=hello.node_id,
        generation=generation,
        incarnation=incarnation,
        incarnation_serial=incarnation_serial,
    )
