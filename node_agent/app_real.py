"""A real node: this machine's kernel, clocks and filesystems.

Rules
- The clock is made first: its TSC frequency is the better, the longer it has run before PRESERVE_DONE.
- What an agent of this boot that died in its jump has left frozen is thawed before the journal is opened,
  and before anything is logged: the log may lie on what is frozen.
- What the blackout path of the next boot must know is written down at each start.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from node_agent.app_machine import Machine
from node_agent.errors import JournalLocked, SettingsError
from node_agent.settings import AgentSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from node_agent.ports import BootFacts, DefaultKernel
    from node_agent.runtime.supervisor_log import Log
    from node_agent.workloads.hooks import CommandHooks


async def open_machine(settings: AgentSettings, log: Log) -> Machine:
    """This boot of this machine.

    Raises:
        KernelError: it cannot be asked what it is.
    """
    from node_agent.kernel.real import kexec
    from node_agent.kernel.real.clock import RealClock
    from node_agent.kernel.real.kernel import RealKernel
    from node_agent.runtime.freeze import open_disks
    from node_agent.runtime.quiesce import Quiesce
    from node_agent.runtime.quiesce_marker import Marker
    from node_agent.workloads.hooks import CommandHooks

    clock = RealClock(tsc_reader(settings.clock_tsc))
    kernel = RealKernel()
    facts = await kernel.facts()
    hooks = CommandHooks(settings.hooks, {"LIVEROLL_NODE": settings.node_id})

    def complain(what: str, why: str) -> None:
        log.warning(what, why=why, remedy="the jump is made all the same; see quiesce in operations.md")

    return Machine(
        kernel=kernel,
        facts=facts,
        clock=clock,
        capabilities=("luo", "kho") if facts.luo else (),
        adopt=kernel.adopt,
        hooks=hooks,
        default_kernel=_default_kernel(hooks),
        know_hz=clock.know_hz,
        disks=Quiesce(
            Marker(settings.frozen_note, facts.boot_id),
            kexec.reboot,
            open_all=open_disks if settings.quiesce == "freeze" else tuple,
            complain=complain,
        ),
    )


def tsc_reader(choice: str) -> Callable[[], int]:
    """What reads the TSC; one that says 0 is none."""
    from node_agent.kernel.tsc import open_tsc

    read = open_tsc(trust=choice == "trust") if choice != "off" else None
    return read or (lambda: 0)


def _default_kernel(hooks: CommandHooks) -> DefaultKernel:
    from node_agent.workloads.default_kernel import HOOK, HookDriver, NoDriver

    return HookDriver(hooks) if HOOK in hooks.commands else NoDriver()


async def thaw_left_over(settings: AgentSettings, boot_id: str) -> None:
    """Thaw what a dead agent of this boot has left frozen.

    Raises:
        JournalLocked: its last thread is still inside reboot; what it has frozen is thawed when it is gone.
    """
    from node_agent.runtime.quiesce_marker import left_over

    found = left_over(settings.frozen_note, boot_id)
    if found is None:
        return
    if found.held():
        threading.Thread(target=found.thaw, name="thaw", daemon=True).start()
        raise JournalLocked("another process is inside reboot", path=settings.journal)
    await asyncio.to_thread(found.thaw)


def note_for_resume(settings: AgentSettings, log: Log) -> None:
    """Write down what the blackout path of the next boot must know. Blocks.

    Raises:
        SettingsError: it cannot be written.
    """
    from node_agent.resume.mounts import wanted
    from node_agent.resume.parameters import CONF, CONF_WORD, Parameters, write

    path, keeper = settings.resume_conf, str(settings.control_socket.with_name("keeper.sock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(
            str(path),
            Parameters(
                str(settings.journal),
                str(settings.broker_socket),
                mode=settings.broker_mode,
                gid=settings.broker_gid,
                keeper=keeper,
                mounts=wanted(str(settings.broker_socket), keeper),
            ),
        )
    except OSError as error:
        raise SettingsError(
            f"cannot write {path}: {error.strerror}",
            reason="STATE_DIR",
            remedy="run the agent as root, with a state_dir that it may write to",
        ) from error
    if str(path) != CONF:
        log.warning(
            "the state directory is not the usual one: every kernel must be told of it",
            remedy=f"add {CONF_WORD}{path} to the node's command line, or keep {CONF} where it is looked for",
        )


def bundle_early_init(settings: AgentSettings, log: Log) -> None:
    """Write the early init's code into the one file that it reads, if that is where it looks. Blocks for
    as long as compiling a few modules takes, so not before the link."""
    from node_agent.resume import bundle

    if str(settings.state_dir / Path(bundle.BUNDLE).name) != bundle.BUNDLE:
        return
    try:
        bundle.write()
    except OSError as error:
        log.warning("no bundle for the early init", why=error.strerror, remedy="it starts a little slower")


def warn_of_what_is_missing(settings: AgentSettings, facts: BootFacts, log: Log) -> None:
    """What makes a node on which nothing can be updated, or half of it, said at the start."""
    if os.geteuid() != 0:
        log.warning("not root", why="no live update can be made", remedy="start the agent as root")
    elif facts.poisoned:
        log.warning(
            "/dev/liveupdate answers EIO in this boot",
            why="what the last kernel handed over could not be read",
            remedy="reboot the node in full",
        )
    elif not facts.luo:
        log.warning(
            "this kernel takes part in no live update",
            why="/dev/liveupdate is not there",
            remedy="boot a kernel with CONFIG_LIVEUPDATE=y, with kho=on liveupdate=on on its command line",
        )
    if "set_default_kernel" not in settings.hooks:
        log.warning(
            "nothing says what a cold boot starts",
            why="hooks.set_default_kernel is not set",
            remedy="set it to a command that changes the boot loader's default; until then a power cut "
            "after COMMIT boots the old kernel",
        )
