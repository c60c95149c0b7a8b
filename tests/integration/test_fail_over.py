"""Three orchestrators on one PostgreSQL: the one that plans ends in mid-rollout, by kill -9 or politely.

Nobody outside may notice more than a pause: links move to those that are left, the rollout goes on
and succeeds, and a log that is followed has every event once and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import Child, LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client, Connection
from orchestrator.cli.follow import Follow
from orchestrator.cli.rollout_file import load
from tests.integration.conftest import NEW, OLD, Event
from tests.integration.replica_fleet import files

NODES = 12
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
canary: {{max_nodes: 1}}
waves: [{{name: early, size: 50%}}, {{name: rest}}]
budgets: {{max_unavailable: 5, max_in_blackout: 4, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 300ms}}
health_hold: 200ms
"""
"""No failure is allowed: a replica's death must cost no node."""


@dataclass
class Replicas:
    """Three of them; what an operator says, and what comes out of `events --follow`."""

    fleets: list[LocalFleet]

    @property
    def operators(self) -> str:
        return ",".join(fleet.operators for fleet in self.fleets)

    @property
    def agents(self) -> str:
        return ",".join(fleet.agents for fleet in self.fleets)

    @property
    def connection(self) -> Connection:
        return Connection(self.operators)

    async def follow(self, child: str) -> Child:
        """`liveroll events --follow`, into a log file."""
        return await self.fleets[0].spawn(
            child,
            [sys.executable, "-m", "orchestrator.cli.entry", "--server", self.operators,
             "events", "--follow", "-o", "json"],
        )  # fmt: skip


@pytest.fixture
async def replicas(
    directory: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Replicas]:
    artifacts = directory / "artifacts"
    artifacts.mkdir(parents=True)
    build_emulated(artifacts, release=NEW)
    async with contextlib.AsyncExitStack() as stack:
        monkeypatch.setenv("LIVEROLL_STORE", postgres_url)
        monkeypatch.setenv("LIVEROLL_ARTIFACTS_URL", stack.enter_context(files(artifacts)))
        fleets = [
            await stack.enter_async_context(local_fleet(directory / name, grace_s=15.0))
            for name in ("r1", "r2", "r3")
        ]
        first, *others = (f.start_orchestrator(extra=("--artifacts-dir", str(artifacts))) for f in fleets)
        await first  # it makes the schema, and plans
        await asyncio.gather(*others)
        made = Replicas(fleets)
        await fleets[1].spawn(
            "agents",
            [sys.executable, "-m", "node_agent.cli", "simulate", "--orchestrator", made.agents,
             "--nodes", str(NODES), "--prefix", "n", "--releases", OLD, "--label", "pool=test",
             "--state-dir", str(directory / "agents"), "--mib", "0.1", "--kexec-s", "0.3"],
        )  # fmt: skip
        yield made


def lines(child: Child) -> list[Event]:
    """What it has printed so far, whole lines of JSON."""
    text = child.log_path.read_text()
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [json.loads(line) for line in whole if line.startswith("{")]


async def until_linked(client: Client) -> None:
    def look() -> None:
        seen: dict[str, pb.Node] = {}
        stream = client.watch_nodes()
        for update in stream:
            seen.update({node.node_id: node for node in update.nodes})
            up = [n for n in seen.values() if n.link == "up" and n.rollback_artifact]
            if len(up) == NODES:
                stream.cancel()
                return
        raise AssertionError("the stream ended")

    await asyncio.to_thread(look)


@pytest.mark.integration
@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_the_planner_ends_links_move_and_nothing_is_lost_or_told_twice(
    replicas: Replicas, end: str
) -> None:
    first = replicas.fleets[0].orchestrator
    assert first is not None
    with Client(replicas.connection) as client:
        async with asyncio.timeout(90):
            await until_linked(client)
            following = await replicas.follow("followed")
            file = replicas.fleets[0].directory / "rollout.yaml"
            file.write_text(ROLLOUT)
            await asyncio.to_thread(client.create, load(file).spec)
            await asyncio.to_thread(wait_for, client, "attempt.proceeded", 3)
            await (first.kill() if end == "killed" else first.stop())
            rollout = await asyncio.to_thread(wait_for_end, client)
            assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, rollout.blockers
            await until_linked(client)
            events = await asyncio.to_thread(lambda: [e for page in client.events() for e in page.events])
            while len(told := lines(following)) < len(events):
                await asyncio.sleep(0.05)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [int(event["seq"]) for event in told] == list(range(1, len(told) + 1))
    assert [event["cursor"] for event in told[: len(events)]] == [event.cursor for event in events]
    kinds = Counter(event.kind for event in events)
    assert (kinds["rollout.created"], kinds["rollout.ended"], kinds["attempt.lost"]) == (1, 1, 0)
    per_node = Counter(
        e.node_id for e in events if e.kind == "attempt.prepared" and e.actor == "orchestrator"
    )
    assert all(count == 1 for count in per_node.values()), "nobody was updated twice"
    with Client(replicas.connection) as client:
        assert {node.kernel_release for node in client.nodes()} == {NEW}


@pytest.mark.integration
async def test_a_followed_log_goes_on_when_the_one_orchestrator_is_killed_and_starts_again(
    directory: Path,
) -> None:
    async with local_fleet(directory) as fleet:
        await fleet.start_orchestrator()
        following = await Replicas([fleet]).follow("followed")

        def press(times: int) -> None:
            with Client(fleet.connection) as client:
                for i in range(times):
                    client.fleet_stop(f"press {i}", stop=i % 2 == 0)

        async def until_told(count: int) -> list[Event]:
            async with asyncio.timeout(45):
                while len(told := lines(following)) < count:
                    await asyncio.sleep(0.02)
            return told

        for life in (1, 2, 3):
            await asyncio.to_thread(press, 6)
            if life < 3:
                # Killed while it still tells of them, or after it.
                await until_told(6 * life - 3)
                await fleet.kill_orchestrator()
                await fleet.start_orchestrator()
        told = await until_told(18)
    assert [int(event["seq"]) for event in told] == list(range(1, 19))
    assert {event["kind"] for event in told} == {"fleet.stopped", "fleet.released"}


def wait_for(client: Client, kind: str, times: int) -> None:
    stream = client.events(follow=True, kinds=[kind])
    for page in stream:
        times -= len(page.events)
        if times <= 0:
            stream.cancel()
            return
    raise AssertionError("the stream ended")


def wait_for_end(client: Client) -> pb.Rollout:
    last: pb.Rollout | None = None
    for update in Follow(lambda after: client.watch("k", after), lambda update: update.cursor):
        if update is not None:
            last = update.rollout
    assert last is not None
    return last
