"""STAGE: artifacts fetched beside the saga, a few at a time, each once at a time, and their preflight."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from node_agent.core.commands import Stage
from node_agent.core.model import Problem
from node_agent.core.report import StageResult
from node_agent.errors import AgentError, Retry
from node_agent.ports import Artifacts, StagedArtifact

log = logging.getLogger(__name__)

AT_ONCE = 2
"""One ahead of the node's turn and one for the next rollout; more only share the disk."""


async def _unchecked(_: StagedArtifact) -> None:
    """Nothing stands in the way."""


class Stages:
    """The stages under way. Their tasks belong to the caller's group.

    Args:
        check: what can be known ahead of the turn; raises AgentError.
    """

    def __init__(
        self, artifacts: Artifacts, check: Callable[[StagedArtifact], Awaitable[None]] = _unchecked
    ) -> None:
        self._artifacts = artifacts
        self._check = check
        self._refused: set[str] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._under_way: set[str] = set()
        self._done: dict[str, str] = {}

    def needless(self, command: Stage) -> bool:
        """It is under way, or this very command has been followed. One that failed is tried
        again whenever it is sent again."""
        digest = command.artifact.digest
        return digest in self._under_way or self._done.get(digest) == command.command_id

    def ready(self, staged: Sequence[str]) -> tuple[str, ...]:
        """Of the artifacts that are kept, those that Hello may call staged: not what preflight refused
        when it was last asked, which would be sent a PREPARE at once."""
        return tuple(digest for digest in staged if digest not in self._refused)

    async def stage(self, command: Stage) -> StageResult:
        """Fetch, verify, keep, and see whether this node can be taken into it."""
        digest = command.artifact.digest
        self._under_way.add(digest)
        try:
            async with self._slots:
                staged = await self._artifacts.stage(command.artifact)
                self._refused.add(digest)
                await self._check(staged)
        except AgentError as error:
            return StageResult(digest, verified=False, problem=Problem.of(error))
        except Exception as error:  # an artifact must not end the agent in the middle of an attempt
            log.exception("staging %s failed in a way nobody foresaw", digest)
            return StageResult(digest, verified=False, problem=_unforeseen(error))
        finally:
            self._under_way.discard(digest)
        self._refused.discard(digest)
        self._done[digest] = command.command_id
        return StageResult(digest, verified=True)


def _unforeseen(error: Exception) -> Problem:
    return Problem(
        "INTERNAL",
        Retry.FIX_STATE,
        f"staging failed with {type(error).__name__}",
        "Check the artifact's URL; read the agent's log for the traceback, and report it.",
        {"error": repr(error)},
    )
