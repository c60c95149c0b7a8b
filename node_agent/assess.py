"""`liveroll-agent assess`: what stands between this node, at rest, and a live update.

Asks the kernel, the node's artifact store and, if it runs, the agent; changes nothing. What it may
not look at (debugfs without root, another user's processes) it says, and goes on without.

Exit codes: 0 ready, 3 not ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path

from node_agent import luoctl_wire
from node_agent.assess_view import Assessment, as_json, text
from node_agent.errors import ArtifactError, KernelError, SettingsError
from node_agent.ports import BootFacts, StagedArtifact, WorkloadPeer
from node_agent.runtime.artifacts_manifest import MANIFEST, parse_manifest
from node_agent.runtime.artifacts_verify import verify_directory
from node_agent.runtime.preflight import Facts, at_rest
from node_agent.runtime.preserved import read_preservable
from node_agent.settings import DEFAULT_CONFIG, ENV_PREFIX, AgentSettings
from node_agent.settings_load import load

READY, NOT_READY = 0, 3
DEVICE = "/dev/liveupdate"
REGISTER = "Build its artifact with `liveroll artifact build` and name it in artifacts.running."


def run(args: argparse.Namespace) -> int:
    """Look, print, and return the exit code. Raises AgentError."""
    unseen: list[str] = []
    seen = assess(_settings(args, unseen), Path(args.artifact) if args.artifact else None, unseen)
    if args.output == "json":
        print(json.dumps(as_json(seen), indent=2))
    else:
        for line in text(seen):
            print(line)
    return READY if seen.ready else NOT_READY


def assess(settings: AgentSettings, artifact: Path | None, unseen: list[str]) -> Assessment:
    """Everything that can be seen of this node.

    Args:
        artifact: a target's directory, or None to look at the node alone.
        unseen: what could not be looked at is added to it.

    Raises:
        KernelError: the kernel cannot be asked.
        ArtifactError: the artifact is not what it says.
    """
    boot, device = _boot(settings, unseen)
    if boot.kho is not None and not boot.kho.debugfs:
        unseen.append("KHO's scratch and strings: needs root, debugfs mounted, and kho=on")
    running, why = _running(settings, boot.release, unseen)
    peers = _peers(settings, unseen)
    preservable = read_preservable(peers)
    hidden = [held.workload for held in preservable if not held.seen]
    if hidden:
        unseen.append(f"what {', '.join(hidden)} would preserve: needs root (CAP_SYS_PTRACE)")
    target = _target(artifact) if artifact is not None else None
    facts = Facts(
        boot=boot,
        target=target or running or StagedArtifact("", boot.release, "", "", {}),
        running=running,
        no_way_back=why,
        way_back_remedy=REGISTER,
        peers=peers,
        preservable=preservable,
    )
    return Assessment(
        node_id=settings.node_id,
        boot=boot,
        device=device,
        running=running,
        no_way_back=why,
        target=target,
        preservable=preservable,
        unseen=tuple(unseen),
        findings=tuple(at_rest(facts, whole=target is not None)),
    )


def _settings(args: argparse.Namespace, unseen: list[str]) -> AgentSettings:
    """The node's settings; this machine's own where nobody has written any, or may not read them."""
    config = Path(args.config) if args.config else None
    flags = {"kernel": args.kernel, "root": args.root, "state_dir": args.state_dir}
    said = args.kernel or config or DEFAULT_CONFIG.exists() or f"{ENV_PREFIX}KERNEL" in os.environ
    if not said and not args.root:
        flags["kernel"] = "real"
    try:
        return load(config=config, flags=flags)
    except SettingsError as error:
        if config is not None:
            raise
        unseen.append(f"the agent's settings: {error.message}")
        return load(config=Path(os.devnull), environ={}, flags={**flags, "kernel": args.kernel or "real"})


def _boot(settings: AgentSettings, unseen: list[str]) -> tuple[BootFacts, str]:
    """What this boot is, and what the device does. KernelError."""
    if settings.kernel == "emulated":
        from node_agent.kernel.emulated.client import ProcessKernel

        try:
            boot = asyncio.run(ProcessKernel(str(settings.root)).facts())
        except (OSError, KernelError) as error:
            raise SettingsError(
                f"no emulated node runs at {settings.root}",
                reason="NODE_NOT_RUNNING",
                remedy="start it with liveroll-agent run, or look at this machine with --kernel real",
            ) from error
        return boot, _device(boot)
    from node_agent.kernel.real.kernel import RealKernel

    boot = asyncio.run(RealKernel().facts())
    if not boot.luo and not boot.poisoned and os.path.exists(DEVICE):
        # It is there, and whether it opens is for root to see.
        unseen.append(f"whether {DEVICE} opens: needs root")
        return replace(boot, luo=True), f"{DEVICE} is there"
    return boot, _device(boot)


def _device(boot: BootFacts) -> str:
    if boot.poisoned:
        return f"{DEVICE} answers EIO: poisoned for as long as this boot lasts"
    return f"{DEVICE} opens" if boot.luo else f"there is no {DEVICE}"


def _running(settings: AgentSettings, release: str, unseen: list[str]) -> tuple[StagedArtifact | None, str]:
    """The running kernel's artifact, kept or named in the settings; or why there is none."""
    store = settings.artifacts_dir / "store"
    why = "no artifact of the running kernel is kept"
    try:
        places = [d for d in store.iterdir() if (d / MANIFEST).is_file()]
    except FileNotFoundError:
        places = []
    except OSError as error:
        places = []
        unseen.append(f"the agent's artifacts: {store}: {error.strerror}")
    if settings.running_artifact is not None:
        places.append(settings.running_artifact)
    for place in places:
        try:
            if parse_manifest((place / MANIFEST).read_bytes(), where=str(place)).release == release:
                return verify_directory(place), ""
        except (ArtifactError, OSError) as error:
            why = f"the artifact at {place} cannot be used: {error}"
    return None, why


def _target(directory: Path) -> StagedArtifact:
    try:
        return verify_directory(directory)
    except OSError as error:
        raise ArtifactError(
            f"{error.filename or directory}: {error.strerror}",
            reason="ARTIFACT_NOT_FOUND",
            remedy="name a directory that `liveroll artifact build` made",
        ) from error


def _peers(settings: AgentSettings, unseen: list[str]) -> tuple[WorkloadPeer, ...]:
    """The workloads that the running agent knows."""
    try:
        answer = luoctl_wire.ask(str(settings.control_socket), {"cmd": "peers"})
    except (luoctl_wire.Unreachable, OSError):
        unseen.append("workloads and what they would preserve: no running agent answers")
        return ()
    return tuple(WorkloadPeer(p["workload"], p["pid"], p["session"]) for p in answer.get("result") or ())
