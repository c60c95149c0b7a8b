"""What can go wrong in the lab: one class, told apart by `reason`."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot go on.

    reason: stable UPPER_SNAKE; remedy: what the reader can do, empty if nothing is known.
    """

    def __init__(self, message: str, *, reason: str, remedy: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.remedy = remedy
