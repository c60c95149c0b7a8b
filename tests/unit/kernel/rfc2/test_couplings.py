"""Where the two couplings of LUO and KHO differ, scenario by scenario, as the seed's thread argues.

In each scenario `notifier` is what was posted, and `luo-driven` what the thread came to.
"""

from __future__ import annotations

import errno
import os

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import Jump, LuoModel
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.luo import SUBTREE
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.faults import FaultPlan
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import (
    COUPLINGS,
    FROZEN,
    NORMAL,
    PREPARED,
    UPDATED,
    KhoUser,
    Script,
    bench,
    luo_of,
    raises,
    rfc2_of,
)

NOTIFIER, LUO_DRIVEN = Coupling.NOTIFIER, Coupling.LUO_DRIVEN


def finalize(model: LuoModel, value: str = "1") -> None:
    """By hand, through debugfs."""
    rfc2_of(model).debugfs_write(FINALIZE_PATH, value)


def shown(model: LuoModel) -> str:
    return rfc2_of(model).debugfs_read(FINALIZE_PATH)


def with_user(model: LuoModel) -> KhoUser:
    """A user of KHO beside LUO, as reserve_mem is."""
    user = KhoUser("user", rfc2_of(model).kho, Script())
    rfc2_of(model).kho.chain.insert(0, user)
    return user


# --- who drives whom


def test_notifier_prepare_is_kho_finalize_which_calls_back() -> None:
    """The seed thread: "luo_prepare() and luo_cancel() control the KHO state machine, but then also get
    controlled by it via the notifier callbacks": LUO's work is done between that of KHO's other users."""
    with bench(NOTIFIER) as b:
        b.luo.prepare()
        whos = [who for _, who in b.script.called]
        assert whos.index("k0") < whos.index("f0") < whos.index("k1")
        assert b.luo in b.kho.chain


def test_luo_driven_kho_does_not_know_luo() -> None:
    """The seed thread: "get rid of the notifier and only let LUO drive things": LUO's work is done before it
    finalizes KHO, which calls nobody."""
    with bench(LUO_DRIVEN) as b:
        finalized: list[bool] = []
        b.script.watch = lambda: finalized.append(b.kho.finalized)
        b.luo.prepare()
        assert finalized == [False] * 6
        assert b.kho.finalized
        assert b.kho.chain == []


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_prepare_finalizes_and_cancel_aborts(coupling: Coupling, memory: int) -> None:
    """The seed thread: "even without KHO_DEBUGFS, LUO drives KHO": in both couplings, on a production
    kernel."""
    model = corebench.node(coupling, kho_debugfs=False)
    luo, kho = luo_of(model), rfc2_of(model).kho
    luo.fd_preserve(memory)
    luo.prepare()
    assert kho.finalized
    assert SUBTREE in kho.tree
    luo.cancel()
    assert not kho.finalized
    assert kho.tree == {}
    model.power_off()


# --- KHO by hand


def test_notifier_finalize_by_hand_puts_luo_into_prepared(memory: int) -> None:
    """The seed thread: "if debugfs is enabled, KHO can be finalized manually, and in this case LUO
    transitions to prepared state"; the abort puts it back into NORMAL."""
    model = corebench.node(NOTIFIER)
    token = luo_of(model).fd_preserve(memory)
    assert shown(model) == "0\n"
    finalize(model)
    assert shown(model) == "1\n"
    assert model.facts().luo_state == "prepared"
    with raises(errno.EINVAL):
        luo_of(model).prepare()
    finalize(model, "0")
    assert luo_of(model).state is NORMAL
    assert len(rfc2_of(model).memory) == 0
    finalize(model)
    corebench.kexec(model)
    os.close(luo_of(model).fd_restore(token))
    model.power_off()


def test_notifier_by_hand_and_by_ioctl_are_the_same_path() -> None:
    """The seed thread: "In both cases, the path is identical": the same calls in the same order, the same
    tree, and what the one began the other ends."""
    called, trees = [], []
    for by_hand in (True, False):
        with bench(NOTIFIER) as b:
            (b.kho.finalize if by_hand else b.luo.prepare)()
            trees.append(dict(b.kho.tree))
            (b.luo.cancel if by_hand else b.kho.abort)()
            called.append(list(b.script.called))
            assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)
    assert called[0] == called[1]
    assert trees[0] == trees[1]


