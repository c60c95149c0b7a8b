"""A scenario made smaller, by words that can be typed: what a failing seed still fails without.

node:n3            without this node
faults:n0          without the faults of its kernel
fault:n0:2         without one of them, by its place
luo:n0             with kernels of the merged model
rate:link_cut_s    without what this rate brings about
rollout:second     without this rollout
replicas:1         with so many only
chaos:600          mended after so many seconds
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from node_agent.kernel.emulated.image import SESSIONS
from node_agent.kernel.faults import FaultPlan
from tests.sim.draw import NodeDraw, Rates, Scenario

SHORTEST_CHAOS_S = 60.0


def without(scenario: Scenario, edits: Iterable[str]) -> Scenario:
    """The scenario with the edits made. ValueError for a word that is none."""
    edits = tuple(edits)
    gone = {edit.partition(":")[2] for edit in edits if edit.startswith("fault:")}
    for edit in edits:
        kind, _, what = edit.partition(":")
        match kind:
            case "node":
                scenario = replace(scenario, nodes=tuple(n for n in scenario.nodes if n.node_id != what))
            case "faults":
                scenario = replace(scenario, nodes=tuple(_faultless(n, what) for n in scenario.nodes))
            case "fault":
                pass
            case "luo":
                scenario = replace(scenario, nodes=tuple(_merged(n, what) for n in scenario.nodes))
            case "rate" if what in Rates.__dataclass_fields__:
                none = (0.0,) if what == "skews_s" else 0.0
                scenario = replace(scenario, rates=replace(scenario.rates, **{what: none}))  # type: ignore[arg-type]
            case "rollout":
                left = tuple((at, spec) for at, spec in scenario.rollouts if spec.name != what)
                scenario = replace(scenario, rollouts=left)
            case "replicas":
                scenario = replace(scenario, replicas=int(what))
            case "chaos":
                scenario = replace(scenario, chaos_s=float(what))
            case _:
                raise ValueError(f"{edit!r} is no edit")
    return replace(scenario, nodes=tuple(_thinned(node, gone) for node in scenario.nodes))


def _faultless(node: NodeDraw, name: str) -> NodeDraw:
    return replace(node, faults=FaultPlan()) if node.node_id == name else node


def _merged(node: NodeDraw, name: str) -> NodeDraw:
    return replace(node, luo=SESSIONS) if node.node_id == name else node


def _thinned(node: NodeDraw, gone: set[str]) -> NodeDraw:
    faults = tuple(f for at, f in enumerate(node.faults.faults) if f"{node.node_id}:{at}" not in gone)
    return node if len(faults) == len(node.faults.faults) else replace(node, faults=FaultPlan(faults))


def candidates(scenario: Scenario) -> Iterator[tuple[str, ...]]:
    """Edits worth trying, the boldest first; each is tried once on top of those that were kept."""
    names = [node.node_id for node in scenario.nodes]
    for size in (len(names) // 2, len(names) // 4, 1):
        if size:
            for start in range(0, len(names), size):
                yield tuple(f"node:{name}" for name in names[start : start + size])
    if scenario.replicas > 1:
        yield ("replicas:1",)
    if scenario.replicas > 2:
        yield ("replicas:2",)
    on = [name for name in Rates.__dataclass_fields__ if getattr(scenario.rates, name) not in (0.0, (0.0,))]
    for size in (len(on) // 2, len(on) // 4, 1):
        if size:
            for start in range(0, len(on), size):
                yield tuple(f"rate:{name}" for name in on[start : start + size])
    for _, spec in scenario.rollouts:
        yield (f"rollout:{spec.name}",)
    for node in scenario.nodes:
        if node.faults.faults:
            yield (f"faults:{node.node_id}",)
    for node in scenario.nodes:
        if node.luo != SESSIONS:
            yield (f"luo:{node.node_id}",)
    for node in scenario.nodes:
        for at in range(len(node.faults.faults)):
            yield (f"fault:{node.node_id}:{at}",)
    chaos_s = scenario.chaos_s / 2
    while chaos_s > SHORTEST_CHAOS_S:
        yield (f"chaos:{chaos_s:.0f}",)
        chaos_s /= 2
