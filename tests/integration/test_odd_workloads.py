"""A node among whose workloads are some that cannot be preserved, or that want another's memory."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from tests.integration.conftest import NEW, OLD, Operator, liveroll
from tests.integration.real_node import RealNode

ODD = Path(__file__).with_name("odd_workload.py")
ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
budgets: {{max_unavailable: 1, max_in_blackout: 1, failures: {{max: 0}}}}
bake: {{node: 200ms, wave: 200ms}}
health_hold: 100ms
"""
NOBODY = 65534


async def node_with(fleet: LocalFleet, directory: Path, *services: str, config: str = "") -> RealNode:
    """One node with a well-behaved workload, and these."""
    file = directory / "agent.toml"
    file.write_text(config)
    build_emulated(fleet.artifacts_dir, release=NEW)
    await fleet.start_orchestrator()
    child = await fleet.start_node(
        "one", "--release", OLD, "--kexec-s", "0.3", "--config", str(file),
        *(word for service in services for word in ("--service", service)),
    )  # fmt: skip
    node = RealNode(child, directory / "one")
    await node.until_subscribed(1)
    return node


async def rolled(fleet: LocalFleet) -> pb.Rollout:
    operator = Operator(fleet)
    await asyncio.to_thread(operator.wait_for_links, 1)
    await asyncio.to_thread(operator.create, ROLLOUT)
    return await asyncio.to_thread(operator.wait_for_end, "k")


def fails(directory: Path) -> str:
    return f"{sys.executable} {ODD} fails {directory}/one/liveupdate.sock bad {directory}/pid"


@pytest.mark.integration
async def test_one_that_cannot_be_preserved_is_drained_and_the_update_goes_on(directory: Path) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        drain = directory / "drain"
        drain.write_text(
            f'#!/bin/sh\necho "$LIVEROLL_WORKLOAD: $LIVEROLL_WHY" >> {directory}/drained\n'
            f"kill -9 $(cat {directory}/pid)\n"
        )
        drain.chmod(0o755)
        config = f'[broker]\nunpreservable = "drain"\n[hooks.drain_workload]\ncommand = ["{drain}"]\n'
        node = await node_with(fleet, directory, fails(directory), config=config)
        while len(await node.luoctl("subscribers")) < 2:
            await asyncio.sleep(0.05)
        rollout = await rolled(fleet)
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert (rollout.memory_checks_passed, rollout.memory_checks_failed) == (1, 0)
        why = "workload bad cannot be preserved: FILE_UNPRESERVABLE: ENOENT"
        assert (directory / "drained").read_text() == f"bad: {why}\n"
        told = await liveroll(fleet, "story", "one")
        assert f"left_behind=bad: {why}" in " ".join(told.out.split())
        vantages = {v.vantage: v for v in rollout.blackout.vantages}
        assert set(vantages) == {1, 2, 3}
        workload, host, link = (vantages[v] for v in (1, 2, 3))
        assert (workload.samples, host.samples, link.samples) == (1, 1, 1)
        # What the link saw contains what the host saw, and dialling.
        assert host.p50.ToTimedelta() <= link.p50.ToTimedelta() + link.uncertainty.ToTimedelta()


@pytest.mark.integration
async def test_one_that_cannot_be_preserved_refuses_by_name_unless_it_may_be_drained(
    directory: Path,
) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        node = await node_with(fleet, directory, fails(directory))
        while len(await node.luoctl("subscribers")) < 2:
            await asyncio.sleep(0.05)
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 1)
        await asyncio.to_thread(operator.create, ROLLOUT)
        await node.until(lambda: "Unwound" in {r.report.get("event") for r in node.journal()}, "unwound")
        assert node.facts()["release"] == OLD
        told = await liveroll(fleet, "story", "one")
        text = " ".join(told.out.split())
        assert "WORKLOAD_UNPRESERVABLE" in text
        assert "workload bad cannot be preserved: FILE_UNPRESERVABLE: ENOENT" in text
        assert "suspended at tick" not in node.log, "the others never stood still"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may look into."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.integration
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_another_user_gets_nobodys_memory_before_or_after_the_kexec(
    directory: Path, public: Path
) -> None:
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1) as fleet:
        answers, broker = directory / "answers", public / "b.sock"
        stranger = f"{sys.executable} {ODD} stranger {broker} one-vm-1 {NOBODY} {answers}"
        example = f"{sys.executable} -m node_agent.workloads.example --socket {broker} --mib 1 --id one-vm-1"
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        child = await fleet.start_node(
            "one", "--release", OLD, "--kexec-s", "0.3", "--broker-socket", str(broker),
            "--broker-mode", "0666", "--service", example, workloads=0,
        )  # fmt: skip
        node = RealNode(child, directory / "one")
        await node.until_subscribed(1)
        first = await asyncio.create_subprocess_exec(*stranger.split())
        try:
            await node.until(lambda: heard(answers) >= 4, "refused")
            rollout = await rolled(fleet)
            there = heard(answers)
            await node.until(lambda: heard(answers) >= there + 4, "refused in the new boot")
        finally:
            first.kill()
            await first.wait()
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert (rollout.memory_checks_passed, rollout.memory_checks_failed) == (1, 0)
        said = [json.loads(line) for line in answers.read_text().splitlines()]
        assert {(event, reason, fds) for _, _, event, reason, fds in said if event} == {
            ("ERROR", "NOT_YOURS", 0)
        }
        assert {command for _, command, event, _, _ in said if event} == {"CLAIM", "SUBSCRIBE"}
        assert sum(event is None for _, _, event, _, _ in said) <= 4, "it hangs up only when it is replaced"


def heard(answers: Path) -> int:
    return answers.read_text().count("NOT_YOURS") if answers.exists() else 0
