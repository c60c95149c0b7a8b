"""A JumpIntent that is found by a boot which it did not lead to, with real processes: under its tokens are
somebody else's files, and neither the blackout path nor the full agent gives any of them out."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from node_agent.kernel.emulated import syncclient, synctokens
from tests.integration.test_agent_run import running, state
from tests.integration.test_rfc2_node import BOTH, loaded, luo

__all__ = ["state"]

pytestmark = pytest.mark.integration

STRANGERS = 8
"""More files than the attempt had."""


@BOTH
async def test_files_of_somebody_elses_stay_his(state: Path, tmp_path: Path, coupling: str) -> None:
    model = ("--luo-model", f"rfc-v2/{coupling}", "--release", "6.16.0")
    async with running(state, *model, "--faults", "panic@1") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "k")
        await node.luoctl("prepare", digest)
        root, journal = str(state / "root"), os.open(state / "journal", os.O_RDWR)
        try:
            # Who waits for the lock has it as soon as the jump kills the agent: the next one is stuck.
            held = asyncio.create_task(asyncio.to_thread(fcntl.flock, journal, fcntl.LOCK_EX))
            await node.luoctl("kexec")
            await held
            await node.until("stuck")
            device = syncclient.open_device(root)
            for _ in range(STRANGERS):
                memory = os.memfd_create("a stranger's")
                os.write(memory, b"nobody else's business")
                synctokens.preserve(device, memory)
                os.close(memory)
            synctokens.prepare(device)
            os.close(device)
            (kernel,) = (tmp_path / "k").glob("**/*vmlinuz*")
            syncclient.control(root, "load", str(kernel), "", "kho=on liveupdate=on", "6.16.5")
            with pytest.raises(OSError, match="KEXEC"):
                await asyncio.to_thread(syncclient.control, root, "reboot")
        finally:
            os.close(journal)
        await node.until("COLD_BOOT")
        status = await node.status()
        assert (status["phase"], status["release"]) == ("COLD_BOOTED", "6.16.5")
        assert luo(node) == "updated", "it is his to finish"
        files = syncclient.control(root, "files").splitlines()
        assert sum(line.endswith("arrived") for line in files) >= STRANGERS - 1, "but what names the attempt"
        assert "claimed" not in "\n".join(node.lines)
