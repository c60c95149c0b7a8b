"""Every refusal of preflight names what is missing and how to mend it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node_agent.core.attempt import Attempt
from node_agent.core.model import AttemptKind
from node_agent.errors import ArtifactError, Retry, StepFailed
from node_agent.ports import BootFacts, StagedArtifact
from node_agent.runtime.preflight import Finding, check_node, check_target, preflight, refusal
from tests.unit.agent_core.make import attempt
from tests.unit.runner.lab import Artifacts

GOOD = {"CONFIG_KEXEC_HANDOVER": "y", "CONFIG_LIVEUPDATE": "y"}
FACTS = BootFacts("boot-a", "7.2.13", "", "model", luo=True)
STAGED = StagedArtifact("d" * 64, "7.3.4", "/kernel", "", GOOD)
ATTEMPT = attempt(command_line="quiet kho=1 liveupdate=Y")


def reasons(found: list[Finding]) -> list[str]:
    assert all(finding.remedy and finding.message for finding in found)
    return [finding.reason for finding in found]


@pytest.mark.parametrize(
    ("asked", "facts", "expected"),
    [
        (ATTEMPT, FACTS, []),
        (replace(ATTEMPT, expected_release="7.2.13", expected_boot_id="boot-a"), FACTS, []),
        (replace(ATTEMPT, expected_release="7.1.0"), FACTS, ["WRONG_RELEASE"]),
        (replace(ATTEMPT, expected_boot_id="boot-z"), FACTS, ["WRONG_BOOT"]),
        (ATTEMPT, replace(FACTS, luo=False), ["DEVICE_MISSING"]),
        (ATTEMPT, replace(FACTS, luo=False, poisoned=True), ["DEVICE_POISONED"]),
    ],
)
def test_the_node(asked: Attempt, facts: BootFacts, expected: list[str]) -> None:
    assert reasons(check_node(asked, facts)) == expected


@pytest.mark.parametrize(
    ("command_line", "config", "emulated", "expected"),
    [
        ("kho=on liveupdate=on", GOOD, False, []),
        ("kho=on liveupdate=on", {}, True, []),
        ("kho=on liveupdate=on", {}, False, ["TARGET_CONFIG_UNKNOWN"]),
        ("kho=on liveupdate=on", {"CONFIG_LIVEUPDATE": "y"}, True, ["TARGET_CONFIG"]),
        ("kho=on liveupdate=on", {**GOOD, "CONFIG_LIVEUPDATE_MEMFD": "n"}, False, ["TARGET_CONFIG"]),
        ("kho=on", GOOD, False, ["TARGET_COMMAND_LINE"]),
        ("kho=on liveupdate=on kho=off", GOOD, False, ["TARGET_COMMAND_LINE"]),
        ("kho=off liveupdate=on kho=on", GOOD, False, []),
        ("", {"CONFIG_X": "y"}, False, ["TARGET_CONFIG", "TARGET_COMMAND_LINE"]),
    ],
)
def test_the_target(command_line: str, config: dict[str, str], emulated: bool, expected: list[str]) -> None:
    asked = replace(ATTEMPT, command_line=command_line)
    assert reasons(check_target(asked, replace(STAGED, kernel_config=config), emulated=emulated)) == expected


def test_another_release_than_was_named() -> None:
    staged = replace(STAGED, release="6.1.0")
    assert reasons(check_target(ATTEMPT, staged, emulated=False)) == ["ARTIFACT_RELEASE_DIFFERS"]


class Kernel:
    """Only what preflight asks of it."""

    async def facts(self) -> BootFacts:
        return FACTS


async def refused(asked: Attempt, artifacts: Artifacts) -> str:
    with pytest.raises((StepFailed, ArtifactError)) as caught:
        await preflight(asked, Kernel(), artifacts)  # type: ignore[arg-type]
    return caught.value.reason


async def test_a_way_back_must_be_there_or_be_given_up_aloud() -> None:
    asked = replace(ATTEMPT, artifact=replace(ATTEMPT.artifact, digest="n" * 64))
    kernel = Kernel()
    assert (await preflight(asked, kernel, Artifacts())).release == "7.3.4"  # type: ignore[arg-type]
    assert await refused(asked, Artifacts(rollback="")) == "NO_ROLLBACK_ARTIFACT"
    assert await refused(asked, Artifacts(rollback="damaged")) == "NO_ROLLBACK_ARTIFACT"
    for excused in (replace(asked, rollback_none=True), replace(asked, kind=AttemptKind.ROLLBACK)):
        assert await preflight(excused, kernel, Artifacts(rollback=""))  # type: ignore[arg-type]
    unknown = replace(asked, artifact=replace(asked.artifact, digest="x" * 64))
    assert await refused(unknown, Artifacts()) == "ARTIFACT_NOT_STAGED"


def test_all_findings_are_told_at_once_with_the_least_hopeful_retry() -> None:
    error = refusal(
        [Finding("A", "a is wrong", "Mend a.", Retry.REPLAN), Finding("B", "b", "Mend b.", Retry.NEVER)]
    )
    assert (error.reason, error.retry, error.message) == ("A", Retry.NEVER, "a is wrong; b")
    assert error.remedy == "Mend a. Mend b."
    assert error.fields["findings"] == "A,B"
