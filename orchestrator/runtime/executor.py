"""Carries out a plan: commits every action, all at once, and hints its nodes. Holds no choices.

One try an action. What loses to another commit, or finds no store, is left to the next plan.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.actions import Action
from orchestrator.errors import Capacity, Conflict, CorruptState, LiverollError, StoreUnavailable
from orchestrator.ports import NodeHints
from orchestrator.runtime.commits import Commits
from orchestrator.runtime.known import has_moved

TOGETHER = 1024
"""Actions in flight: enough to fill the store's batches, few enough that ingest is not kept waiting."""


@dataclass(slots=True)
class Executed:
    """How many of a plan's actions were committed, and what stood in the way of the others."""

    committed: int = 0
    conflicts: int = 0
    unexplained: int = 0
    """Of these: nothing in the fleet, which has caught up since, says what they lost to."""
    unavailable: LiverollError | None = None
    """StoreUnavailable, Capacity or CorruptState: the rest was not tried."""


async def execute(actions: Sequence[Action], commits: Commits, hints: NodeHints, epoch: int) -> Executed:
    """epoch: that of the lease under which the plan was made. NotLeader if it is lost on the way."""
    done, fleet = Executed(), commits.fleet
    for start in range(0, len(actions), TOGETHER):
        chunk = actions[start : start + TOGETHER]
        outcomes = await asyncio.gather(
            *(commits.commit(action.change, epoch=epoch) for action in chunk), return_exceptions=True
        )
        for action, outcome in zip(chunk, outcomes, strict=True):
            match outcome:
                case Conflict():
                    done.conflicts += 1
                    done.unexplained += not has_moved(fleet, action.change)
                case StoreUnavailable() | Capacity() | CorruptState():
                    done.unavailable = outcome
                case BaseException():
                    raise outcome
                case _:
                    done.committed += 1
                    hints.hint(action.hint)
        if done.unavailable is not None:
            break
    return done
