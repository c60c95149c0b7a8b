"""Yesterday's store in mid-rollout of fifty nodes: noticed, stopped, shown; nobody is updated twice.

Real processes. Judged from outside: what the commands print, the event log, and the nodes' journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD, Done, Event, Operator, liveroll, module, run
from tests.integration.mortal_fleet import all_events, until
from tests.postgres import Postgres

NODES = 50
NAMES = [f"n-{i:02d}" for i in range(1, NODES + 1)]
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
selection: {{selector: pool=test}}
canary: {{max_nodes: 1}}
waves: [{{name: early, size: 40%}}, {{name: rest}}]
budgets: {{max_unavailable: 10, max_in_blackout: 10, failures: {{max: 0}}}}
bake: {{node: 1s, wave: 200ms}}
health_hold: 200ms
retries: {{replan: {{attempts: 5, backoff: 200ms, max_backoff: 1s}}}}
"""
"""No failure is allowed: what the store has lost must not look like one."""

YESTERDAY, SINCE = 8, 10 + 6
"""Nodes that had jumped, at least, when the backup was begun; and how many more have, after it was made, when
the store is lost: in the midst of a wave, however long the backup took. Ten may have begun before it."""

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which database the orchestrator's settings name; they come from its environment."""
    if request.param == "postgresql":
        monkeypatch.setenv("LIVEROLL_STORE", request.getfixturevalue("postgres_url"))
    return str(request.param)


@contextlib.asynccontextmanager
async def fifty(directory: Path) -> AsyncIterator[tuple[LocalFleet, Operator]]:
    settings = {"min_idle_heartbeat_s": 0.5}
    async with local_fleet(directory, heartbeat_s=0.5, grace_s=4, fleet_settings=settings) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        await fleet.start_agents(
            *("n", "--nodes", str(NODES), "--zones", "5", "--label", "pool=test", "--releases", OLD),
            *("--mib", "0.016", "--kexec-s", "0.3", "--drain-s", "0.2", "--log-level", "warning"),
        )
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, NODES)
        yield fleet, operator


async def orchestrator(fleet: LocalFleet, *arguments: str) -> Done:
    """`liveroll-orchestrator`, with the settings of the one that runs."""
    command, *rest = arguments
    words = [command, *rest, "--state-dir", str(fleet.directory)]
    return await asyncio.to_thread(run, module("orchestrator.app", *words))


class Jumped:
    """Wants an event of this kind, once so many nodes have said that they jump."""

    def __init__(self, count: int, kind: str = "attempt.jump_intent_recorded") -> None:
        self.count, self.kind = count, kind
        self.nodes: set[str] = set()

    def __call__(self, event: Event) -> bool:
        if event.kind == "attempt.jump_intent_recorded":
            self.nodes.add(event.node_id)
        return len(self.nodes) >= self.count and event.kind == self.kind


async def die_in_the_midst(fleet: LocalFleet, operator: Operator) -> None:
    """kill -9 while some nodes have begun, and nobody can let them jump any more. From now on so many more
    nodes jump before it."""
    assert fleet.orchestrator is not None
    pid, last = fleet.orchestrator.process.pid, operator.events()[-1]
    wanted = Jumped(SINCE, "attempt.loaded")
    await asyncio.to_thread(operator.kill_at, wanted, pid, signal.SIGKILL, cursor=last.cursor)
    await fleet.kill_orchestrator()


async def differences(fleet: LocalFleet) -> dict[str, Any]:
    done = await liveroll(fleet, "differences", "-o", "json")
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    return answer


async def all_heard(fleet: LocalFleet, operator: Operator) -> dict[str, Any]:
    await asyncio.to_thread(operator.wait_for_links, NODES)
    answer = await differences(fleet)
    assert (answer["stopped"], answer["nodeCount"], answer["unheardCount"]) == (True, NODES, 0)
    return answer


def jumps(directory: Path, names: Sequence[str] = NAMES) -> Mapping[str, int]:
    """How often each node has called reboot, as its own journal says."""
    found = Counter[str]()
    for name in names:
        records = journal_reader.read(directory / "n" / name / "journal", torn_tail=True)
        found[name] = sum(record.kind == "jump_intent" for record in records)
    return found


