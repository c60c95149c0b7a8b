"""Whether this node can be taken into that kernel and back: looked at before anything is touched.

The kernel checks nothing of the target's configuration; a wrong one costs the memory, or panics
at boot. Every refusal names what is missing and how to mend it. All findings are reported at once.

Rules
1. Facts are gathered first; what follows from them is pure (here, preflight_kernels, preflight_model,
   preflight_room).
2. STAGE asks all that does not depend on the attempt; LOADING asks everything, again. What of the running
   kernel stands in the way now (check_now) is told with every heartbeat, too (readiness). A person on the
   node may have an attempt go on in spite of it, never over the link; what was found is kept.
3. What a node cannot see (debugfs not mounted) is no finding: its artifacts say what its kernel speaks, and
   kexec_file_load itself refuses an image without room.

Source: Linux 7.2 kernel/liveupdate, lab runs: a target without KHO, with kho=off or without
liveupdate=on loses what was preserved; a poisoned device stays so for its whole boot.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from node_agent.core.attempt import Attempt
from node_agent.core.model import AttemptKind
from node_agent.core.recovery import name_attempt
from node_agent.errors import ArtifactError, Retry
from node_agent.ports import Artifacts, BootFacts, Kernel, StagedArtifact, WorkloadPeer, Workloads
from node_agent.runtime.preflight_findings import Finding, refusal
from node_agent.runtime.preflight_kernels import TARGET, WAY_BACK, check_abi, check_kernel
from node_agent.runtime.preflight_model import check_model, check_state
from node_agent.runtime.preflight_room import Preservable, check_memory, check_scratch
from node_agent.runtime.preserved import read_preservable
from node_agent.workloads.protocol import session_name

log = logging.getLogger(__name__)

COMMAND_LINE_WORDS = (("kho", "on"), ("liveupdate", "on"))
TRUE = frozenset({"on", "1", "y", "yes", "true"})
"""What kstrtobool takes for true."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that preflight looks at, but for the attempt."""

    boot: BootFacts
    target: StagedArtifact
    running: StagedArtifact | None = None
    """The running kernel's artifact, verified."""
    no_way_back: str = ""
    """Why there is none."""
    way_back_remedy: str = ""
    peers: tuple[WorkloadPeer, ...] = ()
    preservable: tuple[Preservable, ...] = ()
    registered: tuple[int, ...] = ()
    """Tokens of files that LUO is to preserve already, where it has tokens."""


async def preflight(
    attempt: Attempt, kernel: Kernel, artifacts: Artifacts, workloads: Workloads
) -> tuple[StagedArtifact, tuple[str, ...]]:
    """Verify target, way back and node once more, for an attempt.

    Returns the target, and the reasons that a person's word made us pass over.

    Raises:
        StepFailed: with the first finding's reason and all of them in its fields.
        ArtifactError: the target is not staged, or was altered since.
        KernelError: the kernel cannot be asked.
    """
    facts = await gather(await artifacts.get(attempt.artifact.digest), kernel, artifacts, workloads)
    found = findings(facts, attempt)
    if found and not attempt.skip_preflight:
        raise refusal(found)
    for finding in found:
        log.warning("preflight skipped: %s [%s]", finding.message, finding.reason)
    return facts.target, tuple(finding.reason for finding in found)


async def preflight_staged(
    target: StagedArtifact, kernel: Kernel, artifacts: Artifacts, workloads: Workloads
) -> None:
    """What can be known ahead of the node's turn. Raises as preflight() does."""
    if found := ahead(await gather(target, kernel, artifacts, workloads)):
        raise refusal(found)


async def gather(target: StagedArtifact, kernel: Kernel, artifacts: Artifacts, workloads: Workloads) -> Facts:
    """Ask the node. KernelError."""
    peers = tuple(await workloads.peers())
    known = any(peer.pid for peer in peers)
    running, why, remedy = await _way_back(artifacts)
    preservable = await asyncio.to_thread(read_preservable, peers) if known else ()
    for held in preservable:
        if not held.seen:
            log.warning("cannot see what %s would preserve: the agent lacks CAP_SYS_PTRACE", held.workload)
    boot = await kernel.facts()
    return Facts(
        boot=boot,
        target=target,
        running=running,
        no_way_back=why,
        way_back_remedy=remedy,
        peers=peers,
        preservable=preservable,
        registered=await registered(kernel, boot),
    )


