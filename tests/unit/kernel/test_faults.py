"""The fault vocabulary: what can be written, and when each fault strikes."""

from __future__ import annotations

import errno

import pytest

from node_agent.kernel.faults import Fault, FaultKind, FaultPlan, FaultSyntax


def test_a_plan_is_read_and_written_back() -> None:
    text = "refuse_freeze=ENOMEM@1,panic@2,slow_boot=3.0,hang=retrieve_session@1,busy=2@0"
    plan = FaultPlan.parse(text)
    assert plan.faults[1] == Fault(FaultKind.PANIC, 2)
    assert str(plan) == text
    assert FaultPlan.parse(str(plan)) == plan


def test_blanks_and_empty_parts_are_allowed() -> None:
    assert FaultPlan.parse(" , panic@1 ,, busy = 2 ") == FaultPlan.parse("panic@1,busy=2")
    assert FaultPlan.parse("") == FaultPlan()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("refuse_freeze", "EBUSY"),
        ("retrieve_error", "EIO"),
        ("hang", "reboot"),
        ("wrong_kernel", "wrong"),
        ("session_lost", ""),
        ("busy", "1"),
        ("slow", "1"),
        ("cut_link", "1"),
        ("panic", ""),
    ],
)
def test_values_have_defaults(text: str, value: str) -> None:
    assert FaultPlan.parse(text).faults[0].value == value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("panik@1", "unknown fault 'panik'; known are busy, "),
        ("panic@", "what follows @ must be a count"),
        ("panic@-1", "what follows @ must be a count"),
        ("panic=1", "takes no value"),
        ("slow=-1", "not a number or errno in range"),
        ("slow=inf", "not a number or errno in range"),
        ("slow=soon", "not a number or errno in range"),
        ("busy=0", "not a number or errno in range"),
        ("refuse_freeze=EWHAT", "not a number or errno in range"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, says: str) -> None:
    with pytest.raises(FaultSyntax, match=says):
        FaultPlan.parse(text)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(FaultSyntax, match="0 or more"):
        Fault(FaultKind.PANIC, -1)


def test_a_fault_strikes_its_time_or_every_time() -> None:
    plan = FaultPlan.parse("panic@2,refuse_freeze=EIO,refuse_freeze=EPERM@3")
    assert [plan.at(FaultKind.PANIC, n) is not None for n in (1, 2, 3)] == [False, True, False]
    every = plan.at(FaultKind.REFUSE_FREEZE, 3)
    assert every is not None
    assert every.errno == errno.EIO
    assert plan.at(FaultKind.NEVER_BACK, 1) is None


def test_hangs_are_told_apart_by_call() -> None:
    plan = FaultPlan.parse("hang@2,hang=load@1")
    assert plan.hang("reboot", 2)
    assert plan.hang("load", 1)
    assert not plan.hang("reboot", 1)
    assert not plan.hang("finish", 1)


def test_slow_adds_up_by_phase() -> None:
    plan = FaultPlan.parse("slow=1,slow_boot=2@1,slow_purgatory=4@2")
    assert [plan.added_s(phase, 1) for phase in ("shutdown", "purgatory", "boot")] == [1, 1, 3]
    assert plan.added_s("purgatory", 2) == 5


def test_a_seed_gives_the_same_plan_whatever_the_order_of_its_rates() -> None:
    rates = {FaultKind.PANIC: 0.5, FaultKind.REFUSE_FREEZE: 0.5}
    plan = FaultPlan.seeded(7, rates, kexecs=16)
    assert plan == FaultPlan.seeded(7, dict(reversed(rates.items())), kexecs=16)
    assert plan != FaultPlan.seeded(8, rates, kexecs=16)
    assert 0 < len(plan.faults) < 32


def test_rates_at_their_ends() -> None:
    assert FaultPlan.seeded(1, {FaultKind.PANIC: 0.0}) == FaultPlan()
    assert len(FaultPlan.seeded(1, {FaultKind.PANIC: 1.0}, kexecs=3).faults) == 3
    with pytest.raises(ValueError, match="must be 0 … 1"):
        FaultPlan.seeded(1, {FaultKind.PANIC: 1.5})
