"""What a node has lived through that the store knows nothing of: plain data, kept on the node's row.

transitions_regression.py notices it, differences.py shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.core.phases import Phase


@dataclass(frozen=True, slots=True)
class Side:
    """The node as one of the two has it."""

    incarnation: str
    generation: int
    """The highest that was given out."""
    attempt: int
    """Generation of its newest attempt, 0 if there is none."""
    phase: Phase
    release: str


@dataclass(frozen=True, slots=True)
class Beyond:
    """Store and node, when the difference was noticed first."""

    at: datetime
    evidence: str
    """What proved it, as a sentence."""
    store: Side
    node: Side
    rollback_artifact: str = ""
    """Of the node, as the store had it: what leads back from where it has gone to."""
    command_line: str = ""
    """Likewise: what a way back composes from."""
    loss: int = 0
    """FleetRow.losses then: what was noticed of an earlier loss, a person has accepted since."""
    refused: bool = False
    """Its link was not taken: who drives it now is for a person to say."""
