"""Which version this agent is."""

from __future__ import annotations

from functools import cache


@cache
def version() -> str:
    """Of the installed distribution; "unknown" in a bare source tree."""
    # Imported here: it costs 20 ms, and only those who ask should pay, once.
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("liveroll")
    except PackageNotFoundError:
        return "unknown"
