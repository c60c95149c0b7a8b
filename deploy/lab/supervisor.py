"""A node's firmware and power: keeps its machine booted with the kernel that is its default.

Rules:
- A reset by the guest is a cold boot: QEMU ends and is started again with the default kernel.
- A poweroff by the guest is off, until somebody switches it on.
- What the guest sets as its default kernel is on disk before it is told so, and holds from the next
  cold boot on. A kexec within the guest is nothing that this would see.
- A machine that resets again and again within seconds is switched off: nobody is helped by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from deploy.lab import firmware
from deploy.lab.description import Description, NodeFiles
from deploy.lab.errors import LabError
from deploy.lab.qemu import Qemu

LOOP_BOOTS, LOOP_S = 8, 60.0
"""So many resets within so many seconds are a boot loop; a sane boot takes more than 2 s to get to one."""
_RESETS = ("guest-reset", "guest-panic")


class Supervisor:
    """One node. `run()` until `end()`; the other calls are the operator's switches."""

    def __init__(self, described: Description, files: NodeFiles, say: Callable[[str], None]) -> None:
        self._described, self._files, self._say = described, files, say
        self._remembered = firmware.load(files.firmware) or firmware.Remembered(described.kernel)
        self._qemu: Qemu | None = None
        self._booted, self._why, self._paused = "", "", False
        self._resets: list[float] = []
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._ending = False

    # -- the operator's switches

    def status(self) -> Mapping[str, Any]:
        """For `status`: power (on, starting, off, paused), releases, cold boots, why the last one ended."""
        return {
            "power": "paused" if self._paused else self._power(),
            "default": self._remembered.default,
            "booted": self._booted,
            "boots": self._remembered.boots,
            "why": self._why,
            "pid": self._qemu.pid if self._qemu is not None else 0,
        }

    async def power(self, word: str) -> None:
        """on, off (at once, as by a switch), reset, pause, continue. Raises LabError."""
        match word:
            case "on":
                self._remember(power="on")
                self._resets.clear()
                self._wake.set()
                await self._until(lambda: self._qemu is not None)
            case "off" | "reset":
                before = self._qemu
                self._remember(power="off" if word == "off" else "on")
                self._wake.set()
                if before is not None:
                    await before.quit()
                await self._until(
                    lambda: self._qemu is not before and (word == "off" or self._qemu is not None)
                )
            case "pause" | "continue":
                if self._qemu is None:
                    raise LabError(
                        f"{self._described.name} is off",
                        reason="NODE_OFF",
                        remedy="Switch it on first: `liveroll lab power NODE on`.",
                    )
                await self._qemu.command("stop" if word == "pause" else "cont")
                self._paused = word == "pause"
            case _:
                raise LabError(
                    f"{word!r} is no switch of a node",
                    reason="POWER_UNKNOWN",
                    remedy="Use on, off, reset, pause or continue.",
                )

    async def _until(self, settled: Callable[[], bool]) -> None:
        """The switch has had its effect, or the machine refuses to run."""
        async with self._changed:
            await self._changed.wait_for(lambda: settled() or self._ending or self._is_off())

    def _power(self) -> str:
        if self._qemu is not None:
            return "on"
        return "off" if self._remembered.power == "off" else "starting"

    def _is_off(self) -> bool:
        return self._qemu is None and self._remembered.power == "off"

    async def _set(self, qemu: Qemu | None) -> None:
        async with self._changed:
            self._qemu, self._paused = qemu, False
            self._changed.notify_all()

    def end(self) -> None:
        """Switch the machine off and let run() return. What it remembers stays as it is."""
        self._ending = True
        self._wake.set()

    # -- its life

    async def run(self) -> None:
        """Boot, and boot again, until end()."""
        while not self._ending:
            self._wake.clear()
            if self._remembered.power == "on":
                await self._boot()
            else:
                await self._wake.wait()

    async def _boot(self) -> None:
        release = self._remembered.default
        self._remember(boots=self._remembered.boots + 1)
        self._say(f"cold boot {self._remembered.boots} with {release}")
        try:
            qemu = await Qemu.start(
                self._described.machine(self._files),
                kernel=self._described.kernels[release],
                append=self._described.command_line,
            )
        except LabError as error:
            self._off(str(error))
            await self._set(None)
            return
        self._booted = release
        await self._set(qemu)
        hearing = asyncio.create_task(self._listen(qemu), name="firmware port")
        ended = asyncio.create_task(qemu.ended(), name="qemu")
        try:
            while not ended.done() and not self._ending:
                waking = asyncio.create_task(self._wake.wait())
                await asyncio.wait({ended, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                self._wake.clear()
            if not ended.done():
                await qemu.quit()
            await ended
        finally:
            hearing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await hearing
            await qemu.kill()
            self._after(qemu)
            await self._set(None)

    def _after(self, qemu: Qemu) -> None:
        """Whether it is booted again."""
        self._why = qemu.reason or f"QEMU ended with status {qemu.status}: {qemu.last_words()}"
        self._say(f"ended: {self._why}")
        if self._ending or self._remembered.power == "off":
            return
        if qemu.reason == "guest-shutdown":
            self._remember(power="off")
        elif qemu.reason in _RESETS:
            now = time.monotonic()
            self._resets = [at for at in self._resets if at > now - LOOP_S] + [now]
            if len(self._resets) >= LOOP_BOOTS:
                self._off(f"{LOOP_BOOTS} resets within {LOOP_S:g} s")
        elif not qemu.reason and qemu.status >= 0:
            # A QEMU that somebody killed is a power cut; one that cannot run would fail for ever.
            self._off(self._why)

    def _off(self, why: str) -> None:
        self._why = why
        self._say(f"off: {why}")
        self._remember(power="off")

    async def _listen(self, qemu: Qemu) -> None:
        lines = firmware.Lines()
        while data := await qemu.hear():
            for line in lines.feed(data):
                heard = firmware.answer(line, self._described.kernels)
                if heard.default:
                    self._remember(default=heard.default)
                self._say(f"firmware port: {line!r}: {heard.reply!r}")
                qemu.tell(heard.reply)

    def _remember(self, **changes: Any) -> None:
        self._remembered = dataclasses.replace(self._remembered, **changes)
        firmware.save(self._files.firmware, self._remembered)
