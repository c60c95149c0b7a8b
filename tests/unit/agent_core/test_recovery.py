"""State × boot verdict, and how a boot gets its verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.attempt import KexecByHand, NodeState
from node_agent.core.model import Problem
from node_agent.core.phases import SETTLED, Phase, Verdict
from node_agent.core.recovery import (
    RECOVERY,
    BootView,
    SessionFinding,
    attempt_on_command_line,
    came_by_hand,
    classify,
    name_attempt,
)
from node_agent.core.saga import transition
from node_agent.core.steps import Effect
from node_agent.errors import Retry
from tests.unit.agent_core.make import PROBLEM, REF, attempt, classified, mark, node

P, V = Phase, Verdict
BEFORE = (P.LOADING, P.DRAINING, P.PRESERVING, P.PRESERVED, P.SUSPENDING, P.JUMPING)
AFTER = (P.RETRIEVING, P.RESUMING, P.VERIFYING, P.FINISHING, P.BAKING)
OURS = f"quiet liveroll.attempt={REF.id} kho=on"


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("verdict", Verdict)
def test_every_state_has_an_answer_to_every_verdict(phase: Phase, verdict: Verdict) -> None:
    step = transition(attempt(phase), classified(verdict, boot_id="boot-b"))
    assert step.attempt.boot_id == "boot-b"
    row = RECOVERY[phase][verdict]
    assert step.attempt.phase is row.next
    if verdict is V.SAME_BOOT and phase in SETTLED - {P.BAKING}:
        assert (row.next, row.effect) == (phase, None)
    if verdict is V.POISONED:
        assert row.next is P.QUARANTINED


@pytest.mark.parametrize("phase", BEFORE)
def test_the_same_boot_before_the_jump_unwinds_and_never_jumps_again(phase: Phase) -> None:
    step = transition(attempt(phase, furthest=phase, jumped=phase is P.JUMPING), classified(V.SAME_BOOT))
    assert (step.attempt.phase, step.effect, step.attempt.furthest) == (P.UNWINDING, Effect.UNWIND, phase)
    assert step.attempt.interrupted
    assert step.attempt.problem is not None
    assert step.attempt.problem.reason == "AGENT_RESTARTED"


def test_an_unwinding_goes_on_after_a_restart_for_the_reason_it_had() -> None:
    step = transition(attempt(P.UNWINDING, problem=PROBLEM), classified(V.SAME_BOOT))
    assert (step.effect, step.attempt.problem, step.attempt.interrupted) == (Effect.UNWIND, PROBLEM, False)


@pytest.mark.parametrize(
    ("phase", "after", "effect"),
    [
        (P.RETRIEVING, P.RETRIEVING, Effect.RETRIEVE),
        (P.RESUMING, P.RETRIEVING, Effect.RETRIEVE),
        (P.VERIFYING, P.VERIFYING, Effect.VERIFY),
        (P.FINISHING, P.FINISHING, Effect.FINISH),
        (P.BAKING, P.BAKING, Effect.WATCH),
    ],
)
def test_an_agent_restarted_in_the_new_boot_goes_on(phase: Phase, after: Phase, effect: Effect) -> None:
    step = transition(attempt(phase, verdict=V.LIVE_UPDATED), classified(V.SAME_BOOT))
    assert (step.attempt.phase, step.effect) == (after, effect)
    assert step.attempt.verdict is V.LIVE_UPDATED


def test_a_commit_under_way_is_repeated() -> None:
    step = transition(attempt(P.BAKING, committing=True), classified(V.SAME_BOOT))
    assert step.effect is Effect.SET_DEFAULT


def test_a_live_update_retrieves() -> None:
    step = transition(
        attempt(P.JUMPING, jumped=True), classified(V.LIVE_UPDATED, marks=(mark("pre_reboot", 1),))
    )
    assert (step.attempt.phase, step.effect, step.attempt.salvage) == (P.RETRIEVING, Effect.RETRIEVE, False)
    assert step.attempt.marks == (mark("pre_reboot", 1),)


@pytest.mark.parametrize("phase", [P.PRESERVING, P.PRESERVED, P.SUSPENDING, P.JUMPING, P.UNWINDING])
@pytest.mark.parametrize("verdict", [V.FOREIGN_KEXEC, V.WRONG_KERNEL, V.STATE_LOST])
def test_memory_that_crossed_is_salvaged(phase: Phase, verdict: Verdict) -> None:
    step = transition(attempt(phase), classified(verdict, problem=PROBLEM))
    assert (step.attempt.phase, step.effect, step.attempt.salvage) == (P.RETRIEVING, Effect.RETRIEVE, True)
    assert step.attempt.problem == PROBLEM


@pytest.mark.parametrize(
    ("phase", "verdict"),
    [
        *((phase, V.COLD_BOOT) for phase in (*BEFORE, *AFTER, P.UNWINDING)),
        *((phase, V.STATE_LOST) for phase in (P.LOADING, P.DRAINING, *AFTER)),
    ],
)
def test_lost_memory_is_called_that_in_every_state_of_an_attempt(phase: Phase, verdict: Verdict) -> None:
    step = transition(attempt(phase, healthy=True), classified(verdict))
    assert (step.attempt.phase, step.effect, step.attempt.healthy) == (P.COLD_BOOTED, None, False)


@pytest.mark.parametrize("phase", AFTER)
@pytest.mark.parametrize("verdict", [V.FOREIGN_KEXEC, V.WRONG_KERNEL, V.LIVE_UPDATED])
def test_one_more_kexec_with_sessions_unfinished_is_quarantined(phase: Phase, verdict: Verdict) -> None:
    assert transition(attempt(phase), classified(verdict)).attempt.phase is P.QUARANTINED


def test_a_committed_node_may_be_rebooted_by_anybody() -> None:
    for verdict in (V.COLD_BOOT, V.FOREIGN_KEXEC, V.WRONG_KERNEL):
        committed = replace(attempt(P.COMMITTED), verdict=Verdict.LIVE_UPDATED)
        after = transition(committed, classified(verdict)).attempt
        assert (after.phase, after.verdict) == (P.COMMITTED, Verdict.LIVE_UPDATED), "what proves it stays"


def view(
    boot_id: str = "boot-b", release: str = "7.3.4", command_line: str = "", **changes: object
) -> BootView:
    return BootView(boot_id, release, command_line, **changes)  # type: ignore[arg-type]


JUMPED = node(P.JUMPING, jumped=True)
MEANT = replace(node(None), kexec_by_hand=KexecByHand("boot-a", 3, "7.3.4"))
"""At rest, and about to be kexec'd by hand."""
BY_HAND = Problem("LUO_BY_HAND", Retry.NEVER, "luoctl kexec", fields={"by_hand": "kexec"})
VALID, INVALID = SessionFinding.VALID, SessionFinding.INVALID


