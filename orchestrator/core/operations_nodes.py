"""What operators' calls on nodes do to rows: commit, retry, exclude, write off, maintenance.

Rules
1. A call names its nodes; if one of them cannot be done, nothing is done, and the error says
   which and why. Without names, every node that fits is meant.
2. Nobody takes a node with an open attempt out of a rollout.
3. A write-off is for nodes that cannot speak for themselves: a linked one is refused.
4. What a call found of a node that it does not write (its attempt, that it is excluded already) is
   guarded; the rollout's row is written with every word on its members (operations.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import staging
from orchestrator.core.model import (
    Change,
    DesiredCommit,
    Maintenance,
    MemberRow,
    NewEvent,
    NodeRow,
    RolloutRow,
    Row,
    guarding,
)
from orchestrator.core.operations_table import Operation, admit, shown_state
from orchestrator.core.phases import Goal, Link, Outcome, Phase, WaveState
from orchestrator.core.selectors import near
from orchestrator.core.settlement import NO_TRIES
from orchestrator.core.standing import NEEDS_WORD, is_open
from orchestrator.errors import Blocked, InvalidSpec, NotFound, Violation

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

FEW = 5
"""Node names in a message; the rest is a count."""


@dataclass(frozen=True, slots=True)
class OnNodes:
    """A change, and the nodes that it is about."""

    change: Change
    nodes: tuple[str, ...]


def find_rollout(fleet: Fleet, rollout_id: str) -> RolloutRow:
    """By name. NotFound with near misses."""
    rollout = fleet.rollout_named(rollout_id)
    if rollout is None:
        like = near(rollout_id, fleet.rollouts)
        raise NotFound(
            f"there is no rollout {rollout_id}",
            remedy=f"Did you mean {' or '.join(like)}?" if like else "See `liveroll list`.",
            rollout=rollout_id,
        )
    return rollout


def find_node(fleet: Fleet, node_id: str) -> NodeRow:
    """NotFound with near misses."""
    node = fleet.nodes.get(node_id)
    if node is None:
        like = near(node_id, fleet.nodes)
        raise NotFound(
            f"there is no node {node_id}",
            remedy=f"Did you mean {' or '.join(like)}?" if like else "See `liveroll nodes`.",
            node=node_id,
        )
    return node


def commit_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    """nodes empty: all that are updated and uncommitted."""
    rollout = _admitted(fleet, rollout_id, Operation.COMMIT)
    chosen = _chosen(fleet, rollout, nodes, lambda m: _baking(fleet, m))
    done, refused, writes = [], {}, []
    guards = [guarding(rollout)]
    for member in chosen:
        node = find_node(fleet, member.node_id)
        attempt = fleet.newest_attempt(member.node_id)
        if attempt is not None and attempt.rollout_id == rollout.rollout_id:
            guards.append(guarding(attempt))
            if attempt.phase is Phase.COMMITTED:
                continue
            if attempt.phase is Phase.BAKING:
                writes.append(
                    replace(
                        node,
                        desired=DesiredCommit(attempt.generation),
                        command_serial=node.command_serial + 1,
                    )
                )
                done.append(member.node_id)
                continue
        refused[member.node_id] = "it is not updated and uncommitted"
    _refuse(refused, "NOT_UNCOMMITTED", "Only nodes that bake can be committed (`liveroll get`).")
    events = _events("node.commit_wanted", rollout, done, reason, actor)
    return OnNodes(Change(tuple(writes), tuple(guards), events), tuple(done))


def retry_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    """nodes empty: all that have failed. By name also those that were rolled back, and those whose
    turn waits for a person's word about an earlier attempt, or about an artifact that the node could
    not stage.

    It is a person's word that the node may be tried again: after QUARANTINED, COLD_BOOTED or
    LOST nothing else begins an attempt. A rollout that ended FAILED goes on.
    """
    rollout = _admitted(fleet, rollout_id, Operation.RETRY)
    chosen = _chosen(fleet, rollout, nodes, lambda m: m.outcome is Outcome.FAILED)
    again: list[MemberRow] = []
    staged: list[NodeRow] = []
    as_is: list[Row] = []
    refused = {}
    for member in chosen:
        forward = member.outcome is Outcome.ROLLED_BACK and rollout.goal is Goal.FORWARD
        if member.outcome is Outcome.FAILED or forward:
            again.append(
                replace(
                    member,
                    outcome=Outcome.PENDING,
                    reason="",
                    tries=NO_TRIES,
                    not_before=None,
                    operator_word=True,
                    retries=member.retries + 1,
                )
            )
        elif member.outcome is Outcome.PENDING:
            newest = fleet.newest_attempt(member.node_id)
            as_is += [newest] if newest is not None else []
            if newest is not None and newest.phase in NEEDS_WORD and not member.operator_word:
                again.append(replace(member, operator_word=True))
            elif staging.is_held(find_node(fleet, member.node_id), rollout, fleet.policy, now)[0]:
                staged.append(staging.asked(find_node(fleet, member.node_id)))
                as_is.append(member)
            else:
                as_is.append(member)
        else:
            refused[member.node_id] = f"it is {member.outcome}"
    _refuse(refused, "NOT_FAILED", "Only failed nodes can be tried again.")
    if not again and not staged:
        return OnNodes(unchanged(rollout, *as_is), ())
    done = (*(m.node_id for m in again), *(n.node_id for n in staged))
    events = _events("node.retry_wanted", rollout, done, reason, actor)
    writes: tuple[Row, ...] = (*again, *staged, _reopened(rollout, again))
    return OnNodes(Change(writes, unchanged(*as_is).guards, events), done)


def exclude_nodes(
    fleet: Fleet, rollout_id: str, nodes: Sequence[str], reason: str, actor: str, now: datetime
) -> OnNodes:
    """Nodes that have not had their turn, or have failed, no longer take part."""
    rollout = _admitted(fleet, rollout_id, Operation.EXCLUDE)
    if not nodes:
        raise InvalidSpec([Violation("nodes", "there is none", "Name the nodes to leave out.")])
    out: list[MemberRow] = []
    as_is: list[Row] = []
    refused = {}
    for member in _chosen(fleet, rollout, nodes, lambda m: True):
        attempt = fleet.newest_attempt(member.node_id)
        as_is += [attempt] if attempt is not None else []
        if attempt is not None and is_open(attempt) and attempt.rollout_id == rollout.rollout_id:
            refused[member.node_id] = f"its attempt {attempt.generation} is {attempt.phase}"
        elif member.outcome in (Outcome.PENDING, Outcome.FAILED) and not member.crossed:
            why = reason or f"asked for by {actor}"
            out.append(replace(member, outcome=Outcome.EXCLUDED, reason=why, not_before=None))
        elif member.outcome not in (Outcome.EXCLUDED, Outcome.WRITTEN_OFF):
            word = "it may run the new kernel" if member.crossed else f"it is {member.outcome}"
            refused[member.node_id] = word
        else:
            as_is.append(member)
    _refuse(
        refused,
        "CANNOT_EXCLUDE",
        "Wait until its attempt settles, or cancel or roll back the rollout; a node that is gone for good "
        "is written off.",
    )
    if not out:
        return OnNodes(unchanged(rollout, *as_is), ())
    done = tuple(m.node_id for m in out)
    events = _events("node.excluded", rollout, done, reason, actor)
    return OnNodes(Change((*out, rollout), unchanged(*as_is).guards, events), done)


def write_off(fleet: Fleet, nodes: Sequence[str], reason: str, actor: str, now: datetime) -> OnNodes:
    """Lost nodes no longer count. The next Hello of one ends its write-off."""
    rows = [find_node(fleet, n) for n in dict.fromkeys(nodes)]
    wrong = []
    if not nodes:
        wrong.append(Violation("nodes", "there is none", "Name the nodes to write off."))
    if not reason.strip():
        wrong.append(Violation("reason", "it is missing", "Say why they no longer count: it is audited."))
    if wrong:
        raise InvalidSpec(wrong)
    refused = {}
    for node in rows:
        link = fleet.link(node.node_id, now)
        if link is Link.UP:
            refused[node.node_id] = "it is linked"
        elif link is Link.UNKNOWN:
            refused[node.node_id] = (
                "it has not been heard of since the orchestrator that it was linked to ended"
            )
    _refuse(
        refused,
        "NODE_NOT_LOST",
        "Use maintenance or exclude for a node that lives; wait for the grace after an orchestrator's end.",
    )
    writes = [replace(n, written_off=reason) for n in rows if n.written_off != reason]
    as_is = unchanged(*(n for n in rows if n.written_off == reason))
    events = tuple(
        NewEvent(
            "node.written_off",
            f"{n.node_id} is written off: {reason}",
            node_id=n.node_id,
            actor=actor,
            cause=reason,
        )
        for n in writes
    )
    return OnNodes(Change(tuple(writes), as_is.guards, events), tuple(n.node_id for n in rows))


def set_maintenance(
    fleet: Fleet, nodes: Sequence[str], maintenance: Maintenance | None, actor: str, now: datetime
) -> OnNodes:
    """maintenance None ends it."""
    rows = [find_node(fleet, n) for n in dict.fromkeys(nodes)]
    wrong = [] if nodes else [Violation("nodes", "there is none", "Name the nodes.")]
    if maintenance is not None:
        for name in ("owner", "reason"):
            if not getattr(maintenance, name).strip():
                wrong.append(
                    Violation(f"maintenance.{name}", "it is missing", "Say who and why: it is audited.")
                )
        if maintenance.expires_at is not None and maintenance.expires_at <= now:
            wrong.append(
                Violation("maintenance.expire_time", "it is in the past", "Give a later time, or none.")
            )
    if wrong:
        raise InvalidSpec(wrong)
    if maintenance is not None:
        open_ = {n.node_id: fleet.open_attempt(n.node_id) for n in rows}
        _refuse(
            {n: f"its attempt {a.generation} is {a.phase}" for n, a in open_.items() if a is not None},
            "ATTEMPT_OPEN",
            "Wait until the attempt settles, or cancel its rollout.",
        )
    writes = [replace(n, maintenance=maintenance) for n in rows if n.maintenance != maintenance]
    as_is = unchanged(*(n for n in rows if n.maintenance == maintenance))
    word = (
        f"in maintenance: {maintenance.reason} ({maintenance.owner})" if maintenance else "out of maintenance"
    )
    why = maintenance.reason if maintenance else ""
    events = tuple(
        NewEvent("node.maintenance", f"{n.node_id} is {word}", node_id=n.node_id, actor=actor, cause=why)
        for n in writes
    )
    return OnNodes(Change(tuple(writes), as_is.guards, events), tuple(n.node_id for n in rows))


def _admitted(fleet: Fleet, rollout_id: str, operation: Operation) -> RolloutRow:
    rollout = find_rollout(fleet, rollout_id)
    admit(rollout, shown_state(rollout, fleet.members(rollout.rollout_id).values()), operation)
    return rollout


def _baking(fleet: Fleet, member: MemberRow) -> bool:
    if member.outcome not in (Outcome.BAKING, Outcome.UNCOMMITTED):
        return False
    attempt = fleet.newest_attempt(member.node_id)
    return attempt is not None and attempt.generation == member.generation and attempt.phase is Phase.BAKING


def _chosen(
    fleet: Fleet, rollout: RolloutRow, names: Sequence[str], fits: Callable[[MemberRow], bool]
) -> list[MemberRow]:
    members = fleet.members(rollout.rollout_id)
    if not names:
        return sorted((m for m in members.values() if fits(m)), key=lambda m: m.position)
    chosen = []
    for name in dict.fromkeys(names):
        member = members.get(name)
        if member is None:
            like = near(name, members)
            raise NotFound(
                f"{name} is no member of rollout {rollout.rollout_id}",
                remedy=f"Did you mean {' or '.join(like)}?" if like else "See `liveroll get`.",
                node=name,
                rollout=rollout.rollout_id,
            )
        chosen.append(member)
    return chosen


def _refuse(refused: dict[str, str], reason: str, remedy: str) -> None:
    if not refused:
        return
    told = "; ".join(f"{node}: {why}" for node, why in list(refused.items())[:FEW])
    more = f"; and {len(refused) - FEW} more" if len(refused) > FEW else ""
    raise Blocked(told + more, reason=reason, remedy=remedy, nodes=",".join(refused))


def unchanged(*rows: Row) -> Change:
    """Nothing to write, because of these rows: it stands only as long as they do."""
    return Change(guards=tuple(guarding(row) for row in rows))


def _events(
    kind: str, rollout: RolloutRow, nodes: Sequence[str], reason: str, actor: str
) -> tuple[NewEvent, ...]:
    verb = kind.partition(".")[2].replace("_", " ")
    return tuple(
        NewEvent(
            kind,
            f"{node}: {verb} by {actor}" + (f": {reason}" if reason else ""),
            rollout_id=rollout.rollout_id,
            node_id=node,
            actor=actor,
            cause=reason,
        )
        for node in nodes
    )


def _reopened(rollout: RolloutRow, again: Sequence[MemberRow]) -> RolloutRow:
    """The rollout goes on, and a wave that has settled is open again."""
    here = any(m.wave >= rollout.wave for m in again)
    ended = rollout.ended_at is not None
    settled = rollout.wave_state in (WaveState.BAKING, WaveState.GATED, WaveState.PASSED)
    if not ended and not (here and settled):
        return rollout
    return replace(
        rollout,
        ended_at=None,
        ended_as="",
        wave_state=WaveState.RUNNING if settled else rollout.wave_state,
        wave_settled_at=None if settled else rollout.wave_settled_at,
    )
