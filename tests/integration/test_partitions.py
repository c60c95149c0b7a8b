"""A node's link is cut, or carries nothing, in each phase of its update; then the network is well again.

One node for each case, all in one rollout, each behind a wire of its own. Promised: the link's trouble
is no failure. Before the jump a node that is not heard of waits for PROCEED for as long as it may, then
unwinds and is tried again; after it, it goes on by itself and tells later. Nobody is lost, nobody jumps
twice, and every report arrives once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD, Event, Operator, now
from tests.integration.outside import Audit, Caps, check_journals
from tests.integration.wire import Wire


@dataclass(frozen=True)
class Case:
    """When the node says `at`, its wire gets into trouble for so long."""

    at: str
    trouble: Callable[[Wire], None]
    seconds: float
    jumps: bool = True
    """In the attempt that was hit."""


def slow(wire: Wire) -> None:
    wire.delay_s = 0.3


CASES = {
    "preparing": Case("attempt.prepared", Wire.cut, 1.5),
    "draining": Case("attempt.loaded", Wire.freeze, 3),
    # From the drain on, and longer than it waits for PROCEED.
    "preserved": Case("attempt.loaded", Wire.cut, 14, jumps=False),
    "unheard": Case("attempt.loaded", Wire.freeze, 14, jumps=False),
    "proceeding": Case("attempt.preserved", Wire.drop, 0),
    "jumping": Case("attempt.proceeded", Wire.freeze, 7),
    "back": Case("attempt.boot_classified", Wire.cut, 3),
    "resumed": Case("attempt.resumed", Wire.freeze, 7),
    "finished": Case("attempt.finished", Wire.cut, 3),
    "slow": Case("attempt.prepared", slow, 10),
}
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
canary: {{max_nodes: {len(CASES)}}}
budgets: {{max_unavailable: {len(CASES)}, max_in_blackout: {len(CASES)}, failures: {{max: 0}}}}
bake: {{node: 500ms, wave: 500ms}}
health_hold: 200ms
proceed_lease: 4s
timeouts: {{preserved: 5s}}
retries:
  call: {{attempts: 20, backoff: 200ms, max_backoff: 500ms}}
  replan: {{attempts: 20, backoff: 200ms, max_backoff: 500ms}}
"""


async def begin(fleet: LocalFleet, stack: AsyncExitStack) -> dict[str, Wire]:
    build_emulated(fleet.artifacts_dir, release=NEW)
    await fleet.start_orchestrator()
    address, wires = fleet.agents, {}
    for name in CASES:
        wires[name] = await stack.enter_async_context(Wire(address))
        fleet.agents = wires[name].address
        # Drains long enough to be hit in it, whoever looks how late.
        await fleet.start_agents(
            name, "--nodes", "1", "--releases", OLD, "--models", name, "--kexec-s", "0.3", "--mib", "0.1",
            "--drain-s", "4",
        )  # fmt: skip
    fleet.agents = address
    return wires


async def hit(operator: Operator, name: str, case: Case, wire: Wire) -> None:
    """Waits for the word and makes the trouble, for as long as it lasts."""
    node = f"{name}-01"

    def says(event: Event) -> bool:
        return event.kind == case.at and event.actor == node

    await asyncio.to_thread(operator.wait_for_event, says)
    case.trouble(wire)
    await asyncio.sleep(case.seconds)
    wire.heal()


@pytest.mark.integration
@pytest.mark.timeout(240)
async def test_a_link_in_trouble_in_each_phase_costs_nothing(directory: Path) -> None:
    async with (
        local_fleet(directory, heartbeat_s=0.3, grace_s=1, fleet_settings={"silence_s": 2}) as fleet,
        AsyncExitStack() as stack,
    ):
        wires = await begin(fleet, stack)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, len(CASES))
        async with asyncio.TaskGroup() as tasks:
            for name, case in CASES.items():
                tasks.create_task(hit(operator, name, case, wires[name]))
            await asyncio.to_thread(operator.create, ROLLOUT)
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert rollout.memory_checks_failed == 0
        names = [f"{name}-01" for name in CASES]
        caps = Caps(len(CASES), len(CASES), len(CASES), dict.fromkeys(names, ""))
        audit = Audit(caps)
        events = await asyncio.to_thread(operator.events)
        audit.replay(events)
        assert not audit.kinds["attempt.lost"]
        assert not audit.kinds["fleet.stopped"]
        for name, case in CASES.items():
            check_journals(directory / name, [f"{name}-01"], caps, now())
            records = journal_reader.read(directory / name / f"{name}-01" / "journal")
            jumps = journal_reader.jumps(records)
            assert len(jumps) == 1, (name, jumps)
            if not case.jumps:
                assert jumps[0].generation > 1, (name, journal_reader.story(records))
            told = sum(e.actor == f"{name}-01" and bool(e.attempt.generation) for e in events)
            # That a command came too late is told of the node, not of the attempt.
            of_attempts = [
                r for r in records if r.report.get("attempt") and r.report["event"] != "CommandRefused"
            ]
            assert told == len(of_attempts), f"{name}: {len(of_attempts)} reports, {told} told"
