"""Windows and embargoes: over midnight, over changes of the clocks, and when they change next."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest

from orchestrator.core.schedule import Opening, opening
from orchestrator.core.spec import Embargo, Schedule, Window

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


def at(hours: float) -> datetime:
    return MONDAY + timedelta(hours=hours)


def window(start: int, end: int, *days: int, zone: str = "UTC") -> Window:
    return Window(frozenset(days), time(start), time(end), zone)


def test_no_window_is_always_open() -> None:
    assert opening(Schedule(), MONDAY) == Opening(True)


@pytest.mark.parametrize(
    ("hour", "is_open", "changes"), [(7, False, 8), (8, True, 10), (9.5, True, 10), (10, False, 32)]
)
def test_a_daily_window(hour: float, is_open: bool, changes: float) -> None:
    found = opening(Schedule(windows=(window(8, 10),)), at(hour))
    assert (found.open, found.until) == (is_open, at(changes))


def test_a_window_over_midnight_belongs_to_the_day_it_starts_on() -> None:
    schedule = Schedule(windows=(window(22, 2, 0),))
    assert opening(schedule, at(25)).until == at(26)
    assert opening(schedule, at(26)).until == at(7 * 24 + 22)


def test_windows_that_meet_are_one_opening() -> None:
    schedule = Schedule(windows=(window(8, 10), window(10, 12)))
    assert opening(schedule, at(9)).until == at(12)


def test_a_window_that_never_closes_is_looked_at_again_all_the_same() -> None:
    found = opening(Schedule(windows=(window(0, 0),)), at(9))
    assert found.open
    assert found.until is not None


def test_an_embargo_closes_whatever_windows_say() -> None:
    ban = Embargo(at(9), at(50), "quarter end")
    schedule = Schedule(windows=(window(8, 10),), embargoes=(ban,))
    assert opening(schedule, at(8.5)) == Opening(True, until=at(9))
    assert opening(schedule, at(9)) == Opening(False, "embargo", "quarter end", at(56))
    assert opening(Schedule(embargoes=(ban,)), at(9)).until == at(50)
    assert opening(Schedule(embargoes=(ban,)), at(60)) == Opening(True)


def test_a_window_that_an_embargo_swallows_for_ever_still_says_when_to_look() -> None:
    ban = Embargo(at(0), at(24 * 4000))
    found = opening(Schedule(windows=(window(8, 10),), embargoes=(ban,)), at(9))
    assert found.until == at(24 * 4000 + 8)


@pytest.mark.parametrize(
    ("day", "opens_utc"),
    [
        (datetime(2026, 3, 28, tzinfo=UTC), 1),
        (datetime(2026, 3, 30, tzinfo=UTC), 0),
    ],
)
def test_a_window_follows_its_zones_wall_clock(day: datetime, opens_utc: int) -> None:
    schedule = Schedule(windows=(window(2, 4, zone="Europe/Berlin"),))
    before = day + timedelta(hours=opens_utc, minutes=-1)
    assert not opening(schedule, before).open
    assert opening(schedule, before + timedelta(minutes=1)).open


def test_a_time_that_the_clocks_skip_falls_after_the_gap() -> None:
    schedule = Schedule(windows=(Window(frozenset(), time(2, 30), time(4), "Europe/Berlin"),))
    gap = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert opening(schedule, gap).until == gap + timedelta(minutes=30)


def test_an_ambiguous_time_is_the_first_of_the_two() -> None:
    schedule = Schedule(windows=(Window(frozenset(), time(2, 30), time(4), "Europe/Berlin"),))
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert opening(schedule, first).open
    assert opening(schedule, first).until == datetime(2026, 10, 25, 3, 0, tzinfo=UTC)
