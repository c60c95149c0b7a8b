"""LUO of RFC v2 used by hand: by somebody who should have left it to the agent, and by one who tidies up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from node_agent.core.phases import Phase
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.states import LuoState

if TYPE_CHECKING:
    from tests.sim.node import SimNode
    from tests.sim.world import World


def _luo(node: SimNode) -> Luo | None:
    """None while nobody can use it."""
    rfc2 = node.emulated.model.rfc2
    usable = rfc2 is not None and rfc2.luo is not None and not rfc2.luo.lock.held_by
    return rfc2.luo if rfc2 is not None and usable and node.emulated.running else None


def by_hand(world: World, rng: random.Random) -> None:
    """Somebody undoes or ends what is under way on a node, or prepares while files are being registered."""
    open_there = {row.node_id for row in world.checks.open_attempts()} & set(world.nodes)
    names = [name for name in sorted(open_there) if _luo(world.nodes[name]) is not None]
    if names:
        use(world.nodes[rng.choice(names)])


def use(node: SimNode) -> None:
    """What the state admits. Nothing where the agent holds still: nobody could tell it from the agent's."""
    luo = _luo(node)
    if luo is None:
        return
    if luo.state in (LuoState.PREPARED, LuoState.FROZEN):
        _did(node, "cancel")
        luo.cancel()
    elif luo.state is LuoState.UPDATED:
        _did(node, "finish")
        luo.finish()
    elif node.phase is Phase.PRESERVING and not node.emulated.model.rfc2.kho.finalized:  # type: ignore[union-attr]
        _did(node, "prepare")
        luo.prepare()


def _did(node: SimNode, what: str) -> None:
    node.tell(f"somebody uses LUO by hand: {what}")
    node.world.story.count(f"LUO used by hand: {what}")


def tidy(node: SimNode) -> bool:
    """End what is left on a node at rest, as its preflight says; whether anything was."""
    luo = _luo(node)
    if luo is None:
        return False
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
