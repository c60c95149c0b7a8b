"""Values for tests of the core."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.model import ArtifactRef, AttemptKind, AttemptRef, BootStamp, Lease, Mark, Problem
from node_agent.core.phases import Phase, Verdict
from node_agent.errors import Retry

REF = AttemptRef("node-1", 7, "abcd-ef0123456")
ARTIFACT = ArtifactRef("linux", "d" * 64, "http://artifacts/linux", "7.3.4")
NOW = BootStamp("boot-a", 100.0)
PROBLEM = Problem("BROKEN", Retry.REPLAN, "it broke")
START = datetime(2026, 1, 1, tzinfo=UTC)

EVENTS: tuple[ev.Event, ...] = (
    ev.Loaded("7.3.4"),
    ev.Drained(),
    ev.Preserved({"vm": "lr.7-abcdef01.vm"}),
    ev.Proceeded(Lease(NOW, 30.0)),
    ev.Suspended(),
    ev.JumpIntentRecorded(),
    ev.RebootRefused(PROBLEM),
    ev.LeaseExpired(PROBLEM),
    ev.CancelRequested("window closed"),
    ev.StepFailed(PROBLEM),
    ev.TimedOut(PROBLEM),
    ev.Retrieved(),
    ev.Resumed(),
    ev.Healthy(),
    ev.Unhealthy(PROBLEM),
    ev.Finished(),
    ev.CommitRequested(),
    ev.Committed(),
    ev.Relapsed(PROBLEM),
    ev.Unwound(),
)


def prepare(generation: int = 7, **changes: Any) -> cmd.Prepare:
    command = cmd.Prepare(
        command_id=f"prepare-{generation}",
        attempt=replace(REF, generation=generation),
        kind=AttemptKind.FORWARD,
        artifact=ARTIFACT,
        command_line="root=/dev/vda kho=on liveupdate=on",
    )
    return replace(command, **changes)


def attempt(phase: Phase = Phase.LOADING, **changes: Any) -> Attempt:
    begun = Attempt.begin(prepare(), release="7.2.13", boot_id="boot-a", emulated=True)
    return replace(begun, phase=phase, **changes)


def node(phase: Phase | None = None, **changes: Any) -> NodeState:
    """A node whose attempt is in this phase; no attempt if None or IDLE."""
    if phase in (None, Phase.IDLE):
        return NodeState(boot_id="boot-a", **changes)
    return NodeState(attempt=attempt(phase, **changes), highest_generation=7, boot_id="boot-a")


def mark(
    name: str, at_s: float, *, boot_id: str = "boot-a", tsc: int = 0, boottime_s: float | None = None
) -> Mark:
    boottime = at_s if boottime_s is None else boottime_s
    return Mark(name, START + timedelta(seconds=at_s), boottime, tsc, boot_id)


def classified(verdict: Verdict, **changes: Any) -> ev.BootClassified:
    return replace(ev.BootClassified(verdict, "boot-b", "7.3.4"), **changes)
