"""Marks, spans and the marks area."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core import timing
from node_agent.core.marks import AREA_BYTES, NAMES, MarksInvalid, pack, unpack
from node_agent.core.model import KexecTelemetry, Mark
from tests.unit.agent_core.make import mark

HZ = 1e9


def crossing(*, tsc: bool = True) -> tuple[Mark, ...]:
    """An update whose node was away for two seconds; REALTIME came back one second early."""
    rows = [
        ("preserve_start", 10.0, "boot-a", 10.0),
        ("preserve_done", 12.0, "boot-a", 12.0),
        ("suspend", 20.0, "boot-a", 20.0),
        ("pre_reboot", 20.5, "boot-a", 20.5),
        ("kernel_start", 21.5, "boot-b", 0.0),
        ("userspace_start", 22.5, "boot-b", 1.0),
        ("retrieved", 22.6, "boot-b", 1.1),
        ("resume", 22.7, "boot-b", 1.2),
        ("finish", 25.7, "boot-b", 4.2),
    ]
    return tuple(
        mark(
            name,
            at_s - (1.0 if boot_id == "boot-b" else 0.0),
            boot_id=boot_id,
            tsc=round(at_s * HZ) if tsc else 0,
            boottime_s=boottime_s,
        )
        for name, at_s, boot_id, boottime_s in rows
    )


def test_the_host_gap_is_read_from_the_tsc() -> None:
    gap = timing.host_gap(crossing(), HZ, emulated=False)
    assert gap is not None
    assert gap.duration_s == pytest.approx(2.0)
    assert gap.uncertainty_s == pytest.approx(timing.TSC_UNCERTAINTY_S + 2.0 * timing.EARLY_TSC_DRIFT)
    assert (gap.clock, gap.rejected, gap.emulated) == ("tsc", "", False)


def test_a_frequency_measured_in_a_boot_that_has_settled_is_the_better_one() -> None:
    start, end = crossing()[0], crossing()[-1]
    settled = replace(start, boottime_s=timing.EARLY_S)
    assert timing.span(settled, end, HZ).uncertainty_s < timing.span(start, end, HZ).uncertainty_s


@pytest.mark.parametrize(("tsc", "hz"), [(False, HZ), (True, 0.0)])
def test_without_a_tsc_it_is_realtime_with_its_uncertainty(tsc: bool, hz: float) -> None:
    gap = timing.host_gap(crossing(tsc=tsc), hz, emulated=False)
    assert gap is not None
    assert (gap.duration_s, gap.clock, gap.uncertainty_s) == (pytest.approx(1.0), "realtime", 1.0)


def test_a_tsc_that_went_backwards_is_rejected_not_repaired() -> None:
    marks = (mark("pre_reboot", 1.0, tsc=5_000), mark("resume", 2.0, boot_id="boot-b", tsc=4_000))
    gap = timing.host_gap(marks, HZ, emulated=False)
    assert gap is not None
    assert (gap.rejected, gap.duration_s) == ("tsc went backwards", 0.0)


def test_emulated_timings_say_so() -> None:
    gap = timing.host_gap(crossing(), HZ, emulated=True)
    assert gap is not None
    assert (gap.clock, gap.emulated) == ("emulated", True)


def test_no_gap_without_both_sides() -> None:
    assert timing.host_gap(crossing()[:4], HZ, emulated=False) is None
    assert timing.host_gap(crossing()[4:], HZ, emulated=False) is None
    without_start = tuple(m for m in crossing() if m.name != "userspace_start")
    gap = timing.host_gap(without_start, HZ, emulated=False)
    assert gap is not None
    assert gap.duration_s == pytest.approx(2.1)


def test_brownout_is_before_the_suspension_and_after_the_resumption() -> None:
    assert timing.brownout_s(crossing(), HZ) == pytest.approx(10.0 + 3.0)
    assert timing.brownout_s(crossing()[:-1], HZ) is None
    backwards = (*crossing()[:-1], mark("finish", 0.0, boot_id="boot-b", boottime_s=0.0))
    assert timing.brownout_s(backwards, HZ) is None


def test_the_parts_of_a_blackout_add_up() -> None:
    parts = timing.phases(crossing(), HZ)
    assert list(parts) == ["shutdown", "purgatory", "boot", "userspace", "restore"]
    assert sum(part.duration_s for part, _ in parts.values()) == pytest.approx(2.7)
    assert parts["shutdown"][0].clock == "boottime"
    assert parts["purgatory"][0].clock == "tsc"
    assert {source for _, source in parts.values()} == {"marks"}
    assert list(timing.phases(crossing()[:4], HZ)) == ["shutdown"]


def told(**changed: float) -> KexecTelemetry:
    """What the kernels of crossing() would tell."""
    at_s = {"shutdown": 20.6, "purgatory": 21.0, "kernel": 21.4, "userspace": 22.3, **changed}
    return KexecTelemetry(
        *(round(at_s[name] * HZ) for name in ("shutdown", "purgatory", "kernel", "userspace")), HZ
    )


def test_the_kernels_own_word_goes_before_the_agents_marks() -> None:
    """The seed: "precise time information about kexec, including shutdown, purgatory, boot"."""
    marks = {m.name: m for m in crossing()}
    made = timing.told_marks(told(), marks["pre_reboot"], marks["userspace_start"], tsc_hz=HZ)
    assert [m.name for m in made] == ["kernel_left", "kernel_start", "init_start"]
    assert [m.boot_id for m in made] == ["boot-a", "boot-b", "boot-b"]
    assert [m.boottime_s for m in made] == pytest.approx([21.0, 0.0, 0.9])
    parts = timing.phases((*crossing(), *made), HZ)
    assert {name: round(part.duration_s, 6) for name, (part, _) in parts.items()} == {
        "shutdown": 1.0, "purgatory": 0.4, "boot": 0.9, "userspace": 0.2, "restore": 0.1,
    }  # fmt: skip
    assert [source for _, source in parts.values()] == [*["telemetry"] * 4, "marks"]


@pytest.mark.parametrize(
    "changed", [{"shutdown": 20.4}, {"purgatory": 20.55}, {"kernel": 20.9}, {"userspace": 22.6}]
)
def test_telemetry_of_another_kexec_is_not_used(changed: dict[str, float]) -> None:
    marks = {m.name: m for m in crossing()}
    assert timing.told_marks(told(**changed), marks["pre_reboot"], marks["userspace_start"], tsc_hz=HZ) == ()


def test_telemetry_needs_a_tsc_and_a_mark_before() -> None:
    marks = {m.name: m for m in crossing()}
    before, now = marks["pre_reboot"], marks["userspace_start"]
    assert timing.told_marks(told(), None, now, tsc_hz=HZ) == ()
    assert timing.told_marks(told(), replace(before, tsc=0), now, tsc_hz=HZ) == ()
    assert timing.told_marks(told(), before, replace(now, tsc=0), tsc_hz=HZ) == ()
    assert timing.told_marks(told(), before, now, tsc_hz=0.0) == ()


@pytest.mark.parametrize("hz", [float("nan"), float("inf"), 0.0, 0.001, 1.0, 1.02e9])
def test_telemetry_of_another_frequency_is_not_used(hz: float) -> None:
    marks = {m.name: m for m in crossing()}
    strange = replace(told(), tsc_hz=hz)
    before, now = marks["pre_reboot"], marks["userspace_start"]
    assert timing.told_marks(strange, before, now, tsc_hz=HZ) == ()


def test_telemetry_of_a_later_kexec_is_not_used() -> None:
    """Somebody else's, after ours: a whole boot would count as shutdown."""
    marks = {m.name: m for m in crossing()}
    later = told(shutdown=26.0, purgatory=26.2, kernel=26.4, userspace=27.0)
    now = replace(marks["finish"], tsc=round(30 * HZ))
    assert timing.told_marks(later, marks["pre_reboot"], now, tsc_hz=HZ) == ()


def test_the_newest_mark_of_a_name_counts() -> None:
    marks = (mark("resume", 1.0), mark("resume", 2.0))
    assert timing.find(marks, "resume") == marks[1]
    assert timing.find(marks, "finish") is None


def test_the_area_gives_back_what_was_written() -> None:
    marks = tuple(m for m in crossing() if m.name in NAMES)
    block = pack(crossing(), 2.4e9)
    assert len(block) == AREA_BYTES
    assert unpack(block) == (marks, 2.4e9)
    assert unpack(pack((), 0.0)) == ((), 0.0)


@pytest.mark.parametrize("offset", [0, 9, 13, 20, 40, AREA_BYTES - 1])
def test_a_changed_byte_is_noticed(offset: int) -> None:
    block = bytearray(pack(crossing(), HZ))
    block[offset] ^= 1
    with pytest.raises(MarksInvalid):
        unpack(bytes(block))


def test_another_size_is_not_an_area() -> None:
    with pytest.raises(MarksInvalid, match="4096 bytes"):
        unpack(b"LRMARKS1")
