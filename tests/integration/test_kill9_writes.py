"""kill -9 of the orchestrator before and after every kind of committed write, in rollouts that go on.

Each story (write_stories.py) must come to the kinds that are named here, and dies twice at each: as the
write is about to be made, and when it is durable and nobody has heard of it. All kinds are read from
the code: one that no story dies at fails here. Promised: the story ends as it would have without the
deaths, with one reboot an attempt, memory intact, budgets kept and events without a gap, as an outsider
can tell.

LIVEROLL_LONG=1 dies at every kind in every story.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from node_agent.core import events as agent_events
from orchestrator.ports import Store
from tests.integration import mortal
from tests.integration.conftest import REPOSITORY, now
from tests.integration.mortal_fleet import MortalFleet, all_events, mortal_fleet
from tests.integration.outside import Audit, Caps, check_journals
from tests.integration.write_stories import STORIES, Teller

LONG = bool(os.environ.get("LIVEROLL_LONG"))


def said(*names: str) -> frozenset[str]:
    return frozenset(f"said.{name}" for name in names)


DIES_AT = {
    "forward": frozenset(
        {
            *("acquire", "beat", "rollout.created", "rollout.paused", "rollout.resumed", "rollout.ended"),
            *("fleet.stopped", "fleet.released", "node.enrolled", "node.linked", "node.unlinked"),
            *("node.maintenance", "node.excluded", "node.settled", "member.deferred", "member.joined"),
            *("member.retrying", "member.settled", "canary.chosen", "pair.passed", "wave.started"),
            *("wave.baking", "wave.gated", "wave.gates_waived", "wave.awaiting_approval", "wave.approved"),
            *("wave.passed", "attempt.prepared", "attempt.proceeded", "attempt.committing", "silent.stage"),
        }
    )
    | said(
        *("node.reported", "node.staged", "attempt.prepared", "attempt.loaded", "attempt.drained"),
        *("attempt.preserved", "attempt.proceeded", "attempt.suspended", "attempt.jump_intent_recorded"),
        *("attempt.boot_classified", "attempt.retrieved", "attempt.resumed", "attempt.healthy"),
        *("attempt.finished", "attempt.commit_requested", "attempt.committed", "attempt.reboot_refused"),
        "attempt.unwound",
    ),
    "cancelled": frozenset(
        {
            *("rollout.cancel_wanted", "rollout.rollback_wanted", "attempt.cancelled", "node.commit_wanted"),
            *("attempt.prepared", "attempt.proceeded", "rollout.ended", "member.settled"),
        }
    )
    | said("attempt.cancel_requested", "attempt.unwound"),
    "unhealthy": frozenset({"rollout.rolling_back", "attempt.prepared", "rollout.ended"})
    | said("attempt.unhealthy", "attempt.finished"),
    "lost": frozenset(
        {
            *("attempt.lost", "rollout.halted", "rollout.resumed", "node.written_off", "node.returned"),
            *("node.retry_wanted", "fleet.released"),
        }
    )
    | said(
        *("node.returned", "node.stage_failed", "attempt.step_failed"),
        "attempt.unwound",
    ),
}
ENDS = {
    "forward": pb.ROLLOUT_STATE_SUCCEEDED,
    "cancelled": pb.ROLLOUT_STATE_ROLLED_BACK,
    "unhealthy": pb.ROLLOUT_STATE_ROLLED_BACK,
    "lost": pb.ROLLOUT_STATE_SUCCEEDED,
}
BUDGETS = {"forward": (2, 2), "cancelled": (1, 1), "unhealthy": (2, 2), "lost": (3, 2)}
"""(max_unavailable, max_in_blackout) of each story's file."""

PERHAPS = {
    "attempt.contradicted": "only an agent that lies says it; written with the report that it is about",
    "attempt.not_proven": "as attempt.contradicted",
    "attempt.foreign": "luoctl's doing, of which nothing is promised but that it is told",
    "attempt.refused": "a race between a PREPARE and the node; written with the refusal",
    "attempt.relapsed": "told by a node after its bake began, as attempt.unhealthy before",
    "attempt.timed_out": "another node's failure may halt the rollout, and undo it, first",
    "attempt.lease_expired": "comes only if the orchestrator stays dead for the lease's length",
    "node.refused": "as attempt.refused",
    "node.sickened": "a race between a heartbeat and a report",
    "node.recovered": "as node.sickened",
    "node.not_ready": "only a node of RFC v2 says it; written as node.sickened is, without an effect on it",
    "node.ready": "as node.not_ready",
    "invariant.violated": "never",
    "member.recalled": "a planner's progress without effect on a node",
    "attempt.adopted": "only after a restored backup; written with the report that it is about",
    "attempt.taken_in": "only after a restored backup; written with the rollout's creation",
    "node.beyond": "only after a restored backup; written with the Hello that tells it",
    "store.restored": "liveroll-orchestrator restore's, which is all or nothing",
    "wave.reopened": "a race between a wave's bake and a node's",
}
"""Kinds that no story can be sure to come to, and why; armed everywhere all the same."""
WRITES_ELSEWHERE = {
    "release": "the last write of a process that ends of its own will",
    "leave": "as release",
    "trim": "deletes what nobody needs any more, one short transaction at a time",
}


