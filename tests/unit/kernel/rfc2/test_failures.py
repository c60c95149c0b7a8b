"""Every callback fails, in every phase, at every position, in both couplings: who is undone, in what order,
and that nothing leaks (pages are counted, and descriptors)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.states import Coupling
from tests.unit.kernel.rfc2.corebench import (
    AFTER,
    BEFORE,
    COUPLINGS,
    FAILS_WITH,
    FILES,
    FROZEN,
    NORMAL,
    PREPARED,
    SUBSYSTEMS,
    UPDATED,
    USERS,
    Bench,
    bench,
    descriptors,
    raises,
)

PARTICIPANTS = FILES + SUBSYSTEMS
UNDO = {"prepare": "cancel", "finalize": "abort"}
LUO_CALLS = [("prepare", who) for who in PARTICIPANTS]
ORDER = {
    Coupling.NOTIFIER: [("finalize", BEFORE), *LUO_CALLS, ("finalize", AFTER)],
    Coupling.LUO_DRIVEN: LUO_CALLS,
}
"""What PREPARE calls, in order."""
PLACES = [(coupling, at) for coupling, calls in ORDER.items() for at in range(len(calls))]
CANCELS = [("cancel", who) for who in reversed(PARTICIPANTS)]


def whole_way(b: Bench, coupling: Coupling) -> None:
    """From NORMAL over a kexec to NORMAL again, with all files; nothing is left."""
    b.heal()
    b.luo.prepare()
    b.luo.freeze()
    after = Bench(coupling, b).start()
    try:
        assert after.luo.state is UPDATED
        for name in FILES:
            fd = after.luo.fd_restore(after.tokens[name])
            assert os.pread(fd, 10, 0) == name.encode()
            os.close(fd)
        after.luo.finish()
        assert after.luo.state is NORMAL
        left = {user: after.kho.incoming[user]["data"] for user in USERS[coupling]}
        assert sorted(after.memory.addresses()) == sorted(left.values()), "KHO's users have what is theirs"
    finally:
        after.close()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_nothing_fails(coupling: Coupling) -> None:
    """Files are called before subsystems; dependencies, then tokens, then registration give the order."""
    with bench(coupling) as b:
        b.luo.prepare()
        assert b.script.called == ORDER[coupling]
        b.heal()
        b.luo.freeze()
        assert b.script.called == [("freeze", who) for who in PARTICIPANTS]
        whole = b.luo.subtree()
        assert list(whole["file-descriptors"]) == ["compatible", "0x0", "0x1", "0x2"]
        assert list(whole["subsystems"]) == ["compatible", *SUBSYSTEMS]
        b.heal()
        b.luo.cancel()
        assert b.script.called == [(UNDO[what], who) for what, who in reversed(ORDER[coupling])]
        assert (len(b.memory), b.kho.tree, b.kho.finalized) == (0, {}, False)
        whole_way(b, coupling)


@pytest.mark.parametrize(("coupling", "at"), PLACES)
def test_a_prepare_that_fails_anywhere_leaves_all_as_it_was(coupling: Coupling, at: int) -> None:
    """Prepare failing in the middle of the chain: who was called is undone, last first; NORMAL, KHO not
    finalized, no page kept, tokens valid. In both couplings alike."""
    order = ORDER[coupling]
    with bench(coupling) as b:
        b.fail(*order[at])
        with raises(FAILS_WITH):
            b.luo.prepare()
        assert b.script.called == order[: at + 1] + [(UNDO[what], who) for what, who in reversed(order[:at])]
        assert (b.luo.state, b.kho.finalized, b.kho.tree) == (NORMAL, False, {})
        assert len(b.memory) == 0
        assert set(b.files.outgoing) == set(b.tokens.values())
        whole_way(b, coupling)


@pytest.mark.parametrize("at", range(len(PARTICIPANTS)))
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_freeze_that_fails_anywhere_undoes_everything(coupling: Coupling, at: int) -> None:
    """Those not yet frozen too. Clean where LUO drives KHO; else KHO stays finalized, and the users of it
    keep what they kept."""
    with bench(coupling) as b:
        b.luo.prepare()
        b.script.called.clear()
        b.fail("freeze", PARTICIPANTS[at])
        with raises(FAILS_WITH):
            b.luo.freeze()
        driven = coupling is Coupling.LUO_DRIVEN
        frozen = [("freeze", who) for who in PARTICIPANTS[: at + 1]]
        assert b.script.called == frozen + CANCELS
        assert b.luo.state is NORMAL
        assert b.kho.finalized is not driven
        assert len(b.memory) == len(USERS[coupling])
        assert set(b.files.outgoing) == set(b.tokens.values())
        if driven:
            whole_way(b, coupling)


@pytest.mark.parametrize("who", PARTICIPANTS)
@pytest.mark.parametrize("state", [PREPARED, FROZEN])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_cancel_that_fails_anywhere_is_logged_and_the_others_are_called(
    coupling: Coupling, state: object, who: str
) -> None:
    with bench(coupling) as b:
        b.luo.prepare()
        if state is FROZEN:
            b.luo.freeze()
        b.script.called.clear()
        b.fail("cancel", who)
        b.luo.cancel()
        assert [call for call in b.script.called if call[0] == "cancel"] == CANCELS
        assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)
        assert any("cancel" in line and f"[{-FAILS_WITH}]" in line for line in b.log)
        whole_way(b, coupling)


@pytest.mark.parametrize("who", PARTICIPANTS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_finish_that_fails_anywhere_is_logged_and_the_others_are_called(
    coupling: Coupling, who: str
) -> None:
    with bench(coupling) as b:
        b.luo.prepare()
        b.luo.freeze()
        after = Bench(coupling, b).start()
        after.heal()
        after.fail("finish", who)
        after.luo.finish()
        assert after.script.of("finish") == list(PARTICIPANTS)
        assert after.luo.state is NORMAL
        assert len(after.memory) == len(USERS[coupling])
        assert any("finish" in line and f"[{-FAILS_WITH}]" in line for line in after.log)
        after.close()


@pytest.mark.parametrize("who", SUBSYSTEMS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_boot_that_fails_anywhere_is_logged_and_the_others_are_called(coupling: Coupling, who: str) -> None:
    with bench(coupling) as b:
        b.luo.prepare()
        b.luo.freeze()
        b.heal()
        b.fail("boot", who)
        after = Bench(coupling, b).start()
        assert after.script.of("boot") == list(SUBSYSTEMS)
        assert after.luo.state is UPDATED
        after.luo.finish()
        assert len(after.memory) == len(USERS[coupling])
        after.close()


@pytest.mark.parametrize("who", FILES)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_restore_that_fails_stays_so_and_the_others_come_back(coupling: Coupling, who: str) -> None:
    with bench(coupling) as b:
        b.luo.prepare()
        b.luo.freeze()
        after = Bench(coupling, b).start()
        after.fail("retrieve", who)
        before = descriptors()
        for name in FILES:
            if name != who:
                os.close(after.luo.fd_restore(after.tokens[name]))
                continue
            with raises(FAILS_WITH):
                after.luo.fd_restore(after.tokens[name])
        after.heal()
        with raises(FAILS_WITH):
            after.luo.fd_restore(after.tokens[who])
        assert after.script.called == [], "its handler is not asked again"
        assert descriptors() == before
        after.luo.finish()
        assert len(after.memory) == len(USERS[coupling])
        after.close()


@pytest.mark.parametrize("state", [PREPARED, FROZEN])
@pytest.mark.parametrize("who", [BEFORE, AFTER])
def test_notifier_a_user_of_kho_refuses_the_abort(who: str, state: object) -> None:
    """CANCEL fails with its errno. Where it is asked before LUO, LUO stays as it was and may be cancelled
    again; where it is asked after, LUO is NORMAL and KHO stays finalized for good."""
    with bench(Coupling.NOTIFIER) as b:
        b.luo.prepare()
        if state is FROZEN:
            b.luo.freeze()
        b.fail("abort", who)
        with raises(FAILS_WITH):
            b.luo.cancel()
        assert b.kho.finalized
        assert f"KHO: Failed to abort KHO finalization: {-FAILS_WITH}" in b.log
        b.heal()
        if who == AFTER:
            assert b.luo.state is state
            b.luo.cancel()
            assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)
            whole_way(b, Coupling.NOTIFIER)
        else:
            assert b.luo.state is NORMAL
            with raises(errno.EEXIST):
                b.luo.prepare()
            with raises(errno.EINVAL):
                b.luo.cancel()
            assert len(b.memory) == 0


def test_a_user_that_refuses_the_abort_of_a_finalize_that_failed_hides_no_error() -> None:
    with bench(Coupling.NOTIFIER) as b:
        b.fail("finalize", AFTER)
        b.fail("abort", BEFORE)
        with raises(FAILS_WITH):
            b.luo.prepare()
        assert b.script.of("abort") == [BEFORE]
        assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)


@pytest.mark.parametrize(("coupling", "at"), PLACES)
def test_memory_that_runs_out_anywhere_in_prepare(coupling: Coupling, at: int) -> None:
    """ENOMEM by whoever keeps the page too many; nothing leaks."""
    with bench(coupling) as b:
        sizes = {"prepare": [2, 2, 2, 4096, 4096, 4096], "finalize": [4096, 4096]}
        taken = [sizes[what].pop(0) for what, _ in ORDER[coupling]]
        b.memory._limit_bytes = sum(taken[: at + 1]) - 1
        with raises(errno.ENOMEM):
            b.luo.prepare()
        assert (b.luo.state, b.kho.finalized, len(b.memory), b.kho.tree) == (NORMAL, False, 0, {})
        b.memory._limit_bytes = 0
        whole_way(b, coupling)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_errors_name_is_the_ioctls(coupling: Coupling) -> None:
    """Whatever a callback's error is named; failure.failure() reads the name."""
    calls: list[tuple[str, str, Callable[[Luo], None], str]] = [
        ("prepare", "f1", Luo.prepare, "LIVEUPDATE_IOCTL_EVENT_PREPARE"),
        ("freeze", "s1", Luo.freeze, "LIVEUPDATE_IOCTL_EVENT_FREEZE"),
    ]
    for what, who, call, name in calls:
        with bench(coupling) as b:
            if what == "freeze":
                b.luo.prepare()
            b.fail(what, who)
            with pytest.raises(OSError) as caught:
                call(b.luo)
            assert caught.value.strerror == name
