"""What messages do to a node's own row: its description, its artifacts, its desired command.

Rules
1. A Hello describes the node in full; a report changes only what it says.
2. `desired` is cleared once answered; clearing raises command_serial like any other change.
3. A refused PREPARE ends an attempt that the node has not acknowledged; any other refusal is
   recorded on the attempt and leaves its phase alone. What was refused is not wanted again at once:
   PROCEED after a beat (it brings a newer stamp), COMMIT once the node's health has turned. A CANCEL
   before the jump stays wanted, and is sent again by and by: the node has no choice, once it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol, assert_never

from orchestrator.core import staging
from orchestrator.core.messages import CommandRefusal, Hello, Report, StageResult
from orchestrator.core.model import (
    AttemptRow,
    DesiredCancel,
    DesiredCommit,
    DesiredPrepare,
    DesiredProceed,
    DesiredStage,
    NodeRow,
)
from orchestrator.core.phases import BEFORE_JUMP, SETTLED, Phase
from orchestrator.core.transitions_attempt import Learnt, never_started

BEAT = timedelta(seconds=5)
"""As often as a node in an attempt beats."""


class Known(Protocol):
    """What a refusal is judged by: the fleet's."""

    @property
    def incarnation(self) -> str: ...
    @property
    def attempts(self) -> Mapping[tuple[str, int], AttemptRow]: ...


def described(known: NodeRow | None, message: Hello, now: datetime, replica: str = "") -> NodeRow:
    """The node's row after a Hello that is accepted: a new link epoch, everything it says.

    replica: whose link it is.
    """
    node = known or NodeRow(message.node_id, enrolled_at=now)
    return replace(
        node,
        installation_id=message.installation_id,
        link_epoch=node.link_epoch + 1,
        link_up=True,
        link_changed_at=now,
        link_replica=replica,
        labels=message.labels,
        release=message.release,
        boot_id=message.boot_id,
        hardware_model=message.hardware_model,
        command_line=message.command_line,
        capabilities=message.capabilities,
        other_luo=message.other_luo,
        agent_version=message.agent_version,
        highest_generation=max(
            node.highest_generation,
            message.highest_generation,
            message.status.attempt.generation if message.status.attempt is not None else 0,
        ),
        healthy=message.status.healthy,
        problem=message.status.problem,
        not_ready=message.status.not_ready,
        not_ready_epoch=node.link_epoch + 1,
        boot_verdict=message.boot_verdict if message.boot_verdict is not None else node.boot_verdict,
        staged=message.staged_artifacts,
        rollback_artifact=message.rollback_artifact,
        written_off="",
        # What was acknowledged is not sent again, by whomever it was.
        acknowledged_seq=max(node.acknowledged_seq, message.acknowledged_seq),
    )


def absorb_report(node: NodeRow, report: Report, now: datetime) -> NodeRow:
    """What a report says of the node itself; its seq is acknowledged with it."""
    known = replace(
        node,
        acknowledged_seq=report.seq,
        boot_id=report.boot_id or node.boot_id,
        release=report.release or node.release,
        healthy=report.healthy,
        problem=None if report.healthy else report.problem or node.problem,
        boot_verdict=report.boot_verdict if report.boot_verdict is not None else node.boot_verdict,
        boot_by_hand=report.boot_id if report.by_hand else node.boot_by_hand,
        rollback_artifact=report.rollback_artifact or node.rollback_artifact,
        highest_generation=max(
            node.highest_generation, report.attempt.generation if report.attempt is not None else 0
        ),
    )
    return _staged(known, report.stage, now) if report.stage is not None else known


def answered(node: NodeRow, attempt: AttemptRow) -> NodeRow:
    """Without the desired command that the attempt's phase has answered."""
    desired = node.desired
    if desired is None or isinstance(desired, DesiredStage) or desired.generation > attempt.generation:
        return node
    if desired.generation == attempt.generation and not _is_answered(desired, attempt):
        return node
    return clear_desired(node)


def clear_desired(node: NodeRow) -> NodeRow:
    """Nothing is wanted of the node any more."""
    return replace(node, desired=None, command_serial=node.command_serial + 1)


def refused_command(
    fleet: Known, node: NodeRow, refusal: CommandRefusal, attempt: AttemptRow | None, now: datetime
) -> tuple[NodeRow, Learnt | None]:
    """A command that the node will not follow: (its row, what became of the attempt if anything).

    A refusal of any command but the newest says nothing any more.
    """
    if refusal.command_id != f"{fleet.incarnation}:{node.command_serial}" or node.desired is None:
        return node, None
    desired = node.desired
    problem = refusal.problem
    if isinstance(desired, DesiredStage):
        failed = StageResult(desired.artifact.digest, False, problem)
        return _staged(node, failed, now), None
    meant = fleet.attempts.get((node.node_id, desired.generation)) or attempt
    if isinstance(desired, DesiredCancel) and meant is not None and meant.phase in BEFORE_JUMP:
        return node, Learnt(replace(meant, problem=problem), ())
    node = clear_desired(node)
    if meant is None or meant.generation != desired.generation:
        return node, None
    if isinstance(desired, DesiredPrepare) and meant.phase is Phase.LOADING and not meant.acknowledged:
        return node, never_started(meant, problem, now)
    if isinstance(desired, DesiredProceed):
        return node, Learnt(replace(meant, problem=problem, proceed_until=now + BEAT), ())
    if isinstance(desired, DesiredCommit) and meant.phase is Phase.BAKING:
        return node, Learnt(replace(meant, problem=problem, healthy_since=None), ())
    return node, None


def _is_answered(
    desired: DesiredPrepare | DesiredProceed | DesiredCancel | DesiredCommit, attempt: AttemptRow
) -> bool:
    match desired:
        case DesiredPrepare():
            return attempt.acknowledged or attempt.phase in SETTLED
        case DesiredProceed():
            return attempt.phase not in BEFORE_JUMP or attempt.phase is Phase.SUSPENDING
        case DesiredCancel():
            return attempt.phase not in BEFORE_JUMP
        case DesiredCommit():
            return attempt.phase is not Phase.BAKING
        case _ as never:
            assert_never(never)


def _staged(node: NodeRow, result: StageResult, now: datetime) -> NodeRow:
    digest = result.artifact_digest
    desired = node.desired
    if isinstance(desired, DesiredStage) and desired.artifact.digest == digest:
        node = clear_desired(node)
    if result.verified:
        mended = node.stage_problem_digest == digest
        return replace(
            node,
            staged=node.staged | {digest},
            stage_problem=None if mended else node.stage_problem,
            stage_problem_digest="" if mended else node.stage_problem_digest,
            stage_failed_at=None if mended else node.stage_failed_at,
        )
    return staging.failed(node, digest, result.problem, now)
