"""The planner in a hostile world: reports in any order, links lost, crashes, operators' whims.

After every step I1, I2, I5, I6 and I14 hold, and the fleet equals one rebuilt from its facts.
At the end faults heal, a fair operator answers every blocker, and every rollout ends.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator.core.actions import Action
from orchestrator.core.facts import LinkDown
from orchestrator.core.model import AttemptRow, DesiredProceed, MemberRow, NodeRow, Problem
from orchestrator.core.phases import BLACKOUT_SLOT, SETTLED, UNAVAILABLE, Goal, Kind, Link, Outcome, Phase
from orchestrator.core.policy import FleetPolicy
from orchestrator.core.spec import Amount, DomainBudget, FailureBudget, Promotion
from orchestrator.errors import Retry
from tests.unit.core_planner.builders import NEW, World, artifact, node, spec

IDS = [f"n{i}" for i in range(7)]
BY_HAND = Problem("LUO_NOT_NORMAL", Retry.FIX_STATE, "LUO is prepared", "Undo it.")
FAILING = ["LOADING", "PRESERVING", "SUSPENDING", "RETRIEVING", "VERIFYING"]


class Planner(RuleBasedStateMachine):
    """One or two rollouts over seven nodes of three kinds in two zones."""

    world: World

    @initialize(
        unavailable=st.integers(1, 3),
        blackout=st.integers(1, 2),
        cap=st.integers(1, 2),
        failures=st.integers(0, 3),
        manual=st.sampled_from([Promotion.AUTOMATIC, Promotion.MANUAL, Promotion.MANUAL_CANARY]),
        two=st.booleans(),
        max_canaries=st.integers(1, 3),
        shared=st.sampled_from([None, Amount(count=2)]),
    )
    def begin(
        self,
        unavailable: int,
        blackout: int,
        cap: int,
        failures: int,
        manual: Promotion,
        two: bool,
        max_canaries: int,
        shared: Amount | None,
    ) -> None:
        made = []
        for i, node_id in enumerate(IDS):
            staged = frozenset({"sha-new"}) if i % 2 else frozenset[str]()
            made.append(
                node(
                    node_id,
                    labels={"zone": "ab"[i % 2]},
                    hardware_model=("m1", "m1", "m2")[i % 3],
                    release=NEW if i == 5 else "6.19.0",
                    staged=staged,
                )
            )
        self.world = World(made, FleetPolicy(max_staging=2, max_unavailable=shared, max_in_blackout=shared))
        tight = spec(
            waves=[Amount(count=2), None],
            unavailable=unavailable,
            blackout=blackout,
            budgets={
                "domain": DomainBudget("zone", Amount(count=cap)),
                "failures": FailureBudget(Amount(count=failures)),
                "max_uncommitted": Amount(count=3),
            },
            promotion=manual,
        )
        tight = replace(tight, canary=replace(tight.canary, max_nodes=max_canaries))
        self.world.rollout(tight)
        if two:
            other = replace(tight, name="r2")
            self.world.rollout(other, waves=[["n6"], ["n3", "n4"], []], artifact=artifact("7.2.0", "sha-2"))

    # --- what happens -------------------------------------------------------------------

    @rule(prefix=st.integers(0, 12))
    def plan_some(self, prefix: int) -> None:
        """A plan of which only a prefix is committed (a crash, or a conflict, took the rest)."""
        made = self.world.plan()
        for action in made.actions[:prefix]:
            self.check_action(action)
            self.world.commit(action.change)

    @rule()
    def plan_all(self) -> None:
        for _ in range(4):
            self.plan_some(1000)

    @rule(node_id=st.sampled_from(IDS), steps=st.integers(1, 6))
    def agent(self, node_id: str, steps: int) -> None:
        if node_id not in self.world.silent:
            for _ in range(steps):
                self.world.step(node_id)

    @rule(node_id=st.sampled_from(IDS), at=st.sampled_from(FAILING), retry=st.sampled_from(list(Retry)))
    def will_fail(self, node_id: str, at: str, retry: Retry) -> None:
        self.world.script(node_id, fail_at=at, retry=retry, times=1)

    @rule(node_id=st.sampled_from(IDS), end=st.sampled_from([Phase.AWAITING_ROLLBACK, Phase.COLD_BOOTED]))
    def will_end(self, node_id: str, end: Phase) -> None:
        self.world.script(node_id, end=end)

    @rule(node_id=st.sampled_from(IDS), said=st.sampled_from([None, BY_HAND]))
    def by_hand(self, node_id: str, said: Problem | None) -> None:
        """Somebody drives the node's LUO, or has done."""
        self.world.set_node(node_id, not_ready=said)

    @rule(node_id=st.sampled_from(IDS))
    def cut(self, node_id: str) -> None:
        self.world.cut(node_id)

    @rule(node_id=st.sampled_from(IDS))
    def mend(self, node_id: str) -> None:
        self.back(node_id)

    @rule(node_id=st.sampled_from(IDS), replica=st.sampled_from("bc"), up=st.booleans())
    def move(self, node_id: str, replica: str, up: bool) -> None:
        """The node is linked to another replica, or its link there has ended."""
        self.world.silent.discard(node_id)
        self.world.move(node_id, replica, up=up)

    @rule(alive=st.sampled_from(["b", "bc", "c", ""]))
    def replicas(self, alive: str) -> None:
        """Leases of other replicas begin, go on, run out."""
        self.world.replicas(*alive)

    @rule(by=st.sampled_from([1, 10, 60, 400]))
    def wait(self, by: int) -> None:
        self.world.tick(timedelta(seconds=by))

    @rule()
    def crash(self) -> None:
        silent = set(self.world.silent)
        self.world.crash()
        for node_id in silent:
            self.world.fleet.apply(LinkDown(node_id, self.world.now))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        if self.world.row().ended_at is None:
            self.world.set_rollout(paused="lunch" if paused else "")

    @rule(stopped=st.booleans())
    def stop(self, stopped: bool) -> None:
        self.world.set_fleet(stopped="OPERATOR" if stopped else "")

    @rule(back=st.booleans())
    def cancel(self, back: bool) -> None:
        row = self.world.row()
        if row.ended_at is None and row.goal is Goal.FORWARD:
            self.world.set_rollout(goal=Goal.CANCEL, roll_back_after_cancel=back)

    @precondition(lambda self: self.world.row().ended_at is None)
    @rule()
    def roll_back(self) -> None:
        baseline = self.world.fleet.unavailable_members("r1")
        self.world.set_rollout(goal=Goal.BACK, rollback_baseline=baseline)

    # --- what must hold -----------------------------------------------------------------

    def back(self, node_id: str) -> None:
        """A node links again; one that was LOST tells where it stands."""
        self.world.mend(node_id)
        a = self.world.fleet.newest_attempt(node_id)
        if a is not None and a.phase is Phase.LOST:
            jumped = self.world.node(node_id).boot_id != a.expected_boot_id
            self.world.set_attempt(node_id, phase=Phase.QUARANTINED if jumped else Phase.ABORTED)

    def check_action(self, action: Action) -> None:
        """I1, I5, I6, I14 for one action, just before it is committed."""
        w = self.world
        for row in action.change.writes:
            if isinstance(row, AttemptRow) and action.kind == "prepare":
                self.check_start(row)
            if isinstance(row, NodeRow) and isinstance(row.desired, DesiredProceed):
                a = w.attempt(row.node_id)
                if action.kind == "proceed":
                    assert a.phase is Phase.PRESERVED
                    assert not a.cancel_cause
                    assert row.desired.stamp.boot_id == row.boot_id
                    self.check_gates(a.rollout_id, a.kind)

    def check_gates(self, rollout_id: str, kind: Kind) -> None:
        row = self.world.row(rollout_id)
        assert not self.world.fleet.row.stopped
        assert not row.paused
        assert row.ended_at is None
        if kind is Kind.FORWARD:
            assert not row.halted
            assert row.goal is Goal.FORWARD

    def check_start(self, a: AttemptRow) -> None:
        w, fleet = self.world, self.world.fleet
        row, n = w.row(a.rollout_id), w.node(a.node_id)
        self.check_gates(a.rollout_id, a.kind)
        assert fleet.open_attempt(a.node_id) is None
        assert a.generation > n.highest_generation
        assert fleet.link(a.node_id, w.now) is Link.UP
        assert n.not_ready is None
        down = [m for m in fleet.members(a.rollout_id) if self.is_down(m)]
        if a.node_id not in down:
            budgets = row.spec.rollback if row.goal is Goal.BACK else row.spec.budgets
            base = row.rollback_baseline if row.goal is Goal.BACK else 0
            limit = budgets.max_unavailable.count
            assert limit is not None
            assert len(down) - base + 1 <= limit
            if row.goal is not Goal.BACK:
                zone = n.labels["zone"]
                cap = row.spec.budgets.domain
                assert cap is not None
                assert cap.max_unavailable.count is not None
                assert sum(w.node(m).labels["zone"] == zone for m in down) + 1 <= cap.max_unavailable.count
            if w.policy.max_unavailable is not None:
                assert sum(self.is_down(x) for x in fleet.nodes) + 1 <= 2
        if a.kind is Kind.FORWARD and w.member(a.node_id, a.rollout_id).wave > 0:
            assert row.wave > 0
            pair = (n.release, a.to_release, n.hardware_model)
            canary = row.pair_canaries.get("|".join(pair))
            assert pair in row.pairs_passed or canary == a.node_id
        if a.kind is Kind.FORWARD:
            assert "sha-new" in n.staged or a.to_release != NEW
            assert n.rollback_artifact

    def is_down(self, node_id: str) -> bool:
        fleet = self.world.fleet
        a = fleet.newest_attempt(node_id)
        counted = not self.world.node(node_id).written_off
        down = fleet.link(node_id, self.world.now) is not Link.UP
        return counted and (down or (a is not None and a.phase in UNAVAILABLE))

    @invariant()
    def blackout_slots(self) -> None:
        """I2."""
        if not hasattr(self, "world"):
            return
        used: Counter[str] = Counter()
        for node_id in IDS:
            a = self.world.fleet.newest_attempt(node_id)
            if a is not None and a.phase in BLACKOUT_SLOT and not a.ever_lost:
                used[a.rollout_id] += 1
        for rollout_id, count in used.items():
            row = self.world.row(rollout_id)
            limits = (row.spec.budgets.max_in_blackout.count, row.spec.rollback.max_in_blackout.count)
            assert count <= max(limit for limit in limits if limit is not None)
        if self.world.policy.max_in_blackout is not None:
            assert used.total() <= 2

    @invariant()
    def rebuild_is_the_oracle(self) -> None:
        if not hasattr(self, "world"):
            return
        mine, other = self.world.fleet, self.world.rebuilt()
        assert mine.standings == other.standings
        assert mine.indexes == other.indexes
        for name in ("unavailable", "uncounted", "blackout", "staging", "stale_desires"):
            assert getattr(mine, name) == getattr(other, name), name

    @invariant()
    def every_jump_is_the_only_one(self) -> None:
        """I3, as far as the planner has a say."""
        if hasattr(self, "world"):
            assert all(count == 1 for count in self.world.jumps.values())

    def teardown(self) -> None:
        """I7, I9: once faults heal and a fair operator answers, everything ends."""
        if not hasattr(self, "world"):
            return
        w = self.world
        w.scripts.clear()
        for node_id in IDS:
            if node_id in w.silent or w.fleet.link(node_id, w.now) is not Link.UP:
                self.back(node_id)
        w.set_fleet(stopped="")
        for _ in range(60):
            w.run(bound=60)
            active = [r for r in w.fleet.rollouts.values() if r.ended_at is None]
            if not active:
                break
            for row in active:
                self.answer(row.rollout_id)
        else:
            raise AssertionError(
                {r: (w.row(r), w.plan().blockers.get(r), w.phases()) for r in w.fleet.rollouts}
            )
        for row in w.fleet.rollouts.values():
            for member in w.fleet.members(row.rollout_id).values():
                self.check_end(row.ended_as, member)

    def answer(self, rollout_id: str) -> None:
        """A fair operator does what the blockers' remedies say."""
        w, row = self.world, self.world.row(rollout_id)
        blockers = w.plan().blockers[rollout_id]
        assert blockers or w.last_plan.actions, "a stall without a reason"
        for blocker in blockers:
            assert blocker.until or blocker.remedy or blocker.reason in WAITING, blocker
            if blocker.reason == "PAUSED":
                row = w.set_rollout(rollout_id, paused="")
            elif blocker.reason == "HALTED":
                forgiven = w.fleet.indexes[rollout_id].failed
                row = w.set_rollout(rollout_id, halted="", failures_forgiven=forgiven)
            elif blocker.reason == "NODE_NOT_READY":
                for node_id in blocker.nodes:
                    w.set_node(node_id, not_ready=None)
            elif blocker.reason == "AWAITING_APPROVAL":
                row = w.set_rollout(rollout_id, approved=row.approved | {row.wave})
            elif blocker.reason in ("CANARY_FAILED", "PAIR_WAITS"):
                for m in w.fleet.members(rollout_id).values():
                    if m.outcome is Outcome.PENDING:
                        w.set_member(m.node_id, rollout_id, outcome=Outcome.EXCLUDED)
            elif blocker.reason in ("NEEDS_OPERATOR", "BUDGET_UNAVAILABLE", "DOMAIN_CAP"):
                for node_id in IDS:
                    a = w.fleet.newest_attempt(node_id)
                    if a is not None and a.phase in SETTLED and a.phase in UNAVAILABLE:
                        w.set_node(node_id, written_off="for good")
            elif blocker.reason == "FLEET_BUDGET_UNAVAILABLE":
                for node_id in IDS:
                    if self.is_down(node_id) and w.fleet.open_attempt(node_id) is None:
                        w.set_node(node_id, written_off="for good")

    def check_end(self, ended_as: str, member: MemberRow) -> None:
        assert member.outcome not in (Outcome.PENDING, Outcome.OPEN)
        if ended_as == "SUCCEEDED":
            assert member.outcome is not Outcome.BAKING
        if ended_as == "ROLLED_BACK":
            assert not member.crossed or member.outcome is Outcome.WRITTEN_OFF


WAITING = {
    "IN_PROGRESS",
    "STAGING",
    "STAGING_WAITS",
    "CANARY_UNDER_WAY",
    "NODES_BAKING",
    "BUDGET_UNAVAILABLE",
    "BUDGET_BLACKOUT",
    "BUDGET_UNCOMMITTED",
    "FLEET_BUDGET_UNAVAILABLE",
    "FLEET_BUDGET_BLACKOUT",
    "DOMAIN_CAP",
}
"""Blockers that something under way ends; each attempt under way has a deadline of its own."""

Planner.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
TestPlanner = Planner.TestCase
