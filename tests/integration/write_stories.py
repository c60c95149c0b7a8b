"""Rollouts that together come to every kind of committed write; test_kill9_writes.py kills at each.

A story starts its agents, calls as an operator who repeats each call until it is answered, and ends
with the rollout's end. What it waits for is durable, so that it tells the same however often the
orchestrator dies.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import Child
from orchestrator.cli.client import Client
from orchestrator.cli.failure import Failed
from orchestrator.cli.rollout_file import load
from tests.integration.conftest import NEW, OLD
from tests.integration.mortal_fleet import MortalFleet, all_events

S = pb.RolloutState

BASE = f"""
name: k
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
health_hold: 50ms
retries:
  call: {{attempts: 9, backoff: 50ms, max_backoff: 200ms}}
  replan: {{attempts: 9, backoff: 50ms, max_backoff: 200ms}}
rollback: {{max_unavailable: 1, max_in_blackout: 1}}
"""
SOON = "bake: {node: 100ms, wave: 100ms}\n"
NEVER = "bake: {node: 1h, wave: 1h}\n"


class Teller:
    """One story's fleet."""

    def __init__(self, fleet: MortalFleet) -> None:
        self.fleet = fleet
        self.nodes: list[tuple[str, str]] = []
        """(agents' process, node)"""

    async def start_agents(self, *arguments: str, prefix: str = "n", nodes: int = 4) -> Child:
        child = await self.fleet.local.start_agents(
            prefix, "--nodes", str(nodes), "--label", "pool=test", "--kexec-s", "0.1", "--releases", OLD,
            "--mib", "0.1", *arguments,
        )  # fmt: skip
        ours = [(prefix, f"{prefix}-{i:02d}") for i in range(1, nodes + 1)]
        self.nodes += [node for node in ours if node not in self.nodes]
        await self.until_enrolled()
        return child

    async def until_enrolled(self) -> None:
        """Linked, too, so that a plan counts them."""
        wanted = {node for _, node in self.nodes}
        await self.fleet.until(
            lambda c: wanted <= {n.node_id for n in c.nodes() if n.link == "up" and n.rollback_artifact},
            "enrolled",
        )

    async def create(self, text: str) -> None:
        file = self.fleet.local.directory / "k.yaml"
        file.write_text(BASE + text)
        spec = load(file).spec
        await self.fleet.insist(lambda c, key: c.create(spec, key=key))

    async def until_state(self, *states: int) -> None:
        await self.fleet.until(lambda c: c.get("k").state in states, f"{states}")

    async def waiving(self, true: Callable[[Client], bool]) -> None:
        """Until it is true; meanwhile every gate that holds is waived."""
        waived = 0

        def looked(client: Client) -> bool:
            return true(client) or _told(client, "wave.gated") > waived

        while True:
            await self.fleet.until(looked, "true, or a gate that holds")
            if await self.fleet.ask(true):
                return
            waived += 1
            await self.fleet.insist(lambda c, key: c.approve("k", key=key))

    async def mended(self) -> None:
        """What could not be staged is tried again on a person's word; who is under way needs none."""
        for _, node in self.nodes:
            with contextlib.suppress(Failed):
                await self.fleet.insist(lambda c, key, node=node: c.retry("k", [node], key=key))

    async def trying_again(self) -> None:
        """Until it has succeeded; whenever it halts, all that failed is tried again."""
        while True:
            await self.until_state(S.ROLLOUT_STATE_SUCCEEDED, S.ROLLOUT_STATE_HALTED)
            if (await self.fleet.ask(lambda c: c.get("k"))).state == S.ROLLOUT_STATE_SUCCEEDED:
                return
            await self.fleet.insist(lambda c, key: c.retry("k", key=key))
            await self.fleet.insist(lambda c, key: c.resume("k", clear_halt=True, key=key))

    async def until_phase(self, node: str, *phases: int) -> None:
        await self.fleet.until(lambda c: c.node(node).phase in phases, f"{node} in {phases}")


