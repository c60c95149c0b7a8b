"""The state machine: every row of its table, and every pair that is not in it."""

from __future__ import annotations

import errno
import os

import pytest

from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import Jump
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.states import AIMS, TRANSITIONS, Coupling, LuoEvent, LuoState
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import COUPLINGS, FROZEN, NORMAL, PREPARED, UPDATED, luo_of, raises

LEGAL = sorted(TRANSITIONS.items())
ILLEGAL = sorted({(state, event) for state in LuoState for event in LuoEvent} - TRANSITIONS.keys())

pytestmark = pytest.mark.parametrize("coupling", COUPLINGS)


def send(luo: Luo, event: LuoEvent) -> None:
    {
        LuoEvent.PREPARE: luo.prepare,
        LuoEvent.FREEZE: luo.freeze,
        LuoEvent.CANCEL: luo.cancel,
        LuoEvent.FINISH: luo.finish,
    }[event]()


@pytest.mark.parametrize(("pair", "after"), LEGAL)
def test_every_row_of_the_table(coupling: Coupling, pair: tuple[LuoState, LuoEvent], after: LuoState) -> None:
    """NORMAL PREPARE → PREPARED; PREPARED FREEZE → FROZEN; PREPARED, FROZEN CANCEL → NORMAL; UPDATED
    FINISH → NORMAL."""
    model = corebench.node(coupling)
    state, event = pair
    luo = corebench.bring(model, state)
    send(luo, event)
    assert luo.state is after
    assert model.log[-1] == f"luo_core: Switched from [{state}] to [{after}] state"
    model.power_off()


@pytest.mark.parametrize(("state", "event"), ILLEGAL)
def test_any_other_pair_is_einval(coupling: Coupling, state: LuoState, event: LuoEvent) -> None:
    """PREPARE "from any other state: EINVAL", and so each event."""
    model = corebench.node(coupling)
    luo = corebench.bring(model, state)
    finalized, kept = corebench.rfc2_of(model).kho.finalized, len(corebench.rfc2_of(model).memory)
    with raises(errno.EINVAL):
        send(luo, event)
    assert luo.state is state
    assert corebench.rfc2_of(model).kho.finalized is finalized
    assert len(corebench.rfc2_of(model).memory) == kept
    assert f"luo_core: Can't switch to [{AIMS[event]}] from [{state}] state" in model.log
    model.power_off()


def test_there_are_no_more_pairs_than_these(coupling: Coupling) -> None:
    assert len(LEGAL) + len(ILLEGAL) == len(LuoState) * len(LuoEvent) == 16
    assert {str(state) for state in LuoState} == set(abi.STATE_NAMES)


@pytest.mark.parametrize("state", LuoState)
def test_files_are_registered_in_normal_only(coupling: Coupling, memory: int, state: LuoState) -> None:
    """RFC v2's table: "Unpreserve was legal in NORMAL only", and preserve too: EBUSY."""
    model = corebench.node(coupling)
    token = luo_of(model).fd_preserve(memory)
    other = corebench.memfd()
    luo = corebench.bring(model, state)
    if state is NORMAL:
        luo.fd_unpreserve(luo.fd_preserve(other))
        luo.fd_unpreserve(token)
    else:
        with raises(errno.EBUSY):
            luo.fd_preserve(other)
        with raises(errno.EBUSY):
            luo.fd_unpreserve(token)
    os.close(other)
    model.power_off()


@pytest.mark.parametrize("state", LuoState)
def test_files_are_restored_in_updated_only(coupling: Coupling, memory: int, state: LuoState) -> None:
    model = corebench.node(coupling)
    token = luo_of(model).fd_preserve(memory)
    luo = corebench.bring(model, state)
    if state is UPDATED:
        os.close(luo.fd_restore(token))
    else:
        with raises(errno.EBUSY):
            luo.fd_restore(token)
    model.power_off()


def test_boot_without_a_subtree_is_normal(coupling: Coupling) -> None:
    """RFC v2's table: "no "LUO" subtree in the KHO tree → NORMAL": after power-on, a cold boot and a plain
    kexec."""
    model = corebench.node(coupling)
    assert luo_of(model).state is NORMAL
    model.cold_boot()
    assert luo_of(model).state is NORMAL
    corebench.kexec(model)
    assert luo_of(model).state is NORMAL
    model.power_off()


