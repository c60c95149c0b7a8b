"""Rollout specifications of transcripts, written as key=value words.

waves=2,50%,rest · unavailable, blackout, uncommitted: counts · domain=zone:1 · failures=1 ·
halt_on=lost,state_lost (none: -) · bake=10s · promotion=manual · canaries=4 · first=n3 ·
window=11:00-12:01,13:00-14:00 · embargo=60s-120s · gate=blackout:1s or blackout:1s:roll_back ·
retries=3 (in all) · nodes=n0,n1 · back=2 (how many nodes a rollback takes at a time) · lease=30s ·
silence=60s · acknowledge=20s · late=last_wave
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, time, timedelta

from orchestrator.core.spec import (
    DEFAULT_RETRIES,
    Amount,
    Bake,
    BlackoutGate,
    Budgets,
    Canary,
    DomainBudget,
    Embargo,
    FailureBudget,
    LateNodes,
    OnFail,
    Promotion,
    RetryRule,
    RollbackPolicy,
    RolloutSpec,
    Schedule,
    Selection,
    Target,
    WaveSpec,
    Window,
)
from orchestrator.errors import Retry

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def duration(text: str) -> timedelta:
    """10s, 5m, 300ms."""
    number = text.rstrip("msh")
    return timedelta(seconds=float(number) * UNITS[text[len(number) :]])


def amount(text: str) -> Amount:
    """3 or 50%."""
    return Amount(percent=float(text[:-1])) if text.endswith("%") else Amount(count=int(text))


def spec(name: str, words: Mapping[str, str], start: datetime) -> RolloutSpec:
    """A generous specification, tightened by the words. start: what an embargo counts from.

    ValueError: an unknown word.
    """
    known = dict(words)

    def take(word: str, default: str) -> str:
        return known.pop(word, default)

    waves = tuple(
        WaveSpec(f"w{i + 1}", None if size == "rest" else amount(size))
        for i, size in enumerate(take("waves", "rest").split(","))
    )
    bake = duration(take("bake", "5s"))
    halt_on = take("halt_on", "lost,state_lost")
    domain, nodes = take("domain", ""), take("nodes", "")
    back = amount(take("back", "1"))
    attempts = int(take("retries", "2"))
    made = RolloutSpec(
        name=name,
        target=Target("linux-7.1"),
        selection=Selection(nodes=tuple(filter(None, nodes.split(",")))),
        canary=Canary(int(take("canaries", "4")), tuple(filter(None, take("first", "").split(",")))),
        waves=waves,
        late_nodes=LateNodes(take("late", "ignore").upper()),
        budgets=Budgets(
            amount(take("unavailable", "100")),
            amount(take("blackout", "100")),
            amount(take("uncommitted", "100")),
            DomainBudget(domain.split(":")[0], amount(domain.split(":")[1])) if domain else None,
            FailureBudget(
                amount(take("failures", "0")),
                frozenset() if halt_on == "-" else frozenset(halt_on.split(",")),
            ),
        ),
        rollback=RollbackPolicy(max_unavailable=back, max_in_blackout=back),
        bake=Bake(bake, bake),
        promotion=Promotion(take("promotion", "automatic").upper()),
        retries={**DEFAULT_RETRIES, Retry.REPLAN: RetryRule(attempts, duration("30s"), duration("5m"))},
        schedule=_schedule(take("window", ""), take("embargo", ""), start),
        silence_lease=duration(take("silence", "60s")),
        proceed_lease=duration(take("lease", "30s")),
        acknowledge_timeout=duration(take("acknowledge", "60s")),
    )
    gate = take("gate", "")
    if known:
        raise ValueError(f"unknown words: {', '.join(known)}")
    return replace(made, gates=(_gate(gate),)) if gate else made


def _schedule(window: str, embargo: str, start: datetime) -> Schedule:
    edges = [[time.fromisoformat(edge) for edge in part.split("-")] for part in window.split(",") if part]
    windows = tuple(Window(frozenset(), opens, closes) for opens, closes in edges)
    embargoes: tuple[Embargo, ...] = ()
    if embargo:
        first, last = (start + duration(part) for part in embargo.split("-"))
        embargoes = (Embargo(first, last, "quarter end"),)
    return Schedule(windows, embargoes)


def _gate(text: str) -> BlackoutGate:
    _, most, *then = text.split(":")
    return BlackoutGate(0.99, duration(most), on_fail=OnFail(then[0].upper() if then else "HALT"))
