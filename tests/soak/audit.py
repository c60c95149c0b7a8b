"""What an outsider can hold a fleet to while it is being killed: its event log and its nodes' journals.

Nothing of the programs judges here; the rules are spelled out again from the documented ones.

Rules
1. Events are gapless, and a page that was read once is the same for ever.
2. Generations rise; no attempt begins while another is open on the node.
3. A start on an available node keeps its rollout's part of the fleet within max_unavailable, every start
   within max_in_blackout. Nodes that a power cut took away may be more: then nothing starts on an available
   one.
4. Nothing starts, and nothing is let jump, between a pause and its resume, or in a fleet stop; nothing
   forward in a halt.
5. Beyond the canary wave nothing starts before it has passed, but for the canaries of late pairs.
6. A journal is whole; it jumps once a generation at most, and generations rise.
7. A memory that was compared was intact, but for what a power cut took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration import journal_reader
from tests.integration.outside import AVAILABLE, BLACKOUT_SLOT, OPEN


def _away(phase: str) -> bool:
    return phase not in AVAILABLE


def _dark(phase: str) -> bool:
    return phase in BLACKOUT_SLOT


@dataclass
class Limits:
    """Of one rollout's file, as counts."""

    unavailable: int
    blackout: int
    part: frozenset[str]
    """The nodes that it is for; another rollout goes on with others at the same time."""


@dataclass
class Rollout:
    paused: bool = False
    halted: bool = False
    canary_passed: bool = False
    back: bool = False
    baseline: int = 0


@dataclass
class LogAudit:
    """Fed with events in order; collects violations instead of stopping at the first."""

    limits: dict[str, Limits] = field(default_factory=dict)
    """By rollout."""
    violations: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    peak: Counter[str] = field(default_factory=Counter)
    updates: int = 0
    longest: dict[str, float] = field(default_factory=dict)
    """Blackouts in seconds, by vantage (or workload)."""
    seq: int = 0
    _stopped: bool = False
    _phase: dict[str, str] = field(default_factory=dict)
    _kind: dict[str, str] = field(default_factory=dict)
    _generation: dict[str, int] = field(default_factory=dict)
    _rollouts: dict[str, Rollout] = field(default_factory=dict)

    def take(self, events: Iterable[Any]) -> None:
        for event in events:
            if event.seq != self.seq + 1:
                self._broken(event, f"follows {self.seq}")
            self.seq = event.seq
            self.kinds[event.kind] += 1
            if event.kind == "invariant.violated":
                self._broken(event, event.message)
            self._gates(event)
            if event.actor == "orchestrator" and event.kind in ("attempt.prepared", "attempt.proceeded"):
                self._may_go(event)
            self._attempt(event)

    def _broken(self, event: Any, what: str) -> None:
        self.violations.append(f"event {event.seq} {event.kind} {event.node_id}: {what}")

    def _of(self, event: Any) -> Rollout:
        return self._rollouts.setdefault(event.rollout, Rollout())

    def _gates(self, event: Any) -> None:
        match event.kind:
            case "fleet.stopped":
                self._stopped = True
            case "fleet.released":
                self._stopped = False
            case "rollout.paused":
                self._of(event).paused = True
            case "rollout.halted":
                self._of(event).halted = True
            case "rollout.resumed" | "rollout.cancel_wanted":
                self._of(event).paused = False
                self._of(event).halted &= "cleared" not in event.message
            case "rollout.rollback_wanted" | "rollout.rolling_back":
                rollout = self._of(event)
                rollout.paused, rollout.back = False, True
                limits = self.limits.get(event.rollout)
                rollout.baseline = self._count(limits.part, _away) if limits is not None else 0
            case "wave.passed" if "canary" in event.message:
                self._of(event).canary_passed = True
            case "rollout.ended":
                self.ends[event.fields.get("state", event.message.partition(":")[0])] += 1

    def _may_go(self, event: Any) -> None:
        rollout = self._of(event)
        if self._stopped:
            self._broken(event, "in a fleet stop")
        if rollout.paused:
            self._broken(event, "in a pause")
        kind = event.fields.get("kind") or self._kind.get(event.node_id)
        if rollout.halted and not rollout.back and kind == "FORWARD":
            self._broken(event, "in a halt")

    def _count(self, part: frozenset[str], phases: Callable[[str], bool]) -> int:
        return sum(phases(phase) for node, phase in self._phase.items() if node in part)

    def _attempt(self, event: Any) -> None:
        node, generation = event.node_id, event.attempt.generation
        if event.kind == "attempt.prepared" and event.actor == "orchestrator":
            self._start(event, node, generation)
            return
        if not generation or generation != self._generation.get(node) or "phase" not in event.fields:
            return
        if event.kind.startswith(("attempt.", "node.settled")):
            before, after = self._phase.get(node, "IDLE"), event.fields["phase"]
            self._phase[node] = after
            if after == "BAKING" and before != "BAKING":
                self.updates += 1
            if event.kind == "attempt.lost":
                self._phase[node] = "LOST"
        for told in event.fields.get("blackout", "").split(", "):
            words = told.split()
            if len(words) >= 3 and words[2] == "s":
                kind = words[0] if words[0] in ("host", "link") else "workload"
                self.longest[kind] = max(self.longest.get(kind, 0.0), float(words[1]))

    def _start(self, event: Any, node: str, generation: int) -> None:
        before = self._phase.get(node, "IDLE")
        if generation <= self._generation.get(node, 0):
            self._broken(event, f"generation {generation} after {self._generation[node]}")
        if before in OPEN:
            self._broken(event, f"begins while its last attempt is {before}")
        self._generation[node], self._phase[node] = generation, "LOADING"
        self._kind[node] = event.fields["kind"]
        rollout, limits = self._of(event), self.limits.get(event.rollout)
        if limits is None:
            self._broken(event, "of a rollout that nobody made")
            return
        unavailable = self._count(limits.part, _away)
        above = limits.unavailable + rollout.baseline
        if before in AVAILABLE and unavailable > above:
            self._broken(event, f"is unavailable node {unavailable} of {above}")
        dark = self._count(limits.part, _dark)
        if dark > limits.blackout:
            self._broken(event, f"is blackout slot {dark} of {limits.blackout}")
        self.peak["unavailable"] = max(self.peak["unavailable"], unavailable)
        self.peak["blackout"] = max(self.peak["blackout"], dark)
        first = event.fields.get("wave") == "0" or event.fields.get("canary") == "true"
        if event.fields["kind"] == "FORWARD" and not first and not rollout.canary_passed:
            self._broken(event, "before the canary has passed")


def check_journals(directory: Path, nodes: Sequence[str]) -> tuple[Counter[str], list[str]]:
    """(what they tell, violations)."""
    told: Counter[str] = Counter()
    violations: list[str] = []
    for node in nodes:
        path = directory / node / "journal"
        try:
            records = journal_reader.read(path, torn_tail=True)
        except journal_reader.Damaged as damaged:
            violations.append(str(damaged))
            continue
        told["records"] += len(records)
        generations = [jump.generation for jump in journal_reader.jumps(records)]
        told["jumps"] += len(generations)
        if generations != sorted(set(generations)):
            violations.append(f"{node}: jumps of generations {generations}")
        for record in records:
            memory = record.report.get("memory_check")
            if memory:
                told["memories"] += 1
                if memory["intact"] < memory["workloads"]:
                    violations.append(f"{node}: memory {memory} in {record.attempt}")
    return told, violations
