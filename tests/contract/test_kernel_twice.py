"""A node that is started a second time over the same directory: the first goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from node_agent.kernel.emulated import syncclient, synctokens
from tests.contract.test_kernel_process import COMMAND

RFC2 = ("--luo-model", "rfc-v2", "--release", "6.16.1", "--")
SLEEPS = (sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()")


async def test_a_second_kernel_does_not_take_a_node_over(tmp_path: Path) -> None:
    root = str(tmp_path / "node")
    first = await asyncio.create_subprocess_exec(
        *COMMAND, root, *RFC2, *SLEEPS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    assert first.stdin is not None
    assert await first.stdout.readline() == b"up\n"
    boot = syncclient.facts(root)["boot_id"]
    device = syncclient.open_device(root)
    memory = os.memfd_create("kept")
    synctokens.preserve(device, memory)
    synctokens.prepare(device)
    second = await asyncio.create_subprocess_exec(
        *COMMAND, root, *RFC2, *SLEEPS, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert second.stdin is not None
    _, said = await second.communicate()
    assert (second.returncode, f"is the kernel of the node in {root}" in said.decode()) == (1, True)
    again = syncclient.open_device(root)
    assert (syncclient.facts(root)["boot_id"], synctokens.get_state(again)) == (boot, "prepared")
    for fd in (device, memory, again):
        os.close(fd)
    first.stdin.close()
    assert await first.wait() == 0
    third = await asyncio.create_subprocess_exec(*COMMAND, root, *RFC2, sys.executable, "-c", "")
    assert await third.wait() == 0, "and afterwards it can be started"
