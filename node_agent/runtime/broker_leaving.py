"""A workload that cannot be preserved: whom that is true of, and what is done about it by policy.

Rules
1. It says so (FAILED, or ERROR), it does not say READY in time, or it closes its connection before
   it said READY or after: all are the same, since nobody vouches for its session.
2. `refuse`, the default: the attempt is unwound, with a problem that names the workload.
3. `drain`: this node's command drain_workload moves it off, its session is closed, and the update goes
   on without it. A session that somebody still holds, or a command that fails, refuses after all.
4. Once all are preserved nobody is left behind any more: who dies then refuses, for its session
   is in the agent's own already. The next attempt asks whoever is there then.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from node_agent.core.model import Problem
from node_agent.errors import AgentError, BrokerError, Retry
from node_agent.workloads import protocol
from node_agent.workloads.hooks import CommandHooks

DrainWorkload = Callable[[str, str], Awaitable[None]]
"""(workload, why): moves it off this node. Raises AgentError."""

UNPRESERVABLE = frozenset(
    {
        "WORKLOAD_UNPRESERVABLE",
        "WORKLOAD_REFUSED",
        "WORKLOAD_TIMEOUT",
        "WORKLOAD_GONE",
        "WORKLOAD_DIED",
        "WORKLOAD_RESTARTED",
    }
)
"""Reasons that are the workload's; anything else (a full kernel, a session's name) is the node's."""

_ERRNO = re.compile(r"\bE[A-Z][A-Z0-9]{1,14}\b")


def by_command(hooks: CommandHooks) -> DrainWorkload:
    """This node's command drain_workload, with LIVEROLL_WORKLOAD and LIVEROLL_WHY in its environment."""

    async def drain(workload: str, why: str) -> None:
        # The workload's own words are in it: an environment takes no NUL, a log no control codes.
        said = "".join(c if c.isprintable() else " " for c in why)
        await hooks.demand("drain_workload", LIVEROLL_WORKLOAD=workload, LIVEROLL_WHY=said)

    return drain


def unpreservable(workload: str, said: protocol.Failed) -> BrokerError:
    """What FAILED means to whoever waits for READY."""
    found = _ERRNO.search(said.error)
    return BrokerError(
        f"workload {workload} cannot be preserved: {said.error or 'it did not say why'}",
        reason="WORKLOAD_UNPRESERVABLE",
        remedy=(
            f"Let {workload} keep its memory in files that this kernel can preserve (memfds), or set "
            'broker.unpreservable = "drain" and hooks.drain_workload on this node.'
        ),
        workload=workload,
        says=said.error,
        errno=found.group() if found is not None else "",
    )


def not_drained(workload: str, why: AgentError, error: AgentError) -> BrokerError:
    """The policy is to drain it, and that did not work either."""
    return BrokerError(
        f"workload {workload} cannot be preserved and could not be drained",
        reason="WORKLOAD_NOT_DRAINED",
        retry=error.retry,
        remedy=error.remedy or "Read the output of hooks.drain_workload, and run it by hand on this node.",
        **{**error.fields, "workload": workload, "preserving": why.message, "draining": error.message},
    )


def left_behind(why: AgentError) -> Problem:
    """As it is told with Preserved."""
    return Problem(
        why.reason,
        Retry.CALL,
        why.message,
        "It was drained by this node's drain_workload command, and the update went on without it.",
        dict(why.fields),
    )
