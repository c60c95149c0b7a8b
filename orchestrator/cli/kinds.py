"""Every kind of event, with what it says; for completion, and for docs/events.md, which a test compares.

What an agent journals of an attempt comes as `attempt.` and its event in snake case.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

KINDS: Mapping[str, str] = MappingProxyType({})
