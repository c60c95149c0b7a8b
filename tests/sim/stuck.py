"""A reboot call that the kernel holds for a while, and a caller that is killed meanwhile.

The thread is inside the kernel: nobody can end it, its sessions stay open and its process keeps the
journal's lock. A service manager starts a second agent beside it, which must touch nothing until the
lock is free: the old thread may still jump.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from node_agent.errors import JournalLocked
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.node import Boot
from node_agent.kernel.failure import LOAD, failure

if TYPE_CHECKING:
    from tests.sim.node import SimNode

RESTART_S = 1.0


class StuckReboot:
    """A node's, over all its boots."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._second: asyncio.Task[None] | None = None
        self.boot: Boot | None = None
        """The one that runs."""
        self.inside = False
        """A thread is in the kernel, on its way out."""
        self.killed = False
        """Its process got SIGKILL, which waits."""

    async def hold(self) -> None:
        """As the seed says, some seconds in the kernel. Returns when it jumps."""
        node = self._node
        self.killed = False
        if not node.take_chance(node.world.rates.reboot_slow):
            return
        node.tell("the kernel holds the reboot")
        node.world.story.count("reboot held by the kernel")
        self.inside = True
        try:
            await asyncio.sleep(node.rng.uniform(1, 4))
            if node.take_chance(0.7):
                self.kill()
            await asyncio.sleep(node.rng.uniform(2, 15))
            node.world.checks.promises.leaving(node)
        finally:
            self.inside = False
            if self._second is not None:
                self._second.cancel()
                self._second = None
                node.world.network.join([node.node_id])

    def kill(self) -> None:
        """SIGKILL to the agent while its thread is inside: the link dies, the thread does not."""
        if self._second is not None:
            return
        node = self._node
        self.killed = True
        node.tell("the agent is killed inside reboot; another is started")
        node.world.story.count("agent killed inside reboot")
        node.world.network.part([node.node_id])
        self._second = asyncio.get_running_loop().create_task(self._start(), name=f"{node.name} second")

    async def _start(self) -> None:
        """The second agent, again and again until it gets the lock."""
        node, boot = self._node, self.boot
        assert boot is not None
        model = node.emulated.model
        while True:
            await asyncio.sleep(RESTART_S)
            kernel = InProcessKernel(model, lambda: None, lambda: None)
            try:
                await node._live(replace(boot, kernel=kernel), model.facts())
            except JournalLocked:
                node.world.story.count("a second agent finds the journal locked")

    def check_image(self) -> None:
        """Nobody loads or unloads while a reboot is on its way. Raises KernelError (EBUSY)."""
        if self.inside:
            raise failure(OSError(errno.EBUSY, LOAD))
