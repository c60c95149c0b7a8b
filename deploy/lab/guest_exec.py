"""The host's side of the guest's exec server (guest/execd.py): one command, one answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.lab.errors import LabError

PATIENCE_S = 10.0
"""Beyond the command's own timeout: a busy guest may take long to start a process."""
MAX_ANSWER_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command. rc is negative for a signal; pid only of a detached one."""

    rc: int
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False
    pid: int = 0


async def run(
    port: int, argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str = "", detach: bool = False
) -> Ran:
    """Run a command as root in the guest behind that port of 127.0.0.1.

    Raises LabError: GUEST_UNREACHABLE if nobody answers (it boots, or is in its blackout),
    GUEST_REFUSED if the command cannot be run.
    """
    request = {"argv": list(argv), "timeout_s": timeout_s, "stdin": stdin, "detach": detach}
    writer = None
    try:
        async with asyncio.timeout(timeout_s + PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=MAX_ANSWER_BYTES)
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
    except (OSError, TimeoutError, ValueError) as error:
        raise _unreachable(port) from error
    finally:
        if writer is not None:
            writer.close()
    if not line:
        raise _unreachable(port)
    return decode(json.loads(line))


def decode(answer: dict[str, Any]) -> Ran:
    """Raises LabError (GUEST_REFUSED)."""
    if "error" in answer:
        raise LabError(f"the guest cannot run that: {answer['error']}", reason="GUEST_REFUSED")
    if "pid" in answer:
        return Ran(0, pid=int(answer["pid"]))
    return Ran(
        int(answer["rc"]), str(answer["stdout"]), str(answer["stderr"]), bool(answer.get("timed_out", False))
    )


def _unreachable(port: int) -> LabError:
    return LabError(
        f"no guest answers on 127.0.0.1:{port}",
        reason="GUEST_UNREACHABLE",
        remedy="`liveroll lab status` says whether it is on; `liveroll lab console NODE` what it does.",
    )
