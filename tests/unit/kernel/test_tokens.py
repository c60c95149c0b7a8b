"""Sessions made of tokens, rule by rule, over a device that does what the test says."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from node_agent.errors import KernelError, Retry
from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel import tokens as module
from node_agent.kernel.tokens import FROZEN, NORMAL, PREPARED, UPDATED, TokenSessions
from node_agent.ports import TokenFile
from tests.descriptors import descriptors

NAMES = {
    "preserve": calls.FD_PRESERVE,
    "unpreserve": calls.FD_UNPRESERVE,
    "restore": calls.FD_RESTORE,
    "prepare": calls.PREPARE,
    "freeze": calls.FREEZE,
    "cancel": calls.CANCEL,
    "finish": calls.LUO_FINISH,
}


@dataclass
class Device:
    """tokens.TokenDevice. Every call is kept, and fails with what `fails` has for it, once each."""

    now: str = NORMAL
    tokens: set[int] = field(default_factory=set)
    """Registered, or come in."""
    restored: set[int] = field(default_factory=set)
    log: list[str] = field(default_factory=list)
    fails: dict[str, list[int]] = field(default_factory=dict)
    before: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens just before a call: somebody else's hand."""
    next: int = 100

    async def state(self) -> str:
        return self.now

    def _do(self, call: str, word: str = "", *, allowed: tuple[str, ...], refusal: int) -> None:
        self.log.append(f"{call}{word}")
        self.before.pop(call, lambda: None)()
        number = self.fails[call].pop(0) if self.fails.get(call) else 0
        if not number and self.now not in allowed:
            number = refusal
        if number:
            raise calls.failure(OSError(number, NAMES[call]))

    async def preserve(self, fd: int) -> int:
        self._do("preserve", allowed=(NORMAL,), refusal=errno.EBUSY)
        self.next += 1
        self.tokens.add(self.next)
        return self.next

    async def unpreserve(self, token: int) -> None:
        self._do("unpreserve", f" {token}", allowed=(NORMAL,), refusal=errno.EBUSY)
        if token not in self.tokens:
            raise calls.failure(OSError(errno.ENOENT, calls.FD_UNPRESERVE))
        self.tokens.remove(token)

    async def restore(self, token: int) -> int:
        self._do("restore", f" {token}", allowed=(UPDATED,), refusal=errno.EBUSY)
        if token in self.restored:
            raise calls.failure(OSError(errno.EINVAL, calls.FD_RESTORE))
        if token not in self.tokens:
            raise calls.failure(OSError(errno.ENOENT, calls.FD_RESTORE))
        self.restored.add(token)
        return os.memfd_create(f"token {token}")

    async def prepare(self) -> None:
        self._do("prepare", allowed=(NORMAL,), refusal=errno.EINVAL)
        self.now = PREPARED

    async def freeze(self) -> None:
        self._do("freeze", allowed=(PREPARED,), refusal=errno.EINVAL)
        self.now = FROZEN

    async def cancel(self) -> None:
        self._do("cancel", allowed=(PREPARED, FROZEN), refusal=errno.EINVAL)
        self.now = NORMAL

    async def finish(self) -> None:
        self._do("finish", allowed=(UPDATED,), refusal=errno.EINVAL)
        self.now, self.tokens = NORMAL, set()

    async def registered(self) -> Sequence[int]:
        return sorted(self.tokens)

    async def files(self) -> Sequence[TokenFile]:
        return ()


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert not descriptors() - before


async def refused(call: Awaitable[object], reason: str, number: int = 0) -> KernelError:
    with pytest.raises(KernelError) as caught:
        await call
    assert caught.value.reason == reason
    assert not number or caught.value.errno == number
    return caught.value


async def preserved(device: Device) -> tuple[TokenSessions, Mapping[str, Mapping[int, int]]]:
    """Two sessions of three files, and PREPARE."""
    sessions = TokenSessions(device)
    one, two = await sessions.create_session("one"), await sessions.create_session("two")
    await one.preserve_fd(0, 1)
    await one.preserve_fd(0, 7)
    await two.preserve_fd(0, 1)
    return sessions, await sessions.prepare()


TOLD = {"one": {1: 101, 7: 102}, "two": {1: 103}}


async def arrived() -> tuple[Device, TokenSessions]:
    """The next boot, told of all."""
    device = Device(UPDATED, {101, 102, 103})
    sessions = TokenSessions(device)
    await sessions.recall(TOLD)
    return device, sessions


# --- before the kexec


async def test_preserving_is_fd_preserve_for_each_and_then_prepare() -> None:
    device = Device()
    _, told = await preserved(device)
    assert told == TOLD
    assert device.log == ["preserve", "preserve", "preserve", "prepare"]


