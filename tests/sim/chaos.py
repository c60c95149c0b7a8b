"""What goes wrong around the processes while faults last: links, partitions, crashes, stops, the database.

Each fault is a loop of its own with its own generator, so that taking one away leaves the others
as they were. What goes wrong on a node is in chaos_nodes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.core.phases import Kind
from orchestrator.runtime.leader import TTL
from tests.sim import chaos_hands, chaos_luo, chaos_nodes
from tests.sim.life import Life

if TYPE_CHECKING:
    from tests.sim.world import World

Act = Callable[["World", random.Random], None]


def faults(world: World) -> Iterator[asyncio.Task[None]]:
    """Starts every loop that the seed has."""
    rates = world.rates
    loops: list[tuple[str, float, Act]] = [
        ("cut", rates.link_cut_s, cut),
        ("part", rates.partition_s, part),
        ("crash", rates.orchestrator_restart_s, crash),
        ("spell", rates.store_spell_s, spell),
        ("store cut", rates.store_cut_s, cut_store),
        ("replica cut", rates.replica_cut_s, cut_replica),
        ("stopped", rates.stopped_s, stop),
        ("clock", rates.clock_set_s, set_clock),
        ("fail-over", rates.failover_s, fail_over),
        ("restore", rates.restore_s, restore),
        ("restore back", rates.restore_back_s, restore_on_the_way_back),
        ("full", rates.disk_full_s, chaos_nodes.fill),
        ("sick", rates.relapse_s, chaos_nodes.sicken),
        ("agent stopped", rates.agent_stopped_s, chaos_nodes.stop),
        ("flip", rates.bit_flip_s, chaos_nodes.flip),
        ("foreign", rates.foreign_s, chaos_nodes.foreign),
        ("clone", rates.clone_s, chaos_nodes.clone),
        ("relabel", rates.relabel_s, chaos_nodes.relabel),
        ("luo by hand", rates.luo_by_hand_s, chaos_luo.by_hand),
        ("luo driven", rates.luo_driven_s, chaos_hands.wait),
        ("luoctl", rates.luoctl_s, chaos_hands.luoctl),
        ("ambush", rates.ambush_s, lambda world, rng: world.ambushes.lay(rng)),
    ]
    for name, every_s, act in loops:
        if every_s:
            yield asyncio.create_task(repeat(world, name, every_s, act), name=f"chaos {name}")


async def repeat(world: World, name: str, every_s: float, act: Act) -> None:
    rng = random.Random(f"chaos {name} {world.scenario.seed}")
    while True:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        act(world, rng)


def later(seconds: float, act: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(seconds, act)


# --- links ------------------------------------------------------------------------------


def cut(world: World, rng: random.Random) -> None:
    node_id = rng.choice(sorted(world.nodes))
    world.story.tell(node_id, "its link is cut")
    world.story.count("link cut")
    world.network.cut(node_id)


def part(world: World, rng: random.Random) -> None:
    """One node, a zone, some, or all, for seconds to minutes."""
    names = sorted(world.nodes)
    zone = rng.choice(sorted({node.spec.zone for node in world.nodes.values()}))
    in_zone = [name for name in names if world.nodes[name].spec.zone == zone]
    some = rng.choice((1, 1, 0, max(1, len(names) // 2), len(names)))
    parted = rng.sample(names, some) if some else in_zone
    lasts_s = rng.choice((2, 10, 40, 120, 300))
    world.story.tell("world", f"{', '.join(parted)} are cut off for {lasts_s} s")
    world.story.count("partition of a zone" if not some else "partition")
    world.network.part(parted)
    later(lasts_s, lambda: world.network.join(parted))


# --- the orchestrator's processes ----------------------------------------------------------


def _some_life(world: World, rng: random.Random) -> Life | None:
    """Any; the one that plans as often as all others."""
    lives = world.host.lives
    if not lives:
        return None
    planner = world.host.current
    return planner if planner is not None and rng.random() < 0.5 else rng.choice(lives)


def crash(world: World, rng: random.Random) -> None:
    life = _some_life(world, rng)
    if life is None:
        return
    if rng.random() < 0.25:
        life.stop()
    else:
        life.crash("at any moment")


def stop(world: World, rng: random.Random) -> None:
    """SIGSTOP, and SIGCONT after a while: at times beyond every lease of its."""
    life = _some_life(world, rng)
    if life is not None:
        stop_life(world, life, rng.choice((1, 6, 14, 17, 40, 90)))


def stop_life(world: World, life: Life, lasts_s: float) -> None:
    if life.process.stopped:
        return
    story = world.story
    story.tell("orchestrator", f"life {life.name} is stopped for {lasts_s} s")
    story.count("replica stopped")
    beyond = life.holds_lease() and lasts_s > TTL.total_seconds()
    if beyond:
        story.count("planner stopped beyond its lease")
        if life.store._pending or life.store._turn.locked():
            story.count("planner stopped beyond its lease with a commit under way")
        if world.checks.proceeding():
            story.count("lease lost with a PROCEED in flight")
    life.process.stop()

    def go() -> None:
        if life.process.stopped:
            story.tell("orchestrator", f"life {life.name} goes on")
            life.woke = life.woke or beyond
            life.process.go()

    later(lasts_s, go)


def stop_planner(world: World, lasts_s: float) -> None:
    if (life := world.host.current) is not None:
        stop_life(world, life, lasts_s)


def kill_planner(world: World) -> None:
    if (life := world.host.current) is not None:
        life.crash("at a bad moment")


def set_clock(world: World, rng: random.Random) -> None:
    """Somebody sets a wall clock: of an orchestrator's machine, or of a node."""
    by_s = rng.choice((-7200, -40, -6, 3, 6, 40, 7200))
    life = _some_life(world, rng)
    if life is not None and rng.random() < 0.5:
        world.story.tell("orchestrator", f"the clock of life {life.name} is set by {by_s} s")
        world.story.count("orchestrator's clock set")
        life.clock.skew += timedelta(seconds=by_s)
        return
    node = world.nodes[rng.choice(sorted(world.nodes))]
    world.story.tell(node.node_id, f"its clock is set by {by_s} s")
    world.story.count("node's clock set")
    node.set_clock(by_s)


