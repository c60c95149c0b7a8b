"""The runner over an emulated node: whole updates, and the ways they end."""

from __future__ import annotations

import asyncio

import pytest

from node_agent.core import commands as cmd
from node_agent.core.model import ArtifactRef, Problem, Vantage
from node_agent.core.phases import Phase, Verdict
from node_agent.core.report import Outcome
from node_agent.core.timing import INIT_START, KERNEL_LEFT
from node_agent.errors import Retry
from node_agent.kernel.emulated.image import ImageTable
from node_agent.kernel.faults import FaultPlan
from tests.unit.runner.lab import NEW, OLD, Lab, Trouble, image

P = Phase


async def test_a_whole_update() -> None:
    async with Lab() as lab:
        assert await lab.update() is P.BAKING
        assert lab.runner.submit(cmd.Commit("commit", lab.ref())).outcome is Outcome.ACCEPTED
        await lab.reach(P.COMMITTED)
        assert lab.runner.submit(cmd.Commit("commit", lab.ref())).outcome is Outcome.ALREADY_DONE
        assert lab.hooks.default == "n" * 64
        assert lab.node.model.release == NEW
        assert not lab.held()
        assert not lab.hooks.drained
        assert lab.intact()
        reports = {report.event: report for report in lab.runner.reports()}
        assert list(reports) == [
            "BootClassified", "Prepared", "Loaded", "Drained", "Preserved", "Proceeded", "Suspended",
            "JumpIntentRecorded", "Retrieved", "Resumed", "Healthy", "Finished", "CommitRequested",
            "Committed",
        ]  # fmt: skip
        assert reports["BootClassified"].boot_verdict is Verdict.LIVE_UPDATED
        assert reports["BootClassified"].release == NEW
        assert reports["Committed"].boot_verdict is Verdict.LIVE_UPDATED
        resumed = reports["Resumed"]
        assert {s.vantage for s in resumed.samples} == {Vantage.WORKLOAD, Vantage.HOST}
        assert all(sample.duration_s == pytest.approx(1.0, abs=0.01) for sample in resumed.samples)
        assert all(sample.emulated and not sample.rejected for sample in resumed.samples)
        assert resumed.memory_check is not None
        assert (resumed.memory_check.workloads, resumed.memory_check.intact) == (2, 2)
        assert not reports["Healthy"].samples
        assert reports["Finished"].brownout_s == pytest.approx(3.0, abs=0.01)
        # RFC v2's kernels tell by themselves when they were left and when they started.
        marks, told = [mark.name for mark in reports["Finished"].marks], {KERNEL_LEFT, INIT_START}
        assert told & set(marks) == (told if lab.node.model.rfc2 is not None else set())
        assert [name for name in marks if name not in told] == [
            "preserve_start", "preserve_done", "suspend", "pre_reboot", "kernel_start",
            "userspace_start", "retrieved", "resume", "finish",
        ]  # fmt: skip
        assert [r.seq for r in lab.runner.reports()] == sorted({r.seq for r in lab.runner.reports()})
        assert len(lab.runner.story()) == len(lab.runner.reports())


async def test_there_and_back_again() -> None:
    async with Lab() as lab:
        assert await lab.update() is P.BAKING
        lab.hooks.health = lambda: (lab.node.model.release == OLD, "the new kernel is slow")
        assert await lab.reach(P.AWAITING_ROLLBACK) is P.AWAITING_ROLLBACK
        assert (lab.problem(), lab.runner.status().healthy) == ("UNHEALTHY", False)
        refused = lab.runner.submit(lab.prepare(2))
        assert refused.problem is not None
        assert refused.problem.reason == "NOT_ADMITTED"
        assert await lab.update(3, back=True) is P.BAKING
        assert lab.node.model.release == OLD
        assert lab.runner.status().healthy


async def test_one_flap_is_no_relapse() -> None:
    async with Lab() as lab:
        await lab.update()
        answers = [(False, "flap"), (True, ""), (False, "flap"), (False, "flap"), (True, "")]
        lab.hooks.health = lambda: answers.pop(0) if answers else (True, "")
        await lab.base.until(lambda: not answers)
        assert lab.phase is P.BAKING


async def test_an_unhealthy_kernel_is_finished_and_then_rolled_back() -> None:
    async with Lab() as lab:
        lab.hooks.health = lambda: (lab.node.model.release != NEW, "probe says no")
        assert await lab.update() is P.AWAITING_ROLLBACK
        assert not lab.held()
        assert await lab.update(2, back=True) is P.BAKING


