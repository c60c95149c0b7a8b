"""What goes wrong around the processes: ports, state, clones, nobody there, Ctrl-C, damaged journals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.demo_parts import foreground
from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration import journal_reader
from tests.integration.conftest import (
    NEW,
    REPOSITORY,
    WAIT_S,
    Operator,
    alive,
    descendants,
    liveroll,
    module,
    run,
)
from tests.integration.real_node import RealNode

ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
budgets: {{max_unavailable: 2, max_in_blackout: 2, failures: {{max: 1}}}}
bake: {{node: 5m, wave: 5m}}
health_hold: 100ms
"""
FREE = "127.0.0.1:0"


@pytest.mark.integration
async def test_taken_ports_taken_state_and_a_cloned_node(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        await fleet.start_orchestrator()
        await fleet.start_agents("n", "--nodes", "1", "--kexec-s", "0.3")
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 1)
        taken = {"operators": fleet.operators, "agents": fleet.agents, "http": fleet.http}
        commands = [
            module("orchestrator.app", "run", "--state-dir", str(directory / f"second-{port}"),
                   *(w for p in taken for w in (f"--{p}", taken[p] if p == port else FREE)))
            for port in taken
        ]  # fmt: skip
        free = [word for p in taken for word in (f"--{p}", FREE)]
        commands.append(module("orchestrator.app", "run", "--state-dir", str(directory), *free))
        commands.append(
            module("node_agent.cli", "simulate", "--orchestrator", fleet.agents, "--nodes", "1",
                   "--prefix", "n", "--state-dir", str(directory / "n"))
        )  # fmt: skip
        ends = await asyncio.gather(*(asyncio.to_thread(run, command) for command in commands))
        for (port, address), done in zip(taken.items(), ends, strict=False):
            assert done.status == 2, done
            assert address in done.err
            assert f"another {port}.address" in done.err or f"set {port}.address to a free port" in done.err
        second, same_journal = ends[3:]
        assert second.status == 3, second
        assert fleet.orchestrator is not None
        pid = fleet.orchestrator.process.pid
        assert f"another orchestrator (process {pid}) has {directory}/liveroll.db open" in second.err
        assert f"to mend it: stop process {pid} first" in second.err
        assert same_journal.status == 4, same_journal
        assert "another process holds the journal" in same_journal.err
        assert "never start a second agent over the same state directory" in same_journal.err

        clone = RealNode(
            await fleet.spawn(
                "clone",
                module("node_agent.cli", "simulate", "--orchestrator", fleet.agents, "--nodes", "1",
                       "--prefix", "n", "--state-dir", str(directory / "clone")),
            ),
            directory / "clone" / "n-01",
        )  # fmt: skip
        await clone.until(lambda: "NODE_ID_CONFLICT" in clone.log, "refused")
        assert "node n-01 is enrolled with another installation" in clone.log
        assert "liveroll write-off n-01" in clone.log
        assert operator.nodes()["n-01"].link == "up"  # the first one has kept its link


@pytest.mark.integration
async def test_nobody_there(directory: Path) -> None:
    async with local_fleet(directory) as fleet:
        await fleet.start_orchestrator()
        await fleet.kill_orchestrator()
        for words in (("list",), ("watch", "k"), ("events", "--follow")):
            done = await liveroll(fleet, *words)
            assert done.status == 6, done
            assert done.lines == [
                f"liveroll: cannot reach the orchestrator at {fleet.operators}",
                "    Is it running, and is --server (or LIVEROLL_SERVER) its operators' address?",
            ]
        health = await asyncio.to_thread(
            run, module("orchestrator.app", "health", "--http", f"http://{fleet.http}")
        )
        assert health.status == 6
        assert "start it, or give its address with --http" in health.err
        luoctl = await asyncio.to_thread(
            run, module("node_agent.luoctl", "--socket", str(directory / "x.sock"), "status")
        )
        assert luoctl.status == 6
        assert "start liveroll-agent" in luoctl.err