def test_notifier_what_is_frozen_is_cancelled_by_hand_too() -> None:
    model = corebench.node(NOTIFIER)
    finalize(model)
    luo_of(model).freeze()
    finalize(model, "0")
    assert luo_of(model).state is NORMAL
    model.power_off()


@pytest.mark.parametrize("state", [PREPARED, FROZEN])
def test_notifier_the_same_value_twice(state: object) -> None:
    """EEXIST, and ENOENT."""
    model = corebench.node(NOTIFIER)
    with raises(errno.ENOENT):
        finalize(model, "0")
    finalize(model)
    if state is FROZEN:
        luo_of(model).freeze()
    with raises(errno.EEXIST):
        finalize(model)
    assert luo_of(model).state is state
    finalize(model, "0")
    with raises(errno.ENOENT):
        finalize(model, "0")
    model.power_off()


def test_notifier_finalize_by_hand_is_refused_by_luo_where_prepare_would_be(memory: int) -> None:
    """UPDATED: LUO's EINVAL is the write's."""
    model = corebench.node(NOTIFIER)
    luo_of(model).fd_preserve(memory)
    corebench.bring(model, UPDATED)
    with raises(errno.EINVAL):
        finalize(model)
    assert (luo_of(model).state, shown(model)) == (UPDATED, "0\n")
    luo_of(model).finish()
    finalize(model)
    assert luo_of(model).state is PREPARED
    model.power_off()


def test_notifier_finalize_by_hand_fails_as_a_participant_does(memory: int) -> None:
    model = corebench.node(NOTIFIER, faults="refuse_prepare=EAGAIN@1")
    luo_of(model).fd_preserve(memory)
    with raises(errno.EAGAIN):
        finalize(model)
    assert (luo_of(model).state, shown(model), len(rfc2_of(model).memory)) == (NORMAL, "0\n", 0)
    assert f"KHO: Failed to convert KHO state tree: {-errno.EAGAIN}" in model.log
    model.power_off()


def test_luo_driven_finalize_by_hand_is_refused(memory: int) -> None:
    """The seed thread: "we should consider the KHO notifiers and self orchestration as obsoleted by LUO". The
    file can be read, in any state, and writing it changes nothing: EOPNOTSUPP."""
    model = corebench.node(LUO_DRIVEN)
    luo_of(model).fd_preserve(memory)
    for state, finalized in ((NORMAL, "0\n"), (PREPARED, "1\n")):
        corebench.bring(model, state)
        for value in ("1", "0", "no number"):
            with raises(errno.EOPNOTSUPP):
                finalize(model, value)
        assert shown(model) == finalized
        assert luo_of(model).state is state
    model.power_off()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_on_a_production_kernel_only_luo_controls_kho(coupling: Coupling) -> None:
    """The seed thread: "On production machine, without KHO_DEBUGFS, only LUO can control KHO state": there
    is no file."""
    model = corebench.node(coupling, kho_debugfs=False)
    for value in ("1", "0", "no number"):
        with raises(errno.ENOENT):
            finalize(model, value)
    with raises(errno.ENOENT):
        shown(model)
    assert luo_of(model).state is NORMAL
    model.power_off()


@pytest.mark.parametrize("value", ["", "yes", "1 0", "0x"])
def test_what_is_no_number_is_einval(value: str) -> None:
    model = corebench.node(NOTIFIER)
    with raises(errno.EINVAL):
        finalize(model, value)
    assert luo_of(model).state is NORMAL
    model.power_off()


@pytest.mark.parametrize("value", ["1\n", "0x1", "17"])
def test_any_number_but_zero_finalizes(value: str) -> None:
    model = corebench.node(NOTIFIER)
    finalize(model, value)
    assert luo_of(model).state is PREPARED
    model.power_off()


@pytest.mark.parametrize("path", ["kho/in/finalize", "kho/out", "", "kho/out/finalize/"])
def test_no_such_file(path: str) -> None:
    model = corebench.node(NOTIFIER)
    with raises(errno.ENOENT):
        rfc2_of(model).debugfs_write(path, "1")
    with raises(errno.ENOENT):
        rfc2_of(model).debugfs_read(path)
    model.power_off()


