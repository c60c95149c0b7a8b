"""One byte turned in each kind of file, between two lives of real processes: told, and never obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import Child, LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client
from tests.integration import journal_reader
from tests.integration.conftest import NEW, OLD, Event, Operator, liveroll, module, run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
canary: {{max_nodes: 1}}
promotion: manual
budgets: {{max_unavailable: 9, max_in_blackout: 9, failures: {{max: 100%}}}}
bake: {{node: 100ms, wave: 100ms}}
health_hold: 50ms
retries:
  call: {{attempts: 5, backoff: 100ms, max_backoff: 300ms}}
  replan: {{attempts: 5, backoff: 100ms, max_backoff: 300ms}}
"""


def turn(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x04
    path.write_bytes(data)


def place_of(path: Path, word: bytes) -> int:
    """In the middle of the last place where the file says it."""
    place = path.read_bytes().rfind(word)
    assert place >= 0, f"{path} does not say {word!r}"
    return place + len(word) // 2


@asynccontextmanager
async def nodes(directory: Path, count: int) -> AsyncIterator[tuple[LocalFleet, Operator, Child]]:
    """A rollout whose canary has passed; the others wait for an approval, their artifact staged."""
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        agents = await start_agents(fleet, count)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, count)
        await asyncio.to_thread(operator.create, ROLLOUT)
        left = {f"n-{i:02d}" for i in range(1, count + 1)}
        await asyncio.to_thread(
            operator.wait_for_event,
            lambda e: not (left.discard(e.node_id) if e.kind == "node.staged" else left),
        )
        await asyncio.to_thread(operator.wait_for_event, lambda e: e.kind == "wave.awaiting_approval")
        yield fleet, operator, agents


async def start_agents(fleet: LocalFleet, count: int) -> Child:
    return await fleet.start_agents(
        "n", "--nodes", str(count), "--releases", OLD, "--kexec-s", "0.1", "--mib", "0.1"
    )


async def kill(fleet: LocalFleet, child: Child) -> None:
    await child.kill()
    fleet.children.remove(child)


def none_linked(seen: dict[str, pb.Node]) -> bool:
    return bool(seen) and all(node.link != "up" for node in seen.values())


async def test_the_store_its_write_ahead_log_its_lock_and_a_backup(directory: Path) -> None:
    async with nodes(directory, 3) as (fleet, operator, agents):
        events = [(e.kind, e.message) for e in operator.events()]
        backup = directory / "monday.backup"
        command = module(
            "orchestrator.app", "backup", str(backup), "--config", f"{directory}/orchestrator.toml"
        )
        environment = {"LIVEROLL_STATE_DIR": str(directory)}
        os.environ.update(environment)
        try:
            made = await asyncio.to_thread(run, command)
            assert made.status == 0, made
            await kill(fleet, agents)
            assert fleet.orchestrator is not None
            await kill(fleet, fleet.orchestrator)
            await the_backup(directory, backup)
        finally:
            for name in environment:
                del os.environ[name]
        await the_lock(fleet, operator, events)
        await the_log(fleet, operator, events)
        await the_database(fleet)


async def the_backup(directory: Path, backup: Path) -> None:
    for word in (b'"node_id"', b"liveroll_backup"):
        turned = directory / "turned.backup"
        turned.write_bytes(backup.read_bytes())
        turn(turned, place_of(turned, word))
        command = module(
            "orchestrator.app", "restore", str(turned), "--yes", "--config", f"{directory}/orchestrator.toml"
        )
        refused = await asyncio.to_thread(run, command)
        assert refused.status != 0, refused
        assert len(refused.lines) >= 2, refused


async def the_lock(fleet: LocalFleet, operator: Operator, events: list[tuple[str, str]]) -> None:
    """What it remembers is not used, and that is said."""
    lock = fleet.directory / "liveroll.db.lock"
    turn(lock, place_of(lock, b'"epoch"') + 6)
    await fleet.start_orchestrator()
    told = [(e.kind, e.message) for e in operator.events()]
    assert told[: len(events)] == events
    assert not any(kind == "fleet.stopped" for kind, _ in told)
    assert fleet.orchestrator is not None
    assert "the file is damaged" in fleet.orchestrator.log_path.read_text()


async def the_log(fleet: LocalFleet, operator: Operator, events: list[tuple[str, str]]) -> None:
    """SQLite takes a damaged frame for the end of the log: what was after it is gone, as in a restored
    backup. The nodes know better, and the fleet stops for a person."""
    agents = await start_agents(fleet, 3)
    await asyncio.to_thread(operator.wait_for_links, 3)
    with Client(fleet.connection) as client:
        client.approve("k")
    await asyncio.to_thread(operator.wait_for_end, "k")
    whole = [(e.kind, e.message) for e in operator.events()]
    assert fleet.orchestrator is not None
    await kill(fleet, agents)
    await kill(fleet, fleet.orchestrator)
    log = fleet.directory / "liveroll.db-wal"
    turn(log, place_of(log, b"wave.approved"))
    await fleet.start_orchestrator()
    told = [(e.kind, e.message) for e in operator.events()]
    assert told == whole[: len(told)], "nothing is invented"
    if len(told) < len(whole):
        agents = await start_agents(fleet, 3)
        event = await asyncio.to_thread(operator.wait_for_event, lambda e: e.kind == "fleet.stopped")
        assert event.cause == "STORE_REGRESSED"
        await kill(fleet, agents)
    assert fleet.orchestrator is not None
    child = fleet.orchestrator
    await child.stop()
    fleet.children.remove(child)
    fleet.orchestrator = None