async def registered(kernel: Kernel, boot: BootFacts) -> tuple[int, ...]:
    """Tokens of files that LUO is to preserve already, where it has tokens. KernelError."""
    device = kernel.luo() if boot.luo else None
    return tuple(await device.registered()) if device is not None else ()


async def _way_back(artifacts: Artifacts) -> tuple[StagedArtifact | None, str, str]:
    """(the running kernel's artifact, why there is none, how to mend that)."""
    digest = await artifacts.rollback_artifact()
    if not digest:
        return None, "no artifact of the running kernel is kept", ""
    try:
        return await artifacts.get(digest), "", ""
    except ArtifactError as error:
        return None, f"the artifact of the running kernel cannot be used: {error.message}", error.remedy


def findings(facts: Facts, attempt: Attempt) -> list[Finding]:
    """All that stands in this attempt's way. Pure."""
    going_back = attempt.kind is AttemptKind.ROLLBACK
    excused = attempt.rollback_none or going_back
    found = [
        *check_expected(attempt, facts),
        *check_now(facts.boot, facts.registered),
        *check_way_back(facts, excused=excused),
        *_target(facts, excused=excused),
        *check_command_line(attempt.command_line, attempt.ref.id, facts.target),
        *check_sessions(attempt.ref.id, facts.peers),
    ]
    return _told_once(found)


def ahead(facts: Facts) -> list[Finding]:
    """What stands in the way of any attempt at this target. Pure.

    Not here: the command line, which is composed for the attempt, and whether there must be a way
    back, which only the rollout says.
    """
    return _told_once([*check_node(facts.boot), *_target(facts, excused=facts.running is None)])


def at_rest(facts: Facts, *, whole: bool) -> list[Finding]:
    """What stands in the way of an update that inherits the command line. Pure.

    Args:
        whole: facts.target is one; else only the node and its way back are looked at.
    """
    found = [
        *check_now(facts.boot, facts.registered),
        *check_way_back(facts, excused=False),
    ]
    if whole:
        found += _target(facts, excused=False)
        found += check_command_line(facts.boot.command_line, "0-local", facts.target)
    elif facts.running is not None:
        found += check_kernel(WAY_BACK, facts.running, emulated=facts.boot.emulated)
        found += check_model(WAY_BACK, facts.running, facts.boot)
        found += check_abi(facts.running, facts.boot.kho, facts.running, emulated=facts.boot.emulated)
        found += check_scratch(WAY_BACK, facts.running, facts.boot)
        found += check_memory(facts.preservable, facts.boot.memory, emulated=facts.boot.emulated)
    found += check_sessions("", facts.peers)
    return _told_once(found)


SAID_BY = {
    # What says how to get the running kernel's artifact says how to get its strings.
    "RUNNING_ABI_UNKNOWN": {"NO_ROLLBACK_ARTIFACT"},
    # Of another model every string differs.
    "TARGET_ABI_DIFFERS": {"TARGET_MODEL_DIFFERS", "TARGET_MODEL_UNKNOWN"},
}
"""A finding's reason → those of which one says it already."""


def _told_once(found: list[Finding]) -> list[Finding]:
    reasons = {finding.reason for finding in found}
    return [finding for finding in found if not SAID_BY.get(finding.reason, set()) & reasons]


def _target(facts: Facts, *, excused: bool) -> Iterator[Finding]:
    boot, target = facts.boot, facts.target
    yield from check_kernel(TARGET, target, emulated=boot.emulated)
    yield from check_model(TARGET, target, boot)
    yield from check_abi(target, boot.kho, facts.running, emulated=boot.emulated)
    yield from check_scratch(TARGET, target, boot)
    if facts.running is not None and not excused and facts.running.digest != target.digest:
        yield from check_kernel(WAY_BACK, facts.running, emulated=boot.emulated)
        yield from check_model(WAY_BACK, facts.running, boot)
        yield from check_scratch(WAY_BACK, facts.running, boot)
    yield from check_memory(facts.preservable, boot.memory, emulated=boot.emulated)