async def forward(told: Teller) -> None:
    """A canary, an approval, a gate that holds, a late pair, a latecomer, and an operator's hands."""
    fleet = told.fleet
    await told.start_agents("--models", "x,y", "--faults", "n-02=refuse_freeze@1", nodes=6)
    await fleet.insist(lambda c, key: c.fleet_stop("a test", key=key))
    await told.create(
        SOON
        + """
canary: {max_nodes: 1}
waves: [{name: early, size: 50%}, {name: rest}]
promotion: manual_canary
late_nodes: last_wave
budgets: {max_unavailable: 2, max_in_blackout: 2, failures: {max: 0}}
gates: [{blackout: {quantile: 0.9, max: 30s, min_samples: 99}, on_fail: hold}]
"""
    )
    await fleet.insist(lambda c, key: c.maintenance(["n-03"], "a disk", owner="me", key=key))
    await fleet.insist(lambda c, key: c.exclude("k", ["n-06"], "a test", key=key))
    await fleet.insist(lambda c, key: c.pause("k", "lunch", key=key))
    await fleet.insist(lambda c, key: c.fleet_stop("a test", stop=False, key=key))
    await fleet.insist(lambda c, key: c.resume("k", key=key))
    await told.waiving(
        lambda c: c.get("k").state == S.ROLLOUT_STATE_RUNNING and _told(c, "wave.awaiting_approval")
    )
    await told.start_agents(prefix="late", nodes=1)
    await fleet.insist(lambda c, key: c.approve("k", key=key))
    await told.waiving(lambda c: bool(_told(c, "member.deferred")))
    await fleet.insist(lambda c, key: c.maintenance(["n-03"], end=True, key=key))
    await told.waiving(lambda c: c.get("k").state == S.ROLLOUT_STATE_SUCCEEDED)


async def cancelled(told: Teller) -> None:
    """Cancelled with nodes in every step; one is then committed by hand, the others go back."""
    fleet = told.fleet
    await told.start_agents("--drain-s", "1", "--models", "x,y,z", nodes=3)
    await told.create(NEVER + "budgets: {max_unavailable: 1, max_in_blackout: 1, max_uncommitted: 3}")
    await fleet.until_event("attempt.prepared", 3)
    await fleet.insist(lambda c, key: c.cancel("k", "a test", key=key))
    await told.until_state(S.ROLLOUT_STATE_CANCELLED)
    baking = [n.node_id for n in await fleet.ask(lambda c: c.nodes()) if n.phase == common_pb2.PHASE_BAKING]
    await fleet.insist(lambda c, key: c.commit("k", baking[:1], key=key))
    await told.until_phase(baking[0], common_pb2.PHASE_COMMITTED)
    await fleet.insist(lambda c, key: c.roll_back("k", "a test", key=key))
    await told.until_state(S.ROLLOUT_STATE_ROLLED_BACK)


async def unhealthy(told: Teller) -> None:
    """The new kernel is bad: a gate sends all that took it back, by itself."""
    await told.start_agents("--image", f"{NEW}=unhealthy", "--faults", "n-02=full_disk=1@0")
    await told.create(
        SOON
        + """
timeouts: {verifying: 1s}
budgets: {max_unavailable: 2, max_in_blackout: 2, failures: {max: 4}}
gates: [{health: {min_healthy_percent: 95%}, on_fail: roll_back}]
"""
    )
    await told.until_state(S.ROLLOUT_STATE_ROLLED_BACK)


async def lost(told: Teller) -> None:
    """One node never comes back, one loses its memory, one hangs, one has a full disk, and the artifact
    was damaged at first; people say what is to be."""
    fleet = told.fleet
    away = await told.start_agents("--faults", "a-01=never_back@1", prefix="a", nodes=1)
    faults = [
        w for f in ("02=session_lost@1", "03=hang=load@1", "04=full_disk=1@0") for w in ("--faults", f"n-{f}")
    ]
    await told.start_agents(*faults)
    image = fleet.local.artifacts_dir / f"linux-{NEW}" / "vmlinuz"
    good = image.read_bytes()
    await fleet.insist(lambda c, key: c.fleet_stop("a test", key=key))
    await told.create(
        SOON
        + """
canary: {nodes: [a-01]}
silence_lease: 2s
proceed_lease: 1s
timeouts: {loading: 2s, preserved: 1s}
budgets: {max_unavailable: 3, max_in_blackout: 2, failures: {max: 3}}
"""
    )
    image.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    await fleet.insist(lambda c, key: c.fleet_stop("a test", stop=False, key=key))
    await fleet.until_said("node.stage_failed")
    image.write_bytes(good)
    await told.mended()
    await told.until_state(S.ROLLOUT_STATE_HALTED)
    await away.kill()
    fleet.local.children.remove(away)
    await fleet.until(lambda c: c.node("a-01").link == "down", "a-01 is known to be down")
    await fleet.insist(lambda c, key: c.write_off(["a-01"], "burnt", key=key))
    await told.start_agents(prefix="a", nodes=1)
    await told.until_phase("a-01", common_pb2.PHASE_COLD_BOOTED)
    await told.trying_again()


def _told(client: Client, kind: str, node: str = "") -> int:
    return sum(event.kind == kind and node in ("", event.node_id) for event in all_events(client))


STORIES: dict[str, Callable[[Teller], Awaitable[None]]] = {
    told.__name__: told for told in (forward, cancelled, unhealthy, lost)
}
