"""A `time` module whose naps take no time."""

from __future__ import annotations


class Time:
    """nap_s: how far a nap moves the clock, instead of its own length."""

    def __init__(self, nap_s: float | None = None) -> None:
        self.now, self.nap_s, self.naps = 0.0, nap_s, 0

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.now += seconds if self.nap_s is None else self.nap_s

    def monotonic(self) -> float:
        return self.now
