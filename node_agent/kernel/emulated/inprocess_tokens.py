"""InProcessTokens: ports.TokenDevice over a LuoModel in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated.inprocess_caller import Caller
from node_agent.kernel.emulated.rfc2.listing import listing
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.ports import TokenFile

T = TypeVar("T")


class InProcessTokens:
    """/dev/liveupdate of RFC v2 for one process."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def state(self) -> str:
        return str(await self._call("get_state", abi.GET_STATE, lambda luo: luo.state))

    async def preserve(self, fd: int) -> int:
        return await self._call("fd_preserve", abi.FD_PRESERVE, lambda luo: luo.fd_preserve(fd))

    async def unpreserve(self, token: int) -> None:
        await self._call("fd_unpreserve", abi.FD_UNPRESERVE, lambda luo: luo.fd_unpreserve(token))

    async def restore(self, token: int) -> int:
        return await self._call("fd_restore", abi.FD_RESTORE, lambda luo: luo.fd_restore(token))

    async def prepare(self) -> None:
        await self._call("prepare", abi.PREPARE, lambda luo: luo.prepare())

    async def freeze(self) -> None:
        await self._call("freeze", abi.FREEZE, lambda luo: luo.freeze())

    async def cancel(self) -> None:
        await self._call("cancel", abi.CANCEL, lambda luo: luo.cancel())

    async def finish(self) -> None:
        await self._call("finish", abi.FINISH, lambda luo: luo.finish())

    async def registered(self) -> Sequence[int]:
        rfc2 = self._caller.model.rfc2
        return tuple(rfc2.files.outgoing) if rfc2 is not None else ()

    async def files(self) -> Sequence[TokenFile]:
        rfc2 = self._caller.model.rfc2
        return tuple(TokenFile(*row) for row in listing(rfc2)) if rfc2 is not None else ()

    async def _call(self, short: str, number: int, call: Callable[[Luo], T]) -> T:
        name = abi.CALL_NAMES[number]
        await self._caller.enter(short, name)
        rfc2 = self._caller.model.rfc2
        assert rfc2 is not None
        try:
            return call(rfc2.the_luo(calls.OPEN))
        except OSError as cause:
            raise calls.failure(cause) from cause
