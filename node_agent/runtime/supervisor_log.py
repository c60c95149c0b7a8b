"""The agent's log: structlog on stderr, as lines for people or as JSON.

Rules:
- structlog is imported with the first line that is shown (0.1 s), never to decide that none is.
- An event is a short sentence, what varies is a field; fields whose names speak of secrets are
  masked, whatever they hold.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SECRET = ("token", "secret", "password", "private", "key_pem", "authorization")


class Log:
    """One log. Bound fields go with each line.

    Args:
        style: console or json.
        level: the least that is shown.
    """

    __slots__ = ("_fields", "_level", "_made", "_style")

    def __init__(self, style: str, level: str, **fields: object) -> None:
        self._style = style
        self._level = LEVELS[level]
        self._fields = fields
        self._made: Any = None

    def bind(self, **fields: object) -> Log:
        """The same log with more fields on each line."""
        made = Log(self._style, "info", **{**self._fields, **fields})
        made._level = self._level
        return made

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What an operator wants to see in passing."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Something to look at, some time."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Something that a person must mend."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        if LEVELS[level] < self._level:
            return
        if self._made is None:
            self._made = _make(self._style).bind(**_mask(self._fields))
        getattr(self._made, level)(event, **_mask(fields))


def _mask(fields: Mapping[str, object]) -> dict[str, object]:
    return {k: "…" if any(word in k.lower() for word in _SECRET) else v for k, v in fields.items()}


def _make(style: str) -> Any:
    import structlog

    renderer: Any
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.BoundLogger,
    )
