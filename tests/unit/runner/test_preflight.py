"""Every refusal of preflight names what is missing and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from node_agent.core.attempt import Attempt
from node_agent.core.model import AttemptKind
from node_agent.errors import ArtifactError, Retry, StepFailed
from node_agent.ports import BootFacts, KhoFacts, LiveUpdateAbi, MemoryFacts, StagedArtifact, WorkloadPeer
from node_agent.runtime.preflight import Facts, ahead, findings, preflight, preflight_staged
from node_agent.runtime.preflight_findings import Finding, refusal
from node_agent.runtime.preflight_room import Preservable
from tests.unit.agent_core.make import attempt
from tests.unit.runner.lab import Artifacts

MIB = 1 << 20
GOOD = {"CONFIG_KEXEC_HANDOVER": "y", "CONFIG_LIVEUPDATE": "y", "CONFIG_LIVEUPDATE_MEMFD": "y"}
ABI = LiveUpdateAbi("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
KHO = KhoFacts((64 * MIB, 32 * MIB), "kho-v4", "luo-v5", debugfs=True)
BOOT = BootFacts("boot-a", "7.2.13", "", "model", luo=True, kho=KHO)
OLD = StagedArtifact("o" * 64, "7.2.13", "/old", "", GOOD, ABI, 17 * MIB, 0, 2047)
NEW = StagedArtifact("n" * 64, "7.3.4", "/new", "", GOOD, ABI, 17 * MIB, 0, 2047)
FACTS = Facts(BOOT, NEW, OLD)
ATTEMPT = attempt(command_line="quiet kho=1 liveupdate=Y")


def reasons(found: Iterable[Finding]) -> list[str]:
    found = list(found)
    assert all(finding.remedy and finding.message for finding in found)
    assert all(finding.remedy.endswith(".") and not finding.message.endswith(".") for finding in found)
    return [finding.reason for finding in found]


def boot(**changes: Any) -> Facts:
    return replace(FACTS, boot=replace(BOOT, **changes))


def new(**changes: Any) -> Facts:
    return replace(FACTS, target=replace(NEW, **changes))


def old(**changes: Any) -> Facts:
    return replace(FACTS, running=replace(OLD, **changes))


def without(option: str, value: str = "") -> dict[str, str]:
    left = {key: said for key, said in GOOD.items() if key != option}
    return {**left, option: value} if value else left


def abi(kho: str = "kho-v4", luo: str = "luo-v5", memfd: str = "memfd-v2") -> LiveUpdateAbi:
    return LiveUpdateAbi(kho, luo, {"memfd": memfd} if memfd else {})


def held(size: int, allocated: int) -> tuple[Preservable, ...]:
    return (Preservable("vm-1", size, allocated), Preservable("vm-2", 0, 0))


def test_a_node_that_is_ready() -> None:
    assert reasons(findings(FACTS, ATTEMPT)) == []
    assert reasons(ahead(FACTS)) == []


@pytest.mark.parametrize(
    ("facts", "expected", "says"),
    [
        (boot(luo=False), "DEVICE_MISSING", "/dev/liveupdate is not there"),
        (boot(luo=False, poisoned=True), "DEVICE_POISONED", "EIO"),
        (new(kernel_config={}), "TARGET_CONFIG_UNKNOWN", "without its config"),
        (new(kernel_config=without("CONFIG_KEXEC_HANDOVER")), "TARGET_CONFIG", "CONFIG_KEXEC_HANDOVER=y"),
        (new(kernel_config=without("CONFIG_LIVEUPDATE", "n")), "TARGET_CONFIG", "CONFIG_LIVEUPDATE=y"),
        (
            new(kernel_config=without("CONFIG_LIVEUPDATE_MEMFD", "n"), live_update=abi(memfd="")),
            "TARGET_CONFIG",
            "CONFIG_LIVEUPDATE_MEMFD=y",
        ),
        (new(live_update=None), "TARGET_ABI_UNKNOWN", "without its ABI strings"),
        (new(live_update=abi(kho="", luo="")), "TARGET_ABI_MISSING", "has no KHO and no LUO"),
        (new(live_update=abi(memfd="")), "TARGET_ABI_MISSING", "has no memfd handler"),
        (new(live_update=abi(luo="luo-v995")), "TARGET_ABI_DIFFERS", "luo-v995, the running one luo-v5"),
        (new(live_update=abi(kho="kho-v5")), "TARGET_ABI_DIFFERS", "kho-v5"),
        (new(live_update=abi(memfd="memfd-v3")), "TARGET_ABI_DIFFERS", "memfd-v3"),
        (new(init_bytes=70 * MIB), "TARGET_SCRATCH_TOO_SMALL", "areas here are 64.0 MiB, 32.0 MiB"),
        (new(initrd_bytes=65 * MIB), "TARGET_SCRATCH_TOO_SMALL", "65.0 MiB for its initrd"),
        (old(kernel_config={}), "ROLLBACK_CONFIG_UNKNOWN", "kept artifact"),
        (old(kernel_config=without("CONFIG_LIVEUPDATE")), "ROLLBACK_CONFIG", "kept artifact"),
        (old(live_update=None), "ROLLBACK_ABI_UNKNOWN", "kept artifact"),
        (old(live_update=abi(memfd="")), "ROLLBACK_ABI_MISSING", "memfd"),
        (old(live_update=abi(luo="luo-v4")), "ROLLBACK_ABI_DIFFERS", "its kept artifact luo-v4"),
        (old(init_bytes=70 * MIB), "ROLLBACK_SCRATCH_TOO_SMALL", "kept artifact"),
        (
            replace(boot(memory=MemoryFacts(100 * MIB, 0)), preservable=held(128 * MIB, 0)),
            "MEMORY_TOO_SMALL",
            "vm-1 holds 128.0 MiB",
        ),
        (
            replace(boot(memory=MemoryFacts(40 * MIB, 64 * MIB)), preservable=held(64 * MIB, 64 * MIB)),
            "MEMORY_TOO_SMALL",
            "may take 72.6 MiB",
        ),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_of_any_attempt(facts: Facts, expected: str, says: str) -> None:
    """Known ahead of the turn, and again when it comes."""
    for found in (ahead(facts), findings(facts, ATTEMPT)):
        assert reasons(found) == [expected]
        assert says in found[0].message


@pytest.mark.parametrize(
    "facts",
    [
        boot(kho=None),
        boot(kho=KhoFacts()),
        boot(memory=MemoryFacts(0, 1 << 40)),
        replace(boot(memory=MemoryFacts(80 * MIB, 64 * MIB)), preservable=held(64 * MIB, 64 * MIB)),
        replace(boot(memory=MemoryFacts(16 * MIB, 0)), preservable=held(64 * MIB, 64 * MIB)),
        new(init_bytes=60 * MIB, initrd_bytes=30 * MIB),
        new(init_bytes=0),
        new(kernel_config=without("CONFIG_LIVEUPDATE_MEMFD")),
    ],
)  # fmt: skip
def test_what_does_not(facts: Facts) -> None:
    assert reasons(findings(facts, ATTEMPT)) == []


@pytest.mark.parametrize(
    ("asked", "facts", "expected", "says"),
    [
        (replace(ATTEMPT, expected_release="7.1.0"), FACTS, "WRONG_RELEASE", "not 7.1.0"),
        (replace(ATTEMPT, expected_boot_id="boot-z"), FACTS, "WRONG_BOOT", "rebooted"),
        (ATTEMPT, new(release="6.1.0"), "ARTIFACT_RELEASE_DIFFERS", "6.1.0"),
        (replace(ATTEMPT, command_line="kho=on"), FACTS, "TARGET_COMMAND_LINE", "lacks liveupdate=on"),
        (replace(ATTEMPT, command_line=""), FACTS, "TARGET_COMMAND_LINE", "lacks kho=on liveupdate=on"),
        (
            replace(ATTEMPT, command_line="kho=on liveupdate=on kho=off"),
            FACTS,
            "TARGET_COMMAND_LINE",
            "lacks kho=on",
        ),
        (
            replace(ATTEMPT, command_line="kho=on -- liveupdate=on"),
            FACTS,
            "TARGET_COMMAND_LINE",
            "lacks liveupdate=on",
        ),
        (
            replace(ATTEMPT, command_line="kho=on liveupdate=on " + "x" * 2020),
            FACTS,
            "COMMAND_LINE_TOO_LONG",
            "its kernel takes 2047",
        ),
        (
            ATTEMPT,
            replace(FACTS, peers=(WorkloadPeer("vm-1", 7, "lr.1-old.vm-1"),)),
            "SESSION_UNFINISHED",
            "lr.1-old.vm-1 (vm-1)",
        ),
        (
            ATTEMPT,
            replace(FACTS, running=None, no_way_back="no artifact of the running kernel is kept"),
            "NO_ROLLBACK_ARTIFACT",
            "is kept",
        ),
        (
            ATTEMPT,
            replace(FACTS, running=None, no_way_back="it is damaged", way_back_remedy="Copy it again."),
            "NO_ROLLBACK_ARTIFACT",
            "damaged",
        ),
        (
            replace(ATTEMPT, rollback_none=True),
            replace(FACTS, running=None),
            "RUNNING_ABI_UNKNOWN",
            "the memfd handler",
        ),
    ],
)
def test_what_stands_in_the_way_of_this_attempt(
    asked: Attempt, facts: Facts, expected: str, says: str
) -> None:
    found = findings(facts, asked)
    assert reasons(found) == [expected]
    assert says in found[0].message


def test_what_the_plan_expects_and_what_a_command_line_may_say() -> None:
    expected = replace(ATTEMPT, expected_release="7.2.13", expected_boot_id="boot-a")
    assert reasons(findings(FACTS, expected)) == []
    again = replace(ATTEMPT, command_line="kho=off liveupdate=on kho=on")
    assert reasons(findings(FACTS, again)) == []


def test_a_rollback_needs_no_way_back() -> None:
    back = replace(ATTEMPT, kind=AttemptKind.ROLLBACK, artifact=replace(ATTEMPT.artifact, release=""))
    going_back = replace(FACTS, target=OLD, running=replace(NEW, kernel_config={}))
    assert reasons(findings(going_back, back)) == []


def test_an_emulated_node_is_asked_nothing_that_its_artifacts_do_not_say() -> None:
    bare = replace(NEW, kernel_config={}, live_update=None)
    emulated = replace(BOOT, emulated=True)
    facts = Facts(emulated, bare, replace(OLD, kernel_config={}, live_update=None))
    assert reasons(findings(facts, ATTEMPT)) == []
    other = replace(facts, target=replace(bare, live_update=abi(luo="luo-v9")))
    assert reasons(findings(other, ATTEMPT)) == ["TARGET_ABI_DIFFERS"]
    full = replace(emulated, kho=replace(KHO, scratch_bytes=(17 * MIB,)))
    assert reasons(findings(replace(facts, boot=full), ATTEMPT)) == []
    larger = replace(facts, boot=full, target=replace(bare, initrd_bytes=1))
    assert reasons(findings(larger, ATTEMPT)) == ["TARGET_SCRATCH_TOO_SMALL"]


class Kernel:
    """Only what preflight asks of it."""

    async def facts(self) -> BootFacts:
        return replace(BOOT, emulated=True)

    def luo(self) -> None:
        return None


class Workloads:
    """Only what preflight asks of them."""

    async def peers(self) -> list[WorkloadPeer]:
        return [WorkloadPeer("vm-1")]


async def ask(asked: Attempt, artifacts: Artifacts) -> tuple[StagedArtifact, tuple[str, ...]]:
    return await preflight(asked, Kernel(), artifacts, Workloads())  # type: ignore[arg-type]


async def refused(asked: Attempt, artifacts: Artifacts) -> str:
    with pytest.raises((StepFailed, ArtifactError)) as caught:
        await ask(asked, artifacts)
    return caught.value.reason


ASKED = replace(ATTEMPT, artifact=replace(ATTEMPT.artifact, digest="n" * 64))


async def test_a_way_back_must_be_there_or_be_given_up_aloud() -> None:
    staged, skipped = await ask(ASKED, Artifacts())
    assert (staged.release, skipped) == ("7.3.4", ())
    assert await refused(ASKED, Artifacts(rollback="")) == "NO_ROLLBACK_ARTIFACT"
    assert await refused(ASKED, Artifacts(rollback="damaged")) == "NO_ROLLBACK_ARTIFACT"
    for excused in (replace(ASKED, rollback_none=True), replace(ASKED, kind=AttemptKind.ROLLBACK)):
        assert await ask(excused, Artifacts(rollback=""))
    unknown = replace(ASKED, artifact=replace(ASKED.artifact, digest="x" * 64))
    assert await refused(unknown, Artifacts()) == "ARTIFACT_NOT_STAGED"


async def test_a_persons_word_passes_over_what_was_found_but_never_over_a_damaged_artifact() -> None:
    word = replace(ASKED, skip_preflight=True, command_line="quiet")
    staged, skipped = await ask(word, Artifacts(rollback=""))
    assert (staged.release, skipped) == ("7.3.4", ("NO_ROLLBACK_ARTIFACT", "TARGET_COMMAND_LINE"))
    unknown = replace(word, artifact=replace(word.artifact, digest="x" * 64))
    assert await refused(unknown, Artifacts()) == "ARTIFACT_NOT_STAGED"


async def test_ahead_of_the_turn() -> None:
    artifacts = Artifacts(config={"CONFIG_LIVEUPDATE": "y"})
    staged = await artifacts.get("n" * 64)
    with pytest.raises(StepFailed) as caught:
        await preflight_staged(staged, Kernel(), artifacts, Workloads())  # type: ignore[arg-type]
    assert caught.value.reason == "TARGET_CONFIG"


def test_all_findings_are_told_at_once_with_the_least_hopeful_retry() -> None:
    error = refusal(
        [
            Finding("A", "a is wrong", "Mend a.", Retry.REPLAN),
            Finding("B", "b", "Mend b.", Retry.NEVER),
            Finding("C", "c", "Mend b.", Retry.FIX_STATE),
        ]
    )
    assert (error.reason, error.retry, error.message) == ("A", Retry.NEVER, "a is wrong; b; c")
    assert error.remedy == "Mend a. Mend b."
    assert error.fields["findings"] == "A,B,C"
