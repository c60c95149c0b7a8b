"""Sessions made of tokens: ports.Sessions on a kernel that has none (RFC v2).

There the kernel chooses a token for each file, and one state holds for the machine. This is the userspace of
it, what the seed calls liveupdated: it keeps, by session name, which token of the session's owner is which of
the kernel's. prepare() tells it all for the journal, and recall() brings it back in the next boot.

Which step of the saga calls what is in docs/luo-models.md (luo_calls).

Rules
1. A token that its session gives up while the kernel takes no FD_UNPRESERVE is given up by cancel(). So it
   comes last: a PREPARE that was cut short goes on, and is over once an FD_UNPRESERVE has answered.
2. cancel() lets go of every token that no session here holds: an earlier process of this node may have died
   before it could tell anybody. While an update is under way LUO is the agent's: what others have registered
   or prepared meanwhile is undone with it.
3. The kernel restores a file once, so a copy of what was restored is kept until the session is finished. A
   process that dies takes the copy along: who has the file already has it, nobody else gets it any more.
4. Nothing is begun beside another's update, and nobody else's is finished: not prepared, not updated.
5. reboot() only where LUO is ready and still has every file that a session here holds: a kexec in any other
   state loses all, and FD_RESTORE would say so when it is too late. What somebody does by hand between this
   look and the reboot nobody sees. The look may take as long as the device does, so that it comes before the
   lease is judged: the reboot itself asks nothing.
6. FINISH waits for every session that is open here: the kernel gives back what nobody has restored.
7. One process, one TokenSessions. When it dies, its sessions are as they are: the kernel of RFC v2 undoes
   nothing at a close.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from node_agent.errors import KernelError, Retry
from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.abi import SESSION_NAME_BYTES
from node_agent.kernel.token_session import TokenSession
from node_agent.ports import TokenDevice as TokenDevice
from node_agent.ports import Tokens

NORMAL, PREPARED, FROZEN, UPDATED = abi.STATE_NAMES
READY = frozenset({PREPARED, FROZEN})
"""States from which a kexec hands over what is preserved."""

FILES_MAX = 4096
"""Of one update: the journal tells all of them in one record (journal_format.MAX_PAYLOAD_BYTES), twice at
the jump."""

SESSION_FILES_MAX = FILES_MAX // 4
"""Of one session: no workload keeps the others, and the agent's own session, from theirs."""


