"""QEMU's machine protocol: one command at a time, and the events that come in between.

Source: QEMU's docs/interop/qmp-spec.txt. Each line is a JSON object: a greeting, an answer
("return" or "error"), or an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, Self

from deploy.lab.errors import LabError

ANSWER_TIMEOUT_S = 20.0
"""QEMU answers from its main loop; under load on a small machine that can take seconds."""


class Monitor:
    """A QMP session. Use `Monitor.open()`; close() when done.

    on_event: called with (name, data) of each event, from the reading task.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._reader, self._writer, self._on_event = reader, writer, on_event
        self._turn = asyncio.Lock()
        self._answers: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read(), name="qmp")

    @classmethod
    async def open(
        cls, connection: socket.socket, on_event: Callable[[str, Mapping[str, Any]], None]
    ) -> Self:
        """Take the greeting and leave negotiation. Raises LabError (MONITOR_LOST)."""
        reader, writer = await asyncio.open_connection(sock=connection)
        monitor = cls(reader, writer, on_event)
        try:
            await monitor.command("qmp_capabilities")
        except BaseException:
            await monitor.close()
            raise
        return monitor

    async def command(self, name: str, **arguments: object) -> Any:
        """Its answer. Raises LabError: MONITOR_LOST, MONITOR_REFUSED."""
        async with self._turn:
            self._writer.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._writer.drain()
                    answer = await self._answers.get()
            except (OSError, TimeoutError) as error:
                raise _lost(name) from error
        if answer is None:
            self._answers.put_nowait(None)  # for whoever asks next
            raise _lost(name)
        if "error" in answer:
            said = answer["error"].get("desc", "no reason")
            raise LabError(f"QEMU refused {name}: {said}", reason="MONITOR_REFUSED")
        return answer["return"]

    async def close(self) -> None:
        """End the session; QEMU goes on."""
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading
        self._writer.close()

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                if "event" in message:
                    self._on_event(message["event"], message.get("data", {}))
                elif "return" in message or "error" in message:
                    self._answers.put_nowait(message)
        except (OSError, ValueError):
            pass
        finally:
            self._answers.put_nowait(None)


def _lost(name: str) -> LabError:
    return LabError(
        f"QEMU ended before it answered {name}",
        reason="MONITOR_LOST",
        remedy="Its last words are in the node's supervisor log.",
    )