def expected_outlook(had: Mapping[str, Any], says: Mapping[str, Any]) -> set[str]:
    """What may become of a node that says so, by its own words alone."""
    phase = says["phase"].removeprefix("PHASE_")
    if int(says["attempt"]) == int(had["attempt"]):
        return {"CAUGHT_UP", "SETTLES", "UNWINDS"}
    if phase in ("BAKING", "COMMITTED"):
        return {"COUNTS_AS_UPDATED"}
    if phase in ("LOADING", "DRAINING", "PRESERVING", "PRESERVED", "UNWINDING", "ABORTED"):
        return {"UNWINDS", "NUMBERS_ONLY"}
    # It goes on jumping while it is looked at.
    return {"SETTLES", "UNWINDS", "COUNTS_AS_UPDATED", "NUMBERS_ONLY"}


async def until_lost(fleet: LocalFleet, operator: Operator, backup: Path) -> None:
    """A rollout, a backup in its midst, and more of the rollout."""
    await asyncio.to_thread(operator.create, ROLLOUT)
    await asyncio.to_thread(operator.wait_for_event, Jumped(YESTERDAY))
    made = await orchestrator(fleet, "backup", str(backup), "-o", "json")
    assert made.status == 0, made.err
    assert json.loads(made.out)["counts"]["nodes"] == NODES
    await die_in_the_midst(fleet, operator)


def prepared(operator: Operator) -> list[Event]:
    """Every start that the orchestrator remembers."""
    return [e for e in operator.events_of("attempt.prepared") if e.actor == "orchestrator"]


async def restored_when_nobody_has_it(fleet: LocalFleet, backup: Path) -> None:
    """On PostgreSQL a killed orchestrator's lease has yet to run out."""
    for _ in range(60):
        done = await orchestrator(fleet, "restore", str(backup), "--yes")
        if done.status == 0:
            return
        assert "s unless renewed" in done.err, done.err
    raise AssertionError(done.err)


async def judged(fleet: LocalFleet, operator: Operator, *, unwound: bool = True) -> None:
    """The differences are right, a person accepts them, and the rollout ends without a second update.

    unwound: some nodes had begun, and could not jump.
    """
    answer = await all_heard(fleet, operator)
    found = {d["nodeId"]: d for d in answer["differences"]}
    for d in found.values():
        assert d["outlook"] in expected_outlook(d["store"], d["node"]), d
        assert not d["remedy"], d
    outlooks = Counter(d["outlook"] for d in found.values())
    assert outlooks["COUNTS_AS_UPDATED"], outlooks
    assert outlooks["UNWINDS"] + outlooks["NUMBERS_ONLY"] or not unwound, outlooks
    updated = {n for n, d in found.items() if d["outlook"] == "COUNTS_AS_UPDATED"}
    told = await liveroll(fleet, "differences")
    assert "the fleet is stopped" in told.out
    assert "release --accept-differences" in told.out
    refused = await liveroll(fleet, "release", "-m", "I have not looked")
    assert (refused.status, "--accept-differences" in refused.err) == (3, True), refused.err
    (stop,) = operator.events_of("fleet.stopped")
    assert not [e for e in prepared(operator) if e.seq > stop.seq], "nothing has started"
    released = await liveroll(fleet, "release", "--accept-differences", "-m", "the disk died")
    assert released.status == 0, released.err
    rollout = await asyncio.to_thread(operator.wait_for_end, "k")
    assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, rollout.blockers
    assert {n.kernel_release for n in operator.nodes().values()} == {NEW}
    assert rollout.memory_checks_failed == 0
    assert set(jumps(fleet.directory).values()) == {1}, "each node was updated, and once"
    assert not updated & {e.node_id for e in prepared(operator) if e.seq > stop.seq}
    (audit,) = operator.events_of("fleet.released")
    assert audit.fields["differences"] == str(len(found))
    assert "the disk died" in audit.message
    assert not operator.events_of("invariant.violated")


