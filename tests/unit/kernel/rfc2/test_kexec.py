"""What a kexec carries from one kernel of RFC v2's time into the next, and what it does not."""

from __future__ import annotations

import errno
import os

import pytest

from node_agent.kernel.emulated.files import inode_of
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import Jump, LuoModel, Machine
from node_agent.kernel.emulated.rfc2.states import Coupling, LuoState
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import (
    COUPLINGS,
    FROZEN,
    NORMAL,
    PREPARED,
    UPDATED,
    Bench,
    bench,
    luo_of,
    raises,
    rfc2_of,
)

pytestmark = pytest.mark.parametrize("coupling", COUPLINGS)


def prepared(coupling: Coupling, memory: int, faults: str = "", **images: EmulatedImage) -> LuoModel:
    """A node in PREPARED with one file, which has the token 0."""
    model = corebench.node(coupling, faults=faults, images=images)
    assert luo_of(model).fd_preserve(memory) == 0
    return bring(model, PREPARED)


def bring(model: LuoModel, state: LuoState) -> LuoModel:
    corebench.bring(model, state)
    return model


def restored(model: LuoModel, token: int = 0) -> bytes:
    fd = luo_of(model).fd_restore(token)
    try:
        return os.pread(fd, 100, 0)
    finally:
        os.close(fd)


# --- no image


def test_without_an_image_the_state_is_frozen_all_the_same(coupling: Coupling, memory: int) -> None:
    """No image: EINVAL, and FROZEN is left, because LUO is asked before kexec looks. Loading one mends it, so
    does CANCEL."""
    model = prepared(coupling, memory)
    for _ in range(2):
        with raises(errno.EINVAL):
            model.freeze()
        assert luo_of(model).state is FROZEN
    corebench.kexec(model)
    assert restored(model) == b"memory"
    model.power_off()
    model = prepared(coupling, memory)
    with raises(errno.EINVAL):
        model.freeze()
    luo_of(model).cancel()
    assert luo_of(model).state is NORMAL
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


@pytest.mark.parametrize("state", [NORMAL, UPDATED])
def test_without_an_image_other_states_stay(coupling: Coupling, state: LuoState) -> None:
    model = bring(corebench.node(coupling), state)
    with raises(errno.EINVAL):
        model.freeze()
    assert luo_of(model).state is state
    model.power_off()


# --- there, and on


def test_there_and_on(coupling: Coupling, memory: int) -> None:
    """After FINISH the next update begins; tokens count on past those that came."""
    model = prepared(coupling, memory)
    for release in ("6.16-b", "6.16-c", "6.16-d"):
        corebench.kexec(model, release)
        luo = luo_of(model)
        (token,) = rfc2_of(model).files.incoming
        fd = luo.fd_restore(token)
        os.pwrite(fd, release.encode(), 0)
        luo.finish()
        assert luo.fd_preserve(fd) == token + 1
        os.close(fd)
        luo.prepare()
    corebench.kexec(model, "6.16-e")
    assert restored(model, 3) == b"6.16-d"
    luo_of(model).finish()
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_what_is_written_until_the_jump_crosses(coupling: Coupling, memory: int) -> None:
    """PREPARE and even FREEZE copy nothing."""
    model = prepared(coupling, memory)
    os.pwrite(memory, b"after_", 0)
    luo_of(model).freeze()
    os.pwrite(memory, b"frozen", 0)
    corebench.kexec(model)
    assert restored(model) == b"frozen"
    model.power_off()


def test_who_closes_its_descriptor_loses_nothing(coupling: Coupling) -> None:
    """Registered, the kernel holds the file, not its process (no close is an unpreserve here)."""
    model = corebench.node(coupling)
    fd = corebench.memfd(b"orphan")
    token = luo_of(model).fd_preserve(fd)
    os.close(fd)
    bring(model, PREPARED)
    corebench.kexec(model)
    assert restored(model, token) == b"orphan"
    model.power_off()