@pytest.mark.integration
async def test_ctrl_c_in_a_watch_ends_the_watch_only(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        await fleet.start_agents("n", "--nodes", "2", "--kexec-s", "0.3")
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 2)
        await asyncio.to_thread(operator.create, ROLLOUT)
        for words in (("watch", "k"), ("events", "--follow")):
            watch = await fleet.spawn(words[0], fleet.liveroll(*words))
            node = RealNode(watch, directory)
            await node.until(lambda node=node: node.log.strip() != "", "on the screen")  # type: ignore[misc]
            watch.process.send_signal(signal.SIGINT)
            assert await watch.process.wait() == 130
            assert "Traceback" not in node.log
            assert "Error" not in node.log
        assert operator.rollout("k").state == pb.ROLLOUT_STATE_RUNNING


@pytest.mark.integration
def test_ctrl_c_in_the_demo_leaves_no_child(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "deploy.demo", "--directory", str(tmp_path / "d")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + WAIT_S
        while len(found := descendants(demo.pid)) < 5:  # orchestrator, three zones, the watch
            assert demo.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)
        # A terminal sends it to all of them.
        os.killpg(demo.pid, signal.SIGINT)
        out, _ = demo.communicate(timeout=WAIT_S)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, out
    assert "Traceback" not in out, out
    assert "Stopped; nothing is left running." in out
    assert not [pid for pid in found if alive(pid)]


@pytest.mark.integration
async def test_ctrl_c_at_a_commands_first_instruction(
    directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before a line of `liveroll` has run; nothing serves, so whoever lost the signal ends otherwise."""
    directory.mkdir(exist_ok=True)
    fleet = LocalFleet(directory, operators="127.0.0.1:9")
    command = asyncio.create_task(foreground(fleet, "nodes"))
    while not fleet.children:
        await asyncio.sleep(0)
    fleet.children[0].process.send_signal(signal.SIGINT)
    assert await command == 130
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["torn", "corrupt"])
async def test_a_damaged_journal(directory: Path, damage: str) -> None:
    """A torn record was never acknowledged: it is cut, and the node goes on. A wrong byte in a whole
    record: nothing is guessed, the file is kept, and the node waits for a person."""
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        arguments = ("--nodes", "1", "--kexec-s", "0.3")
        agents = await fleet.start_agents("n", *arguments)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 1)
        await asyncio.to_thread(operator.create, ROLLOUT)
        await asyncio.to_thread(
            operator.wait_for_event, lambda e: e.kind == "node.settled" and e.fields["phase"] == "BAKING"
        )
        await agents.kill()
        fleet.children.remove(agents)
        journal = directory / "n" / "n-01" / "journal"
        records = journal_reader.read(journal, torn_tail=True)
        data = bytearray(journal.read_bytes())
        if damage == "torn":
            del data[records[-1].end - 5 :]
        else:
            data[(records[-2].offset + records[-2].end) // 2] ^= 1
        journal.write_bytes(data)
        seen = operator.events()[-1]
        await fleet.start_agents("n", *arguments)
        await asyncio.to_thread(
            operator.wait_for_event, lambda e: e.kind == "node.linked", cursor=seen.cursor
        )
        if damage == "torn":
            assert journal_reader.read(journal, torn_tail=True)[-1].seq >= records[-1].seq
            nodes = await asyncio.to_thread(operator.wait_for_nodes, lambda n: n["n-01"].link == "up")
            assert nodes["n-01"].problem.reason != "JOURNAL_CORRUPT"
            return
        nodes = await asyncio.to_thread(
            operator.wait_for_nodes, lambda n: n["n-01"].problem.reason == "JOURNAL_CORRUPT"
        )
        files = [path for path in journal.parent.iterdir() if path.is_file()]
        kept = [path for path in files if path.read_bytes() == bytes(data)]
        assert len(kept) == 1
        shown = await liveroll(fleet, "node", "n-01")
        assert str(kept[0]) in "".join(shown.out.split())  # a long path is wrapped, and padded
        assert "QUARANTINED" in shown.out
        # Mended, in a person's opinion: the node may be tried again, and is heard.
        done = await liveroll(fleet, "retry", "k", "n-01", "-m", "disk replaced")
        assert done.status == 0, done
        cleared = await liveroll(fleet, "resume", "k", "--clear-halt")
        assert cleared.status in (0, 3), cleared
        settled = await asyncio.to_thread(
            operator.wait_for_event,
            lambda e: (
                e.kind == "node.settled" and e.attempt.generation == 2 and e.fields["phase"] == "BAKING"
            ),
        )
        assert settled.node_id == "n-01"
        assert journal_reader.jumps(journal_reader.read(journal, torn_tail=True))[-1].generation == 2
