"""LUO as the agent has it, whichever model the kernel is of, as Protocols.

With sessions as merged most of it is nothing (kernel/sessions.py); on a kernel of RFC v2 sessions are made of
tokens (kernel/tokens.py). What a saga's step does on each is in docs/luo-models.md.

A kernel is Sessions, and does not have them as an object of its own: whoever stands before a kernel
(HandoverKernel, every test's double) would have to stand before two, and its callers know no less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Tokens = Mapping[str, Mapping[int, int]]
"""Session name → the token in it → the kernel's own token, where the kernel chooses tokens."""


class Session(Protocol):
    """A LUO session held open by this process. Closing the last copy before the kexec
    unpreserves everything in it; closing it after it was retrieved finishes it."""

    @property
    def name(self) -> str: ...
    def fileno(self) -> int:
        """The fd to delegate with SCM_RIGHTS. It stays this session's."""
        ...

    async def preserve_fd(self, fd: int, token: int) -> None: ...
    async def retrieve_fd(self, token: int) -> int:
        """A new fd, owned by the caller."""
        ...

    async def finish(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file that the kernel has under a token of its own choice."""

    token: int
    kind: str
    """Of its handler: memfd, eventfd, kvmfd, iommufd, vfiofd."""
    state: str
    """Going out: registered, prepared or frozen. Came in: arrived, restored or failed."""


class TokenDevice(Protocol):
    """/dev/liveupdate of RFC v2. Every call raises KernelError."""

    async def state(self) -> str:
        """normal, prepared, frozen or updated."""
        ...

    async def preserve(self, fd: int) -> int:
        """The kernel's token. The fd stays the caller's."""
        ...

    async def unpreserve(self, token: int) -> None: ...
    async def restore(self, token: int) -> int:
        """A new fd, owned by the caller."""
        ...

    async def prepare(self) -> None: ...
    async def freeze(self) -> None: ...
    async def cancel(self) -> None: ...
    async def finish(self) -> None: ...
    async def registered(self) -> Sequence[int]:
        """Tokens of files that this kernel was given to preserve, from its debugfs."""
        ...

    async def files(self) -> Sequence[TokenFile]:
        """All that have a token, going out first, each by token; from the same place."""
        ...


class Sessions(Protocol):
    """What LUO does for the agent: sessions, and one update made of them. Raises errors.KernelError."""

    async def create_session(self, name: str) -> Session: ...
    async def retrieve_session(self, name: str) -> Session: ...
    async def is_free(self, name: str) -> bool:
        """May a session of this name be created: has nobody one any more? A kernel with sessions cannot be
        asked that: there one is created and closed again, so that this fails as create_session() does."""
        ...

    async def prepare(self) -> Tokens:
        """All that shall cross is in sessions: make it ready. What the journal must know of it, for
        recall(). Sessions as merged are ready as they are: empty."""
        ...

    async def cancel(self) -> None:
        """Before the kexec: undo prepare(), whoever called it, and let go of what is in nobody's session.
        Idempotent. Sessions are closed before it."""
        ...

    async def finish(self) -> None:
        """After the kexec, when every session is finished: the whole update is. Idempotent."""
        ...

    async def recall(self, tokens: Tokens) -> None:
        """What prepare() told an earlier process of this node, of this boot or the one before. Called
        before anything is retrieved or cancelled."""
        ...

    def luo(self) -> TokenDevice | None:
        """The device itself, for whoever drives LUO by hand (luoctl). None: a kernel with sessions has no
        such device."""
        ...

    async def ready_to_jump(self) -> None:
        """Does the kernel still have all that prepare() has told? To be asked before the jump's last look at
        the lease, for it may take as long as the device does. KernelError (NOT_PREPARED): a kexec would lose
        it. Sessions as merged are frozen by reboot itself, or refuse it: nothing is asked."""
        ...
