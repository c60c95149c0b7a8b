"""What preflight finds in the way: each finding says what is missing and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.errors import Retry, StepFailed


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way."""

    reason: str
    """Stable; docs/operations.md explains each."""
    message: str
    remedy: str
    retry: Retry = Retry.FIX_STATE


def refusal(findings: Sequence[Finding]) -> StepFailed:
    """One error for all findings; the least hopeful retry class of them."""
    first = findings[0]
    order = (Retry.CALL, Retry.REPLAN, Retry.FIX_STATE, Retry.NEVER)
    return StepFailed(
        "; ".join(finding.message for finding in findings),
        reason=first.reason,
        retry=max((finding.retry for finding in findings), key=order.index),
        remedy=" ".join(dict.fromkeys(finding.remedy for finding in findings)),
        findings=",".join(finding.reason for finding in findings),
    )


def mib(count: int) -> str:
    """Bytes for people."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 10 << 30 else f"{count / (1 << 20):.1f} MiB"
