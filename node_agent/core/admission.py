"""Whether a command is accepted, already done, or refused: decided before the saga's table.

Rules
1. Generations only rise. A PREPARE is accepted only above the highest generation that was ever
   accepted or cancelled here; the same one again is answered with its state.
2. CANCEL raises that floor even where there is nothing to unwind.
3. PROCEED is obeyed in the boot of its stamp and before stamp + valid_for, or not at all.
4. One attempt at a time; what a settled attempt admits next is in ADMITS.
5. A refusal changes nothing, and names the state, the reason and the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.attempt import Attempt, NodeState
from node_agent.core.model import (
    LOCAL_INCARNATION,
    ArtifactRef,
    AttemptKind,
    AttemptRef,
    BootStamp,
    Lease,
    Method,
    Problem,
)
from node_agent.core.phases import SETTLED, Phase
from node_agent.core.steps import BEFORE_JUMP
from node_agent.errors import Retry


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin an attempt."""

    prepare: cmd.Prepare


@dataclass(frozen=True, slots=True)
class Deliver:
    """Give the event to the current attempt."""

    event: ev.Event


@dataclass(frozen=True, slots=True)
class RaiseFloor:
    """No PREPARE at or below this attempt's generation starts any more."""

    attempt: AttemptRef


@dataclass(frozen=True, slots=True)
class Fetch:
    """Stage an artifact, beside whatever the attempt does."""

    stage: cmd.Stage


@dataclass(frozen=True, slots=True)
class Done:
    """Already so; the node's status is the answer."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be followed."""

    problem: Problem


Decision = Begin | Deliver | RaiseFloor | Fetch | Done | Refuse

BOTH = frozenset(AttemptKind)
NONE: frozenset[AttemptKind] = frozenset()

ADMITS: Mapping[Phase, frozenset[AttemptKind]] = {
    Phase.IDLE: BOTH,
    Phase.BAKING: BOTH,
    Phase.COMMITTED: BOTH,
    Phase.ABORTED: BOTH,
    Phase.AWAITING_ROLLBACK: frozenset({AttemptKind.ROLLBACK}),
    Phase.QUARANTINED: NONE,
    Phase.COLD_BOOTED: NONE,
}
"""Which new attempts a settled state admits without an operator's word."""


def lease_valid(stamp: BootStamp, valid_for_s: float, boot_id: str, boottime_s: float) -> bool:
    """Whether a lease holds at this instant of this boot.

    A stamp from the future was never ours. Expiry itself is outside the lease.
    """
    if stamp.boot_id != boot_id or stamp.boottime_s > boottime_s:
        return False
    return boottime_s < stamp.boottime_s + valid_for_s


def lease_problem(lease: Lease, now: BootStamp) -> Problem | None:
    """Why the lease does not hold now; None if it does."""
    if lease_valid(lease.stamp, lease.valid_for_s, now.boot_id, now.boottime_s):
        return None
    fields = {
        "stamp_boot_id": lease.stamp.boot_id,
        "boot_id": now.boot_id,
        "late_by_s": f"{now.boottime_s - lease.stamp.boottime_s - lease.valid_for_s:.3f}",
    }
    if lease.stamp.boot_id != now.boot_id:
        text = "the stamp is of another boot"
    elif lease.stamp.boottime_s > now.boottime_s:
        text = "the stamp lies in this boot's future"
    else:
        text = "the lease has run out"
    return Problem(
        "LEASE_EXPIRED",
        Retry.REPLAN,
        text,
        "Send PROCEED again with the newest stamp; if it keeps being late, allow a longer proceed_lease.",
        fields,
    )


def classify_command(node: NodeState, command: cmd.LinkCommand, now: BootStamp) -> Decision:
    """Classify a command in every state of the node. Never raises."""
    match command:
        case cmd.Stage():
            return Fetch(command)
        case cmd.Prepare():
            return _prepare(node, command)
        case cmd.Proceed():
            return _proceed(node, command, now)
        case cmd.Cancel():
            return _cancel(node, command)
        case _:
            return _commit(node, command)


def resolve_local(
    node: NodeState, command: cmd.LocalCommand, node_id: str, now: BootStamp, command_line: str
) -> cmd.LinkCommand | Refuse:
    """What a luoctl command means as a command of the link.

    Args:
        command_line: the running kernel's, for a PREPARE that names none.
    """
    if isinstance(command, cmd.LocalPrepare):
        return cmd.Prepare(
            command_id=command.command_id,
            attempt=AttemptRef(node_id, node.highest_generation + 1, LOCAL_INCARNATION),
            kind=command.kind,
            artifact=ArtifactRef("", command.artifact_digest, "", ""),
            command_line=command.command_line or command_line,
            timeouts=command.timeouts,
            health_hold_s=command.health_hold_s,
            rollback_none=command.rollback_none,
            operator_word=command.operator_word,
            skip_preflight=command.skip_preflight,
        )
    if node.attempt is None:
        return Refuse(
            Problem(
                "NO_ATTEMPT",
                Retry.NEVER,
                "there is no attempt on this node",
                "Begin one with `luoctl prepare`, or let the orchestrator do it.",
            )
        )
    ref = node.attempt.ref
    match command:
        case cmd.LocalKexec():
            return cmd.Proceed(command.command_id, ref, now, command.valid_for_s)
        case cmd.LocalCancel():
            return cmd.Cancel(command.command_id, ref, command.reason)
        case _:
            return cmd.Commit(command.command_id, ref)


