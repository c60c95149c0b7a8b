"""The agents' stream: hello first, statuses with reasons, bounds, and the end of a server."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import agent_pb2, common_pb2
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.rpc import agents
from tests.integration.rpc_harness import ScriptedNode, hello, nodes, serving, spec


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read to the end; the code and the reason that ended the link."""
    try:
        while isinstance(await call.read(), agent_pb2.LinkResponse):
            pass
    except grpc.aio.AioRpcError:
        pass
    trailers = dict(await call.trailing_metadata() or ())
    info = error_details_pb2.ErrorInfo()
    packed = trailers.get("grpc-status-details-bin")
    if isinstance(packed, bytes):
        status_pb2.Status.FromString(packed).details[0].Unpack(info)
    return await call.code(), info.reason


def says(**message: Any) -> agent_pb2.LinkRequest:
    return agent_pb2.LinkRequest(**message)


async def test_hello_is_answered_with_welcome() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        assert node.welcome.link_epoch == 1
        assert node.welcome.incarnation == served.orchestrator.incarnation
        assert node.welcome.active_heartbeat.ToTimedelta().total_seconds() == pytest.approx(0.2)
        found = (await served.operators.GetNode(pb.GetNodeRequest(node_id="n1"))).node
        assert (found.link, found.kernel_release) == ("up", "6.18.0")
        await node.call.done_writing()
        assert await end_of(node.call) == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    "first",
    [
        says(heartbeat=agent_pb2.Heartbeat()),
        says(),
        says(hello=agent_pb2.Hello()),
        says(hello=hello("n1", boot_id="a\nb")),
        says(hello=hello("n1", labels={"x" * 200: "y"})),
        says(hello=hello("n1", labels={f"l{i}": "" for i in range(100)})),
        says(hello=hello("n1", status=agent_pb2.NodeStatus(phase=common_pb2.PHASE_LOST))),
        says(hello=hello("n1", status=agent_pb2.NodeStatus(phase=99))),  # type: ignore[arg-type]
        says(hello=hello("n" * 300)),
        says(hello=hello("n1", highest_generation=2**64 - 1)),
    ],
    ids=["heartbeat", "nothing", "empty", "control", "label", "labels", "lost", "phase", "name", "number"],
)
async def test_what_is_no_sound_hello_ends_the_link(first: agent_pb2.LinkRequest) -> None:
    async with serving() as served:
        call = served.agents.Link()
        await call.write(first)
        assert await end_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")
        assert not (await served.operators.ListNodes(pb.ListNodesRequest())).nodes


async def test_silence_instead_of_a_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "HELLO_TIMEOUT_S", 0.05)
    async with serving() as served:
        call = served.agents.Link()
        assert await end_of(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "HELLO_TIMEOUT")


async def test_a_cloned_node_id_is_refused_and_the_first_keeps_its_link() -> None:
    async with serving() as served, nodes(served, "n1"):
        call = served.agents.Link()
        await call.write(says(hello=hello("n1", installation_id="another")))
        assert await end_of(call) == (grpc.StatusCode.PERMISSION_DENIED, "NODE_ID_CONFLICT")
        found = (await served.operators.GetNode(pb.GetNodeRequest(node_id="n1"))).node
        assert found.link == "up"


async def test_the_newest_link_of_a_node_wins() -> None:
    async with serving() as served:
        old, new = ScriptedNode(served, "n1"), ScriptedNode(served, "n1")
        await old.connect()
        await new.connect()
        assert new.welcome.link_epoch == old.welcome.link_epoch + 1
        code, reason = await end_of(old.call)
        assert (code, reason) == (grpc.StatusCode.ABORTED, "LINK_REPLACED")
        new.call.cancel()


async def test_a_hello_from_a_newer_store_stops_the_fleet() -> None:
    async with serving() as served:
        call = served.agents.Link()
        await call.write(
            says(hello=hello("n1", highest_incarnation="newer", highest_incarnation_serial=10**6))
        )
        assert await end_of(call) == (grpc.StatusCode.DATA_LOSS, "STORE_REGRESSED")
        assert served.orchestrator.fleet.row.stopped == "STORE_REGRESSED"


