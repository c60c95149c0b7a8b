"""As sagas are to be tested: at every port call of an attempt, before it and after it, fail, hang, crash
and lose power; repeat every effect and every undo. Whatever happens, the invariants hold.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.phases import Phase
from node_agent.core.steps import STEPS, Effect
from node_agent.runtime.journal_format import MAGIC, decode_file, encode_record
from node_agent.workloads.inprocess import WorkloadFaults
from tests.unit.runner.lab import Lab, Trouble

P = Phase

JOURNAL = [("journal.append", n) for n in range(2, 14)]
PREPARING = [
    ("journal.ensure_room", 1),
    ("artifacts.get", 1),
    ("artifacts.get", 2),
    ("kernel.load", 1),
    ("hooks.drain", 1),
    ("workloads.preserve", 1),
    ("kernel.prepare", 1),
    ("journal.append", 6),
]
CREATING = [("kernel.create_session", 1), ("kernel.create_session", 3)]
"""A workload's session, and the agent's own. What was made is the caller's at once: nothing comes between."""
JUMPING = [("workloads.suspend", 1), ("kernel.reboot_kexec", 1)]
RETURNING = [("workloads.retrieve", 1), ("workloads.resume", 1)]
SETTLING = [("hooks.healthy", 1), ("workloads.finish", 1), ("kernel.finish", 1), ("hooks.undrain", 1)]
UNWINDING = [
    ("workloads.resume", 1),
    ("workloads.release", 1),
    ("kernel.cancel", 1),
    ("hooks.undrain", 1),
    ("kernel.unload", 1),
]
CALLS = [*JOURNAL, *PREPARING, *CREATING, *JUMPING, *RETURNING, *SETTLING]
MOMENTS = ["before", "after"]


def check(lab: Lab) -> None:
    """What must hold of a node that has settled, whatever happened to it."""
    assert not lab.suspended(), "a workload was left standing still"
    assert not lab.held(), "a session was left unfinished"
    assert lab.intact()
    intents = [line for line in lab.runner.story() if line.event == "JumpIntentRecorded"]
    assert len({line.attempt for line in intents}) == len(intents), "an attempt jumped twice"
    assert lab.calls["kernel.reboot_kexec"] <= len(intents)
    seqs = [line.seq for line in lab.runner.story()]
    assert seqs == sorted(set(seqs))


async def again_until_baking(lab: Lab) -> None:
    """The orchestrator tries again by itself only where the node is as it was before."""
    for generation in range(1, 5):
        phase = await lab.update(generation)
        check(lab)
        if phase is not P.ABORTED:
            break


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}-{call[1]}")
async def test_the_agent_crashes(call: tuple[str, int], moment: str) -> None:
    async with Lab(Trouble(*call, moment, "crash")) as lab:
        await again_until_baking(lab)
        assert not lab.troubles or moment == "after", "the script was never reached"
        # In the new boot what was retrieved dies with the agent, where no fd store keeps it.
        if lab.phase is not P.BAKING:
            assert lab.phase is P.QUARANTINED
            assert lab.problem() in {"WORKLOAD_FAILED", "SESSION_NOT_FOUND", "STATE_LOST"}
            return
        assert not lab.hooks.drained


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]}-{call[1]}")
async def test_the_power_fails(call: tuple[str, int], moment: str) -> None:
    async with Lab(Trouble(*call, moment, "power")) as lab:
        await lab.update()
        check(lab)
        assert lab.phase in (P.COLD_BOOTED, P.BAKING)
        assert await lab.update(5, operator_word=True) is P.BAKING
        check(lab)


@pytest.mark.parametrize("action", ["fail", "hang"])
@pytest.mark.parametrize(
    ("call", "moment"),
    [
        *((call, moment) for call in (*PREPARING[1:-1], JUMPING[0]) for moment in MOMENTS),
        *((call, "before") for call in CREATING),
    ],
    ids=str,
)
async def test_a_step_before_the_jump_fails_or_hangs(call: tuple[str, int], action: str, moment: str) -> None:
    async with Lab(Trouble(*call, moment, action)) as lab:
        assert await lab.update() is P.ABORTED
        check(lab)
        assert lab.calls["kernel.reboot_kexec"] == 0
        assert not lab.hooks.drained
        assert not lab.node.model.loaded
        assert lab.runner.status().problem is not None
        assert await lab.update(2) is P.BAKING


@pytest.mark.parametrize("action", ["fail", "hang"])
@pytest.mark.parametrize("call", RETURNING, ids=lambda call: call[0])
async def test_bringing_workloads_back_fails_once(call: tuple[str, int], action: str) -> None:
    async with Lab(Trouble(*call, "after", action)) as lab:
        assert await lab.update() is P.QUARANTINED
        await lab.base.until(lambda: not lab.suspended())
        assert lab.problem() in {"WORKLOAD_FAILED", "STEP_TIMEOUT"}


async def test_bringing_workloads_back_fails_for_good_and_changes_no_state() -> None:
    troubles = [Trouble("workloads.resume", n, "before", "fail") for n in (1, 2)]
    async with Lab(*troubles) as lab:
        assert await lab.update() is P.QUARANTINED
        await lab.base.until(lambda: not lab.troubles)
        assert lab.phase is P.QUARANTINED


@pytest.mark.parametrize("action", ["fail", "hang"])
async def test_a_probe_that_fails_or_hangs_is_unhealthy(action: str) -> None:
    troubles = [Trouble("hooks.healthy", n, "before", action) for n in range(1, 20)]
    async with Lab(*troubles) as lab:
        assert await lab.update() is P.AWAITING_ROLLBACK
        check(lab)


