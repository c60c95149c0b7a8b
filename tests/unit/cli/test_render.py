"""What people see, as golden files."""

from __future__ import annotations

import json

import pytest
from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli import render, render_differences, render_nodes
from orchestrator.cli.output import Format, json_line, text_of
from tests.unit.cli import samples
from tests.unit.cli.golden import check, drawn
from tests.unit.cli.samples import NOW


def test_a_running_rollout() -> None:
    check("rollout-running.txt", drawn(render.rollout_view(samples.rollout(), samples.nodes(), NOW)))


def test_a_halted_rollout() -> None:
    check("rollout-halted.txt", drawn(render.rollout_view(samples.halted(), (), NOW)))


def test_a_halted_rollout_whose_nodes_are_back_says_so() -> None:
    made, note = samples.halted(), "the nodes are back already"
    assert note not in drawn(render.rollout_view(made, (), NOW))
    for wave, rolled_back in zip(made.waves, (2, 0, 0), strict=True):
        for field in ("updated", "baking", "in_progress", "failed"):
            wave.ClearField(field)
        wave.rolled_back = rolled_back
    assert note in drawn(render.rollout_view(made, (), NOW))
    made.uncommitted.append("n1")
    assert note not in drawn(render.rollout_view(made, (), NOW))


def test_a_cancelled_rollout() -> None:
    check("rollout-cancelled.txt", drawn(render.rollout_view(samples.cancelled(), (), NOW)))


def test_a_narrow_terminal() -> None:
    check("rollout-narrow.txt", drawn(render.rollout_view(samples.rollout(), samples.nodes(), NOW), width=60))


def test_more_nodes_in_flight_than_there_is_room_for() -> None:
    many = [samples.node(f"n{i:02d}", "LOADING") for i in range(20)]
    table = render_nodes.in_flight(many)
    assert table is not None
    assert "and 8 more" in drawn(table)
    assert render_nodes.in_flight([samples.node("n1", "IDLE")]) is None


def test_rollouts() -> None:
    check("rollouts.txt", drawn(render.rollouts_table([samples.rollout(), samples.cancelled()], NOW)))
    assert drawn(render.rollouts_table([], NOW)) == "no rollouts\n"


def test_a_plan() -> None:
    check("plan.txt", drawn(render.plan_view(samples.plan())))


def test_an_explanation() -> None:
    answer = pb.ExplainResponse(summary="kernel-6.19.3 is RUNNING: wave early waits")
    answer.blockers.extend(samples.rollout().blockers)
    answer.gates.extend(samples.rollout().gates)
    answer.next_wake.FromDatetime(NOW.replace(minute=1))
    check("why.txt", drawn(render.explanation(answer, NOW)))


def test_nodes() -> None:
    check("nodes.txt", drawn(render_nodes.nodes_table(samples.nodes())))
    assert drawn(render_nodes.nodes_table([])) == "no nodes\n"


def test_a_node() -> None:
    node = samples.nodes()[2]
    node.attempt.generation = 3
    node.boot_id, node.boot_verdict = "b" * 8, common_pb2.BOOT_VERDICT_STATE_LOST
    check("node.txt", drawn(render_nodes.node_view(node, NOW)))
    node.boot_verdict, node.boot_by_hand = common_pb2.BOOT_VERDICT_FOREIGN_KEXEC, True
    assert "bbbbbbbb (foreign kexec, by hand)" in drawn(render_nodes.node_view(node, NOW))


def test_a_node_that_is_driven_by_hand() -> None:
    check("node-by-hand.txt", drawn(render_nodes.node_view(samples.by_hand(kho_finalized="true"), NOW)))
    assert "not ready" in drawn(render_nodes.nodes_table([samples.by_hand()]))


@pytest.mark.parametrize(
    ("capabilities", "line"),
    [(["luo", "kho"], "sessions"), (["luo", "luo-rfc-v2"], "rfc-v2"), (["kho"], "")],
)
def test_a_nodes_model_of_luo(capabilities: list[str], line: str) -> None:
    shown = drawn(render_nodes.node_view(samples.node("n1", "IDLE", capabilities=capabilities), NOW))
    told = [row.split(maxsplit=1)[1].strip() for row in shown.splitlines() if row.startswith("LUO")]
    assert told == ([line] if line else [])


