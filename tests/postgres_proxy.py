"""Stands between a store and PostgreSQL, and cuts the connection at a chosen statement.

As a network does: before a statement has reached the server, after it has but before the answer,
or in between, so that it arrives when the sender has long given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""Source: PostgreSQL's manual, "Message Formats", SSLRequest."""

What = Literal["before", "after", "hold"]


@dataclass(slots=True)
class _Cut:
    what: What
    statement: bytes
    done: asyncio.Event


class Proxy:
    """On a loopback port of its own. With tls, it is the TLS that the server behind does not speak."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None) -> None:
        self._parts = urlsplit(url)
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._cut: _Cut | None = None
        self._held: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.refuses = False
        self.refused = asyncio.Event()
        """Somebody was, since it was last cleared."""
        self.accepts = asyncio.Event()
        """Cleared, newcomers wait."""
        self.accepts.set()
        self.passes = asyncio.Event()
        """Cleared, nothing gets through either way, and nobody is told."""
        self.passes.set()
        self.port = 0

    @property
    def url(self) -> str:
        user = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    def drop(self) -> None:
        """Every connection ends."""
        for writer in list(self._writers):
            writer.transport.abort()

    def cut(self, what: What, statement: bytes) -> asyncio.Event:
        """The next time that it is sent. before: it never arrives. after: its answer does not.
        hold: it arrives when release() is called. Set once it has happened."""
        self._cut = _Cut(what, statement, asyncio.Event())
        return self._cut.done

    def release(self) -> None:
        held, self._held = self._held, []
        for writer, data in held:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self.accepts.wait()
            if self.refuses:
                self.refused.set()
            else:
                await self._pass(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # either side has gone, or the test is over
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._tls is not None:
            if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                return  # it would have talked in the clear
            writer.write(b"S")
            await writer.start_tls(self._tls)
        up_reader, up = await asyncio.open_connection("127.0.0.1", self._parts.port)
        self._writers.add(up)
        down = asyncio.create_task(self._copy(up_reader, writer))
        try:
            while data := await reader.read(65536):
                await self.passes.wait()
                cut = self._cut
                if cut is None or cut.statement not in data:
                    up.write(data)
                    continue
                self._cut = None
                await _end(down)
                writer.transport.abort()
                if cut.what == "hold":
                    self._held.append((up, data))
                elif cut.what == "after":
                    up.write(data)
                cut.done.set()
                if cut.what != "before":
                    await up_reader.read()  # until the server is done with it, or the test
                return
        finally:
            await _end(down)
            up.transport.abort()
            self._writers.discard(up)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.passes.wait()
            writer.write(data)
        writer.transport.abort()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, OSError):
        await task
