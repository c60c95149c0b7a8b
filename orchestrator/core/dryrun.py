"""What a rollout would do if it were created now: the same decisions, nothing written.

Left-out nodes are told from those that merely would have to wait at their turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from orchestrator.core import other_model, validate
from orchestrator.core.blocking_uncommitted import decisions
from orchestrator.core.cmdline import compose, ruled
from orchestrator.core.model import Artifact, NodeRow
from orchestrator.core.operations import resolved
from orchestrator.core.phases import SETTLED, Link, Outcome, Phase
from orchestrator.core.report import (
    BudgetUse,
    DryRun,
    KernelPairView,
    PlannedCommandLine,
    PlannedWave,
    SkippedNode,
)
from orchestrator.core.resolve import Membership
from orchestrator.core.spec import BlackoutGate, RolloutSpec
from orchestrator.core.standing import NEEDS_WORD

if TYPE_CHECKING:
    from orchestrator.core.fleet import Fleet

ATTEMPT = "<attempt>"
"""Stands for the attempt's id, which is not known before the attempt is."""


def dry_run(fleet: Fleet, spec: RolloutSpec, artifact: Artifact, now: datetime) -> DryRun:
    """InvalidSpec with every violation. A taken name is a warning: nothing is created."""
    membership = resolved(fleet, spec, artifact, now)
    members = [fleet.nodes[n] for wave in membership.waves for n in wave]
    waits = [s for node in members if (s := _waits(fleet, node, spec, artifact, now)) is not None]
    return DryRun(
        waves=tuple(
            PlannedWave(name, nodes)
            for name, nodes in zip(membership.wave_names, membership.waves, strict=True)
        ),
        pairs=tuple(
            KernelPairView(*pair, nodes=count, canary=membership.canaries.get(pair, ""))
            for pair, count in membership.pairs.items()
        ),
        skipped=tuple(sorted([*membership.skipped, *waits], key=lambda s: (s.waits, s.node_id))),
        budgets=tuple(_budgets(members, spec)),
        command_lines=_command_lines(members, spec, artifact),
        target_release=artifact.release,
        artifact_digest=artifact.digest,
        members=len(members),
        warnings=tuple(_warnings(fleet, spec, artifact, membership, members)),
    )


def _waits(
    fleet: Fleet, node: NodeRow, spec: RolloutSpec, artifact: Artifact, now: datetime
) -> SkippedNode | None:
    """What would keep a member waiting if its turn were now."""
    name = node.node_id
    newest = fleet.newest_attempt(name)
    if newest is not None and newest.phase is Phase.BAKING:
        other = fleet.rollouts.get(newest.rollout_id)
        member = fleet.member(newest.rollout_id, name)
        watched = other is not None and other.ended_at is None
        if watched and member is not None and member.outcome is Outcome.BAKING:
            return SkippedNode(name, "OTHER_ROLLOUT", f"{newest.rollout_id} watches it bake", waits=True)
        if node.release == artifact.release:
            verbs = ", or ".join(decisions(fleet, newest.rollout_id, name))
            text = f"it runs {artifact.release}, but {newest.rollout_id} has left it uncommitted"
            return SkippedNode(name, "NODE_UNCOMMITTED", f"{text}: {verbs}" if verbs else text, waits=True)
    if node.release == artifact.release:
        return SkippedNode(name, "ALREADY", f"it runs {artifact.release} already")
    if newest is not None and newest.phase not in SETTLED:
        return SkippedNode(
            name,
            "OTHER_ROLLOUT",
            f"{newest.rollout_id} has an open attempt on it ({newest.phase})",
            waits=True,
        )
    link = fleet.link(name, now)
    if link is not Link.UP:
        word = "it is not linked" if link is Link.DOWN else "it has not been heard of yet"
        return SkippedNode(name, "UNREACHABLE", word, waits=True)
    if newest is not None and (newest.phase in NEEDS_WORD or newest.phase is Phase.AWAITING_ROLLBACK):
        return SkippedNode(
            name,
            "NEEDS_WORD",
            f"its last attempt is {newest.phase}: mend it, then retry it by name",
            waits=True,
        )
    if not node.healthy:
        reason = f": {node.problem.message}" if node.problem is not None else ""
        return SkippedNode(name, "UNHEALTHY", f"it is not healthy{reason}", waits=True)
    if not spec.rollback.none and not node.rollback_artifact:
        return SkippedNode(name, "NO_ROLLBACK", "it has no rollback artifact", waits=True)
    if (said := node.refuses) is not None:
        text = f"it would refuse an attempt now: {said.message}. {said.remedy}".rstrip(". ")
        return SkippedNode(name, "NOT_READY", text, waits=True)
    return None