@pytest.mark.integration
@pytest.mark.timeout(300)
async def test_it_dies_at_every_write_and_each_story_ends_as_it_should(tmp_path: Path) -> None:
    """All at once: most of their time is waiting for somebody to come back."""
    async with asyncio.TaskGroup() as tasks:
        for name in STORIES:
            tasks.create_task(told(tmp_path / name, name))


async def told(directory: Path, name: str) -> None:
    every = frozenset[str]().union(*DIES_AT.values())
    points = (every if LONG else DIES_AT[name]) | PERHAPS.keys() | said(*PERHAPS)
    async with mortal_fleet(directory) as fleet:
        await fleet.start(points)
        teller = Teller(fleet)
        try:
            await STORIES[name](teller)
            await check(fleet, teller, name)
        except BaseException as error:
            assert fleet.local.orchestrator is not None
            error.add_note(f"in the story {name}; its log ends:\n{fleet.local.orchestrator.last_lines(5)}")
            raise


async def check(fleet: MortalFleet, teller: Teller, name: str) -> None:
    left = mortal.armed(fleet.fates["orchestrator"])
    missed = left & {f"{when} {kind}" for when in ("before", "after") for kind in DIES_AT[name]}
    assert not missed, f"never came to {sorted(missed)}"
    rollout = await fleet.ask(lambda c: c.get("k"))
    assert rollout.state == ENDS[name]
    assert rollout.memory_checks_failed == 0
    unavailable, blackout = BUDGETS[name]
    zones = {node: "" for _, node in teller.nodes}
    audit = Audit(Caps(unavailable, blackout, len(zones), zones))
    audit.replay(await fleet.ask(all_events))
    assert audit.kinds["rollout.created"] == 1
    assert not audit.kinds["invariant.violated"]
    above = unavailable + (audit.baseline or 0)
    for prefix in {prefix for prefix, _ in teller.nodes}:
        ours = [node for of, node in teller.nodes if of == prefix]
        caps = Caps(above, blackout, above, zones)
        check_journals(fleet.local.directory / prefix, ours, caps, now())
    assert fleet.local.orchestrator is not None
    assert "Traceback" not in fleet.local.orchestrator.log_path.read_text()


def test_no_kind_of_write_is_left_out() -> None:
    ours = frozenset[str]().union(*DIES_AT.values())
    missing = {kind for kind in kinds_in_the_code() if not {kind, f"said.{kind}"} & ours} - PERHAPS.keys()
    assert not missing, f"no story dies at {sorted(missing)}"


def test_no_write_of_the_store_is_left_out() -> None:
    reads = {"open", "close", "load", "changes", "hints", "events", "first_seq", "recall"}
    port = {name for name, _ in inspect.getmembers(Store, inspect.isfunction) if not name.startswith("_")}
    assert port - reads == set(mortal.STORE_WRITES)
    died = {"commit"} | frozenset[str]().union(*DIES_AT.values())
    assert not port - reads - died - WRITES_ELSEWHERE.keys()


KIND = re.compile(r"(rollout|attempt|node|member|wave|pair|fleet|canary|invariant|store)\.[a-z_]+")
FIELDS = {"canary.nodes", "canary.max_nodes"}
"""Of a rollout file: named in its violations."""


def kinds_in_the_code() -> Iterator[str]:
    """Every string of the orchestrator that looks like an event's kind, and every event of an agent."""
    for package in ("core", "runtime", "store"):
        for path in (REPOSITORY / "orchestrator" / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                text = node.value if isinstance(node, ast.Constant) else None
                if isinstance(text, str) and KIND.fullmatch(text) and text not in FIELDS:
                    yield text
    for name, event in inspect.getmembers(agent_events, inspect.isclass):
        if event.__module__ == agent_events.__name__:
            yield "attempt." + re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
