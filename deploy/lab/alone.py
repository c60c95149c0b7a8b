"""One guest without an orchestrator: its agent links to nobody, `luoctl` drives it.

async with Guest(directory, Wanted(nodes=1)) as guest:
    await guest.node.wait_boot()
    await guest.node.luoctl("status", "-o", "json")
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.lab import accel, artifacts, paths
from deploy.lab.description import NodeFiles
from deploy.lab.fleet import NODE_STOP_S, kernel_of, make_node, remove, start_node
from deploy.lab.handle import Node
from deploy.lab.paths import Lab
from deploy.lab.ports import free_ports
from deploy.lab.processes import end, read_mark
from deploy.lab.wanted import Wanted


class Guest:
    """Use as an async context manager; it ends with the process that made it, at the latest.

    Args:
        directory: of its state; removed in the end unless keep.
        wanted: as of a fleet, with one node.
    """

    def __init__(
        self, directory: Path, wanted: Wanted | None = None, *, lab: Lab | None = None, keep: bool = False
    ) -> None:
        self.directory = directory.absolute()
        self.wanted = (wanted or Wanted(nodes=1)).checked()
        self.node = Node(NodeFiles(self.directory / "nodes" / self.wanted.names()[0]))
        self._lab, self._keep = lab, keep

    async def __aenter__(self) -> Self:
        """Raises LabError."""
        lab = self._lab if self._lab is not None else paths.load()
        kernel = kernel_of(lab, self.wanted.kernel)
        try:
            made = await asyncio.to_thread(artifacts.build_all, lab, self.artifacts_dir)
            running = await asyncio.to_thread(artifacts.content, made[kernel.name])
            used = await accel.choose(lab.kernels["a"].image, lab.cache)
            ports = free_ports(2)
            await make_node(self.node.files, lab, self.wanted, 0, used, None, running, (ports[0], ports[1]))
            await start_node(self.node.files, bound=True)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    @property
    def artifacts_dir(self) -> Path:
        """The lab's kernels as artifacts, on the host."""
        return self.directory / "artifacts"

    async def _end(self) -> None:
        await asyncio.to_thread(end, read_mark(self.node.files.mark), NODE_STOP_S)
        if not self._keep:
            await asyncio.to_thread(remove, self.directory)
