"""Kexec telemetry: the kernels' own word on when each phase of a kexec began."""

from __future__ import annotations

from typing import Any

import pytest

from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.emulated.rfc2.memory import Blob
from node_agent.kernel.emulated.telemetry import Phase, Telemetry
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage, KexecTelemetry
from tests.unit.kernel.rfc2.subsystem_boots import KHO_ONLY, ON, boot, kexec, luo, rfc2
from tests.unit.kernel.test_clock import Base

PHASES = PhaseTimes(shutdown_s=1, purgatory_s=2, boot_s=4, panic_s=8, firmware_s=16)
RFC2 = EmulatedImage.rfc2("6.16")
SESSIONS = EmulatedImage("7.2", telemetry=True)
LIVE = KexecImage("", "", ON, "next")


async def told(
    image: EmulatedImage,
    *,
    otherwise: EmulatedImage | None = None,
    words: str = ON,
    faults: str = "",
    kexecs: int = 1,
    prepare: bool = False,
) -> list[KexecTelemetry | None]:
    """What each boot of a node tells that kexecs as often as this, by 1 cycle a second."""
    found: list[KexecTelemetry | None] = []

    async def userspace(boot: Boot) -> None:
        found.append(await boot.kernel.telemetry())
        if boot.boots > kexecs:
            return
        await boot.kernel.load(KexecImage("", "", words, "next"))
        if prepare:
            assert node.model.rfc2 is not None
            node.model.rfc2.the_luo("test").prepare()
        await boot.kernel.reboot_kexec()

    node = EmulatedNode(
        image=image,
        images=ImageTable(otherwise=otherwise or image),
        base=Base(0.0),
        phases=PHASES,
        tsc_hz=1.0,
        faults=FaultPlan.parse(faults),
    )
    await node.run(userspace)
    return found


@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
async def test_a_plain_kexec_is_measured(image: EmulatedImage) -> None:
    """The seed thread: "precise time information about kexec, including shutdown, purgatory, boot"; "it could
    be useful even without live update, just to measure precise kexec reboot time." A cold boot has none."""
    assert await told(image, kexecs=2) == [
        None,
        KexecTelemetry(shutdown_tsc=4, purgatory_tsc=5, kernel_tsc=7, userspace_tsc=11, tsc_hz=1.0),
        KexecTelemetry(shutdown_tsc=11, purgatory_tsc=12, kernel_tsc=14, userspace_tsc=18, tsc_hz=1.0),
    ]


@pytest.mark.parametrize("coupling", ["notifier", "luo-driven"])
async def test_so_is_a_live_update(coupling: str) -> None:
    """The seed thread: "it could be LUO subsystem"."""
    image = EmulatedImage.rfc2("6.16", coupling=coupling)
    assert (await told(image, prepare=True))[1] == KexecTelemetry(4, 5, 7, 11, 1.0)


@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
async def test_slow_phases_show_where_they_were(image: EmulatedImage) -> None:
    faults = "slow_shutdown=10,slow_purgatory=100,slow_boot=1000"
    assert (await told(image, faults=faults))[1] == KexecTelemetry(4, 15, 117, 1121, 1.0)


@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
@pytest.mark.parametrize("words", ["kho=off liveupdate=on", "liveupdate=on"])
async def test_a_target_without_kho_tells_nothing(image: EmulatedImage, words: str) -> None:
    assert await told(image, words=words) == [None, None]


@pytest.mark.parametrize("words", [KHO_ONLY, ON])
@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
async def test_no_luo_is_needed(image: EmulatedImage, words: str) -> None:
    assert (await told(image, words=words, kexecs=2))[1:] == [
        KexecTelemetry(4, 5, 7, 11, 1.0),
        KexecTelemetry(11, 12, 14, 18, 1.0),
    ]


@pytest.mark.parametrize(
    ("image", "otherwise"),
    [
        (RFC2, EmulatedImage.rfc2("", telemetry=False)),
        (EmulatedImage.rfc2("6.16", telemetry=False), RFC2),
        (SESSIONS, EmulatedImage("")),
        (EmulatedImage("7.2"), SESSIONS),
        (RFC2, SESSIONS),
        (SESSIONS, RFC2),
        (EmulatedImage("7.2"), EmulatedImage("")),
    ],
    ids=[
        "rfc2>none",
        "none>rfc2",
        "sessions>none",
        "none>sessions",
        "rfc2>sessions",
        "sessions>rfc2",
        "none",
    ],
)
async def test_both_kernels_must_have_it_and_the_same_kho(
    image: EmulatedImage, otherwise: EmulatedImage
) -> None:
    assert await told(image, otherwise=otherwise) == [None, None]


