"""The journal read back: what the node is, what it has not been acknowledged, its story.

Every record carries whatever it changed in full: `node` (the NodeState after it), `report`
(what the orchestrator must be told), `acked` (reports up to here are committed there). So the
newest of each is the truth, replay needs no table, and compaction may drop any record that is
not the newest of something (`retained`). A record's seq is its report's seq.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.codec import decode, encode
from node_agent.core.report import Report

INSTALLATION = "installation"
"""First record: the installation id."""
EVENT = "event"
"""A transition of the attempt, or a report of the node."""
JUMP_INTENT = "jump_intent"
"""The point of no return; also read by the resume path."""
NODE = "node"
"""The node changed without anything to report: floor, incarnation, boot."""

STORY_RECORDS = 60
"""How much of the past compaction keeps for `luoctl story`: about five attempts."""


class Record(Protocol):
    """A journal record."""

    @property
    def seq(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, object]: ...


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class StoryLine:
    """One line of what happened on this node."""

    seq: int
    at: str
    event: str
    attempt: str
    phase: str
    problem: str = ""

    @classmethod
    def of(cls, report: Report, at: str) -> StoryLine:
        """The line that a report makes."""
        return cls(
            seq=report.seq,
            at=at,
            event=report.event,
            attempt=report.attempt.id if report.attempt is not None else "",
            phase=report.phase.value,
            problem=report.problem.reason if report.problem is not None else "",
        )

    def __str__(self) -> str:
        tail = f" ({self.problem})" if self.problem else ""
        return f"{self.seq} {self.at} {self.attempt or '-'} {self.event} → {self.phase}{tail}"


@dataclass(frozen=True, slots=True)
class History:
    """What the journal says."""

    node: NodeState
    acked: int
    unacknowledged: tuple[Report, ...]
    story: tuple[StoryLine, ...]


def body_of(
    *,
    node: NodeState | None = None,
    report: Report | None = None,
    acked: int = 0,
    at: str = "",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, object]:
    """A record's body. The seq of node.attempt and report is set when it is read back."""
    body: dict[str, object] = dict(extra or {})
    body["acked"] = acked
    body["at"] = at
    if node is not None:
        body["node"] = encode(node)
    if report is not None:
        body["report"] = encode(report)
    return body


def replay(records: Sequence[Record]) -> History:
    """Read the journal back.

    Raises:
        ValueError, TypeError, KeyError: a record whose checksum is right makes no sense.
    """
    node = NodeState()
    acked = 0
    reports: list[Report] = []
    story: list[StoryLine] = []
    for record in records:
        acked = max(acked, _int(record.body.get("acked", 0)))
        if (raw := record.body.get("report")) is not None:
            report = replace(decode(Report, raw), seq=record.seq)
            reports.append(report)
            story.append(StoryLine.of(report, str(record.body.get("at", ""))))
        if (raw := record.body.get("node")) is not None:
            node = _node(record, raw, told=record.kind in (EVENT, JUMP_INTENT))
    unacknowledged = tuple(report for report in reports if report.seq > acked)
    return History(node, acked, unacknowledged, tuple(story))


def report_of(record: Record) -> object | None:
    """The record's report as it was written; None if it has none."""
    return record.body.get("report")


def at_seq(attempt: Attempt, seq: int) -> Attempt:
    """The attempt with its newest event's record."""
    return replace(attempt, seq=seq)


def retained(records: Sequence[R]) -> list[R]:
    """What compaction must keep, in order: the installation, the newest node, the newest
    JumpIntent, every report that is not acknowledged, and the recent past."""
    acked = max((_int(record.body.get("acked", 0)) for record in records), default=0)
    keep = {record.seq for record in records[-STORY_RECORDS:]}
    keep.update(record.seq for record in records if record.kind == INSTALLATION)
    keep.update(record.seq for record in records if record.seq > acked and report_of(record) is not None)
    for wanted in (lambda r: "node" in r.body, lambda r: r.kind == JUMP_INTENT):
        newest = next((record.seq for record in reversed(records) if wanted(record)), None)
        if newest is not None:
            keep.add(newest)
    return [record for record in records if record.seq in keep]


def jump_intent(attempt: Attempt, node: NodeState) -> dict[str, Any]:
    """The JumpIntent: all that the new boot needs to bring the workloads back.

    The resume path reads these keys straight from the file; they do not change their meaning.
    """
    return {
        "attempt": attempt.ref.id,
        "node_id": attempt.ref.node_id,
        "generation": attempt.ref.generation,
        "incarnation": attempt.ref.incarnation,
        "kind": attempt.kind.value,
        "agent_session": attempt.ref.agent_session,
        "sessions": dict(attempt.sessions),
        "bindings": encode(attempt.bindings),
        "tokens": encode(attempt.tokens),
        "from_release": attempt.from_release,
        "to_release": attempt.to_release,
        "boot_id": attempt.boot_id,
        "tsc_hz": attempt.tsc_hz,
        "highest_generation": node.highest_generation,
    }


def _node(record: Record, raw: object, *, told: bool) -> NodeState:
    node = decode(NodeState, raw)
    if told and node.attempt is not None:
        return replace(node, attempt=at_seq(node.attempt, record.seq))
    return node


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a number")
    return value
