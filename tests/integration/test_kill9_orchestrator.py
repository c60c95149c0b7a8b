"""kill -9 of the orchestrator in mid-rollout: it comes back on its state, and the rollout ends as it should.

Judged from outside: the event log and the nodes' journals (outside.py), never the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from orchestrator.cli.failure import Failed
from tests.integration.conftest import NEW, OLD, Event, Operator, now
from tests.integration.outside import Audit, Caps, check_journals

NODES = 12
NAMES = [f"n-{i:02d}" for i in range(1, NODES + 1)]
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
canary: {{max_nodes: 1}}
waves: [{{name: early, size: 50%}}, {{name: rest}}]
budgets:
  max_unavailable: 5
  max_in_blackout: 4
  domain: {{key: zone, max_unavailable: 2}}
  failures: {{max: 0}}
rollback: {{max_unavailable: 5, max_in_blackout: 4}}
bake: {{node: 200ms, wave: 300ms}}
health_hold: 200ms
retries: {{replan: {{attempts: 5, backoff: 200ms, max_backoff: 1s}}}}
"""
"""No failure is allowed: a crash of the orchestrator must cost no node."""


class Seen:
    """Wants the n-th event of a kind, by this actor and with this field if they are named."""

    def __init__(
        self, kind: str, times: int = 1, *, actor: str = "", field: tuple[str, str] = ("", "")
    ) -> None:
        self.kind, self.left, self.actor, self.field = kind, times, actor, field

    def __call__(self, event: Event) -> bool:
        if event.kind != self.kind or (self.actor and event.actor != self.actor):
            return False
        if self.field[0] and event.fields.get(self.field[0]) != self.field[1]:
            return False
        self.left -= 1
        return self.left == 0


ORCHESTRATOR = "orchestrator"
SUCCEEDED = {
    "created": Seen("rollout.created"),
    "canary-may-jump": Seen("attempt.proceeded", actor=ORCHESTRATOR),
    # The canary's is the first; four more may jump, and none of the reports is in yet.
    "four-jumping": Seen("attempt.proceeded", 5, actor=ORCHESTRATOR),
    "nodes-baking": Seen("node.settled", 3, field=("phase", "BAKING")),
}


@pytest.mark.integration
@pytest.mark.parametrize("point", SUCCEEDED)
async def test_a_killed_orchestrator_goes_on_and_succeeds(directory: Path, point: str) -> None:
    async with twelve(directory) as (fleet, operator):
        await kill(fleet, operator, SUCCEEDED[point])
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, rollout.blockers
        assert {n.kernel_release for n in operator.nodes().values()} == {NEW}
        assert rollout.memory_checks_failed == 0
        audit = await judge(fleet, operator)
        assert audit.kinds["rollout.created"] == audit.kinds["rollout.ended"] == 1


@pytest.mark.integration
async def test_killed_in_a_rollback_it_brings_every_node_back(directory: Path) -> None:
    async with twelve(directory) as (fleet, operator):
        await asyncio.to_thread(operator.create, ROLLOUT)
        passed = await asyncio.to_thread(operator.wait_for_event, Seen("wave.passed", 2))
        with Client(fleet.connection) as client:
            await asyncio.to_thread(client.roll_back, "k", "a test")
        seen = Seen("attempt.prepared", 2, actor=ORCHESTRATOR, field=("kind", "ROLLBACK"))
        await kill(fleet, operator, seen, cursor=passed.cursor, create=False)
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_ROLLED_BACK, rollout.blockers
        assert {n.kernel_release for n in operator.nodes().values()} == {OLD}
        await judge(fleet, operator)


@pytest.mark.integration
async def test_killed_in_a_cancel_it_still_ends_the_rollout(directory: Path) -> None:
    async with twelve(directory) as (fleet, operator):
        await asyncio.to_thread(operator.create, ROLLOUT)
        jumping = await asyncio.to_thread(
            operator.wait_for_event, Seen("attempt.proceeded", 3, actor=ORCHESTRATOR)
        )
        watching = asyncio.create_task(
            kill(fleet, operator, Seen("rollout.cancel_wanted"), cursor=jumping.cursor, create=False)
        )
        with Client(fleet.connection) as client:
            cancelled = asyncio.to_thread(client.cancel, "k", "a test")
            # The answer may die with the orchestrator; the event says that the cancel is durable.
            await asyncio.gather(watching, cancelled, return_exceptions=True)
        assert watching.exception() is None
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_CANCELLED, rollout.blockers
        nodes = operator.nodes()
        updated = {name for name, n in nodes.items() if n.kernel_release == NEW}
        assert 1 <= len(updated) < NODES
        committed = {n for n in updated if nodes[n].phase == common_pb2.PHASE_COMMITTED}
        assert set(rollout.uncommitted) == updated - committed
        await judge(fleet, operator)


@pytest.mark.integration
async def test_killed_again_and_again_it_gets_there(directory: Path) -> None:
    """Twice, a hundred events apart, wherever that is."""
    async with twelve(directory) as (fleet, operator):
        await asyncio.to_thread(operator.create, ROLLOUT)
        cursor = ""
        for _ in range(2):
            event = await kill(fleet, operator, _a_hundred_later(), cursor=cursor, create=False)
            cursor = event.cursor
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, rollout.blockers
        await judge(fleet, operator)


def _a_hundred_later() -> Callable[[Event], bool]:
    left = 100

    def count(_event: Event) -> bool:
        nonlocal left
        left -= 1
        return left == 0

    return count


@contextlib.asynccontextmanager
async def twelve(directory: Path) -> AsyncIterator[tuple[LocalFleet, Operator]]:
    """Twelve linked nodes in three zones."""
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        await fleet.start_agents(
            "n", "--nodes", str(NODES), "--zones", "3", "--label", "pool=test", "--kexec-s", "0.3",
            "--releases", OLD, "--mib", "0.1",
        )  # fmt: skip
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, NODES)
        yield fleet, operator


async def kill(
    fleet: LocalFleet,
    operator: Operator,
    wanted: Callable[[Event], bool],
    *,
    cursor: str = "",
    create: bool = True,
) -> Event:
    """SIGKILL at the event, then start it again on the same state and ports."""
    assert fleet.orchestrator is not None
    pid = fleet.orchestrator.process.pid
    async with asyncio.TaskGroup() as tasks:
        killing = tasks.create_task(
            asyncio.to_thread(operator.kill_at, wanted, pid, signal.SIGKILL, cursor=cursor)
        )
        if create:
            with contextlib.suppress(Failed):  # its answer may have died with the orchestrator
                await asyncio.to_thread(operator.create, ROLLOUT)
    await fleet.kill_orchestrator()
    await fleet.start_orchestrator()
    return killing.result()


async def judge(fleet: LocalFleet, operator: Operator) -> Audit:
    """Everything that must hold whatever crashed."""
    zones = {name: node.labels["zone"] for name, node in operator.nodes().items()}
    caps = Caps(unavailable=5, blackout=4, domain=2, zones=zones)
    audit = Audit(caps)
    audit.replay(operator.events())
    assert not audit.kinds["fleet.stopped"]
    if audit.baseline is not None:  # what was under way then comes on top of the rollback's own
        above = caps.unavailable + audit.baseline
        caps = Caps(unavailable=above, blackout=caps.blackout, domain=above, zones=zones)
    peaks = check_journals(fleet.directory / "n", NAMES, caps, now())
    assert peaks["blackout"] >= 1
    return audit
