"""What luoctl and its parts agree on. Standard library only, and little of it: every verb imports this."""

from __future__ import annotations

FD_ENV = "LUOCTL_FD"
"""Of a command that inherits a restored file: the number of its descriptor."""
TOKEN_ENV = "LUOCTL_TOKEN"  # noqa: S105 - a number of the kernel's


class Unusable(Exception):
    """A file or command that cannot be used; nothing was asked of the agent."""