def test_nothing_preserved_is_an_update_all_the_same(coupling: Coupling) -> None:
    model = bring(corebench.node(coupling), PREPARED)
    corebench.kexec(model)
    assert luo_of(model).state is UPDATED
    with raises(errno.ENOENT):
        luo_of(model).fd_restore(0)
    luo_of(model).finish()
    model.power_off()


def test_files_that_nobody_restores_go_with_finish(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory)
    corebench.kexec(model)
    assert len(rfc2_of(model).memory) == 1
    luo_of(model).finish()
    assert len(rfc2_of(model).memory) == 0
    assert rfc2_of(model).files.incoming == {}
    with raises(errno.EBUSY):
        luo_of(model).fd_restore(0)
    model.power_off()


def test_a_restored_file_lives_on_after_finish(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory)
    corebench.kexec(model)
    fd = luo_of(model).fd_restore(0)
    luo_of(model).finish()
    assert os.pread(fd, 10, 0) == b"memory"
    os.close(fd)
    model.power_off()


def test_an_update_that_is_not_finished_is_lost_with_the_next_kexec(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory)
    for release, state in (("6.16-b", UPDATED), ("6.16-c", NORMAL)):
        corebench.kexec(model, release)
        assert luo_of(model).state is state
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_the_next_kernel_may_have_the_other_coupling(coupling: Coupling, memory: int) -> None:
    """How a tree came about does not show in it."""
    (other,) = set(COUPLINGS) - {coupling}
    images = {"6.17": EmulatedImage.rfc2("6.17", coupling=str(other), telemetry=False)}
    model = prepared(coupling, memory, **images)
    corebench.kexec(model, "6.17")
    assert (luo_of(model).state, luo_of(model).coupling) == (UPDATED, other)
    assert restored(model) == b"memory"
    luo_of(model).finish()
    bring(model, PREPARED)
    assert luo_of(model).state is PREPARED
    model.power_off()


def test_an_image_must_fit_into_khos_scratch(coupling: Coupling, memory: int) -> None:
    """EADDRNOTAVAIL by kexec_file_load; what is prepared stays so, and a smaller image is taken."""
    images = {"large": EmulatedImage.rfc2("large", scratch_bytes=11, coupling=str(coupling), telemetry=False)}
    model = prepared(coupling, memory, **images)
    model.machine = Machine(scratch_bytes=10)
    with raises(errno.EADDRNOTAVAIL):
        corebench.load(model, "large")
    assert luo_of(model).state is PREPARED
    assert not model.loaded
    corebench.kexec(model)
    assert restored(model) == b"memory"
    model.power_off()


# --- into kernels that cannot take it


def test_a_tree_of_the_other_model_is_ignored(coupling: Coupling, memory: int) -> None:
    """Asked for: "A node never kexecs from one model into the other with preserved state": the kernel would
    lose it."""
    model = prepared(coupling, memory, **{"7.2": EmulatedImage("7.2")})
    corebench.kexec(model, "7.2")
    assert (model.rfc2, model.sessions(), model.facts().luo) == (None, (), True)
    assert "KHO: setup: handover FDT is incompatible with 'kho-v4'" in model.log
    session = model.create_session(b"a")
    model.preserve_fd(session, memory, 1)
    # And back: the session is lost as the token was.
    corebench.kexec(model, "6.16-c")
    assert luo_of(model).state is NORMAL
    assert rfc2_of(model).kho.incoming == {}
    assert len(rfc2_of(model).memory) == 0
    assert "KHO: setup: handover FDT is incompatible with 'kho-v1'" in model.log
    model.power_off()


def test_no_model_minds_another_luo_abi_of_the_other(coupling: Coupling, memory: int) -> None:
    """The strings differ, and nothing panics: KHO's own differ first."""
    assert EmulatedImage("7.2").abi != EmulatedImage.rfc2("6.16").abi
    model = prepared(coupling, memory, **{"7.2": EmulatedImage("7.2")})
    corebench.load(model, "7.2")
    model.freeze()
    assert model.jump() == Jump(arrived=True)
    model.power_off()