class TokenSessions:
    """The sessions of one process of a node."""

    def __init__(self, device: TokenDevice) -> None:
        self.device = device
        self._outgoing: dict[str, TokenSession] = {}
        self._incoming: dict[str, TokenSession] = {}
        self._recalled: dict[str, dict[int, int]] = {}
        """What came in with the last kexec, and is not finished."""
        self._given_up: set[int] = set()
        """Tokens for which FD_UNPRESERVE must wait."""
        self._told: set[int] | None = None
        """What the last prepare() told: from then until cancel() nothing else crosses."""
        self._preparing = False
        self._putting = 0
        """FD_PRESERVEs under way."""
        self._none_put = asyncio.Event()
        self._none_put.set()
        self._letting_go = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def create_session(self, name: str) -> TokenSession:
        """See ports.Sessions. Nothing is asked of the kernel but whether it can."""
        if not 0 < len(name.encode()) < SESSION_NAME_BYTES:
            raise calls.failure(OSError(errno.EINVAL, calls.CREATE))
        self._reap()
        if name in self._outgoing:
            raise calls.failure(OSError(errno.EEXIST, calls.CREATE))
        state = await self.device.state()
        if state != NORMAL:
            raise not_normal(state, calls.CREATE)
        session = self._outgoing[name] = TokenSession(self, name, None)
        return session

    async def retrieve_session(self, name: str) -> TokenSession:
        """See ports.Sessions."""
        self._reap()
        if name in self._incoming:
            raise calls.failure(OSError(errno.EINVAL, calls.RETRIEVE))
        if name not in self._recalled or await self.device.state() != UPDATED:
            raise calls.failure(OSError(errno.ENOENT, calls.RETRIEVE))
        session = self._incoming[name] = TokenSession(self, name, self._recalled[name])
        return session

    async def is_free(self, name: str) -> bool:
        """Also while LUO is prepared: what was in a session that is closed is given up by cancel()."""
        self._reap()
        return name not in self._outgoing

    async def prepare(self) -> Tokens:
        """See ports.Sessions. What a workload registers from here on would cross unknown to the journal:
        none is taken until cancel(), which also comes where this is cut short."""
        self._preparing = True
        try:
            await self._none_put.wait()
            self._reap()
            await self.let_go()
            told = {session.name: dict(session.tokens) for session in self._outgoing.values()}
            self._told = self._held()
            await self.device.prepare()
        except KernelError:
            self._preparing, self._told = False, None
            raise
        return told

    async def cancel(self) -> None:
        """See ports.Sessions."""
        self._reap()
        self._preparing, self._told = False, None  # until it is undone the kernel itself takes nothing
        for _ in range(2):  # once more after a PREPARE that was still under way: rule 1
            if await self.device.state() in READY:
                await self._unless_done(self.device.cancel)
            if await self.device.state() != NORMAL:
                return
            held = self._held()
            self._given_up.update(token for token in await self.device.registered() if token not in held)
            await self.let_go()
            if not self._given_up:
                return
        raise not_normal(await self.device.state(), calls.FD_UNPRESERVE)

    async def finish(self) -> None:
        """See ports.Sessions."""
        self._reap()
        unfinished = sorted(name for name, session in self._incoming.items() if not session.finished)
        if unfinished:
            raise KernelError(
                errno.EBUSY,
                calls.LUO_FINISH,
                f"sessions are not finished: {', '.join(unfinished)}",
                reason="SESSION_UNFINISHED",
                retry=Retry.FIX_STATE,
                remedy="Let these workloads claim what is theirs: FINISH gives up what nobody has restored.",
            )
        if await self.device.state() == UPDATED:
            await self._unless_done(self.device.finish)
        self._recalled = {}

    async def recall(self, tokens: Tokens) -> None:
        """See ports.Sessions."""
        if not self._outgoing and not self._incoming:
            self._recalled = {name: dict(told) for name, told in tokens.items()}

    async def ready_to_jump(self) -> None:
        """Rule 5. Raises KernelError."""
        try:
            state = await self.device.state()
        except KernelError as error:
            if error.reason == "LUO_OFF" and not self._held():
                # Nothing is preserved that could be lost.
                return
            raise
        if state not in READY:
            raise _not_prepared(f"LUO is {state}, not prepared")
        if not self._held() <= (self._told or set()):
            raise _not_prepared("sessions have files of which the journal was not told")
        gone = self._held() - set(await self.device.registered())
        if gone:
            raise _not_prepared(
                f"LUO has no file under the tokens {', '.join(map(str, sorted(gone)))} any more"
            )

    def luo(self) -> TokenDevice:
        """See ports.Sessions."""
        return self.device

    def die(self) -> None:
        """The end of this process: its copies of files are closed, and its sessions do nothing any more."""
        for task in self._tasks:
            task.cancel()
        for session in (*self._outgoing.values(), *self._incoming.values()):
            session.die()
        self._outgoing, self._incoming, self._recalled = {}, {}, {}
        self._given_up = set()

    def _reap(self) -> None:
        for session in (*self._outgoing.values(), *self._incoming.values()):
            session.reap()

    # --- for sessions

    def own(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A call that somebody else's descriptor brought about, as a task that ends with this process."""
        task = asyncio.get_running_loop().create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def register(self, session: TokenSession, fd: int, token: int) -> None:
        """FD_PRESERVE, after what waits to be given up."""
        if self._preparing:
            await self.device.state()  # a boot that is over says so
            raise not_normal("about to be prepared", calls.FD_PRESERVE)
        self._putting += 1
        self._none_put.clear()
        try:
            await self.let_go()
            many = len(self._held()) + self._putting > FILES_MAX
            if many or len(session.tokens) >= SESSION_FILES_MAX:
                raise calls.failure(OSError(errno.ENOSPC, calls.PRESERVE_FD))
            session.tokens[token] = await self.device.preserve(fd)
        finally:
            self._putting -= 1
            if not self._putting:
                self._none_put.set()

    async def given_up(self, session: TokenSession) -> None:
        """The last holder has closed it. Nothing has to be undone in a kernel that is gone."""
        self.forget(session)
        try:
            await self.let_go()
        except KernelError as error:
            if error.reason != "BOOT_OVER":
                raise

    async def let_go_or_later(self) -> None:
        """let_go() where nobody waits for it: what cannot be given up now is by the next call (rule 1)."""
        with suppress(KernelError):
            await self.let_go()

    def forget(self, session: TokenSession) -> None:
        """Its name is free again; its files wait for let_go()."""
        session.drop()
        if session.incoming:
            if self._incoming.get(session.name) is session:
                del self._incoming[session.name]
                self._recalled.pop(session.name, None)
            return
        if self._outgoing.get(session.name) is session:
            del self._outgoing[session.name]
        self._given_up.update(session.tokens.values())

    async def _unless_done(self, event: Callable[[], Awaitable[None]]) -> None:
        """An event that leads to NORMAL; once that is reached, whoever sent it, an error does not matter.
        Raises KernelError."""
        try:
            await event()
        except KernelError:
            if await self.device.state() != NORMAL:
                raise

    def _held(self) -> set[int]:
        """The kernel's tokens of all that is to cross."""
        return {token for session in self._outgoing.values() for token in session.tokens.values()}

    async def let_go(self) -> None:
        """Give up what waits for it, where the kernel takes that. Raises KernelError."""
        async with self._letting_go:
            await self._unpreserve_what_is_given_up()

    async def _unpreserve_what_is_given_up(self) -> None:
        if not self._given_up or await self.device.state() != NORMAL:
            return
        while self._given_up:
            token = self._given_up.pop()
            try:
                await self.device.unpreserve(token)
            except KernelError as error:
                if error.errno == errno.ENOENT:
                    continue
                self._given_up.add(token)
                if error.errno == errno.EBUSY:
                    # Somebody prepared it meanwhile: rule 1.
                    return
                raise


def _not_prepared(why: str) -> KernelError:
    return KernelError(
        errno.EINVAL,
        calls.REBOOT,
        f"{why}: a kexec would lose what is preserved",
        reason="NOT_PREPARED",
        retry=Retry.REPLAN,
        remedy="Somebody used LUO by hand; leave it to the agent while it updates the node.",
    )


def not_normal(state: str, call: str) -> KernelError:
    """LUO is busy with an update that is not this one."""
    reason, retry, remedy = calls.NOT_NORMAL
    message = f"LUO is {state}: another live update is under way"
    return KernelError(errno.EBUSY, call, message, reason=reason, retry=retry, remedy=remedy)