def test_by_hand_where_luo_is_off() -> None:
    """The seed thread: "KHO is for preserving memory, LUO uses KHO as a backbone": with the notifier KHO
    works without LUO, by hand. Where LUO alone drives it nothing does: "it can't even be used with the
    config disabled"."""
    off = "kho=on liveupdate=off"
    for coupling in COUPLINGS:
        model = corebench.node(coupling, command_line=off)
        assert (model.luo, rfc2_of(model).state) == (False, None)
        if coupling is LUO_DRIVEN:
            with raises(errno.EOPNOTSUPP):
                finalize(model)
            corebench.kexec(model, command_line=off)
            assert rfc2_of(model).kho.incoming == {}
        else:
            user = with_user(model)
            finalize(model)
            corebench.kexec(model, command_line=off)
            assert rfc2_of(model).kho.incoming.keys() == {user.name}
            assert len(rfc2_of(model).memory) == 1
        model.power_off()


# --- a freeze that fails


def stuck(memory: int, *, by: str = "ioctl", **images: EmulatedImage) -> tuple[LuoModel, int]:
    """A notifier kernel after a freeze that failed, with the token of its file."""
    model = corebench.node(NOTIFIER, faults="refuse_freeze=EAGAIN@1", images=images)
    token = luo_of(model).fd_preserve(memory)
    luo_of(model).prepare()
    corebench.load(model)
    with raises(errno.EAGAIN):
        model.freeze() if by == "reboot" else luo_of(model).freeze()
    return model, token


@pytest.mark.parametrize("by", ["ioctl", "reboot"])
def test_notifier_a_failed_freeze_leaves_kho_finalized(memory: int, by: str) -> None:
    """Asked for: "a failed freeze may leave KHO finalized": LUO is NORMAL and cannot be prepared (EEXIST) nor
    cancelled (EINVAL), and KHO cannot be aborted by hand, for it asks LUO (EINVAL). Files may come and go."""
    model, token = stuck(memory, by=by)
    luo = luo_of(model)
    for _ in range(2):
        assert (luo.state, shown(model)) == (NORMAL, "1\n")
        assert model.facts().kho_finalized
        with raises(errno.EEXIST):
            luo.prepare()
        with raises(errno.EINVAL):
            luo.cancel()
        with raises(errno.EEXIST):
            finalize(model)
        with raises(errno.EINVAL):
            finalize(model, "0")
    luo.fd_unpreserve(token)
    luo.fd_unpreserve(luo.fd_preserve(memory))
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_notifier_a_kexec_after_it_hands_over_a_stale_subtree(memory: int) -> None:
    """The next kernel believes that it was UPDATED; restoring fails for ever, and FINISH ends it."""
    model, token = stuck(memory)
    model.freeze()
    assert luo_of(model).state is NORMAL, "a plain kexec, it seems"
    assert model.jump() == Jump(arrived=True)
    model.arrive()
    luo = luo_of(model)
    assert luo.state is UPDATED
    assert len(rfc2_of(model).memory) == 0, "nothing came with it"
    for _ in range(2):
        with raises(errno.EFAULT):
            luo.fd_restore(token)
    # What is kept next lies nowhere that the stale tree points to.
    kept = rfc2_of(model).memory.keep(corebench.Blob({}))
    luo.finish()
    assert luo.state is NORMAL
    assert any("finish failed for file token 0x0" in line for line in model.log)
    rfc2_of(model).memory.free(kept)
    # From here on all is well again.
    luo.fd_preserve(memory)
    luo.prepare()
    corebench.kexec(model, "6.16-c")
    assert luo_of(model).state is UPDATED
    model.power_off()


def test_notifier_a_kexec_after_it_into_an_incompatible_kernel_panics(memory: int) -> None:
    """A plain kexec would not have."""
    model, _ = stuck(memory, other=EmulatedImage.rfc2("6.17", abi="luo-v2"))
    corebench.load(model, "other")
    model.freeze()
    assert model.jump() == Jump(arrived=False)
    model.cold_boot()
    model.power_off()


def test_notifier_a_cold_boot_after_it_mends_it(memory: int) -> None:
    model, _ = stuck(memory)
    model.cold_boot()
    luo_of(model).prepare()
    assert luo_of(model).state is PREPARED
    model.power_off()


