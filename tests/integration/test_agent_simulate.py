"""`liveroll-agent simulate` as a process, against an orchestrator of one page over real gRPC."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from liveroll.v1 import agent_pb2 as pb
from liveroll.v1 import common_pb2 as common

from tests.unit.agent_link.fake_orchestrator import FakeOrchestrator, SeenNode
from tests.unit.artifacts_agent.publish import publish

pytestmark = pytest.mark.integration

WHOLE = [
    *("BootClassified", "Staged", "Prepared", "Loaded", "Drained", "Preserved", "Proceeded", "Suspended"),
    *("JumpIntentRecorded", "BootClassified", "Retrieved", "Resumed", "Healthy", "Finished"),
    *("CommitRequested", "Committed"),
]


RFC2_ABI = {"kho": "kho-v1", "luo": "luo-v1", "handlers": {"memfd": "memfd-v1"}}


def artifact(tmp_path: Path, release: str = "7.3.4", model: str = "sessions") -> pb.ArtifactRef:
    """One for nodes of that model: on RFC v2 it must say so."""
    says = {"live_update": RFC2_ABI} if model.startswith("rfc-v2") else {}
    ref = publish(tmp_path / release, release, kernel=b"placeholder", config=None, emulated=True, **says)
    return pb.ArtifactRef(name="k", digest=ref.digest, url=ref.url, kernel_release=release)


@asynccontextmanager
async def orchestrated(orchestrator: FakeOrchestrator) -> AsyncIterator[FakeOrchestrator]:
    await orchestrator.start()
    try:
        yield orchestrator
    finally:
        await orchestrator.stop()


@asynccontextmanager
async def simulated(
    orchestrator: FakeOrchestrator, *arguments: str, code: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process; it must end cleanly, with that code, at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "node_agent.cli", "simulate", "--orchestrator", orchestrator.address),
        *("--kexec-s", "0.05", "--log-level", "warning", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        _, said = await process.communicate()
    assert b"Traceback" not in said, said.decode()
    assert process.returncode == code, said.decode()


def resumed(node: SeenNode) -> pb.Report:
    return next(r for r in node.reports.values() if r.event == "Resumed")


async def test_five_nodes_go_all_the_way(tmp_path: Path) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(
            orchestrator, "--nodes", "5", "--workloads", "2", "--releases", "7.2.13,7.2.14", "--models", "x,y"
        ),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 5))
        nodes = orchestrator.nodes
    assert sorted(nodes) == [f"node-{i:02d}" for i in range(1, 6)]
    for node in nodes.values():
        assert node.events == WHOLE
        assert node.hellos == 2, "one link in each boot"
        assert node.hello.kernel_release == "7.3.4"
        assert node.hello.boot_verdict == common.BOOT_VERDICT_LIVE_UPDATED
        assert node.hello.rollback_artifact
        report = resumed(node)
        assert (report.memory_check.workloads, report.memory_check.intact) == (2, 2)
        assert report.memory_check.bytes_checked >= 2 * 256 * 1024
        vantages = [s.vantage for s in report.samples]
        assert vantages.count(common.BlackoutSample.VANTAGE_WORKLOAD) == 2
        assert vantages.count(common.BlackoutSample.VANTAGE_HOST) == 1
        assert all(s.emulated and 0.04 < s.duration.ToMilliseconds() / 1000 < 30 for s in report.samples)
    assert {n.hello.labels["zone"] for n in nodes.values()} == {"a", "b", "c"}
    assert {n.hello.hardware_model for n in nodes.values()} == {"x", "y"}
    assert len({n.hello.installation_id for n in nodes.values()}) == 5


@pytest.mark.parametrize("models", ["sessions", "rfc-v2/notifier,rfc-v2/luo-driven"])
async def test_all_models_of_luo_go_all_the_way(tmp_path: Path, models: str) -> None:
    model = models.partition("/")[0]
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path, model=model))) as orchestrator,
        simulated(orchestrator, "--nodes", "4", "--workloads", "2", "--devices", "1", "--luo-model", models),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 4))
        nodes = orchestrator.nodes
    assert {node.hello.labels["luo_model"] for node in nodes.values()} == {model}
    for node in nodes.values():
        assert ("luo-rfc-v2" in node.hello.capabilities) is (model == "rfc-v2")
        assert node.events == WHOLE
        assert node.hello.boot_verdict == common.BOOT_VERDICT_LIVE_UPDATED
        assert resumed(node).memory_check.intact == 2


@pytest.mark.parametrize("model", ["rfc-v2/notifier", "rfc-v2/luo-driven"])
async def test_a_refused_prepare_unwinds(tmp_path: Path, model: str) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path, model=model))) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--luo-model", model, "--faults", "*=refuse_prepare@1"),
    ):
        await orchestrator.until(
            lambda nodes: any("Unwound" in node.events for node in nodes.values()), timeout_s=30
        )
        node = orchestrator.nodes["node-01"]
    failed = next(r for r in node.reports.values() if r.event == "StepFailed")
    assert (failed.phase, failed.problem.fields["errno"]) == (common.PHASE_UNWINDING, "ENOMEM")


async def test_a_refused_freeze_unwinds_and_the_next_attempt_succeeds(tmp_path: Path) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(orchestrator, "--nodes", "2", "--faults", "node-02=refuse_freeze@1"),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 2))
    node = orchestrator.nodes["node-02"]
    refused = next(r for r in node.reports.values() if r.event == "RebootRefused")
    assert refused.problem.reason == "FREEZE_REFUSED"
    assert refused.attempt.generation == 1
    assert node.events.count("Prepared") == 2
    assert resumed(node).attempt.generation == 2


@pytest.mark.parametrize(
    ("fault", "phase", "verdict"),
    [
        ("panic@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_COLD_BOOT),
        ("power_loss@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_COLD_BOOT),
        ("session_lost@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_STATE_LOST),
        ("wrong_kernel=9.9@1", common.PHASE_QUARANTINED, common.BOOT_VERDICT_WRONG_KERNEL),
        ("poison@1", common.PHASE_QUARANTINED, common.BOOT_VERDICT_POISONED),
        ("corrupt_journal@1", common.PHASE_QUARANTINED, None),
    ],
)
async def test_what_goes_wrong_is_named_for_what_it_was(
    tmp_path: Path, fault: str, phase: int, verdict: int | None
) -> None:
    await goes_wrong(tmp_path, fault, phase, verdict, "sessions")


@pytest.mark.parametrize("coupling", ["luo-driven", "notifier"])
@pytest.mark.parametrize(
    ("fault", "phase", "verdict"),
    [
        ("panic@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_COLD_BOOT),
        ("session_lost@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_STATE_LOST),
        ("wrong_kernel=9.9@1", common.PHASE_QUARANTINED, common.BOOT_VERDICT_WRONG_KERNEL),
        # What cannot be read panics there: there is no device that answers EIO.
        ("poison@1", common.PHASE_COLD_BOOTED, common.BOOT_VERDICT_COLD_BOOT),
        ("corrupt_journal@1", common.PHASE_QUARANTINED, None),
    ],
)
async def test_what_goes_wrong_on_rfc_v2_is_named_for_what_it_was(
    tmp_path: Path, fault: str, phase: int, verdict: int | None, coupling: str
) -> None:
    await goes_wrong(tmp_path, fault, phase, verdict, f"rfc-v2/{coupling}")


async def goes_wrong(tmp_path: Path, fault: str, phase: int, verdict: int | None, model: str) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path, model=model))) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--faults", f"node-01={fault}", "--luo-model", model),
    ):
        await orchestrator.until(orchestrator.all_in(phase, 1))
        node = orchestrator.nodes["node-01"]
    if verdict is not None:
        assert node.hello.boot_verdict == verdict
    assert "Committed" not in node.events


IN_MEMORY_OR_NOT = pytest.mark.parametrize("durable", [False, True], ids=["memory", "file"])


def kept(durable: bool, tmp_path: Path) -> tuple[str, ...]:
    return ("--state-dir", str(tmp_path / "state")) if durable else ()


@IN_MEMORY_OR_NOT
async def test_a_torn_journal_is_cut_and_the_update_goes_on(tmp_path: Path, durable: bool) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--faults", "*=torn_journal@1", *kept(durable, tmp_path)),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 1))
    assert orchestrator.nodes["node-01"].events == WHOLE


@IN_MEMORY_OR_NOT
async def test_a_corrupt_journal_quarantines_and_is_kept(tmp_path: Path, durable: bool) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--faults", "*=corrupt_journal@1", *kept(durable, tmp_path)),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_QUARANTINED, 1))
    node = orchestrator.nodes["node-01"]
    assert node.hello.status.problem.reason == "JOURNAL_CORRUPT"
    assert "Committed" not in node.events
    if durable:
        (aside,) = (tmp_path / "state" / "node-01").glob("journal.corrupt-*")
        assert node.hello.status.problem.fields["kept"] == str(aside)


@IN_MEMORY_OR_NOT
async def test_a_full_disk_is_unwound_before_the_jump_and_goes_on_with_room(
    tmp_path: Path, durable: bool
) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--faults", "*=full_disk=4@0", *kept(durable, tmp_path)),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 1))
    node = orchestrator.nodes["node-01"]
    full = node.troubles["JOURNAL_FULL"]
    assert (full.phase, full.healthy) == (common.PHASE_QUARANTINED, False)
    assert full.problem.remedy
    first = [r.event for r in node.reports.values() if r.attempt.generation == 1]
    assert first[:1] == ["Prepared"]
    assert first[-1] == "Unwound", "undone before the jump"
    assert "JumpIntentRecorded" not in first
    report = resumed(node)
    assert report.attempt.generation == 2
    assert report.memory_check.intact == report.memory_check.workloads == 1, "nothing lost"


async def test_an_unhealthy_kernel_ends_awaiting_rollback(tmp_path: Path) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path), verifying_s=1)) as orchestrator,
        simulated(orchestrator, "--nodes", "1", "--image", "7.3.4=unhealthy"),
    ):
        await orchestrator.until(orchestrator.all_in(common.PHASE_AWAITING_ROLLBACK, 1))
    node = orchestrator.nodes["node-01"]
    unhealthy = next(r for r in node.reports.values() if r.event == "Unhealthy")
    assert "emulated as unhealthy" in unhealthy.problem.message + str(dict(unhealthy.problem.fields))


async def test_an_orchestrator_that_comes_back_hears_everything(tmp_path: Path) -> None:
    first = await FakeOrchestrator(artifact(tmp_path), commit=False).start()
    port = int(first.address.rpartition(":")[2])
    async with simulated(first, "--nodes", "3"):
        await first.until(lambda nodes: any("Preserved" in n.events for n in nodes.values()))
        await first.stop()
        second = FakeOrchestrator(artifact(tmp_path))
        second.nodes = first.nodes
        await second.start(port)
        try:
            await second.until(second.all_in(common.PHASE_COMMITTED, 3))
        finally:
            await second.stop()
    for node in second.nodes.values():
        assert node.events == WHOLE, "replayed, complete, in order"


@pytest.mark.parametrize("fault", ["cut_link=0.05", "slow_link=0.01", "cut_link=0,slow_link=0.01"])
async def test_a_bad_link_loses_and_repeats_nothing(tmp_path: Path, fault: str) -> None:
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator,
        simulated(orchestrator, "--nodes", "2", "--faults", f"*={fault}"),
    ):
        await orchestrator.until(lambda n: len(n) == 2 and all("Committed" in x.events for x in n.values()))
    for node in orchestrator.nodes.values():
        assert node.events == WHOLE
        assert node.hellos >= (3 if "cut" in fault else 2)


async def test_state_survives_the_end_of_the_process(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    async with orchestrated(FakeOrchestrator(artifact(tmp_path))) as orchestrator:
        async with simulated(orchestrator, "--nodes", "2", *state):
            await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 2))
        known = {name: node.hello.installation_id for name, node in orchestrator.nodes.items()}
        orchestrator.nodes.clear()
        async with simulated(orchestrator, "--nodes", "2", *state):
            await orchestrator.until(orchestrator.all_in(common.PHASE_COMMITTED, 2))
    for name, node in orchestrator.nodes.items():
        assert node.hello.installation_id == known[name]
        assert node.hello.kernel_release == "7.3.4", "what was committed is what a cold boot starts"
        assert node.hello.highest_generation == 1


async def test_killed_and_started_again_it_is_a_power_loss(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    async with orchestrated(FakeOrchestrator(artifact(tmp_path), proceed=False)) as orchestrator:
        async with simulated(orchestrator, "--nodes", "2", *state, code=-signal.SIGKILL) as process:
            await orchestrator.until(orchestrator.all_in(common.PHASE_PRESERVED, 2))
            process.kill()
            await process.wait()
        async with simulated(orchestrator, "--nodes", "2", *state):
            # The Hello says COLD_BOOTED; the report that follows it says how that was found out.
            await orchestrator.until(
                lambda nodes: all(n.events.count("BootClassified") == 2 for n in nodes.values())
            )
            assert orchestrator.all_in(common.PHASE_COLD_BOOTED, 2)(orchestrator.nodes)
    for node in orchestrator.nodes.values():
        assert node.hello.boot_verdict == common.BOOT_VERDICT_COLD_BOOT


async def test_a_refusal_with_a_reason_is_said_in_its_words(tmp_path: Path) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.PERMISSION_DENIED.value[0], message="another node")
    for detail in (
        error_details_pb2.ErrorInfo(reason="NODE_ID_CONFLICT", domain="liveroll"),
        error_details_pb2.Help(links=[error_details_pb2.Help.Link(description="enrol the node again")]),
    ):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    refuse = (grpc.StatusCode.PERMISSION_DENIED, "another node has this id", status.SerializeToString())
    async with orchestrated(FakeOrchestrator(refuse=refuse)) as orchestrator:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "node_agent.cli", "simulate", "--nodes", "1"),
            *("--orchestrator", orchestrator.address, "--log-format", "json", "--log-level", "error"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        line = (await process.stderr.readline()).decode()
        process.terminate()
        rest = (await process.communicate())[1].decode()
    assert '"reason": "NODE_ID_CONFLICT"' in line
    assert '"remedy": "enrol the node again"' in line
    assert process.returncode == 7
    assert "NODE_ID_CONFLICT" in rest


async def test_a_kernel_of_rfc_v2_tells_its_states_between_the_phases(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "s"))
    async with (
        orchestrated(FakeOrchestrator(artifact(tmp_path, model="rfc-v2"))) as orchestrator,
        simulated(orchestrator, "--nodes", "2", "--luo-model", "rfc-v2/notifier,sessions", *state),
    ):
        await orchestrator.until(
            lambda nodes: (
                "Committed" in nodes["node-01"].events and "Staged" in nodes["node-02"].events
                if len(nodes) == 2
                else False
            )
        )
        other = orchestrator.nodes["node-02"].reports.values()
    (refused,) = {r.stage.problem.reason for r in other if r.event == "Staged"}
    assert refused == "TARGET_MODEL_DIFFERS", "a node with sessions stays where it is"
    told = (tmp_path / "s" / "node-01" / "kernel.log").read_text().splitlines()
    prepared = told.index("luo_core: Switched from [normal] to [prepared] state")
    assert told[prepared - 1] == "agent: PRESERVING (luo normal, kho not final)"
    assert told[prepared + 1] == "agent: PRESERVED (luo prepared, kho final)"
    frozen = told.index("luo_core: Switched from [prepared] to [frozen] state")
    assert told[frozen - 1] == "agent: JUMPING (luo prepared, kho final)"
    assert told[frozen + 1].startswith("Linux version 7.3.4"), "the last words of the boot before come first"
    assert told[-1] == "agent: COMMITTED (luo normal, kho not final)"
    assert not (tmp_path / "s" / "node-02" / "kernel.log").exists(), "a kernel with sessions has no states"
