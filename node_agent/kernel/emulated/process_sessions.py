"""ProcessSessions: ports.Sessions, as merged, over the sockets of a kernel process.

The device is opened for each call: nothing is kept for as long as it is open.
"""

from __future__ import annotations

import errno
import os

from node_agent.kernel import abi
from node_agent.kernel import failure as calls
from node_agent.kernel.emulated.asyncclient import ioctl, open_device
from node_agent.kernel.sessions import SessionFd, SessionModel


class ProcessSessions(SessionModel):
    """The sessions of the node whose root directory this is."""

    def __init__(self, root: str) -> None:
        self._root = root

    async def create_session(self, name: str) -> ProcessSession:
        return await self._session(name, abi.CREATE_SESSION)

    async def retrieve_session(self, name: str) -> ProcessSession:
        return await self._session(name, abi.RETRIEVE_SESSION)

    async def _session(self, name: str, number: int) -> ProcessSession:
        call = abi.CALL_NAMES[number]
        if len(name.encode()) >= abi.SESSION_NAME_BYTES:
            raise calls.failure(OSError(errno.EINVAL, call))
        device, _ = await open_device(self._root)
        try:
            argument = abi.pack_session(name)
            await ioctl(device, number, argument)
        finally:
            os.close(device)
        return ProcessSession(name, abi.unpack_session(argument)[0])


class ProcessSession(SessionFd):
    """ports.Session over a session fd of a kernel process."""

    async def preserve_fd(self, fd: int, token: int) -> None:
        await ioctl(self.fileno(), abi.SESSION_PRESERVE_FD, abi.pack_fd(fd, token), fd)

    async def retrieve_fd(self, token: int) -> int:
        argument = abi.pack_fd(-1, token)
        await ioctl(self.fileno(), abi.SESSION_RETRIEVE_FD, argument)
        return abi.unpack_fd(argument)[0]

    async def finish(self) -> None:
        await ioctl(self.fileno(), abi.SESSION_FINISH, abi.pack_finish())

    async def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