@pytest.mark.parametrize("by", ["ioctl", "reboot"])
def test_boot_with_a_subtree_is_updated(coupling: Coupling, memory: int, by: str) -> None:
    """RFC v2's table: "subtree present → UPDATED"; "FROZEN | kexec | UPDATED (in the next kernel)"; FREEZE by
    "ioctl, or inside reboot(KEXEC)"."""
    model = corebench.node(coupling)
    token = luo_of(model).fd_preserve(memory)
    luo = corebench.bring(model, FROZEN if by == "ioctl" else PREPARED)
    corebench.load(model)
    model.freeze()
    assert luo.state is FROZEN
    assert model.jump() == Jump(arrived=True)
    model.arrive()
    assert luo_of(model).state is UPDATED
    fd = luo_of(model).fd_restore(token)
    assert os.pread(fd, 10, 0) == b"memory"
    os.close(fd)
    luo_of(model).finish()
    assert luo_of(model).state is NORMAL
    assert len(corebench.rfc2_of(model).memory) == 0
    model.power_off()


def test_an_incompatible_tree_panics(coupling: Coupling) -> None:
    """RFC v2's table: "an incompatible tree panics": a cold boot follows, and nothing is left."""
    other = EmulatedImage.rfc2("6.17", abi="luo-v2", coupling=str(coupling))
    model = corebench.node(coupling, images={"6.17": other})
    corebench.bring(model, FROZEN)
    corebench.load(model, "6.17")
    model.freeze()
    assert model.jump() == Jump(arrived=False)
    model.cold_boot()
    assert (model.release, luo_of(model).state) == ("6.16-a", NORMAL)
    model.power_off()


def test_an_incompatible_kernel_does_not_mind_a_plain_kexec(coupling: Coupling) -> None:
    other = EmulatedImage.rfc2("6.17", abi="luo-v2", coupling=str(coupling))
    model = corebench.node(coupling, images={"6.17": other})
    corebench.kexec(model, "6.17")
    assert (model.release, luo_of(model).state) == ("6.17", NORMAL)
    model.power_off()


@pytest.mark.parametrize("state", [NORMAL, UPDATED])
def test_reboot_from_normal_or_updated_loses_everything(
    coupling: Coupling, memory: int, state: LuoState
) -> None:
    """RFC v2's table: "reboot(KEXEC) from NORMAL or UPDATED is a plain kexec that silently loses
    everything"."""
    before = corebench.descriptors()
    model = corebench.node(coupling)
    token = luo_of(model).fd_preserve(memory)
    corebench.bring(model, state)
    corebench.kexec(model, "6.16-c")
    assert (model.release, luo_of(model).state) == ("6.16-c", NORMAL)
    with raises(errno.EBUSY):
        luo_of(model).fd_restore(token)
    assert corebench.rfc2_of(model).kho.incoming == {}
    assert len(corebench.rfc2_of(model).memory) == 0
    assert corebench.descriptors() == before
    model.power_off()


def test_a_cancel_after_freeze_may_be_prepared_again(coupling: Coupling, memory: int) -> None:
    """RFC v2's table: "CANCEL kept tokens valid"."""
    model = corebench.node(coupling)
    luo = luo_of(model)
    token = luo.fd_preserve(memory)
    for state in (PREPARED, FROZEN):
        corebench.bring(model, state)
        luo.cancel()
        assert not corebench.rfc2_of(model).kho.finalized
        assert len(corebench.rfc2_of(model).memory) == 0
    luo.prepare()
    corebench.kexec(model)
    os.close(luo_of(model).fd_restore(token))
    model.power_off()


def test_a_refused_freeze_ends_in_normal(coupling: Coupling, memory: int) -> None:
    """RFC v2's table: "FREEZE … on failure → NORMAL", by the ioctl and inside reboot(KEXEC)."""
    for by in ("ioctl", "reboot"):
        model = corebench.node(coupling, faults="refuse_freeze=EAGAIN@1")
        luo = luo_of(model)
        luo.fd_preserve(memory)
        luo.prepare()
        corebench.load(model)
        with raises(errno.EAGAIN):
            luo.freeze() if by == "ioctl" else model.freeze()
        assert luo.state is NORMAL
        assert len(corebench.rfc2_of(model).memory) == 0
        model.power_off()
