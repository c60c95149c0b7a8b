"""LUO of RFC v2 used by hand: by somebody who should have left it to the agent, and by one who tidies up."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

from node_agent.core.phases import Phase
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.states import LuoState

PHASES = (
    Phase.PRESERVING,
    Phase.PRESERVED,
    Phase.SUSPENDING,
    Phase.JUMPING,
    Phase.RETRIEVING,
    Phase.RESUMING,
    Phase.VERIFYING,
    Phase.FINISHING,
    Phase.UNWINDING,
)
KEPT = 4
"""People who wait at the same time."""

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World


def luo_of(node: SimNode) -> Luo | None:
    """None while nobody can use it."""
    rfc2 = node.emulated.model.rfc2
    usable = rfc2 is not None and rfc2.luo is not None and not rfc2.luo.lock.held_by
    return rfc2.luo if rfc2 is not None and usable and node.emulated.running else None


def is_updated(node: SimNode) -> bool:
    """Is FINISH due?"""
    rfc2 = node.emulated.model.rfc2
    return rfc2 is not None and rfc2.state is LuoState.UPDATED


def by_hand(world: World, rng: random.Random) -> None:
    """Somebody means to use LUO by hand, at the worst moment: as the agent of some node passes in a phase."""
    world.hands.append(rng.choice(PHASES))
    del world.hands[:-KEPT]


def passing(node: SimNode) -> None:
    """A node's agent is at a point; somebody may have waited for it."""
    hands, phase = node.world.hands, node.phase
    if phase in hands and node.world.chaos and (luo := luo_of(node)) is not None and _use(node, luo):
        hands.remove(phase)


def _use(node: SimNode, luo: Luo) -> bool:
    """Undoes, ends or prepares, as the state admits; whether it admits anything."""
    if luo.state in (LuoState.PREPARED, LuoState.FROZEN):
        _did(node, "cancel")
        with suppress(OSError):
            # Another user of KHO may mind.
            luo.cancel()
    elif luo.state is LuoState.UPDATED:
        _did(node, "finish")
        luo.finish()
    elif node.phase is Phase.PRESERVING and not node.emulated.model.facts().kho_finalized:
        _did(node, "prepare")
        with suppress(OSError):
            # As refused as the agent's own would be.
            luo.prepare()
    else:
        return False
    return True


def _did(node: SimNode, what: str) -> None:
    node.tell(f"somebody uses LUO by hand: {what}")
    node.world.story.count(f"LUO used by hand: {what}")


def tidy(node: SimNode) -> bool:
    """End what is left on a node at rest, as its preflight says; whether anything was."""
    luo = luo_of(node)
    if luo is None:
        return False
    node.by_hand = False
    registered = tuple(luo.files.outgoing)
    if luo.state is LuoState.NORMAL and not registered:
        return False
    node.tell(f"somebody tidies up: LUO is in [{luo.state}], with tokens {registered}")
    node.world.story.count("LUO tidied by hand")
    if luo.state is LuoState.UPDATED:
        luo.finish()
    elif luo.state is not LuoState.NORMAL:
        luo.cancel()
    for token in tuple(luo.files.outgoing):
        luo.fd_unpreserve(token)
    return True
