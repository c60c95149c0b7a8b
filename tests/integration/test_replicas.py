"""Three orchestrators on PostgreSQL with one of them, or the database, in trouble in mid-rollout.

Promised: links move, the planner's lease moves, and the rollout succeeds without one failed node: a
replica's trouble is no node's. Nodes of which nobody knows spend budget and raise no alarm. Judged from
outside: the event log as it was read from the replicas that are left, and the nodes' journals.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli.client import Client
from orchestrator.cli.rollout_file import load
from tests.integration.conftest import NEW, OLD, Event, now
from tests.integration.mortal_fleet import all_events, insist, until
from tests.integration.outside import Audit, Caps, check_journals
from tests.integration.replica_fleet import Replica, ReplicaFleet, own_database, replica_fleet, start_replica
from tests.postgres import Postgres

NODES = 12
BUDGETS = (4, 3)
"""max_unavailable, max_in_blackout"""
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
canary: {{max_nodes: 1}}
waves: [{{name: early, size: 50%}}, {{name: rest}}]
budgets: {{max_unavailable: {BUDGETS[0]}, max_in_blackout: {BUDGETS[1]}, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 300ms}}
health_hold: 200ms
"""
LATE = "proceed_lease: 2s\ntimeouts: {preserved: 60s}\n"
LEASE_S = 15.0
"""runtime/leader.py's."""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture
async def fleet(directory: Path, postgres_url: str) -> AsyncIterator[ReplicaFleet]:
    async with replica_fleet(directory, postgres_url, [NEW]) as made:
        await start_nodes(made)
        yield made


async def start_nodes(fleet: ReplicaFleet, *arguments: str, nodes: int = NODES) -> None:
    await fleet.start_agents("n", nodes, "--releases", OLD, "--mib", "0.1", "--kexec-s", "0.3", *arguments)
    await fleet.until_linked()


async def create(fleet: ReplicaFleet, more: str = "") -> None:
    file = fleet.directory / "k.yaml"
    file.write_text(ROLLOUT + more)
    spec = load(file).spec
    await asyncio.to_thread(insist, fleet.connection, lambda c, key: c.create(spec, key=key))


async def until_told(fleet: ReplicaFleet, kind: str, times: int) -> list[Event]:
    """By the orchestrators, so often."""
    found: list[Event] = []

    def told(client: Client) -> bool:
        found[:] = [e for e in all_events(client) if e.kind == kind and e.actor == "orchestrator"]
        return len(found) >= times

    await asyncio.to_thread(until, fleet.connection, told, f"{times} {kind}")
    return found


async def judge(fleet: ReplicaFleet) -> list[Event]:
    """Succeeded, and every replica tells the same of it."""

    def ended(client: Client) -> bool:
        return client.get("k").HasField("end_time")

    await asyncio.to_thread(until, fleet.connection, ended, "the end")
    # In threads, always: the wires are this loop's.
    rollout = await asyncio.to_thread(insist, fleet.connection, lambda c, _key: c.get("k"))
    assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, rollout
    await fleet.until_linked()
    zones = dict.fromkeys(fleet.agents["n"].nodes, "")
    caps = Caps(*BUDGETS, NODES, zones)
    events = await asyncio.to_thread(insist, fleet.connection, lambda c, _key: all_events(c))
    audit = Audit(caps)
    audit.replay(events)
    for kind in ("attempt.lost", "rollout.halted", "fleet.stopped", "invariant.violated"):
        assert not audit.kinds[kind], kind
    assert audit.kinds["rollout.created"] == audit.kinds["rollout.ended"] == 1
    for replica in fleet.replicas:
        told, nodes = await asyncio.to_thread(
            insist, replica.connection, lambda c, _key: (all_events(c), c.nodes())
        )
        assert told[: len(events)] == events
        assert {n.kernel_release for n in nodes} == {NEW}
        log = (replica.directory / "orchestrator.log").read_text()
        assert "Traceback" not in log, log[-4000:]
    check_journals(fleet.directory / "n", fleet.agents["n"].nodes, caps, now())
    return events


def planner(fleet: ReplicaFleet) -> Replica | None:
    """By what their metrics say."""
    for replica in fleet.replicas:
        try:
            with urllib.request.urlopen(f"http://{replica.http}/metrics", timeout=2) as answer:
                if "\nliveroll_planner 1.0" in answer.read().decode():
                    return replica
        except OSError:
            continue
    return None


