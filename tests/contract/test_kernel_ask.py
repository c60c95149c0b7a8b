"""A node's kernel process asked from a shell."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.rfc2_process import Node, running


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running(tmp_path / "node", "--coupling", "notifier") as node:
        yield node


async def ask(root: str, *words: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node_agent.kernel.emulated.ask", "--root", root, *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode is not None
    return process.returncode, said


async def test_debugfs_by_hand(node: Node) -> None:
    finalize = ("debugfs_write", "kho/out/finalize", "1")
    assert await ask(node.root, *finalize) == (0, "")
    assert node.state == "prepared"
    assert await ask(node.root, "view", "/sys/kernel/liveupdate/state") == (0, "prepared\n")
    assert await ask(node.root, *finalize) == (1, "error: debugfs_write: EEXIST\n")
    assert await ask(node.root, "loaded") == (0, "0\n")


async def test_debugfs_by_hand_where_luo_alone_drives_kho(tmp_path: Path) -> None:
    async with running(tmp_path / "other", "--coupling", "luo-driven") as node:
        refused = await ask(node.root, "debugfs_write", "kho/out/finalize", "1")
    assert refused == (1, "error: debugfs_write: EOPNOTSUPP\n")


async def test_what_is_asked_wrongly(node: Node) -> None:
    assert await ask(node.root, "view") == (1, "error: view: EINVAL; its arguments are: PATH\n")
    assert await ask(node.root, "facts", "all") == (1, "error: facts: EINVAL; its arguments are: none\n")
    assert (await ask(node.root, "nonsense"))[0] == 2
    # The kernel's own answer, and not that it does not run.
    assert await ask(node.root, "load", "/no", "", "", "6.16") == (1, "error: load: ENOENT\n")
    assert await ask(node.root, "debugfs_write", "kho/out/finalize", "x") == (
        1,
        "error: debugfs_write: EINVAL\n",
    )
    assert await ask(node.root, "default") == (
        1,
        "error: default: EINVAL; its arguments are: RELEASE [COMMAND_LINE]\n",
    )


async def test_a_kernel_that_does_not_run() -> None:
    assert await ask("/no/such", "facts") == (6, "error: no kernel process runs in /no/such\n")


async def test_the_plug_is_pulled(node: Node) -> None:
    assert await ask(node.root, "power_loss") == (0, "")
    await node.boot()
