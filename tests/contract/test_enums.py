"""The words that the proto, the orchestrator and the agent each spell out are the same."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import EnumDescriptor
from liveroll.v1 import agent_pb2, common_pb2, rollout_pb2

from node_agent import errors as agent_errors
from node_agent.core import phases as agent
from node_agent.core import timing
from orchestrator import errors
from orchestrator.core import phases, spec
from orchestrator.web import blackout_parts

PHASE = common_pb2.Phase.DESCRIPTOR
VERDICT = common_pb2.BootVerdict.DESCRIPTOR
RETRY = common_pb2.RetryClass.DESCRIPTOR


def words(enum: EnumDescriptor, prefix: str) -> list[str]:
    """Its values without prefix and without 0, which must be UNSPECIFIED."""
    values = sorted(enum.values, key=lambda v: v.number)
    assert values[0].number == 0
    assert values[0].name == f"{prefix}UNSPECIFIED"
    assert all(v.name.startswith(prefix) for v in values)
    return [v.name.removeprefix(prefix) for v in values[1:]]


@pytest.mark.parametrize(
    ("enum", "prefix", "ours"),
    [
        (PHASE, "PHASE_", phases.Phase),
        (VERDICT, "BOOT_VERDICT_", phases.Verdict),
        (VERDICT, "BOOT_VERDICT_", agent.Verdict),
        (RETRY, "RETRY_CLASS_", errors.Retry),
        (RETRY, "RETRY_CLASS_", agent_errors.Retry),
        (common_pb2.UpdateMethod.DESCRIPTOR, "UPDATE_METHOD_", phases.Method),
        (rollout_pb2.RolloutState.DESCRIPTOR, "ROLLOUT_STATE_", phases.RolloutState),
        (rollout_pb2.LateNodes.DESCRIPTOR, "LATE_NODES_", spec.LateNodes),
        (rollout_pb2.Promotion.DESCRIPTOR, "PROMOTION_", spec.Promotion),
        (rollout_pb2.Gate.Action.DESCRIPTOR, "ACTION_", spec.OnFail),
        (agent_pb2.Prepare.Kind.DESCRIPTOR, "KIND_", phases.Kind),
    ],
    ids=lambda v: getattr(v, "full_name", None) or getattr(v, "__qualname__", None),
)
def test_the_same_words_in_the_same_order(enum: EnumDescriptor, prefix: str, ours: object) -> None:
    assert words(enum, prefix) == [item.value for item in ours]  # type: ignore[attr-defined]
    assert [item.name for item in ours] == [item.value for item in ours]  # type: ignore[attr-defined]


def test_lost_is_the_one_phase_that_only_the_orchestrator_says() -> None:
    assert [p.value for p in agent.Phase] == [p for p in words(PHASE, "PHASE_") if p != "LOST"]


def test_both_sides_agree_on_what_is_settled() -> None:
    assert {p.value for p in agent.SETTLED} == {p.value for p in phases.SETTLED} - {"LOST"}


def test_gate_results_are_those_that_gates_give() -> None:
    assert words(rollout_pb2.GateResult.DESCRIPTOR, "GATE_RESULT_") == [
        "PASS",
        "FAIL",
        "INCONCLUSIVE",
        "ERROR",
    ]


def test_both_count_the_same_parts_of_a_blackout() -> None:
    assert blackout_parts.BY_MARKS == timing.PHASES
    assert blackout_parts.BY_TELEMETRY == timing.TOLD_PHASES
