"""What a Hello alone says of the node's newest attempt, before any report of it is replayed.

transitions.hello makes the Change; nothing here writes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import link_gap
from orchestrator.core.facts import Arrival
from orchestrator.core.messages import Hello, Report
from orchestrator.core.model import AttemptRow, NodeRow, Problem, Sample
from orchestrator.core.phases import SETTLED, Phase
from orchestrator.core.transitions_attempt import Learnt, add_sample, learn, never_started
from orchestrator.errors import Retry

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

REWOUND = Problem(
    "JOURNAL_REWOUND",
    Retry.FIX_STATE,
    "the node knows nothing of the attempt that it has told of: its journal is older than that",
    "Its disk was copied or restored. See that one machine runs under this name, look at the workloads, "
    "then retry the node by name.",
)


def gap_of(
    fleet: Fleet, known: NodeRow | None, message: Hello, now: datetime, came: Arrival | None
) -> Sample | None:
    """The blackout that this Hello ends, as the link saw it; None if it ends none, or was seen."""
    attempt = fleet.newest_attempt(message.node_id)
    if attempt is None or any(s.vantage == link_gap.VANTAGE for s in attempt.samples):
        return None
    return link_gap.blackout(
        known,
        attempt,
        message,
        fleet.last_heard(message.node_id),
        replica=fleet.replicas.mine if fleet.replicas is not None else "",
        heartbeat=fleet.policy.active_heartbeat,
        now=now,
        came=came,
    )


def seen_again(
    fleet: Fleet, known: NodeRow | None, node: NodeRow, message: Hello, gap: Sample | None, now: datetime
) -> Learnt | None:
    """What a Hello alone proves of the newest attempt: the gap in its link over a kexec, which gap_of
    gave, and what _proved says."""
    attempt = fleet.newest_attempt(node.node_id)
    if attempt is None:
        return None
    if gap is None:
        return _proved(attempt, known, node, message, now)
    measured = replace(attempt, samples=add_sample(attempt.samples, (gap,)))
    return _proved(measured, known, node, message, now) or Learnt(measured, ())


def _proved(
    attempt: AttemptRow, known: NodeRow | None, node: NodeRow, message: Hello, now: datetime
) -> Learnt | None:
    """That a PREPARE never started (its CANCEL has raised the floor, or the node was LOST before it
    came); that a LOST node lives, or that the attempt is over, if it has no report left that would say so;
    that a baking node's health has changed; that a node has lost its journal, or has got an older one back,
    and with it all knowledge of what it was doing.
    """
    said = message.status
    mine = said.attempt is not None and said.attempt.generation == attempt.generation
    under_way = attempt.phase not in SETTLED or attempt.phase is Phase.BAKING
    afresh = known is not None and known.installation_id not in ("", node.installation_id)
    forgot = said.attempt is None and (afresh or said.phase is Phase.QUARANTINED)
    # What it has told of it has synced before: an attempt above its floor was journalled elsewhere.
    before = said.attempt is None or said.attempt.generation < attempt.generation
    rewound = before and not afresh and message.highest_generation < attempt.generation
    if (forgot or rewound) and attempt.acknowledged and under_way:
        problem = REWOUND if rewound and said.problem is None else said.problem
        broken = replace(message, status=replace(said, phase=Phase.QUARANTINED, problem=problem))
        return told_by(attempt, broken, "JournalLost", now)
    if before and not attempt.acknowledged:
        floor_raised = message.highest_generation >= attempt.generation
        if attempt.phase is Phase.LOST or (attempt.phase is Phase.LOADING and floor_raised):
            return never_started(attempt, None, now)
    if attempt.phase is Phase.BAKING and known is not None and known.healthy is not node.healthy:
        return Learnt(baking_edge(attempt, node.healthy, now), ())
    # Its reports have the numbers of another machine's, which had a copy of its journal: taken for old ones,
    # none of them was read. QUARANTINED does not say that it is over: an agent that can write nothing says
    # so of an attempt that it will undo once it can, and that keeps its blackout slot until then.
    unheard = attempt.phase not in SETTLED and said.phase in SETTLED - {Phase.QUARANTINED}
    if (attempt.phase is Phase.LOST or unheard) and mine and said.seq <= node.acknowledged_seq:
        return told_by(attempt, message, "Returned", now)
    return None


def told_by(attempt: AttemptRow, message: Hello, event: str, now: datetime) -> Learnt:
    """A Hello taken for a report on the attempt; the reports' own seq stays as it was."""
    said = message.status
    mine = said.attempt is not None and said.attempt.generation == attempt.generation
    remembered = message.memory.verdict if message.memory is not None and mine else None
    told = Report(
        seq=max(attempt.seq + 1, said.seq),
        event=event,
        phase=said.phase,
        attempt=said.attempt,
        problem=said.problem,
        boot_id=message.boot_id,
        release=message.release,
        healthy=said.healthy,
        boot_verdict=remembered or message.boot_verdict,
    )
    learnt = learn(attempt, told, newest=True, now=now)
    return Learnt(replace(learnt.attempt, seq=attempt.seq), learnt.events)


def baking_edge(attempt: AttemptRow, healthy: bool, now: datetime) -> AttemptRow:
    """A bake counts from when the node is healthy again."""
    return replace(attempt, healthy_since=now if healthy else None)
