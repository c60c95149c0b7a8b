"""A full disk under the orchestrator's SQLite: said in a sentence, nothing lost, goes on with room."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration.conftest import NEW, Operator, liveroll
from tests.integration.outside import Audit, Caps

NODES = 3
ROLLOUT = f"""
name: {{name}}
target: {{{{artifact: linux-{NEW}}}}}
budgets: {{{{max_unavailable: 1, max_in_blackout: 1, failures: {{{{max: 0}}}}}}}}
bake: {{{{node: 100ms, wave: 100ms}}}}
health_hold: 100ms
"""


@contextlib.contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """4 MiB of its own."""
    where.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "liveroll-test", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(disk: Path) -> Path:
    """To the last byte."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    out.write(b"\0" * size)
    return file


@pytest.mark.integration
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount the small disk")
async def test_a_full_disk_stops_commits_and_loses_nothing(directory: Path) -> None:
    with small_disk(directory / "store") as disk:
        async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
            build_emulated(fleet.artifacts_dir, release=NEW)
            store = ("--state-dir", str(disk), "--artifacts-dir", str(fleet.artifacts_dir))
            await fleet.start_orchestrator(extra=store)
            await fleet.start_agents("n", "--nodes", str(NODES), "--kexec-s", "0.3", "--mib", "0.1")
            operator = Operator(fleet)
            await asyncio.to_thread(operator.wait_for_links, NODES)
            await asyncio.to_thread(operator.create, ROLLOUT.format(name="k"))
            await asyncio.to_thread(operator.wait_for_event, lambda e: e.kind == "attempt.preserved")
            filler = await asyncio.to_thread(fill, disk)
            file = directory / "other.yaml"
            file.write_text(ROLLOUT.format(name="other"))
            refused = await liveroll(fleet, "create", str(file))
            assert refused.status == 6, refused
            assert len(refused.lines) == 2, refused
            assert "disk" in refused.err, refused
            assert (await liveroll(fleet, "list")).status == 0
            filler.unlink()
            rollout = await asyncio.to_thread(operator.wait_for_end, "k")
            assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
            audit = Audit(Caps(1, 1, NODES, dict.fromkeys(operator.nodes(), "")))
            audit.replay(operator.events())
            assert audit.kinds["rollout.created"] == 1
            log = (directory / "orchestrator.log").read_text()
            assert "Traceback" not in log
            assert "disk" in log
            accepted = await liveroll(fleet, "create", str(file))
            assert accepted.status == 0, accepted