async def test_a_restored_backup_is_noticed_and_nobody_is_updated_twice(directory: Path, store: str) -> None:
    backup = directory.parent / "yesterday.backup"
    async with fifty(directory) as (fleet, operator):
        await until_lost(fleet, operator, backup)
        asked = await orchestrator(fleet, "restore", str(backup))
        assert asked.status == 3
        assert "would lose" in asked.out
        assert "--yes" in asked.err
        await restored_when_nobody_has_it(fleet, backup)
        await fleet.start_orchestrator()
        await judged(fleet, operator)
        (restored,) = operator.events_of("store.restored")
        assert int(restored.fields["lost_attempts"]) > 0
        stale = await liveroll(fleet, "events", "--since", f"{restored.fields['lost_incarnation']}:5")
        assert "another life of the store" in stale.err, "a cursor of the lost future"


async def test_a_file_that_was_copied_back_by_hand_is_noticed_from_the_hellos(directory: Path) -> None:
    """Nothing beside it remembers: only the nodes know better."""
    copied = directory.parent / "copy.db"
    async with fifty(directory) as (fleet, operator):
        await asyncio.to_thread(operator.create, ROLLOUT)
        await asyncio.to_thread(operator.wait_for_event, Jumped(YESTERDAY))
        with contextlib.closing(sqlite3.connect(directory / "liveroll.db")) as database:
            database.execute("VACUUM INTO ?", (str(copied),))
        await die_in_the_midst(fleet, operator)
        for suffix in ("", "-wal", "-shm", ".lock"):
            directory.joinpath(f"liveroll.db{suffix}").unlink(missing_ok=True)
        shutil.copy(copied, directory / "liveroll.db")
        await fleet.start_orchestrator()
        stopped = await asyncio.to_thread(operator.wait_for_event, lambda e: e.kind == "fleet.stopped")
        assert stopped.cause == "STORE_REGRESSED"
        assert stopped.node_id in NAMES, "a node's Hello proved it"
        await judged(fleet, operator)


async def test_a_fail_over_to_a_stale_copy_under_a_running_orchestrator(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody restarts anything: the database answers again, and is not what it was."""
    with Postgres() as server:
        monkeypatch.setenv("LIVEROLL_STORE", server.url(server.create()))
        data, standby = server.directory / "data", server.directory / "standby"
        async with fifty(directory) as (fleet, operator):
            await asyncio.to_thread(operator.create, ROLLOUT)
            await asyncio.to_thread(operator.wait_for_event, Jumped(YESTERDAY))
            server.stop()
            run(["cp", "-a", str(data), str(standby)])
            server.start()

            def jumped(client: Client) -> int:
                return sum(e.kind == "attempt.jump_intent_recorded" for e in all_events(client))

            had: list[int] = []

            def gone_on(client: Client) -> bool:
                had.append(jumped(client))
                return had[-1] >= had[0] + SINCE

            await asyncio.to_thread(until, fleet.connection, gone_on, "the rollout goes on")
            server.kill()
            shutil.rmtree(data)
            standby.rename(data)
            server.start()

            def stopped(client: Client) -> bool:
                return any(e.kind == "fleet.stopped" for e in all_events(client))

            await asyncio.to_thread(until, fleet.connection, stopped, "the fleet stops")
            await judged(fleet, operator, unwound=False)
            assert fleet.orchestrator is not None
            assert fleet.orchestrator.process.returncode is None


async def test_a_restore_beside_a_running_orchestrator_is_refused(directory: Path) -> None:
    async with local_fleet(directory) as fleet:
        await fleet.start_orchestrator()
        backup = directory.parent / "now.backup"
        assert (await orchestrator(fleet, "backup", str(backup))).status == 0
        refused = await orchestrator(fleet, "restore", str(backup), "--yes")
        assert (refused.status, "stop every orchestrator" in refused.err) == (3, True), refused.err
        damaged = backup.with_suffix(".damaged")
        damaged.write_bytes(backup.read_bytes()[:-7])
        told = await orchestrator(fleet, "backup", "--verify", str(damaged))
        assert (told.status, "can be trusted" in told.err) == (3, True), told.err
