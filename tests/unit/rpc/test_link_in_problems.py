"""A problem of a node is text for people: too much of it is cut, since a refused report comes again."""

from __future__ import annotations

from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.rpc.link_in import MAX_FIELDS, read_heartbeat


def test_more_fields_than_are_kept() -> None:
    problem = common_pb2.Problem(
        reason="WORKLOADS_FAILED",
        retry=common_pb2.RETRY_CLASS_CALL,
        message="m",
        fields={f"workload_vm-{n:03}": "WORKLOAD_TIMEOUT" for n in range(MAX_FIELDS + 8)},
    )
    beat = agent_pb2.Heartbeat(
        stamp=common_pb2.BootStamp(boot_id="b"),
        status=agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, problem=problem),
    )
    read = read_heartbeat(beat).status.problem
    assert read is not None
    assert len(read.fields) == MAX_FIELDS
