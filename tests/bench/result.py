"""What a benchmark reports: a figure beside a raw limit that the same run measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One line of `make bench`.

    name: what was measured. value, unit: the figure. beside: what it is compared with, measured in
    the same run; limit: that figure in the same unit (0 if there is nothing to compare with).
    aim: in words.
    """

    name: str
    value: float
    unit: str
    beside: str = ""
    limit: float = 0.0
    aim: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.limit if self.limit else None
