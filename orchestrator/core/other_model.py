"""Members whose LUO is of another model than the target's: STAGE will refuse it, node by node.

Which strings are of which model the nodes say in their Hello (node_agent/kernel/luo_models.py has the table);
which string the target speaks, its manifest. Where either says nothing, nothing is said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from orchestrator.core.blockers import FEW, Blocker
from orchestrator.core.model import Artifact, NodeRow, RolloutRow
from orchestrator.core.phases import Goal, Outcome
from orchestrator.core.remedies import Call, told

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

REASON = "TARGET_MODEL_DIFFERS"
"""As the nodes' preflight says it."""


def differs(node: NodeRow, artifact: Artifact) -> bool:
    """Whether this node will refuse the target for its model of LUO."""
    return artifact.luo in node.other_luo and node.release != artifact.release


def warning(nodes: Iterable[NodeRow], artifact: Artifact) -> str:
    """What a dry run says of its members; empty if there is nothing to say."""
    members = tuple(nodes)
    names = sorted(node.node_id for node in members if differs(node, artifact))
    if not names:
        return ""
    few = f"{' '.join(names[:FEW])}{' …' if len(names) > FEW else ''}"
    return (
        f"target: {len(names)} of {len(members)} members will refuse it ({REASON}), for its LUO "
        f"({artifact.luo}) is of another model: leave them out, or pick a target of their model ({few})"
    )


def ahead(fleet: Fleet, row: RolloutRow, node_id: str = "") -> tuple[Blocker, ...]:
    """For whoever asks why, of members of which no STAGE_FAILED says it yet: that comes with their turn.

    node_id: only about this one.
    """
    if row.ended_at is not None or row.goal is not Goal.FORWARD:
        return ()
    nodes = []
    for member in sorted(fleet.members(row.rollout_id).values(), key=lambda m: m.position):
        node = fleet.nodes[member.node_id]
        told_so = member.wave <= row.wave and node.stage_problem_digest == row.artifact.digest
        mine = node_id in ("", node.node_id) and member.outcome is Outcome.PENDING
        if mine and not told_so and differs(node, row.artifact):
            nodes.append(node.node_id)
    if not nodes:
        return ()
    return (
        Blocker(
            REASON,
            f"the node will refuse the target: its LUO ({row.artifact.luo}) is of another model",
            told(
                fleet,
                "Nothing that is preserved would cross",
                row.rollout_id,
                {Call.EXCLUDE: nodes},
                joint=": ",
            ),
            tuple(nodes[:FEW]),
            len(nodes),
        ),
    )
