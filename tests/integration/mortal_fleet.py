"""A LocalFleet whose orchestrator and agents may be struck dead (mortal.py), and an operator who insists."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from deploy.local import Child, LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client, Connection, new_key
from orchestrator.cli.failure import Exit, Failed
from tests.integration import mortal
from tests.integration.conftest import NEW, Event, Operator

A = TypeVar("A")

PATIENCE_S = 90.0
"""For all that one call or one wait may live through: many deaths, on a busy machine."""
PAUSE_S = 0.05
NOT_YET = {"NODE_NOT_LOST"}
"""During the grace after a restart nobody can know."""


def free_address() -> str:
    """A port on loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def mortal_command(role: str, fate: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.integration.mortal", role, str(fate), *arguments]


@dataclass
class MortalFleet:
    """One directory, one orchestrator with its fate, and some agents."""

    local: LocalFleet
    operator: Operator
    fates: dict[str, Path] = field(default_factory=dict)

    async def start(self, points: Iterable[str]) -> None:
        """The orchestrator, with these points armed on both sides; it may be dead by now."""
        local, fate = self.local, self.local.directory / "fate"
        mortal.arm(fate, points)
        self.fates["orchestrator"] = fate
        local.operators, local.agents, local.http = (free_address() for _ in range(3))
        run = local.orchestrator_command()[3:]
        local.orchestrator = await local.spawn("orchestrator", mortal_command("orchestrator", fate, *run))

    async def start_node(self, name: str, points: Iterable[str], *arguments: str) -> Child:
        """A real agent below an emulated kernel, with one workload."""
        state, fate = self.local.directory / name, self.local.directory / f"{name}.fate"
        mortal.arm(fate, points)
        self.fates[name] = fate
        workload = (
            f"{sys.executable} -m node_agent.workloads.example --socket {state}/liveupdate.sock "
            f"--mib 0.25 --id {name}-vm"
        )
        return await self.local.spawn(
            name,
            mortal_command(
                "node", fate, "run", "--orchestrator", self.local.agents, "--state-dir", str(state),
                "--root", str(state / "root"), "--node-id", name, "--service", workload, *arguments,
            ),
        )  # fmt: skip

    def left(self) -> Mapping[str, frozenset[str]]:
        """Points that nobody has come to."""
        return {name: left for name, fate in self.fates.items() if (left := mortal.armed(fate))}

    def deaths(self) -> int:
        """Each line of `struck` was fsync'd by its own death, or shared one."""
        return sum(len(mortal.struck(fate)) for fate in self.fates.values())

    async def insist(self, call: Callable[[Client, str], A]) -> A:
        """An operator's call, repeated under one key until it is answered."""
        return await asyncio.to_thread(insist, self.local.connection, call)

    async def ask(self, question: Callable[[Client], A]) -> A:
        """Repeated until it is answered."""
        return await asyncio.to_thread(insist, self.local.connection, lambda client, _key: question(client))

    async def until(self, true: Callable[[Client], bool], what: str) -> None:
        """Looks again and again, whoever dies meanwhile."""
        await asyncio.to_thread(until, self.local.connection, true, what)

    async def until_event(self, kind: str, count: int = 1) -> None:
        """The orchestrator's own, or an operator's."""
        await self.until(
            lambda c: count <= sum(e.kind == kind and e.actor != e.node_id for e in all_events(c)), kind
        )

    async def until_said(self, kind: str) -> None:
        """By a node."""
        await self.until(lambda c: any(e.kind == kind and e.actor == e.node_id for e in all_events(c)), kind)


@contextlib.asynccontextmanager
async def mortal_fleet(directory: Path, **settings: float) -> AsyncIterator[MortalFleet]:
    fast = {"min_idle_heartbeat_s": 0.3, "stage_retry_s": 0.2, "silence_s": 20.0, **settings}
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=3, fleet_settings=fast) as local:
        build_emulated(local.artifacts_dir, release=NEW)
        yield MortalFleet(local, Operator(local))


def insist(connection: Connection, call: Callable[[Client, str], A]) -> A:
    key, give_up = new_key(), time.monotonic() + PATIENCE_S
    while True:
        try:
            with Client(connection) as client:
                return call(client, key)
        except Failed as failed:
            if (
                not (failed.exit is Exit.UNREACHABLE or failed.reason in NOT_YET)
                or time.monotonic() > give_up
            ):
                raise
        time.sleep(PAUSE_S)


def until(connection: Connection, true: Callable[[Client], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            with Client(connection) as client:
                while not true(client):
                    assert time.monotonic() < give_up, f"never: {what}"
                    time.sleep(PAUSE_S)
                return
        except Failed as failed:
            if failed.exit is not Exit.UNREACHABLE or time.monotonic() > give_up:
                raise
        time.sleep(PAUSE_S)


def all_events(client: Client) -> list[Event]:
    return [event for page in client.events() for event in page.events]
