"""Edits make a world smaller, and minimising keeps those without which the failure would be gone."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.sim.draw import Scenario, draw
from tests.sim.edits import candidates, without
from tests.sim.minimise import minimise
from tests.sim.story import Violation
from tests.sim.world import Result


def seed_with(replicas: int, rollouts: int) -> int:
    return next(s for s in range(500) if (d := draw(s)).replicas == replicas and len(d.rollouts) == rollouts)


def result(scenario: Scenario, *, fails: bool) -> Result:
    violation = Violation("I3", "twice") if fails else None
    return Result(scenario.seed, "digest", 1.0, 0.1, Counter(), violation, ("one line",))


def test_edits_take_away_what_they_name() -> None:
    whole = draw(seed_with(3, 2))
    last = whole.nodes[-1].node_id
    fewer = without(
        whole, [f"node:{last}", "rate:orchestrator_crash", "rollout:second", "replicas:1", "chaos:90"]
    )
    assert last not in {node.node_id for node in fewer.nodes}
    assert fewer.rates.orchestrator_crash == 0
    assert [spec.name for _, spec in fewer.rollouts] == ["first"]
    assert (fewer.replicas, fewer.chaos_s) == (1, 90)
    assert without(whole, []) == whole


def test_a_word_that_is_no_edit_is_refused() -> None:
    for word in ("nonsense", "rate:nonsense"):
        with pytest.raises(ValueError, match="is no edit"):
            without(draw(1), [word])


def test_kernel_faults_go_one_by_one_or_all_at_once() -> None:
    seed, node = next((s, node) for s in range(200) for node in draw(s).nodes if len(node.faults.faults) > 1)
    whole = draw(seed)

    def faults(*edits: str) -> int:
        [found] = [n for n in without(whole, edits).nodes if n.node_id == node.node_id]
        return len(found.faults.faults)

    assert faults(f"faults:{node.node_id}") == 0
    assert faults(f"fault:{node.node_id}:0", f"fault:{node.node_id}:1") == faults() - 2


def test_a_node_of_rfc_v2_may_turn_out_not_to_need_it() -> None:
    seed, node_id = next((s, n.node_id) for s in range(50) for n in draw(s).nodes if n.luo != "sessions")
    models = {n.node_id: n.luo for n in without(draw(seed), [f"luo:{node_id}"]).nodes}
    assert models == {n.node_id: n.luo for n in draw(seed).nodes} | {node_id: "sessions"}


def test_all_candidates_are_edits() -> None:
    for seed in range(20):
        whole = draw(seed)
        for edit in candidates(whole):
            assert without(whole, edit) != whole


def test_what_the_failure_needs_is_kept_and_all_else_goes() -> None:
    seed = seed_with(3, 2)
    whole = draw(seed)
    needed = whole.nodes[0].node_id

    def run(scenario: Scenario) -> Result:
        fails = needed in {node.node_id for node in scenario.nodes} and scenario.replicas > 1
        return result(scenario, fails=fails)

    smaller = minimise(result(whole, fails=True), run=run)
    left = without(whole, smaller.edits)
    assert [node.node_id for node in left.nodes] == [needed]
    assert (left.replicas, len(left.rollouts)) == (2, 1)
    assert smaller.command.startswith(f"python -m tests.sim --seed {seed} --without ")
    assert "I3: twice" in str(smaller)
    assert "one line" in str(smaller)


def test_time_is_bounded() -> None:
    clock = iter(range(1000))
    whole = draw(3)
    smaller = minimise(
        result(whole, fails=True),
        budget_s=5,
        run=lambda s: result(s, fails=True),
        now=lambda: float(next(clock)),
    )
    assert 0 < smaller.tried <= 5