@pytest.mark.parametrize("probe_s", [0.08, 0.17, 0.4])
async def test_a_probe_that_takes_its_time_does_not_cost_the_reason(probe_s: float) -> None:
    """The last one must not be at it still when the step's time is up."""
    async with Lab() as lab:

        async def healthy() -> tuple[bool, str]:
            await lab.base.sleep(probe_s)
            return lab.node.model.release != NEW, "probe says no"

        lab.hooks.healthy = healthy  # type: ignore[method-assign]
        assert await lab.update() is P.AWAITING_ROLLBACK
        assert lab.problem() == "UNHEALTHY"


async def test_an_unhealthy_rollback_is_quarantined() -> None:
    async with Lab() as lab:
        lab.hooks.health = lambda: (False, "nothing helps")
        assert await lab.update() is P.AWAITING_ROLLBACK
        assert await lab.update(2, back=True) is P.QUARANTINED
        assert lab.runner.submit(lab.prepare(3)).outcome is Outcome.REFUSED
        assert await lab.update(4, operator_word=True) is P.AWAITING_ROLLBACK


async def test_health_has_to_hold() -> None:
    async with Lab() as lab:
        answers = [(True, ""), (True, ""), (False, "warming up")]
        lab.hooks.health = lambda: answers.pop(0) if answers else (True, "")
        started_s = lab.base.now()
        assert await lab.update() is P.BAKING
        assert lab.base.now() - started_s >= 1.0 + 3.0 + 3.0


@pytest.mark.parametrize("phase", [P.LOADING, P.DRAINING, P.PRESERVING, P.PRESERVED, P.SUSPENDING])
async def test_cancel_before_the_jump_unwinds(phase: Phase) -> None:
    call = {
        P.LOADING: "kernel.load",
        P.DRAINING: "hooks.drain",
        P.PRESERVING: "workloads.preserve",
        P.SUSPENDING: "workloads.suspend",
    }.get(phase)
    troubles = [Trouble(call, 1, "after", "hang")] if call else []
    async with Lab(*troubles) as lab:
        lab.runner.submit(lab.prepare())
        if phase is P.SUSPENDING:
            await lab.reach(P.PRESERVED)
            lab.runner.submit(lab.proceed())
        await lab.reach(phase)
        assert lab.runner.submit(cmd.Cancel("cancel", lab.ref(), "paused")).outcome is Outcome.ACCEPTED
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "CANCELLED"
        assert not lab.held()
        assert not lab.node.model.loaded
        assert not lab.hooks.drained
        assert not lab.suspended()
        assert lab.runner.submit(cmd.Cancel("cancel", lab.ref())).outcome is Outcome.ALREADY_DONE
        assert await lab.update(2) is P.BAKING


