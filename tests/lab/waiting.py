"""Waits for what can be seen, never for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deploy.lab.errors import LabError

T = TypeVar("T")

WAIT_S = 180.0
"""Far beyond what anything takes on an idle machine; a test that waits so long has failed."""
POLL_S = 0.2


async def until(look: Callable[[], Awaitable[T]], what: str, *, timeout_s: float = WAIT_S) -> T:
    """What `look` returns once that is true. A guest that does not answer is looked at again.

    Raises AssertionError with what was seen last.
    """
    seen: object = None
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    seen = found = await look()
                    if found:
                        return found
                except LabError as error:
                    seen = error
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(f"never within {timeout_s:g} s: {what}; at last {seen!r}") from None
