"""What the services log as errors are failures here: nothing may go wrong that only the log knows."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import structlog

from node_agent.runtime.supervisor_log import Log

if TYPE_CHECKING:
    from tests.sim.world import World


@contextmanager
def watched_logs(world: World) -> Iterator[None]:
    """Errors that a service only logs are failures here."""

    def processor(_: Any, method: str, event: Any) -> Any:
        if method in ("error", "exception", "critical") and not _expected(event):
            text = f"{event.get('event')} { ({k: str(v) for k, v in event.items() if k != 'exc_info'}) }"
            info = event.get("exc_info")
            error = info if isinstance(info, BaseException) else sys.exc_info()[1]
            if error is not None:
                text += "\n" + "".join(traceback.format_exception(error))
            with suppress(RuntimeError):
                world.violated("LOG", text)
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[processor])
    handler = _Handler(world)
    logger = logging.getLogger("node_agent")
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    collecting = gc.isenabled()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        structlog.configure(**before)
        if collecting:
            gc.enable()


EXPECTED = frozenset({"an invariant is violated", "the fleet could not be stopped"})
"""Told by the checker as well, with its nodes."""


def _expected(event: Any) -> bool:
    """A database that went back in time is no fault of the service's."""
    return event.get("event") in EXPECTED or event.get("reason") in ("STORE_REGRESSED", "STORE_REPLACED")


class _Handler(logging.Handler):
    """The agent's own log."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            error = record.exc_info[1]
            text = "".join(traceback.format_exception(error)) if error is not None else ""
            self._world.violated("LOG", f"{record.getMessage()}\n{text}")


class QuietLog(Log):
    """The journal tells the story already."""

    def __init__(self) -> None:
        super().__init__("console", "error")

    def _write(self, level: str, event: str, fields: Any) -> None:
        return