def cut_replica(world: World, rng: random.Random) -> None:
    """No node can reach one replica, which goes on reaching the database."""
    slot = rng.randrange(world.host.slots)
    lasts_s = rng.choice((10, 40, 120, 300))
    world.story.tell("orchestrator", f"no node can reach replica r{slot} for {lasts_s} s")
    world.story.count("partition of a replica from nodes")
    world.network.parted_slots.add(slot)
    life = world.host.at(slot)
    if life is not None:
        life.cut_streams()
    later(lasts_s, lambda: world.network.parted_slots.discard(slot))


# --- the database -----------------------------------------------------------------------


def spell(world: World, rng: random.Random) -> None:
    lasts_s = rng.choice((1, 5, 20, 60))
    world.story.tell("world", f"there is no store for {lasts_s} s")
    world.story.count("store unavailable")
    world.no_store_until_s = asyncio.get_running_loop().time() + lasts_s


def cut_store(world: World, rng: random.Random) -> None:
    """One replica cannot reach the database."""
    life = _some_life(world, rng)
    if life is not None:
        cut_life(world, life, rng.choice((2, 10, 20, 60, 200)))


def cut_planner(world: World, rng: random.Random) -> None:
    if (life := world.host.current) is not None:
        cut_life(world, life, rng.choice((10, 20, 60)))


def cut_life(world: World, life: Life, lasts_s: float) -> None:
    world.story.tell("orchestrator", f"life {life.name} cannot reach the store for {lasts_s} s")
    world.story.count("partition of a replica from the store")
    life.cut_from_store = True

    def join() -> None:
        life.cut_from_store = False

    later(lasts_s, join)


def fail_over(world: World, rng: random.Random) -> None:
    world.database.fail_over(rng.choice((0, 3, 10, 30, 120)))
    by_s = rng.choice((0, 0, 0, -8, -2, 2, 8))
    if by_s:
        # Another machine, with a clock of its own.
        world.story.tell("world", f"the store's clock is {by_s:+} s from what it was")
        world.story.count("store's clock set")
        world.store_clock.skew += timedelta(seconds=by_s)


def restore_on_the_way_back(world: World, rng: random.Random) -> None:
    """From shortly before, so that the rollout is going back in the copy, too."""
    if any(attempt.kind is Kind.ROLLBACK for attempt in world.checks.open_attempts()):
        world.story.count("backup restored on the way back")
        restore(world, rng, ages_s=(4, 10, 30))


def restore(world: World, rng: random.Random, ages_s: Sequence[float] = (20, 120, 600)) -> None:
    """All are brought down, a copy of yesterday is put in place, and they start again."""
    host = world.host
    if not host.may_start.is_set():
        return
    host.may_start.clear()
    for life in host.lives:
        life.stop() if rng.random() < 0.5 else life.crash("before a restore")
    age_s = rng.choice(ages_s)

    def bring_back() -> None:
        if not any(not life.ended.is_set() for life in host.lives):
            world.database.restore(age_s)
        host.may_start.set()

    later(rng.choice((5, 30)), bring_back)