async def test_a_refused_prepare_leaves_the_sessions_to_be_given_up() -> None:
    device = Device(fails={"prepare": [errno.ENOMEM]})
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    await session.preserve_fd(0, 1)
    await refused(sessions.prepare(), "NOT_ENOUGH_MEMORY", errno.ENOMEM)
    await session.close()
    await sessions.cancel()
    assert device.log == ["preserve", "prepare", "unpreserve 101"]
    assert not device.tokens


@pytest.mark.parametrize("state", [PREPARED, FROZEN, UPDATED])
async def test_nothing_begins_beside_another_update(state: str) -> None:
    device = Device(state, {5})
    error = await refused(TokenSessions(device).create_session("s"), "LUO_NOT_NORMAL", errno.EBUSY)
    assert error.retry is Retry.FIX_STATE
    assert "luoctl" in error.remedy
    assert (device.log, device.now) == ([], state), "not even what somebody else has left is finished"


async def test_prepared_by_hand_meanwhile() -> None:
    device = Device()
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    device.now = PREPARED
    await refused(session.preserve_fd(0, 1), "LUO_NOT_NORMAL", errno.EBUSY)
    await refused(sessions.prepare(), "LUO_NOT_NORMAL", errno.EINVAL)
    await session.close()


@pytest.mark.parametrize("name", ["", "n" * 64, "ü" * 32])
async def test_a_name_is_as_long_as_a_sessions(name: str) -> None:
    await refused(TokenSessions(Device()).create_session(name), "SESSION_NAME_INVALID", errno.EINVAL)


async def test_one_session_of_a_name_and_one_file_of_a_token() -> None:
    sessions = TokenSessions(Device())
    session = await sessions.create_session("s")
    assert session.name == "s"
    await refused(sessions.create_session("s"), "SESSION_EXISTS", errno.EEXIST)
    await session.preserve_fd(0, 1)
    await refused(session.preserve_fd(0, 1), "TOKEN_USED", errno.EEXIST)
    await refused(session.retrieve_fd(1), "KERNEL_CALL_FAILED", errno.EINVAL)
    await session.close()
    await (await sessions.create_session("s")).close()
    await refused(session.preserve_fd(0, 2), "KERNEL_CALL_FAILED", errno.EBADF)


async def test_so_many_files_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILES_MAX", 3)
    device = Device()
    sessions, _ = await preserved(device)
    await sessions.cancel()
    other = await sessions.create_session("other")
    await refused(other.preserve_fd(0, 1), "TOO_MANY_FILES", errno.ENOSPC)
    await other.close()


# --- rules 1 and 2: what is given up


async def test_what_is_given_up_while_prepared_waits_for_cancel() -> None:
    device = Device()
    sessions, _ = await preserved(device)
    for session in tuple(sessions._outgoing.values()):
        await session.close()
        await session.close()
    assert device.tokens == {101, 102, 103}
    await sessions.cancel()
    assert device.log[4:] == ["cancel", "unpreserve 101", "unpreserve 102", "unpreserve 103"]
    assert (device.now, device.tokens) == (NORMAL, set())
    await sessions.cancel()
    assert len(device.log) == 8, "it is idempotent"


async def test_tokens_stay_valid_over_cancel_for_who_holds_them() -> None:
    device = Device()
    sessions, told = await preserved(device)
    await sessions.cancel()
    assert device.tokens == {101, 102, 103}
    assert await sessions.prepare() == told


@pytest.mark.parametrize("state", [NORMAL, PREPARED, FROZEN])
async def test_what_a_dead_process_has_left_is_let_go(state: str) -> None:
    """It died between FD_PRESERVE, PREPARE and the journal's record: nobody was told any token."""
    device = Device(state, {5, 6})
    sessions = TokenSessions(device)
    await sessions.recall({})
    await sessions.cancel()
    assert (device.now, device.tokens) == (NORMAL, set())


async def test_nothing_is_cancelled_once_it_has_crossed() -> None:
    device, sessions = await arrived()
    await sessions.cancel()
    assert (device.now, device.log) == (UPDATED, [])


async def test_a_token_that_is_gone_already_is_gone() -> None:
    device = Device()
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    await session.preserve_fd(0, 1)
    device.tokens.clear()
    await session.close()
    assert device.log == ["preserve", "unpreserve 101"]


async def test_a_refused_cancel_is_told_and_nothing_is_forgotten() -> None:
    device = Device(fails={"cancel": [errno.EIO]})
    sessions, _ = await preserved(device)
    for session in tuple(sessions._outgoing.values()):
        await session.close()
    await refused(sessions.cancel(), "KERNEL_CALL_FAILED", errno.EIO)
    assert device.now == PREPARED
    await sessions.cancel()
    assert (device.now, device.tokens) == (NORMAL, set())


