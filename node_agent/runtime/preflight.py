"""Whether this node can be taken into that kernel and back: looked at before anything is loaded.

The kernel checks nothing of the target's configuration; a wrong one costs the memory, or panics
at boot. Every refusal names what is missing and how to mend it. All findings are reported at once.

Source: Linux 7.2 kernel/liveupdate, lab runs: a target without KHO, with kho=off or without
liveupdate=on loses what was preserved; a poisoned device stays so until a full reboot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.core.attempt import Attempt
from node_agent.core.model import AttemptKind
from node_agent.errors import ArtifactError, Retry, StepFailed
from node_agent.ports import Artifacts, BootFacts, Kernel, StagedArtifact

CONFIG_OPTIONS = ("CONFIG_KEXEC_HANDOVER", "CONFIG_LIVEUPDATE")
"""What the target needs in any release that has LUO."""
CONFIG_MEMFD = "CONFIG_LIVEUPDATE_MEMFD"
"""An option of its own since Linux 7.2; without the handler the target's device is poisoned."""
COMMAND_LINE_WORDS = (("kho", "on"), ("liveupdate", "on"))
TRUE = frozenset({"on", "1", "y", "yes", "true"})
"""What kstrtobool takes for true."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that stands in the way."""

    reason: str
    message: str
    remedy: str
    retry: Retry = Retry.FIX_STATE


async def preflight(attempt: Attempt, kernel: Kernel, artifacts: Artifacts) -> StagedArtifact:
    """Verify target, way back and node once more.

    Raises:
        StepFailed: with the first finding's reason and all of them in its fields.
        ArtifactError: the target is not staged, or was altered since.
    """
    facts = await kernel.facts()
    staged = await artifacts.get(attempt.artifact.digest)
    findings = [*check_node(attempt, facts), *check_target(attempt, staged, emulated=facts.emulated)]
    findings += await _check_way_back(attempt, artifacts)
    if findings:
        raise refusal(findings)
    return staged


def check_node(attempt: Attempt, facts: BootFacts) -> list[Finding]:
    """What of the running boot stands in the way."""
    found: list[Finding] = []
    if attempt.expected_release not in ("", facts.release):
        found.append(
            Finding(
                "WRONG_RELEASE",
                f"the node runs {facts.release}, not {attempt.expected_release}",
                "Plan again: the node's kernel has changed since the plan was made.",
                Retry.REPLAN,
            )
        )
    if attempt.expected_boot_id not in ("", facts.boot_id):
        found.append(
            Finding(
                "WRONG_BOOT",
                "the node has been rebooted since the plan was made",
                "Plan again with the boot_id of the node's newest Hello.",
                Retry.REPLAN,
            )
        )
    if facts.poisoned:
        found.append(
            Finding(
                "DEVICE_POISONED",
                "/dev/liveupdate answers EIO in this boot",
                "Reboot the node in full (cold); nothing else clears it.",
            )
        )
    elif not facts.luo:
        found.append(
            Finding(
                "DEVICE_MISSING",
                "/dev/liveupdate is not there",
                "Boot a kernel with CONFIG_LIVEUPDATE and kho=on liveupdate=on on its command line.",
            )
        )
    return found


def check_target(attempt: Attempt, staged: StagedArtifact, *, emulated: bool) -> list[Finding]:
    """What of the target kernel and its command line stands in the way.

    An emulated node's artifact may come without a kernel config; a real one's may not.
    """
    found: list[Finding] = []
    if attempt.artifact.release not in ("", staged.release):
        found.append(
            Finding(
                "ARTIFACT_RELEASE_DIFFERS",
                f"the staged artifact is {staged.release}, not {attempt.artifact.release}",
                "Build the artifact again, or name the right one.",
                Retry.NEVER,
            )
        )
    config = staged.kernel_config
    missing = [f"{option}=y" for option in CONFIG_OPTIONS if config.get(option) != "y"]
    if config.get(CONFIG_MEMFD) == "n":
        missing.append(f"{CONFIG_MEMFD}=y")
    if not config and not emulated:
        found.append(
            Finding(
                "TARGET_CONFIG_UNKNOWN",
                "the artifact carries no kernel config",
                "Build the artifact again with --config.",
                Retry.NEVER,
            )
        )
    elif config and missing:
        found.append(
            Finding(
                "TARGET_CONFIG",
                f"the target kernel lacks {', '.join(missing)}",
                "Build the target kernel with these options.",
                Retry.NEVER,
            )
        )
    words = _last_words(attempt.command_line)
    absent = [f"{key}={value}" for key, value in COMMAND_LINE_WORDS if words.get(key) not in TRUE]
    if absent:
        found.append(
            Finding(
                "TARGET_COMMAND_LINE",
                f"the target's command line lacks {' '.join(absent)}",
                f"Append {' '.join(absent)} in the rollout's target.command_line_append.",
                Retry.NEVER,
            )
        )
    return found


async def _check_way_back(attempt: Attempt, artifacts: Artifacts) -> list[Finding]:
    if attempt.rollback_none or attempt.kind is AttemptKind.ROLLBACK:
        return []
    digest = await artifacts.rollback_artifact()
    remedy = "Register the running kernel's artifact on the node, or say rollback: none in the rollout."
    if not digest:
        return [Finding("NO_ROLLBACK_ARTIFACT", "no artifact of the running kernel is kept", remedy)]
    try:
        await artifacts.get(digest)
    except ArtifactError as error:
        message = f"the artifact of the running kernel cannot be used: {error.message}"
        return [Finding("NO_ROLLBACK_ARTIFACT", message, error.remedy or remedy)]
    return []


def refusal(findings: Sequence[Finding]) -> StepFailed:
    """One error for all findings; the least hopeful retry class of them."""
    first = findings[0]
    order = (Retry.CALL, Retry.REPLAN, Retry.FIX_STATE, Retry.NEVER)
    return StepFailed(
        "; ".join(finding.message for finding in findings),
        reason=first.reason,
        retry=max((finding.retry for finding in findings), key=order.index),
        remedy=" ".join(finding.remedy for finding in findings),
        findings=",".join(finding.reason for finding in findings),
    )


def _last_words(command_line: str) -> Mapping[str, str]:
    """Key → value; of a key said twice the last counts, as the kernel's early parameters do."""
    pairs = (word.partition("=") for word in command_line.split())
    return {key: value.lower() for key, _, value in pairs}