def _budgets(members: list[NodeRow], spec: RolloutSpec) -> Iterator[BudgetUse]:
    count = len(members)
    budgets = spec.budgets
    yield BudgetUse("max_unavailable", budgets.max_unavailable.of(count))
    yield BudgetUse("max_in_blackout", budgets.max_in_blackout.of(count))
    yield BudgetUse("max_uncommitted", budgets.max_uncommitted.of(count))
    yield BudgetUse("failures", budgets.failures.max.of(count))
    if budgets.domain is not None:
        key = budgets.domain.key
        values = Counter(n.labels.get(key, "") for n in members)
        for value, of in sorted(values.items()):
            yield BudgetUse(f"domain:{key}={value}", budgets.domain.max_unavailable.of(of))


def _command_lines(
    members: list[NodeRow], spec: RolloutSpec, artifact: Artifact
) -> tuple[PlannedCommandLine, ...]:
    """Distinct lines, the most frequent first; nodes that run the target get none."""
    found: dict[str, list[str]] = {}
    for node in members:
        if node.release != artifact.release:
            line = compose(node.command_line, ruled(spec.target, artifact), ATTEMPT)
            found.setdefault(line, []).append(node.node_id)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(PlannedCommandLine(line, len(nodes), nodes[0]) for line, nodes in ordered)


def _warnings(
    fleet: Fleet, spec: RolloutSpec, artifact: Artifact, membership: Membership, members: list[NodeRow]
) -> Iterator[str]:
    yield from validate.check(spec).warnings
    if said := other_model.warning(members, artifact):
        yield said
    if fleet.rollout_named(spec.name) is not None:
        yield f"name: a rollout {spec.name} exists"
    count = len(members)
    budgets = spec.budgets
    if budgets.max_in_blackout.of(count) > budgets.max_unavailable.of(count):
        text = "budgets: max_in_blackout is larger than max_unavailable and never matters"
        if not any(w.startswith("budgets: max_in_blackout") for w in validate.check(spec).warnings):
            yield text
    if budgets.domain is not None:
        key = budgets.domain.key
        without = sum(1 for n in members if key not in n.labels)
        if without:
            yield f"budgets.domain: {without} nodes have no label {key} and share one cap"
        if len({n.labels.get(key, "") for n in members}) == 1:
            yield f"budgets.domain: all members have the same {key}"
    waiting = [pair for pair in membership.pairs if pair not in membership.canaries]
    if waiting:
        yield (
            f"canary.max_nodes: {len(waiting)} of {len(membership.pairs)} kernel pairs have no canary in the "
            "first wave; each waits for one in its own wave"
        )
    unused = sorted(set(spec.canary.nodes) - set(membership.canaries.values()))
    if unused:
        yield f"canary.nodes: {', '.join(unused)} would be nobody's canary (one is enough for a kernel pair)"
    for name, nodes in zip(membership.wave_names[1:], membership.waves[1:], strict=True):
        if not nodes:
            yield f"waves: {name} is empty"
    if len({g.quantile for g in spec.gates if isinstance(g, BlackoutGate)}) < sum(
        isinstance(g, BlackoutGate) for g in spec.gates
    ):
        yield "gates: two blackout gates judge the same quantile"
    if fleet.row.stopped:
        yield f"the fleet is stopped ({fleet.row.stopped}): nothing would start"
