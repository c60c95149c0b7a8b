"""Every operators' call against a real server in this process: what it does, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import common_pb2 as common
from liveroll.v1 import rollout_pb2 as pb

from tests.integration.rpc_harness import ARTIFACT, NEW, Served, nodes, serving, spec


async def refused(call: Any) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Code, reason and rich status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    packed = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    return caught.value.code(), info.reason, status


def paths(status: status_pb2.Status) -> list[str]:
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    return [v.field for v in bad.field_violations]


async def create(served: Served, key: str = "create", **changes: Any) -> pb.Rollout:
    request = pb.CreateRolloutRequest(spec=spec(**changes), idempotency_key=key)
    return (await served.operators.CreateRollout(request)).rollout  # type: ignore[no-any-return]


async def ended(served: Served, rollout: str = "k") -> pb.Rollout:
    """Watch to the end."""
    last = None
    async for update in served.operators.WatchRollout(pb.WatchRolloutRequest(rollout=rollout)):
        last = update.rollout
    assert last is not None
    return last  # type: ignore[no-any-return]


async def until(served: Served, holds: Callable[[pb.WatchRolloutResponse], bool]) -> pb.Rollout:
    """Watch until an update of which it holds."""
    call = served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k"))
    try:
        async for update in call:
            if holds(update):
                return update.rollout  # type: ignore[no-any-return]
    finally:
        call.cancel()
    raise AssertionError("the watch ended before")


async def paused(served: Served) -> pb.Rollout:
    """A rollout that stands still: paused before anything began."""
    await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="test", idempotency_key="stop"))
    return await create(served)


async def test_a_rollout_runs_to_its_end_and_a_watch_sees_all_of_it() -> None:
    async with serving() as served, nodes(served, "n1", "n2", "n3"):
        made = await create(served)
        assert (made.rollout_id, made.members, made.created_by) == ("k", 3, "local:unknown")
        kinds: list[str] = []
        async for update in served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k")):
            kinds += [event.kind for event in update.events]
            last = update.rollout
        assert last.state == pb.ROLLOUT_STATE_SUCCEEDED
        assert kinds.count("attempt.prepared") == 3
        assert kinds[-1] == "rollout.ended"
        assert last.blackout.samples == 3
        assert last.memory_checks_passed == 3
        for name in ("n1", "n2", "n3"):
            node = (await served.operators.GetNode(pb.GetNodeRequest(node_id=name))).node
            assert node.kernel_release == NEW


async def test_plan_creates_nothing() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        plan = (await served.operators.PlanRollout(pb.PlanRolloutRequest(spec=spec()))).plan
        assert plan.members == 2
        assert plan.target_release == NEW
        assert plan.artifact_digest == ARTIFACT.digest
        assert sorted(n for wave in plan.waves for n in wave.nodes) == ["n1", "n2"]
        listed = await served.operators.ListRollouts(pb.ListRolloutsRequest())
        assert not listed.rollouts


async def test_an_invalid_specification_is_refused_with_every_path_and_nothing_is_created() -> None:
    async with serving() as served, nodes(served, "n1"):
        bad = spec(gates=[pb.Gate()], late_nodes=9)
        bad.name = "Not A Name"
        for call in (
            served.operators.PlanRollout(pb.PlanRolloutRequest(spec=bad)),
            served.operators.CreateRollout(pb.CreateRolloutRequest(spec=bad, idempotency_key="1")),
        ):
            code, reason, status = await refused(call)
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")
            assert sorted(paths(status)) == ["gates[0]", "late_nodes", "name"]
        assert not (await served.operators.ListRollouts(pb.ListRolloutsRequest())).rollouts


async def test_an_empty_selection_and_an_unknown_label_are_told() -> None:
    async with serving() as served, nodes(served, "n1"):
        request = pb.PlanRolloutRequest(spec=spec(selection=pb.Selection(selector="pool=prd")))
        code, _, status = await refused(served.operators.PlanRollout(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "selection.selector" in paths(status)


async def test_an_unknown_artifact_is_not_found() -> None:
    async with serving() as served, nodes(served, "n1"):
        request = pb.PlanRolloutRequest(spec=spec(target=pb.Target(artifact="none")))
        code, _, status = await refused(served.operators.PlanRollout(request))
        assert code is grpc.StatusCode.NOT_FOUND
        assert "none" in status.message


async def test_the_same_key_with_the_same_request_is_the_same_call() -> None:
    async with serving() as served, nodes(served, "n1"):
        first = await create(served, key="a")
        again = await create(served, key="a")
        assert first.create_time == again.create_time
        other = pb.CreateRolloutRequest(spec=spec("other"), idempotency_key="a")
        code, reason, _ = await refused(served.operators.CreateRollout(other))
        assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED")


async def test_a_name_is_taken_by_another_body_only() -> None:
    async with serving() as served, nodes(served, "n1"):
        await create(served, key="a")
        assert (await create(served, key="b")).rollout_id == "k"
        code, _, _ = await refused(
            served.operators.CreateRollout(
                pb.CreateRolloutRequest(spec=spec(canary=pb.Canary(max_nodes=9)), idempotency_key="c")
            )
        )
        assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_a_mutating_call_needs_a_key() -> None:
    async with serving() as served, nodes(served, "n1"):
        code, _, status = await refused(served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec())))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert paths(status) == ["idempotency_key"]


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetRollout", pb.GetRolloutRequest(rollout="none")),
        ("Explain", pb.ExplainRequest(rollout="none")),
        ("PauseRollout", pb.PauseRolloutRequest(rollout="none", idempotency_key="1")),
        ("ResumeRollout", pb.ResumeRolloutRequest(rollout="none", idempotency_key="1")),
        ("ApproveRollout", pb.ApproveRolloutRequest(rollout="none", idempotency_key="1")),
        ("CancelRollout", pb.CancelRolloutRequest(rollout="none", idempotency_key="1")),
        ("RollBackRollout", pb.RollBackRolloutRequest(rollout="none", idempotency_key="1")),
        ("CommitNodes", pb.CommitNodesRequest(rollout="none", idempotency_key="1")),
        ("RetryNodes", pb.RetryNodesRequest(rollout="none", idempotency_key="1")),
        (
            "ExcludeNodes",
            pb.ExcludeNodesRequest(rollout="none", nodes=["n1"], reason="r", idempotency_key="1"),
        ),
        ("GetNode", pb.GetNodeRequest(node_id="none")),
        ("WriteOff", pb.WriteOffRequest(nodes=["none"], reason="r", idempotency_key="1")),
        (
            "SetMaintenance",
            pb.SetMaintenanceRequest(
                nodes=["none"], maintenance=pb.Maintenance(reason="r"), idempotency_key="1"
            ),
        ),
        ("ListNodes", pb.ListNodesRequest(rollout="none")),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
async def test_what_is_not_there_is_not_found(method: str, request_: Any) -> None:
    async with serving() as served:
        code, reason, status = await refused(getattr(served.operators, method)(request_))
        assert code is grpc.StatusCode.NOT_FOUND
        assert reason.endswith("NOT_FOUND") or reason.startswith("UNKNOWN")
        assert "none" in status.message


@pytest.mark.parametrize(
    ("method", "request_", "path"),
    [
        ("GetRollout", pb.GetRolloutRequest(), "rollout"),
        ("GetNode", pb.GetNodeRequest(node_id="a\nb"), "node_id"),
        ("PauseRollout", pb.PauseRolloutRequest(rollout="k", reason="x" * 3000), "reason"),
        ("ApproveRollout", pb.ApproveRolloutRequest(rollout="k", remark="x" * 3000), "remark"),
        ("ExcludeNodes", pb.ExcludeNodesRequest(rollout="k", nodes=["n1"]), "reason"),
        ("ExcludeNodes", pb.ExcludeNodesRequest(rollout="k", reason="r"), "nodes"),
        ("WriteOff", pb.WriteOffRequest(nodes=["n1"]), "reason"),
        ("WriteOff", pb.WriteOffRequest(reason="r"), "nodes"),
        ("FleetStop", pb.FleetStopRequest(stop=True), "reason"),
        ("FleetStop", pb.FleetStopRequest(), "idempotency_key"),
        (
            "SetMaintenance",
            pb.SetMaintenanceRequest(nodes=["n1"], maintenance=pb.Maintenance()),
            "maintenance.reason",
        ),
        ("ListNodes", pb.ListNodesRequest(selector="zone="), "selector"),
        ("ListNodes", pb.ListNodesRequest(page_size=5000), "page_size"),
        ("ListNodes", pb.ListNodesRequest(page_token="none"), "page_token"),
        ("ListRollouts", pb.ListRolloutsRequest(page_size=201), "page_size"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
async def test_what_is_malformed_is_told_with_its_path(method: str, request_: Any, path: str) -> None:
    async with serving() as served:
        code, _, status = await refused(getattr(served.operators, method)(request_))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert path in paths(status)


async def test_pause_and_resume() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await paused(served)
        request = pb.PauseRolloutRequest(rollout="k", reason="lunch", idempotency_key="p")
        found = (await served.operators.PauseRollout(request)).rollout
        assert (found.state, found.pause_reason) == (pb.ROLLOUT_STATE_PAUSED, "lunch")
        released = await served.operators.FleetStop(pb.FleetStopRequest(idempotency_key="release"))
        assert not released.stopped
        resumed = pb.ResumeRolloutRequest(rollout="k", idempotency_key="r")
        assert not (await served.operators.ResumeRollout(resumed)).rollout.paused
        assert (await ended(served)).state == pb.ROLLOUT_STATE_SUCCEEDED


async def test_the_fleet_stop_says_why_and_holds_everything() -> None:
    async with serving() as served, nodes(served, "n1"):
        found = await paused(served)
        assert found.fleet_stopped
        await until(served, lambda u: any(b.reason == "FLEET_STOPPED" for b in u.rollout.blockers))
        why = await served.operators.Explain(pb.ExplainRequest(rollout="k"))
        assert "FLEET_STOPPED" in [b.reason for b in why.blockers]
        assert all(b.message for b in why.blockers)


async def test_an_action_in_the_wrong_state_names_the_state_and_what_is_allowed() -> None:
    async with serving() as served, nodes(served, "n1"):
        await create(served)
        await ended(served)
        request = pb.PauseRolloutRequest(rollout="k", idempotency_key="p")
        code, reason, status = await refused(served.operators.PauseRollout(request))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")
        failure = error_details_pb2.PreconditionFailure()
        assert any(detail.Unpack(failure) for detail in status.details)
        assert failure.violations[0].subject == "SUCCEEDED"
        assert [v.subject for v in failure.violations[1:]] == ["rollback"]


async def test_a_wave_waits_for_approval() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await create(served, promotion=pb.PROMOTION_MANUAL_CANARY)
        await until(served, lambda u: any(b.reason == "AWAITING_APPROVAL" for b in u.rollout.blockers))
        request = pb.ApproveRolloutRequest(rollout="k", remark="looks good", idempotency_key="a")
        await served.operators.ApproveRollout(request)
        assert (await ended(served)).state == pb.ROLLOUT_STATE_SUCCEEDED


async def test_a_cancelled_rollout_lists_what_is_uncommitted_and_commits_it() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        bake = pb.Bake()
        bake.node.seconds = 3600
        await create(served, bake=bake)
        await until(served, lambda u: any(event.kind == "node.settled" for event in u.events))
        request = pb.CancelRolloutRequest(rollout="k", reason="enough", idempotency_key="c")
        await served.operators.CancelRollout(request)
        last = await ended(served)
        assert last.state == pb.ROLLOUT_STATE_CANCELLED
        assert list(last.uncommitted) == ["n1"]
        assert {wave.state for wave in last.waves} == {"ended"}
        why = await served.operators.Explain(pb.ExplainRequest(rollout="k"))
        assert [list(b.nodes) for b in why.blockers] == [["n1"]]
        assert "`liveroll commit k`" in why.blockers[0].remedy
        assert "`liveroll rollback k`" in why.blockers[0].remedy
        done = await served.operators.CommitNodes(pb.CommitNodesRequest(rollout="k", idempotency_key="m"))
        assert list(done.nodes) == ["n1"]


async def test_what_one_rollout_left_uncommitted_is_waited_for_by_the_next() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        bake = pb.Bake()
        bake.node.seconds = 3600
        await create(served, bake=bake)
        await until(served, lambda u: any(event.kind == "node.settled" for event in u.events))
        request = pb.CancelRolloutRequest(rollout="k", reason="enough", idempotency_key="c")
        await served.operators.CancelRollout(request)
        await ended(served)
        planned = await served.operators.PlanRollout(pb.PlanRolloutRequest(spec=spec(name="l")))
        assert [(s.node_id, s.reason, s.waits) for s in planned.plan.skipped] == [
            ("n1", "NODE_UNCOMMITTED", True)
        ]
        await create(served, key="l", name="l")
        listed = await served.operators.ListNodes(pb.ListNodesRequest(rollout="l"))
        assert {(n.node_id, n.rollout) for n in listed.nodes} == {("n1", "l"), ("n2", "l")}
        first = next(n for n in listed.nodes if n.node_id == "n1")
        assert (first.phase, first.attempt.generation) == (common.PHASE_IDLE, 0)
        await served.operators.CommitNodes(pb.CommitNodesRequest(rollout="k", idempotency_key="m"))
        assert (await ended(served, "l")).state == pb.ROLLOUT_STATE_SUCCEEDED


async def test_a_rollback_brings_everybody_back() -> None:
    async with serving() as served, nodes(served, "n1", "n2") as linked:
        await create(served)
        await ended(served)
        request = pb.RollBackRolloutRequest(rollout="k", reason="slower", idempotency_key="b")
        found = (await served.operators.RollBackRollout(request)).rollout
        assert found.state == pb.ROLLOUT_STATE_ROLLING_BACK
        assert (await ended(served)).state == pb.ROLLOUT_STATE_ROLLED_BACK
        assert [node.release for node in linked] == ["6.18.0", "6.18.0"]


async def test_nodes_may_be_excluded_while_nothing_moves() -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        await paused(served)
        request = pb.ExcludeNodesRequest(rollout="k", nodes=["n2"], reason="busy", idempotency_key="e")
        found = (await served.operators.ExcludeNodes(request)).rollout
        assert sum(wave.left_out for wave in found.waves) == 1


async def test_a_halt_is_explained_and_retry_goes_on_after_it() -> None:
    async with serving() as served, nodes(served, "n1", "n2") as linked:
        linked[0].failures = 1
        await create(served)
        halted = await until(served, lambda u: u.rollout.state == pb.ROLLOUT_STATE_HALTED)
        assert halted.halt_reason
        assert halted.halt_message
        node = (await served.operators.GetNode(pb.GetNodeRequest(node_id="n1"))).node
        assert node.problem.reason == "KEXEC_LOAD_FAILED"
        again = pb.RetryNodesRequest(rollout="k", nodes=["n1"], reason="mended", idempotency_key="r")
        assert list((await served.operators.RetryNodes(again)).nodes) == ["n1"]
        going_on = pb.ResumeRolloutRequest(rollout="k", clear_halt=True, idempotency_key="c")
        await served.operators.ResumeRollout(going_on)
        assert (await ended(served)).state == pb.ROLLOUT_STATE_SUCCEEDED


async def test_maintenance_takes_a_node_out_and_puts_it_back() -> None:
    async with serving() as served, nodes(served, "n1"):
        asked = pb.SetMaintenanceRequest(
            nodes=["n1"], maintenance=pb.Maintenance(reason="new disk"), idempotency_key="1"
        )
        found = (await served.operators.SetMaintenance(asked)).nodes[0]
        assert (found.maintenance.reason, found.maintenance.owner) == ("new disk", "local:unknown")
        ending = pb.SetMaintenanceRequest(nodes=["n1"], idempotency_key="2")
        assert not (await served.operators.SetMaintenance(ending)).nodes[0].HasField("maintenance")


async def test_a_node_that_is_well_is_not_written_off() -> None:
    async with serving() as served, nodes(served, "n1"):
        request = pb.WriteOffRequest(nodes=["n1"], reason="gone", idempotency_key="w")
        code, _, _ = await refused(served.operators.WriteOff(request))
        assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_lists_come_in_pages_that_leave_nothing_out() -> None:
    async with serving() as served, nodes(served, *(f"n{i}" for i in range(5))):
        found: list[str] = []
        token = ""
        while True:
            request = pb.ListNodesRequest(selector="zone=a", page_size=2, page_token=token)
            page = await served.operators.ListNodes(request)
            found += [node.node_id for node in page.nodes]
            token = page.next_page_token
            if not token:
                break
        assert found == [f"n{i}" for i in range(5)]


async def test_rollouts_are_listed_newest_first_and_by_whether_they_go_on() -> None:
    async with serving() as served, nodes(served, "n1"):
        await create(served, name="a")
        await ended(served, "a")
        await served.operators.FleetStop(pb.FleetStopRequest(stop=True, reason="t", idempotency_key="s"))
        await create(served, name="b", key="b")
        everything = await served.operators.ListRollouts(pb.ListRolloutsRequest())
        assert [r.rollout_id for r in everything.rollouts] == ["b", "a"]
        active = await served.operators.ListRollouts(pb.ListRolloutsRequest(active_only=True))
        assert [r.rollout_id for r in active.rollouts] == ["b"]
        one = await served.operators.ListRollouts(pb.ListRolloutsRequest(page_size=1))
        assert (one.rollouts[0].rollout_id, one.next_page_token) == ("b", "b")


async def test_an_oversized_request_is_refused_by_the_server() -> None:
    async with serving() as served:
        request = pb.GetNodeRequest(node_id="x" * (5 * 1024 * 1024))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.operators.GetNode(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
