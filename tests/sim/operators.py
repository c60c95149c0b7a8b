"""People who press buttons at random while faults last.

Every call goes through Orchestrator.operate with an idempotency key, as rpc/rollouts.py does, and
is repeated under the same key when its answer is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from orchestrator.core import operations as ops
from orchestrator.core.fleet import Fleet
from orchestrator.core.model import Artifact, Change, Maintenance
from orchestrator.core.spec import RolloutSpec
from orchestrator.errors import LiverollError, NotLeader, StoreUnavailable
from orchestrator.runtime.calls import Operation
from tests.sim.node_ports import digest_of

if TYPE_CHECKING:
    from tests.sim.world import World

TRIES = 30


class Unanswered(Exception):
    """The call's outcome is not known: nobody serves, or the answer was lost."""


class Operator:
    """A person with the CLI."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = random.Random(f"{name} {world.scenario.seed}")
        self._calls = 0

    @property
    def fleet(self) -> Fleet | None:
        """None while nobody serves."""
        life = self.world.host.current
        try:
            return life.orchestrator.fleet if life is not None else None
        except NotLeader:
            return None

    async def call(self, method: str, operation: Operation) -> str:
        """The response; LiverollError if it was refused. Repeated while nobody answers."""
        self._calls += 1
        key = f"{self.name}-{self._calls}"
        for _ in range(TRIES):
            try:
                response = await self._once(method, key, operation)
            except (Unanswered, StoreUnavailable, NotLeader):
                await asyncio.sleep(self.rng.uniform(0.5, 5))
                continue
            except LiverollError as refusal:
                self.world.story.tell("operator", f"{self.name}: {method} is refused: {refusal.message}")
                self.world.story.count(f"refused {method} {refusal.reason}")
                raise
            self.world.story.tell("operator", f"{self.name}: {method} is done")
            self.world.story.count(f"did {method}")
            return response
        self.world.story.tell("operator", f"{self.name}: {method} was not answered")
        raise Unanswered

    async def _once(self, method: str, key: str, operation: Operation) -> str:
        life = self.world.host.pick(self.rng)
        if life is None:
            raise Unanswered
        work = life.orchestrator.operate(
            actor=self.name, idempotency_key=key, method=method, request_hash="h", operation=operation
        )
        task = asyncio.get_running_loop().create_task(work, context=life.process.context())
        try:
            await asyncio.wait((task,), timeout=30)
        finally:
            task.cancel()
        if not task.done() or task.cancelled() or life.dead:
            if task.done() and not task.cancelled():
                task.exception()
            raise Unanswered
        return task.result().response

    async def change(self, method: str, make: Callable[[Fleet, datetime], Change]) -> None:
        await self.call(method, lambda fleet, now: (make(fleet, now), ""))

    async def on_nodes(self, method: str, make: Callable[[Fleet, datetime], ops.OnNodes]) -> None:
        def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
            done = make(fleet, now)
            return done.change, json.dumps(done.nodes)

        await self.call(method, operation)

    # --- the calls

    async def create(self, spec: RolloutSpec) -> None:
        release = spec.target.artifact
        artifact = Artifact(release, digest_of(release), release, "http://artifacts/", emulated=True)

        def operation(fleet: Fleet, now: datetime) -> tuple[Change, str]:
            made = ops.create(fleet, spec, artifact, self.name, now)
            return made.change, made.rollout_id

        await self.call("create", operation)

    async def act(self, method: str, rollout: str, nodes: Sequence[str] = ()) -> None:
        """One of the operators' verbs, with a reason."""
        why, who = "the simulation wants it", self.name
        match method:
            case "pause":
                await self.change(method, lambda f, n: ops.pause(f, rollout, why, who, n))
            case "resume":
                await self.change(method, lambda f, n: ops.resume(f, rollout, why, True, who, n))
            case "approve":
                await self.change(method, lambda f, n: ops.approve(f, rollout, "", why, who, n))
            case "cancel":
                await self.change(method, lambda f, n: ops.cancel(f, rollout, why, False, who, n))
            case "cancel and roll back":
                await self.change(method, lambda f, n: ops.cancel(f, rollout, why, True, who, n))
            case "rollback":
                await self.change(method, lambda f, n: ops.roll_back(f, rollout, why, who, n))
            case "stop" | "release":
                stop = method == "stop"
                await self.change(
                    method, lambda f, n: ops.fleet_stop(f, stop, why, who, n, accept_differences=True)
                )
            case "retry":
                await self.on_nodes(method, lambda f, n: ops.retry_nodes(f, rollout, nodes, why, who, n))
            case "exclude":
                await self.on_nodes(method, lambda f, n: ops.exclude_nodes(f, rollout, nodes, why, who, n))
            case "commit":
                await self.on_nodes(method, lambda f, n: ops.commit_nodes(f, rollout, nodes, why, who, n))
            case "remove":
                # For good: out of the rollout, then out of the count.
                await self.on_nodes(method, lambda f, n: ops.exclude_nodes(f, rollout, nodes, why, who, n))
                await self.on_nodes(method, lambda f, n: ops.write_off(f, nodes, why, who, n))
            case "write off":
                await self.on_nodes(method, lambda f, n: ops.write_off(f, nodes, why, who, n))
            case "maintenance" | "take out":

                def maintain(fleet: Fleet, now: datetime) -> ops.OnNodes:
                    until = Maintenance(
                        "ops", why, now + timedelta(seconds=120) if method == "maintenance" else None
                    )
                    return ops.set_maintenance(fleet, nodes, until, who, now)

                await self.on_nodes(method, maintain)
            case "end maintenance":
                await self.on_nodes(method, lambda f, n: ops.set_maintenance(f, nodes, None, who, n))
            case _:
                raise ValueError(method)

    async def try_to(self, method: str, rollout: str = "", nodes: Sequence[str] = ()) -> bool:
        """act(), and whether it was done."""
        try:
            await self.act(method, rollout, nodes)
        except (LiverollError, Unanswered):
            return False
        return True


VERBS = (
    ("pause", 4),
    ("resume", 8),
    ("approve", 6),
    ("cancel", 1),
    ("cancel and roll back", 1),
    ("rollback", 2),
    ("stop", 1),
    ("release", 3),
    ("retry", 6),
    ("exclude", 2),
    ("commit", 3),
    ("write off", 3),
    ("maintenance", 3),
    ("end maintenance", 2),
    ("remove", 1),
)


def press(world: World, verb: str, rng: random.Random) -> None:
    """Somebody calls this now, about some rollout and some node."""
    operator = world.mallory
    fleet = operator.fleet
    if fleet is None or not fleet.rollouts:
        return
    rollout = rng.choice(sorted(fleet.rollouts))
    world.start(operator.try_to(verb, rollout, [rng.choice(sorted(fleet.nodes))]))


async def press_buttons(world: World, every_s: float) -> None:
    """Random calls, until cancelled."""
    operator = world.mallory
    rng = operator.rng
    verbs, weights = zip(*VERBS, strict=True)
    while True:
        await asyncio.sleep(rng.expovariate(1 / every_s))
        fleet = operator.fleet
        if fleet is None or not fleet.rollouts:
            continue
        rollout = rng.choice(sorted(fleet.rollouts))
        node = rng.choice(sorted(fleet.nodes))
        verb = rng.choices(verbs, weights)[0]
        await operator.try_to(verb, rollout, [node])