def test_a_target_without_kho_takes_nothing(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory)
    corebench.kexec(model, command_line="quiet")
    assert (model.rfc2, model.luo) == (None, False)
    assert model.leaked_bytes == len(b"memory"), "the memory stays where it is, of use to nobody"
    model.cold_boot()
    assert model.leaked_bytes == 0
    model.power_off()


def test_a_target_built_without_kho_takes_nothing(coupling: Coupling, memory: int) -> None:
    other = EmulatedImage.rfc2("6.17", kho=False, coupling=str(coupling))
    model = prepared(coupling, memory, **{"6.17": other})
    corebench.kexec(model, "6.17")
    assert (model.rfc2, model.leaked_bytes) == (None, 0)
    assert "Passed KHO data, but CONFIG_KEXEC_HANDOVER not set" in model.log
    model.power_off()


def test_a_target_without_luo_keeps_the_memory_to_no_use(coupling: Coupling, memory: int) -> None:
    """KHO took it and nobody asks for it; the next kexec lets go of it."""
    model = prepared(coupling, memory)
    off = "kho=on liveupdate=off"
    corebench.kexec(model, command_line=off)
    assert (rfc2_of(model).luo, rfc2_of(model).state, len(rfc2_of(model).memory)) == (None, None, 1)
    with raises(errno.ENOENT):
        luo_of(model)
    with raises(errno.ENOENT):
        model.open_device()
    corebench.kexec(model, "6.16-c")
    assert (luo_of(model).state, len(rfc2_of(model).memory)) == (NORMAL, 0)
    model.power_off()


def test_an_image_loaded_the_legacy_way_loses_everything(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory)
    model.load(KexecImage("", "", corebench.COMMAND_LINE, "6.16-b"), legacy=True)
    model.freeze()
    assert model.jump() == Jump(arrived=True)
    model.arrive()
    assert (luo_of(model).state, model.leaked_bytes) == (NORMAL, 0)
    model.power_off()


def test_a_kernel_without_the_handler_leaves_the_file_alone(coupling: Coupling) -> None:
    """The log says so; the token is unknown, and what was kept for it stays kept until the next kexec."""
    with bench(coupling) as b:
        b.luo.prepare()
        b.luo.freeze()
        after = Bench(coupling, b)
        after.files.handlers.clear()
        after.start()
        assert after.luo.state is UPDATED
        assert [line for line in after.log if "No registered handler" in line] == [
            f"luo_files: Skipping FDT node '{token:#x}': No registered handler for compatible 'memfd-v1'"
            for token in after.tokens.values()
        ]
        kept = len(after.memory)
        for token in after.tokens.values():
            with raises(errno.ENOENT):
                after.luo.fd_restore(token)
        after.luo.finish()
        assert len(after.memory) == kept - len(corebench.SUBSYSTEMS)
        after.files.handlers.append(after.handler)
        fd = corebench.memfd()
        after.handler.names[inode_of(fd)] = "new"
        assert after.luo.fd_preserve(fd) == len(corebench.FILES), "no token that came in is used again"
        os.close(fd)
        after.close()


# --- faults


@pytest.mark.parametrize("fault", ["panic", "power_loss", "poison", "never_back"])
def test_faults_that_a_cold_boot_ends(coupling: Coupling, memory: int, fault: str) -> None:
    """POISON panics here: RFC v2 has no EIO for what it cannot read."""
    model = prepared(coupling, memory, faults=f"{fault}@1")
    corebench.load(model)
    model.freeze()
    assert model.jump() == Jump(arrived=False, back=fault != "never_back")
    model.cold_boot()
    assert (model.release, luo_of(model).state) == ("6.16-a", NORMAL)
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_poison_spoils_no_plain_kexec(coupling: Coupling) -> None:
    model = corebench.node(coupling, faults="poison@1")
    corebench.kexec(model)
    assert luo_of(model).state is NORMAL
    model.power_off()


