"""The node's own control socket, which luoctl speaks to: one JSON line each way a connection.

Request: {"cmd": …, arguments}. Answer: {"ok": true, "result": …} or {"ok": false, "error":
{reason, retry, message, remedy, fields}}. Rules:
- Only root and the agent's own user are served, by SO_PEERCRED: file modes are not trusted alone.
- A request is at most LINE_MAX bytes and must come within REQUEST_S; nothing it says can crash
  the agent.
- A socket file that nobody answers on is a leftover and is replaced; one that answers belongs
  to a running agent.

Not here: what the commands do (the app hands in a handler for each).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from node_agent.errors import AgentError, Retry, SettingsError

LINE_MAX = 64 * 1024
REQUEST_S = 5.0
_UCRED = struct.Struct("3i")
"""struct ucred: pid, uid, gid. Source: unix(7)."""

Handler = Callable[[Mapping[str, object]], Awaitable[object]]


class ControlError(AgentError):
    """A request on the control socket that cannot be served."""

    reason = "BAD_REQUEST"


class ControlServer:
    """Serves handlers by name.

    Args:
        path: of the socket; its directory is made (0700) if missing.
        handlers: command → coroutine function of the request, returning what JSON can say.
        uids: who else than root is served; the own user by default.
    """

    def __init__(
        self, path: Path, handlers: Mapping[str, Handler], *, uids: frozenset[int] | None = None
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._uids = (uids if uids is not None else frozenset({os.geteuid()})) | {0}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Serve until the context is left. Raises SettingsError."""
        await asyncio.to_thread(self._clear_the_way)
        try:
            server = await asyncio.start_unix_server(self._serve_one, self._path, limit=LINE_MAX)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {self._path}: {error.strerror}",
                reason="CONTROL_SOCKET",
                remedy="set control.socket to a place this user may write to",
            ) from error
        os.chmod(self._path, 0o600)
        try:
            async with server:
                yield
        finally:
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

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(reader, writer)
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(REQUEST_S):
                await writer.drain()
                writer.write_eof()
                # Closed over bytes that are still to come, the caller's write would fail, and it
                # would never read the answer (who is denied is answered before it has asked).
                while await reader.read(LINE_MAX):
                    pass
        except (OSError, TimeoutError):
            pass  # the caller went away; whatever it asked for is done or refused already
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, object]:
        try:
            self._admit(writer)
            request = await self._read(reader)
            name = request.get("cmd")
            handler = self._handlers.get(name) if isinstance(name, str) else None
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                raise ControlError(f"unknown command {name!r}", remedy=f"use one of {known}")
            return {"ok": True, "result": await handler(request)}
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

    def _admit(self, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in self._uids:
            raise ControlError(
                f"user {uid} may not control this agent",
                reason="PERMISSION_DENIED",
                retry=Retry.NEVER,
                remedy="run luoctl as root or as the agent's user",
            )

    async def _read(self, reader: asyncio.StreamReader) -> Mapping[str, object]:
        try:
            async with asyncio.timeout(REQUEST_S):
                request = json.loads(await reader.readline())
        except (ValueError, TimeoutError) as error:
            raise ControlError("the request is not one line of JSON", remedy="use luoctl") from error
        if not isinstance(request, dict):
            raise ControlError("the request is not a JSON object", remedy="use luoctl")
        return request
