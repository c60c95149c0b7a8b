"""What stands in the way, said so that a person knows who must do what.

A Blocker is made by whichever rule refused something; it mirrors proto Blocker. Either
`until` says when the planner looks again by itself, or `remedy` names who must do what,
or both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

FEW = 5
"""Node ids named in a blocker; the rest is a count."""


@dataclass(frozen=True, slots=True)
class Blocker:
    """One thing that keeps something from going on."""

    reason: str
    """Stable UPPER_SNAKE."""
    message: str
    remedy: str = ""
    """Who must do what; empty where waiting is enough."""
    nodes: tuple[str, ...] = ()
    """The first few nodes it holds back."""
    node_count: int = 0
    until: datetime | None = None
    """When it is looked at again without anybody's doing."""
    wave: str = ""
    """Wave it stands in front of, if any."""
