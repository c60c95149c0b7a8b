"""Small fleets for tests of the orchestrator's core: plain rows, applied in order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.core.facts import Heard
from orchestrator.core.fleet import Fleet
from orchestrator.core.messages import AttemptRef, Hello, NodeStatus, Report
from orchestrator.core.model import (
    Artifact,
    AttemptRow,
    Change,
    MemberRow,
    NodeRow,
    RolloutRow,
    Row,
)
from orchestrator.core.phases import Kind, Method, Outcome, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import RolloutSpec, Target

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
OLD, NEW = "6.18.9", "6.19.4"
INCARNATION = "inc-a"
ARTIFACT = Artifact("kernel-6.19.4", "d" * 64, NEW, "http://127.0.0.1/artifacts", emulated=True)
LATER = NOW + timedelta(seconds=10)


def spec(name: str = "k", **fields: Any) -> RolloutSpec:
    return RolloutSpec(name, fields.pop("target", Target(ARTIFACT.name)), **fields)


def node(node_id: str, **fields: Any) -> NodeRow:
    known: dict[str, Any] = {
        "installation_id": f"inst-{node_id}",
        "link_epoch": 1,
        "link_up": True,
        "labels": {"zone": "a"},
        "release": OLD,
        "boot_id": f"boot-{node_id}",
        "hardware_model": "m1",
        "command_line": "root=/dev/vda1 quiet",
        "capabilities": frozenset({"luo", "kho", "emulated"}),
        "rollback_artifact": "r" * 64,
        "staged": frozenset({ARTIFACT.digest}),
    }
    return NodeRow(node_id, **{**known, **fields})


def nodes(count: int, **fields: Any) -> list[NodeRow]:
    return [node(f"n{i:02}", labels={"zone": "abc"[i % 3]}, **fields) for i in range(count)]


def fleet(*rows: Row, heard: bool = True, at: datetime = NOW) -> Fleet:
    """The rows, with every linked node heard of now."""
    made = Fleet(FleetPolicy(), INCARNATION)
    made.incarnation_serial = 1
    made.advance(at)
    for row in rows:
        made.apply(row)
    if heard:
        for n in list(made.nodes.values()):
            if n.link_up:
                made.apply(Heard(n.node_id, at))
    return made


def apply(made: Fleet, change: Change) -> Fleet:
    """As a store would: every written row one revision up."""
    for row in change.writes:
        made.apply(replace(row, revision=row.revision + 1))
    return made


def attempt(node_id: str = "n00", phase: Phase = Phase.LOADING, **fields: Any) -> AttemptRow:
    known: dict[str, Any] = {
        "generation": 1,
        "incarnation": INCARNATION,
        "rollout_id": "k",
        "kind": Kind.FORWARD,
        "method": Method.LIVE,
        "artifact": ARTIFACT,
        "from_release": OLD,
        "to_release": NEW,
        "hardware_model": "m1",
        "expected_boot_id": f"boot-{node_id}",
        "command_line": "",
        "opened_at": NOW,
        "phase_at": NOW,
        "domains": {"zone": "a"},
    }
    return AttemptRow(node_id=node_id, phase=phase, **{**known, **fields})


def rollout(members: int, **fields: Any) -> RolloutRow:
    known: dict[str, Any] = {
        "rollout_id": "k",
        "spec": spec(),
        "artifact": ARTIFACT,
        "created_at": NOW,
        "created_by": "alice",
        "wave_names": ("canary", "all"),
        "members": members,
    }
    return RolloutRow(**{**known, **fields})


def member(node_id: str = "n00", outcome: Outcome = Outcome.PENDING, **fields: Any) -> MemberRow:
    known: dict[str, Any] = {"rollout_id": "k", "wave": 0, "position": 0}
    return MemberRow(node_id=node_id, outcome=outcome, **{**known, **fields})


def ref(node_id: str = "n00", generation: int = 1, incarnation: str = INCARNATION) -> AttemptRef:
    return AttemptRef(node_id, generation, incarnation)


def hello(node_id: str = "n00", **fields: Any) -> Hello:
    known: dict[str, Any] = {
        "installation_id": f"inst-{node_id}",
        "boot_id": f"boot-{node_id}",
        "release": OLD,
        "hardware_model": "m1",
        "capabilities": frozenset({"luo"}),
        "labels": {"zone": "a"},
        "highest_incarnation": INCARNATION,
        "highest_incarnation_serial": 1,
        "status": NodeStatus(),
        "rollback_artifact": "r" * 64,
    }
    return Hello(node_id=node_id, **{**known, **fields})


def report(event: str, phase: Phase, seq: int, **fields: Any) -> Report:
    known: dict[str, Any] = {"attempt": ref(), "boot_id": "boot-n00", "release": OLD}
    return Report(seq=seq, event=event, phase=phase, **{**known, **fields})
