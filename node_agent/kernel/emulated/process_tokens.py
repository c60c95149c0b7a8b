"""ProcessTokens: ports.TokenDevice over the sockets of a kernel process of RFC v2's time.

The device is opened for each call: nothing is kept for as long as it is open. It is that of one boot, the
first that was called: a token means nothing to any other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from node_agent.kernel import failure as calls
from node_agent.kernel import rfc2_abi as abi
from node_agent.kernel.emulated import synctokens
from node_agent.kernel.emulated.asyncclient import boot_over, control, ioctl, open_device
from node_agent.kernel.emulated.rfc2.listing import CAME_IN, PAGE_FILES, Row, place
from node_agent.ports import TokenFile


class ProcessTokens:
    """The device of the node whose root directory this is."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._boot_id = ""

    async def state(self) -> str:
        argument = bytearray(abi.STATE_STRUCT.size)
        await self._call(abi.GET_STATE, argument)
        return abi.STATE_NAMES[abi.STATE_STRUCT.unpack(argument)[0]]

    async def preserve(self, fd: int) -> int:
        argument = bytearray(abi.FD_STRUCT.pack(fd, 0, 0))
        try:  # before the device takes the number of an fd that is not open
            os.fstat(fd)
        except OSError as cause:
            raise calls.failure(OSError(cause.errno, calls.FD_PRESERVE)) from cause
        await self._call(abi.FD_PRESERVE, argument, fd)
        return int(abi.FD_STRUCT.unpack(argument)[2])

    async def unpreserve(self, token: int) -> None:
        await self._call(abi.FD_UNPRESERVE, bytearray(abi.TOKEN_STRUCT.pack(token)))

    async def restore(self, token: int) -> int:
        argument = bytearray(abi.FD_STRUCT.pack(-1, 0, token))
        await self._call(abi.FD_RESTORE, argument)
        return int(abi.FD_STRUCT.unpack(argument)[0])

    async def prepare(self) -> None:
        await self._call(abi.PREPARE, bytearray())

    async def freeze(self) -> None:
        await self._call(abi.FREEZE, bytearray())

    async def cancel(self) -> None:
        await self._call(abi.CANCEL, bytearray())

    async def finish(self) -> None:
        await self._call(abi.FINISH, bytearray())

    async def registered(self) -> Sequence[int]:
        return [file.token for file in await self.files() if file.state not in CAME_IN]

    async def files(self) -> Sequence[TokenFile]:
        rows: list[Row] = []
        while True:
            told = await control(self._root, "files", *(place(rows[-1]) if rows else ()))
            found = [(int(token), kind, state) for token, kind, state in map(str.split, told.splitlines())]
            rows.extend(found)
            if len(found) < PAGE_FILES:
                return [TokenFile(*row) for row in rows]

    async def _call(self, number: int, argument: bytearray, passed_fd: int | None = None) -> None:
        name = abi.CALL_NAMES[number]
        device, boot_id = await open_device(self._root)
        try:
            self._boot_id = self._boot_id or boot_id
            if boot_id != self._boot_id:
                raise boot_over(name)
            await ioctl(device, number, argument, passed_fd, call=name, fd_at=synctokens.FD_AT)
        finally:
            os.close(device)
