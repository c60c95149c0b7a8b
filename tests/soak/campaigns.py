"""The operator of one part of a soak's fleet: one rollout after another, there and back; second thoughts."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from orchestrator.cli.client import Client, new_key
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.rollout_file import load
from tests.integration.replica_fleet import ReplicaFleet
from tests.soak.audit import Limits, LogAudit

A = TypeVar("A")
S = pb.RolloutState
ENDED = {
    S.ROLLOUT_STATE_SUCCEEDED,
    S.ROLLOUT_STATE_FAILED,
    S.ROLLOUT_STATE_CANCELLED,
    S.ROLLOUT_STATE_ROLLED_BACK,
}
NEEDS_WORD = {common_pb2.PHASE_QUARANTINED, common_pb2.PHASE_COLD_BOOTED, common_pb2.PHASE_LOST}
LOOK_S = 1.0
PATIENCE_S = 150.0
"""For one rollout under fire; then it is cancelled."""
CALM_S = 180.0
"""For the last one, with nothing in its way."""

FILE = """
name: {name}
target: {{artifact: linux-{release}}}
selection: {{selector: "pool=test,luo_model={model}"}}
canary: {{max_nodes: 2}}
waves: [{{name: early, size: 20%}}, {{name: rest}}]
budgets:
  max_unavailable: {unavailable}
  max_in_blackout: {blackout}
  failures: {{max: 100%, halt_on: [lost]}}
rollback: {{max_unavailable: {unavailable}, max_in_blackout: {blackout}}}
bake: {{node: 500ms, wave: 500ms}}
health_hold: 200ms
silence_lease: 20s
retries:
  call: {{attempts: 10, backoff: 500ms, max_backoff: 2s}}
  replan: {{attempts: 10, backoff: 500ms, max_backoff: 2s}}
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the fleet: nodes of one model of LUO, which have targets of their own."""

    model: str
    processes: tuple[str, ...]
    """What each process of nodes has for --luo-model."""
    releases: tuple[str, str]
    abi: tuple[str, ...] = ()
    """Strings of its artifacts; none: as merged."""


class Stalled(Exception):
    """A rollout did not end although nothing was in its way."""


class Campaigns:
    """Of one part of the fleet: run() until stop is set; then calm() with all troubles over."""

    def __init__(
        self, fleet: ReplicaFleet, audit: LogAudit, part: Part, nodes: frozenset[str], seed: int
    ) -> None:
        self._fleet = fleet
        self._audit = audit
        self._part = part
        self._rng = random.Random(f"{part.model} {seed}")
        self._limits = Limits(max(2, len(nodes) // 5), max(2, len(nodes) // 8), nodes)
        self._count = 0
        self.made: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Calls that came too late for the fleet as it then was."""
        self.last_refusal = ""

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._one(stop)

    async def calm(self) -> pb.Rollout:
        """The last rollout: everything must come out well. Raises Stalled."""
        return await self._follow(await self._create(), asyncio.Event(), CALM_S, plot="", strict=True)

    async def _one(self, stop: asyncio.Event) -> None:
        name = await self._create()
        plot = self._rng.choices(("", "pause", "cancel", "roll back", "fleet stop"), (5, 2, 1, 1, 1))[0]
        self.made[plot or "straight"] += 1
        await self._follow(name, stop, PATIENCE_S, plot)

    async def _create(self) -> str:
        self._count += 1
        model, releases = self._part.model, self._part.releases
        name, release = f"{model}-{self._count:03d}", releases[self._count % 2]
        file: Path = self._fleet.directory / f"rollout-{model}.yaml"
        limits = self._audit.limits[name] = self._limits
        file.write_text(
            FILE.format(
                name=name,
                release=release,
                model=model,
                unavailable=limits.unavailable,
                blackout=limits.blackout,
            )
        )
        spec = load(file).spec
        await self._ask(lambda c, key: c.create(spec, key=key))
        return name

    async def _follow(
        self, name: str, stop: asyncio.Event, patience_s: float, plot: str, *, strict: bool = False
    ) -> pb.Rollout:
        give_up = time.monotonic() + patience_s
        turn = time.monotonic() + self._rng.uniform(1, 8)
        while True:
            await asyncio.sleep(LOOK_S)
            rollout = await self._ask(lambda c, _key: c.get(name))
            if rollout.state in ENDED:
                return await self._tidy(rollout)
            if plot and time.monotonic() > turn:
                await self._turn(name, plot)
                plot = ""
            if rollout.state == S.ROLLOUT_STATE_HALTED:
                await self._try(lambda c, key: c.retry(name, key=key))
                await self._try(lambda c, key: c.resume(name, clear_halt=True, key=key))
            await self._give_word(name)
            if time.monotonic() > give_up or (stop.is_set() and not strict):
                if strict:
                    blockers = [f"{b.message} {list(b.nodes)}" for b in rollout.blockers]
                    raise Stalled(f"{name} did not end: {blockers}; last refused: {self.last_refusal}")
                self.made["cancelled for its time"] += not stop.is_set()
                await self._try(lambda c, key: c.cancel(name, "its time is over", key=key))
                stop, give_up = asyncio.Event(), time.monotonic() + CALM_S

    async def _turn(self, name: str, plot: str) -> None:
        match plot:
            case "pause":
                await self._try(lambda c, key: c.pause(name, "lunch", key=key))
                await asyncio.sleep(self._rng.uniform(0.5, 4))
                await self._try(lambda c, key: c.resume(name, key=key))
            case "cancel":
                await self._try(lambda c, key: c.cancel(name, "a second thought", key=key))
            case "roll back":
                await self._try(lambda c, key: c.roll_back(name, "a third thought", key=key))
            case "fleet stop":
                await self._try(lambda c, key: c.fleet_stop("what was that noise", key=key))
                await asyncio.sleep(self._rng.uniform(0.5, 4))
                await self._try(lambda c, key: c.fleet_stop("nothing", stop=False, key=key))

    async def _give_word(self, name: str) -> None:
        """Nodes that wait for a person: they were looked at."""
        nodes = await self._ask(lambda c, _key: c.nodes())
        mine = [n for n in nodes if n.node_id in self._limits.part]
        waiting = [n.node_id for n in mine if n.phase in NEEDS_WORD and n.link == "up"]
        for node in waiting:
            await self._try(lambda c, key, node=node: c.retry(name, [node], key=key))

    async def _tidy(self, rollout: pb.Rollout) -> pb.Rollout:
        if rollout.uncommitted:
            await self._try(lambda c, key: c.commit(rollout.rollout_id, key=key))
        return rollout

    async def _try(self, call: Callable[[Client, str], object]) -> None:
        """What may be refused: the fleet is not what it was when the operator looked."""
        try:
            await self._ask(call)
        except Failed as failed:
            if failed.exit is Exit.FAULT:
                raise
            self.refused[failed.reason] += 1
            self.last_refusal = failed.message

    async def _ask(self, call: Callable[[Client, str], A]) -> A:
        """Repeated under one key until somebody answers. Raises Failed."""
        return await asyncio.to_thread(self._insist, call)

    def _insist(self, call: Callable[[Client, str], A]) -> A:
        key, give_up = new_key(), time.monotonic() + PATIENCE_S
        while True:
            try:
                with Client(self._fleet.connection) as client:
                    return call(client, key)
            except Failed as failed:
                if failed.exit is not Exit.UNREACHABLE or time.monotonic() > give_up:
                    raise
            time.sleep(0.3)
