"""Doing one thing for many workloads at once, and saying all that went wrong.

Rules: one failure cancels the rest; whatever failed before the cancellation took hold is
named. A single failure is raised as it is; several become one BrokerError
(WORKLOADS_FAILED) whose fields name each workload with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TypeVar, cast

from node_agent.errors import AgentError, BrokerError, Retry

_T = TypeVar("_T")

_SEVERITY = (Retry.CALL, Retry.REPLAN, Retry.FIX_STATE, Retry.NEVER)


async def all_or_cancel(
    workloads: Iterable[str], do: Callable[[str], Coroutine[object, object, _T]]
) -> dict[str, _T]:
    """do(workload) for each at once; results by workload, in the order given.

    Raises the one AgentError, or BrokerError (WORKLOADS_FAILED) for several.
    """
    failures: dict[str, AgentError] = {}

    async def guarded(workload: str) -> _T:
        try:
            return await do(workload)
        except AgentError as error:
            failures[workload] = error
            raise

    tasks: dict[str, asyncio.Task[_T]] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for workload in workloads:
                tasks[workload] = group.create_task(guarded(workload))
    except* AgentError:
        pass  # Python before 3.11.4 would wrap what is raised in here into a group of its own
    raise_failures(failures)
    return {workload: task.result() for workload, task in tasks.items()}


async def all_to_the_end(
    workloads: Iterable[str], do: Callable[[str], Coroutine[object, object, _T]]
) -> dict[str, _T]:
    """Like all_or_cancel, but a failure stops nobody else: for undoing and for retrieving."""
    failures: dict[str, AgentError] = {}

    async def kept(workload: str) -> _T | None:
        try:
            return await do(workload)
        except AgentError as error:
            failures[workload] = error
            return None

    tasks: dict[str, asyncio.Task[_T | None]] = {}
    async with asyncio.TaskGroup() as group:
        for workload in workloads:
            tasks[workload] = group.create_task(kept(workload))
    raise_failures(failures)
    return {workload: cast("_T", task.result()) for workload, task in tasks.items()}


def raise_failures(failures: Mapping[str, AgentError]) -> None:
    """Nothing if there are none; see the module."""
    if not failures:
        return
    if len(failures) == 1:
        raise next(iter(failures.values()))
    worst = max((error.retry for error in failures.values()), key=_SEVERITY.index)
    raise BrokerError(
        "; ".join(f"{workload}: {error.message}" for workload, error in failures.items()),
        reason="WORKLOADS_FAILED",
        retry=worst,
        remedy=next((error.remedy for error in failures.values() if error.remedy), ""),
        **{f"workload_{workload}": error.reason for workload, error in failures.items()},
    )
