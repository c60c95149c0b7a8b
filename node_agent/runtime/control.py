"""The node's own control socket, which luoctl speaks to: one JSON line each way a connection.

Request: {"cmd": …, arguments}. Answer: {"ok": true, "result": …} or {"ok": false, "error":
{reason, retry, message, remedy, fields}}. A descriptor may come along with either line, where the
command is about one. Rules:
- Only root and the agent's own user are served, by SO_PEERCRED: file modes are not trusted alone.
- A request is at most LINE_MAX bytes and must come within REQUEST_S; nothing it says can crash
  the agent.
- Whatever a handler fails with is an answer: none at all means that the agent, or its boot, is gone.
- One descriptor at most, and only with a command that takes one; whatever else comes is closed
  and the request refused.
- A socket file that nobody answers on is a leftover and is replaced; one that answers belongs
  to a running agent.

Not here: what the commands do (the app hands in a handler for each), the bytes (control_wire).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node_agent.errors import AgentError, CommandRefused, Retry, SettingsError
from node_agent.runtime import control_wire as wire

log = logging.getLogger(__name__)

LINE_MAX = 64 * 1024
REQUEST_S = 5.0
BACKLOG = 100
"""Connections that wait to be taken; luoctl is run by people and their scripts."""
_UCRED = struct.Struct("3i")
"""struct ucred: pid, uid, gid. Source: unix(7)."""

Handler = Callable[[Mapping[str, object]], Awaitable[object]]
FdHandler = Callable[[Mapping[str, object], int], Awaitable[object]]
"""Of a command that takes a descriptor: the request, and it. It stays the server's."""


class ControlError(AgentError):
    """A request on the control socket that cannot be served."""

    reason = "BAD_REQUEST"


@dataclass(frozen=True, slots=True)
class WithFd:
    """A handler's result that a descriptor goes along with."""

    result: object
    fd: int
    """The server's from here on: closed once it is sent, or cannot be."""


class ControlServer:
    """Serves handlers by name.

    Args:
        path: of the socket; its directory is made (0700) if missing.
        handlers: command → coroutine function of the request, returning what JSON can say, or WithFd.
        takers: the same for commands that must come with a descriptor.
        uids: who else than root is served; the own user by default.
    """

    def __init__(
        self,
        path: Path,
        handlers: Mapping[str, Handler],
        takers: Mapping[str, FdHandler] | None = None,
        *,
        uids: frozenset[int] | None = None,
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._takers = takers or {}
        self._uids = (uids if uids is not None else frozenset({os.geteuid()})) | {0}
        self._served: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serve until the context is left. Raises SettingsError."""
        await asyncio.to_thread(self._clear_the_way)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            try:
                listener.bind(str(self._path))
            except OSError as error:
                raise SettingsError(
                    f"cannot listen on {self._path}: {error.strerror or error}",
                    reason="CONTROL_SOCKET",
                    remedy="set control.socket to a place this user may write to",
                ) from error
            os.chmod(self._path, 0o600)
            listener.listen(BACKLOG)
            accepting = asyncio.create_task(self._accept(listener))
            try:
                yield
            finally:
                tasks = (accepting, *self._served)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                with suppress(FileNotFoundError):
                    os.unlink(self._path)

    def _clear_the_way(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except FileNotFoundError:
                return
            except OSError:
                self._path.unlink(missing_ok=True)
                return
        raise SettingsError(
            f"another agent answers on {self._path}",
            reason="ALREADY_RUNNING",
            remedy="end the other agent, or give this one its own control.socket",
        )

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:
                # Out of descriptors, or a caller that was gone at once: the next may fare better.
                await asyncio.sleep(REQUEST_S / 100)
                continue
            task = asyncio.create_task(self._serve_one(sock))
            self._served.add(task)
            task.add_done_callback(self._served.discard)

    async def _serve_one(self, sock: socket.socket) -> None:
        with sock:
            sock.setblocking(False)
            # The connection's: the caller went away. What it asked for is done, or refused.
            with suppress(OSError, TimeoutError):
                answer = await self._answer(sock)
                async with asyncio.timeout(REQUEST_S):
                    await self._tell(sock, answer)
                    sock.shutdown(socket.SHUT_WR)
                    # Closed over bytes that are still to come, the caller's write would fail, and it
                    # would never read the answer (who is denied is answered before it has asked).
                    await wire.drain(sock)

    @staticmethod
    async def _tell(sock: socket.socket, answer: dict[str, object]) -> None:
        result = answer.get("result")
        if not isinstance(result, WithFd):
            await wire.send(sock, json.dumps(answer).encode() + b"\n")
            return
        try:
            line = json.dumps({**answer, "result": result.result}).encode() + b"\n"
            await wire.send(sock, line, result.fd)
        finally:
            os.close(result.fd)

    async def _answer(self, sock: socket.socket) -> dict[str, object]:
        fds: list[int] = []
        try:
            self._admit(sock)
            return {"ok": True, "result": await self._do(await self._read(sock, fds), fds)}
        except AgentError as error:
            return {
                "ok": False,
                "error": {
                    "reason": error.reason,
                    "retry": error.retry.value,
                    "message": error.message,
                    "remedy": error.remedy,
                    "fields": dict(error.fields),
                },
            }
        finally:
            for fd in fds:
                os.close(fd)

    async def _do(self, request: Mapping[str, object], fds: list[int]) -> object:
        name = request.get("cmd")
        taker = self._takers.get(name) if isinstance(name, str) else None
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if taker is None and handler is None:
            known = ", ".join(sorted({*self._handlers, *self._takers}))
            raise ControlError(f"unknown command {name!r}", remedy=f"use one of {known}")
        if len(fds) != (taker is not None):
            raise ControlError(
                f"{name} takes {'one descriptor' if taker is not None else 'no descriptor'}, {len(fds)} came",
                remedy="use luoctl",
            )
        try:
            if taker is not None:
                return await taker(request, fds[0])
            assert handler is not None
            return await handler(request)
        except AgentError:
            raise
        except Exception as cause:
            log.exception("%s failed in a way nobody foresaw", name)
            raise CommandRefused(
                f"{name} failed with {type(cause).__name__}",
                reason="INTERNAL",
                retry=Retry.FIX_STATE,
                remedy="Read the agent's log for the traceback, and report it.",
            ) from cause

    def _admit(self, sock: socket.socket) -> None:
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in self._uids:
            raise ControlError(
                f"user {uid} may not control this agent",
                reason="PERMISSION_DENIED",
                retry=Retry.NEVER,
                remedy="run luoctl as root or as the agent's user",
            )

    async def _read(self, sock: socket.socket, fds: list[int]) -> Mapping[str, object]:
        try:
            async with asyncio.timeout(REQUEST_S):
                request = json.loads(await wire.receive(sock, fds, LINE_MAX))
        except (ValueError, RecursionError, TimeoutError) as error:
            raise ControlError("the request is not one line of JSON", remedy="use luoctl") from error
        if not isinstance(request, dict):
            raise ControlError("the request is not a JSON object", remedy="use luoctl")
        return request