@pytest.mark.parametrize("by", ["ioctl", "reboot"])
def test_luo_driven_a_failed_freeze_leaves_nothing(memory: int, by: str) -> None:
    """NORMAL, KHO not finalized, no subtree; the next try succeeds."""
    model = corebench.node(LUO_DRIVEN, faults="refuse_freeze=EAGAIN@1")
    luo = luo_of(model)
    token = luo.fd_preserve(memory)
    luo.prepare()
    corebench.load(model)
    with raises(errno.EAGAIN):
        model.freeze() if by == "reboot" else luo.freeze()
    assert (luo.state, shown(model), rfc2_of(model).kho.tree) == (NORMAL, "0\n", {})
    assert len(rfc2_of(model).memory) == 0
    model.faults = FaultPlan()
    luo.prepare()
    corebench.kexec(model)
    os.close(luo_of(model).fd_restore(token))
    model.power_off()


def test_luo_driven_a_kexec_after_a_failed_freeze_is_a_plain_one(memory: int) -> None:
    model = corebench.node(LUO_DRIVEN, faults="refuse_freeze=EAGAIN@1")
    luo_of(model).fd_preserve(memory)
    luo_of(model).prepare()
    corebench.load(model)
    with raises(errno.EAGAIN):
        model.freeze()
    corebench.kexec(model)
    assert (luo_of(model).state, rfc2_of(model).kho.incoming) == (NORMAL, {})
    model.power_off()


# --- KHO's other users


@pytest.mark.parametrize("by_hand", [False, True])
def test_notifier_a_user_of_kho_rides_along_whoever_finalizes(by_hand: bool) -> None:
    """The seed thread: "it can still be used via LUO going into prepare state, since LUO changes KHO into
    finalized state and reserve_mem is registered to be called back from KHO". It needs no file of LUO's."""
    model = corebench.node(NOTIFIER)
    user = with_user(model)
    finalize(model) if by_hand else luo_of(model).prepare()
    corebench.kexec(model)
    arrived = rfc2_of(model)
    assert arrived.memory.blob(int(arrived.kho.incoming[user.name]["data"])) == {"of": "user"}
    model.power_off()


def test_notifier_a_user_of_kho_is_not_automatic() -> None:
    """The seed thread: "It still depends on kho_finalize() being called, so it still needs something to
    trigger its serialization. It is not automatic.\""""
    model = corebench.node(NOTIFIER)
    with_user(model)
    corebench.kexec(model)
    assert rfc2_of(model).kho.incoming == {}
    assert len(rfc2_of(model).memory) == 0
    model.power_off()


def test_notifier_a_user_of_kho_crosses_a_freeze_that_failed(memory: int) -> None:
    """KHO is finalized still, so a plain kexec carries it, beside LUO's stale subtree."""
    model = corebench.node(NOTIFIER, faults="refuse_freeze=EAGAIN@1")
    user = with_user(model)
    luo_of(model).fd_preserve(memory)
    luo_of(model).prepare()
    corebench.load(model)
    with raises(errno.EAGAIN):
        model.freeze()
    corebench.kexec(model)
    arrived = rfc2_of(model)
    assert arrived.memory.blob(int(arrived.kho.incoming[user.name]["data"])) == {"of": "user"}
    assert len(arrived.memory) == 1
    model.power_off()


@pytest.mark.parametrize("last", [False, True])
def test_notifier_a_user_of_kho_that_fails_takes_prepare_with_it(memory: int, last: bool) -> None:
    """Whether it is called before LUO or after: nothing has changed."""
    model = corebench.node(NOTIFIER)
    user = with_user(model)
    if last:
        rfc2_of(model).kho.chain.reverse()
    user.script.failing.add(("finalize", "user"))
    luo_of(model).fd_preserve(memory)
    with raises(corebench.FAILS_WITH):
        luo_of(model).prepare()
    assert (luo_of(model).state, rfc2_of(model).kho.finalized) == (NORMAL, False)
    assert (len(rfc2_of(model).memory), rfc2_of(model).kho.tree) == (0, {})
    model.power_off()


# --- what both have


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_kho_follows_luos_state(coupling: Coupling, memory: int) -> None:
    """The state tells whether KHO is finalized, but for the notifier's failed freeze."""
    model = corebench.node(coupling)
    luo_of(model).fd_preserve(memory)
    seen = []
    for state in (NORMAL, PREPARED):
        corebench.bring(model, state)
        seen.append(model.facts().kho_finalized)
    luo_of(model).freeze()
    seen.append(model.facts().kho_finalized)
    corebench.kexec(model)
    seen.append(model.facts().kho_finalized)
    assert seen == [False, True, True, False]
    assert model.facts().coupling == coupling
    model.power_off()
