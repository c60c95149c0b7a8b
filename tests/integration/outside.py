"""What an outsider can tell of a rollout: from its event log, and from the nodes' own journals.

Nothing of the orchestrator's or the agent's code judges here. Phases are those that events name;
which of them spend what is spelled out again below, from the documented rules.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration import journal_reader

AVAILABLE = {"IDLE", "BAKING", "COMMITTED", "ABORTED"}
BLACKOUT_SLOT = {
    *("LOADING", "DRAINING", "PRESERVING", "PRESERVED", "SUSPENDING"),
    *("JUMPING", "RETRIEVING", "RESUMING", "UNWINDING"),
}
OPEN = BLACKOUT_SLOT | {"VERIFYING", "FINISHING"}


@dataclass(frozen=True)
class Caps:
    """The budgets as the rollout file says them, as counts."""

    unavailable: int
    blackout: int
    domain: int
    zones: Mapping[str, str]
    """node → zone"""


@dataclass
class Audit:
    """Replays the events. peak: the largest counts that were seen."""

    caps: Caps
    phase: dict[str, str] = field(default_factory=dict)
    generation: dict[str, int] = field(default_factory=dict)
    peak: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    baseline: int | None = None
    """Unavailable nodes when a rollback began: its own budgets count above them."""
    returning: set[str] = field(default_factory=set)
    """Nodes whose attempt is a rollback."""

    def replay(self, events: Iterable[Any]) -> None:
        """Raises AssertionError at the first event that breaks a rule."""
        last = 0
        for event in events:
            assert event.seq == last + 1, f"event {event.seq} follows {last}"
            last = event.seq
            self.kinds[event.kind] += 1
            self._apply(event)
            self._check(event)

    def _apply(self, event: Any) -> None:
        node, generation = event.node_id, event.attempt.generation
        if event.kind == "rollout.rollback_wanted":
            self.baseline = sum(phase not in AVAILABLE for phase in self.phase.values())
        if event.kind == "attempt.prepared" and event.actor == "orchestrator":
            assert generation > self.generation.get(node, 0), f"{node}: generation {generation} again"
            assert self.phase.get(node, "IDLE") not in OPEN, f"{node}: a second attempt beside an open one"
            self.generation[node] = generation
            self.phase[node] = "LOADING"
            if event.fields["kind"] == "ROLLBACK":
                self.returning.add(node)
        elif (
            generation
            and "phase" in event.fields
            and event.kind.startswith(("attempt.", "node.settled"))
            and generation == self.generation[node]
        ):
            self.phase[node] = event.fields["phase"]

    def _check(self, event: Any) -> None:
        unavailable = [n for n, phase in self.phase.items() if phase not in AVAILABLE]
        dark = [n for n, phase in self.phase.items() if phase in BLACKOUT_SLOT]
        of_a_domain = self.returning if self.baseline is not None else self.phase.keys()
        zones = Counter(self.caps.zones[n] for n in unavailable if n in of_a_domain)
        above = self.caps.unavailable + (self.baseline or 0)
        self._cap("unavailable", len(unavailable), above, event)
        self._cap("blackout", len(dark), self.caps.blackout, event)
        self._cap("domain", max(zones.values(), default=0), self.caps.domain, event)

    def _cap(self, what: str, used: int, limit: int, event: Any) -> None:
        assert used <= limit, f"{used} {what} of {limit} at event {event.seq}: {event.message}"
        self.peak[what] = max(self.peak[what], used)


@dataclass(frozen=True)
class _Span:
    node: str
    start: dt.datetime
    end: dt.datetime


def check_journals(directory: Path, nodes: Sequence[str], caps: Caps, now: dt.datetime) -> Counter[str]:
    """Every node's journal obeys journal_reader.check_node, and by the nodes' own clocks never more
    of them were down, or dark, at once than the budgets allow. Returns the peaks."""
    down: list[_Span] = []
    dark: list[_Span] = []
    for node in nodes:
        records = journal_reader.read(directory / node / "journal")
        journal_reader.check_node(records)
        down += _spans(node, records, {"Prepared"}, AVAILABLE, now)
        dark += _spans(node, records, {"Proceeded"}, AVAILABLE | {"VERIFYING", "FINISHING"}, now)
    peaks = Counter({"unavailable": _most(down), "blackout": _most(dark)})
    for zone in sorted(set(caps.zones.values())):
        peaks["domain"] = max(peaks["domain"], _most([s for s in down if caps.zones[s.node] == zone]))
    assert peaks["unavailable"] <= caps.unavailable, peaks
    assert peaks["blackout"] <= caps.blackout, peaks
    assert peaks["domain"] <= caps.domain, peaks
    return peaks


def _spans(
    node: str, records: Sequence[journal_reader.Record], begins: set[str], ends: set[str], now: dt.datetime
) -> list[_Span]:
    found: list[_Span] = []
    start: dt.datetime | None = None
    for record in records:
        if not record.report:
            continue
        if record.report["event"] in begins:
            start = record.at
        elif start is not None and record.report["phase"] in ends:
            found.append(_Span(node, start, record.at))
            start = None
    if start is not None:
        found.append(_Span(node, start, now))
    return found


def _most(spans: Sequence[_Span]) -> int:
    """How many overlap at most; one that ends as another begins does not."""
    edges = sorted([(s.start, 1) for s in spans] + [(s.end, -1) for s in spans])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most
