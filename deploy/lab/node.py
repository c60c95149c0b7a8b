"""`python -m deploy.lab.node DIRECTORY`: the process that is a node's firmware and power.

It is detached from whoever starts it, and its mark (pid and start time) is in the directory.
SIGTERM ends it and its machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.lab import control, description
from deploy.lab.description import NodeFiles
from deploy.lab.errors import LabError
from deploy.lab.processes import mark, write_mark
from deploy.lab.supervisor import Supervisor


async def supervise(files: NodeFiles) -> None:
    """Until SIGTERM, or `end` on the control socket. Raises LabError."""
    supervisor = Supervisor(description.load(files.description), files, say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.end)

    async def perform(request: Mapping[str, Any]) -> Mapping[str, Any]:
        word = str(request.get("do", ""))
        if word == "end":
            supervisor.end()
        elif word != "status":
            await supervisor.power(word)
        return supervisor.status()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            if line:
                writer.write(await control.answer(line, perform))
                await writer.drain()
        except OSError:
            pass  # whoever asked is gone
        finally:
            writer.close()

    async with await asyncio.start_unix_server(serve, sock=control.listen(files.control)):
        write_mark(files.mark, mark(os.getpid()))
        await supervisor.run()


def say(text: str) -> None:
    """One line of the log."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Be the firmware and the power of one lab node.")
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    try:
        asyncio.run(supervise(NodeFiles(options.directory)))
    except LabError as error:
        say(f"{error} [{error.reason}] {error.remedy}")
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
