"""What goes wrong on nodes while faults last: disks, health, stops, strangers, doubles."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from tests.sim import kexec
from tests.sim.node import SimNode

if TYPE_CHECKING:
    from tests.sim.world import World


def _some_node(world: World, rng: random.Random) -> SimNode:
    """Any; one in an attempt as often as all others."""
    busy = sorted({row.node_id for row in world.checks.open_attempts()} & set(world.nodes))
    return world.nodes[rng.choice(busy if busy and rng.random() < 0.5 else sorted(world.nodes))]


def fill(world: World, rng: random.Random) -> None:
    node = world.nodes[rng.choice(sorted(world.nodes))]
    how = rng.choice(("full", "tight"))
    world.story.tell(node.node_id, f"its disk is {how}")
    world.story.count(f"disk {how}")
    setattr(node.disk, how, True)
    asyncio.get_running_loop().call_later(rng.choice((2, 20, 90)), setattr, node.disk, how, False)


def sicken(world: World, rng: random.Random) -> None:
    node = world.nodes[rng.choice(sorted(world.nodes))]
    lasts_s = rng.choice((5, 30, 90))
    world.story.tell(node.node_id, f"is unhealthy for {lasts_s} s")
    world.story.count("spell of ill health")
    node.sick_until_s = asyncio.get_running_loop().time() + lasts_s


def stop(world: World, rng: random.Random) -> None:
    """SIGSTOP to the agent, and SIGCONT after a while: at times beyond the lease of its PROCEED."""
    stop_agent(_some_node(world, rng), rng.choice((1, 6, 12, 30, 90)))


def stop_agent(node: SimNode, lasts_s: float) -> None:
    process, story = node.process, node.world.story
    if process is None or process.stopped or not node.emulated.running:
        return
    node.tell(f"the agent is stopped for {lasts_s} s")
    story.count("agent stopped")
    story.count(f"agent stopped in {node.phase}")
    process.stop()

    def go() -> None:
        if process.stopped:
            node.tell("the agent goes on")
            process.go()

    asyncio.get_running_loop().call_later(lasts_s, go)


def flip(world: World, rng: random.Random) -> None:
    """A bit of the journal turns over; the agent sees it when it starts the next time, which is soon."""
    node = _some_node(world, rng)
    if not node.disk.data:
        return
    world.story.count("journal bit flipped")
    at = rng.randrange(len(node.disk.data) * 8)
    if rng.random() < 0.5:
        # Late in the file: what it is doing now.
        at = max(at, len(node.disk.data) * 8 - rng.randrange(1, 8 * 2000))
    node.flip_bit(at)
    if node.emulated.running and rng.random() < 0.8:
        node.crash_agent()


def foreign(world: World, rng: random.Random) -> None:
    """Somebody on the node loads a kernel and calls kexec, whatever the agent is about."""
    node = _some_node(world, rng)
    if node.emulated.running:
        kexec.foreign(node, rng.choice((node.release, "6.12.77-foreign")))


def clone(world: World, rng: random.Random) -> None:
    """A copy of a node's disk is started on another machine, or a new machine under its name."""
    node = world.nodes[rng.choice(sorted(world.nodes))]
    world.clone(node, copied=rng.random() < 0.3, lasts_s=rng.choice((20, 60, 200)))


def relabel(world: World, rng: random.Random) -> None:
    """The node's settings say another zone from its next start on."""
    node = world.nodes[rng.choice(sorted(world.nodes))]
    zones = sorted({other.spec.zone for other in world.nodes.values()} | {"d"})
    node.zone = rng.choice(zones)
    node.tell(f"its zone will be {node.zone}")
    world.story.count("node relabelled")
    if node.emulated.running and rng.random() < 0.5:
        node.crash_agent()
