"""Every command in every state: accepted, already done, or refused with a way out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core import commands as cmd
from node_agent.core import events as ev
from node_agent.core.admission import (
    Begin,
    Decision,
    Deliver,
    Done,
    Fetch,
    RaiseFloor,
    Refuse,
    classify_command,
    lease_problem,
    lease_valid,
    resolve_local,
)
from node_agent.core.attempt import NodeState
from node_agent.core.model import LOCAL_INCARNATION, ArtifactRef, AttemptKind, BootStamp, Lease, Method
from node_agent.core.phases import SETTLED, Phase
from node_agent.errors import Retry
from tests.unit.agent_core.make import ARTIFACT, NOW, PROBLEM, REF, attempt, node, prepare

P = Phase
NEXT = prepare(8)
BACK = prepare(8, kind=AttemptKind.ROLLBACK)
PROCEED = cmd.Proceed("proceed", REF, BootStamp("boot-a", 90.0), 30.0)
CANCEL = cmd.Cancel("cancel", REF, "paused")
COMMIT = cmd.Commit("commit", REF)
OTHER = replace(REF, generation=6)


def said(decision: Decision) -> str:
    """A refusal's reason, or the decision's name."""
    if isinstance(decision, Refuse):
        problem = decision.problem
        assert problem.remedy, "a refusal names the way out"
        assert problem.message == problem.message.rstrip(".")
        return problem.reason
    return type(decision).__name__


def ask(phase: Phase | None, command: cmd.LinkCommand, **changes: object) -> str:
    return said(classify_command(node(phase, **changes), command, NOW))


BUSY = {phase: "ATTEMPT_UNDER_WAY" for phase in Phase if phase not in SETTLED}


@pytest.mark.parametrize("phase", Phase)
def test_prepare_in_every_state(phase: Phase) -> None:
    standing = {
        P.AWAITING_ROLLBACK: "NOT_ADMITTED",
        P.QUARANTINED: "NOT_ADMITTED",
        P.COLD_BOOTED: "NOT_ADMITTED",
    }
    assert ask(phase, NEXT) == (BUSY | standing).get(phase, "Begin")
    standing.pop(P.AWAITING_ROLLBACK)
    assert ask(phase, BACK) == (BUSY | standing).get(phase, "Begin")
    assert ask(phase, replace(NEXT, operator_word=True)) == BUSY.get(phase, "Begin")


@pytest.mark.parametrize("phase", Phase)
def test_the_same_prepare_again_is_answered_with_its_state(phase: Phase) -> None:
    assert ask(phase, prepare(7)) == ("Begin" if phase is P.IDLE else "Done")


@pytest.mark.parametrize("phase", Phase)
def test_proceed_in_every_state(phase: Phase) -> None:
    expected = {
        P.IDLE: "UNKNOWN_ATTEMPT",
        P.LOADING: "NOT_PRESERVED",
        P.DRAINING: "NOT_PRESERVED",
        P.PRESERVING: "NOT_PRESERVED",
        P.PRESERVED: "Deliver",
        P.UNWINDING: "ATTEMPT_UNWOUND",
        P.ABORTED: "ATTEMPT_UNWOUND",
    }
    assert ask(phase, PROCEED) == expected.get(phase, "Done")


@pytest.mark.parametrize("phase", Phase)
def test_cancel_in_every_state(phase: Phase) -> None:
    unwinds = (P.LOADING, P.DRAINING, P.PRESERVING, P.PRESERVED, P.SUSPENDING)
    too_late = (P.JUMPING, P.RETRIEVING, P.RESUMING, P.VERIFYING, P.FINISHING)
    expected = dict.fromkeys(unwinds, "Deliver") | dict.fromkeys(too_late, "PAST_POINT_OF_NO_RETURN")
    expected[P.IDLE] = "RaiseFloor"
    assert ask(phase, CANCEL) == expected.get(phase, "Done")


@pytest.mark.parametrize("phase", Phase)
def test_commit_in_every_state(phase: Phase) -> None:
    expected = {P.IDLE: "UNKNOWN_ATTEMPT", P.BAKING: "Deliver", P.COMMITTED: "Done"}
    assert ask(phase, COMMIT) == expected.get(phase, "NOT_BAKING")


@pytest.mark.parametrize("phase", Phase)
def test_stage_is_accepted_in_every_state(phase: Phase) -> None:
    stage = cmd.Stage("stage", ARTIFACT)
    assert classify_command(node(phase), stage, NOW) == Fetch(stage)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not P.IDLE])
@pytest.mark.parametrize("command", [PROCEED, COMMIT])
def test_another_attempt_is_unknown(phase: Phase, command: cmd.Proceed | cmd.Commit) -> None:
    assert ask(phase, replace(command, attempt=OTHER)) == "UNKNOWN_ATTEMPT"


def test_a_commit_under_way_is_done_already() -> None:
    assert ask(P.BAKING, COMMIT, committing=True) == "Done"


def test_decisions_carry_what_is_to_be_done() -> None:
    assert classify_command(node(P.IDLE), NEXT, NOW) == Begin(NEXT)
    delivered = classify_command(node(P.PRESERVED), PROCEED, NOW)
    assert delivered == Deliver(ev.Proceeded(Lease(PROCEED.stamp, 30.0)))
    assert classify_command(node(P.LOADING), CANCEL, NOW) == Deliver(ev.CancelRequested("paused"))
    assert classify_command(node(P.BAKING), COMMIT, NOW) == Deliver(ev.CommitRequested())


def test_generations_only_rise() -> None:
    state = replace(node(P.ABORTED), highest_generation=9)
    assert said(classify_command(state, prepare(9), NOW)) == "STALE_GENERATION"
    assert said(classify_command(state, prepare(8), NOW)) == "STALE_GENERATION"
    assert said(classify_command(state, prepare(10), NOW)) == "Begin"
    elsewhere = prepare(7, attempt=replace(REF, incarnation="another"))
    assert ask(P.ABORTED, elsewhere) == "STALE_GENERATION"


def test_cancel_raises_the_floor_for_an_attempt_that_never_began() -> None:
    early = replace(CANCEL, attempt=replace(REF, generation=9))
    assert classify_command(node(P.ABORTED), early, NOW) == RaiseFloor(early.attempt)
    assert classify_command(node(P.PRESERVED), early, NOW) == RaiseFloor(early.attempt)
    assert classify_command(node(P.ABORTED), replace(CANCEL, attempt=OTHER), NOW) == Done()


def test_what_cannot_be_done_at_all() -> None:
    assert ask(P.IDLE, replace(NEXT, method=Method.DRAIN_REBOOT)) == "METHOD_UNSUPPORTED"
    assert ask(P.IDLE, replace(NEXT, artifact=ArtifactRef("", "", "", ""))) == "ARTIFACT_MISSING"


def test_a_quarantined_node_without_an_attempt() -> None:
    state = NodeState(quarantine=PROBLEM)
    assert (state.phase, state.problem) == (P.QUARANTINED, PROBLEM)
    assert said(classify_command(state, NEXT, NOW)) == "NOT_ADMITTED"
    assert said(classify_command(state, replace(NEXT, operator_word=True), NOW)) == "Begin"
    assert (NodeState().phase, NodeState().problem) == (P.IDLE, None)
    assert NodeState(attempt=attempt(P.BAKING, problem=PROBLEM)).problem == PROBLEM


@pytest.mark.parametrize(
    ("stamp", "valid_for_s", "valid"),
    [
        (BootStamp("boot-a", 90.0), 10.001, True),
        (BootStamp("boot-a", 90.0), 10.0, False),
        (BootStamp("boot-a", 100.0), 0.001, True),
        (BootStamp("boot-a", 100.0), 0.0, False),
        (BootStamp("boot-a", 100.001), 30.0, False),
        (BootStamp("boot-b", 90.0), 30.0, False),
        (BootStamp("boot-a", 90.0), -1.0, False),
    ],
)
def test_a_lease_holds_in_its_boot_from_its_stamp_to_just_before_its_end(
    stamp: BootStamp, valid_for_s: float, valid: bool
) -> None:
    assert lease_valid(stamp, valid_for_s, NOW.boot_id, NOW.boottime_s) is valid
    refusal = lease_problem(Lease(stamp, valid_for_s), NOW)
    assert (refusal is None) is valid
    proceed = replace(PROCEED, stamp=stamp, valid_for_s=valid_for_s)
    assert ask(P.PRESERVED, proceed) == ("Deliver" if valid else "LEASE_EXPIRED")


def test_a_refused_lease_says_what_is_wrong_with_it() -> None:
    def text(stamp: BootStamp) -> str:
        problem = lease_problem(Lease(stamp, 5.0), NOW)
        assert problem is not None
        assert problem.retry is Retry.REPLAN
        return problem.message

    assert text(BootStamp("boot-b", 90.0)) == "the stamp is of another boot"
    assert text(BootStamp("boot-a", 200.0)) == "the stamp lies in this boot's future"
    assert text(BootStamp("boot-a", 10.0)) == "the lease has run out"


def test_luoctl_takes_the_same_path() -> None:
    def local(state: NodeState, command: cmd.LocalCommand) -> cmd.LinkCommand | Refuse:
        return resolve_local(state, command, "node-1", NOW, "running kho=on")

    begun = local(node(P.ABORTED), cmd.LocalPrepare("c", "d" * 64))
    assert isinstance(begun, cmd.Prepare)
    assert (begun.attempt.generation, begun.attempt.incarnation) == (8, LOCAL_INCARNATION)
    assert begun.command_line == "running kho=on"
    given = local(node(P.ABORTED), cmd.LocalPrepare("c", "d" * 64, "mine"))
    assert isinstance(given, cmd.Prepare)
    assert given.command_line == "mine"
    preserved = node(P.PRESERVED)
    assert local(preserved, cmd.LocalKexec("k", 5.0)) == cmd.Proceed("k", REF, NOW, 5.0)
    assert local(preserved, cmd.LocalCancel("x", "no")) == cmd.Cancel("x", REF, "no")
    assert local(preserved, cmd.LocalCommit("y")) == cmd.Commit("y", REF)
    refused = local(node(P.IDLE), cmd.LocalCommit("y"))
    assert isinstance(refused, Refuse)
    assert refused.problem.reason == "NO_ATTEMPT"
