"""A report is replayed until acknowledged: one that could not be converted would end every link."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.model import MemoryCheck, Problem
from node_agent.errors import Retry
from node_agent.runtime import convert
from tests.unit.agent_link.fakes import a_report


def test_more_bytes_than_a_number_holds() -> None:
    """Three workloads that each say the most that one may say."""
    report = replace(a_report(1), memory_check=MemoryCheck(3, 3, 3 * (2**63 - 1)))
    assert convert.report(report).report.memory_check.bytes_checked == 2**63 - 1


@pytest.mark.parametrize("seconds", [1e300, -1e300, float("inf"), float("nan")])
def test_longer_than_a_duration_holds(seconds: float) -> None:
    report = replace(a_report(1), brownout_s=seconds)
    assert abs(convert.report(report).report.brownout.seconds) <= convert.DURATION_MAX_S


def test_a_problem_of_every_workload_is_cut_and_says_so() -> None:
    """A node with forty workloads that all fail: the orchestrator refuses more fields than it takes."""
    fields = {f"workload_vm-{n}": "WORKLOAD_TIMEOUT" for n in range(40)}
    report = replace(a_report(1), problem=Problem("WORKLOADS_FAILED", Retry.CALL, "m", fields=fields))
    sent = convert.report(report).report.problem.fields
    assert len(sent) == convert.FIELDS_MAX
    assert sent["left_out"] == "9"
    assert sent["workload_vm-0"] == "WORKLOAD_TIMEOUT"
