"""Who takes part in a rollout, and in which wave: fixed when the rollout starts.

Rules
1. Selected is who matches the selector, is named (if names are given), and is not excluded.
2. Nodes in maintenance, written off, or unable to do the method are left out, each with a
   reason. What may pass (no link, unhealthy, another rollout's) does not leave a node out: it
   waits at its turn, and the dry run says for what.
3. Wave 0 is the canary wave: the first eligible node of each (from release, to release,
   hardware model), at most canary.max_nodes; preferred nodes first, then those that could
   start now, then by name. Nodes that run the target already are nobody's canary.
4. The spec's waves follow, each with its share of all members. A wave without a size takes
   what is left; whoever no wave takes is left out.
5. Within each wave the values of the failure-domain label take turns, so that no wave drains
   one domain.
6. The result depends on nothing but its arguments; the order is stable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.core import selectors
from orchestrator.core.model import Artifact, NodeRow, Pair
from orchestrator.core.phases import Method
from orchestrator.core.report import SkippedNode
from orchestrator.core.spec import RolloutSpec
from orchestrator.core.standing import in_maintenance
from orchestrator.errors import InvalidSpec, Violation

CANARY = "canary"
LUO = "luo"
"""Capability of a node whose kernel can preserve what a live update must carry."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The members by wave, canary first, and everybody who is left out."""

    waves: tuple[tuple[str, ...], ...]
    """Node ids in their order; index 0 is the canary wave, which may be empty."""
    wave_names: tuple[str, ...]
    skipped: tuple[SkippedNode, ...] = ()
    pairs: Mapping[Pair, int] = field(default_factory=dict)
    """Kernel pair → how many members are of it now."""
    canaries: Mapping[Pair, str] = field(default_factory=dict)

    @property
    def members(self) -> int:
        return sum(len(w) for w in self.waves)


def membership(
    nodes: Mapping[str, NodeRow],
    spec: RolloutSpec,
    artifact: Artifact,
    startable: frozenset[str],
    now: datetime,
) -> Membership:
    """Decide who takes part.

    nodes: all that are enrolled. startable: those that are linked and available now, which
    makes them better canaries.

    Raises:
        InvalidSpec: unknown nodes or labels, malformed selectors, an empty selection.
    """
    selected, skipped = _select(nodes, spec)
    members: list[NodeRow] = []
    for node in selected:
        reason = left_out(node, spec, now)
        if reason is None:
            members.append(node)
        else:
            skipped.append(reason)
    if not members:
        raise InvalidSpec([_empty(spec, nodes, skipped)])
    pairs = _pairs(members, artifact)
    canaries = _canaries(members, spec, artifact, startable)
    first = sorted(canaries.values())
    waves, left = _waves(members, set(first), spec)
    skipped += [
        SkippedNode(n.node_id, "NO_WAVE", "no wave takes it: the last wave has a size or a selector")
        for n in left
    ]
    chosen = {m for wave in waves for m in wave} | set(first)
    return Membership(
        waves=(tuple(first), *waves),
        wave_names=(CANARY, *(w.name for w in spec.waves)),
        skipped=tuple(sorted(skipped, key=lambda s: s.node_id)),
        pairs={pair: sum(1 for n in of if n.node_id in chosen) for pair, of in pairs.items()},
        canaries=canaries,
    )


def _select(nodes: Mapping[str, NodeRow], spec: RolloutSpec) -> tuple[list[NodeRow], list[SkippedNode]]:
    selection = spec.selection
    violations: list[Violation] = []
    labels = [n.labels for n in nodes.values()]
    parsed = selectors.parse(selection.selector, "selection.selector")
    violations += selectors.unknown(parsed, labels, "selection.selector")
    for i, wave in enumerate(spec.waves):
        path = f"waves[{i}].selector"
        violations += selectors.unknown(selectors.parse(wave.selector, path), labels, path)
    violations += _unknown_nodes(selection.nodes, nodes, "selection.nodes")
    violations += _unknown_nodes(selection.exclude, nodes, "selection.exclude")
    violations += _unknown_nodes(spec.canary.nodes, nodes, "canary.nodes")
    domain = spec.budgets.domain
    if domain is not None and nodes and not any(domain.key in of_node for of_node in labels):
        like = selectors.near(domain.key, {k for of_node in labels for k in of_node})
        remedy = f"Did you mean {like[0]}?" if like else "Name a label that nodes have (`liveroll nodes`)."
        violations.append(Violation("budgets.domain.key", f"no node has a label {domain.key}", remedy))
    named = frozenset(selection.nodes)
    matching = [
        n
        for n in sorted(nodes.values(), key=lambda n: n.node_id)
        if parsed.matches(n.labels) and (not named or n.node_id in named)
    ]
    ids = {n.node_id for n in matching}
    violations += [
        Violation("canary.nodes", f"{c} is not selected", "Select it, or name another canary.")
        for c in spec.canary.nodes
        if c in nodes and c not in ids
    ]
    if violations:
        raise InvalidSpec(violations)
    excluded = frozenset(selection.exclude)
    skipped = [
        SkippedNode(n.node_id, "EXCLUDED", "the rollout excludes it")
        for n in matching
        if n.node_id in excluded
    ]
    return [n for n in matching if n.node_id not in excluded], skipped


