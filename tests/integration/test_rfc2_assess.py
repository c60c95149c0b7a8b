"""`liveroll-agent assess` beside a node of RFC v2's model: which model it is, and where it can be taken."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from node_agent.assess import NOT_READY, READY
from tests.integration.test_agent_run import RunningNode, running, state
from tests.integration.test_rfc2_node import BOTH, RFC2, loaded
from tests.unit.artifacts_agent.publish import publish

pytestmark = pytest.mark.integration

__all__ = ["state"]


async def assess(node: RunningNode, artifact: Path) -> tuple[int, Any]:
    """The exit code, and what it says as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node_agent.cli", "assess", "--kernel", "emulated", "-o", "json"),
        *("--root", str(node.state / "root"), "--state-dir", str(node.state), "--artifact", str(artifact)),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, json.loads(said)


def reasons(told: Any) -> list[str]:
    return [finding["reason"] for finding in told["findings"]]


@BOTH
async def test_it_says_the_model_and_its_state(state: Path, tmp_path: Path, coupling: str) -> None:
    async with running(state, *RFC2, f"rfc-v2/{coupling}") as node:
        await node.until("fresh start")
        digest = await loaded(node, tmp_path / "own")
        publish(tmp_path / "silent", "6.16.6", kernel=b"placeholder", config=None, emulated=True)
        merged = {"kho": "kho-v4", "luo": "luo-v5", "handlers": {"memfd": "memfd-v2"}}
        publish(tmp_path / "merged", "6.19.1", kernel=b"k", config=None, emulated=True, live_update=merged)
        code, told = await assess(node, tmp_path / "own")
        assert (code, told["luo_model"], told["coupling"]) == (READY, "rfc-v2", coupling)
        assert (told["luo_state"], told["kho_finalized"]) == ("normal", False)
        assert (told["target"]["luo_model"], told["way_back"]["luo_model"]) == ("rfc-v2", "rfc-v2")
        code, told = await assess(node, tmp_path / "merged")
        assert (code, reasons(told)) == (NOT_READY, ["TARGET_MODEL_DIFFERS"])
        assert told["target"]["luo_model"] == "sessions"
        _, told = await assess(node, tmp_path / "silent")
        assert reasons(told) == ["TARGET_MODEL_UNKNOWN"]
        await node.luoctl("prepare", digest)
        _, told = await assess(node, tmp_path / "own")
        assert (told["luo_state"], told["kho_finalized"]) == ("prepared", True)
        assert reasons(told) == ["LUO_NOT_NORMAL", "SESSION_UNFINISHED"]
        await node.luoctl("cancel")
