"""When a retry may begin: exponential backoff with jitter that is a function of who retries.

No randomness: the jitter is drawn from a hash of the ids, so that a plan is reproducible and
nodes that failed together do not come back together.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from orchestrator.core.spec import RetryRule

SPREAD = 0.25
"""Share of the delay that jitter adds at most. Less would let a herd return as one; more
would only make a retry later than its rule says."""


def share(*ids: str) -> float:
    """A number in [0, 1) that depends on nothing but the ids."""
    digest = hashlib.sha256("\0".join(ids).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def delay(rule: RetryRule, failures: int, *ids: str) -> timedelta:
    """How long to wait after the given number of failures (≥ 1): backoff doubled with each,
    at most max_backoff, plus up to a quarter of jitter."""
    doubled: timedelta = rule.backoff * (1 << min(failures - 1, 30))
    base = min(doubled, max(rule.max_backoff, rule.backoff))
    return base * (1 + SPREAD * share(*ids))
