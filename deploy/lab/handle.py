"""One node as tests and commands hold it: run things in it, watch it boot, throw its switches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.lab import control, description, guest_exec
from deploy.lab.console import Console
from deploy.lab.description import Description, NodeFiles
from deploy.lab.errors import LabError
from deploy.lab.guest_exec import Ran
from deploy.lab.processes import is_alive, read_mark

POLL_S = 0.2
PROBE_S = 3.0
"""An exec server that is up answers a small command within this even on a loaded machine; one behind
a kexec never does, because its connection went with the old kernel."""
ANSWER_S = 30.0
BOOT_S = 120.0
"""Under TCG a boot takes 5 to 15 s alone; several nodes share the machine with what else runs."""
AGENT = "liveroll-agent"
"""Its name in /proc/PID/comm: the wrapper's, which the interpreter keeps. The guest has no pgrep."""
AGENT_HOLD = "/run/no-agent"


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of a guest, cold or by kexec."""

    boot_id: str
    release: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose supervisor runs, or ran."""

    files: NodeFiles

    @property
    def name(self) -> str:
        return self.files.directory.name

    @property
    def described(self) -> Description:
        """Read each time: it is small, and the directory may be another fleet's by now."""
        return description.load(self.files.description)

    @property
    def console(self) -> Console:
        return Console(self.files.console)

    @property
    def is_supervised(self) -> bool:
        return is_alive(read_mark(self.files.mark))

    # -- in the guest

    async def exec(
        self, *argv: str, timeout_s: float = 30.0, stdin: str = "", detach: bool = False, check: bool = False
    ) -> Ran:
        """Run a command there as root.

        Args:
            check: raise LabError (COMMAND_FAILED) if it does not end with 0.
        """
        port = self.described.exec_port
        ran = await guest_exec.run(port, argv, timeout_s=timeout_s, stdin=stdin, detach=detach)
        if check and ran.rc != 0:
            raise LabError(
                f"{' '.join(argv)} on {self.name} ended with {ran.rc}: {(ran.stderr or ran.stdout).strip()}",
                reason="COMMAND_FAILED",
            )
        return ran

    async def sh(self, script: str, *, timeout_s: float = 30.0, check: bool = True) -> str:
        """Run a shell script there; its stdout."""
        return (await self.exec("/bin/sh", "-c", script, timeout_s=timeout_s, check=check)).stdout

    async def read(self, path: str) -> str:
        """A text file of the guest."""
        return (await self.exec("cat", path, check=True)).stdout

    async def write(self, path: str, text: str) -> None:
        """Put a text file there, synced."""
        await self.exec("/bin/sh", "-c", 'cat >"$1" && sync', "write", path, stdin=text, check=True)

    async def luoctl(self, *words: str, timeout_s: float = 60.0) -> Ran:
        """`luoctl` on the node."""
        return await self.exec("luoctl", *words, timeout_s=timeout_s)

    async def agent_pid(self) -> int:
        """0 if no agent runs."""
        found = await self.sh(f"grep -lx {AGENT} /proc/[0-9]*/comm", check=False)
        return min((int(path.split("/")[2]) for path in found.split()), default=0)

    async def kill_agent(self, *, hold: bool = False, signal: str = "KILL") -> int:
        """Send the agent a signal; its pid. With hold it is not started again until release_agent()."""
        if hold:
            await self.exec("touch", AGENT_HOLD, check=True)
        if pid := await self.agent_pid():
            await self.sh(f"kill -{signal} {pid}")  # the shell's own: the guest has no other
        return pid

    async def release_agent(self) -> None:
        """Let it be started again."""
        await self.exec("rm", "-f", AGENT_HOLD, check=True)

    # -- boots

    async def boot(self) -> Boot:
        """The present one, of a guest that is up. Raises LabError (GUEST_UNREACHABLE)."""
        return await _boot(self.described.exec_port, ANSWER_S)

    async def wait_boot(self, *, after: Boot | None = None, timeout_s: float = BOOT_S) -> Boot:
        """Until the exec server answers, in another boot than `after`.

        Raises LabError (NO_BOOT) with the console's tail.
        """
        port = self.described.exec_port
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        async with asyncio.timeout(PROBE_S):
                            found = await _boot(port, PROBE_S)
                        if after is None or found.boot_id != after.boot_id:
                            return found
                    except (LabError, TimeoutError):
                        pass
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise LabError(
                f"{self.name} was not up within {timeout_s:g} s; console:\n{self.console.tail()}",
                reason="NO_BOOT",
                remedy="`liveroll lab console` shows all of it.",
            ) from None

    # -- firmware and power

    async def status(self) -> Mapping[str, Any]:
        """See Supervisor.status(). Raises LabError (NODE_DOWN)."""
        return await asyncio.to_thread(control.ask, self.files.control, {"do": "status"})

    async def power(self, word: str) -> Mapping[str, Any]:
        """on, off, reset, pause, continue: as an operator's hand would."""
        return await asyncio.to_thread(control.ask, self.files.control, {"do": word})

    async def metrics(self) -> str:
        """What its agent serves under /metrics."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.described.metrics_port)
        try:
            writer.write(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n")
            async with asyncio.timeout(30.0):
                answer = await reader.read()
        finally:
            writer.close()
        return answer.partition(b"\r\n\r\n")[2].decode()


async def _boot(port: int, timeout_s: float) -> Boot:
    ran = await guest_exec.run(
        port,
        ["cat", "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/osrelease"],
        timeout_s=timeout_s,
    )
    words = ran.stdout.split()
    if len(words) != 2:
        raise LabError("the guest does not know its boot id", reason="GUEST_UNREACHABLE")
    return Boot(words[0], words[1])


def parse_json(text: str) -> Any:
    """The answer of a command that was asked for JSON. Raises LabError (NOT_JSON)."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise LabError(f"this is not JSON: {text[:200]!r}", reason="NOT_JSON") from error
