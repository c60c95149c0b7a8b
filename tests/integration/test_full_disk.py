"""The disk fills up in mid-rollout, under a node's journal and under its artifacts: said in a sentence,
nothing lost, and it goes on when there is room. Under the store: test_bad_input_full_disk.py."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from tests.integration import mortal_fleet
from tests.integration.conftest import NEW, OLD, Operator, now
from tests.integration.outside import Audit, Caps, check_journals
from tests.integration.test_bad_input_full_disk import fill, small_disk

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk"),
]

NODES = 3
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
canary: {{max_nodes: 1}}
budgets: {{max_unavailable: 1, max_in_blackout: 1, failures: {{max: 0}}}}
bake: {{node: 100ms, wave: 100ms}}
health_hold: 100ms
retries:
  call: {{attempts: 20, backoff: 200ms, max_backoff: 500ms}}
  replan: {{attempts: 20, backoff: 200ms, max_backoff: 500ms}}
"""


async def begin(fleet: LocalFleet) -> Operator:
    build_emulated(fleet.artifacts_dir, release=NEW)
    await fleet.start_orchestrator()
    await fleet.start_agents(
        "n", "--nodes", str(NODES), "--releases", OLD, "--kexec-s", "0.3", "--drain-s", "1", "--mib", "0.1"
    )
    operator = Operator(fleet)
    await asyncio.to_thread(operator.wait_for_links, NODES)
    return operator


async def go_on(fleet: LocalFleet) -> None:
    """There is room again; who halted for the disk is told so, and tries again what failed."""
    until = functools.partial(mortal_fleet.until, fleet.connection)
    halted = pb.ROLLOUT_STATE_HALTED

    def told(client: Client) -> bool:
        """What was under way when it halted is told first, and ends by itself."""
        rollout = client.get("k")
        why = any("disk" in blocker.message for blocker in rollout.blockers)
        return rollout.HasField("end_time") or (rollout.state == halted and why)

    await asyncio.to_thread(until, told, "halted for the disk, or ended")
    with Client(fleet.connection) as client:
        if client.get("k").state == halted:
            client.retry("k")
            client.resume("k", clear_halt=True)


async def judge(fleet: LocalFleet, operator: Operator) -> None:
    await go_on(fleet)
    rollout = await asyncio.to_thread(operator.wait_for_end, "k")
    assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
    assert rollout.memory_checks_failed == 0
    names = [f"n-{i:02d}" for i in range(1, NODES + 1)]
    caps = Caps(1, 1, NODES, dict.fromkeys(names, ""))
    audit = Audit(caps)
    audit.replay(operator.events())
    check_journals(fleet.directory / "n", names, caps, now())
    for log in ("orchestrator.log", "n.log"):
        assert "Traceback" not in (fleet.directory / log).read_text()


async def test_under_the_journals(directory: Path) -> None:
    """In the canary's drain: what it has begun is undone, for which its ballast is; then it waits."""
    with small_disk(directory / "n") as disk:
        async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
            operator = await begin(fleet)
            await asyncio.to_thread(operator.create, ROLLOUT)
            await asyncio.to_thread(operator.wait_for_event, lambda e: e.kind == "attempt.loaded")
            filler = await asyncio.to_thread(fill, disk)
            told = await asyncio.to_thread(
                operator.wait_for_event,
                lambda e: (
                    "JOURNAL_FULL" in e.fields.get("problem", "")
                    or (e.kind == "node.sickened" and "full" in e.message)
                ),
            )
            assert "full" in told.message + told.fields.get("problem_message", ""), told
            filler.unlink()
            await judge(fleet, operator)


async def test_under_the_artifacts(directory: Path) -> None:
    """Full before anything is fetched: nothing is staged, nothing starts, and it is said why."""
    with small_disk(directory / "n") as disk:
        async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
            operator = await begin(fleet)
            filler = await asyncio.to_thread(fill, disk)
            with filler.open("r+b") as file:
                file.truncate(filler.stat().st_size - (256 << 10))  # the journals go on
            await asyncio.to_thread(operator.create, ROLLOUT)
            told = await asyncio.to_thread(
                operator.wait_for_event, lambda e: e.kind == "node.stage_failed" and e.fields.get("problem")
            )
            assert "SPACE" in told.fields["problem"] or "FULL" in told.fields["problem"], told
            assert not operator.events_of("attempt.prepared")
            filler.unlink()
            with Client(fleet.connection) as client:  # nothing repeats by itself what must be mended first
                client.retry("k", sorted(operator.nodes()))
            await judge(fleet, operator)
