"""A broker over the emulated kernel, and a client as luo-agent's documentation describes one."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.model import LuoModel
from node_agent.ports import KexecImage
from node_agent.runtime.broker import Broker, BrokerTimeouts

QUICK = BrokerTimeouts(preserve_s=5, suspend_s=5, claim_s=5, resume_s=5, release_s=5)
GIVES_UP = replace(QUICK, release_s=0.3)
"""For a session that somebody holds on to: this is waited out."""


class Machine:
    """A model and this process's view of it; kexec() makes the next boot's."""

    def __init__(self, image: EmulatedImage | None = None) -> None:
        boots = iter(range(1, 100))
        image = image or EmulatedImage("7.2.13")
        self.model = LuoModel(
            image, new_boot_id=lambda: f"boot-{next(boots)}", images=ImageTable(otherwise=image)
        )
        self.kernel = self._view()

    def _view(self) -> InProcessKernel:
        return InProcessKernel(self.model, lambda: None, lambda: None)

    async def kexec(self) -> InProcessKernel:
        await self.kernel.load(KexecImage("/k", "", "kho=on liveupdate=on", "7.3.4"))
        self.model.freeze()
        self.kernel.die(jumped=True)
        assert self.model.jump().arrived
        self.model.arrive()
        self.kernel = self._view()
        return self.kernel

    def close(self) -> None:
        self.kernel.die(jumped=True)
        self.model.power_off()


@contextlib.asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[Broker]:
    """The broker in a task of its own, as the agent's task group would have it."""
    task = asyncio.create_task(broker.run())
    listening = asyncio.create_task(broker.listening.wait())
    try:
        await asyncio.wait({task, listening}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield broker
    finally:
        for each in (listening, task):
            each.cancel()
        await asyncio.wait({listening, task})


class PlainClient:
    """Knows SUBSCRIBE, READY and CLAIM, and reads one line at a time. No library."""

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.fds: list[int] = []
        self.data = b""

    async def connect(self) -> PlainClient:
        await asyncio.get_running_loop().sock_connect(self.sock, self.path)
        return self

    def raw(self, data: bytes, fds: list[int] | None = None) -> None:
        socket.send_fds(self.sock, [data], fds or [])

    def say(self, **words: object) -> None:
        self.raw(json.dumps(words).encode() + b"\n")

    async def hear(self) -> dict[str, object] | None:
        """The next line; None at the end."""
        while b"\n" not in self.data:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(4096, 256, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._readable()
                continue
            except ConnectionResetError:
                return None
            for _, _, payload in ancillary:
                self.fds.extend(array.array("i", payload))
            if not data:
                return None
            self.data += data
        line, _, self.data = self.data.partition(b"\n")
        words: dict[str, object] = json.loads(line)
        return words

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.add_reader(self.sock, lambda: future.done() or future.set_result(None))
        try:
            async with asyncio.timeout(10):
                await future
        finally:
            loop.remove_reader(self.sock)

    def take_fd(self) -> int:
        return self.fds.pop(0)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.sock.close()


async def subscribed(path: Path | str, id: str, *, suspends: bool = True) -> PlainClient:
    client = await PlainClient(path).connect()
    if suspends:
        client.say(cmd="SUBSCRIBE", id=id, extensions=["suspend"])
        assert await client.hear() == {"event": "SUBSCRIBED", "id": id}
    else:
        client.say(cmd="SUBSCRIBE", id=id)
    return client


async def until(broker: Broker, *ids: str) -> None:
    """Plain clients get no answer to SUBSCRIBE: let the loop run until the broker has heard them."""
    async with asyncio.timeout(5):
        while tuple(sorted(await broker.subscribers())) != tuple(sorted(ids)):
            await asyncio.sleep(0)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def what_is_open() -> set[tuple[str, str]]:
    """Each descriptor with what it is of; the listing's own is gone by the time it is looked at."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found
