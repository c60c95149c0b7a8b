"""Sessions made of tokens: ports.Kernel's sessions on a kernel that has none (RFC v2).

There the kernel chooses a token for each file, and one state holds for the machine. This is the userspace of
it, what the seed calls liveupdated: it keeps, by session name, which token of the session's owner is which of
the kernel's. prepare() tells it all for the journal, and recall() brings it back in the next boot.

| step of the saga | sessions as merged | here |
|---|---|---|
| PRESERVING | CREATE_SESSION, PRESERVE_FD | FD_PRESERVE each, then PREPARE |
| JUMPING | reboot(KEXEC), which freezes | the same; the state must be PREPARED |
| UNWINDING | close the sessions | CANCEL, then FD_UNPRESERVE each |
| RETRIEVING | RETRIEVE_SESSION, RETRIEVE_FD | FD_RESTORE each |
| FINISHING | SESSION_FINISH, close | FINISH |

Rules
1. A token that its session gives up while the kernel takes no FD_UNPRESERVE is given up by cancel().
2. cancel() lets go of every token that no session here holds: an earlier process of this node may have died
   before it could tell anybody.
3. The kernel restores a file once, so a copy of what was restored is kept until the session is finished.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from node_agent.errors import KernelError, Retry
from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.ports import TokenDevice as TokenDevice
from node_agent.ports import Tokens

NORMAL, PREPARED, FROZEN, UPDATED = abi.STATE_NAMES
READY = frozenset({PREPARED, FROZEN})


class TokenSession:
    """ports.Session. Made by TokenSessions only."""

    def __init__(
        self, owner: TokenSessions, name: str, tokens: dict[int, int] | None, export: Callable[[], int] | None
    ) -> None:
        self._owner = owner
        self._name = name
        self.incoming = tokens is not None
        self.tokens: dict[int, int] = dict(tokens or {})
        """The session's token → the kernel's."""
        self.restored: dict[int, int] = {}
        """The session's token → a copy of its fd."""
        self.finished = False
        self.holders = 1

    @property
    def name(self) -> str:
        return self._name

    def fileno(self) -> int:
        raise KernelError(errno.EBADF, calls.GET_NAME)

    async def preserve_fd(self, fd: int, token: int) -> None:
        self._check(calls.PRESERVE_FD)
        if self.incoming:
            raise calls.failure(OSError(errno.EINVAL, calls.PRESERVE_FD))
        if token in self.tokens:
            raise calls.failure(OSError(errno.EEXIST, calls.PRESERVE_FD))
        self.tokens[token] = await self._owner.register(fd)

    async def retrieve_fd(self, token: int) -> int:
        self._check(calls.RETRIEVE_FD)
        if not self.incoming:
            raise calls.failure(OSError(errno.EINVAL, calls.RETRIEVE_FD))
        if token not in self.restored:
            if self.finished or token not in self.tokens:
                raise calls.failure(OSError(errno.ENOENT, calls.RETRIEVE_FD))
            self.restored[token] = await self._owner.device.restore(self.tokens[token])
        return os.dup(self.restored[token])

    async def finish(self) -> None:
        """What the kernel keeps is kept until TokenSessions.finish()."""
        self._check(calls.FINISH)
        if not self.incoming:
            raise calls.failure(OSError(errno.EINVAL, calls.FINISH))
        self.drop()

    async def close(self) -> None:
        """Idempotent. The last holder's close gives the files up, or finishes the session."""
        if self.holders:
            self.holders -= 1
            if not self.holders:
                await self._owner.given_up(self)

    def drop(self) -> None:
        """No file is given out any more."""
        self.finished = True
        while self.restored:
            os.close(self.restored.popitem()[1])

    def _check(self, call: str) -> None:
        if not self.holders:
            raise KernelError(errno.EBADF, call)


