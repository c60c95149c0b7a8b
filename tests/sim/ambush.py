"""Faults at the worst moment: laid in wait for a phase of some node, or for a command's commit.

What goes wrong at random moments hardly ever hits an attempt's shorter phases. An ambush does: it
lies until its moment comes, strikes once, and is gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node_agent.core.phases import SETTLED, Phase
from orchestrator.core.model import Change, Desired, NodeRow
from tests.sim import chaos, chaos_nodes, kexec
from tests.sim.operators import press

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World

PHASES = (*(phase for phase in Phase if phase not in SETTLED), Phase.BAKING)
COMMANDS = ("prepare", "proceed", "cancel", "commit")
KEPT = 6
"""Ambushes that lie in wait at the same time."""


@dataclass(frozen=True, slots=True)
class Ambush:
    """moment: a phase's name, or a command's; blow: a name of NODE_BLOWS or BLOWS; early: at a command,
    before it is committed, with the commit already on its way."""

    moment: str
    blow: str
    rng: random.Random
    early: bool


class Ambushes:
    """Laid by a loop of chaos, sprung by nodes and by the database."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._laid: list[Ambush] = []

    def lay(self, rng: random.Random) -> None:
        """One more."""
        blows = sorted(NODE_BLOWS) if self._world.rates.ambush_nodes else sorted(BLOWS)
        if self._world.rates.ambush_nodes and self._world.rates.ambush_others:
            blows += sorted(BLOWS)
        moment = rng.choice(COMMANDS) if rng.random() < 0.35 else rng.choice(PHASES).value
        blow, early = rng.choice(blows), rng.random() < 0.5
        self._laid.append(Ambush(moment, blow, random.Random(rng.random()), early and blow in PLANNER))
        del self._laid[:-KEPT]

    def passing(self, node: SimNode) -> None:
        """A node's agent is at a point."""
        if not self._laid or not self._world.chaos or (phase := node.phase) is None:
            return
        self._spring(phase.value, node)

    def committing(self, changes: Sequence[Change]) -> None:
        """A batch is on its way to the database."""
        if not self._laid or not self._world.chaos:
            return
        for change in changes:
            for row in change.writes:
                if isinstance(row, NodeRow) and row.desired is not None and row.node_id in self._world.nodes:
                    self._spring(row.desired.kind, self._world.nodes[row.node_id], early=True)

    def committed(self, row: NodeRow, desired: Desired) -> None:
        """A command has just become durable, and nobody has been told."""
        if not self._laid or not self._world.chaos:
            return
        node = self._world.nodes.get(row.node_id)
        if node is not None:
            self._spring(desired.kind, node)

    def _spring(self, moment: str, node: SimNode, *, early: bool = False) -> None:
        for ambush in self._laid:
            if ambush.moment == moment and (ambush.early is early or moment not in COMMANDS):
                self._laid.remove(ambush)
                self._world.story.count(f"{ambush.blow} at {moment}")
                if early:
                    self._world.story.count(f"{ambush.blow} while a {moment} is on its way to the database")
                self._world.story.tell("world", f"{ambush.blow} as {node.name} is at {moment}")
                blow = NODE_BLOWS.get(ambush.blow)
                if blow is not None:
                    blow(node, ambush.rng)
                else:
                    BLOWS[ambush.blow](self._world, ambush.rng)
                return


def _cut(node: SimNode, rng: random.Random) -> None:
    node.world.network.cut(node.node_id)


def _part(node: SimNode, rng: random.Random) -> None:
    network = node.world.network
    network.part([node.node_id])
    chaos.later(rng.choice((10, 40, 120)), lambda: network.join([node.node_id]))


def _fill(node: SimNode, rng: random.Random) -> None:
    node.disk.full = True
    chaos.later(rng.choice((2, 20, 90)), lambda: setattr(node.disk, "full", False))


NODE_BLOWS: dict[str, Callable[[SimNode, random.Random], None]] = {
    "agent killed": lambda node, _: node.crash_agent(),
    "agent stopped": lambda node, rng: chaos_nodes.stop_agent(node, rng.choice((6, 30, 90))),
    "power lost": lambda node, _: node.lose_power(),
    "kexec by a stranger": lambda node, rng: kexec.foreign(
        node, rng.choice((node.release, "6.12.77-foreign"))
    ),
    "link cut": _cut,
    "node cut off": _part,
    "disk full": _fill,
}

PLANNER = ("planner cut from the store", "planner killed", "planner stopped")
"""Blows that can be struck with a commit under way."""

BLOWS: dict[str, Callable[[World, random.Random], None]] = {
    "planner killed": lambda world, rng: chaos.kill_planner(world),
    "planner stopped": lambda world, rng: chaos.stop_planner(world, rng.choice((6, 17, 40))),
    "planner cut from the store": chaos.cut_planner,
    "paused": lambda world, rng: press(world, "pause", rng),
    "cancelled": lambda world, rng: press(world, "cancel", rng),
    "fleet stopped": lambda world, rng: press(world, "stop", rng),
    "rolled back": lambda world, rng: press(world, "rollback", rng),
    "excluded": lambda world, rng: press(world, "exclude", rng),
}