async def test_cancel_after_the_jump_is_refused_and_told_once() -> None:
    async with Lab(Trouble("workloads.retrieve", 1, "before", "hang")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(lab.proceed())
        await lab.reach(P.RETRIEVING)
        for _ in range(3):
            refused = lab.runner.submit(cmd.Cancel("cancel", lab.ref()))
            assert refused.problem is not None
            assert refused.problem.reason == "PAST_POINT_OF_NO_RETURN"
        assert await lab.settle() is P.QUARANTINED
        refusals = [r.refusal for r in lab.runner.reports() if r.refusal is not None]
        assert [refusal.command_id for refusal in refusals] == ["cancel"]
        assert not lab.suspended()


async def test_a_proceed_that_is_late_is_refused_and_a_new_one_obeyed() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        old = lab.proceed(valid_for_s=5.0)
        start_s = lab.base.now()
        waiting = asyncio.create_task(lab.base.sleep(6.0))
        await lab.base.until(lambda: lab.base.now() >= start_s + 6.0)
        await waiting
        late = lab.runner.submit(old)
        assert late.problem is not None
        assert late.problem.reason == "LEASE_EXPIRED"
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.BAKING


async def test_a_lease_that_ends_while_suspending_unwinds() -> None:
    async with Lab(Trouble("workloads.suspend", 1, "before", "hang")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(lab.proceed(valid_for_s=2.0))
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "LEASE_EXPIRED"
        assert lab.calls["kernel.reboot_kexec"] == 0


async def test_the_lease_is_looked_at_again_as_the_last_act() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)

        async def slow_disk() -> None:
            if lab.phase is P.JUMPING:
                await lab.base.sleep(3.0)

        lab.disk.before_sync = slow_disk
        lab.runner.submit(lab.proceed(valid_for_s=2.0))
        assert await lab.settle() is P.ABORTED
        assert (lab.problem(), lab.calls["kernel.reboot_kexec"]) == ("LEASE_EXPIRED", 0)
        assert not lab.suspended()


async def test_nobody_renews_the_wait_for_proceed() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        start_s = lab.base.now()
        renewed = asyncio.create_task(lab.base.sleep(50.0))
        await lab.base.until(lambda: lab.base.now() >= start_s + 50.0)
        await renewed
        lab.runner.submit(lab.prepare())
        assert await lab.settle() is P.ABORTED
        assert lab.base.now() - start_s >= 110.0
        assert lab.problem() == "LEASE_EXPIRED"


@pytest.mark.kernels("sessions", "luo-driven")
async def test_a_refused_freeze_unwinds_and_the_next_attempt_succeeds() -> None:
    async with Lab(faults=FaultPlan.parse("refuse_freeze@1")) as lab:
        assert await lab.update() is P.ABORTED
        assert lab.calls["kernel.reboot_kexec"] == 1
        assert not lab.suspended()
        assert await lab.update(2) is P.BAKING
        assert lab.calls["kernel.reboot_kexec"] == 2


async def test_a_panic_in_the_new_kernel_is_a_cold_boot() -> None:
    images = ImageTable({NEW: image(NEW, panics=True)})
    async with Lab(images=images) as lab:
        assert await lab.update() is P.COLD_BOOTED
        assert (lab.problem(), lab.node.model.release) == ("COLD_BOOTED", OLD)
        assert lab.runner.reports()[-1].boot_verdict is Verdict.COLD_BOOT
        assert lab.runner.submit(lab.prepare(2)).outcome is Outcome.REFUSED


async def test_a_target_without_kho_loses_the_state_and_says_so() -> None:
    async with Lab(images=ImageTable({NEW: image(NEW, kho=False)})) as lab:
        assert await lab.update() is P.COLD_BOOTED
        assert lab.problem() == "STATE_LOST"


async def test_another_kernel_than_expected_is_salvaged_and_quarantined() -> None:
    async with Lab(images=ImageTable({NEW: image("6.1.0-other")})) as lab:
        assert await lab.update() is P.QUARANTINED
        assert lab.problem() == "WRONG_KERNEL"
        assert not lab.suspended()
        assert not lab.held()
        assert lab.intact()


@pytest.mark.kernels("sessions")
async def test_a_poisoned_device_is_quarantined() -> None:
    async with Lab(images=ImageTable({NEW: image(NEW, handlers=())})) as lab:
        assert await lab.update() is P.QUARANTINED
        assert lab.problem() == "DEVICE_POISONED"
        assert await lab.update(2, operator_word=True) is P.QUARANTINED


async def test_somebody_elses_kexec_while_preserved() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        foreign = asyncio.create_task(lab.runner._ports.kernel.reboot_kexec())
        assert await lab.settle() is P.QUARANTINED
        foreign.cancel()
        assert lab.problem() == "FOREIGN_KEXEC"
        assert not lab.held()
        assert lab.intact()


async def test_power_loss_while_baking_and_after_commit() -> None:
    async with Lab() as lab:
        await lab.update()
        lab.node.power_loss()
        await lab.reach(P.COLD_BOOTED)
        assert await lab.update(2, operator_word=True) is P.BAKING
        lab.runner.submit(cmd.Commit("commit", lab.ref(2)))
        await lab.reach(P.COMMITTED)
        boot_id = lab.runner.stamp().boot_id
        lab.node.power_loss()
        await lab.base.until(lambda: lab.runner.stamp().boot_id != boot_id and lab.runner.ready.is_set())
        assert lab.phase is P.COMMITTED


async def test_memory_that_differs_is_unhealthy() -> None:
    async with Lab(Trouble("workloads.suspend", 1, "after", "spoil")) as lab:
        assert await lab.update() is P.AWAITING_ROLLBACK
        assert lab.problem() == "MEMORY_DIFFERS"
        check = next(report.memory_check for report in lab.runner.reports() if report.memory_check)
        assert (check.workloads, check.intact) == (2, 1)


async def test_stage_runs_beside_an_attempt_and_reports() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        good = cmd.Stage("s1", ArtifactRef("linux", "o" * 64, "", OLD))
        bad = cmd.Stage("s2", ArtifactRef("linux", "x" * 64, "", OLD))
        assert lab.runner.submit(good).outcome is Outcome.ACCEPTED
        lab.runner.submit(bad)
        await lab.base.until(lambda: sum(r.event == "Staged" for r in lab.runner.reports()) == 2)
        assert lab.runner.submit(good).outcome is Outcome.ALREADY_DONE
        assert lab.runner.submit(bad).outcome is Outcome.ACCEPTED
        results = {r.stage.artifact_digest[0]: r.stage for r in lab.runner.reports() if r.stage}
        assert results["o"].verified
        assert results["x"].problem is not None
        assert results["x"].problem.reason == "ARTIFACT_NOT_STAGED"
        assert lab.phase is P.PRESERVED


async def test_reports_are_replayed_until_acknowledged_and_the_floor_is_kept() -> None:
    async with Lab() as lab:
        await lab.update()
        seqs = [report.seq for report in lab.runner.unacknowledged()]
        await lab.runner.acknowledge(seqs[3])
        assert [report.seq for report in lab.runner.unacknowledged()] == seqs[4:]
        assert [report.seq for report in lab.runner.reports(seqs[5])] == seqs[6:]
        await lab.runner.acknowledge(1)
        await lab.runner.note_incarnation("newer", 4)
        await lab.runner.note_incarnation("older", 3)
        lab.runner.submit(cmd.Cancel("cancel-9", lab.ref(9), "never mind"))
        await lab.base.until(lambda: lab.runner.node.highest_generation == 9)
        floor = lab.runner.reports()[-1]
        assert (floor.event, floor.attempt, floor.phase) == ("FloorRaised", lab.ref(9), P.ABORTED)
        assert lab.runner.submit(lab.prepare(9)).outcome is Outcome.REFUSED
        boot_id = lab.runner.stamp().boot_id
        lab.node.power_loss()
        await lab.base.until(lambda: lab.runner.stamp().boot_id != boot_id and lab.runner.ready.is_set())
        assert lab.runner.node.highest_generation == 9
        assert (lab.runner.node.incarnation, lab.runner.node.incarnation_serial) == ("newer", 4)
        assert lab.runner.reports()[0].seq == seqs[4]


async def test_hello_says_where_the_node_stands() -> None:
    async with Lab() as lab:
        await lab.update()
        hello = await lab.runner.hello()
        assert (hello.node_id, hello.installation_id) == ("node-1", "installation")
        assert (hello.release, hello.boot_verdict, hello.highest_generation) == (NEW, Verdict.LIVE_UPDATED, 1)
        assert hello.status.phase is P.BAKING
        assert f"liveroll.attempt={lab.ref().id}" in hello.command_line


async def test_local_attempts_take_the_same_path() -> None:
    async with Lab() as lab:
        begun = lab.runner.submit(cmd.LocalPrepare("l1", "n" * 64))
        assert begun.outcome is Outcome.ACCEPTED
        assert begun.attempt is not None
        assert (begun.attempt.generation, begun.attempt.incarnation) == (1, "local")
        await lab.reach(P.PRESERVED)
        assert lab.runner.attempt is not None
        assert lab.runner.attempt.to_release == NEW
        lab.runner.submit(cmd.LocalKexec("l2"))
        await lab.reach(P.BAKING)
        lab.runner.submit(cmd.LocalCommit("l3"))
        await lab.reach(P.COMMITTED)
        nothing = lab.runner.submit(cmd.LocalCancel("l4"))
        assert nothing.outcome is Outcome.ALREADY_DONE


async def test_a_local_command_without_an_attempt_and_an_unreadable_one() -> None:
    async with Lab() as lab:
        refused = lab.runner.submit(cmd.LocalCommit("l1"))
        assert refused.problem is not None
        assert refused.problem.reason == "NO_ATTEMPT"
        await lab.runner.refuse("c9", Problem("MALFORMED", Retry.NEVER, "no action in it"))
        await lab.base.until(lambda: lab.runner.reports()[-1].refusal is not None)


async def test_a_full_inbox_asks_to_be_called_again() -> None:
    async with Lab() as lab:
        answers = [lab.runner.submit(cmd.Cancel(f"c{n}", lab.ref(n + 1))) for n in range(80)]
        refused = [answer for answer in answers if answer.outcome is Outcome.REFUSED]
        assert refused
        assert refused[0].problem is not None
        assert refused[0].problem.retry is Retry.CALL


async def test_a_node_without_an_orchestrator_keeps_no_reports() -> None:
    lab = Lab()
    lab.linked = False
    async with lab:
        assert await lab.update() is P.BAKING
        assert not lab.runner.reports()
        assert len(lab.runner.story()) > 5


@pytest.mark.kernels("sessions")
async def test_what_crossed_for_one_workload_alone_is_held_in_quarantine() -> None:
    """The agent's own session is lost, and one workload's cannot be retrieved; another's can."""
    trouble = Trouble("kernel.retrieve_session", 2, "before", "fail")
    async with Lab(trouble, faults=FaultPlan.parse("session_lost=lr.1-incarnat.agent@1")) as lab:
        assert await lab.update() is P.QUARANTINED
        assert not lab.troubles
        await lab.base.until(lambda: not lab.suspended())
        assert lab.held()
        assert lab.problem() == "STATE_LOST"