async def test_cancelled_by_hand_meanwhile_is_cancelled() -> None:
    device = Device()
    sessions, _ = await preserved(device)
    device.before["cancel"] = lambda: setattr(device, "now", NORMAL)
    await sessions.cancel()
    assert device.now == NORMAL


async def test_a_refused_unpreserve_is_told_and_tried_again() -> None:
    device = Device(fails={"unpreserve": [errno.EIO]})
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    await session.preserve_fd(0, 1)
    await refused(session.close(), "KERNEL_CALL_FAILED", errno.EIO)
    other = await sessions.create_session("s")
    await other.preserve_fd(0, 1)
    assert device.tokens == {102}
    await other.close()


async def test_a_prepare_that_was_cut_short_and_goes_on_is_cancelled_all_the_same() -> None:
    """The caller gave up on PREPARE, which holds the lock: FD_UNPRESERVE waits for it and then is EBUSY."""
    device = Device()
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    await session.preserve_fd(0, 1)
    device.before["unpreserve"] = lambda: setattr(device, "now", PREPARED)
    await session.close()
    assert (device.now, device.tokens) == (PREPARED, {101})
    await sessions.cancel()
    assert (device.now, device.tokens) == (NORMAL, set())


async def test_prepared_by_another_hand_while_it_lets_go() -> None:
    device = Device(NORMAL, {5})
    sessions = TokenSessions(device)

    def by_hand() -> None:
        device.now = PREPARED
        device.before["unpreserve"] = by_hand

    by_hand()
    await refused(sessions.cancel(), "LUO_NOT_NORMAL", errno.EBUSY)
    del device.before["unpreserve"]
    await sessions.cancel()
    assert (device.now, device.tokens) == (NORMAL, set())


async def test_a_prepare_of_a_dead_process_that_ends_meanwhile_is_cancelled_too() -> None:
    device = Device(NORMAL, {5})
    device.before["unpreserve"] = lambda: setattr(device, "now", PREPARED)
    await TokenSessions(device).cancel()
    assert (device.now, device.tokens) == (NORMAL, set())


async def test_nothing_is_registered_once_the_journal_is_about_to_be_told() -> None:
    device = Device(fails={"prepare": [errno.ENOMEM]})
    sessions = TokenSessions(device)
    session = await sessions.create_session("s")
    assert await sessions._none_put.wait()
    sessions._preparing = True
    await refused(session.preserve_fd(0, 1), "LUO_NOT_NORMAL", errno.EBUSY)
    await refused(sessions.prepare(), "NOT_ENOUGH_MEMORY")
    await session.preserve_fd(0, 1)
    await sessions.prepare()
    device.now = NORMAL  # cancelled by hand
    await refused(session.preserve_fd(0, 2), "LUO_NOT_NORMAL", errno.EBUSY)
    await sessions.cancel()
    await session.preserve_fd(0, 2)
    device.now = PREPARED  # prepared by hand: the journal knows nothing of it
    await refused(sessions.ready_to_jump(), "NOT_PREPARED")
    device.now = NORMAL
    await session.close()


async def test_one_session_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SESSION_FILES_MAX", 1)
    sessions = TokenSessions(Device())
    session, other = await sessions.create_session("s"), await sessions.create_session("other")
    await session.preserve_fd(0, 1)
    await refused(session.preserve_fd(0, 2), "TOO_MANY_FILES", errno.ENOSPC)
    await other.preserve_fd(0, 1)
    for held in (session, other):
        await held.close()


# --- rule 5: the jump


@pytest.mark.parametrize("state", [PREPARED, FROZEN])
async def test_the_jump_is_for_a_state_that_is_ready(state: str) -> None:
    device = Device()
    sessions, _ = await preserved(device)
    device.now = state
    await sessions.ready_to_jump()


@pytest.mark.parametrize("state", [NORMAL, UPDATED])
async def test_a_jump_from_any_other_state_would_lose_all(state: str) -> None:
    device = Device()
    sessions, _ = await preserved(device)
    device.now = state
    error = await refused(sessions.ready_to_jump(), "NOT_PREPARED", errno.EINVAL)
    assert error.retry is Retry.REPLAN
    assert (error.call, error.remedy[:8]) == (calls.REBOOT, "Somebody")


async def test_a_jump_without_one_of_the_files_would_lose_it() -> None:
    """Somebody cancelled, unpreserved one, and prepared again."""
    device = Device()
    sessions, _ = await preserved(device)
    device.tokens.remove(102)
    error = await refused(sessions.ready_to_jump(), "NOT_PREPARED")
    assert "102" in error.message


# --- after the kexec


