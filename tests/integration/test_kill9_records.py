"""kill -9 of the agent before and after every kind of record in its journal, in one rollout.

Real agents under emulated kernels, a workload each. An agent that dies starts again by itself, as under
a service manager. Promised: before the jump it unwinds and is tried again, after it the attempt goes on;
one reboot an attempt; the workload lives once in the old kernel and is claimed once in the new one, its
memory intact. All kinds are read from the code: one at which no node dies fails here.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from liveroll.v1 import common_pb2
from liveroll.v1 import rollout_pb2 as pb

from node_agent.core import events as agent_events
from node_agent.core import history
from orchestrator.cli.rollout_file import load
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD
from tests.integration.mortal_fleet import MortalFleet, all_events, mortal_fleet
from tests.integration.outside import Audit, Caps


@dataclass(frozen=True)
class Node:
    """Dies before and after these records (of what is staged already, no record tells a second time).
    faults: its kernel's; hook: (name, script) of its own."""

    records: tuple[str, ...]
    faults: str = ""
    hook: tuple[str, str] = ("", "")
    jumps: int = 1
    """Boots that its workload crosses."""


ONCE = "mkdir 2>/dev/null {state}/"
SAYS, IN = "grep -q ", "{state}/journal"
NODES = {
    "begins": Node(("record.installation", "record.node", "before Staged", "Prepared")),
    "loads": Node(("after Staged", "Loaded", "Drained")),
    "preserves": Node(("Preserved", "Proceeded")),
    "jumps": Node(("Suspended", "JumpIntentRecorded")),
    "unwinds": Node(("RebootRefused", "Unwound"), faults="refuse_freeze@1,refuse_freeze@2"),
    "comes-back": Node(("BootClassified", "Retrieved", "Resumed")),
    "ends": Node(("Healthy", "Finished", "CommitRequested", "Committed")),
    "hangs": Node(("TimedOut",), faults="hang=load@1,hang=load@2"),
    "fails": Node(("StepFailed",), hook=("drain", f"{ONCE}a || {ONCE}b && exit 1")),
    "sick": Node(
        ("Unhealthy",), hook=("health", f"{SAYS}VERIFYING {IN} && ! {SAYS}Unhealthy {IN} && exit 1"), jumps=2
    ),
}
ELSEWHERE = {
    "LeaseExpired": "written as TimedOut is, before the same unwinding",
    "CancelRequested": "written as TimedOut is, before the same unwinding",
    "Relapsed": "written as Unhealthy is, without an effect of its own",
    "CommandRefused": "written without an effect",
    "FloorRaised": "written without an effect",
}


def rollout_of(target: str, nodes: int) -> str:
    """All at once, with retries enough for agents that die."""
    return f"""
name: k
target: {{artifact: {target}}}
canary: {{max_nodes: {nodes}}}
budgets: {{max_unavailable: {nodes}, max_in_blackout: {nodes}, failures: {{max: 1}}}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
timeouts: {{loading: 10s, verifying: 10s}}
rollback: {{max_unavailable: {nodes}, max_in_blackout: {nodes}}}
retries:
  call: {{attempts: 20, backoff: 100ms, max_backoff: 300ms}}
  replan: {{attempts: 20, backoff: 100ms, max_backoff: 300ms}}
"""


@asynccontextmanager
async def nodes_of(directory: Path) -> AsyncIterator[MortalFleet]:
    async with mortal_fleet(directory) as fleet:
        await fleet.local.start_orchestrator()
        for name, node in NODES.items():
            arguments = ["--release", OLD, "--model", name, "--kexec-s", "0.2"]
            if node.faults:
                arguments += ["--faults", node.faults]
            if node.hook[0]:
                arguments += ["--config", str(hooked(directory / name, *node.hook))]
            await fleet.start_node(name, node.records, *arguments)
        yield fleet


def hooked(state: Path, hook: str, script: str) -> Path:
    state.mkdir()
    config = state / "agent.toml"
    script = script.format(state=state)
    config.write_text(
        f"[hooks.{hook}]\ncommand = ['/bin/sh', '-c', '''{script}; exit 0''']\ntimeout_s = 10\n"
    )
    return config


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_agents_die_at_every_record_and_keep_their_promise(directory: Path) -> None:
    async with nodes_of(directory) as fleet:
        await fleet.until(
            lambda c: len(NODES) == sum(n.link == "up" and bool(n.rollback_artifact) for n in c.nodes()),
            "all linked",
        )
        (directory / "k.yaml").write_text(rollout_of(f"linux-{NEW}", len(NODES)))
        spec = load(directory / "k.yaml").spec
        await fleet.insist(lambda c, key: c.create(spec, key=key))
        await fleet.until(lambda c: c.get("k").HasField("end_time"), "the rollout's end")
        rollout = await fleet.ask(lambda c: c.get("k"))
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert rollout.memory_checks_failed == 0
        await fleet.until(
            lambda c: all(n.phase == common_pb2.PHASE_COMMITTED for n in c.nodes()), "all committed"
        )
        assert not fleet.left(), "points that nobody came to"
        audit = Audit(Caps(len(NODES), len(NODES), len(NODES), dict.fromkeys(NODES, "")))
        audit.replay(await fleet.ask(all_events))
        for name, node in NODES.items():
            check_promise(directory, name, node)


def check_promise(directory: Path, name: str, node: Node) -> None:
    records = journal_reader.read(directory / name / "journal", torn_tail=True)
    journal_reader.check_node(records)
    story = journal_reader.story(records)
    assert story[-1][1] == "COMMITTED", (name, story)
    assert len(journal_reader.boots(records)) == 1 + node.jumps, (name, story)
    log = (directory / f"{name}.log").read_text(errors="replace")
    assert "Traceback" not in log, log[-4000:]
    assert (log.count("fresh start"), log.count("claimed")) == (1, node.jumps), (name, log[-4000:])
    assert "DAMAGED" not in log


def test_no_kind_of_record_is_left_out() -> None:
    died = {record for node in NODES.values() for record in node.records} | ELSEWHERE.keys()
    events = {
        name
        for name, event in inspect.getmembers(agent_events, inspect.isclass)
        if event.__module__ == agent_events.__name__
    }
    assert not events - died
    kinds = {value for name, value in vars(history).items() if name.isupper() and isinstance(value, str)}
    reported = {history.EVENT, history.JUMP_INTENT}
    assert not {f"record.{kind}" for kind in kinds - reported} - died
