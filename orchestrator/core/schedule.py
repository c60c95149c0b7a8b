"""When starts are allowed: change windows and embargoes, and when that changes next.

Rules
1. No window: always. Otherwise inside at least one; an embargo closes whatever windows say.
2. A window runs by its own zone's wall clock on each of its days, the end exclusive; an end at
   or before the start is the next day's. Where clocks are set back, an ambiguous time is the
   first of the two; where they are set forward, a time that does not exist counts with the
   offset from before, so it falls after the gap. Instants are compared in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from orchestrator.core.spec import Embargo, Schedule, Window

_LOOK_AHEAD = 200
"""Edges looked at in search of the next change. Beyond them the search's own end is the next
look: an early wake, never a missed one."""

_DAYS = 9
"""A weekly window recurs within 7 days; one more on each side for zones and windows over midnight."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether starts are allowed, and until when that holds (None: for good)."""

    open: bool
    cause: str = ""
    """window or embargo, if closed"""
    reason: str = ""
    until: datetime | None = None


def opening(schedule: Schedule, now: datetime) -> Opening:
    """The state at now. The result holds until `until`."""
    if not schedule.windows and not schedule.embargoes:
        return Opening(True)
    embargo = _embargo(schedule, now)
    if embargo is not None:
        return Opening(False, "embargo", embargo.reason, _next_change(schedule, now, False))
    if schedule.windows and not _in_window(schedule.windows, now):
        return Opening(False, "window", "", _next_change(schedule, now, False))
    return Opening(True, until=_next_change(schedule, now, True))


def _next_change(schedule: Schedule, now: datetime, state: bool) -> datetime | None:
    at = now
    for _ in range(_LOOK_AHEAD):
        embargo = _embargo(schedule, at)
        edge = embargo.end if embargo is not None else _next_edge(schedule, at)
        if edge is None:
            return None
        at = edge
        if _is_open(schedule, at) is not state:
            return at
    return at


def _is_open(schedule: Schedule, at: datetime) -> bool:
    return _embargo(schedule, at) is None and (not schedule.windows or _in_window(schedule.windows, at))


def _embargo(schedule: Schedule, at: datetime) -> Embargo | None:
    return next((e for e in schedule.embargoes if e.start <= at < e.end), None)


def _in_window(windows: tuple[Window, ...], at: datetime) -> bool:
    return any(start <= at < end for w in windows for start, end in _runs(w, at, 1))


def _next_edge(schedule: Schedule, at: datetime) -> datetime | None:
    edges = [edge for w in schedule.windows for run in _runs(w, at, _DAYS) for edge in run]
    edges += [edge for e in schedule.embargoes for edge in (e.start, e.end)]
    return min((edge for edge in edges if edge > at), default=None)


def _runs(window: Window, at: datetime, days: int) -> Iterator[tuple[datetime, datetime]]:
    """The window's runs from the day before `at` to `days` days after it, in UTC."""
    zone = _zone(window.time_zone)
    today = at.astimezone(zone).date()
    for offset in range(-1, days + 1):
        day = today + timedelta(days=offset)
        if window.days and day.weekday() not in window.days:
            continue
        last = day if window.end > window.start else day + timedelta(days=1)
        start = datetime.combine(day, window.start, zone).astimezone(UTC)
        yield start, datetime.combine(last, window.end, zone).astimezone(UTC)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
