"""What `liveroll-agent assess` says of a node at rest, as text and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node_agent.kernel.luo_models import SESSIONS, model_of
from node_agent.ports import BootFacts, LiveUpdateAbi, StagedArtifact
from node_agent.runtime.preflight_findings import Finding, mib
from node_agent.runtime.preflight_room import Preservable, memory_needed


@dataclass(frozen=True, slots=True)
class Assessment:
    """All that was seen, what stands in the way, and what could not be looked at."""

    node_id: str
    boot: BootFacts
    device: str
    """What /dev/liveupdate does, in a few words."""
    running: StagedArtifact | None
    no_way_back: str
    target: StagedArtifact | None
    preservable: tuple[Preservable, ...]
    unseen: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ready(self) -> bool:
        """Nothing that was looked at stands in the way."""
        return not self.findings


def text(seen: Assessment) -> Iterator[str]:
    """Lines for people."""
    boot = seen.boot
    kind = "emulated" if boot.emulated else boot.hardware_model
    yield f"node {seen.node_id}: kernel {boot.release} ({kind}), boot {boot.boot_id}"
    for name, what in _rows(seen):
        yield f"  {name:<9} {what}"
    for what in seen.unseen:
        yield f"not seen: {what}"
    if seen.ready:
        yield (
            "ready for a live update"
            if seen.target is None
            else f"ready for a live update to {seen.target.release}"
        )
        return
    count = len(seen.findings)
    yield f"not ready: {count} thing{'s stand' if count > 1 else ' stands'} in the way"
    for finding in seen.findings:
        yield f"  {finding.reason}: {finding.message}"
        yield f"    to mend it: {finding.remedy}"


def _rows(seen: Assessment) -> Iterator[tuple[str, str]]:
    boot = seen.boot
    yield "device", seen.device
    kho = boot.kho
    if kho is not None and kho.debugfs:
        areas = ", ".join(mib(area) for area in kho.scratch_bytes if area)
        yield "KHO", f"{kho.kho_abi or 'off'}, scratch {areas or 'without bound'}"
        yield "LUO", _luo(boot, kho.luo_abi)
    if boot.memory is not None:
        where = " outside scratch" if kho is not None and kho.scratch_bytes else ""
        yield "memory", f"{mib(boot.memory.outside_scratch_bytes)} free{where}"
    if seen.preservable:
        held = ", ".join(f"{w.workload} {mib(w.size_bytes)}" for w in seen.preservable)
        yield "workloads", held + _need(seen)
    if seen.running is None:
        yield "way back", seen.no_way_back
    else:
        yield "way back", _artifact(seen.running, emulated=boot.emulated)
    if seen.target is not None:
        yield "target", _artifact(seen.target, emulated=boot.emulated)


def _luo(boot: BootFacts, abi: str) -> str:
    if not abi or boot.luo_model == SESSIONS:
        return f"{abi}, {SESSIONS}" if abi else "off"
    final = ", KHO finalized" if boot.kho_finalized else ""
    return f"{abi}, {boot.luo_model} ({boot.coupling}), {boot.luo_state or 'state unknown'}{final}"


def _need(seen: Assessment) -> str:
    memory = seen.boot.memory
    if memory is None:
        return ""
    need = memory_needed(seen.preservable, memory, emulated=seen.boot.emulated)
    return f"; preserving takes up to {mib(need)} outside scratch"


def _artifact(artifact: StagedArtifact, *, emulated: bool) -> str:
    abi = artifact.live_update
    words = [
        f"{artifact.release}, artifact {artifact.digest[:12]}",
        _abi(abi) if abi else "ABI strings unknown",
    ]
    if artifact.init_bytes and not emulated:
        words.append(f"{mib(artifact.init_bytes + artifact.initrd_bytes)} of scratch")
    return "; ".join(words)


def _abi(abi: LiveUpdateAbi) -> str:
    handlers = " ".join(abi.handlers.values())
    return f"{abi.kho or 'no KHO'} {abi.luo or 'no LUO'} {handlers or 'no file handler'}"


def as_json(seen: Assessment) -> dict[str, object]:
    """The same for scripts."""
    boot, kho, memory = seen.boot, seen.boot.kho, seen.boot.memory
    return {
        "ready": seen.ready,
        "node_id": seen.node_id,
        "release": boot.release,
        "boot_id": boot.boot_id,
        "command_line": boot.command_line,
        "hardware_model": boot.hardware_model,
        "emulated": boot.emulated,
        "luo_model": boot.luo_model,
        "luo_state": boot.luo_state,
        "coupling": boot.coupling,
        "kho_finalized": boot.kho_finalized,
        "device": seen.device,
        "kho": None
        if kho is None or not kho.debugfs
        else {"abi": kho.kho_abi, "luo_abi": kho.luo_abi, "scratch_bytes": list(kho.scratch_bytes)},
        "memory": None
        if memory is None
        else {
            "outside_scratch_bytes": memory.outside_scratch_bytes,
            "in_scratch_bytes": memory.in_scratch_bytes,
            "needed_bytes": memory_needed(seen.preservable, memory, emulated=boot.emulated)
            if seen.preservable
            else 0,
        },
        "workloads": [
            {"workload": w.workload, "size_bytes": w.size_bytes, "allocated_bytes": w.allocated_bytes}
            for w in seen.preservable
        ],
        "way_back": _artifact_json(seen.running, boot),
        "target": _artifact_json(seen.target, boot),
        "unseen": list(seen.unseen),
        "findings": [
            {"reason": f.reason, "message": f.message, "remedy": f.remedy, "retry": f.retry.value}
            for f in seen.findings
        ],
    }


def _artifact_json(artifact: StagedArtifact | None, boot: BootFacts) -> dict[str, object] | None:
    if artifact is None:
        return None
    abi = artifact.live_update
    return {
        "release": artifact.release,
        "digest": artifact.digest,
        "live_update": {"kho": abi.kho, "luo": abi.luo, "handlers": dict(abi.handlers)} if abi else None,
        "luo_model": model_of(abi.luo, boot) if abi else "",
        "init_bytes": artifact.init_bytes,
        "initrd_bytes": artifact.initrd_bytes,
    }
