"""How long a workload stood still, from two readings of the node's clocks.

Rules, best clock first:
- the same boot on both sides: CLOCK_BOOTTIME, which runs on within one boot;
- else the TSC, which a kexec does not stop, with the frequency measured *before* the kexec
  (early rates of a new kernel are off by up to 1,463 ppm);
- else CLOCK_REALTIME, whose value after a boot comes from a clock chip of one-second grain.
A clock that went backwards gives a rejected sample, never a negative or a zero one.
"""

from __future__ import annotations

from dataclasses import dataclass

TSC_RELATIVE_UNCERTAINTY = 1e-4
"""A frequency calibrated over a tenth of a second or more is good to about 100 ppm."""

EARLY_NS = 30_000_000_000
EARLY_TSC_RELATIVE_UNCERTAINTY = 1.5e-3
"""In a boot younger than that it is not: a new kernel refines its own clock in its first seconds.
Source: lab runs, early rates off by up to 1,463 ppm."""

REALTIME_UNCERTAINTY_S = 1.0
"""Source: lab runs, median error of CLOCK_REALTIME over a kexec 206 ms, range ± 0.9 s."""

READ_UNCERTAINTY_S = 1e-4
"""The readings of several clocks in one stamp are this far apart at worst, if not preempted."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """One reading. tsc and tsc_hz are 0 where the node has none to offer."""

    realtime_ns: int
    boottime_ns: int
    tsc: int
    tsc_hz: float
    boot_id: str


@dataclass(frozen=True, slots=True)
class Measured:
    """clock is tsc, boottime, realtime or, over an emulated kernel, emulated."""

    duration_s: float
    uncertainty_s: float
    clock: str
    rejected: str = ""


def measure(before: Stamp, after: Stamp, *, emulated: bool = False) -> Measured:
    """The time from `before` to `after`; see the module for the choice of the clock."""
    if before.boot_id == after.boot_id and before.boot_id:
        clock, duration_s = "boottime", (after.boottime_ns - before.boottime_ns) / 1e9
        uncertainty_s = READ_UNCERTAINTY_S
    elif before.tsc and after.tsc and before.tsc_hz > 0:
        clock, duration_s = "tsc", (after.tsc - before.tsc) / before.tsc_hz
        early = before.boottime_ns < EARLY_NS
        relative = EARLY_TSC_RELATIVE_UNCERTAINTY if early else TSC_RELATIVE_UNCERTAINTY
        uncertainty_s = READ_UNCERTAINTY_S + abs(duration_s) * relative
    else:
        clock, duration_s = "realtime", (after.realtime_ns - before.realtime_ns) / 1e9
        uncertainty_s = REALTIME_UNCERTAINTY_S
    label = "emulated" if emulated else clock
    if duration_s < 0:
        return Measured(0.0, 0.0, label, f"{clock} went backwards by {-duration_s:.6f} s")
    return Measured(duration_s, uncertainty_s, label)
