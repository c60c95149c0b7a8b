"""The last instants before the point of no return: what may still stop the jump, does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from node_agent.core import commands as cmd
from node_agent.core.phases import Phase
from node_agent.core.report import Outcome
from node_agent.runtime.runner_effects import HostedDisks
from tests.unit.runner.lab import Lab, Trouble

P = Phase


async def test_a_cancel_that_was_accepted_is_never_followed_by_a_jump() -> None:
    """It comes while the journal takes the last workload's Suspended: the inbox is not read again
    before reboot."""
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        answers: list[Outcome] = []

        async def cancelled() -> None:
            attempt = lab.runner.attempt
            if (
                attempt is not None
                and attempt.phase is P.SUSPENDING
                and b'"phase":"JUMPING"' in lab.disk.data
            ):
                lab.disk.before_sync = None
                answers.append(lab.runner.submit(cmd.Cancel("cancel", lab.ref(), "changed my mind")).outcome)

        lab.disk.before_sync = cancelled
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.ABORTED
        assert answers == [Outcome.ACCEPTED]
        assert lab.problem() == "CANCELLED"
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.suspended() == []
        assert b"jump_intent" not in lab.disk.data


async def test_a_cancel_of_an_earlier_attempt_stops_no_later_one() -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(cmd.Cancel("cancel", lab.ref(), "not now"))
        assert await lab.settle() is P.ABORTED
        assert await lab.update(2) is P.BAKING


async def test_a_disk_that_is_never_written_back_costs_no_more_than_the_lease() -> None:
    """A dead network file system hangs sync(2) for ever, and workloads stand still meanwhile."""
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        calls = 0

        class Hangs(HostedDisks):
            async def settle(self) -> None:
                nonlocal calls
                calls += 1
                if calls > 1:  # the first comes before anything stands still
                    await asyncio.get_running_loop().create_future()

        lab.runner._ports = replace(lab.runner._ports, disks=Hangs())
        lab.runner._effects._ports = lab.runner._ports
        lab.runner.submit(lab.proceed(valid_for_s=5.0))
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "LEASE_EXPIRED"
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.suspended() == []
        assert lab.intact()


async def test_a_kernel_that_answers_late_costs_no_more_than_the_lease() -> None:
    """Whether it is ready is asked before the lease is judged: what comes after that nobody bounds."""
    async with Lab(Trouble("kernel.ready_to_jump", 1, "before", "hang")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(lab.proceed(valid_for_s=5.0))
        await lab.base.until(lambda: lab.calls["kernel.ready_to_jump"] == 1)
        asked_s = lab.base.now()
        assert await lab.settle() is P.ABORTED
        assert lab.base.now() - asked_s < 10.0
        assert lab.problem() == "LEASE_EXPIRED"
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.suspended() == []
        assert lab.intact()


async def test_between_the_last_look_at_the_lease_and_reboot_the_kernel_is_asked_nothing() -> None:
    async with Lab() as lab:
        await lab.update()
        calls = [call for call, _ in lab.log]
        reboot = calls.index("kernel.reboot_kexec")
        assert calls[reboot - 1] == "kernel.ready_to_jump"


@pytest.mark.parametrize("error", [OSError(5, "sync"), ValueError("a mark that cannot be packed")])
async def test_what_fails_between_intent_and_reboot_unwinds(error: Exception) -> None:
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner._effects.session.write_marks = _raises(error)  # type: ignore[method-assign]
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.ABORTED
        assert lab.problem() == "INTERNAL"
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.suspended() == []


def _raises(error: Exception):  # type: ignore[no-untyped-def]
    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("record", [b'"phase":"JUMPING"', b"jump_intent"])
async def test_a_journal_that_hangs_costs_little_more_than_the_lease(record: bytes) -> None:
    """fsync on a dying disk may take minutes, and workloads stand still meanwhile."""
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)

        async def hangs() -> None:
            if record in lab.disk.data:
                await asyncio.get_running_loop().create_future()

        lab.disk.before_sync = hangs
        lab.runner.submit(lab.proceed(valid_for_s=5.0))
        await lab.base.until(lambda: lab.problem() == "JOURNAL_STALLED", limit_s=16.0)
        await lab.base.until(lambda: lab.suspended() == [], limit_s=1.0)
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.phase is P.QUARANTINED
        # The record may have become durable all the same; a restart unwinds and never jumps.
        lab.disk.before_sync = None
        runner = lab.runner
        lab.crash()
        await lab.base.until(lambda: lab.runner is not runner)
        assert await lab.settle() is P.ABORTED
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert lab.suspended() == []


async def test_a_probe_that_breaks_is_a_relapse_and_no_flood() -> None:
    async with Lab() as lab:
        assert await lab.update() is P.BAKING
        records = len(lab.runner._ports.journal.records)

        def breaks() -> tuple[bool, str]:
            raise PermissionError(1, "killpg")

        lab.hooks.health = breaks
        await lab.reach(P.AWAITING_ROLLBACK)
        assert lab.problem() == "UNHEALTHY"
        assert len(lab.runner._ports.journal.records) == records + 1