def _unknown_nodes(names: Iterable[str], nodes: Mapping[str, NodeRow], path: str) -> list[Violation]:
    violations = []
    for name in names:
        if name not in nodes:
            like = selectors.near(name, nodes)
            remedy = (
                f"Did you mean {' or '.join(like)}?"
                if like
                else "Start its agent first: a node is enrolled by its first link."
            )
            violations.append(Violation(path, f"no node is called {name}", remedy))
    return violations


def left_out(node: NodeRow, spec: RolloutSpec, now: datetime) -> SkippedNode | None:
    """Why a selected node takes no part (rule 2); None if it may."""
    if node.written_off:
        return SkippedNode(node.node_id, "WRITTEN_OFF", f"it is written off: {node.written_off}")
    if in_maintenance(node, now) and node.maintenance is not None:
        by = f"{node.maintenance.owner}: {node.maintenance.reason}"
        return SkippedNode(node.node_id, "MAINTENANCE", f"it is in maintenance ({by})")
    if spec.method is Method.LIVE and LUO not in node.capabilities:
        return SkippedNode(node.node_id, "NO_LIVE_UPDATE", "its kernel has no live update orchestrator")
    return None


def _empty(spec: RolloutSpec, nodes: Mapping[str, NodeRow], skipped: Sequence[SkippedNode]) -> Violation:
    if not nodes:
        return Violation("selection", "no node is enrolled", "Start agents first (`liveroll-agent run`).")
    if skipped:
        reasons = ", ".join(sorted({s.reason for s in skipped}))
        return Violation(
            "selection",
            f"it leaves no node: {len(skipped)} match, and all are left out ({reasons})",
            "Look at the nodes (`liveroll nodes`), then widen the selection or end what keeps them out.",
        )
    return Violation(
        "selection",
        "it selects no node",
        f"Try the selector with `liveroll nodes --selector '{spec.selection.selector}'`.",
    )


def _pairs(members: Sequence[NodeRow], artifact: Artifact) -> dict[Pair, list[NodeRow]]:
    pairs: dict[Pair, list[NodeRow]] = {}
    for node in members:
        if node.release != artifact.release:
            pairs.setdefault((node.release, artifact.release, node.hardware_model), []).append(node)
    return dict(sorted(pairs.items()))


def _canaries(
    members: Sequence[NodeRow], spec: RolloutSpec, artifact: Artifact, startable: frozenset[str]
) -> dict[Pair, str]:
    preferred = {n: i for i, n in enumerate(spec.canary.nodes)}

    def merit(node: NodeRow) -> tuple[int, bool, bool, str]:
        place = preferred.get(node.node_id, len(preferred))
        return (place, node.node_id not in startable, not _equipped(node, spec), node.node_id)

    best = {pair: min(of, key=merit) for pair, of in _pairs(members, artifact).items()}
    by_merit = sorted(best.items(), key=lambda b: (preferred.get(b[1].node_id, len(preferred)), b[0]))
    return {pair: node.node_id for pair, node in by_merit[: spec.canary.max_nodes]}


def _equipped(node: NodeRow, spec: RolloutSpec) -> bool:
    return node.healthy and node.refuses is None and (spec.rollback.none or bool(node.rollback_artifact))


def _waves(
    members: Sequence[NodeRow], canaries: set[str], spec: RolloutSpec
) -> tuple[list[tuple[str, ...]], list[NodeRow]]:
    """The spec's waves, and who is left over."""
    key = spec.budgets.domain.key if spec.budgets.domain is not None else ""
    left = _spread([n for n in members if n.node_id not in canaries], key)
    waves = []
    for wave in spec.waves:
        selector = selectors.parse(wave.selector)
        fitting = [n for n in left if selector.matches(n.labels)]
        if wave.size is not None:
            fitting = fitting[: wave.size.of(len(members))]
        taken = {n.node_id for n in fitting}
        waves.append(tuple(n.node_id for n in _spread(fitting, key)))
        left = [n for n in left if n.node_id not in taken]
    return waves, left


def _spread(nodes: Iterable[NodeRow], key: str) -> list[NodeRow]:
    """The values of the label take turns, each in the order of its names."""
    by_value: dict[str, list[NodeRow]] = {}
    for node in sorted(nodes, key=lambda n: n.node_id):
        by_value.setdefault(node.labels.get(key, "") if key else "", []).append(node)
    turns = [(i, value, node) for value, of in by_value.items() for i, node in enumerate(of)]
    return [node for _, _, node in sorted(turns, key=lambda t: (t[0], t[1]))]
