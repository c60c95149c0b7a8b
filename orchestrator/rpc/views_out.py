"""What operators are shown: core's views → proto. Total, no decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from liveroll.v1 import common_pb2, rollout_pb2

from orchestrator.core import report
from orchestrator.core.model import Event, GateVerdict, Maintenance, Problem
from orchestrator.core.phases import Verdict
from orchestrator.wire.check import instant_of
from orchestrator.wire.spec_out import spec_of


def rollout_of(view: report.RolloutView) -> rollout_pb2.Rollout:
    made = rollout_pb2.Rollout(
        rollout_id=view.rollout_id,
        spec=spec_of(view.spec),
        state=f"ROLLOUT_STATE_{view.state}",
        goal=view.goal.value,
        paused=bool(view.paused),
        pause_reason=view.paused,
        halted=bool(view.halted),
        halt_reason=view.halted,
        halt_message=view.halt_message,
        create_time=instant_of(view.created_at),
        created_by=view.created_by,
        waves=[_wave_of(w) for w in view.waves],
        current_wave=view.current_wave,
        budgets=[budget_of(b) for b in view.budgets],
        blockers=[blocker_of(b) for b in view.blockers],
        gates=gates_of(view.gates, view.wave_names),
        pairs=[pair_of(p) for p in view.pairs],
        blackout=_blackout_of(view.blackout),
        retries=view.retries,
        memory_checks_passed=view.memory_checks_passed,
        memory_checks_failed=view.memory_checks_failed,
        uncommitted=view.uncommitted,
        target_release=view.target_release,
        revision=view.revision,
        members=view.members,
        fleet_stopped=bool(view.fleet_stopped),
        fleet_stop_reason=view.fleet_stopped,
    )
    if view.started_at is not None:
        made.start_time.FromDatetime(view.started_at)
    if view.ended_at is not None:
        made.end_time.FromDatetime(view.ended_at)
    if view.next_wake is not None:
        made.next_wake.FromDatetime(view.next_wake)
    return made


def _wave_of(view: report.WaveView) -> rollout_pb2.WaveStatus:
    return rollout_pb2.WaveStatus(
        index=view.index,
        name=view.name,
        state=view.state,
        members=view.members,
        pending=view.pending,
        in_progress=view.in_progress,
        baking=view.baking,
        updated=view.updated,
        failed=view.failed,
        left_out=view.left_out,
        rolled_back=view.rolled_back,
        nodes=view.nodes,
    )


def budget_of(view: report.BudgetUse) -> rollout_pb2.BudgetUse:
    return rollout_pb2.BudgetUse(budget=view.budget, limit=view.limit, used=view.used)


def blocker_of(view: report.BlockerView) -> rollout_pb2.Blocker:
    made = rollout_pb2.Blocker(
        reason=view.reason,
        message=view.message,
        remedy=view.remedy,
        nodes=view.nodes,
        node_count=view.node_count,
        wave=view.wave,
    )
    if view.until is not None:
        made.until.FromDatetime(view.until)
    return made


def gates_of(verdicts: Iterable[GateVerdict], wave_names: Sequence[str]) -> list[rollout_pb2.GateVerdict]:
    return [
        rollout_pb2.GateVerdict(
            gate=v.gate,
            result=f"GATE_RESULT_{v.result}",
            evidence=v.evidence,
            wave=wave_names[v.wave] if 0 <= v.wave < len(wave_names) else str(v.wave),
        )
        for v in verdicts
    ]


def pair_of(view: report.KernelPairView) -> rollout_pb2.KernelPair:
    return rollout_pb2.KernelPair(
        from_release=view.from_release,
        to_release=view.to_release,
        hardware_model=view.hardware_model,
        nodes=view.nodes,
        canary=view.canary,
        passed=view.passed,
    )


def _blackout_of(view: report.BlackoutSummary) -> rollout_pb2.BlackoutSummary:
    made = rollout_pb2.BlackoutSummary(
        samples=view.samples,
        rejected=view.rejected,
        open=view.open,
        emulated=view.emulated,
        vantages=[_vantage_of(v) for v in view.vantages],
    )
    for name in ("p50", "p99", "max"):
        value = getattr(view, name)
        if value is not None:
            getattr(made, name).FromTimedelta(value)
    return made


def _vantage_of(view: report.VantageSummary) -> rollout_pb2.VantageSummary:
    made = rollout_pb2.VantageSummary(
        vantage=f"VANTAGE_{view.vantage.upper()}",
        samples=view.samples,
        rejected=view.rejected,
    )
    for field in ("p50", "p99", "max", "uncertainty"):
        value = getattr(view, field)
        if value is not None:
            getattr(made, field).FromTimedelta(value)
    return made


def node_of(view: report.NodeView) -> rollout_pb2.Node:
    made = rollout_pb2.Node(
        node_id=view.node_id,
        labels=dict(view.labels),
        kernel_release=view.release,
        hardware_model=view.hardware_model,
        boot_id=view.boot_id,
        link=view.link.value.lower(),
        phase=f"PHASE_{view.phase}",
        rollout=view.rollout_id,
        wave=view.wave,
        healthy=view.healthy,
        rollback_artifact=view.rollback_artifact,
        staged_artifacts=view.staged,
        highest_generation=view.highest_generation,
        capabilities=view.capabilities,
        agent_version=view.agent_version,
        desired=view.desired,
        written_off=bool(view.written_off),
        revision=view.revision,
        boot_verdict=verdict_name(view.boot_verdict),
        boot_by_hand=view.boot_by_hand,
    )
    if view.generation:
        made.attempt.CopyFrom(
            common_pb2.AttemptRef(
                node_id=view.node_id, generation=view.generation, incarnation=view.incarnation
            )
        )
    if view.link_changed_at is not None:
        made.link_changed_time.FromDatetime(view.link_changed_at)
    if view.problem is not None:
        made.problem.CopyFrom(problem_of(view.problem))
    if view.not_ready is not None:
        made.not_ready.CopyFrom(problem_of(view.not_ready))
    if view.maintenance is not None:
        made.maintenance.CopyFrom(maintenance_of(view.maintenance))
    return made


def verdict_name(verdict: Verdict | None) -> str:
    return "BOOT_VERDICT_UNSPECIFIED" if verdict is None else f"BOOT_VERDICT_{verdict}"


def problem_of(problem: Problem) -> common_pb2.Problem:
    return common_pb2.Problem(
        reason=problem.reason,
        retry=f"RETRY_CLASS_{problem.retry}",
        message=problem.message,
        remedy=problem.remedy,
        fields=dict(problem.fields),
    )


def maintenance_of(maintenance: Maintenance) -> rollout_pb2.Maintenance:
    made = rollout_pb2.Maintenance(owner=maintenance.owner, reason=maintenance.reason)
    if maintenance.expires_at is not None:
        made.expire_time.CopyFrom(instant_of(maintenance.expires_at))
    return made


def event_of(event: Event) -> rollout_pb2.Event:
    new = event.new
    made = rollout_pb2.Event(
        cursor=f"{event.incarnation}:{event.seq}",
        seq=event.seq,
        time=instant_of(event.at),
        kind=new.kind,
        rollout=new.rollout_id,
        node_id=new.node_id,
        actor=new.actor,
        cause=new.cause,
        message=new.message,
        fields=dict(new.fields),
    )
    if new.generation:
        made.attempt.node_id = new.node_id
        made.attempt.generation = new.generation
        made.attempt.incarnation = event.incarnation
    return made


def plan_of(view: report.DryRun) -> rollout_pb2.RolloutPlan:
    return rollout_pb2.RolloutPlan(
        waves=[rollout_pb2.PlannedWave(name=w.name, nodes=w.nodes) for w in view.waves],
        pairs=[pair_of(p) for p in view.pairs],
        skipped=[
            rollout_pb2.SkippedNode(node_id=s.node_id, reason=s.reason, message=s.message, waits=s.waits)
            for s in view.skipped
        ],
        budgets=[budget_of(b) for b in view.budgets],
        command_lines=[
            rollout_pb2.PlannedCommandLine(
                command_line=c.command_line, nodes=c.nodes, example_node=c.example_node
            )
            for c in view.command_lines
        ],
        target_release=view.target_release,
        artifact_digest=view.artifact_digest,
        members=view.members,
        warnings=view.warnings,
    )


def explanation_of(view: report.Explanation) -> rollout_pb2.ExplainResponse:
    made = rollout_pb2.ExplainResponse(
        summary=view.summary,
        blockers=[blocker_of(b) for b in view.blockers],
        gates=gates_of(view.gates, view.wave_names),
    )
    if view.next_wake is not None:
        made.next_wake.FromDatetime(view.next_wake)
    return made
