"""Whether state can cross between two kernels: their configs and the ABI strings they speak. Pure.

Rules
1. Both ways: the way back is a live update too, so whatever is asked of the target is asked of the
   running kernel's artifact as well.
2. A string must be the same on both sides. That is all the kernels themselves compare, on arrival, when
   it is too late: KHO ignores a tree of another version, LUO panics, a file without its handler makes
   the device unusable.
3. What is missing is told once, by the config if there is one.
4. What cannot be known is a refusal on a real node. Of an emulated node's artifacts nothing is asked that
   they do not say.

Source: Linux 7.2 kernel/liveupdate: kho_mem_retrieve, luo_early_startup, luo_file_deserialize; lab runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from node_agent.errors import Retry
from node_agent.ports import KhoFacts, StagedArtifact
from node_agent.runtime.preflight_findings import Finding

NEEDED_HANDLERS = ("memfd",)
"""What sessions of this node hold: the agent's own has memfds in any case."""
OPTIONS = {
    "kho": "CONFIG_KEXEC_HANDOVER",
    "luo": "CONFIG_LIVEUPDATE",
    "memfd": "CONFIG_LIVEUPDATE_MEMFD",
}
"""The option that brings each. The last is one of its own since Linux 7.2: a config that does not
know it says nothing of the handler."""
SAID = {"kho": "KHO", "luo": "LUO", "memfd": "the memfd handler"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two kernels, as findings name it."""

    prefix: str
    """Of reasons."""
    name: str
    remedy: str
    """What to build anew if it lacks something."""


TARGET = Side("TARGET", "the target kernel", "Build the target kernel with these options.")
WAY_BACK = Side(
    "ROLLBACK",
    "the kept artifact of the running kernel",
    "Build the artifact of the kernel that runs, and name it in artifacts.running.",
)


def check_kernel(side: Side, artifact: StagedArtifact, *, emulated: bool) -> Iterator[Finding]:
    """What a kernel lacks in itself: options, and strings that it does not have."""
    config, abi = artifact.kernel_config, artifact.live_update
    absent = [part for part in OPTIONS if _is_off(config, part)]
    if not config and not emulated:
        yield Finding(
            f"{side.prefix}_CONFIG_UNKNOWN",
            f"{side.name} comes without its config",
            "Build the artifact again with --config.",
            Retry.NEVER,
        )
    elif config and absent:
        yield Finding(
            f"{side.prefix}_CONFIG",
            f"{side.name} lacks {', '.join(f'{OPTIONS[part]}=y' for part in absent)}",
            side.remedy,
            Retry.NEVER,
        )
    if abi is None:
        if not emulated:
            yield Finding(
                f"{side.prefix}_ABI_UNKNOWN",
                f"{side.name} comes without its ABI strings",
                "Build the artifact again with `liveroll artifact build`, which looks for them in the "
                "kernel, or say them with its --abi.",
                Retry.NEVER,
            )
        return
    strings = {"kho": abi.kho, "luo": abi.luo, **{h: abi.handlers.get(h, "") for h in NEEDED_HANDLERS}}
    silent = [part for part, text in strings.items() if not text and not (config and part in absent)]
    if silent:
        yield Finding(
            f"{side.prefix}_ABI_MISSING",
            f"{side.name} has no {' and no '.join(SAID[part].removeprefix('the ') for part in silent)}",
            f"Build the kernel with {', '.join(f'{OPTIONS[part]}=y' for part in silent)}.",
            Retry.NEVER,
        )


def _is_off(config: Mapping[str, str], part: str) -> bool:
    said = config.get(OPTIONS[part])
    return said != "y" if part in ("kho", "luo") else said == "n"


def check_abi(
    target: StagedArtifact, kho: KhoFacts | None, running: StagedArtifact | None, *, emulated: bool
) -> Iterator[Finding]:
    """Whether target and running kernel speak alike.

    Args:
        kho: what the running kernel itself says; it goes before its artifact.
        running: the running kernel's artifact, if there is one that can be used.
    """
    here, kept, there = _spoken(kho), _of(running), _of(target)
    for part, text in kept.items():
        if here.get(part) and text and here[part] != text:
            yield Finding(
                "ROLLBACK_ABI_DIFFERS",
                f"the running kernel speaks {here[part]}, its kept artifact {text}",
                WAY_BACK.remedy,
            )
    known = {**kept, **{part: text for part, text in here.items() if text}}
    unknown = [part for part in SAID if there.get(part) and not known.get(part)]
    if unknown and running is None and not emulated:
        yield Finding(
            "RUNNING_ABI_UNKNOWN",
            f"nothing says which strings of {', '.join(SAID[part] for part in unknown)} this kernel speaks",
            "Name the running kernel's artifact in artifacts.running.",
        )
    for part in SAID:
        if known.get(part) and there.get(part) and known[part] != there[part]:
            yield Finding(
                "TARGET_ABI_DIFFERS",
                f"the target kernel speaks {there[part]}, the running one {known[part]}",
                "No live update leads from one to the other: choose a target that speaks the same, "
                "or drain this node and reboot it into the target.",
                Retry.NEVER,
            )


def _spoken(kho: KhoFacts | None) -> dict[str, str]:
    return {"kho": kho.kho_abi, "luo": kho.luo_abi} if kho is not None else {}


def _of(artifact: StagedArtifact | None) -> dict[str, str]:
    if artifact is None or artifact.live_update is None:
        return {}
    abi = artifact.live_update
    return {"kho": abi.kho, "luo": abi.luo, **{h: abi.handlers.get(h, "") for h in NEEDED_HANDLERS}}
