"""The full agent's kernel: a session of this boot's past stays parked until it is finished."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from node_agent.errors import KernelError
from node_agent.ports import Session, Tokens
from node_agent.resume import keeper
from node_agent.resume.handover import Handover
from node_agent.runtime.broker_handover import HandoverKernel
from tests.unit.resume.test_parking import Place, place

__all__ = ["place"]


class Held:
    """A session over an fd."""

    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd, self.finished = name, fd, False
        self.gone = 0
        """Errno of whatever is asked of it."""

    def fileno(self) -> int:
        return self.fd

    async def preserve_fd(self, fd: int, token: int) -> None:
        raise AssertionError(fd, token)

    async def retrieve_fd(self, token: int) -> int:
        return token

    async def finish(self) -> None:
        if self.gone:
            raise KernelError(self.gone, "LIVEUPDATE_SESSION_FINISH")
        self.finished = True

    async def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Kernel:
    """Retrieves each session once."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.created: list[str] = []
        self.recalled: Tokens = {}
        self.luo_state = ""
        self.finishes = 0
        self.wrapped: list[Held] = []

    def wrap(self, name: str, fd: int) -> Session:
        self.wrapped.append(Held(name, fd))
        return self.wrapped[-1]

    async def retrieve_session(self, name: str) -> Session:
        if name.startswith("gone"):
            raise KernelError(2, "LIVEUPDATE_IOCTL_RETRIEVE_SESSION")
        session = self._place.session()
        fd, session.fd = session.fd, -1
        return self.wrap(name, fd)

    async def facts(self) -> SimpleNamespace:
        return SimpleNamespace(luo_state=self.luo_state)

    async def recall(self, tokens: Tokens) -> None:
        self.recalled = tokens

    async def finish(self) -> None:
        self.finishes += 1

    async def create_session(self, name: str) -> Session:
        self.created.append(name)
        return Held(name, -1)


@pytest.fixture
def kernel(place: Place) -> Kernel:
    return Kernel(place)


def over(kernel: Kernel, handover: Handover) -> HandoverKernel:
    return HandoverKernel(kernel, handover, kernel.wrap)  # type: ignore[arg-type]


def handed_over(place: Place) -> Handover:
    """One that has retrieved and parked a session."""
    one = place.session()
    place.parking.park({"lr.7-a.vm": one.fd}, keeper.start)
    handover = Handover()
    handover.parking = place.parking
    handover.sessions = {"vm": ("lr.7-a.vm", one.fd)}
    one.fd = -1
    return handover


async def test_closed_it_stays_parked_and_comes_again(place: Place, kernel: Kernel) -> None:
    used = over(kernel, handed_over(place))
    first = await used.retrieve_session("lr.7-a.vm")
    assert await first.retrieve_fd(5) == 5
    await first.close()
    assert place.made[0].is_held()
    again = await used.retrieve_session("lr.7-a.vm")
    assert again.name == "lr.7-a.vm"
    await again.finish()
    assert place.names() == set()
    await again.close()
    assert not place.made[0].is_held(5000)


async def test_what_the_kernel_gives_is_parked_too(place: Place, kernel: Kernel) -> None:
    handover = Handover()
    handover.parking = place.parking
    used = over(kernel, handover)
    session = await used.retrieve_session("lr.7-a.vm")
    assert place.names() == {"lr.7-a.vm"}
    await session.finish()
    await session.close()
    assert not place.made[0].is_held(5000)
    with pytest.raises(KernelError):
        await used.retrieve_session("gone")


async def test_without_a_parking_it_is_the_kernel(place: Place, kernel: Kernel) -> None:
    used = over(kernel, Handover())
    session = await used.retrieve_session("lr.7-a.vm")
    assert place.names() == set()
    await session.close()
    await used.create_session("lr.8-a.vm")
    assert kernel.created == ["lr.8-a.vm"]


async def test_a_new_attempt_finishes_what_an_earlier_one_left(place: Place, kernel: Kernel) -> None:
    used = over(kernel, handed_over(place))
    await used.create_session("lr.8-a.vm")
    assert [held.finished for held in kernel.wrapped] == [True]
    assert used.untaken == ()
    assert not place.made[0].is_held(5000)
    assert kernel.created == ["lr.8-a.vm"]
    assert kernel.finishes == 1
    await used.create_session("lr.8-a.other")
    assert kernel.finishes == 1


