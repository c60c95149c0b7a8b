"""Durations, amounts and instants as people write and read them. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def parse_duration(text: str) -> timedelta:
    """30s, 1m30s, 250ms, 2h, 1d. Raises ValueError that says what is wrong."""
    squeezed = text.replace(" ", "")
    if not _DURATION.fullmatch(squeezed):
        if re.fullmatch(r"\d+(\.\d+)?", squeezed):
            raise ValueError("has no unit")
        raise ValueError("is not a duration")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(squeezed))
    if seconds > 366 * 86400:
        raise ValueError("is longer than a year")
    return timedelta(seconds=seconds)


def parse_amount(text: str) -> tuple[int | None, float | None]:
    """(count, None) for "3", (None, percent) for "10%". Raises ValueError."""
    squeezed = text.strip()
    if re.fullmatch(r"\d{1,9}", squeezed):
        return int(squeezed), None
    match = _PERCENT.fullmatch(squeezed)
    if match is None:
        raise ValueError("is neither a count nor a percentage")
    percent = float(match[1])
    if not 0 < percent <= 100:
        raise ValueError("is not above 0% and at most 100%")
    return None, percent


def parse_instant(text: str) -> datetime:
    """ISO 8601 with its time zone. Raises ValueError."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("is not a date and time") from error
    if instant.tzinfo is None:
        raise ValueError("has no time zone")
    return instant.astimezone(UTC)


def duration(value: timedelta) -> str:
    """812ms, 1.25s, 45s, 2m05s, 3h10m, 2d04h."""
    seconds = value.total_seconds()
    if seconds < 0:
        return "-" + duration(-value)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    whole = int(seconds)
    for size, unit, small, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}" + (f"{rest:02d}{small_unit}" if rest else "")
    raise AssertionError(seconds)


def clock(value: datetime) -> str:
    """The time of day, UTC, to the millisecond."""
    return f"{value:%H:%M:%S}.{value.microsecond // 1000:03d}"


def instant(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"
