"""Differences between the store and its nodes → proto."""

from __future__ import annotations

from liveroll.v1 import rollout_pb2 as pb

from orchestrator.core.beyond import Side
from orchestrator.core.differences import Difference


def difference_of(difference: Difference) -> pb.Difference:
    made = pb.Difference(
        node_id=difference.node_id,
        evidence=difference.beyond.evidence,
        store=_side_of(difference.beyond.store),
        node=_side_of(difference.beyond.node),
        phase=f"PHASE_{difference.phase}",
        outlook=difference.outlook.value,
        message=difference.message,
        remedy=difference.remedy,
        rollout=difference.rollout_id,
    )
    made.notice_time.FromDatetime(difference.beyond.at)
    return made


def _side_of(side: Side) -> pb.NodeMemory:
    return pb.NodeMemory(
        incarnation=side.incarnation,
        highest_generation=side.generation,
        attempt=side.attempt,
        phase=f"PHASE_{side.phase}",
        kernel_release=side.release,
    )
