"""What is said of nodes that run the new kernel, and would not after a cold boot.

A rollout that was cancelled, or failed, leaves nodes updated and uncommitted. Nothing but a
person's word commits them, and until then they are not ALREADY there for anybody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.model import RolloutRow
from orchestrator.core.operations_table import ALLOWED, Operation, shown_state
from orchestrator.core.phases import Kind, Outcome
from orchestrator.core.standing import Place

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet
    from orchestrator.core.index import RolloutIndex

REASON = "NODE_UNCOMMITTED"


def waiting(fleet: Fleet, index: RolloutIndex) -> Iterator[Blocker]:
    """Members whose turn has come and that another rollout has left uncommitted, by that rollout."""
    for wave, queue in index.due_queues():
        by_rollout: dict[tuple[str, Kind], list[str]] = {}
        for _, node_id in queue.waiting.get(Place.UNCOMMITTED, ()):
            newest = fleet.newest_attempt(node_id)
            assert newest is not None, "what is uncommitted is an attempt"
            if not newest.rollout_id:
                continue  # of a lost future: `liveroll differences` says what becomes of it
            by_rollout.setdefault((newest.rollout_id, newest.kind), []).append(node_id)
        for (other, kind), nodes in by_rollout.items():
            few = " ".join(nodes[:FEW])
            verbs = decisions(fleet, other, few) if kind is Kind.FORWARD else []
            exclude = f"`liveroll exclude {index.row.rollout_id} {few} -m WHY` goes on without"
            if verbs:
                remedy = f"An operator must decide: {', or '.join([*verbs, exclude])}."
            else:
                remedy = f"It goes on once the node is committed (`liveroll why {other}`), or {exclude}."
            yield Blocker(
                REASON,
                f"the node runs {index.row.artifact.release} by rollout {other}, but uncommitted: "
                "a cold boot would start the kernel from before",
                remedy,
                tuple(nodes[:FEW]),
                len(nodes),
                wave=index.row.wave_names[wave],
            )


def left_behind(fleet: Fleet, row: RolloutRow, node_id: str = "") -> tuple[Blocker, ...]:
    """What an ended rollout has left uncommitted, for whoever asks why. node_id: only about this one."""
    if row.ended_at is None:
        return ()
    members = sorted(fleet.members(row.rollout_id).values(), key=lambda m: m.position)
    left = [m.node_id for m in members if m.outcome is Outcome.UNCOMMITTED]
    nodes = [n for n in left if node_id in ("", n)]
    if not nodes:
        return ()
    verbs = ", or ".join(decisions(fleet, row.rollout_id, node_id))
    return (
        Blocker(
            REASON,
            f"updated to {row.artifact.release}, but not committed: a cold boot would start the kernel "
            "from before",
            f"An operator must decide: {verbs}.",
            tuple(nodes[:FEW]),
            len(nodes),
        ),
    )


def decisions(fleet: Fleet, rollout_id: str, nodes: str = "") -> list[str]:
    """The calls that the rollout admits now, about nodes that it left uncommitted."""
    row = fleet.rollouts.get(rollout_id)
    if row is None:
        return []
    allowed = ALLOWED[shown_state(row, fleet.members(rollout_id).values())]
    commit = f"`{' '.join(filter(None, ('liveroll commit', rollout_id, nodes)))}` keeps the new kernel"
    found = {Operation.COMMIT: commit, Operation.ROLL_BACK: f"`liveroll rollback {rollout_id}` goes back"}
    return [text for operation, text in found.items() if operation in allowed]
