"""kill -9 of agents on nodes of RFC v2, in one rollout: a file comes back once, and no byte may be lost.

Real agents under kernel processes of both couplings, a workload each. An agent that dies starts again by
itself. Promised, as on a kernel with sessions: before the jump it unwinds and is tried again, after it the
attempt goes on; one reboot an attempt; the workload lives once in the old kernel and is claimed once in the
new one, its memory intact. And in the end the kernel has no file under a token, LUO is in its normal
state, and no process is left that kept anything for the agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from node_agent.kernel.emulated import syncclient
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.rollout_file import load
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD
from tests.integration.mortal_fleet import MortalFleet, all_events, mortal_fleet
from tests.integration.outside import Audit, Caps
from tests.integration.real_node import RealNode
from tests.integration.test_kill9_records import NODES as NODES_OF_SESSIONS
from tests.integration.test_kill9_records import hooked, rollout_of

RFC2_ABI = ("kho=kho-v1", "luo=luo-v1", "memfd=memfd-v1")
TARGET = "linux-rfc-v2"
DRIVEN, NOTIFIER = "rfc-v2/luo-driven", "rfc-v2/notifier"


@dataclass(frozen=True)
class Node:
    """Dies before and after these points; see mortal.py.

    faults: its kernel's; hook: (name, script) of its own.
    """

    model: str
    points: tuple[str, ...]
    faults: str = ""
    hook: tuple[str, str] = ("", "")
    jumps: int = 1
    """Boots that its workload crosses."""


NODES = {
    "prepares": Node(NOTIFIER, ("Drained", "Preserved", "Proceeded")),
    "jumps": Node(DRIVEN, ("Suspended", "JumpIntentRecorded")),
    # Every step between the kexec and the full agent: nothing restored, restored by nobody's asking,
    # parked or not, all claimed, the agent's own files restored.
    "comes-back": Node(
        DRIVEN,
        tuple(f"blackout.{step}" for step in ("retrieve", "park", "listen", "serve", "read_token")),
    ),
    "goes-on": Node(NOTIFIER, ("BootClassified", "Retrieved", "Resumed")),
    # With the other coupling KHO stays finalized, and no attempt is begun until a cold boot.
    "unwinds": Node(DRIVEN, ("RebootRefused", "Unwound"), faults="refuse_freeze@1,refuse_freeze@2"),
    "rolls-back": Node(
        NOTIFIER, ("Unhealthy", "blackout.retrieve"), hook=NODES_OF_SESSIONS["sick"].hook, jumps=2
    ),
    "ends": Node(DRIVEN, ("Healthy", "luo.finish", "Finished", "Committed")),
}


@asynccontextmanager
async def nodes_of(directory: Path) -> AsyncIterator[tuple[MortalFleet, dict[str, RealNode]]]:
    async with mortal_fleet(directory) as fleet:
        build_emulated(fleet.local.artifacts_dir, name=TARGET, release=NEW, abi=RFC2_ABI)
        await fleet.local.start_orchestrator()
        nodes = {}
        for name, node in NODES.items():
            arguments = ["--release", OLD, "--model", name, "--kexec-s", "0.2", "--luo-model", node.model]
            if node.faults:
                arguments += ["--faults", node.faults]
            if node.hook[0]:
                arguments += ["--config", str(hooked(directory / name, *node.hook))]
            child = await fleet.start_node(name, node.points, *arguments)
            nodes[name] = RealNode(child, directory / name)
        yield fleet, nodes


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_agents_die_on_both_sides_of_rfc_v2s_kexec_and_keep_their_promise(directory: Path) -> None:
    async with nodes_of(directory) as (fleet, nodes):
        await fleet.until(
            lambda c: len(NODES) == sum(n.link == "up" and bool(n.rollback_artifact) for n in c.nodes()),
            "all linked",
        )
        (directory / "k.yaml").write_text(rollout_of(TARGET, len(NODES)))
        spec = load(directory / "k.yaml").spec
        await fleet.insist(lambda c, key: c.create(spec, key=key))
        await fleet.until(lambda c: c.get("k").HasField("end_time"), "the rollout's end")
        rollout = await fleet.ask(lambda c: c.get("k"))
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        jumps = sum(node.jumps for node in NODES.values())
        assert (rollout.memory_checks_failed, rollout.memory_checks_passed) == (0, jumps)
        await fleet.until(
            lambda c: all(n.phase == common_pb2.PHASE_COMMITTED for n in c.nodes()), "all committed"
        )
        assert not fleet.left(), "points that nobody came to"
        audit = Audit(Caps(len(NODES), len(NODES), len(NODES), dict.fromkeys(NODES, "")))
        audit.replay(await fleet.ask(all_events))
        for name, node in nodes.items():
            check_promise(node, NODES[name])
            await node.until(lambda node=node: not node.forked, "nothing kept any more")  # type: ignore[misc]


def check_promise(node: RealNode, what: Node) -> None:
    journal_reader.check_node(node.journal())
    story = journal_reader.story(node.journal())
    assert story[-1][1] == "COMMITTED", (node.name, story)
    assert len(journal_reader.boots(node.journal())) == 1 + what.jumps, (node.name, story)
    log = node.log
    assert "Traceback" not in log, log[-4000:]
    assert (log.count("fresh start"), log.count("claimed")) == (1, what.jumps), (node.name, log[-4000:])
    assert "DAMAGED" not in log
    assert log.count("bytes intact") >= what.jumps, log[-4000:]
    facts = node.facts()
    assert f"{facts['luo_model']}/{facts['coupling']}" == what.model
    assert (facts["luo_state"], facts["release"]) == ("normal", NEW if what.jumps == 1 else OLD)
    assert syncclient.control(str(node.state / "root"), "files") == ""
