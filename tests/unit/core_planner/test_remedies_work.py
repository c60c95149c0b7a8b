"""Every blocker's remedy works: what it names is not refused, and the rollout comes to its end.

A case is the smallest world in which a blocker appears. Every command that its remedy names is
carried out in a world of its own; from there on whatever the next blockers name first is done,
until the rollout has ended. A remedy without commands is followed by `mended`: the nodes are
brought back, or, where a budget leaves no room, nothing but time passes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core import blocking, blocking_nodes, blocking_silent, blocking_uncommitted, operations
from orchestrator.core.blockers import Blocker
from orchestrator.core.facts import GraceEnds
from orchestrator.core.model import Change, Maintenance, Problem
from orchestrator.core.phases import Outcome, Phase, WaveState
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import (
    Amount,
    BlackoutGate,
    DomainBudget,
    Embargo,
    FailureBudget,
    OnFail,
    Promotion,
    RollbackPolicy,
    Schedule,
    Window,
)
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import OLD, START, World, node, nodes, settled_attempt, spec
from tests.unit.core_planner.test_starts import begun, opened

COMMAND = re.compile(r"`liveroll ([a-z-]+) ?([^`]*)`")
LOOKS = frozenset({"why", "story", "node", "nodes", "get", "differences"})
MANY: dict[str, Any] = {"failures": FailureBudget(Amount(count=9), halt_on=frozenset())}
S = timedelta(seconds=1)


# --- the operator ------------------------------------------------------------------------


def named(remedy: str) -> list[tuple[str, str]]:
    """The calls that a remedy names, without those that only look."""
    return [(m[1], m[2]) for m in COMMAND.finditer(remedy) if m[1] not in LOOKS]


def carry_out(w: World, verb: str, words: str, remedy: str) -> None:
    """As the CLI would; raises if it is refused."""
    given = words.removesuffix(" -m WHY").split()
    names = [word for word in given if not word.startswith("-")]
    rollout, rest, now = names[0] if names else "", names[1:], w.now
    match verb:
        case "retry":
            mended(w, rest, afresh=False)
            done = operations.retry_nodes(w.fleet, rollout, rest, "", "ann", now).change
        case "exclude":
            done = operations.exclude_nodes(w.fleet, rollout, rest, "why", "ann", now).change
        case "commit":
            done = operations.commit_nodes(w.fleet, rollout, rest, "", "ann", now).change
        case "write-off":
            if f"powered off and without a link, `liveroll write-off {words}`" in remedy:
                for node_id in names:
                    w.cut(node_id)
                w.tick(timedelta(minutes=5))
            done = operations.write_off(w.fleet, names, "why", "ann", w.now).change
        case "maintenance" if "--end" in given:
            done = operations.set_maintenance(w.fleet, names, None, "ann", now).change
        case "maintenance":
            done = operations.set_maintenance(w.fleet, names, Maintenance("ann", "why"), "ann", now).change
        case "approve":
            wave = rest[0] if "--wave" in given else ""
            done = operations.approve(w.fleet, rollout, wave, "", "ann", now)
        case "resume":
            done = operations.resume(w.fleet, rollout, "", "--clear-halt" in given, "ann", now)
        case "rollback":
            done = operations.roll_back(w.fleet, rollout, "", "ann", now)
        case "cancel":
            done = operations.cancel(w.fleet, rollout, "", False, "ann", now)
        case "release":
            accept = "--accept-differences" in given
            done = operations.fleet_stop(w.fleet, False, "", "ann", now, accept_differences=accept)
        case _:
            raise AssertionError(f"no such call: {verb}")
    assert done != Change(), f"`liveroll {verb} {words}` changes nothing"
    w.commit(done)


def mended(w: World, ids: list[str], *, afresh: bool = True) -> None:
    """Whatever ails the nodes is over; who answers again is where it was.

    afresh: their agents start again, and say Hello."""
    for node_id in ids:
        w.scripts.pop(node_id, None)
        if node_id in w.silent:
            w.mend(node_id)
        w.set_node(node_id, healthy=True)
        if afresh:
            w.set_node(node_id, link_epoch=w.node(node_id).link_epoch + 1)


def blockers(w: World, rollout_id: str = "r1") -> tuple[Blocker, ...]:
    w.settle_plans()
    return w.plan().blockers.get(rollout_id, ())


def to_the_end(w: World) -> None:
    """The first call of the first blocker that names one, again and again."""
    told: list[str] = []
    for _ in range(12):
        w.run()
        if w.row().ended_at is not None:
            return
        left = list(blockers(w))
        told += [f"{b.reason}: {b.remedy}" for b in left]
        assert left, "a stall without a reason"
        acts = [(call, b.remedy) for b in left for call in named(b.remedy)]
        if acts:
            (verb, words), remedy = acts[0]
            carry_out(w, verb, words, remedy)
        else:
            mended(w, sorted(w.fleet.nodes))
    raise AssertionError("\n".join(told))


# --- the cases ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    reason: str
    make: Callable[[], World]
    names: str
    """The verbs that the remedy names, in order; empty: waiting or mending is enough."""
    variant: str = ""

    def __str__(self) -> str:
        return self.reason + (f"-{self.variant}" if self.variant else "")


def stopped() -> World:
    w = begun(3)
    w.set_fleet(stopped="OPERATOR", stop_message="smoke")
    return w


def paused(**more: Any) -> World:
    w = begun(3)
    w.set_rollout(paused="lunch", **more)
    return w


def halted(*, jumped: bool, **how: Any) -> World:
    w = begun(3, **how)
    if jumped:
        w.run(until="BAKING")
    w.set_rollout(halted="X", halt_message="y")
    return w


def shut(schedule: Schedule, back: bool = False) -> World:
    """No window opens; back: n1 was found unhealthy before."""
    w = begun(3, budgets=MANY)
    if back:
        w.script("n1", end=Phase.AWAITING_ROLLBACK)
        w.run(until="FINISHING")
    w.set_rollout(spec=replace(w.row().spec, schedule=schedule))
    return w


NEVER = Schedule(windows=(Window(frozenset({9}), START.time(), START.time()),))
"""No such day: what no specification may say, but a row may."""


def cancelled(w: World) -> World:
    w.settle_plans()
    w.commit(operations.cancel(w.fleet, "r1", "", False, "ann", w.now))
    w.run(bound=30)
    return w


def awaiting() -> World:
    w = World(nodes(2))
    w.rollout(spec(promotion=Promotion.MANUAL))
    return w.run()


def wave_baking() -> World:
    w = World(nodes(2))
    w.rollout(spec(bake=timedelta(hours=1)))
    for _ in range(4000):
        if w.row().wave_state is WaveState.BAKING and w.member("n0").outcome is Outcome.UPDATED:
            break
        w.run(bound=1)
    return w


def gated(gate: BlackoutGate, **script: Any) -> World:
    w = World(nodes(2))
    w.rollout(spec(gates=(gate,)))
    w.script("n0", **script)
    return w.run()


def quarantined(count: int = 3, **how: Any) -> World:
    """n1 is QUARANTINED, and nothing else is under way."""
    w = begun(count, **{"unavailable": 1, "budgets": MANY, **how})
    w.script("n1", fail_at="RETRIEVING")
    return w.run(bound=60)


def poor(policy: FleetPolicy) -> World:
    w = World(nodes(3), policy=policy)
    w.rollout(spec())
    return w


def slots(**how: Any) -> World:
    """One attempt is under way, and takes what there is."""
    w = begun(4, **how)
    w.settle_plans()
    return w


def fleet_quarantined() -> World:
    w = begun(3, policy=FleetPolicy(max_unavailable=Amount(count=1)), budgets=MANY)
    w.script("n1", fail_at="RETRIEVING")
    return w.run(bound=60)


def fleet_blackout() -> World:
    w = begun(4, policy=FleetPolicy(max_in_blackout=Amount(count=1)))
    w.settle_plans()
    return w


def late(**how: Any) -> World:
    """n1, n2 and n3 are of a kind of their own; n1 is its canary."""
    w = begun(4, **{"budgets": MANY, **how})
    for node_id in ("n1", "n2", "n3"):
        w.set_node(node_id, hardware_model="m2")
    w.settle_plans()
    return w


def canary_failed(w: World | None = None) -> World:
    w = w or late()
    w.script("n1", fail_at="RETRIEVING")
    return w.run(bound=60)


def canary_written_off() -> World:
    w = late()
    w.run(until="SUSPENDING")
    w.cut("n1")
    w.tick(timedelta(minutes=10))
    w.settle_plans()
    w.commit(operations.write_off(w.fleet, ["n1"], "burnt", "ann", w.now).change)
    return w.run(bound=60)


def canary_back() -> World:
    w = late()
    w.script("n1", end=Phase.AWAITING_ROLLBACK)
    w.run(until="AWAITING_ROLLBACK")
    w.scripts.clear()
    return w.run(bound=60)


def canary_retried(how: str, w: World | None = None) -> World:
    """It has jumped, failed and been retried; then it cannot take its turn, and stands in the last wave."""
    w = canary_failed(w)
    w.scripts.clear()
    if how == "unreachable":
        w.cut("n1")
        w.tick(timedelta(minutes=5))
    elif how == "maintenance":
        w.set_node("n1", maintenance=Maintenance("ops", "disk"))
    else:
        w.set_node("n1", rollback_artifact="")
    w.commit(operations.retry_nodes(w.fleet, "r1", ["n1"], "", "ann", w.now).change)
    return w.run(bound=60)


def canary_retried_alone() -> World:
    """Nobody else is of the stuck canary's kind, and no other canary may go: it is back on the kernel that it
    came from, so it is of that kind still."""
    w = begun(4, budgets=MANY)
    w.set_rollout(spec=replace(w.row().spec, canary=replace(w.row().spec.canary, max_nodes=1)))
    w.set_node("n1", hardware_model="m2")
    for node_id in ("n2", "n3"):
        w.set_node(node_id, hardware_model="m3", maintenance=Maintenance("ops", "disk"))
    w = canary_retried("unreachable", w)
    w.set_node("n1", release=OLD)
    for node_id in ("n2", "n3"):
        w.set_node(node_id, maintenance=None)
    return w.run(bound=60)


def pair_waits() -> World:
    w = begun(5)
    for i, node_id in enumerate(("n1", "n2", "n3", "n4")):
        w.set_node(node_id, hardware_model=f"x{i}")
    w.set_rollout(spec=replace(w.row().spec, canary=replace(w.row().spec.canary, max_nodes=2)))
    w.settle_plans()
    return w


def canary_gated() -> World:
    w = World([node("n0"), node("n1", hardware_model="m2"), node("n2", hardware_model="m2")])
    w.rollout(spec(gates=(BlackoutGate(0.99, S, on_fail=OnFail.HOLD),)))
    w.script("n1", blackout=4 * S)
    return w.run()


def only(change: dict[str, Any], **how: Any) -> World:
    """n1, the last to go, is as said."""
    w = begun(2, **how)
    w.set_node("n1", **change)
    return w


def unreachable(back: bool = False) -> World:
    w = updated(2) if back else begun(2)
    w.cut("n1")
    w.tick(timedelta(minutes=5))
    if back:
        w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    return w.run(bound=60)


def updated(count: int) -> World:
    """All but n0 are updated, and n0, the canary, is not: the rollout goes on to wave 2."""
    w = World(nodes(count + 1))
    w.rollout(spec(waves=[Amount(count=count - 1), None], promotion=Promotion.MANUAL, budgets=MANY))
    w.set_rollout(approved=frozenset({1}))
    return w.run()


def broken(phase: Phase) -> World:
    w = World(nodes(2))
    w.put(settled_attempt(w.node("n1"), phase))
    w.rollout(spec())
    return w.run()


def left_uncommitted() -> World:
    """A cancelled rollout has left n1 on the new kernel."""
    w = World(nodes(2))
    w.rollout(spec(name="r0", bake=timedelta(hours=1)), [["n1"], []])
    w.run(until="BAKING")
    w.commit(operations.cancel(w.fleet, "r0", "", False, "ann", w.now))
    w.run()
    w.rollout(spec(), [["n0"], ["n1"]])
    return w.run(bound=200)


def quarantined_on_the_way_back() -> World:
    w = updated(2)
    w.set_attempt("n1", phase=Phase.QUARANTINED)
    w.set_member("n1", outcome=Outcome.FAILED, reason="quarantined")
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    return w.run(bound=60)


def superseded() -> World:
    w = updated(2)
    row = settled_attempt(w.node("n1"), Phase.COMMITTED, generation=9, rollout_id="r2")
    w.put(row)
    w.set_node("n1", release="7.2.0", attempt=9, highest_generation=9)
    w.cut("n0")
    w.tick(timedelta(minutes=5))
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    return w.run(bound=60)


def nothing_back() -> World:
    w = updated(2)
    w.set_member("n1", from_artifact="")
    w.cut("n0")
    w.tick(timedelta(minutes=5))
    w.commit(operations.roll_back(w.fleet, "r1", "", "ann", w.now))
    return w.run(bound=60)


def unstaged(**more: Any) -> World:
    return only({"staged": frozenset(), **more})


def stage_failed(retry: Retry, remedy: str = "") -> World:
    problem = Problem("CHECKSUM", retry, "bad sum", remedy)
    w = unstaged(stage_problem=problem, stage_problem_digest="sha-new", stage_failed_at=START)
    w.script("n1", deaf=True)
    return w


def staging() -> World:
    w = unstaged()
    w.settle_plans()
    return w


def staging_waits() -> World:
    w = World(nodes(3, staged=frozenset()), FleetPolicy(max_staging=1))
    w.rollout(spec())
    opened(w)
    w.settle_plans()
    return w


def retry_waits() -> World:
    w = begun(2, budgets=MANY)
    w.script("n1", fail_at="PRESERVING", times=1)
    for _ in range(200):
        if w.member("n1").not_before is not None:
            break
        w.run(bound=1)
    return w


def unknown_link() -> World:
    w = World(nodes(2), linked=False)
    w.rollout(spec())
    w.fleet.apply(GraceEnds(w.now + timedelta(minutes=2)))
    w.silent = {"n1"}
    w.hear("n0")
    return opened(w)


def other_rollout() -> World:
    w = World(nodes(2))
    w.rollout(spec(name="r2"), [["n1"], []])
    w.settle_plans()
    w.rollout(spec(), [["n0"], ["n1"]])
    w.set_rollout(created_at=START + S)
    return opened(w)


def silent(phase: Phase) -> World:
    w = begun(2)
    w.run(until=phase.value)
    w.cut("n1")
    w.tick(timedelta(seconds=30))
    return w


def stamp_waits() -> World:
    w = begun(2)
    w.run(until="PRESERVED")
    w.set_attempt("n1", stamp=None, stamp_at=None)
    w.now += timedelta(minutes=2)
    return w


def baking_stuck(*, linked: bool, **changes: Any) -> World:
    w = begun(2, bake=timedelta(minutes=5))
    w.run(until="BAKING")
    if linked:
        w.set_node("n1", healthy=False)
    else:
        w.cut("n1")
    w.set_rollout(**changes)
    w.tick(timedelta(minutes=10))
    w.settle_plans()
    return w


def nodes_baking() -> World:
    w = begun(2, bake=timedelta(hours=1))
    w.run(until="BAKING")
    w.settle_plans()
    return w


def one(name: str) -> dict[str, Any]:
    return {"budgets": {name: Amount(count=1)}}


DOMAIN: dict[str, Any] = {"budgets": {"domain": DomainBudget("zone", Amount(count=1)), **MANY}}
QUARTER = BlackoutGate(0.99, S, min_samples=5)

CASES = [
    Case("FLEET_STOPPED", stopped, "release"),
    Case("PAUSED", paused, "resume"),
    Case("PAUSED", lambda: paused(halted="X", halt_message="y"), "resume", "and-halted"),
    Case("HALTED", lambda: halted(jumped=True), "resume rollback cancel"),
    Case("HALTED", lambda: halted(jumped=False), "resume cancel", "before-any-jump"),
    Case(
        "HALTED",
        lambda: halted(jumped=True, rollback=RollbackPolicy(none=True)),
        "resume cancel",
        "rollback-none",
    ),
    Case(
        "WINDOW",
        lambda: shut(
            Schedule(windows=(Window(frozenset({1}), START.time(), (START + timedelta(hours=1)).time()),))
        ),
        "",
    ),
    Case("WINDOW", lambda: shut(NEVER), "cancel", "for-good"),
    Case("WINDOW", lambda: cancelled(shut(NEVER, back=True)), "write-off", "for-good-on-the-way-back"),
    Case("EMBARGO", lambda: shut(Schedule(embargoes=(Embargo(START, START + timedelta(hours=9), "x"),))), ""),
    Case("AWAITING_APPROVAL", awaiting, "approve"),
    Case("WAVE_BAKING", wave_baking, ""),
    Case(
        "GATE_FAIL",
        lambda: gated(BlackoutGate(0.99, S, on_fail=OnFail.HOLD), blackout=3 * S),
        "approve rollback cancel",
    ),
    Case(
        "GATE_FAIL", lambda: gated(BlackoutGate(0.99, S), blackout=3 * S), "approve rollback cancel", "halt"
    ),
    Case("GATE_INCONCLUSIVE", lambda: gated(QUARTER), "approve rollback cancel"),
    Case("BUDGET_UNAVAILABLE", lambda: slots(unavailable=1), "", "attempts"),
    Case("BUDGET_UNAVAILABLE", quarantined, "retry maintenance"),
    Case("BUDGET_BLACKOUT", lambda: slots(blackout=1), ""),
    Case("BUDGET_UNCOMMITTED", lambda: slots(**one("max_uncommitted")), ""),
    Case("FLEET_BUDGET_UNAVAILABLE", fleet_quarantined, "retry maintenance"),
    Case("FLEET_BUDGET_BLACKOUT", fleet_blackout, ""),
    Case("DOMAIN_CAP", lambda: slots(zone="a", **DOMAIN), "", "attempts"),
    Case("DOMAIN_CAP", lambda: quarantined(unavailable=9, zone="a", **DOMAIN), "retry maintenance"),
    Case("PAIR_WAITS", pair_waits, ""),
    Case("PAIR_WAITS", canary_retried_alone, "exclude write-off cancel", "for-a-stuck-canary"),
    Case("CANARY_UNDER_WAY", late, ""),
    Case(
        "CANARY_UNDER_WAY", lambda: canary_retried("unreachable"), "exclude write-off cancel", "unreachable"
    ),
    Case(
        "CANARY_UNDER_WAY", lambda: canary_retried("maintenance"), "maintenance exclude cancel", "maintenance"
    ),
    Case("CANARY_FAILED", canary_failed, "retry exclude cancel"),
    Case("CANARY_FAILED", canary_back, "retry exclude cancel", "rolled-back"),
    Case("CANARY_FAILED", canary_written_off, "exclude cancel", "written-off"),
    Case("CANARY_GATED", canary_gated, "approve exclude cancel rollback"),
    Case("NO_ROLLBACK_ARTIFACT", lambda: only({"rollback_artifact": ""}), "exclude"),
    Case("NO_ROLLBACK_ARTIFACT", nothing_back, "", "back"),
    Case("RETRY_WAITS", retry_waits, ""),
    Case("LINK_UNKNOWN", unknown_link, ""),
    Case("NODE_UNREACHABLE", unreachable, "exclude write-off"),
    Case("NODE_UNREACHABLE", lambda: unreachable(back=True), "write-off", "back"),
    Case(
        "NODE_IN_MAINTENANCE",
        lambda: only({"maintenance": Maintenance("ops", "disk")}).run(bound=60),
        "maintenance exclude",
    ),
    Case("NODE_UNHEALTHY", lambda: only({"healthy": False}), "exclude"),
    Case(
        "NODE_NOT_READY",
        lambda: only({"not_ready": Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared")}).run(
            bound=60
        ),
        "exclude",
    ),
    Case("NEEDS_OPERATOR", lambda: broken(Phase.QUARANTINED), "retry exclude"),
    Case("NEEDS_OPERATOR", lambda: broken(Phase.LOST), "retry exclude", "lost"),
    Case("NEEDS_OPERATOR", lambda: broken(Phase.AWAITING_ROLLBACK), "exclude write-off", "unhealthy"),
    Case("NEEDS_OPERATOR", quarantined_on_the_way_back, "retry write-off", "back"),
    Case("NODE_UNCOMMITTED", left_uncommitted, "commit rollback exclude"),
    Case("SUPERSEDED", superseded, ""),
    Case("STAGING", staging, ""),
    Case("STAGING_WAITS", staging_waits, ""),
    Case("STAGE_FAILED", lambda: stage_failed(Retry.CALL), "exclude"),
    Case("STAGE_FAILED", lambda: stage_failed(Retry.CALL, "Wait."), "", "told-by-the-agent"),
    Case("STAGE_FAILED", lambda: stage_failed(Retry.REPLAN), "exclude", "replan"),
    Case("STAGE_FAILED", lambda: stage_failed(Retry.FIX_STATE, "Make room."), "retry exclude", "fix-state"),
    Case("STAGE_FAILED", lambda: stage_failed(Retry.NEVER), "retry exclude", "never"),
    Case("OTHER_ROLLOUT", other_rollout, ""),
    Case("IN_PROGRESS", lambda: slots(), ""),
    Case("ATTEMPT_SILENT", lambda: silent(Phase.PRESERVING), "write-off"),
    Case("IN_BLACKOUT", lambda: silent(Phase.SUSPENDING), ""),
    Case("AWAITING_STAMP", stamp_waits, ""),
    Case("BAKING_STUCK", lambda: baking_stuck(linked=False), "write-off rollback"),
    Case("BAKING_STUCK", lambda: baking_stuck(linked=True), "rollback write-off", "linked"),
    Case(
        "BAKING_STUCK",
        lambda: baking_stuck(linked=True, paused="x"),
        "commit rollback write-off",
        "paused",
    ),
    Case("NODES_BAKING", nodes_baking, ""),
]

WAITING_IS_ENOUGH = frozenset(
    {
        "IN_PROGRESS",
        "STAGING",
        "STAGING_WAITS",
        "CANARY_UNDER_WAY",
        "PAIR_WAITS",
        "NODES_BAKING",
        "BUDGET_UNAVAILABLE",
        "BUDGET_BLACKOUT",
        "BUDGET_UNCOMMITTED",
        "FLEET_BUDGET_UNAVAILABLE",
        "FLEET_BUDGET_BLACKOUT",
        "DOMAIN_CAP",
    }
)
"""Held by what is under way, which ends or has a blocker of its own."""


def found(case: Case, w: World) -> Blocker:
    told = {b.reason: b for b in blockers(w)}
    assert case.reason in told, (sorted(told), w.phases())
    return told[case.reason]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_remedy_names_is_possible_and_ends_the_stall(case: Case) -> None:
    w = case.make()
    blocker = found(case, w)
    acts = named(blocker.remedy)
    assert " ".join(verb for verb, _ in acts) == case.names, blocker.remedy
    for verb, words in acts:
        w = case.make()
        again = found(case, w)
        carry_out(w, verb, words, again.remedy)
        to_the_end(w)
    if not acts:
        to_the_end(w)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_blocker_without_a_remedy_ends_by_itself(case: Case) -> None:
    for blocker in blockers(case.make()):
        assert blocker.remedy or blocker.until or blocker.reason in WAITING_IS_ENOUGH, blocker
        assert not blocker.remedy or blocker.remedy.endswith("."), blocker


def test_every_reason_has_a_case() -> None:
    written = {
        node.value
        for module in (blocking, blocking_nodes, blocking_silent, blocking_uncommitted)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[A-Z]+(_[A-Z]+)*", node.value)
    }
    made = {"WINDOW", "EMBARGO", "GATE_FAIL", "GATE_INCONCLUSIVE"}
    assert {case.reason for case in CASES} == (written - {"PASS"}) | made
