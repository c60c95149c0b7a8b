"""What operators are told of a store that went back in time, over real gRPC."""

from __future__ import annotations

import grpc
import pytest
from liveroll.v1 import agent_pb2, common_pb2
from liveroll.v1 import rollout_pb2 as pb

from tests.integration.rpc_harness import NEW, OLD, Served, nodes, serving

pytestmark = pytest.mark.integration


def beyond(served: Served, name: str) -> dict[str, object]:
    """Of a node in an attempt that the store never made."""
    ref = common_pb2.AttemptRef(node_id=name, generation=7, incarnation=served.orchestrator.incarnation)
    return {
        "highest_generation": 7,
        "highest_incarnation": served.orchestrator.incarnation,
        "highest_incarnation_serial": 1,
        "kernel_release": NEW,
        "boot_id": f"boot-{name}-2",
        "status": agent_pb2.NodeStatus(attempt=ref, phase=common_pb2.PHASE_BAKING, seq=9, healthy=True),
        "acknowledged_seq": 9,
        "attempt_memory": agent_pb2.AttemptMemory(
            kind=agent_pb2.Prepare.KIND_FORWARD,
            artifact=agent_pb2.ArtifactRef(name="linux", digest="a" * 64, kernel_release=NEW),
            from_release=OLD,
            from_boot_id=f"boot-{name}-1",
            boot_verdict=common_pb2.BOOT_VERDICT_LIVE_UPDATED,
            emulated=True,
        ),
    }


async def ask(served: Served, **page: object) -> pb.ListDifferencesResponse:
    return await served.operators.ListDifferences(pb.ListDifferencesRequest(**page))  # type: ignore[arg-type]


async def test_differences_are_listed_and_accepted() -> None:
    async with serving() as served, nodes(served, "n1", "n2", "n3"):
        assert (await ask(served)).difference_count == 0
        async with nodes(served, "n4", **beyond(served, "n4")), nodes(served, "n5", **beyond(served, "n5")):
            found = await ask(served)
            assert (found.stopped, found.difference_count, found.node_count) == (True, 2, 5)
            assert "generation 7" in found.stop_reason
            first = found.differences[0]
            assert (first.node_id, first.outlook) == ("n4", "UNCLAIMED")
            assert (first.store.kernel_release, first.node.kernel_release) == ("", NEW)
            assert (first.node.attempt, first.node.phase, first.phase) == (
                7,
                common_pb2.PHASE_BAKING,
                common_pb2.PHASE_BAKING,
            )
            assert "luoctl commit" in first.remedy
            assert first.notice_time.seconds
            one = await ask(served, page_size=1)
            assert [d.node_id for d in one.differences] == ["n4"]
            two = await ask(served, page_size=1, page_token=one.next_page_token)
            assert ([d.node_id for d in two.differences], two.next_page_token) == (["n5"], "")
            release = pb.FleetStopRequest(stop=False, reason="seen", idempotency_key="r1")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.operators.FleetStop(release)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "2 nodes differ" in str(refused.value.details())
            release.accept_differences = True
            release.idempotency_key = "r2"
            assert not (await served.operators.FleetStop(release)).stopped
            assert not (await ask(served)).stopped
