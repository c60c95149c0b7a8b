"""Auto-preserve: reserve_mem's regions over every kexec, whatever LUO's state."""

from __future__ import annotations

import errno

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.states import LuoState
from tests.unit.kernel.rfc2.subsystem_boots import KHO_ONLY, ON, boot, kexec, luo, raises, rfc2
from tests.unit.kernel.rfc2.test_reserve_mem import BOTH, CARRIED, REGIONS, ZEROS, content, fill


@pytest.mark.parametrize("coupling", BOTH)
@pytest.mark.parametrize("words", [ON, KHO_ONLY], ids=["liveupdate", "kho only"])
def test_auto_preserved_it_crosses_every_kexec(coupling: str, words: str) -> None:
    """The seed thread: "if it would survive a kexec without any userspace intervention it would be great"; "I
    think it would be nice to support auto-preserve sooner than later"; "They can be carried across kexec
    without needing userspace explicitly driving it." From NORMAL, and no LUO needed."""
    model = boot(f"{words} {REGIONS}", coupling=coupling, auto_preserve=("reserve_mem",))
    fill(model)
    for _ in range(3):
        kexec(model)
        assert content(model) == CARRIED
        assert rfc2(model).state is (LuoState.NORMAL if words == ON else None), "no live update"
        assert len(rfc2(model).memory) == 0


@pytest.mark.parametrize("coupling", BOTH)
@pytest.mark.parametrize("state", [*LuoState, "refused"], ids=str)
def test_auto_preserved_it_crosses_from_every_state(coupling: str, state: LuoState | str) -> None:
    """`refused`: a freeze was; with the notifier KHO is final still, and LUO's stale subtree in its tree."""
    faults = "refuse_freeze=EIO@1" if state == "refused" else ""
    model = boot(f"{ON} {REGIONS}", coupling=coupling, auto_preserve=("reserve_mem",), faults=faults)
    if state is LuoState.UPDATED:
        luo(model).prepare()
        kexec(model)
        assert luo(model).state is LuoState.UPDATED
    fill(model)
    if state in (LuoState.PREPARED, LuoState.FROZEN, "refused"):
        luo(model).prepare()
    if state is LuoState.FROZEN:
        luo(model).freeze()
    if state == "refused":
        with raises(errno.EIO):
            kexec(model)
    kexec(model)
    assert content(model) == CARRIED
    update = state in (LuoState.PREPARED, LuoState.FROZEN) or (state, coupling) == ("refused", "notifier")
    assert luo(model).state is (LuoState.UPDATED if update else LuoState.NORMAL)
    if update:
        luo(model).finish()
    assert len(rfc2(model).memory) == 0


@pytest.mark.parametrize("refused", ["legacy", "kho=off", "sessions"])
def test_auto_preserved_it_needs_kho_on_both_sides(refused: str) -> None:
    """Source: kexec_load(2) passes no tree on; a kernel ignores one of another KHO version."""
    others = (EmulatedImage("7.2"),) if refused == "sessions" else ()
    model = boot(f"{ON} {REGIONS}", auto_preserve=("reserve_mem",), others=others)
    fill(model)
    words = f"kho=off {REGIONS}" if refused == "kho=off" else None
    kexec(model, words, legacy=refused == "legacy", release="7.2")
    if refused == "sessions":
        assert model.reserved.regions == {}
    else:
        assert content(model) == ZEROS


@pytest.mark.parametrize("way", ["luo", "kho"])
def test_auto_preserve_of_what_cannot_be_is_logged(way: str) -> None:
    """The seed thread: "things like reservemem (or IMA perhaps?) don't really fit well with the explicit
    trigger mechanism. They can be carried across kexec without needing userspace explicitly driving it."
    There is no IMA here, and a user of KHO's own is no subsystem that could mark itself."""
    model = boot(f"{ON} {REGIONS}", auto_preserve=("reserve_mem", "ima"), reserve_mem=way)
    said = [line.split("'")[1] for line in model.log if "auto-preserve" in line]
    assert said == (["ima"] if way == "luo" else ["ima", "reserve_mem"])
