"""What holds one life of the agent together: the journal's tap, a corrupt journal, the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node_agent.core.history import EVENT, NODE, body_of
from node_agent.core.report import Report
from node_agent.kernel.emulated.clock import EmulatedClock, HostBase
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.metrics import Meter
from node_agent.runtime.supervisor import JournalTap, open_journal
from node_agent.runtime.supervisor_log import Log
from tests.unit.agent_link.fakes import a_report


async def test_the_tap_tells_of_reports_once_and_passes_all_on() -> None:
    disk, meter, told = MemoryDisk(), Meter(), list[Report]()
    clock = EmulatedClock(HostBase(), kernel_started_s=0.0, powered_on_s=0.0)
    tap = JournalTap(MemoryJournal(disk), clock, meter, told.append)
    await tap.ensure_room()
    record = await tap.append(EVENT, body_of(report=a_report(0)))
    await tap.append(NODE, body_of(acked=1))
    assert [r.seq for r in told] == [record.seq]
    assert told[0] == a_report(record.seq)
    assert [r.kind for r in tap.records][1:] == [EVENT, NODE]
    assert tap.installation_id
    assert sum(meter.fsync.counts) == 2
    await tap.close()
    assert MemoryJournal(disk).installation_id == tap.installation_id


async def test_a_corrupt_journal_is_set_aside_whole_under_the_same_installation(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal"
    journal, problem = open_journal(path)
    assert problem is None
    installation_id = journal.installation_id
    await journal.append(EVENT, body_of(report=a_report(0)))
    await journal.close()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 0xFF
    path.write_bytes(damaged)
    journal, problem = open_journal(path)
    assert problem is not None
    assert problem.reason == "JOURNAL_CORRUPT"
    assert Path(problem.fields["kept"]).read_bytes() == damaged
    assert problem.fields["kept"] in problem.remedy
    assert journal.installation_id == installation_id
    assert len(journal.records) == 1
    await journal.close()


def test_the_log_masks_secrets_and_keeps_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("json", "warning").bind(node="n1")
    log.info("not shown")
    log.debug("nor this")
    log.warning("shown", auth_token="hunter2", phase="IDLE")
    log.error("bad", password="hunter2")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["node"]) for line in lines] == [
        ("shown", "warning", "n1"),
        ("bad", "error", "n1"),
    ]
    assert "hunter2" not in str(lines)


def test_a_log_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Log("console", "info").info("linked", node="n1")
    said = capsys.readouterr().err
    assert "linked" in said
    assert "node=n1" in said
