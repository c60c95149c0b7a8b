"""An emulated node: its kernel is a process of its own, which `run` becomes before it is anything else."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from node_agent.app_machine import Machine
from node_agent.errors import SettingsError
from node_agent.ports import BootChoice, DefaultKernel
from node_agent.settings import AgentSettings, EmulatedKernel

RESUME_ENV = "LIVEROLL_RESUME"
"""JOURNAL:SOCKET for the blackout path, so that it needs no settings."""
ACCESS_ENV = "LIVEROLL_RESUME_ACCESS"
"""MODE:GID of that socket, mode in octal, gid -1 to leave the group alone."""


def become_kernel(settings: AgentSettings, arguments: Sequence[str]) -> NoReturn:
    """Replace this process with the emulated kernel, whose userspace this command becomes.

    Raises SettingsError.
    """
    from node_agent.kernel.emulated.image import DEFAULT_COMMAND_LINE

    emulated, root = settings.emulated, settings.root
    assert root is not None
    try:
        root.mkdir(parents=True, exist_ok=True)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make {error.filename}: {error.strerror}",
            reason="STATE_DIR",
            remedy="set state_dir to a place this user may write to",
        ) from error
    # Shares of a bare kexec as they were measured in the lab.
    shares = {"shutdown": 0.05, "purgatory": 0.25, "boot": 0.7}
    timings = [word for p, s in shares.items() for word in (f"--{p}-s", str(emulated.kexec_s * s))]
    os.environ[RESUME_ENV] = f"{settings.journal}:{settings.broker_socket}"
    os.environ[ACCESS_ENV] = f"{settings.broker_mode:o}:{settings.broker_gid}"
    os.execv(  # noqa: S606 - this very interpreter
        sys.executable,
        [
            sys.executable,
            *("-m", "node_agent.kernel.emulated.process"),
            *("--root", str(root), "--release", _default_kernel(settings), "--faults", emulated.faults),
            *("--command-line", f"{DEFAULT_COMMAND_LINE} {emulated.command_line_append}".strip()),
            *("--hardware-model", emulated.model, *timings, *luo_arguments(emulated)),
            *(word for service in emulated.services for word in ("--service", service)),
            *("--", sys.executable, "-m", "node_agent.cli", *arguments),
        ],
    )


def luo_arguments(emulated: EmulatedKernel) -> list[str]:
    """The kernel's arguments for its model of LUO."""
    model, _, coupling = emulated.luo_model.partition("/")
    if model == "sessions":
        return ["--luo-model", model]
    return [
        *("--luo-model", model, "--coupling", coupling or "luo-driven"),
        *("--kho-debugfs", emulated.kho_debugfs, "--reserve-mem", emulated.reserve_mem),
        *(word for name in emulated.auto_preserve for word in ("--auto-preserve", name)),
    ]


def _default_kernel(settings: AgentSettings) -> str:
    """What a cold boot starts: what was committed last, or what the settings say."""
    with suppress(OSError):
        return (settings.state_dir / "default-kernel").read_text().strip() or settings.emulated.release
    return settings.emulated.release


async def open_machine(settings: AgentSettings, root: str) -> Machine:
    """This boot of the emulated node. Raises KernelError."""
    from node_agent.kernel.emulated.client import ProcessKernel
    from node_agent.kernel.emulated.process_sessions import ProcessSession
    from node_agent.runtime.runner_effects import HostedDisks
    from node_agent.workloads.default_kernel import HookDriver
    from node_agent.workloads.hooks import CommandHooks

    kernel = ProcessKernel(root)
    hooks = CommandHooks(settings.hooks, {"LIVEROLL_NODE": settings.node_id})
    return Machine(
        kernel=kernel,
        facts=await kernel.facts(),
        clock=await kernel.clock(),
        capabilities=("luo", "kho", "emulated"),
        adopt=ProcessSession,
        hooks=hooks,
        default_kernel=Firmware(settings, root, HookDriver(hooks)),
        disks=HostedDisks(),
    )


class Firmware:
    """ports.DefaultKernel: the emulated firmware's, after the node's own command.

    Args:
        root: of the emulated node.
    """

    def __init__(self, settings: AgentSettings, root: str, command: DefaultKernel) -> None:
        self._command = command
        self._file = settings.state_dir / "default-kernel"
        self._root = root

    async def choose(self, choice: BootChoice) -> None:
        """It starts this one from now on, also after this node was ended. Raises HookFailed."""
        from node_agent.kernel.emulated import syncclient

        await self._command.choose(choice)
        await asyncio.to_thread(syncclient.control, self._root, "default", choice.release)
        await asyncio.to_thread(self._file.write_text, choice.release)
