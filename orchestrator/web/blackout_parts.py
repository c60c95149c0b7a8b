"""The parts of a blackout, read from an attempt's marks.

Rules
1. Within one boot, CLOCK_BOOTTIME. Purgatory lies between two boots: the TSC, which keeps counting, by the
   frequency that the new boot's own marks have it at; without one CLOCK_REALTIME, which knows whole seconds.
2. A part that cannot be told is told as such, with the reason; it is never left out.
3. Where the node's kernels tell when they were left and started (kexec telemetry), that counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from orchestrator.core.model import Mark

LAST = "resume"
"""Its mark ends the blackout: there is no part after it."""
REASONS = frozenset({"no_mark", "other_boot", "backwards"})
"""A mark is missing; the two are not of the boots that they should be of; a clock went back in between."""

BY_MARKS = (
    ("shutdown", "suspend", "pre_reboot", "marks"),
    ("purgatory", "pre_reboot", "kernel_start", "marks"),
    ("boot", "kernel_start", "userspace_start", "marks"),
    ("userspace", "userspace_start", "retrieved", "marks"),
    ("restore", "retrieved", "resume", "marks"),
)
BY_TELEMETRY = (
    ("shutdown", "suspend", "kernel_left", "telemetry"),
    ("purgatory", "kernel_left", "kernel_start", "telemetry"),
    ("boot", "kernel_start", "init_start", "telemetry"),
    ("userspace", "init_start", "retrieved", "telemetry"),
    ("restore", "retrieved", "resume", "marks"),
)
"""(part, from mark, to mark, who says so). What the old kernel still did after the call of reboot is
`shutdown` where the kernels tell, and else `purgatory`. The agent counts the same parts."""
PARTS = tuple(name for name, *_ in BY_MARKS)
ACROSS = "purgatory"
"""The one part that begins in one boot and ends in another."""


@dataclass(frozen=True, slots=True)
class Part:
    """One, as far as it can be told: its duration, or why not."""

    name: str
    source: str
    """marks or telemetry."""
    duration: timedelta = timedelta(0)
    rejected: str = ""
    """One of REASONS; empty if the duration counts."""


def parts(marks: Sequence[Mark]) -> Iterator[Part]:
    """All five, in their order. Of two marks with one name the later counts."""
    found = {mark.name: mark for mark in marks}
    table = BY_TELEMETRY if "kernel_left" in found else BY_MARKS
    hz = _hz(found, booted=table[2][2])
    for name, first, last, source in table:
        start, end = found.get(first), found.get(last)
        if start is None or end is None:
            yield Part(name, source, rejected="no_mark")
            continue
        if (start.boot_id != end.boot_id) != (name == ACROSS):
            yield Part(name, source, rejected="other_boot")
            continue
        duration = _across(start, end, hz) if name == ACROSS else end.boottime - start.boottime
        if duration < timedelta(0):
            yield Part(name, source, rejected="backwards")
        else:
            yield Part(name, source, duration)


def _hz(found: Mapping[str, Mark], booted: str) -> float:
    """Of the TSC, as the new boot's marks have it; 0 if they do not say."""
    start, end = found.get("kernel_start"), found.get(booted)
    if start is None or end is None or start.boot_id != end.boot_id or not start.tsc or not end.tsc:
        return 0.0
    seconds = (end.boottime - start.boottime).total_seconds()
    return (end.tsc - start.tsc) / seconds if seconds > 0 else 0.0


def _across(start: Mark, end: Mark, hz: float) -> timedelta:
    if start.tsc and end.tsc and hz > 0:
        return timedelta(seconds=(end.tsc - start.tsc) / hz)
    return end.realtime - start.realtime