def _prepare(node: NodeState, command: cmd.Prepare) -> Decision:
    ref = command.attempt
    if node.attempt is not None and node.attempt.ref == ref:
        return Done()
    if ref.generation <= node.highest_generation:
        return _refuse(
            node,
            "STALE_GENERATION",
            Retry.REPLAN,
            f"generation {ref.generation} is not above {node.highest_generation}",
            "Prepare with a generation above the highest one that the node's Hello names.",
            highest_generation=str(node.highest_generation),
        )
    if node.phase not in SETTLED:
        return _refuse(
            node,
            "ATTEMPT_UNDER_WAY",
            Retry.REPLAN,
            f"attempt {_name(node)} is {node.phase}",
            "Wait until it settles, or cancel it first.",
        )
    if command.method is not Method.LIVE:
        return _refuse(
            node,
            "METHOD_UNSUPPORTED",
            Retry.NEVER,
            f"this agent cannot update by {command.method}",
            "Plan the rollout with method live.",
        )
    if not command.artifact.digest:
        return _refuse(
            node, "ARTIFACT_MISSING", Retry.NEVER, "no artifact is named", "Name the artifact by its digest."
        )
    if command.kind not in ADMITS[node.phase] and not command.operator_word:
        return _refuse(
            node,
            "NOT_ADMITTED",
            Retry.FIX_STATE,
            f"a node in {node.phase} admits no {command.kind.lower()} attempt",
            _WAY_OUT.get(node.phase, ""),
        )
    return Begin(command)


_WAY_OUT: Mapping[Phase, str] = {
    Phase.AWAITING_ROLLBACK: "Roll it back (`liveroll rollback`), or retry it by name (`liveroll retry`).",
    Phase.QUARANTINED: (
        "Mend what its problem names, reboot it if its device is poisoned, then retry it by name "
        "(`liveroll retry`, or `luoctl prepare DIGEST --force`)."
    ),
    Phase.COLD_BOOTED: (
        "Its workloads lost their memory: bring them back, then retry it by name "
        "(`liveroll retry`, or `luoctl prepare DIGEST --force`)."
    ),
}


def _proceed(node: NodeState, command: cmd.Proceed, now: BootStamp) -> Decision:
    attempt = node.attempt
    if attempt is None or attempt.ref != command.attempt:
        return _refuse_unknown(node, command.attempt)
    if attempt.phase is Phase.PRESERVED:
        lease = Lease(command.stamp, command.valid_for_s)
        problem = lease_problem(lease, now)
        return Deliver(ev.Proceeded(lease)) if problem is None else Refuse(problem)
    if attempt.phase in (Phase.LOADING, Phase.DRAINING, Phase.PRESERVING):
        return _refuse(
            node,
            "NOT_PRESERVED",
            Retry.CALL,
            f"the attempt is still {attempt.phase}",
            "Send PROCEED once the node has reported PRESERVED.",
        )
    if attempt.phase in (Phase.UNWINDING, Phase.ABORTED):
        return _refuse(
            node,
            "ATTEMPT_UNWOUND",
            Retry.REPLAN,
            f"the attempt is {attempt.phase}",
            "Begin a new attempt; this one will not jump any more.",
        )
    return Done()


def _cancel(node: NodeState, command: cmd.Cancel) -> Decision:
    attempt = node.attempt
    if attempt is None or attempt.ref != command.attempt:
        if command.attempt.generation > node.highest_generation:
            return RaiseFloor(command.attempt)
        return Done()
    if attempt.phase in BEFORE_JUMP and attempt.phase is not Phase.JUMPING:
        return Deliver(ev.CancelRequested(command.reason))
    if attempt.phase is Phase.UNWINDING or attempt.phase in SETTLED:
        return Done()
    return _refuse(
        node,
        "PAST_POINT_OF_NO_RETURN",
        Retry.NEVER,
        f"the attempt is {attempt.phase}",
        "Wait until it settles; then roll it back if it must not stay.",
    )


def _commit(node: NodeState, command: cmd.Commit) -> Decision:
    attempt = node.attempt
    if attempt is None or attempt.ref != command.attempt:
        return _refuse_unknown(node, command.attempt)
    if attempt.phase is Phase.COMMITTED or attempt.committing:
        return Done()
    if attempt.phase is Phase.BAKING:
        return Deliver(ev.CommitRequested())
    return _refuse(
        node,
        "NOT_BAKING",
        Retry.REPLAN,
        f"the attempt is {attempt.phase}",
        "Only a node in BAKING can be committed.",
    )


def _refuse_unknown(node: NodeState, ref: AttemptRef) -> Refuse:
    return _refuse(
        node,
        "UNKNOWN_ATTEMPT",
        Retry.REPLAN,
        f"generation {ref.generation} is not this node's attempt",
        "Look at the node's Hello for the attempt that it is in.",
    )


def _refuse(node: NodeState, reason: str, retry: Retry, message: str, remedy: str, **fields: str) -> Refuse:
    state = {"phase": node.phase.value, "attempt": _name(node)}
    return Refuse(Problem(reason, retry, message, remedy, {**state, **fields}))


def _name(node: NodeState) -> str:
    attempt: Attempt | None = node.attempt
    return attempt.ref.id if attempt is not None else ""
