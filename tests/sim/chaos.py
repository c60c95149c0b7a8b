"""What goes wrong around the processes while faults last: links, partitions, disks, spells, crashes.

Each fault is a loop of its own with its own generator, so that taking one away leaves the others
as they were.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.world import World


def faults(world: World) -> Iterator[asyncio.Task[None]]:
    """Starts every loop that the seed has."""
    rates = world.rates
    loops: list[tuple[str, float, Callable[[random.Random], object]]] = [
        ("cut", rates.link_cut_s, lambda rng: cut(world, rng)),
        ("part", rates.partition_s, lambda rng: part(world, rng)),
        ("crash", rates.orchestrator_restart_s, lambda rng: crash(world, rng)),
        ("spell", rates.store_spell_s, lambda rng: spell(world, rng)),
        ("full", rates.disk_full_s, lambda rng: fill(world, rng)),
        ("sick", rates.relapse_s, lambda rng: sicken(world, rng)),
    ]
    for name, every_s, act in loops:
        if every_s:
            yield asyncio.create_task(repeat(world, name, every_s, act), name=f"chaos {name}")


async def repeat(world: World, name: str, every_s: float, act: Callable[[random.Random], object]) -> None:
    rng = random.Random(f"chaos {name} {world.scenario.seed}")
    while True:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        act(rng)


def cut(world: World, rng: random.Random) -> None:
    node_id = rng.choice(sorted(world.nodes))
    world.story.tell(node_id, "its link is cut")
    world.story.count("link cut")
    world.network.cut(node_id)


def part(world: World, rng: random.Random) -> None:
    """One node, some, or all, for seconds to minutes."""
    names = sorted(world.nodes)
    parted = rng.sample(names, rng.choice((1, 1, max(1, len(names) // 2), len(names))))
    lasts_s = rng.choice((2, 10, 40, 120, 300))
    world.story.tell("world", f"{', '.join(parted)} are cut off for {lasts_s} s")
    world.story.count("partition")
    world.network.part(parted)
    asyncio.get_running_loop().call_later(lasts_s, world.network.join, parted)


def crash(world: World, rng: random.Random) -> None:
    life = world.host.current
    if life is None:
        return
    if rng.random() < 0.25:
        life.stop()
    else:
        life.crash("at any moment")


def spell(world: World, rng: random.Random) -> None:
    lasts_s = rng.choice((1, 5, 20, 60))
    world.story.tell("world", f"there is no store for {lasts_s} s")
    world.story.count("store unavailable")
    world.no_store_until_s = asyncio.get_running_loop().time() + lasts_s


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