@pytest.mark.parametrize(
    ("state", "boot", "expected"),
    [
        (NodeState(), view(), V.SAME_BOOT),
        (NodeState(), view(poisoned=True), V.POISONED),
        (node(P.PRESERVED), view("boot-a"), V.SAME_BOOT),
        (node(P.QUARANTINED), view("boot-a", poisoned=True), V.SAME_BOOT),
        (node(None), view(), V.COLD_BOOT),
        (JUMPED, view(poisoned=True), V.POISONED),
        (JUMPED, view(session=VALID), V.LIVE_UPDATED),
        (JUMPED, view(session=VALID, release="7.2.13"), V.WRONG_KERNEL),
        (JUMPED, view(session=INVALID), V.FOREIGN_KEXEC),
        (JUMPED, view(session=SessionFinding.STRANGE), V.COLD_BOOT),
        (JUMPED, view(session=SessionFinding.STRANGE, command_line=OURS), V.COLD_BOOT),
        (JUMPED, view(command_line=OURS), V.STATE_LOST),
        (JUMPED, view(command_line=OURS, release="7.2.13"), V.WRONG_KERNEL),
        (JUMPED, view(), V.COLD_BOOT),
        (node(P.JUMPING), view(session=VALID), V.FOREIGN_KEXEC),
        (node(P.PRESERVED), view(session=VALID), V.FOREIGN_KEXEC),
        (node(P.PRESERVED), view(), V.COLD_BOOT),
        (node(P.PRESERVED), view(command_line=OURS), V.STATE_LOST),
        (node(P.BAKING), view(), V.COLD_BOOT),
        (MEANT, view(kexec_count=4), V.FOREIGN_KEXEC),
        (MEANT, view(kexec_count=4, release="7.2.13"), V.FOREIGN_KEXEC),
        (MEANT, view(handed_over=True), V.FOREIGN_KEXEC),
        (MEANT, view(), V.COLD_BOOT),
        (MEANT, view(poisoned=True, kexec_count=4), V.POISONED),
        (MEANT, view("boot-a", kexec_count=4), V.SAME_BOOT),
        (node(None), view(kexec_count=4, handed_over=True), V.COLD_BOOT),
    ],
)
def test_no_single_signal_names_a_boot(state: NodeState, boot: BootView, expected: Verdict) -> None:
    assert classify(state, boot) is expected


@pytest.mark.parametrize("phase", sorted(SETTLED))
def test_a_kexec_by_hand_needs_its_record_and_the_kernels_word(phase: Phase) -> None:
    state = replace(node(phase), kexec_by_hand=MEANT.kexec_by_hand)
    assert came_by_hand(state, view(kexec_count=4))
    assert came_by_hand(state, view(handed_over=True)), "a kernel that does not count"
    assert not came_by_hand(state, view()), "a power loss came first"
    for count in (1, 3, 5):
        assert not came_by_hand(state, view(kexec_count=count, handed_over=True)), "another came between"
    assert not came_by_hand(replace(state, kexec_by_hand=None), view(kexec_count=4, handed_over=True))
    assert not came_by_hand(replace(state, boot_id="boot-0"), view(kexec_count=4)), "of some earlier boot"


@pytest.mark.parametrize("phase", sorted(SETTLED - {P.IDLE, P.BAKING}))
def test_a_boot_by_hand_leaves_what_is_settled_as_it_is(phase: Phase) -> None:
    """Where a cold boot ends the wait for a rollback: the kernel that came by hand can be left by one."""
    step = transition(attempt(phase, problem=PROBLEM), classified(V.FOREIGN_KEXEC, by_hand=BY_HAND))
    assert (step.attempt.phase, step.effect, step.attempt.problem) == (phase, None, PROBLEM)


@pytest.mark.parametrize("phase", sorted(set(Phase) - SETTLED))
def test_no_attempt_that_is_under_way_came_by_hand(phase: Phase) -> None:
    state = replace(node(phase), kexec_by_hand=MEANT.kexec_by_hand)
    assert not came_by_hand(state, view(kexec_count=4, handed_over=True))


def test_the_attempt_is_named_once_on_the_command_line() -> None:
    line = name_attempt("quiet liveroll.attempt=6-old kho=on", "7-new")
    assert line == "quiet kho=on liveroll.attempt=7-new"
    assert attempt_on_command_line(line) == "7-new"
    assert attempt_on_command_line("quiet kho=on") == ""