def test_events_and_a_story() -> None:
    lines = "".join(drawn(render_nodes.event_line(event)) for event in samples.events())
    check("events.txt", lines)
    check("story.txt", drawn(render_nodes.story("n3", samples.events())))
    narrow = drawn(render_nodes.story("n3", samples.events()), width=80)
    check("story-narrow.txt", narrow)
    assert max(len(line) for line in narrow.splitlines()) <= 80
    assert "nothing is known of n9" in drawn(render_nodes.story("n9", []))


def test_json_has_every_field_in_the_protos_names() -> None:
    text = text_of(samples.rollout(), Format.JSON)
    check("rollout.json", text)
    plain = json.loads(text)
    assert plain["blackout"]["p50"] == "0.812s"
    assert plain["paused"] is False


def test_yaml_says_the_same() -> None:
    check("rollout.yaml", text_of(samples.rollout(), Format.YAML))


def test_json_lines_are_lines() -> None:
    assert "\n" not in json_line(samples.events()[0])


@pytest.mark.parametrize("members", [1, 3, 24, 1000])
def test_a_bar_is_as_wide_as_it_should_be_and_shows_whatever_there_is(members: int) -> None:
    for updated in range(0, members + 1, max(1, members // 7)):
        wave = pb.WaveStatus(members=members, updated=updated, failed=min(1, members - updated))
        drawn_bar = render.bar(wave).plain
        assert len(drawn_bar) == render.BAR_WIDTH
        assert ("█" in drawn_bar) == (updated > 0)


def test_markup_in_what_nodes_say_is_text() -> None:
    node = samples.node("n1", "QUARANTINED")
    node.problem.reason, node.problem.message = "X", "[bold red]not markup[/] \x1b"
    table = render_nodes.in_flight([node])
    assert table is not None
    assert "[bold red]not markup[/]" in drawn(table)


def test_differences() -> None:
    found = pb.ListDifferencesResponse(
        stopped=True,
        stop_reason="restored from the backup of 2026-03-01",
        difference_count=3,
        node_count=50,
        unheard=[f"n{i}" for i in range(10, 17)],
        unheard_count=7,
    )
    had = pb.NodeMemory(
        kernel_release="6.18.9", attempt=3, highest_generation=3, phase=common_pb2.PHASE_COMMITTED
    )
    for node_id, phase, outlook, message, remedy in (
        (
            "n1",
            common_pb2.PHASE_BAKING,
            "COUNTS_AS_UPDATED",
            "runs 6.19.3 by attempt 4: counts as updated in k",
            "",
        ),
        ("n2", common_pb2.PHASE_DRAINING, "UNWINDS", "attempt 4 is DRAINING, and is undone", ""),
        ("n3", common_pb2.PHASE_QUARANTINED, "NEEDS_WORD", "attempt 4 is QUARANTINED", "Look at the node."),
    ):
        says = pb.NodeMemory(kernel_release="6.19.3", attempt=4, highest_generation=4, phase=phase)
        found.differences.add(
            node_id=node_id, store=had, node=says, outlook=outlook, message=message, remedy=remedy
        )
    found.differences.add(
        node_id="n4",
        store=pb.NodeMemory(),
        node=pb.NodeMemory(kernel_release="6.18.9", highest_generation=6),
        outlook="NUMBERS_ONLY",
        message="its next attempt is 7",
    )
    check("differences.txt", drawn(render_differences.differences_view(found)))
    agreed = pb.ListDifferencesResponse(stopped=True, stop_reason="restored", node_count=2)
    told = drawn(render_differences.differences_view(agreed))
    assert "nothing differs; to go on: liveroll release -m WHY" in told
    assert drawn(render_differences.differences_view(pb.ListDifferencesResponse(node_count=2))) == (
        "0 of 2 nodes differ\n"
    )
