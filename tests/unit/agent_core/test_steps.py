"""Effects' bounds, undo plans, and the generated page."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.core import diagram
from node_agent.core.model import AttemptRef, MemoryCheck, Problem, StepTimeouts
from node_agent.core.phases import Phase
from node_agent.core.steps import BEFORE_JUMP, STEPS, Effect, Undo, timeout_s, undo_plan
from node_agent.errors import KernelError
from tests.unit.agent_core.make import attempt

R, S, D, L = Undo.RESUME, Undo.RELEASE, Undo.UNDRAIN, Undo.UNLOAD


@pytest.mark.parametrize(
    ("furthest", "plan"),
    [
        (Phase.LOADING, (L,)),
        (Phase.DRAINING, (D, L)),
        (Phase.PRESERVING, (S, D, L)),
        (Phase.PRESERVED, (S, D, L)),
        (Phase.SUSPENDING, (R, S, D, L)),
        (Phase.JUMPING, (R, S, D, L)),
    ],
)
def test_undo_goes_back_the_way_it_came(furthest: Phase, plan: tuple[Undo, ...]) -> None:
    assert undo_plan(furthest) == plan


def test_every_step_before_the_jump_has_a_plan() -> None:
    assert all(undo_plan(phase) for phase in BEFORE_JUMP)


@pytest.mark.parametrize("effect", Effect)
def test_every_effect_is_bounded_or_bounds_itself(effect: Effect) -> None:
    limit_s = timeout_s(effect, attempt(timeouts=StepTimeouts()))
    own = {Effect.AWAIT_PROCEED, Effect.RECORD_INTENT, Effect.REBOOT, Effect.WATCH}
    assert (limit_s is None) == (effect in own)
    assert STEPS[effect].cancellable == (effect not in {Effect.RECORD_INTENT, Effect.REBOOT})


def test_verifying_may_take_its_hold_on_top() -> None:
    assert (
        timeout_s(Effect.VERIFY, attempt(timeouts=StepTimeouts(verifying_s=10.0), health_hold_s=5.0)) == 15.0
    )


def test_a_problem_is_what_the_error_says() -> None:
    error = KernelError(16, "reboot", remedy="Try again.")
    problem = Problem.of(error, step="JUMPING")
    assert (problem.reason, problem.remedy) == ("KERNEL_CALL_FAILED", "Try again.")
    assert problem.fields == {"errno": "EBUSY", "call": "reboot", "step": "JUMPING"}


def test_memory_is_intact_where_all_who_looked_say_so() -> None:
    assert MemoryCheck(2, 2, 10).passed
    assert not MemoryCheck(2, 1, 10).passed


def test_session_names_fit_into_the_kernels_64_bytes() -> None:
    assert len(AttemptRef("n" * 250, 2**63, "f" * 32).agent_session) < 63


def test_the_page_is_what_the_tables_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "state-machines.md"
    assert page.read_text() == diagram.document(), (
        "run: python -m node_agent.core.diagram > docs/state-machines.md"
    )