class Server:
    """Stands for the process that makes sessions of tokens."""

    def __init__(self, place: Place) -> None:
        self.asked: list[Mapping[str, Mapping[int, int]]] = []
        self.broken = False
        self._place = place

    def serve(self, sessions: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
        self.asked.append(sessions)
        if self.broken:
            raise OSError(errno.EMFILE, "socketpair")
        made = {}
        for name in sessions:
            session = self._place.session()
            made[name], session.fd = session.fd, -1
        return made


TOKENS = {"lr.7-a.vm": {0: 5}, "lr.7-a.other": {0: 6, 1: 7}, "lr.7-a.agent": {}}
MADE_OF = {"lr.7-a.other": {0: 6, 1: 7}, "lr.7-a.agent": {}}


async def made_of_tokens(place: Place, kernel: Kernel) -> tuple[HandoverKernel, Server]:
    """One of three sessions is parked by an earlier process."""
    server = Server(place)
    kernel.luo_state = "updated"
    used = HandoverKernel(kernel, handed_over(place), kernel.wrap, server.serve)  # type: ignore[arg-type]
    await used.recall(TOKENS)
    assert kernel.recalled == TOKENS
    return used, server


async def test_sessions_that_nobody_made_yet_are_made_of_tokens_and_parked(
    place: Place, kernel: Kernel
) -> None:
    used, server = await made_of_tokens(place, kernel)
    vm, other, agent = await asyncio.gather(*(used.retrieve_session(name) for name in TOKENS))
    assert server.asked == [MADE_OF]
    assert place.names() == set(TOKENS)
    for session in (other, agent, vm):
        await session.finish()
        await session.close()
    assert place.names() == set()
    # An effect that is performed again makes nothing that nobody would finish.
    with pytest.raises(KernelError):
        await used.retrieve_session("gone")
    await used.finish()
    assert (kernel.finishes, len(server.asked)) == (1, 1)


async def test_what_this_process_finished_is_not_made_again(place: Place, kernel: Kernel) -> None:
    used, server = await made_of_tokens(place, kernel)
    vm = await used.retrieve_session("lr.7-a.vm")
    await vm.finish()
    await vm.close()
    other = await used.retrieve_session("lr.7-a.other")
    assert server.asked == [MADE_OF]
    await other.finish()
    await other.close()
    used.close()


async def test_one_whose_server_was_killed_is_left_to_the_kernels_finish(
    place: Place, kernel: Kernel
) -> None:
    used, _ = await made_of_tokens(place, kernel)
    vm, other = [await used.retrieve_session(name) for name in ("lr.7-a.vm", "lr.7-a.other")]
    for held in kernel.wrapped:
        held.gone = errno.ESHUTDOWN
    await vm.finish()
    kernel.wrapped[1].gone = errno.EBUSY
    with pytest.raises(KernelError) as refused:
        await other.finish()
    assert refused.value.errno == errno.EBUSY
    assert "lr.7-a.vm" not in place.names()
    assert "lr.7-a.other" in place.names()
    await vm.close()
    await other.close()
    used.close()


async def test_a_kernels_own_session_that_is_gone_is_told(place: Place, kernel: Kernel) -> None:
    used = over(kernel, handed_over(place))
    vm = await used.retrieve_session("lr.7-a.vm")
    kernel.wrapped[0].gone = errno.ESHUTDOWN
    with pytest.raises(KernelError):
        await vm.finish()
    assert place.names() == {"lr.7-a.vm"}
    await vm.close()


@pytest.mark.parametrize("why", ["normal", "no server", "broken"])
async def test_where_none_can_be_made_the_kernel_is_asked(place: Place, kernel: Kernel, why: str) -> None:
    used, server = await made_of_tokens(place, kernel)
    if why == "normal":
        kernel.luo_state = why
    server.broken = why == "broken"
    if why == "no server":
        used.close()
        used = over(kernel, handed_over(place))
        await used.recall(TOKENS)
    session = await used.retrieve_session("lr.7-a.other")
    assert kernel.wrapped[-1].name == "lr.7-a.other"
    await session.finish()
    await session.close()
    used.close()


async def served_here(place: Place, kernel: Kernel) -> tuple[HandoverKernel, Server, Session]:
    """The process that makes sessions of tokens could not be started."""
    used, server = await made_of_tokens(place, kernel)
    server.broken = True
    session = await used.retrieve_session("lr.7-a.other")
    server.broken = False
    return used, server, session


async def test_what_an_agent_serves_itself_is_not_parked_for_the_next(place: Place, kernel: Kernel) -> None:
    """A parked fd would outlive its server, and the next agent would make no session of those tokens."""
    used, server, session = await served_here(place, kernel)
    assert place.names() == {"lr.7-a.vm"}
    await session.close()
    used.close()
    assert not place.made[-1].is_held(5000), "this agent is dead"
    kept = Handover()
    kept.parking = place.parking
    following = HandoverKernel(kernel, kept, kernel.wrap, server.serve)  # type: ignore[arg-type]
    await following.recall(TOKENS)
    other = await following.retrieve_session("lr.7-a.other")
    assert server.asked[-1] == MADE_OF
    await other.finish()
    await other.close()
    following.close()


async def test_what_an_agent_serves_itself_stays_until_it_is_finished(place: Place, kernel: Kernel) -> None:
    used, server, session = await served_here(place, kernel)
    other = place.made[-1]
    await session.close()
    again = await used.retrieve_session("lr.7-a.other")
    assert (place.made[-1], other.is_held()) == (other, True), "the kernel was not asked again"
    agent = await used.retrieve_session("lr.7-a.agent")
    assert server.asked[-1] == {"lr.7-a.agent": {}}, "nobody makes another of its tokens"
    for done in (agent, again):
        await done.finish()
        await done.close()
    assert not other.is_held(5000)
    used.close()


async def test_a_new_attempt_finishes_what_is_served_here_too(place: Place, kernel: Kernel) -> None:
    used, _, session = await served_here(place, kernel)
    other = place.made[-1]
    await session.close()
    await used.create_session("lr.8-a.vm")
    assert [held.name for held in kernel.wrapped if held.finished] == ["lr.7-a.vm", "lr.7-a.other"]
    assert (kernel.finishes, kernel.created) == (1, ["lr.8-a.vm"])
    assert not other.is_held(5000)
    used.close()


async def test_one_that_is_in_use_is_not_finished_by_a_keeper_that_dies(place: Place, kernel: Kernel) -> None:
    used = over(kernel, handed_over(place))
    session = await used.retrieve_session("lr.7-a.vm")
    place.parking.drop("lr.7-a.vm")
    assert place.made[0].is_held()
    await session.finish()
    await session.close()
    used.close()
