"""LUO driven by hand (luoctl), beside any attempt.

Rules
1. A deed is done in the runner's own turn: none begins while an attempt is under way, and no attempt begins
   while one is being done.
2. It is in the journal, and so in the story, before it is done; if it fails, that is there too.
3. It is bounded. What the kernel made of one that took too long, nobody knows.

Not here: which deeds there are (app_luo).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from node_agent.core.attempt import KexecByHand
from node_agent.core.model import BY_HAND, Problem
from node_agent.core.phases import SETTLED, Phase
from node_agent.errors import AgentError, CommandRefused, JournalUnavailable, KernelError, Retry
from node_agent.ports import Clock, Journal
from node_agent.runtime.runner_items import BUSY
from node_agent.runtime.runner_ledger import Ledger
from node_agent.runtime.runner_step import within

T = TypeVar("T")
log = logging.getLogger(__name__)

LIMIT_S = 120.0
"""Preparing is the slowest: the lab's 48 GiB took half a second."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something to do to LUO.

    verb: luoctl's. kexec: what the next boot must know of one; it is not cut short from here.
    """

    verb: str
    do: Callable[[], Coroutine[Any, Any, object]]
    done: asyncio.Future[object]
    kexec: KexecByHand | None = None


async def in_turn(
    inbox: asyncio.Queue[Any],
    trouble: Problem | None,
    verb: str,
    do: Callable[[], Coroutine[Any, Any, T]],
    kexec: KexecByHand | None = None,
) -> T:
    """Have the runner do it, and wait until it has.

    Args:
        trouble: why the runner does nothing any more.

    Raises:
        CommandRefused: ATTEMPT_UNDER_WAY, the inbox is full, or there is trouble.
        AgentError: do()'s own.
    """
    deed = Deed(verb, do, asyncio.get_running_loop().create_future(), kexec)
    if trouble is None:
        try:
            inbox.put_nowait(deed)
        except asyncio.QueueFull:
            trouble = BUSY
    if trouble is not None:
        raise CommandRefused(
            trouble.message, reason=trouble.reason, retry=trouble.retry, remedy=trouble.remedy
        )
    return cast("T", await deed.done)


async def perform(deed: Deed, phase: Phase, ledger: Ledger, journal: Journal, clock: Clock) -> None:
    """Do it, or say why not; `done` gets the result, or the error.

    Raises:
        JournalUnavailable: it failed: nothing can be promised any more.
    """
    if deed.done.done():
        return  # whoever asked has gone before its turn came
    try:
        if phase not in SETTLED:
            raise under_way(deed.verb, phase)
        await journal.ensure_room()
    except AgentError as error:
        deed.done.set_exception(error)
        return
    try:
        result = await _perform(deed, ledger, clock)
    except AgentError as error:
        if not deed.done.done():
            deed.done.set_exception(error)
        if isinstance(error, JournalUnavailable):
            raise
    else:
        if not deed.done.done():
            deed.done.set_result(result)


async def _perform(deed: Deed, ledger: Ledger, clock: Clock) -> object:
    told = _told(deed.verb, "somebody drives LUO by hand")
    await ledger.by_hand(f"ByHand{deed.verb.capitalize()}", told, deed.kexec)
    try:
        return await within(clock, LIMIT_S if deed.kexec is None else None, deed.do())
    except TimeoutError:
        late = CommandRefused(
            f"{deed.verb} was not done within {LIMIT_S:g} s",
            reason="BY_HAND_TIMEOUT",
            retry=Retry.FIX_STATE,
            remedy="The kernel may hang in it: see `luoctl state` and its log; if so, reboot in full (cold).",
        )
        await _failed(deed, ledger, late)
        raise late from None
    except AgentError as error:
        await _failed(deed, ledger, error)
        raise
    except Exception as cause:
        log.exception("luoctl %s failed in a way nobody foresaw", deed.verb)
        unforeseen = CommandRefused(
            f"{deed.verb} failed with {type(cause).__name__}",
            reason="INTERNAL",
            retry=Retry.FIX_STATE,
            remedy="Read the agent's log for the traceback, and report it.",
        )
        await _failed(deed, ledger, unforeseen)
        raise unforeseen from cause


async def _failed(deed: Deed, ledger: Ledger, error: AgentError) -> None:
    errno = error.fields.get("errno", "") if isinstance(error, KernelError) else ""
    why = f"it failed with {errno or error.reason}"
    await ledger.by_hand(f"ByHand{deed.verb.capitalize()}Failed", _told(deed.verb, why))


def _told(verb: str, what: str) -> Problem:
    return Problem(BY_HAND, Retry.NEVER, f"luoctl {verb}: {what}", "See `luoctl story` and `luoctl list`.")


def under_way(verb: str, phase: Phase) -> CommandRefused:
    """LUO belongs to an attempt."""
    return CommandRefused(
        f"{verb} would disturb the attempt that is under way ({phase.value})",
        reason="ATTEMPT_UNDER_WAY",
        retry=Retry.FIX_STATE,
        remedy="Undo the attempt with `luoctl cancel`, or let it come to its end.",
        phase=phase.value,
    )
