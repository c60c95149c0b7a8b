"""What a rollout would do if it were created now."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core.model import Artifact
from orchestrator.core.report import DryRun
from orchestrator.core.spec import RolloutSpec

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet


def dry_run(fleet: Fleet, spec: RolloutSpec, artifact: Artifact, now: datetime) -> DryRun:
    """InvalidSpec with every violation."""
    raise NotImplementedError
