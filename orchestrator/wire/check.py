"""Reading messages without trusting them: every fault is noted with its path, then raised at once.

Rules
1. Total: whatever a peer sends becomes a value or a Violation, never another exception.
2. Everything is bounded: strings in characters, lists in items, durations and counts in size.
3. Identifiers with control characters are refused; in prose they become spaces, for it ends up
   on operators' terminals.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TypeVar

from google.protobuf import duration_pb2, timestamp_pb2

from orchestrator.errors import InvalidSpec, Violation

E = TypeVar("E", bound=enum.StrEnum)

MAX_NAME = 253
"""As long as a DNS name: nodes are often called by theirs."""
MAX_TEXT = 2000
"""Reasons, remarks, messages: a paragraph."""
MAX_NODES = 20_000
"""Nodes in one request: twice the fleet this is built for."""
MAX_LABELS = 64
MAX_DURATION = timedelta(days=366)
MAX_VIOLATIONS = 100
"""Noted at most: a hostile list must not become a longer answer."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


class Checker:
    """Collects violations while a message is read; `done()` raises them together."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def bad(self, path: str, problem: str, remedy: str = "") -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(path, problem, remedy))

    def done(self, message: str = "the request is invalid") -> None:
        """Raises InvalidSpec if anything was noted."""
        if self.violations:
            raise InvalidSpec(self.violations, message)

    def name(self, value: str, path: str, *, required: bool = True, most: int = MAX_NAME) -> str:
        """An identifier: printable, no blanks at its ends, bounded."""
        if not value:
            if required:
                self.bad(path, "it is missing", "Give a value.")
            return ""
        if len(value) > most:
            self.bad(path, f"it has {len(value)} characters", f"Use at most {most}.")
            return ""
        if _CONTROL.search(value) or value != value.strip():
            self.bad(path, "it has control characters, or blanks at its ends", "Use printable characters.")
            return ""
        return value

    def prose(self, value: str, path: str, *, most: int = MAX_TEXT) -> str:
        """Text for people, cut where it is too long."""
        del path
        return _CONTROL.sub(" ", value[:most]).strip()

    def reason(self, value: str, path: str) -> str:
        """Prose by an operator: too long is told, not cut."""
        if len(value) > MAX_TEXT:
            self.bad(path, f"it has {len(value)} characters", f"Use at most {MAX_TEXT}.")
            return ""
        return _CONTROL.sub(" ", value).strip()

    def names(
        self, values: Iterable[str], path: str, *, most: int, length: int = MAX_NAME
    ) -> tuple[str, ...]:
        """A list of identifiers without repetitions."""
        items = tuple(values)
        if len(items) > most:
            self.bad(path, f"it has {len(items)} items", f"Give at most {most}.")
            return ()
        read = tuple(self.name(item, f"{path}[{i}]", most=length) for i, item in enumerate(items))
        return tuple(dict.fromkeys(item for item in read if item))

    def labels(self, values: Mapping[str, str], path: str) -> Mapping[str, str]:
        """A map of identifiers to possibly empty identifiers."""
        if len(values) > MAX_LABELS:
            self.bad(path, f"it has {len(values)} entries", f"Give at most {MAX_LABELS}.")
            return MappingProxyType({})
        read = {
            self.name(key, f"{path}.{key[:40]}", most=128): self.name(
                value, f"{path}.{key[:40]}", required=False
            )
            for key, value in sorted(values.items())
        }
        read.pop("", None)
        return MappingProxyType(read)

    def count(self, value: int, path: str, *, least: int = 0, most: int = 1_000_000) -> int:
        if not least <= value <= most:
            self.bad(path, f"it is {value}", f"Use {least} to {most}.")
            return least
        return value

    def number(self, value: float, path: str, *, above: float, most: float) -> float:
        """A finite number above `above` and at most `most`."""
        if not math.isfinite(value) or not above < value <= most:
            self.bad(path, f"it is {value:g}", f"Use a number above {above:g} and at most {most:g}.")
            return most
        return value

    def duration(
        self,
        value: duration_pb2.Duration,
        path: str,
        *,
        least: timedelta = timedelta(0),
        most: timedelta = MAX_DURATION,
    ) -> timedelta:
        """A duration in [least, most]."""
        read = read_duration(value)
        if read is None:
            self.bad(path, "it is not a valid duration", "Let seconds and nanos agree in sign.")
            return least
        if not least <= read <= most:
            self.bad(path, f"it is {say(read)}", f"Use {say(least)} to {say(most)}.")
            return least
        return read

    def instant(self, value: timestamp_pb2.Timestamp, path: str) -> datetime:
        read = read_instant(value)
        if read is None:
            self.bad(path, "it is not a valid time", "Use an instant between the years 1 and 9999.")
            return datetime(1970, 1, 1, tzinfo=UTC)
        return read

    def member(
        self, kind: type[E], number: int, names: Mapping[int, str], prefix: str, path: str, default: E | None
    ) -> E:
        """An enum by its number. 0 (unspecified) is the default; None makes it required."""
        if number == 0 and default is not None:
            return default
        name = names.get(number, "").removeprefix(prefix)
        if name in kind.__members__:
            return kind[name]
        choices = ", ".join(item.value.lower() for item in kind)
        self.bad(path, "it is missing" if number == 0 else f"{number} is unknown", f"Use {choices}.")
        return next(iter(kind)) if default is None else default


def read_duration(value: duration_pb2.Duration) -> timedelta | None:
    """None if it breaks Duration's own rules."""
    if abs(value.nanos) > 999_999_999 or abs(value.seconds) > 315_576_000_000:
        return None
    if (value.seconds > 0 > value.nanos) or (value.seconds < 0 < value.nanos):
        return None
    return timedelta(seconds=value.seconds, microseconds=round(value.nanos / 1000))


def read_instant(value: timestamp_pb2.Timestamp) -> datetime | None:
    """None if it breaks Timestamp's own rules."""
    if not 0 <= value.nanos <= 999_999_999:
        return None
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            seconds=value.seconds, microseconds=value.nanos // 1000
        )
    except OverflowError:
        return None


def duration_of(value: timedelta) -> duration_pb2.Duration:
    made = duration_pb2.Duration()
    made.FromTimedelta(value)
    return made


def instant_of(value: datetime) -> timestamp_pb2.Timestamp:
    made = timestamp_pb2.Timestamp()
    made.FromDatetime(value)
    return made


def say(value: timedelta) -> str:
    """A duration in its largest whole unit: 90s, 5m, 2h."""
    seconds = value.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
