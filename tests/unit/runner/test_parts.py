"""The runner's smaller parts: outbox, boot, agent session, and the real journal beneath it all."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from node_agent.core.model import Problem
from node_agent.core.phases import Phase
from node_agent.core.recovery import SessionFinding
from node_agent.errors import JournalCorrupt, KernelError, Retry
from node_agent.ports import JournalRecord
from node_agent.runtime.journal import FileJournal
from node_agent.runtime.outbox import Outbox
from node_agent.runtime.runner import NodeRunner
from node_agent.runtime.runner_boot import Boot, read_history
from node_agent.runtime.runner_effects import Ports
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.runner_session import AgentSession
from node_agent.workloads.device import TRIES
from tests.unit.agent_core.make import attempt
from tests.unit.runner.lab import Lab, Trouble

P = Phase


def test_an_outbox_without_an_orchestrator_is_empty() -> None:
    outbox = Outbox((), 3)
    assert (len(outbox), outbox.acked) == (0, 3)


def test_a_record_that_makes_no_sense_is_corruption() -> None:
    with pytest.raises(JournalCorrupt):
        read_history([JournalRecord(1, "event", {"node": {"highest_generation": "many"}})])


async def test_a_node_whose_journal_was_set_aside_stands_still() -> None:
    lab = Lab()
    lab.quarantine = Problem("JOURNAL_CORRUPT", Retry.FIX_STATE, "it was damaged", "Look at the disk.")
    async with lab:
        assert (lab.phase, lab.problem(), lab.runner.status().healthy) == (
            P.QUARANTINED,
            "JOURNAL_CORRUPT",
            False,
        )
        refused = lab.runner.submit(lab.prepare())
        assert refused.problem is not None
        assert refused.problem.reason == "NOT_ADMITTED"
        lab.quarantine = None
        assert await lab.update(2, operator_word=True) is P.BAKING


@pytest.mark.kernels("sessions")
async def test_a_busy_device_is_tried_again_and_not_for_ever() -> None:
    async with Lab() as lab:
        release = lab.node._kernel.hold_device()  # type: ignore[union-attr]
        lab.runner.submit(lab.prepare())
        await lab.settle()
        assert lab.problem() == "DEVICE_BUSY"
        release()
        session = AgentSession(lab.runner._ports.clock)
        release = lab.node._kernel.hold_device()  # type: ignore[union-attr]
        tries = lab.calls["kernel.create_session"]

        async def create() -> str:
            with pytest.raises(KernelError) as caught:
                await session.create(lab.runner._ports.kernel, attempt(), {})
            return caught.value.reason

        task = asyncio.create_task(create())
        await lab.base.until(task.done)
        assert task.result() == "DEVICE_BUSY"
        assert lab.calls["kernel.create_session"] - tries == TRIES
        release()


@pytest.mark.kernels("notifier", "luo-driven")
async def test_a_device_of_rfc_v2_is_for_as_many_as_open_it() -> None:
    """Only merged LUO lets one process at a time have it."""
    async with Lab() as lab:
        release = lab.node._kernel.hold_device()  # type: ignore[union-attr]
        assert await lab.update() is P.BAKING
        release()


class Broken:
    """A session whose token cannot be retrieved."""

    name = "broken"

    async def retrieve_fd(self, token: int) -> int:
        raise KernelError(errno.ENOENT, "LIVEUPDATE_SESSION_RETRIEVE_FD")


async def test_a_session_without_its_token_is_no_proof() -> None:
    async with Lab() as lab:
        session = AgentSession(lab.runner._ports.clock)
        found = await session.find(lab.runner._ports.kernel, attempt(), Broken())  # type: ignore[arg-type]
        assert found.finding is SessionFinding.INVALID


async def test_a_session_of_another_attempt_is_no_proof() -> None:
    async with Lab() as lab:
        kernel, clock = lab.runner._ports.kernel, lab.runner._ports.clock
        ours, other = attempt(), attempt()
        object.__setattr__(other, "ref", lab.ref(9))
        maker = AgentSession(clock)
        await maker.create(kernel, other, {})
        maker.write_marks((), 0.0)

        class Held:
            async def retrieve_fd(self, token: int) -> int:
                return os.dup(maker._token_fd)

        finder = AgentSession(clock)
        found = await finder.find(kernel, ours, Held())  # type: ignore[arg-type]
        assert (found.finding, "9-" in found.why) == (SessionFinding.INVALID, True)
        finder.drop_fds()
        await maker.close()


async def test_a_device_that_refuses_says_nothing_about_the_session() -> None:
    async with Lab(Trouble("kernel.retrieve_session", 1, "before", "fail")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        lab.runner.submit(lab.proceed())
        assert lab._task is not None
        task = lab._task
        await lab.base.until(task.done)
        assert isinstance(task.exception(), KernelError)
        lab.given_up = True


async def test_a_step_that_fails_in_a_way_nobody_foresaw_is_undone() -> None:
    async with Lab() as lab:

        async def drain() -> None:
            raise ZeroDivisionError("surprise")

        lab.hooks.drain = drain  # type: ignore[method-assign]
        assert await lab.update() is P.ABORTED
        problem = lab.runner.status().problem
        assert problem is not None
        assert (problem.reason, problem.fields["error"]) == ("INTERNAL", "surprise")


@pytest.mark.parametrize("broken", ["workloads.resume", "workloads.release", "hooks.undrain", "disks.let_go"])
async def test_an_undo_that_fails_in_a_way_nobody_foresaw_keeps_no_other_from_being_done(broken: str) -> None:
    async with Lab(Trouble("workloads.suspend", 1, "after", "fail")) as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)

        async def breaks() -> None:
            raise ZeroDivisionError("surprise")

        port, _, name = broken.partition(".")
        setattr(getattr(lab.runner._ports, port), name, breaks)
        lab.runner.submit(lab.proceed())
        assert await lab.settle() is P.QUARANTINED
        assert lab.problem() == "INTERNAL"
        assert not lab.node.model.loaded
        assert lab.hooks.drained is (broken == "hooks.undrain")
        assert bool(lab.suspended()) is (broken == "workloads.resume")
        assert bool(lab.held()) is (broken == "workloads.release")


async def test_over_a_real_journal(tmp_path: Path) -> None:
    """What one agent wrote, the next one knows."""
    async with Lab() as lab:
        ports = lab.runner._ports
        facts = await ports.kernel.facts()
        journal = FileJournal.open(tmp_path / "journal")
        runner = NodeRunner(
            Identity("node-1"),
            Ports(ports.kernel, journal, ports.clock, ports.workloads, ports.hooks, ports.artifacts),
            Boot(facts),
        )
        task = asyncio.create_task(runner.run())
        await asyncio.wait_for(runner.ready.wait(), 10)
        runner.submit(lab.prepare())
        while runner.status().phase is not P.PRESERVED:
            runner.changes.clear()
            await asyncio.wait_for(runner.changes.wait(), 10)
        task.cancel()
        await asyncio.wait([task])
        await runner._effects.session.close()
        assert lab.workloads is not None
        await lab.workloads.agent_died()
        await journal.close()
        again = FileJournal.open(tmp_path / "journal")
        second = NodeRunner(
            Identity("node-1"),
            Ports(ports.kernel, again, ports.clock, ports.workloads, ports.hooks, ports.artifacts),
            Boot(facts),
        )
        assert second.status().phase is P.PRESERVED
        task = asyncio.create_task(second.run())
        while second.status().phase is not P.ABORTED:
            second.changes.clear()
            await asyncio.wait_for(second.changes.wait(), 10)
        assert second.status().problem is not None
        assert second.status().problem.reason == "AGENT_RESTARTED"  # type: ignore[union-attr]
        assert not lab.held()
        task.cancel()
        await asyncio.wait([task])
        await again.close()
