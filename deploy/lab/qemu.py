"""Owns one QEMU process: from its command line to its end, with its monitor in between.

The process dies with its owner. Both of its channels are socket pairs that it inherits, so there
is no path that could be too long, and nothing to clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.lab.errors import LabError
from deploy.lab.machine import QEMU, Machine, argv
from deploy.lab.processes import tied
from deploy.lab.qmp import Monitor

QUIT_TIMEOUT_S = 10.0


class Qemu:
    """One boot of a machine. Use `Qemu.start()`, then `ended()`, then nothing else."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        firmware: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._process = process
        self._monitor: Monitor | None = None
        self._firmware = firmware
        self._said = bytearray()
        self._hearing = asyncio.create_task(self._hear(), name="qemu stderr")
        self.reason = ""
        """Why it ended, as QEMU has it: guest-reset, guest-shutdown, guest-panic, host-qmp-quit; "" if
        it did not say."""

    @classmethod
    async def start(cls, machine: Machine, *, kernel: Path, append: str) -> Qemu:
        """Boot it. Raises LabError: QEMU_MISSING, or QEMU_FAILED with what it said."""
        if shutil.which(QEMU) is None:
            raise LabError(
                f"there is no {QEMU}",
                reason="QEMU_MISSING",
                remedy="Install qemu-system-x86; `make lab` does so.",
            )
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        line = argv(
            machine,
            kernel=kernel,
            append=append,
            monitor_fd=theirs[0].fileno(),
            firmware_fd=theirs[1].fileno(),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *tied(line),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[end.fileno() for end in theirs],
            )
        except BaseException:
            for end in ours:
                end.close()
            raise
        finally:
            for end in theirs:
                end.close()
        started = cls(process, await asyncio.open_connection(sock=ours[1]))
        try:
            started._monitor = await Monitor.open(ours[0], started._on_event)
        except LabError as error:
            await started.kill()
            raise LabError(
                f"QEMU did not start: {started.last_words() or 'it said nothing'}", reason="QEMU_FAILED"
            ) from error
        except BaseException:
            await started.kill()
            raise
        return started

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def status(self) -> int:
        """Exit status, negative for a signal; 0 while it runs."""
        return self._process.returncode or 0

    async def command(self, name: str) -> Any:
        """A command of its monitor: stop, cont, system_reset, query-status … Raises LabError."""
        assert self._monitor is not None
        return await self._monitor.command(name)

    async def hear(self) -> bytes:
        """The next bytes from the guest's firmware port; empty at its end."""
        try:
            return await self._firmware[0].read(4096)
        except OSError:
            return b""

    def tell(self, data: bytes) -> None:
        """Write to it. If the guest does not read, it is its own loss: the socket holds what we ever say."""
        self._firmware[1].write(data)

    async def ended(self) -> None:
        """Wait for its end, and close everything."""
        await self._process.wait()
        await self._close()

    async def quit(self) -> None:
        """End it by its monitor, with SIGKILL if that does not help. What the guest has synced is kept."""
        with contextlib.suppress(LabError, TimeoutError):
            async with asyncio.timeout(QUIT_TIMEOUT_S):
                if self._monitor is not None:
                    await self._monitor.command("quit")
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """As if its power went."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        await self._close()

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self._said.decode("utf-8", "replace").strip()

    async def _close(self) -> None:
        await self._hearing
        if self._monitor is not None:
            await self._monitor.close()
        self._firmware[1].close()

    def _on_event(self, name: str, data: Mapping[str, Any]) -> None:
        if name == "SHUTDOWN":
            self.reason = str(data.get("reason", ""))

    async def _hear(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(4096):
            self._said += chunk
            del self._said[:-4096]