async def test_retrieving_is_fd_restore_for_each_once() -> None:
    device, sessions = await arrived()
    session = await sessions.retrieve_session("one")
    for _ in range(2):
        fd = await session.retrieve_fd(7)
        assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:token 102 (deleted)"
        os.close(fd)
    assert device.log == ["restore 102"], "a copy is kept: the kernel restores it once"
    await refused(session.retrieve_fd(9), "TOKEN_NOT_FOUND", errno.ENOENT)
    await refused(session.preserve_fd(0, 9), "SESSION_NOT_FINISHED", errno.EINVAL)
    await refused(sessions.retrieve_session("one"), "SESSION_HELD", errno.EINVAL)
    await session.finish()
    await refused(session.retrieve_fd(7), "TOKEN_NOT_FOUND", errno.ENOENT)
    await session.close()
    await refused(sessions.retrieve_session("one"), "SESSION_NOT_FOUND", errno.ENOENT)


async def test_closing_a_retrieved_session_finishes_it() -> None:
    _, sessions = await arrived()
    session = await sessions.retrieve_session("one")
    os.close(await session.retrieve_fd(1))
    await session.close()
    await refused(sessions.retrieve_session("one"), "SESSION_NOT_FOUND")


async def test_who_restored_it_before_has_it() -> None:
    device, sessions = await arrived()
    session = await sessions.retrieve_session("one")
    os.close(await session.retrieve_fd(1))
    sessions.die()
    after = TokenSessions(device)
    await after.recall(TOLD)
    again = await after.retrieve_session("one")
    await refused(again.retrieve_fd(1), "ALREADY_RESTORED", errno.EINVAL)
    os.close(await again.retrieve_fd(7))
    await again.finish()
    await again.close()


@pytest.mark.parametrize("state", [NORMAL, PREPARED, FROZEN])
async def test_recall_in_the_boot_of_before_brings_nothing_back(state: str) -> None:
    """What was preserved in this boot has not crossed; it is unwound, and retrieved by nobody."""
    sessions = TokenSessions(Device(state, {101, 102, 103}))
    await sessions.recall(TOLD)
    await refused(sessions.retrieve_session("one"), "SESSION_NOT_FOUND", errno.ENOENT)


async def test_only_what_was_told_is_found() -> None:
    _, sessions = await arrived()
    await refused(sessions.retrieve_session("three"), "SESSION_NOT_FOUND", errno.ENOENT)


async def test_recall_comes_before_any_session() -> None:
    _, sessions = await arrived()
    session = await sessions.retrieve_session("one")
    await sessions.recall({})
    await (await sessions.retrieve_session("two")).close()
    await session.close()


# --- rule 6: FINISH


async def test_finish_waits_for_every_session_that_is_open() -> None:
    device, sessions = await arrived()
    one, two = await sessions.retrieve_session("one"), await sessions.retrieve_session("two")
    await one.finish()
    error = await refused(sessions.finish(), "SESSION_UNFINISHED", errno.EBUSY)
    assert error.message == "sessions are not finished: two"
    assert device.log == []
    await two.finish()
    await sessions.finish()
    assert (device.now, device.log) == (NORMAL, ["finish"])
    await sessions.finish()
    assert device.log == ["finish"], "it is idempotent"
    for session in (one, two):
        await session.close()
    await refused(sessions.retrieve_session("one"), "SESSION_NOT_FOUND")


async def test_what_an_earlier_process_finished_is_finished() -> None:
    """It died between the sessions' finish and FINISH: they are recalled, and nobody opens them again."""
    device, sessions = await arrived()
    await sessions.finish()
    assert device.now == NORMAL


async def test_a_refused_finish_is_told_and_may_be_tried_again() -> None:
    device, sessions = await arrived()
    device.fails["finish"] = [errno.EIO]
    await refused(sessions.finish(), "KERNEL_CALL_FAILED", errno.EIO)
    session = await sessions.retrieve_session("one")
    await session.finish()
    await session.close()
    await sessions.finish()
    assert device.now == NORMAL


async def test_finished_by_hand_meanwhile_is_finished() -> None:
    device, sessions = await arrived()
    device.before["finish"] = lambda: setattr(device, "now", NORMAL)
    await sessions.finish()
    assert device.now == NORMAL


# --- rule 7: one process


async def test_a_dead_process_undoes_nothing() -> None:
    device = Device()
    sessions, _ = await preserved(device)
    session = sessions._outgoing["one"]
    sessions.die()
    await session.close()
    await refused(session.preserve_fd(0, 3), "BOOT_OVER", errno.ESHUTDOWN)
    assert (device.now, device.tokens) == (PREPARED, {101, 102, 103})
    device, sessions = await arrived()
    came = await sessions.retrieve_session("one")
    os.close(await came.retrieve_fd(1))
    sessions.die()
    sessions.die()
    await came.close()
    assert device.now == UPDATED


def test_every_call_of_the_fake_is_the_kernels() -> None:
    assert set(NAMES.values()) == set(abi.CALL_NAMES.values()) - {abi.CALL_NAMES[abi.GET_STATE]}
