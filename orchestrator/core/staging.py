"""When a STAGE that failed is tried again, by what its error asks for.

Rules
1. CALL: after a backoff that doubles from `stage_retry` up to `stage_retry_max`, with the node's own
   jitter, so that nodes which failed together do not come back together.
2. REPLAN: when what the plan is made of has changed, which the node's next Hello brings; and, as
   another try may fare better, after `stage_retry_max`.
3. FIX_STATE and NEVER: nothing repeats them by itself. The node says Hello anew (its agent or its
   kernel has started again, or its link came back), or a person has said so: by a retry, or by a
   rollout made since.
4. Another artifact is another matter: what failed is remembered with its digest.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from orchestrator.core import backoff
from orchestrator.core.model import NodeRow, Problem, RolloutRow
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import RetryRule
from orchestrator.errors import Retry


def failed(node: NodeRow, digest: str, problem: Problem | None, now: datetime) -> NodeRow:
    """The node could not stage the artifact."""
    return replace(
        node,
        staged=node.staged - {digest},
        stage_problem=problem,
        stage_problem_digest=digest,
        stage_failed_at=now,
        stage_failures=node.stage_failures + 1,
        stage_failed_epoch=node.link_epoch,
    )


def begun(node: NodeRow, digest: str) -> NodeRow:
    """The node is told to stage the artifact: how often it has failed counts on, of this one."""
    if node.stage_problem_digest == digest:
        return replace(node, stage_problem=None, stage_problem_digest="", stage_failed_at=None)
    return replace(node, stage_failures=0)


def asked(node: NodeRow) -> NodeRow:
    """A person wants it tried again: at once, and as if for the first time."""
    return replace(node, stage_failed_at=None, stage_failures=0)


def is_held(
    node: NodeRow, rollout: RolloutRow, policy: FleetPolicy, now: datetime
) -> tuple[bool, datetime | None]:
    """Whether a failure keeps the rollout's artifact from being staged on the node now, and until
    when (None: until somebody does something)."""
    at = node.stage_failed_at
    if node.stage_problem_digest != rollout.artifact.digest or at is None or rollout.created_at > at:
        return False, None
    wait = _wait(node, policy)
    if wait is not None and now >= at + wait:
        return False, None
    anew = node.link_epoch != node.stage_failed_epoch and _retry(node) is not Retry.CALL
    return (False, None) if anew else (True, None if wait is None else at + wait)


def _retry(node: NodeRow) -> Retry:
    return Retry.CALL if node.stage_problem is None else node.stage_problem.retry


def _wait(node: NodeRow, policy: FleetPolicy) -> timedelta | None:
    most = max(policy.stage_retry_max, policy.stage_retry)
    match _retry(node):
        case Retry.CALL:
            rule = RetryRule(attempts=1, backoff=policy.stage_retry, max_backoff=most)
            return backoff.delay(rule, max(node.stage_failures, 1), "stage", node.node_id)
        case Retry.REPLAN:
            return most
        case _:
            return None