async def until_planner(fleet: ReplicaFleet, fits: Callable[[Replica], bool] = lambda _: True) -> Replica:
    give_up = time.monotonic() + 60
    while True:
        found = await asyncio.to_thread(planner, fleet)
        if found is not None and fits(found):
            return found
        assert time.monotonic() < give_up, "nobody plans"
        await asyncio.sleep(0.1)


async def test_each_replica_is_killed_in_turn(fleet: ReplicaFleet) -> None:
    await create(fleet)
    for turn, replica in enumerate(fleet.replicas):
        await until_told(fleet, "attempt.proceeded", 1 + 3 * turn)
        await replica.kill_orchestrator()
        await start_replica(fleet, replica)
    await judge(fleet)


async def test_a_planner_that_stands_still_past_its_lease_is_fenced(fleet: ReplicaFleet) -> None:
    """Stopped as it has let a node jump; another plans meanwhile; awake, it writes and says nothing of
    what it had in hand."""
    first = await until_planner(fleet)
    await create(fleet)
    others = ReplicaFleet(
        fleet.directory, [r for r in fleet.replicas if r is not first], [], fleet.stack, fleet.agents
    )
    await until_told(others, "attempt.proceeded", 1)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = await until_planner(others)
        seen = await until_told(others, "attempt.proceeded", 5)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert second is not first
    events = await judge(fleet)
    assert [e.seq for e in events if e in seen] == [e.seq for e in seen]
    said = (first.directory / "orchestrator.log").read_text()
    assert "planning no more" in said or "standing down" in said, said[-4000:]


async def test_a_proceed_that_arrives_after_its_lease_is_refused_by_the_node(
    directory: Path, postgres_url: str
) -> None:
    """What the orchestrators say is held back on the wire, from PREPARE on until the PROCEED is too old;
    then it arrives, over the link on which it was sent."""
    async with replica_fleet(directory, postgres_url, [NEW], count=2) as fleet:
        await start_nodes(fleet, "--drain-s", "8", nodes=3)  # so that the wire is held before PROCEED is sent
        await create(fleet, LATE)
        prepared = (await asyncio.to_thread(until_said, fleet, "attempt.prepared"))[0]
        for wire in fleet.agents["n"].wires:
            wire.hold_back()
        told = await asyncio.to_thread(insist, fleet.connection, lambda c, _key: all_events(c))
        assert "attempt.preserved" not in {e.kind for e in told}, "a machine too slow for this test"
        proceeded = (await until_told(fleet, "attempt.proceeded", 1))[0]
        await asyncio.sleep(2.5)  # the lease, by the node's own clock, at which nobody outside can look
        for wire in fleet.agents["n"].wires:
            wire.heal()
        events = await judge(fleet)
        ours = (prepared.node_id, prepared.attempt.generation)
        assert (proceeded.node_id, proceeded.attempt.generation) == ours
        refused = [e for e in events if e.node_id == ours[0] and e.fields.get("problem") == "LEASE_EXPIRED"]
        assert refused, "the late one was obeyed, or never arrived"
        let = [e.seq for e in events if e.kind == "attempt.proceeded" and e.node_id == ours[0]]
        orders = [e.seq for e in events if e.seq in let and e.actor == "orchestrator"]
        (obeyed,) = set(let) - set(orders)
        assert len(orders) == 2, "a new stamp, a new PROCEED"
        assert orders[0] < refused[0].seq < obeyed
        assert orders[1] < obeyed


def until_said(fleet: ReplicaFleet, kind: str) -> list[Event]:
    found: list[Event] = []

    def said(client: Client) -> bool:
        found[:] = [e for e in all_events(client) if e.kind == kind and e.actor == e.node_id]
        return bool(found)

    until(fleet.connection, said, kind)
    return found


async def test_the_database_is_restarted_killed_and_cut_off(directory: Path) -> None:
    """Once each in one rollout, the planner's own connection last, for longer than its lease."""
    with Postgres() as server, own_database(server) as url:
        async with replica_fleet(directory, url, [NEW]) as fleet:
            await start_nodes(fleet)
            await create(fleet)
            await until_told(fleet, "attempt.proceeded", 1)
            await asyncio.to_thread(server.restart)
            await until_told(fleet, "attempt.proceeded", 4)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await until_told(fleet, "attempt.proceeded", 6)
            first = await until_planner(fleet)
            wire = fleet.store_wires[fleet.replicas.index(first)]
            wire.freeze()
            try:
                await until_planner(fleet, lambda replica: replica is not first)
            finally:
                wire.heal()
            await judge(fleet)
