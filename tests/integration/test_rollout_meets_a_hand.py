"""A rollout comes to nodes whose LUO somebody drives by hand: it waits for them, says who must do what, and
goes on by itself. Real processes, in both couplings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import local_fleet
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from tests.integration.conftest import NEW, OLD, Operator, module, run
from tests.integration.mortal_fleet import until
from tests.integration.real_node import RealNode
from tests.integration.test_rfc2_kill9 import DRIVEN, NOTIFIER, RFC2_ABI

pytestmark = pytest.mark.integration

ROLLOUT = f"""
name: r
target: {{artifact: linux-{NEW}}}
canary: {{max_nodes: 4}}
budgets: {{max_unavailable: 4, max_in_blackout: 4, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
"""


WAITS = ("NODE_NOT_READY", 2)


def reasons(nodes: dict[str, pb.Node]) -> dict[str, tuple[str, str]]:
    """Node → why it is not ready, and LUO's state in it."""
    return {
        name: (node.not_ready.reason, node.not_ready.fields["luo_state"])
        for name, node in nodes.items()
        if node.HasField("not_ready")
    }


async def luoctl(node: RealNode, verb: str) -> None:
    command = module("node_agent.luoctl", "--socket", str(node.state / "control.sock"), verb)
    done = await asyncio.to_thread(run, command)
    assert done.status == 0, done


async def test_it_waits_and_goes_on(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        for release in (OLD, NEW):
            build_emulated(fleet.artifacts_dir, release=release, abi=RFC2_ABI)
        await fleet.start_orchestrator()
        by_hand = {}
        for name, model in (("driven", DRIVEN), ("notifier", NOTIFIER), ("other", DRIVEN)):
            child = await fleet.start_node(
                name, "--release", OLD, "--kexec-s", "0.3", "--luo-model", model, "--model", name
            )
            by_hand[name] = RealNode(child, directory / name)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 3)
        for node in by_hand.values():
            await node.until_subscribed(1)
        # By luoctl, which the node tells at once; and past the agent, which its next heartbeat finds.
        await luoctl(by_hand["driven"], "prepare")
        root = str(by_hand["notifier"].state / "root")
        await asyncio.to_thread(syncclient.control, root, "debugfs_write", FINALIZE_PATH, "1")
        held = {"driven": ("LUO_NOT_NORMAL", "prepared"), "notifier": ("LUO_NOT_NORMAL", "prepared")}
        await asyncio.to_thread(operator.wait_for_nodes, lambda nodes: reasons(nodes) == held)

        await asyncio.to_thread(operator.create, ROLLOUT)
        await asyncio.to_thread(
            until,
            fleet.connection,
            lambda client: [(b.reason, b.node_count) for b in client.get("r").blockers] == [WAITS],
            "nothing but the two is waited for",
        )
        (blocker,) = (await asyncio.to_thread(operator.rollout, "r")).blockers
        assert (blocker.reason, sorted(blocker.nodes)) == ("NODE_NOT_READY", ["driven", "notifier"])
        assert "On the node: Undo it with `luoctl cancel`, or `liveroll exclude r " in blocker.remedy
        with Client(fleet.connection) as client:
            why = await asyncio.to_thread(client.explain, "r", "driven")
        assert "LUO_NOT_NORMAL: LUO is prepared" in why.summary
        found = {name: node.kernel_release for name, node in operator.nodes().items()}
        assert found == {"driven": OLD, "notifier": OLD, "other": NEW}

        await luoctl(by_hand["driven"], "cancel")
        await asyncio.to_thread(syncclient.control, root, "debugfs_write", FINALIZE_PATH, "0")
        rollout = await asyncio.to_thread(operator.wait_for_end, "r")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert (rollout.memory_checks_passed, rollout.memory_checks_failed) == (3, 0)
        assert rollout.retries == 0
        assert {node.kernel_release for node in operator.nodes().values()} == {NEW}
        assert reasons(operator.nodes()) == {}
        kinds = [event.kind for event in operator.events() if event.kind.endswith("ready")]
        assert sorted(kinds) == ["node.not_ready"] * 2 + ["node.ready"] * 2
        prepared = [e for e in operator.events_of("attempt.prepared") if e.actor == "orchestrator"]
        assert sorted(e.node_id for e in prepared) == ["driven", "notifier", "other"], "one attempt each"
