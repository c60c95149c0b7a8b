"""A TCP connection that can be cut, frozen and slowed: what a network does to it, without root."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

CHUNK = 1 << 16


class Wire:
    """Listens on a loopback port of its own and forwards to host:port. `async with` it.

    cut() ends all connections and refuses new ones; freeze() lets them stand and carries nothing, as a
    network does that loses every packet, hold_back() nothing of what the far end says; delay_s is what
    each piece of data waits. heal() ends all, and what was kept arrives.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.port = 0
        self.delay_s = 0.0
        self._open = True
        self._flows = asyncio.Event()
        self._flows.set()
        self._flows_back = asyncio.Event()
        self._flows_back.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._open = False
        self.drop()

    def drop(self) -> None:
        """Ends what is there; new connections are taken."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        self._flows.clear()
        self._flows_back.clear()

    def hold_back(self) -> None:
        self._flows_back.clear()

    def heal(self) -> None:
        self._open, self.delay_s = True, 0.0
        self._flows.set()
        self._flows_back.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._carry(reader, writer)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            if not self._open:
                return
            host, _, port = self.target.rpartition(":")
            await self._flows.wait()
            far_reader, far = await asyncio.open_connection(host, int(port))
            self._writers.add(far)
            both = [
                asyncio.ensure_future(self._pump(reader, far, self._flows)),
                asyncio.ensure_future(self._pump(far_reader, writer, self._flows_back)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in both:
                    pump.cancel()
                await asyncio.wait(both)
        finally:
            for side in (writer, far):
                if side is not None:
                    self._writers.discard(side)
                    side.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await flows.wait()
                writer.write(data)
                await writer.drain()
