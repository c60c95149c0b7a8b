"""What really became of attempts, as the nodes' hardware saw it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Truth:
    """What really became of one attempt, as its node's hardware saw it."""

    loads: int = 0
    reboots: int = 0
    left: bool = False
    """Another boot came of its reboot call."""
    arrived: bool = False
    """Its own kernel booted, with every session that was preserved."""
    intact: bool = False
    """Every workload found its memory bit-identical in that boot."""
    to_release: str = ""
    boot: int = 0
    workloads: int = 0
    """Preserved for it; the agent's own session left aside."""


@dataclass(slots=True)
class Jump:
    generation: int
    preserved: frozenset[str]
    """What the kernel was to carry (preserved.going_out)."""
    workloads: int
    """Whose it is; the agent's own left aside."""