@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
async def test_a_kexec_that_panics_is_a_cold_boot(image: EmulatedImage) -> None:
    assert await told(image, faults="panic@1") == [None, None]


@pytest.mark.parametrize("image", [RFC2, SESSIONS], ids=["rfc-v2", "sessions"])
async def test_only_the_first_process_counts(image: EmulatedImage) -> None:
    found = []
    base = Base(0.0)

    async def userspace(boot: Boot) -> None:
        if boot.boots == 1:
            await boot.kernel.load(LIVE)
            await boot.kernel.reboot_kexec()
        found.append((boot.starts, await boot.kernel.telemetry()))
        if boot.starts == 1:
            node.kill_userspace()
            await base.sleep(1)

    node = EmulatedNode(
        image=image,
        images=ImageTable(otherwise=image),
        base=base,
        phases=PHASES,
        tsc_hz=1.0,
        restart_s=5.0,
    )
    await node.run(userspace)
    assert found == [(1, KexecTelemetry(4, 5, 7, 11, 1.0)), (2, KexecTelemetry(4, 5, 7, 11, 1.0))]


def test_lost_sessions_do_not_lose_it() -> None:
    model = boot(faults="session_lost")
    luo(model).prepare()
    stamped(model)
    assert model.telemetry() is not None
    assert rfc2(model).kho.incoming.keys() == {"automatic"}


def stamped(model: LuoModel, **cycles: Any) -> None:
    """A kexec with 1, 2, 3 and 4 as its cycles, unless others are given."""
    told = {Phase.SHUTDOWN: 1, Phase.PURGATORY: 2, Phase.KERNEL: 3, Phase.USERSPACE: 4, **cycles}
    for phase in (Phase.SHUTDOWN, Phase.PURGATORY):
        model.stamp(phase, told[phase], 10.0)
    kexec(model)
    for phase in (Phase.KERNEL, Phase.USERSPACE):
        model.stamp(phase, told[phase], 20.0)


def test_it_crosses_as_plain_values_and_is_given_back() -> None:
    model = boot()
    kernel = rfc2(model)
    model.stamp(Phase.SHUTDOWN, 5, 1.0)
    model.stamp(Phase.PURGATORY, 6, 1.0)
    handed = kernel.leave()
    assert handed is not None
    (page,) = handed.kept.values()
    assert isinstance(page, Blob)
    assert page.value == {"version": 1, "tsc_hz": 1.0, "shutdown": 5, "purgatory": 6}
    handed.drop()
    stamped(model := boot())
    assert len(rfc2(model).memory) == 0


def test_the_old_kernels_frequency_counts() -> None:
    stamped(model := boot())
    assert model.telemetry() == KexecTelemetry(1, 2, 3, 4, 10.0)


def test_the_first_word_counts() -> None:
    stamped(model := boot())
    model.stamp(Phase.USERSPACE, 50, 20.0)
    assert model.telemetry() == KexecTelemetry(1, 2, 3, 4, 10.0)


@pytest.mark.parametrize("cycles", [{"shutdown": 9}, {"purgatory": 9}, {"kernel": 9}, {"userspace": 0}])
def test_cycles_out_of_order_are_not_told(cycles: dict[str, int]) -> None:
    """A clock that went backwards rejects the sample."""
    stamped(model := boot(), **cycles)
    assert model.telemetry() is None


def test_a_kexec_that_nobody_timed_tells_nothing() -> None:
    model = boot()
    kexec(model)
    assert model.telemetry() is None


def test_another_version_is_left_alone() -> None:
    log: list[str] = []
    telemetry = Telemetry(log.append)
    telemetry.arrive({"version": 2, "tsc_hz": 1.0, "shutdown": 1, "purgatory": 2})
    telemetry.stamp(Phase.KERNEL, 3, 1.0)
    telemetry.stamp(Phase.USERSPACE, 4, 1.0)
    assert telemetry.report() is None
    assert log == ["kexec_telemetry: version 2 is not known here"]


def test_no_room_for_its_page_is_logged_and_nothing_else() -> None:
    model = boot(memory_bytes=1)
    log = model.log
    stamped(model)
    assert log[-1] == "luo_subsystems: Subsystem 'kexec_telemetry' prepare callback failed [-12]"
    assert model.telemetry() is None
