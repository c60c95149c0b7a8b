"""The fair operator: answers every blocker as its remedy says, and gives a rollout up in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.core.actions import Plan
from orchestrator.core.blockers import Blocker
from orchestrator.core.model import RolloutRow
from orchestrator.core.phases import SETTLED, UNAVAILABLE, Goal, Link, Outcome
from tests.sim import chaos_luo, preserved
from tests.sim.operators import Operator

if TYPE_CHECKING:
    from tests.sim.world import World

READY_LOOKS = 6
"""Two minutes: a node at rest looks at itself now and then."""
RETRIES = 2
"""How often the fair operator retries one node before giving up on it."""


class Fair:
    """Answers every blocker as its remedy says, within minutes; gives up a rollout in the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.operator = Operator(world, "alice")
        self._retried: Counter[tuple[str, str]] = Counter()
        self._kept: set[str] = set()
        """Nodes that a rollout cannot end without."""
        self._asked: Counter[str] = Counter()
        """Rollout → looks at which nodes were not ready, since something was last done about it."""
        self.unexplained: Counter[str] = Counter()
        """Rollout → looks in a row at which it stood still without a blocker or a wake."""

    async def look(self, *, give_up: bool) -> None:
        """Once round all rollouts."""
        operator = self.operator
        fleet = operator.fleet
        life = self.world.host.current
        if fleet is None or life is None:
            return
        plan = life.orchestrator.last_plan
        if fleet.row.stopped:
            await operator.try_to("release")
        for row in sorted(fleet.rollouts.values(), key=lambda r: r.rollout_id):
            if row.ended_at is not None:
                continue
            blockers = self._explained(row, plan)
            if give_up and row.goal is Goal.FORWARD:
                await operator.try_to("cancel", row.rollout_id)
                continue
            for blocker in blockers:
                await self._answer(row, blocker)

    def look_only(self) -> None:
        """As look(), without a word."""
        fleet, life = self.operator.fleet, self.world.host.current
        if fleet is None or life is None:
            return
        for row in fleet.rollouts.values():
            if row.ended_at is None:
                self._explained(row, life.orchestrator.last_plan)

    def _explained(self, row: RolloutRow, plan: Plan | None) -> Sequence[Blocker]:
        """What stands in its way; counts how often in a row nothing was said to."""
        blockers = plan.blockers.get(row.rollout_id, ()) if plan is not None else ()
        if not blockers and (plan is None or plan.next_wake is None):
            self.unexplained[row.rollout_id] += 1
        else:
            self.unexplained.pop(row.rollout_id, None)
        return blockers

    async def _answer(self, row: RolloutRow, blocker: Blocker) -> None:
        operator, rng, name = self.operator, self.operator.rng, row.rollout_id
        self.world.story.count(f"blocker {blocker.reason}")
        match blocker.reason:
            case "PAUSED":
                await operator.try_to("resume", name)
            case "HALTED":
                verb = rng.choice(("resume", "resume", "rollback", "cancel"))
                await operator.try_to(verb, name) or await operator.try_to("resume", name)
            case "AWAITING_APPROVAL" | "CANARY_GATED":
                await operator.try_to("approve", name)
            case "GATE_FAIL" | "GATE_INCONCLUSIVE" | "GATE_ERROR":
                verb = rng.choice(("approve", "approve", "rollback", "cancel"))
                await operator.try_to(verb, name) or await operator.try_to("approve", name)
            case "NODE_UNREACHABLE" | "ATTEMPT_SILENT" | "BAKING_STUCK":
                await self._reach(blocker)
            case "NODE_IN_MAINTENANCE":
                # Those whose maintenance has an end come back by themselves.
                if not await operator.try_to("exclude", name, blocker.nodes):
                    self._kept.update(blocker.nodes)
                    await operator.try_to("end maintenance", name, blocker.nodes)
            case "NODE_NOT_READY":
                await self._make_ready(name, blocker)
            case "STAGE_FAILED" if blocker.until is None:
                await self._unstaged(name, blocker)
            case "STAGE_FAILED" | "LINK_UNKNOWN" | "NODE_UNHEALTHY":
                pass
            case _ if blocker.remedy and blocker.until is None:
                await self._mend(row)
            case _:
                pass

    async def _unstaged(self, name: str, blocker: Blocker) -> None:
        """Those whose kernels are of another model go without; the others try again."""
        fleet = self.operator.fleet
        if fleet is None:
            return
        problems = {n: fleet.nodes[n].stage_problem for n in blocker.nodes if n in fleet.nodes}
        other = [n for n, problem in problems.items() if problem and problem.reason == "TARGET_MODEL_DIFFERS"]
        if not other or not await self.operator.try_to("exclude", name, other):
            await self.operator.try_to("retry", name, blocker.nodes)

    async def _make_ready(self, name: str, blocker: Blocker) -> None:
        """Do what the node says; it takes a while until it says so itself. What nothing mends is left out."""
        self._asked[name] += 1
        if not self._mend_luo() and self._asked[name] > READY_LOOKS:
            self._asked[name] = 0
            if not await self.operator.try_to("exclude", name, blocker.nodes):
                await self.operator.try_to("cancel", name)

    def _mend_luo(self) -> bool:
        """Some node can begin no update as its LUO stands: somebody does what its preflight says."""
        for node in self.world.nodes.values():
            if not node.emulated.running or not node.settled:
                continue
            if why := preserved.needs_cold_boot(node.emulated.model):
                self.world.story.count("booted cold by hand")
                node.tell(f"is booted cold: {why}")
                node.lose_power()
                return True
            if chaos_luo.tidy(node):
                return True
        return False

    async def _mend(self, row: RolloutRow) -> None:
        """Retry failed nodes by name, a few times; then take them out of the count, or give up."""
        operator, name = self.operator, row.rollout_id
        fleet = operator.fleet
        if fleet is None or self._mend_luo():
            return
        for member in sorted(fleet.members(name).values(), key=lambda m: m.node_id):
            node_id = member.node_id
            if member.outcome is Outcome.FAILED and self._retried[name, node_id] < RETRIES:
                self._retried[name, node_id] += 1
                await operator.try_to("retry", name, [node_id])
                return
        for node_id in sorted(fleet.nodes):
            newest, counted = fleet.newest_attempt(node_id), fleet.standings[node_id].unavailable
            # One whose journal was set aside is not well, and has no attempt that would say so.
            bad = (
                not fleet.nodes[node_id].healthy if newest is None else newest.phase in UNAVAILABLE & SETTLED
            )
            if bad and counted and node_id not in self._kept:
                verb = "take out" if fleet.link(node_id, fleet.now) is Link.UP else "write off"
                await operator.try_to(verb, name, [node_id])
                return
        await operator.try_to("cancel", name)

    async def _reach(self, blocker: Blocker) -> None:
        """Bring the node back with its power button."""
        for node_id in blocker.nodes:
            node = self.world.nodes[node_id]
            if not node.emulated.running or node.phase is None:
                node.lose_power()