def check_expected(attempt: Attempt, facts: Facts) -> Iterator[Finding]:
    """Whether this is the node, and the artifact, that the plan was made for."""
    boot, target = facts.boot, facts.target
    if attempt.expected_release not in ("", boot.release):
        yield Finding(
            "WRONG_RELEASE",
            f"the node runs {boot.release}, not {attempt.expected_release}",
            "Plan again: the node's kernel has changed since the plan was made.",
            Retry.REPLAN,
        )
    if attempt.expected_boot_id not in ("", boot.boot_id):
        yield Finding(
            "WRONG_BOOT",
            "the node has been rebooted since the plan was made",
            "Plan again with the boot_id of the node's newest Hello.",
            Retry.REPLAN,
        )
    if attempt.artifact.release not in ("", target.release):
        yield Finding(
            "ARTIFACT_RELEASE_DIFFERS",
            f"the staged artifact is {target.release}, not {attempt.artifact.release}",
            "Build the artifact again, or name the right one.",
            Retry.NEVER,
        )


def check_now(boot: BootFacts, registered: Sequence[int]) -> Iterator[Finding]:
    """What of the running kernel stands in the way of any attempt that begins now."""
    yield from check_node(boot)
    yield from check_state(boot, registered)


def check_node(boot: BootFacts) -> Iterator[Finding]:
    """What of the running boot stands in the way."""
    if boot.poisoned:
        yield Finding(
            "DEVICE_POISONED",
            "/dev/liveupdate answers EIO in this boot",
            "Reboot the node in full (cold): this boot stays as it is, and what came in with it is lost.",
        )
    elif not boot.luo:
        absent = _switched_off(boot.command_line)
        yield Finding(
            "DEVICE_MISSING",
            "/dev/liveupdate is not there"
            + (f", and this kernel's command line lacks {' '.join(absent)}" if absent else ""),
            "Boot a kernel with CONFIG_LIVEUPDATE and kho=on liveupdate=on on its command line.",
        )


def check_way_back(facts: Facts, *, excused: bool) -> Iterator[Finding]:
    """Whether the kernel that runs could be loaded again."""
    if facts.running is None and not excused:
        yield Finding(
            "NO_ROLLBACK_ARTIFACT",
            facts.no_way_back,
            facts.way_back_remedy
            or "Name the running kernel's artifact in artifacts.running, or say rollback: none in the "
            "rollout.",
        )


def check_command_line(command_line: str, attempt_id: str, target: StagedArtifact) -> Iterator[Finding]:
    """Whether the target's command line, the attempt's name on it, switches on what it needs."""
    absent = _switched_off(command_line)
    if absent:
        yield Finding(
            "TARGET_COMMAND_LINE",
            f"the target's command line lacks {' '.join(absent)}",
            f"Append {' '.join(absent)} in the rollout's target.command_line_append, or by hand in `luoctl "
            "prepare --command-line`.",
            Retry.NEVER,
        )
    length = len(name_attempt(command_line, attempt_id).encode()) + 1
    if target.command_line_max and length > target.command_line_max:
        yield Finding(
            "COMMAND_LINE_TOO_LONG",
            f"the target's command line has {length} bytes, its kernel takes {target.command_line_max}",
            "Remove words in the rollout's target.command_line_remove.",
            Retry.NEVER,
        )


def check_sessions(attempt_id: str, peers: Sequence[WorkloadPeer]) -> Iterator[Finding]:
    """Whether a session of another attempt is unfinished: one more kexec would lose what is in it."""
    held = [p for p in peers if p.session and p.session != session_name(attempt_id, p.workload)]
    if held:
        yield Finding(
            "SESSION_UNFINISHED",
            f"the last attempt's {' and '.join(f'{p.session} ({p.workload})' for p in held)} is not finished",
            "Let these workloads claim what is theirs; if the session stays, drain the node and reboot it in "
            "full (cold).",
        )


def _switched_off(command_line: str) -> list[str]:
    words = _last_words(command_line)
    return [f"{key}={value}" for key, value in COMMAND_LINE_WORDS if words.get(key) not in TRUE]


def _last_words(command_line: str) -> Mapping[str, str]:
    """Key → value; of a key said twice the last counts, as the kernel's early parameters do. What
    follows a lone -- is init's."""
    words = command_line.split()
    mine = words[: words.index("--")] if "--" in words else words
    pairs = (word.partition("=") for word in mine)
    return {key: value.lower() for key, _, value in pairs}