@pytest.mark.parametrize("call", ["workloads.finish", "kernel.finish", "hooks.undrain"])
async def test_finishing_is_tried_again_and_not_for_ever(call: str) -> None:
    async with Lab(*[Trouble(call, n, "before", "fail") for n in (1, 2)]) as lab:
        assert await lab.update() is P.BAKING
    async with Lab(*[Trouble(call, n, "before", "fail") for n in (1, 2, 3)]) as lab:
        assert await lab.update() is P.QUARANTINED


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", UNWINDING, ids=lambda call: call[0])
async def test_every_undo_may_be_cut_short_and_repeated(call: tuple[str, int], moment: str) -> None:
    async with Lab(Trouble("workloads.suspend", 1, "after", "fail"), Trouble(*call, moment, "crash")) as lab:
        assert await lab.update() is P.ABORTED
        check(lab)
        assert not lab.troubles
        assert not lab.hooks.drained
        assert await lab.update(2) is P.BAKING


@pytest.mark.parametrize("call", UNWINDING, ids=lambda call: call[0])
async def test_an_undo_that_fails_quarantines_and_the_others_are_done(call: tuple[str, int]) -> None:
    async with Lab(Trouble("workloads.suspend", 1, "after", "fail"), Trouble(*call, "before", "fail")) as lab:
        assert await lab.update() is P.QUARANTINED
        problem = lab.runner.status().problem
        assert problem is not None
        assert problem.fields["unwinding_because"] == "WORKLOAD_FAILED"
        assert all(lab.calls[name] == 1 for name, _ in UNWINDING)


async def test_a_workload_that_does_not_let_go_quarantines() -> None:
    async with Lab(Trouble("workloads.suspend", 1, "before", "fail")) as lab:
        assert lab.workloads is not None
        lab.workloads.faults["vm-0"] = WorkloadFaults(keep_session=1)
        assert await lab.update() is P.QUARANTINED
        assert lab.problem() == "SESSION_STILL_HELD"


@pytest.mark.parametrize("n", range(3, 14))
async def test_the_journal_fails(n: int) -> None:
    """Before the jump everything is undone; after it workloads run again; then it stands still."""
    async with Lab() as lab:

        async def break_it() -> None:
            if lab.calls["journal.append"] == n:
                lab.disk.fail_sync = True

        lab.disk.before_sync = break_it
        lab.runner.submit(lab.prepare())

        def step() -> bool:
            if not lab.runner.ready.is_set():
                return False
            if lab.phase is P.PRESERVED:
                lab.runner.submit(lab.proceed())
            return lab.runner.status().problem is not None

        await lab.base.until(step)
        await lab.base.until(lambda: not lab.suspended())
        assert (lab.phase, lab.problem()) == (P.QUARANTINED, "JOURNAL_UNAVAILABLE")
        assert not lab.runner.status().healthy
        refused = lab.runner.submit(lab.prepare(9))
        assert refused.problem is not None
        assert refused.problem.reason == "JOURNAL_UNAVAILABLE"
        if n <= 8:
            await lab.base.until(lambda: not lab.node.model.loaded)
            assert lab.calls["kernel.reboot_kexec"] == 0
            assert not lab.held()
            assert not lab.hooks.drained


async def test_a_full_disk_begins_nothing_new_and_says_so() -> None:
    async with Lab() as lab:
        lab.disk.tight = True
        lab.runner.submit(lab.prepare())
        await lab.base.until(lambda: lab.problem() == "JOURNAL_FULL")
        assert lab.phase is P.IDLE
        assert lab.runner.reports()[-1].refusal is not None
        lab.disk.full = True
        lab.runner.submit(lab.prepare(2))
        await lab.base.until(lambda: lab.calls["journal.ensure_room"] == 2)
        lab.disk.full = lab.disk.tight = False
        assert await lab.update(3) is P.BAKING
        assert lab.runner.status().problem is None


async def test_a_crash_between_any_two_records_leaves_a_state_that_goes_on() -> None:
    """Every prefix of the journal of a whole update is a journal to start from."""
    async with Lab() as whole:
        await whole.update()
        data, records = whole.disk.data, whole.runner._ports.journal.records
    for kept in range(1, len(records)):
        async with Lab(seed=1) as lab:
            await settle_from(lab, data, kept)


async def settle_from(lab: Lab, data: bytes, kept: int) -> None:
    """Power-cycle the node onto a prefix of another's journal; it must settle by itself."""
    prefix = MAGIC + b"".join(encode_record(record) for record in decode_file(data).records[:kept])
    before = lab.runner
    lab.disk.data, lab.disk.synced = prefix, len(prefix)
    lab.node.power_loss()
    await lab.base.until(lambda: lab.runner is not before and lab.runner.ready.is_set())
    await lab.settle()
    check(lab)


async def test_every_effect_may_be_performed_twice() -> None:
    """A crash after an effect and before its record performs it again: nothing may mind."""
    async with Lab() as lab:
        lab.runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        attempt = lab.runner.attempt
        assert attempt is not None
        attempt = replace(attempt, furthest=P.SUSPENDING)
        effects = lab.runner._effects
        for effect in (Effect.SUSPEND, Effect.UNWIND, Effect.LOAD, Effect.DRAIN):
            assert STEPS[effect].cancellable
            for _ in range(2):
                assert await effects.perform(effect, attempt) is not None
        assert not lab.suspended()
    async with Lab() as lab:
        assert await lab.update() is P.BAKING
        attempt = lab.runner.attempt
        assert attempt is not None
        effects = lab.runner._effects
        for effect in (Effect.RESUME, Effect.FINISH, Effect.SET_DEFAULT, Effect.BRING_BACK):
            for _ in range(2):
                await effects.perform(effect, attempt)
        check(lab)
