"""How long from exec of `liveroll-agent` to its first Hello at a server.

Beside it, in the same run, a bare Python process that imports grpc.aio, opens a stream and sends
one message: what any agent in Python would pay at least. The emulated kernel boots in no time:
how long it pretends to is a setting.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import agent_pb2_grpc as rpc

from tests.bench.result import Result

ROUNDS = 5
TIMEOUT_S = 30.0
BARE = """\
import asyncio, sys
import grpc.aio

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
        call = channel.stream_stream("/liveroll.v1.AgentService/Link")()
        await call.write(b"")
        await call.read()

asyncio.run(main())
"""


class Door(rpc.AgentServiceServicer):
    """Notes when the first message of a stream comes in, and keeps the stream open."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[float] = asyncio.Queue()

    async def Link(
        self, messages: AsyncIterator[pb.LinkRequest], _context: object
    ) -> AsyncIterator[pb.LinkResponse]:
        async for _ in messages:
            self.came.put_nowait(time.monotonic())
            break
        await asyncio.get_running_loop().create_future()
        yield pb.LinkResponse()


async def first_message_s(door: Door, command: list[str]) -> float:
    """From exec of the command to its first message."""
    while not door.came.empty():
        door.came.get_nowait()
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await door.came.get() - began
    finally:
        # The emulated kernel passes SIGTERM on to its userspace and waits for it.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def median_s(door: Door, command: list[str]) -> float:
    """Of ROUNDS, after one that fills the caches."""
    await first_message_s(door, command)
    return statistics.median([await first_message_s(door, command) for _ in range(ROUNDS)])


async def _run(directory: Path) -> list[Result]:
    door = Door()
    server = grpc.aio.server()
    rpc.add_AgentServiceServicer_to_server(door, server)  # type: ignore[no-untyped-call]
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    agent = str(Path(sys.executable).parent / "liveroll-agent")
    state = directory / "node"
    try:
        bare_s = await median_s(door, [sys.executable, "-c", BARE, address])
        figures = {
            "simulate --nodes 1": await median_s(
                door, [agent, "simulate", "--nodes", "1", "--kexec-s", "0", "--orchestrator", address]
            ),
            "run (kernel and agent)": await median_s(
                door,
                [agent, "run", "--orchestrator", address, "--node-id", "bench", "--kexec-s", "0",
                 "--state-dir", str(state), "--root", str(state / "root")],
            ),
        }  # fmt: skip
    finally:
        await server.stop(None)
    return [
        Result(
            f"liveroll-agent {what}: exec to Hello",
            taken_s,
            "s",
            "python, grpc.aio, one message",
            bare_s,
            "< 0.5 s",
        )
        for what, taken_s in figures.items()
    ]


def run() -> list[Result]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with tempfile.TemporaryDirectory(prefix="liveroll-bench-") as directory:
        return asyncio.run(_run(Path(directory)))
