"""`liveroll` as a process against a real server: a first use, and every way to be refused."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.integration.rpc_harness import Served, nodes, serving

FILE = """\
name: kernel-6.19.3
target: {artifact: linux-6.19.3}
selection:
  selector: pool=prod
budgets: {max_unavailable: 100%, max_in_blackout: 100%}
bake: {node: 0s, wave: 0s}
health_hold: 0s
"""


async def start(served: Served, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "orchestrator.cli.main",
        "--server",
        served.server,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def liveroll(served: Served, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await start(served, *arguments)
    out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rollout.yaml"
    path.write_text(FILE)
    return str(path)


async def test_plan_create_watch_story_and_rollback(file: str) -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        code, out, _ = await liveroll(served, "plan", file)
        assert (code, "2 nodes to 6.19.3" in out) == (0, True)
        code, out, err = await liveroll(served, "create", file, "--watch")
        assert (code, err) == (0, "")
        assert "rollout.created" not in out
        assert "SUCCEEDED" in out.splitlines()[-1] or "SUCCEEDED" in out
        code, out, _ = await liveroll(served, "create", file)
        assert (code, "SUCCEEDED" in out) == (0, True)
        code, out, _ = await liveroll(served, "story", "n1")
        assert (code, "attempt 1 of kernel-6.19.3" in out) == (0, True)
        code, out, _ = await liveroll(served, "events", "--node", "n2", "-o", "json")
        told = [json.loads(line) for line in out.splitlines()]
        assert {event["nodeId"] for event in told} == {"n2"}
        code, out, err = await liveroll(served, "pause", "kernel-6.19.3")
        assert code == 3
        assert "SUCCEEDED" in err
        assert "rollback" in err
        code, out, _ = await liveroll(served, "rollback", "kernel-6.19.3", "--watch", "-o", "json")
        assert code == 5
        assert json.loads(out.splitlines()[-1])["rollout"]["state"] == "ROLLOUT_STATE_ROLLED_BACK"


async def test_what_only_the_orchestrator_finds_has_the_files_line(file: str) -> None:
    async with serving() as served, nodes(served, "n1"):
        Path(file).write_text(FILE.replace("pool=prod", "pool=prd"))
        for command in ("plan", "create"):
            code, out, err = await liveroll(served, command, file)
            assert (code, out) == (2, "")
            assert err.startswith(f"{file}:4: selection.selector: ")
            assert err.splitlines()[-1].endswith("nothing was created")
        Path(file).write_text(FILE.replace("linux-6.19.3", "none"))
        code, _, err = await liveroll(served, "create", file)
        assert (code, "none" in err) == (2, True)


async def test_steering_the_fleet(file: str) -> None:
    async with serving() as served, nodes(served, "n1", "n2"):
        assert (await liveroll(served, "stop", "-m", "incident"))[0] == 0
        assert (await liveroll(served, "create", file))[0] == 0
        code, out, _ = await liveroll(served, "why")
        assert (code, "FLEET_STOPPED" in out) == (0, True)
        assert (await liveroll(served, "exclude", "kernel-6.19.3", "n2", "-m", "busy"))[0] == 0
        assert (await liveroll(served, "maintenance", "n2", "-m", "disk", "--for", "2h"))[0] == 0
        code, out, _ = await liveroll(served, "nodes", "-l", "zone=a")
        assert (code, "maintenance" in out) == (0, True)
        code, out, _ = await liveroll(served, "node", "n2", "-o", "yaml")
        assert (code, "reason: disk" in out) == (0, True)
        assert (await liveroll(served, "maintenance", "n2", "--end"))[0] == 0
        assert (await liveroll(served, "pause", "kernel-6.19.3"))[0] == 0
        assert (await liveroll(served, "release"))[0] == 0
        code, out, _ = await liveroll(served, "list", "-o", "json", "--active")
        assert json.loads(out)["rollouts"][0]["state"] == "ROLLOUT_STATE_PAUSED"
        assert (await liveroll(served, "cancel", "kernel-6.19.3"))[0] == 0
        code, out, _ = await liveroll(served, "watch", "kernel-6.19.3")
        assert (code, "CANCELLED" in out) == (5, True)
        code, _, err = await liveroll(served, "get", "none")
        assert (code, "none" in err) == (2, True)
        code, _, err = await liveroll(served, "get")
        assert (code, "no rollout is under way" in err) == (2, True)


async def test_ctrl_c_leaves_a_watch_cleanly(file: str) -> None:
    async with serving() as served, nodes(served, "n1"):
        await liveroll(served, "stop", "-m", "incident")
        await liveroll(served, "create", file)
        process = await start(served, "watch")
        assert process.stdout is not None
        assert b"kernel-6.19.3" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert "kernel-6.19.3 goes on" in err.decode()
        assert "Traceback" not in err.decode()


async def test_the_agents_port_is_not_the_operators() -> None:
    async with serving() as served:
        wrong = Served(served.orchestrator, served.rpc, None, None)
        wrong.rpc.operators_port, keep = served.rpc.agents_port, served.rpc.operators_port
        code, _, err = await liveroll(wrong, "list")
        wrong.rpc.operators_port = keep
        assert (code, "does not serve this call" in err) == (2, True)
