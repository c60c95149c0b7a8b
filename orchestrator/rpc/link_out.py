"""What a node is told over its link: Welcome, the desired command, acknowledgements → proto."""

from __future__ import annotations

from typing import assert_never

from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.core import model
from orchestrator.core.messages import Welcome
from orchestrator.errors import InvariantViolated
from orchestrator.runtime.service import Command
from orchestrator.wire.check import duration_of
from orchestrator.wire.spec_out import timeouts_of


def welcome_of(welcome: Welcome) -> agent_pb2.LinkResponse:
    return agent_pb2.LinkResponse(
        welcome=agent_pb2.Welcome(
            incarnation=welcome.incarnation,
            incarnation_serial=welcome.incarnation_serial,
            link_epoch=welcome.link_epoch,
            active_heartbeat=duration_of(welcome.active_heartbeat),
            idle_heartbeat=duration_of(welcome.idle_heartbeat),
            acknowledged_seq=welcome.acknowledged_seq,
        )
    )


def ack_of(seq: int) -> agent_pb2.LinkResponse:
    return agent_pb2.LinkResponse(ack=agent_pb2.Ack(seq=seq))


def command_of(command: Command) -> agent_pb2.LinkResponse:
    """Raises InvariantViolated for a command about an attempt without its rows."""
    made = agent_pb2.Command(command_id=command.command_id)
    desired = command.desired
    match desired:
        case model.DesiredStage():
            made.stage.artifact.CopyFrom(artifact_of(desired.artifact))
        case model.DesiredPrepare():
            made.prepare.CopyFrom(_prepare_of(command, desired))
        case model.DesiredProceed():
            made.proceed.attempt.CopyFrom(_attempt_of(command))
            made.proceed.stamp.boot_id = desired.stamp.boot_id
            made.proceed.stamp.boottime.FromTimedelta(desired.stamp.boottime)
            made.proceed.valid_for.FromTimedelta(desired.valid_for)
        case model.DesiredCancel():
            made.cancel.attempt.CopyFrom(_attempt_of(command))
            made.cancel.reason = desired.reason
        case model.DesiredCommit():
            made.commit.attempt.CopyFrom(_attempt_of(command))
        case _:
            assert_never(desired)
    return agent_pb2.LinkResponse(command=made)


def artifact_of(artifact: model.Artifact) -> agent_pb2.ArtifactRef:
    return agent_pb2.ArtifactRef(
        name=artifact.name, digest=artifact.digest, url=artifact.url, kernel_release=artifact.release
    )


def _attempt_row(command: Command) -> model.AttemptRow:
    if command.attempt is None:
        raise InvariantViolated(
            "a desired command names an attempt that has no row",
            node_id=command.node_id,
            command_id=command.command_id,
        )
    return command.attempt


def _attempt_of(command: Command) -> common_pb2.AttemptRef:
    row = _attempt_row(command)
    return common_pb2.AttemptRef(node_id=row.node_id, generation=row.generation, incarnation=row.incarnation)


def _prepare_of(command: Command, desired: model.DesiredPrepare) -> agent_pb2.Prepare:
    row = _attempt_row(command)
    if command.rollout is None:
        raise InvariantViolated(
            "a prepare belongs to no rollout", node_id=command.node_id, command_id=command.command_id
        )
    spec = command.rollout.spec
    return agent_pb2.Prepare(
        attempt=_attempt_of(command),
        kind=f"KIND_{row.kind}",
        method=f"UPDATE_METHOD_{row.method}",
        artifact=artifact_of(desired.artifact),
        expected_release=row.from_release,
        expected_boot_id=row.expected_boot_id,
        command_line=desired.command_line,
        timeouts=timeouts_of(spec.timeouts),
        health_hold=duration_of(spec.health_hold),
        rollback_none=spec.rollback.none,
        operator_word=row.operator_word,
    )
