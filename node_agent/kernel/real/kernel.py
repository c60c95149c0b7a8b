"""RealKernel and RealSession: ports.Kernel and ports.Session over this machine's kernel.

Rules:
- /dev/liveupdate is opened, used and closed again at once. EBUSY is DEVICE_BUSY here;
  workloads/device.py waits it out.
- All calls on the device and on sessions are made by one thread, one after another, so that we
  are never busy for ourselves. Loading and the reboot have threads of their own.
- Closing the last copy of a retrieved session finishes it. So a session whose caller was
  cancelled in retrieve_session() is not closed: it waits for the next one who asks for it.
- A reboot that has begun cannot be called back: a cancel waits for its refusal, or for the end.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from node_agent.kernel import failure as calls
from node_agent.kernel.emulated import syncclient as luo
from node_agent.kernel.real import facts, kexec
from node_agent.kernel.real.kho import read_kho
from node_agent.kernel.real.meminfo import read_memory
from node_agent.kernel.real.threads import Worker, alone, to_the_end
from node_agent.kernel.sessions import SessionFd, SessionModel
from node_agent.ports import BootFacts, KexecImage

T = TypeVar("T")


class RealKernel(SessionModel):
    """The kernel that this process runs on.

    Args:
        root: a directory that stands for / where files are read and the device is opened, for
            tests; "" is this machine. kexec and reboot are this machine's in any case.
    """

    def __init__(self, root: str = "") -> None:
        self._root = root
        self._worker = Worker("liveroll-luo")
        self._waiting: dict[str, int] = {}

    async def facts(self) -> BootFacts:
        """Opens the device to see whether it can be; that is also what makes a kernel read what
        was handed to it."""
        found = await self._worker.run(lambda: facts.read_identity(self._root))
        luo_there, poisoned = await self._worker.run(self._probe)
        kho = await self._worker.run(lambda: read_kho(self._root))
        memory = await self._worker.run(lambda: read_memory(kho.scratch_bytes, self._root))
        return BootFacts(
            boot_id=found.boot_id,
            release=found.release,
            command_line=found.command_line,
            hardware_model=found.hardware_model,
            luo=luo_there,
            poisoned=poisoned,
            previous_release=found.previous_release,
            kexec_count=found.kexec_count,
            kho=kho,
            memory=memory,
        )

    def _probe(self) -> tuple[bool, bool]:
        """(the device is there and opens, or is open elsewhere; it is poisoned)."""
        try:
            os.close(luo.open_device(self._root))
        except OSError as cause:
            return cause.errno == errno.EBUSY, cause.errno == errno.EIO
        return True, False

    async def create_session(self, name: str) -> RealSession:
        fd = await self._call(lambda: luo.open_session_create(self._root, name), lost=os.close)
        return RealSession(self._worker, name, fd)

    async def retrieve_session(self, name: str) -> RealSession:
        if name in self._waiting:
            return RealSession(self._worker, name, self._waiting.pop(name))
        fd = await self._call(
            lambda: luo.retrieve_session(self._root, name),
            lost=lambda fd: self._waiting.__setitem__(name, fd),
        )
        return RealSession(self._worker, name, fd)

    def adopt(self, name: str, fd: int) -> RealSession:
        """A session that was retrieved already, by the blackout path. The fd becomes the session's."""
        return RealSession(self._worker, name, fd)

    async def telemetry(self) -> None:
        """Mainline has none."""

    async def load(self, image: KexecImage) -> None:
        await _told(alone("liveroll-kexec-load", lambda: kexec.load(image)))

    async def unload(self) -> None:
        await _told(alone("liveroll-kexec-load", kexec.unload))

    async def loaded(self) -> bool:
        return await _told(alone("liveroll-kexec-loaded", lambda: kexec.loaded(self._root)))

    async def reboot_kexec(self) -> NoReturn:
        """What must be done before it (filesystems, workloads) has been done by the caller."""
        await _told(to_the_end("liveroll-reboot", kexec.reboot))
        raise AssertionError("reboot returned without an error")

    def close(self) -> None:
        """Let the thread end. Sessions that nobody asked for again are closed, thus finished."""
        for fd in self._waiting.values():
            os.close(fd)
        self._waiting.clear()
        self._worker.close()

    async def _call(self, call: Callable[[], int], lost: Callable[[int], None]) -> int:
        return await _told(self._worker.run(call, lost))


class RealSession(SessionFd):
    """A session fd.

    Args:
        worker: whose thread makes the calls.
        fd: becomes this session's.
    """

    def __init__(self, worker: Worker, name: str, fd: int) -> None:
        super().__init__(name, fd)
        self._worker = worker

    async def preserve_fd(self, fd: int, token: int) -> None:
        session = self._open(calls.PRESERVE_FD)
        await _told(self._worker.run(lambda: luo.preserve_fd(session, fd, token)))

    async def retrieve_fd(self, token: int) -> int:
        session = self._open(calls.RETRIEVE_FD)
        return await _told(self._worker.run(lambda: luo.retrieve_fd(session, token), os.close))

    async def finish(self) -> None:
        session = self._open(calls.FINISH)
        await _told(self._worker.run(lambda: luo.finish(session)))

    async def close(self) -> None:
        """Idempotent. In the worker's turn: it frees what the session holds, which takes long, and
        no call of this session can meet another file under its number."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await self._worker.run(lambda: os.close(fd))


async def _told(answer: Awaitable[T]) -> T:
    """The answer, an OSError as the KernelError that it means."""
    try:
        return await answer
    except OSError as cause:
        raise calls.failure(cause) from cause
