"""Drain, undrain and health: this node's own commands, none, or a script.

Rules of commands:
- argv lists from the node's own settings, run without a shell in a session of their own; at the
  timeout, or when the agent stops waiting, the whole process group is killed;
- of the output the last OUTPUT_BYTES are kept and reported when the command fails; a command that
  writes more never blocks, and never fills memory;
- the environment is the agent's, with LIVEROLL_HOOK, LIVEROLL_NODE and what the caller adds.

health: exit status 0 is healthy; else the last line of output says why not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from node_agent.errors import HookFailed, Retry

OUTPUT_BYTES = 4096
KILL_WAIT_S = 5.0
"""A killed group is gone at once; a process in uninterruptible sleep must not hold the agent."""


class Command(Protocol):
    """What to run: argv, and seconds until it is killed (settings.HookCommand)."""

    @property
    def argv(self) -> tuple[str, ...]: ...
    @property
    def timeout_s(self) -> float: ...


class NoHooks:
    """ports.Hooks of a node on which nothing is configured: always done, always healthy."""

    async def drain(self) -> None:
        return

    async def undrain(self) -> None:
        return

    async def healthy(self) -> tuple[bool, str]:
        return True, ""


@dataclass(frozen=True, slots=True)
class CommandHooks:
    """ports.Hooks over commands; demand() runs any of them.

    commands: by name: drain, undrain, health, set_default_kernel; a name left out does nothing.
    variables: added to every command's environment, e.g. LIVEROLL_NODE.
    """

    commands: Mapping[str, Command]
    variables: Mapping[str, str] = field(default_factory=dict)

    async def drain(self) -> None:
        await self.demand("drain")

    async def undrain(self) -> None:
        await self.demand("undrain")

    async def healthy(self) -> tuple[bool, str]:
        try:
            await self.demand("health")
        except HookFailed as error:
            lines = error.fields.get("output", "").strip().splitlines()
            return False, lines[-1] if lines else error.message
        return True, ""

    async def demand(self, name: str, **variables: str) -> None:
        """Run the command of that name, with these in its environment too.

        Raises:
            HookFailed: HOOK_NOT_FOUND, HOOK_TIMEOUT, HOOK_FAILED.
        """
        command = self.commands.get(name)
        if command is None:
            return
        environment = {**os.environ, **self.variables, **variables, "LIVEROLL_HOOK": name}
        try:
            process = await asyncio.create_subprocess_exec(
                *command.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as cause:
            raise HookFailed(
                f"the {name} command {command.argv[0]} cannot be run: {os.strerror(cause.errno or 0)}",
                reason="HOOK_NOT_FOUND",
                retry=Retry.FIX_STATE,
                remedy=f"Correct hooks.{name} in this node's settings, or install the command.",
                hook=name,
            ) from cause
        output = bytearray()
        try:
            async with asyncio.timeout(command.timeout_s):
                await _keep_tail(process, output)
                status = await process.wait()
        except TimeoutError:
            raise HookFailed(
                f"the {name} command ran longer than {command.timeout_s:g} s and was killed",
                reason="HOOK_TIMEOUT",
                remedy=f"Find out what {command.argv[0]} waits for, or raise the timeout of hooks.{name}.",
                hook=name,
                output=_text(output),
            ) from None
        finally:
            await _kill(process)
        if status != 0:
            raise HookFailed(
                f"the {name} command failed with status {status}",
                remedy=f"Read its output below, and run {command.argv[0]} by hand on this node.",
                hook=name,
                status=status,
                output=_text(output),
            )


async def _keep_tail(process: asyncio.subprocess.Process, output: bytearray) -> None:
    assert process.stdout is not None
    while chunk := await process.stdout.read(OUTPUT_BYTES):
        output += chunk
        del output[:-OUTPUT_BYTES]


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Also what the command left behind in its group after it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # The group's death is certain; only the wait for the kernel to say so is bounded.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(KILL_WAIT_S):
            await process.wait()


def _text(output: bytearray) -> str:
    return output.decode("utf-8", "replace").strip()


@dataclass(slots=True)
class HookScript:
    """What goes wrong on an emulated node. Shared with its owner, who may change it any time.

    drain_fails, undrain_fails: how many more times, -1 always. unhealthy_releases: kernels under
    which probes fail, with `why`. unhealthy: probes fail whatever the kernel.
    """

    drain_fails: int = 0
    undrain_fails: int = 0
    unhealthy_releases: frozenset[str] = frozenset()
    unhealthy: bool = False
    why: str = "the health probe failed"


@dataclass(frozen=True, slots=True)
class ScriptedHooks:
    """ports.Hooks of an emulated node. release: of the running kernel."""

    script: HookScript
    release: str

    async def drain(self) -> None:
        if self.script.drain_fails:
            self.script.drain_fails -= self.script.drain_fails > 0
            raise HookFailed("the drain command failed with status 1", hook="drain", status=1)

    async def undrain(self) -> None:
        if self.script.undrain_fails:
            self.script.undrain_fails -= self.script.undrain_fails > 0
            raise HookFailed("the undrain command failed with status 1", hook="undrain", status=1)

    async def healthy(self) -> tuple[bool, str]:
        if self.script.unhealthy:
            return False, self.script.why
        if self.release in self.script.unhealthy_releases:
            return False, f"{self.script.why} under {self.release}"
        return True, ""