def test_a_lost_subtree_is_a_boot_into_normal(coupling: Coupling, memory: int) -> None:
    """SESSION_LOST, whatever the name: RFC v2 knows one tree, and no sessions."""
    for fault in ("session_lost@1", "session_lost=any@1"):
        model = prepared(coupling, memory, faults=fault)
        corebench.kexec(model)
        assert luo_of(model).state is NORMAL
        assert model.leaked_bytes == len(b"memory")
        assert len(rfc2_of(model).memory) == 0
        model.power_off()


def test_a_restore_that_fails_by_a_fault(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory, faults="retrieve_error=ENOMEM@1")
    corebench.kexec(model)
    for _ in range(2):
        with raises(errno.ENOMEM):
            luo_of(model).fd_restore(0)
    luo_of(model).finish()
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_the_wrong_kernel_gets_the_state_too(coupling: Coupling, memory: int) -> None:
    model = prepared(coupling, memory, faults="wrong_kernel=6.15@1")
    corebench.kexec(model)
    assert (model.release, luo_of(model).state) == ("6.15", UPDATED)
    assert model.facts().coupling == coupling
    assert restored(model) == b"memory"
    model.power_off()


@pytest.mark.parametrize("how", ["cold boot", "power off", "kexec"])
@pytest.mark.parametrize("state", LuoState)
def test_no_end_of_a_boot_leaks(coupling: Coupling, memory: int, state: LuoState, how: str) -> None:
    """From every state, with a file that is registered, or restored, or not; the fixture counts."""
    for restore in (False, True):
        model = corebench.node(coupling)
        luo_of(model).fd_preserve(memory)
        luo = corebench.bring(model, state)
        if restore and state is UPDATED:
            os.close(luo.fd_restore(0))
        if how == "cold boot":
            model.cold_boot()
        elif how == "kexec":
            corebench.kexec(model, "6.16-c")
        model.power_off()
        files = rfc2_of(model).files
        assert (files.outgoing, files.incoming, len(rfc2_of(model).memory)) == ({}, {}, 0)


# --- the device


def test_the_device_is_not_single_open_and_its_owners(coupling: Coupling) -> None:
    model = corebench.node(coupling)
    model.machine = Machine(owner_uid=1000)
    with raises(errno.EACCES):
        model.open_device(1001)
    for uid in (0, 1000, 0):
        model.open_device(uid)
    model.faults = FaultPlan.parse("busy=1")
    model.cold_boot()
    with raises(errno.EBUSY):
        model.open_device()
    model.open_device()
    model.power_off()


def test_facts_say_what_this_kernel_has(coupling: Coupling) -> None:
    model = corebench.node(coupling)
    facts = model.facts()
    assert (facts.luo_model, facts.coupling, facts.luo_state, facts.luo) == (
        "rfc-v2",
        str(coupling),
        "normal",
        True,
    )
    assert facts.kho is not None
    assert (facts.kho.kho_abi, facts.kho.luo_abi, facts.kho.debugfs) == ("kho-v1", "luo-v1", True)
    hidden = corebench.node(coupling, kho_debugfs=False).facts().kho
    assert hidden is not None
    assert not hidden.debugfs
    bring(model, FROZEN)
    assert model.facts().luo_state == "frozen"
    corebench.kexec(model, command_line="kho=on liveupdate=off")
    facts = model.facts()
    assert (facts.luo_state, facts.luo, facts.coupling) == ("", False, str(coupling))
    assert facts.kexec_count == 1
    model.power_off()


def test_memory_counts_as_preserved_from_prepare_on(coupling: Coupling, memory: int) -> None:
    model = corebench.node(coupling)
    model.machine = Machine(memory_bytes=100)
    model.cold_boot()
    luo_of(model).fd_preserve(memory)

    def free() -> int:
        facts = model.facts().memory
        assert facts is not None
        return facts.outside_scratch_bytes

    assert free() == 100
    bring(model, PREPARED)
    assert free() == 100 - len(b"memory")
    luo_of(model).cancel()
    assert free() == 100
    os.ftruncate(memory, 101)
    with raises(errno.ENOMEM):
        luo_of(model).prepare()
    assert (luo_of(model).state, len(rfc2_of(model).memory)) == (NORMAL, 0)
    model.power_off()
