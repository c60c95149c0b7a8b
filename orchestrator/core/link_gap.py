"""The blackout as the orchestrator's own link saw it: from the last word of the old boot to the
first Hello of the new one.

Rules
1. Only a boot that brought memory along ends a blackout (CROSSED); after any other there is no
   sample. Nor is there one of an attempt that its node has undone: that kexec was by hand.
2. Both ends are read on the monotonic clock of the process that listened. One that did not listen
   all the while (it was restarted, read its store anew, or the node was linked to another replica)
   cannot say: the sample is rejected, and never made again for that boot.
3. The node died somewhere between its last word and the beat that did not come. So the uncertainty
   is its heartbeat interval, or the longest wait between two of its words in this attempt where
   that was longer; never more than the whole silence. Where nothing was heard of workloads being
   stopped, the link may have been cut long before the jump: then it is the whole silence.
4. The end is when the node is linked again, so the time it takes to dial is in it: what the
   link saw is never shorter than what the host saw.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from orchestrator.core.facts import Arrival, Heard
from orchestrator.core.messages import Hello
from orchestrator.core.model import AttemptRow, NodeRow, Sample
from orchestrator.core.phases import BLIND, SETTLED, Phase, Verdict

VANTAGE = "link"
CLOCK = "link"
"""The listener's monotonic clock; no clock of the node has a part in it."""

CROSSED = frozenset({Verdict.LIVE_UPDATED, Verdict.WRONG_KERNEL, Verdict.FOREIGN_KEXEC})
"""A kexec that may have brought workloads along, whatever the attempt is worth."""

CLOCKS_AGREE = timedelta(seconds=1)
"""Wall and monotonic clock may differ so much over one silence. Beyond it, somebody set the clock or
the machine slept, and in its sleep the monotonic clock stands still."""


def heard_after(known: Heard | None, fact: Heard, attempt: AttemptRow | None) -> Heard:
    """`fact` with the longest wait between two words of the node in its open attempt.

    known: what was heard before it, in this process. attempt: the open one, if there is one.
    """
    if known is None or attempt is None:
        return fact
    before = known.widest if known.at >= attempt.opened_at else timedelta(0)
    return replace(fact, widest=max(before, fact.at - max(known.at, attempt.opened_at)))


def blackout(
    known: NodeRow | None,
    attempt: AttemptRow,
    message: Hello,
    heard: Heard | None,
    *,
    replica: str,
    heartbeat: timedelta,
    now: datetime,
    came: Arrival | None,
) -> Sample | None:
    """What this Hello says of the attempt's blackout; None if it ends none.

    known: the node as it was before this Hello. heard: its last word before, to this process, which
    is `replica`. heartbeat: how often it was asked to beat. now, came: when the Hello was taken, and when it
    came; where either end has no arrival, the wall clock counts.
    """
    if known is None or message.boot_id in ("", known.boot_id, attempt.expected_boot_id):
        return None
    if attempt.phase in SETTLED and attempt.phase is not Phase.LOST:
        return None
    if message.boot_verdict not in CROSSED or message.status.phase is Phase.ABORTED:
        return None
    if known.link_replica not in ("", replica):
        since = attempt.phase_at
        return _sample(attempt, now - since, now - since, _ELSEWHERE)
    if heard is None:
        since = attempt.phase_at
        return _sample(attempt, now - since, now - since, _NOT_LISTENING)
    silence = by_wall = now - heard.at
    if came is not None and heard.came is not None:
        silence = timedelta(seconds=came.monotonic_s - heard.came.monotonic_s)
        by_wall = came.wall - heard.came.wall
    uncertainty = silence
    if attempt.phase in BLIND or attempt.blackout_open_at is not None:
        uncertainty = min(silence, max(heartbeat, heard.widest))
    rejected = "" if abs(by_wall - silence) <= CLOCKS_AGREE else _CLOCK_WAS_SET
    return _sample(attempt, silence, uncertainty, rejected)


def told(sample: Sample) -> str:
    """For the event of the Hello: `link 3.214 s ± 3.214 s`."""
    text = f"{VANTAGE} {sample.duration.total_seconds():.3f} s"
    if sample.rejected:
        return f"{text} (rejected: {sample.rejected})"
    return f"{text} ± {sample.uncertainty.total_seconds():.3f} s"


def _sample(attempt: AttemptRow, duration: timedelta, uncertainty: timedelta, rejected: str) -> Sample:
    return Sample(
        vantage=VANTAGE,
        duration=max(duration, timedelta(0)),
        uncertainty=max(uncertainty, timedelta(0)),
        clock=CLOCK,
        rejected=rejected,
        emulated=attempt.artifact.emulated,
    )


_NOT_LISTENING = "the orchestrator began to listen while the node was silent"
_ELSEWHERE = "the node was linked to another replica before it fell silent"
_CLOCK_WAS_SET = "the orchestrator's clock was set while the node was silent"