async def the_database(fleet: LocalFleet) -> None:
    database = fleet.directory / "liveroll.db"
    good = database.read_bytes()
    for table in ("nodes", "attempts", "members", "rollouts", "fleet"):
        turn(database, document(database, table))
        refused = await asyncio.to_thread(run, fleet.orchestrator_command(), timeout_s=60)
        assert refused.status == 3, (table, refused)
        assert "to mend it" in refused.err, refused
        database.write_bytes(good)
    turn(database, 3)
    refused = await asyncio.to_thread(run, fleet.orchestrator_command(), timeout_s=60)
    assert refused.status == 3, refused
    database.write_bytes(good)
    turn(database, document(database, "events"))
    await fleet.start_orchestrator()  # it plans without them
    listed = await liveroll(fleet, "events")
    assert listed.status != 0, listed
    assert "not what was written" in listed.err, listed


def document(database: Path, table: str) -> int:
    """A place in one of its documents."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (text,) = connection.execute(f"SELECT doc FROM {table} ORDER BY rowid DESC LIMIT 1").fetchone()
    place = database.read_bytes().rfind(text.encode()[:120])
    assert place >= 0
    return place + 60


async def test_the_artifacts_of_the_orchestrator(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        await start_agents(fleet, 1)
        await asyncio.to_thread(Operator(fleet).wait_for_links, 1)
        file = directory / "k.yaml"
        file.write_text(ROLLOUT)
        for name in ("manifest.json", "vmlinuz", "config"):
            path = fleet.artifacts_dir / f"linux-{NEW}" / name
            good = path.read_bytes()
            turn(path, len(good) // 2)
            refused = await liveroll(fleet, "create", str(file))
            assert refused.status in (2, 3), (name, refused)
            path.write_bytes(good)
        assert (await liveroll(fleet, "create", str(file))).status == 0


async def test_the_artifacts_of_the_nodes(directory: Path) -> None:
    """Staged, then damaged: fetched again, or refused in words, and never booted."""
    async with nodes(directory, 5) as (fleet, operator, agents):
        await kill(fleet, agents)
        # Else the links that count below may be those of before.
        await asyncio.to_thread(operator.wait_for_nodes, none_linked)
        (store,) = {p.name for n in ("02", "03", "04") for p in staged(directory, n)}
        for node, name in (("02", "vmlinuz"), ("03", "manifest.json"), ("04", "config")):
            path = directory / "n" / f"n-{node}" / "artifacts" / "store" / store / name
            turn(path, len(path.read_bytes()) // 2)
        index = directory / "n" / "n-05" / "artifacts" / "index.json"
        turn(index, len(index.read_bytes()) // 2)
        await start_agents(fleet, 5)
        await asyncio.to_thread(operator.wait_for_links, 5)
        with Client(fleet.connection) as client:
            client.approve("k")
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        told = {n: node.kernel_release for n, node in operator.nodes().items()}
        reasons = {
            e.node_id: e.fields.get("problem", "") for e in operator.events() if e.fields.get("problem")
        }
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, (told, reasons)
        for node, release in told.items():
            assert release == NEW or reasons.get(node), (told, reasons)


def staged(directory: Path, node: str) -> list[Path]:
    """Of the new kernel: the running one was captured without a file list of ours."""
    found = (directory / "n" / f"n-{node}" / "artifacts" / "store").iterdir()
    return [path for path in found if NEW in (path / "manifest.json").read_text()]


async def test_a_journal_in_every_kind_of_record(directory: Path) -> None:
    async with nodes(directory, 6) as (fleet, operator, agents):
        with Client(fleet.connection) as client:
            client.approve("k")
        await asyncio.to_thread(operator.wait_for_end, "k")
        await kill(fleet, agents)
        kinds = ("installation", "node", "jump_intent", "Staged", "Resumed", "Committed")
        for i, kind in enumerate(kinds, start=1):
            path = directory / "n" / f"n-{i:02d}" / "journal"
            records = journal_reader.read(path)
            (record, *_) = [r for r in records if kind in (r.kind, r.report.get("event"))]
            turn(path, record.offset + 8 + (record.end - record.offset - 8) // 2)
        again = await start_agents(fleet, len(kinds))
        left = {f"n-{i:02d}" for i in range(2, len(kinds) + 1)}

        def all_told(event: Event) -> bool:
            if event.kind == "node.reported" and event.fields.get("problem") == "JOURNAL_CORRUPT":
                left.discard(event.node_id)
            return not left

        await asyncio.to_thread(operator.wait_for_event, all_told)
        for i in range(1, len(kinds) + 1):
            assert list((directory / "n" / f"n-{i:02d}").glob("journal.corrupt-*")), (
                "it is kept to be looked at"
            )
        # Whose installation cannot be read is somebody else, until a person says that it is not.
        assert operator.nodes()["n-01"].link != "up"
        await again.stop()
        assert "NODE_ID_CONFLICT" in again.log_path.read_text()