async def test_a_second_hello_is_out_of_place() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        await node.call.write(says(hello=hello("n1")))
        assert (await end_of(node.call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        found = (await served.operators.GetNode(pb.GetNodeRequest(node_id="n1"))).node
        assert found.link == "down"


@pytest.mark.parametrize(
    "report",
    [
        agent_pb2.Report(),
        agent_pb2.Report(seq=1, event="Loaded", attempt=common_pb2.AttemptRef(node_id="n1", generation=1)),
        agent_pb2.Report(seq=1, event="Loaded", boot_verdict=77),  # type: ignore[arg-type]
        agent_pb2.Report(seq=1, event="Loaded", samples=[common_pb2.BlackoutSample()]),
        agent_pb2.Report(seq=1, event="Loaded", marks=[common_pb2.Mark(name="x")] * 65),
        agent_pb2.Report(seq=1, event="Loaded", memory_check=agent_pb2.MemoryCheck(workloads=1, intact=2)),
    ],
    ids=["empty", "attempt", "verdict", "sample", "marks", "memory"],
)
async def test_a_malformed_report_ends_the_link_and_is_not_acknowledged(report: agent_pb2.Report) -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        await node.call.write(says(report=report))
        assert (await end_of(node.call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert served.orchestrator.fleet.nodes["n1"].acknowledged_seq == 0


async def test_an_oversized_message_ends_the_link() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        problem = common_pb2.Problem(reason="X", message="x" * (300 * 1024))
        await node.call.write(says(report=agent_pb2.Report(seq=1, event="Failed", problem=problem)))
        assert (await end_of(node.call))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_flood_of_heartbeats_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "BEATS_BURST", 5.0)
    monkeypatch.setattr(agents, "BEATS_PER_S", 0.001)
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        for _ in range(6):
            await node.call.write(says(heartbeat=agent_pb2.Heartbeat(status=node.status)))
        assert await end_of(node.call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_MESSAGES")


async def test_why_a_node_is_not_ready_reaches_people_as_it_says_it() -> None:
    """By its Hello and by a heartbeat, and it is gone with one that does not say it."""
    said = common_pb2.Problem(
        reason="LUO_NOT_NORMAL",
        retry=common_pb2.RETRY_CLASS_FIX_STATE,
        message="LUO is prepared",
        remedy="Undo it.",
        fields={"luo_model": "rfc-v2", "luo_state": "prepared"},
    )
    at_rest = agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, healthy=True)
    by_hand = agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, healthy=True, not_ready=said)
    async with serving() as served:
        node = ScriptedNode(served, "n1", {"status": by_hand})
        await node.connect()
        watch = served.operators.WatchNodes(pb.WatchNodesRequest())
        (found,) = (await watch.read()).nodes
        assert found.not_ready == said
        for status in (at_rest, by_hand):
            await node.call.write(says(heartbeat=agent_pb2.Heartbeat(status=status)))
            (found,) = (await watch.read()).nodes
            assert found.HasField("not_ready") == status.HasField("not_ready")
            assert found.healthy
        assert found.not_ready == said
        watch.cancel()
        node.call.cancel()


async def test_reports_are_acknowledged_once_committed() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        for seq in (3, 7, 8):
            stage = agent_pb2.StageResult(artifact_digest="e" * 64, verified=True)
            report = agent_pb2.Report(seq=seq, event="Staged", healthy=True, stage=stage)
            await node.call.write(says(report=report))
        while (await node.call.read()).ack.seq < 8:
            pass
        assert served.orchestrator.fleet.nodes["n1"].acknowledged_seq == 8
        node.call.cancel()


async def test_a_batch_of_reports_is_as_good_as_one_message_each() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        stage = agent_pb2.StageResult(artifact_digest="e" * 64, verified=True)
        told = [agent_pb2.Report(seq=seq, event="Staged", healthy=True, stage=stage) for seq in (3, 7, 8)]
        await node.call.write(says(reports=agent_pb2.ReportBatch(reports=told)))
        assert (await node.call.read()).ack.seq == 8
        assert served.orchestrator.fleet.nodes["n1"].acknowledged_seq == 8
        node.call.cancel()


async def test_a_batch_that_is_too_large_ends_the_link() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        told = [agent_pb2.Report(seq=seq, event="E") for seq in range(1, agents.BATCH_MOST + 2)]
        await node.call.write(says(reports=agent_pb2.ReportBatch(reports=told)))
        assert (await end_of(node.call))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert served.orchestrator.fleet.nodes["n1"].acknowledged_seq == 0


async def test_what_a_node_says_reaches_people_without_control_characters() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1", {"agent_version": "0.1\x1b[2J"})
        await node.connect()
        found = (await served.operators.GetNode(pb.GetNodeRequest(node_id="n1"))).node
        assert found.agent_version == "0.1 [2J"
        node.call.cancel()


async def test_a_command_carries_everything_of_its_attempt() -> None:
    async with serving() as served, nodes(served, "n1") as linked:
        await served.operators.CreateRollout(pb.CreateRolloutRequest(spec=spec(), idempotency_key="1"))
        async for _ in served.operators.WatchRollout(pb.WatchRolloutRequest(rollout="k")):
            pass
        actions = [command.WhichOneof("action") for command in linked[0].commands]
        assert [a for a in actions if a != "stage"] == ["prepare", "proceed", "commit"]
        prepare = next(c.prepare for c in linked[0].commands if c.HasField("prepare"))
        assert prepare.kind == agent_pb2.Prepare.KIND_FORWARD
        assert (prepare.expected_release, prepare.expected_boot_id) == ("6.18.0", "boot-n1-1")
        assert prepare.artifact.kernel_release == "6.19.3"
        assert "liveroll.attempt=" in prepare.command_line
        assert prepare.timeouts.draining.seconds == 600
        proceed = next(c.proceed for c in linked[0].commands if c.HasField("proceed"))
        assert proceed.stamp.boot_id == "boot-n1-1"
        assert proceed.valid_for.seconds == 30
        assert len({c.command_id for c in linked[0].commands}) == len(linked[0].commands)


async def test_a_stopping_server_tells_agents_to_dial_again() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        stopping = asyncio.create_task(served.rpc.stop(grace_s=5))
        assert await end_of(node.call) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping


async def test_a_cut_link_is_down_at_once() -> None:
    async with serving() as served:
        node = ScriptedNode(served, "n1")
        await node.connect()
        watch = served.operators.WatchNodes(pb.WatchNodesRequest())
        assert (await watch.read()).nodes[0].link == "up"
        node.call.cancel()
        while (update := await watch.read()).nodes[0].link != "down":
            assert update.nodes[0].node_id == "n1"
        watch.cancel()
