"""What a node's kernel keeps of workloads at this moment, whichever model of LUO it is of.

Sessions are told by their names. RFC v2 has none: there each registered file, and each that came in, is told
by its token.
"""

from __future__ import annotations

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.states import LuoState


def going_out(model: LuoModel) -> frozenset[str]:
    """What a kexec is to carry."""
    if model.rfc2 is not None:
        return frozenset(f"token {token}" for token in model.rfc2.files.outgoing)
    return frozenset(name.decode() for name in model._outgoing)


def came_in(model: LuoModel) -> frozenset[str]:
    """What a kexec has carried, and nobody has finished."""
    if model.rfc2 is not None:
        return frozenset(f"token {token}" for token in model.rfc2.files.incoming)
    return frozenset(name.decode() for name in model._incoming)


def left(model: LuoModel) -> tuple[str, ...]:
    """All that is under way in the kernel; nothing of it is there between updates."""
    found = sorted(going_out(model) | came_in(model))
    if model.rfc2 is not None and model.rfc2.luo is not None:
        if (state := model.rfc2.luo.state) is not LuoState.NORMAL:
            found.append(f"LUO in [{state}]")
        elif leaked := len(model.rfc2.memory):
            found.append(f"{leaked} things in memory that nobody can find")
    return tuple(found)


def refused(model: LuoModel) -> bool:
    """Has a file's handler refused to restore it? Once is its answer for the boot: the memory, or the device,
    is lost."""
    return model.rfc2 is not None and any(file.errno for file in model.rfc2.files.incoming.values())


def crosses(model: LuoModel) -> bool:
    """Would a kexec carry what is going out? Sessions go along by themselves."""
    return model.rfc2 is None or model.rfc2.hands_luo_over


def needs_cold_boot(model: LuoModel) -> str:
    """Why no update can begin in this boot, whatever the agent does; empty if it can."""
    if not model.facts().luo:
        return "there is no LUO, or it is poisoned"
    rfc2 = model.rfc2
    if rfc2 is None or rfc2.luo is None:
        return ""
    if rfc2.luo.state is LuoState.NORMAL and rfc2.kho.finalized:
        return "KHO is final without LUO"
    if rfc2.luo.lock.held_by:
        return f"{rfc2.luo.lock.held_by} holds LUO's lock"
    return ""
