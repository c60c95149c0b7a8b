"""Fixed messages to draw."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def rollout(state: str = "RUNNING") -> pb.Rollout:
    """In the middle of its second wave."""
    made = pb.Rollout(
        rollout_id="kernel-6.19.3",
        state=f"ROLLOUT_STATE_{state}",
        target_release="6.19.3",
        members=24,
        current_wave=1,
        created_by="alice",
        waves=[
            pb.WaveStatus(index=0, name="canary", state="passed", members=2, updated=2),
            pb.WaveStatus(
                index=1,
                name="early",
                state="running",
                members=8,
                updated=3,
                baking=1,
                in_progress=2,
                failed=1,
                pending=1,
            ),
            pb.WaveStatus(index=2, name="rest", state="pending", members=14, pending=14),
        ],
        budgets=[
            pb.BudgetUse(budget="max_unavailable", limit=3, used=3),
            pb.BudgetUse(budget="max_in_blackout", limit=2, used=1),
            pb.BudgetUse(budget="failures", limit=1, used=1),
            *(pb.BudgetUse(budget=f"domain:zone={z}", limit=1, used=int(z == "b")) for z in "abcdefghij"),
        ],
        blockers=[
            pb.Blocker(
                reason="BUDGET_UNAVAILABLE",
                message="as many nodes are unavailable as the rollout allows (3 of 3)",
                nodes=["n7", "n8"],
                node_count=2,
            ),
            pb.Blocker(
                reason="AWAITING_APPROVAL",
                message="a person lets the wave begin",
                remedy="Approve it: liveroll approve kernel-6.19.3.",
                wave="rest",
            ),
        ],
        gates=[
            pb.GateVerdict(
                gate="blackout",
                wave="canary",
                result="GATE_RESULT_PASS",
                evidence="p99 of 2 samples is 0.800 s, the maximum is 2.000 s",
            ),
            pb.GateVerdict(
                gate="health",
                wave="early",
                result="GATE_RESULT_INCONCLUSIVE",
                evidence="1 of 8 nodes settled",
            ),
        ],
        pairs=[pb.KernelPair(from_release="6.18.0", to_release="6.19.3", hardware_model="a", nodes=24)],
        blackout=pb.BlackoutSummary(samples=6, rejected=1, open=1, emulated=True),
        retries=1,
        memory_checks_passed=5,
        memory_checks_failed=1,
    )
    made.create_time.FromDatetime(NOW - timedelta(minutes=3))
    made.start_time.FromDatetime(NOW - timedelta(minutes=2, seconds=5))
    made.blockers[0].until.FromDatetime(NOW + timedelta(seconds=45))
    for name, ms in (("p50", 812), ("p99", 1240), ("max", 1300)):
        getattr(made.blackout, name).FromTimedelta(timedelta(milliseconds=ms))
    for vantage, figures in (
        ("VANTAGE_WORKLOAD", (812, 1240, 1300, 1)),
        ("VANTAGE_HOST", (840, 1270, 1330, 1)),
        ("VANTAGE_LINK", (3400, 4100, 4200, 4200)),
    ):
        seen = made.blackout.vantages.add(vantage=vantage, samples=3, rejected=int(vantage == "VANTAGE_LINK"))
        for name, ms in zip(("p50", "p99", "max", "uncertainty"), figures, strict=True):
            getattr(seen, name).FromTimedelta(timedelta(milliseconds=ms))
    return made


def halted() -> pb.Rollout:
    made = rollout("HALTED")
    made.halted, made.halt_reason = True, "FAILURE_BUDGET"
    made.halt_message = "2 nodes have failed, 1 may"
    made.paused, made.pause_reason = True, "looking into it"
    made.fleet_stopped, made.fleet_stop_reason = True, "OPERATOR"
    made.blockers.clear()
    return made


def cancelled() -> pb.Rollout:
    made = rollout("CANCELLED")
    made.end_time.FromDatetime(NOW)
    made.uncommitted.extend(["n1", "n2"])
    made.waves[1].CopyFrom(
        pb.WaveStatus(index=1, name="early", state="pending", members=8, rolled_back=3, left_out=5)
    )
    for field in ("blockers", "gates", "budgets", "blackout"):
        made.ClearField(field)
    return made


def node(name: str, phase: str, **changes: object) -> pb.Node:
    made = pb.Node(
        node_id=name,
        kernel_release="6.18.0",
        hardware_model="model-a",
        link="up",
        phase=f"PHASE_{phase}",
        wave="early",
        rollout="kernel-6.19.3",
        labels={"zone": "a", "pool": "prod"},
        healthy=True,
    )
    made.MergeFrom(pb.Node(**changes))  # type: ignore[arg-type]
    return made


def nodes() -> list[pb.Node]:
    problem = common_pb2.Problem(
        reason="FREEZE_REFUSED",
        retry="RETRY_CLASS_REPLAN",
        message="vm-3 refused to freeze",
        remedy="Ask the workload's owner.",
    )
    return [
        node("n1", "COMMITTED"),
        node("n2", "JUMPING", link="down"),
        node("n3", "QUARANTINED", problem=problem),
        node("n4", "PRESERVED"),
        node("n5", "IDLE", maintenance=pb.Maintenance(owner="bob", reason="new disk")),
        node("n6", "LOST", link="unknown", written_off=True),
    ]


def by_hand(state: str = "prepared", **fields: str) -> pb.Node:
    """A node whose LUO somebody drives."""
    said = common_pb2.Problem(
        reason="LUO_NOT_NORMAL",
        message=f"LUO is {state}: another live update has begun",
        remedy="Undo it with `luoctl cancel`.",
        fields={"luo_model": "rfc-v2", "luo_state": state, **fields},
    )
    return node("n7", "IDLE", not_ready=said, capabilities=["luo", "kho", "luo-rfc-v2"])


def events() -> list[pb.Event]:
    told = [
        ("node.enrolled", 0, "n3 is enrolled, 6.18.0", {}, "", "local:n3"),
        ("attempt.prepared", 1, "n3: attempt 1 begins, 6.18.0 → 6.19.3", {"wave": "1"}, "", "orchestrator"),
        ("attempt.prepared", 1, "n3: Prepared, LOADING", {"verdict": "SAME_BOOT"}, "", "n3"),
        ("attempt.loaded", 1, "n3: Loaded, LOADING → DRAINING", {"phase": "DRAINING"}, "", "n3"),
        (
            "attempt.failed",
            1,
            "n3: Failed, PRESERVING → UNWINDING",
            {"problem": "FREEZE_REFUSED", "problem_message": "reboot(LINUX_REBOOT_CMD_KEXEC) failed"},
            "",
            "n3",
        ),
        ("node.settled", 1, "n3: attempt 1 is ABORTED", {"problem": "FREEZE_REFUSED"}, "", "orchestrator"),
        ("node.sickened", 0, "n3 is unhealthy: probe disk", {}, "", "n3"),
        ("attempt.prepared", 2, "n3: attempt 2 begins, 6.18.0 → 6.19.3", {"wave": "1"}, "retry", "alice"),
        ("node.unlinked", 0, "n3: the link ended", {}, "", "orchestrator"),
        (
            "node.linked",
            0,
            "n3 is linked, 6.19.3",
            {"blackout": "link 1.310 s ± 1.310 s"},
            "",
            "local:n3",
        ),
        (
            "attempt.boot_classified",
            2,
            "n3: BootClassified, JUMPING → RETRIEVING",
            {"verdict": "LIVE_UPDATED", "blackout": "w1 0.612 s, host 0.640 s"},
            "",
            "n3",
        ),
        ("node.unlinked", 0, "n3: the link ended", {}, "", "orchestrator"),
    ]
    made = []
    for seq, (kind, generation, message, fields, cause, actor) in enumerate(told, 1):
        event = pb.Event(
            cursor=f"i:{seq}",
            seq=seq,
            kind=kind,
            node_id="n3",
            message=message,
            fields=fields,
            cause=cause,
            actor=actor,
            rollout="kernel-6.19.3" if generation else "",
        )
        event.time.FromDatetime(NOW + timedelta(seconds=seq * 1.25))
        if generation:
            event.attempt.generation = generation
        made.append(event)
    return made


def plan() -> pb.RolloutPlan:
    return pb.RolloutPlan(
        waves=[
            pb.PlannedWave(name="canary", nodes=["n1", "n9"]),
            pb.PlannedWave(name="rest", nodes=[f"n{i}" for i in range(2, 9)]),
        ],
        pairs=[
            pb.KernelPair(
                from_release="6.18.0", to_release="6.19.3", hardware_model="a", nodes=8, canary="n1"
            ),
            pb.KernelPair(from_release="6.17.9", to_release="6.19.3", hardware_model="b", nodes=1),
        ],
        skipped=[
            pb.SkippedNode(node_id="n10", reason="MAINTENANCE", message="is in maintenance"),
            pb.SkippedNode(node_id="n11", reason="MAINTENANCE", message="is in maintenance"),
            pb.SkippedNode(node_id="n12", reason="UNREACHABLE", message="has no link", waits=True),
        ],
        budgets=[
            pb.BudgetUse(budget="max_unavailable", limit=3),
            pb.BudgetUse(budget="domain:zone=a", limit=1),
        ],
        command_lines=[
            pb.PlannedCommandLine(command_line="root=/dev/vda kho=on", nodes=9, example_node="n1")
        ],
        target_release="6.19.3",
        artifact_digest="d" * 64,
        members=9,
        warnings=["no gate looks at blackouts"],
    )