class TokenSessions:
    """The sessions of one process of a node."""

    def __init__(self, device: TokenDevice) -> None:
        self.device = device
        self._open: dict[str, TokenSession] = {}
        self._recalled: dict[str, dict[int, int]] = {}
        """What came in with the last kexec, and is not finished."""
        self._given_up: set[int] = set()
        """Tokens for which FD_UNPRESERVE must wait."""

    async def create_session(self, name: str) -> TokenSession:
        """See ports.Kernel. Nothing is asked of the kernel but whether it can."""
        if not 0 < len(name.encode()) < 64:
            raise calls.failure(OSError(errno.EINVAL, calls.CREATE))
        if name in self._open:
            raise calls.failure(OSError(errno.EEXIST, calls.CREATE))
        state = await self.device.state()
        if state == UPDATED and not self._recalled:
            # Somebody else's, or one that nobody could finish: nothing could be preserved beside it.
            await self.device.finish()
        elif state != NORMAL:
            raise not_normal(state, calls.CREATE)
        session = self._open[name] = TokenSession(self, name, None, None)
        return session

    async def retrieve_session(self, name: str) -> TokenSession:
        """See ports.Kernel."""
        if name in self._open:
            raise calls.failure(OSError(errno.EINVAL, calls.RETRIEVE))
        if name not in self._recalled or await self.device.state() != UPDATED:
            raise calls.failure(OSError(errno.ENOENT, calls.RETRIEVE))
        session = self._open[name] = TokenSession(self, name, self._recalled[name], None)
        return session

    async def prepare(self) -> Tokens:
        """See ports.Kernel."""
        await self._let_go()
        told = {
            session.name: {str(mine): token for mine, token in session.tokens.items()}
            for session in self._open.values()
            if not session.incoming
        }
        await self.device.prepare()
        return told

    async def cancel(self) -> None:
        """See ports.Kernel."""
        if await self.device.state() in READY:
            await self.device.cancel()
        if await self.device.state() != NORMAL:
            return
        held = {token for s in self._open.values() if not s.incoming for token in s.tokens.values()}
        self._given_up.update(token for token in await self.device.registered() if token not in held)
        await self._let_go()

    async def finish(self) -> None:
        """See ports.Kernel."""
        if await self.device.state() == UPDATED:
            await self.device.finish()
        self._recalled = {}

    async def recall(self, tokens: Tokens) -> None:
        """See ports.Kernel."""
        if not self._open:
            self._recalled = {
                name: {int(mine): token for mine, token in told.items()} for name, told in tokens.items()
            }

    async def ready_to_jump(self) -> None:
        """A kexec in any other state loses everything without a word. Raises KernelError."""
        state = await self.device.state()
        if state not in READY:
            raise KernelError(
                errno.EINVAL,
                calls.REBOOT,
                f"LUO is {state}, not prepared: a kexec would lose what is preserved",
                reason="NOT_PREPARED",
                retry=Retry.REPLAN,
                remedy="Somebody cancelled LUO by hand; leave it to the agent while it updates the node.",
            )

    # --- for sessions

    async def register(self, fd: int) -> int:
        """FD_PRESERVE, after what waits to be given up."""
        await self._let_go()
        return await self.device.preserve(fd)

    async def given_up(self, session: TokenSession) -> None:
        """The last holder has closed it."""
        session.drop()
        if self._open.get(session.name) is session:
            del self._open[session.name]
        if session.incoming:
            self._recalled.pop(session.name, None)
            return
        self._given_up.update(session.tokens.values())
        await self._let_go()

    async def _let_go(self) -> None:
        if not self._given_up or await self.device.state() != NORMAL:
            return
        while self._given_up:
            token = self._given_up.pop()
            try:
                await self.device.unpreserve(token)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    self._given_up.add(token)
                    raise


def not_normal(state: str, call: str) -> KernelError:
    """LUO is busy with an update that is not this one."""
    return KernelError(
        errno.EBUSY,
        call,
        f"LUO is {state}: another live update is under way",
        reason="LUO_NOT_NORMAL",
        retry=Retry.FIX_STATE,
        remedy="End it: `luoctl finish` where the state is updated, `luoctl cancel` where it is another.",
    )
