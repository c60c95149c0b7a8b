"""A trim forgets what is old or too much, and nothing that happened since a running rollout began."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.model import Event, NewEvent
from orchestrator.runtime.retention import Retention, find_cut, trim
from orchestrator.store.memory import Disk, MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("", "a", "b", "c")
"""Whose an event is; "": the fleet's, or of a node at rest."""


@dataclass(frozen=True)
class Log:
    """What happened: of whom each event was, and after how many seconds; and which rollouts run."""

    owners: tuple[str, ...]
    pauses_s: tuple[int, ...]
    running: frozenset[str]

    def events(self) -> list[Event]:
        at, made = START, []
        for seq, (owner, pause_s) in enumerate(zip(self.owners, self.pauses_s, strict=True), start=1):
            at += timedelta(seconds=pause_s)
            made.append(Event("i", seq, at, NewEvent("made.up", "x", rollout_id=owner)))
        return made


@st.composite
def logs(draw: st.DrawFn) -> Log:
    owners = tuple(draw(st.lists(st.sampled_from(NAMES), max_size=40)))
    pauses = tuple(draw(st.lists(st.integers(0, 50), min_size=len(owners), max_size=len(owners))))
    return Log(owners, pauses, frozenset(draw(st.sets(st.sampled_from(NAMES[1:])))))


RULES = st.builds(
    Retention,
    age=st.integers(0, 1500).map(lambda s: timedelta(seconds=s)),
    count=st.integers(0, 50),
)


def store_of(events: list[Event], head: int) -> MemoryStore:
    disk = Disk(events=list(events), head_seq=head)
    store = MemoryStore(disk, SimpleNamespace(now=lambda: START))  # type: ignore[arg-type]
    store._open = True  # type: ignore[attr-defined]
    return store


def fleet_of(log: Log, known: int) -> Any:
    """As a replica knows it that has come to an event: rollouts since then are unknown to it."""
    seen = set(log.owners[:known]) - {""}
    return SimpleNamespace(
        rollouts={
            name: SimpleNamespace(rollout_id=name, ended_at=None if name in log.running else START)
            for name in seen
        }
    )


def running(log: Log, gone: int = 0) -> int:
    """The first event that is kept of a rollout that runs; beyond the log if none is."""
    seqs = [i for i, owner in enumerate(log.owners, start=1) if owner in log.running and i > gone]
    return min(seqs, default=len(log.owners) + 1)


@given(logs(), RULES, st.integers(0, 2500), st.integers(0, 40))
def test_the_cut_is_as_far_as_age_and_count_allow_and_no_farther(
    log: Log, rules: Retention, now_s: int, gone: int
) -> None:
    events, head = log.events(), len(log.owners)
    gone = min(gone, running(log) - 1, head)
    now = START + timedelta(seconds=now_s)
    store = store_of(events[gone:], head)
    cut = asyncio.run(find_cut(store, fleet_of(log, head), head, now, rules))
    assert gone <= cut <= head

    def may_go(event: Event) -> bool:
        return event.at < now - rules.age or event.seq <= head - rules.count

    assert all(may_go(event) for event in events[gone:cut])
    first = running(log)
    assert cut < first, "a rollout that runs keeps its whole story, and the fleet's since then"
    if cut < head:
        assert not may_go(events[cut]) or cut + 1 == first, "nothing is kept without a reason"


@given(logs(), RULES, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2500)), max_size=4))
def test_replicas_that_are_behind_or_trim_in_turn_never_cut_a_running_rollout(
    log: Log, rules: Retention, turns: list[tuple[int, int]]
) -> None:
    events, head = log.events(), len(log.owners)
    store = store_of(events, head)
    for known, now_s in turns:
        known = min(known, head)
        now = START + timedelta(seconds=now_s)
        asyncio.run(trim(store, fleet_of(log, known), known, now, rules))
        kept = [event.seq for event in store.disk.events]
        assert kept == list(range(head - len(kept) + 1, head + 1)), "what is kept is gapless"
        if running(log) <= head:
            assert kept
            assert kept[0] <= running(log)


@given(logs(), RULES, st.integers(1, 10))
def test_a_store_that_went_back_is_not_cut_by_what_was_known(log: Log, rules: Retention, lost: int) -> None:
    head = len(log.owners)
    store = store_of(log.events(), head)
    cut = asyncio.run(find_cut(store, fleet_of(log, head), head + lost, START + timedelta(days=1), rules))
    assert cut == 0
