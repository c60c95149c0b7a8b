"""A person at the orchestrator: the ordinary CLI against the lab's fleet, and what it answers."""

from __future__ import annotations

import json
from typing import Any

from deploy.lab.fleet import Fleet
from tests.lab.waiting import WAIT_S, until

SLOW_S = 300.0
"""Of a whole rollout: each node's update takes half a minute under TCG on a shared machine."""

BASE = """\
name: {name}
target: {{artifact: {artifact}}}
canary: {{max_nodes: 1}}
budgets: {{max_unavailable: {width}, max_in_blackout: {width}, max_uncommitted: 100%, failures: {{max: 0}}}}
gates:
  - blackout: {{quantile: 0.99, max: 2m, min_samples: 1}}
    on_fail: halt
  - health: {{min_healthy_percent: 100%}}
    on_fail: halt
bake: {{node: 2s, wave: 2s}}
health_hold: 1s
rollback: {{max_unavailable: {width}, max_in_blackout: {width}}}
retries: {{replan: {{attempts: {attempts}, backoff: 1s, max_backoff: 1s}}}}
silence_lease: 3m
acknowledge_timeout: 2m
"""
"""silence_lease: a blackout lasts seconds, yet an agent under TCG links a good while after it."""


class Operator:
    """Of one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    async def cli(self, *words: str) -> Any:
        """Its JSON. Raises AssertionError with what it complained of."""
        told = await self.fleet.liveroll(*words, "-o", "json")
        assert told.rc == 0, f"liveroll {' '.join(words)}: {told.rc}: {told.stderr}{told.stdout}"
        return told.json

    async def create(
        self, name: str, kernel: str, *, width: int = 1, attempts: int = 1, more: str = ""
    ) -> None:
        """Begin a rollout. kernel: of the lab, or an artifact's name."""
        file = self.fleet.directory / f"{name}.yaml"
        artifact = self.fleet.artifacts[kernel].name if kernel in self.fleet.artifacts else kernel
        file.write_text(BASE.format(name=name, artifact=artifact, width=width, attempts=attempts) + more)
        told = await self.fleet.liveroll("create", str(file))
        assert told.rc == 0, told.stderr

    async def rollout(self, name: str) -> Any:
        return await self.cli("get", name)

    async def until_state(self, name: str, *wanted: str) -> Any:
        """The rollout, once it is in one of these states or has ended."""
        ends = {"SUCCEEDED", "FAILED", "CANCELLED", "ROLLED_BACK", "HALTED", *wanted}

        async def look() -> Any:
            found = await self.rollout(name)
            return found if state_of(found) in ends else None

        found = await until(look, f"rollout {name} {wanted}", timeout_s=SLOW_S)
        assert state_of(found) in wanted, (state_of(found), found.get("blockers"), found.get("haltMessage"))
        return found

    async def nodes(self) -> dict[str, Any]:
        return {node["nodeId"]: node for node in (await self.cli("nodes"))["nodes"]}

    async def until_node(self, name: str, phase: str, *, timeout_s: float = WAIT_S) -> Any:
        """The node, once the orchestrator knows it in that phase and its link is up."""

        async def look() -> Any:
            node = (await self.nodes())[name]
            return node if phase_of(node) == phase and node["link"] == "up" else None

        return await until(look, f"{name} {phase}", timeout_s=timeout_s)

    async def ready(self) -> None:
        """Until every node is linked and has a way back."""

        async def look() -> bool:
            nodes = (await self.nodes()).values()
            return all(node["link"] == "up" and node.get("rollbackArtifact") for node in nodes)

        await self.fleet.wait_linked()
        await until(look, "every node has a way back")

    async def events(self) -> list[Any]:
        """Of everything, in the order of commit."""
        told = await self.fleet.liveroll("events", "-o", "json")
        assert told.rc == 0, told.stderr
        return [json.loads(line) for line in told.stdout.splitlines()]

    async def story(self, node: str) -> str:
        """A node's history, as one line."""
        told = await self.fleet.liveroll("story", node)
        assert told.rc == 0, told.stderr
        return " ".join(told.stdout.split())

    async def why(self, *words: str) -> str:
        """What it says of what stands in the way, as one line."""
        told = await self.fleet.liveroll("why", *words)
        return " ".join((told.stdout + told.stderr).split())


def state_of(rollout: Any) -> str:
    """Without the enum's prefix."""
    return str(rollout["state"]).removeprefix("ROLLOUT_STATE_")


def phase_of(node: Any) -> str:
    """Without the enum's prefix."""
    return str(node["phase"]).removeprefix("PHASE_")
