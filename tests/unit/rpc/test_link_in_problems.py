"""A problem of a node is text for people: too much of it is cut, since a refused report comes again."""

from __future__ import annotations

import pytest
from liveroll.v1 import agent_pb2, common_pb2

from orchestrator.core.model import Problem
from orchestrator.errors import InvalidSpec, Retry
from orchestrator.rpc.link_in import (
    MAX_FIELDS,
    MAX_GENERATION,
    MAX_LEFT_BEHIND,
    read_heartbeat,
    read_hello,
    read_report,
)


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


def test_why_a_node_is_not_ready_is_read_in_heartbeat_and_hello() -> None:
    said = common_pb2.Problem(
        reason="LUO_NOT_NORMAL",
        retry=common_pb2.RETRY_CLASS_FIX_STATE,
        message="LUO is prepared",
        remedy="Undo it.",
        fields={"luo_state": "prepared"},
    )
    status = agent_pb2.NodeStatus(phase=common_pb2.PHASE_IDLE, healthy=True, not_ready=said)
    hello = agent_pb2.Hello(
        node_id="n1", installation_id="i", boot_id="b", kernel_release="6.12.0", status=status
    )
    wanted = Problem(
        "LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "Undo it.", {"luo_state": "prepared"}
    )
    assert read_heartbeat(agent_pb2.Heartbeat(status=status)).status.not_ready == wanted
    assert read_hello(hello).status.not_ready == wanted
    status.ClearField("not_ready")
    assert read_heartbeat(agent_pb2.Heartbeat(status=status)).status.not_ready is None


def test_which_strings_are_of_the_other_model_is_read() -> None:
    hello = agent_pb2.Hello(
        node_id="n1", installation_id="i", boot_id="b", kernel_release="6.12.0", other_luo=["luo-v5"]
    )
    assert read_hello(hello).other_luo == {"luo-v5"}


def left(count: int) -> agent_pb2.Report:
    problem = common_pb2.Problem(reason="WORKLOAD_GONE", retry=common_pb2.RETRY_CLASS_CALL, message="gone")
    return agent_pb2.Report(
        seq=1,
        event="Preserved",
        phase=common_pb2.PHASE_PRESERVED,
        left_behind=[agent_pb2.LeftBehind(workload=f"vm-{n}", problem=problem) for n in range(count)],
    )


def test_whom_a_node_left_behind() -> None:
    ((workload, why),) = read_report(left(1)).left_behind
    assert (workload, why.reason, why.message) == ("vm-0", "WORKLOAD_GONE", "gone")
    with pytest.raises(InvalidSpec):
        read_report(left(MAX_LEFT_BEHIND + 1))


@pytest.mark.parametrize("where", ["highest", "attempt"])
def test_a_generation_after_which_there_is_no_room_is_refused(where: str) -> None:
    """The next start of the node would be written with that of every other node, and none would be."""
    last = 2**63 - 1
    hello = agent_pb2.Hello(
        node_id="n1", installation_id="i", boot_id="b", kernel_release="6.12.0", highest_generation=1
    )
    if where == "highest":
        hello.highest_generation = last
    else:
        hello.status.phase = common_pb2.PHASE_LOADING
        hello.status.attempt.CopyFrom(common_pb2.AttemptRef(node_id="n1", generation=last, incarnation="x"))
    with pytest.raises(InvalidSpec):
        read_hello(hello)
    hello.highest_generation = MAX_GENERATION
    hello.ClearField("status")
    assert read_hello(hello).highest_generation < last
