"""What an emulated node has beside a kernel: hooks whose default kernel is the emulated firmware's."""

from __future__ import annotations

import asyncio

from node_agent.ports import Artifacts
from node_agent.settings import AgentSettings
from node_agent.workloads.hooks import CommandHooks


class EmulatedHooks:
    """ports.Hooks: the node's own commands, and the emulated firmware at COMMIT.

    Args:
        root: of the emulated node.
        artifacts: to name the release of a digest.
    """

    def __init__(self, settings: AgentSettings, root: str, artifacts: Artifacts) -> None:
        self._commands = CommandHooks(settings.hooks, {"LIVEROLL_NODE": settings.node_id})
        self._default_file = settings.state_dir / "default-kernel"
        self._root = root
        self._artifacts = artifacts

    async def drain(self) -> None:
        """See ports.Hooks."""
        await self._commands.drain()

    async def undrain(self) -> None:
        """See ports.Hooks."""
        await self._commands.undrain()

    async def healthy(self) -> tuple[bool, str]:
        """See ports.Hooks."""
        return await self._commands.healthy()

    async def set_default_kernel(self, artifact_digest: str) -> None:
        """The emulated firmware starts it from now on, also after this node was ended."""
        from node_agent.kernel.emulated import syncclient

        await self._commands.set_default_kernel(artifact_digest)
        release = (await self._artifacts.get(artifact_digest)).release
        await asyncio.to_thread(syncclient.control, self._root, "default", release)
        await asyncio.to_thread(self._default_file.write_text, release)
