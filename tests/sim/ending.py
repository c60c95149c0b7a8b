"""How a world ends: once nothing is broken any more, every rollout does, and everybody agrees.

Some seeds have nobody at first who answers what blocks: what then stands still names who must do what.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from node_agent.core.phases import SETTLED, Phase
from tests.sim import chaos_luo, preserved
from tests.sim.fair import Fair
from tests.sim.story import Violation

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

LOOK_S = 20.0
"""Between the fair operator's rounds."""
GIVE_UP_S = 3600.0
"""After the healing; then the fair operator cancels what goes forward."""
BOUND_S = 3 * 3600.0
"""After the healing every rollout must have ended."""
QUIET_S = 180.0
"""After the last rollout: time for nodes to say how they stand."""


class Ending:
    """Call settle()."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def settle(self) -> None:
        """The fair operator's time."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        fair = Fair(self.world)
        turns: Counter[str] = Counter()
        await self._wait_for_nobody(fair, turns)
        began_s = loop.time()
        while self.world.unended() or self.world.is_stopped():
            since_s = loop.time() - began_s
            if since_s > BOUND_S:
                raise Violation(
                    "I7", f"after {since_s:.0f} s without faults: {self._blocked()}", *self.world.unended()
                )
            await asyncio.sleep(LOOK_S)
            self._tend(turns)
            await fair.look(give_up=since_s > GIVE_UP_S)
            self._must_be_explained(fair)

        await asyncio.sleep(QUIET_S)
        if self._tidied_up():
            await asyncio.sleep(QUIET_S)
        for _ in range(30):
            # An agent that was told STORE_REGRESSED dials slowly: up to every ten minutes.
            if all(node.linked for node in self.world.nodes.values()):
                break
            await asyncio.sleep(LOOK_S)
        self.look()

    async def _wait_for_nobody(self, fair: Fair, turns: Counter[str]) -> None:
        """Nothing is broken and nobody answers, for as long as the seed says: what then stands still
        names who must do what, or when it goes on by itself."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self.world.scenario.fair_after_s
        if not self.world.scenario.fair_after_s:
            return
        while self.world.unended() and loop.time() < until_s:
            await asyncio.sleep(LOOK_S)
            self._tend(turns)
            fair.look_only()
            self._must_be_explained(fair)
        plan = self.world.host.current.orchestrator.last_plan if self.world.host.current is not None else None
        for rollout in self.world.unended():
            blockers = plan.blockers.get(rollout, ()) if plan is not None else ()
            if not any(blocker.remedy or blocker.until is not None for blocker in blockers):
                raise Violation("I7", f"{rollout} stalls, and nobody is told what to do", rollout)
            self.world.story.count("stalled without a fair operator, and told who must do what")

    def _must_be_explained(self, fair: Fair) -> None:
        for rollout, looks in fair.unexplained.items():
            if looks >= 5:
                raise Violation("I7", f"{rollout} stands still, with neither blocker nor wake", rollout)

    def _tidied_up(self) -> bool:
        """Who has put something into LUO by hand takes it out; whether a node boots for it."""
        booting = False
        for node in self.world.nodes.values():
            if not node.by_hand or not node.settled or chaos_luo.tidy(node):
                continue
            if preserved.needs_cold_boot(node.emulated.model):
                node.lose_power()
                booting = True
        return booting

    def _tend(self, turns: Counter[str]) -> None:
        """What a person does who walks past: dead agents are restarted, nodes switched on."""
        for node in self.world.nodes.values():
            phase = node.phase
            stuck = phase is None or phase not in SETTLED or node.life is None or node.life.runner._halted
            turns[node.node_id] = turns[node.node_id] + 1 if stuck else 0
            if turns[node.node_id] < 30:
                continue
            turns[node.node_id] = 0
            if node.emulated.running and self.world.story.seen["restarted by hand"] % 2 == 0:
                self.world.story.count("restarted by hand")
                node.crash_agent()
            else:
                self.world.story.count("restarted by hand")
                node.lose_power()

    def _blocked(self) -> str:
        life = self.world.host.current
        plan = life.orchestrator.last_plan if life is not None else None
        if plan is None:
            return "nobody plans"
        told = [
            f"{rollout}: {blocker.reason} {blocker.message} {','.join(blocker.nodes)}"
            for rollout, blockers in plan.blockers.items()
            for blocker in blockers
        ]
        return "; ".join(told) or "nothing blocks"

    def look(self) -> None:
        """Everybody agrees, nothing is left over."""
        life = self.world.host.current
        if life is None:
            raise Violation("END", "nobody serves at the end")
        if broken := life.orchestrator.violations():
            raise Violation("CHECKER", "; ".join(broken))
        self.world.watcher.compare()
        for node in self.world.nodes.values():
            self._look_at(node)

    def _look_at(self, node: SimNode) -> None:
        phase = node.phase
        if phase is None or node.life is None:
            # Off, or still coming up: nobody needed it.
            return
        newest = self.world.checks.newest(node.node_id)
        runner = node.life.runner
        attempt = runner.attempt
        mine = newest is not None and attempt is not None and newest.generation == attempt.ref.generation
        if mine and newest is not None and not runner._halted and newest.phase.value != phase.value:
            raise Violation(
                "END",
                f"{node.node_id} is {phase} in attempt {newest.generation}, the store has {newest.phase}",
                node.node_id,
            )
        view = node.life.link.view if node.life.link is not None else None
        taken = view is not None and view.problem is not None and view.problem.reason == "NODE_ID_CONFLICT"
        if taken and not node.linked:
            # Its name is another machine's; only a person can tell which of them it is.
            self.world.story.count("a double has taken the node's name")
        elif runner.unacknowledged():
            raise Violation("END", f"{node.node_id} has reports that nobody took", node.node_id)
        excused = phase in (Phase.QUARANTINED, Phase.COLD_BOOTED)
        if node.workloads is not None and (still := node.workloads.suspended()) and not excused:
            raise Violation(
                "I8", f"{', '.join(still)} of {node.node_id} still stand still in {phase}", node.node_id
            )
        if (left := preserved.left(node.emulated.model)) and not excused:
            raise Violation("I8", f"{node.node_id} is {phase} and keeps {', '.join(left)}", node.node_id)
