"""What is wrong with a specification's times: durations, leases, retries, windows, embargoes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from zoneinfo import ZoneInfo, available_timezones

from orchestrator.core.selectors import near
from orchestrator.core.spec import RolloutSpec, Window
from orchestrator.errors import Retry, Violation

WEEK = timedelta(days=7)
"""No step of an attempt and no lease lasts longer; beyond it a unit was mistaken."""
MAX_ATTEMPTS = 20
"""More tries than that at one node are a loop, not a retry."""
MAX_BAKE = timedelta(days=90)


def durations(spec: RolloutSpec) -> Iterator[Violation]:
    """Bakes may be zero; everything that bounds a wait must be above zero."""
    for path, value in (("bake.node", spec.bake.node), ("bake.wave", spec.bake.wave)):
        yield from _between(path, value, timedelta(0), MAX_BAKE)
    yield from _between("health_hold", spec.health_hold, timedelta(0), WEEK)
    above_zero = {
        "silence_lease": spec.silence_lease,
        "proceed_lease": spec.proceed_lease,
        "acknowledge_timeout": spec.acknowledge_timeout,
        **{f"timeouts.{f.name}": getattr(spec.timeouts, f.name) for f in fields(spec.timeouts)},
    }
    for path, value in above_zero.items():
        if value <= timedelta(0):
            yield Violation(path, "it is not above zero", "Write for instance 30s.")
        else:
            yield from _between(path, value, timedelta(0), WEEK)
    if spec.proceed_lease > spec.timeouts.preserved > timedelta(0):
        yield Violation(
            "proceed_lease",
            "it is longer than timeouts.preserved, after which the node unwinds by itself",
            "Make it shorter than timeouts.preserved.",
        )
    if timedelta(0) < spec.timeouts.verifying <= spec.health_hold:
        yield Violation(
            "health_hold",
            "it is not shorter than timeouts.verifying, so no node could ever hold it",
            "Raise timeouts.verifying above it.",
        )


def _between(path: str, value: timedelta, least: timedelta, most: timedelta) -> Iterator[Violation]:
    if value < least:
        yield Violation(path, "it is negative", "Give zero or more.")
    elif value > most:
        yield Violation(path, f"it is longer than {most.days} days", "Check the unit, for instance 5m.")


def retries(spec: RolloutSpec) -> Iterator[Violation]:
    """Attempts count the first one; backoffs grow up to max_backoff."""
    for retry, rule in spec.retries.items():
        path = f"retries.{retry.value.lower()}"
        if not 1 <= rule.attempts <= MAX_ATTEMPTS:
            yield Violation(
                f"{path}.attempts",
                f"{rule.attempts} is not between 1 and {MAX_ATTEMPTS}",
                "The first attempt counts; 1 means no retry.",
            )
        if retry in (Retry.NEVER, Retry.FIX_STATE) and rule.attempts > 1:
            yield Violation(
                f"{path}.attempts",
                "such errors do not go away by themselves",
                "Keep 1; mend the node, then use `liveroll retry`.",
            )
        yield from _between(f"{path}.backoff", rule.backoff, timedelta(0), WEEK)
        yield from _between(f"{path}.max_backoff", rule.max_backoff, timedelta(0), WEEK)
        if rule.backoff > rule.max_backoff >= timedelta(0):
            yield Violation(f"{path}.max_backoff", "it is smaller than backoff", "Make it at least backoff.")


def schedule(spec: RolloutSpec) -> Iterator[Violation]:
    """Windows in known time zones; embargoes that end after they start."""
    for i, window in enumerate(spec.schedule.windows):
        yield from _window(window, f"schedule.windows[{i}]")
    for i, embargo in enumerate(spec.schedule.embargoes):
        path = f"schedule.embargoes[{i}]"
        naive = [n for n in ("start", "end") if getattr(embargo, n).tzinfo is None]
        for name in naive:
            yield Violation(
                f"{path}.{name}", "it has no time zone", "Write for instance 2026-12-24T00:00:00Z."
            )
        if not naive and embargo.end <= embargo.start:
            yield Violation(f"{path}.end", "it is not after start", "Swap them, or correct one.")


def _window(window: Window, path: str) -> Iterator[Violation]:
    for day in sorted(window.days):
        if not 0 <= day <= 6:
            yield Violation(f"{path}.days", f"{day} is no day of the week", "Use mon, tue … sun.")
    if not _known(window.time_zone):
        like = near(window.time_zone, available_timezones())
        remedy = f"Did you mean {' or '.join(like)}?" if like else "Use an IANA name such as Europe/Berlin."
        yield Violation(f"{path}.time_zone", f"{window.time_zone!r} is not known", remedy)
    if window.start.tzinfo is not None or window.end.tzinfo is not None:
        yield Violation(path, "its times carry a time zone of their own", "Put it into time_zone.")


def _known(time_zone: str) -> bool:
    try:
        ZoneInfo(time_zone)
    except (ValueError, OSError, LookupError):
        # What ZoneInfo raises for names that are malformed, directories, or absent.
        return False
    return True
