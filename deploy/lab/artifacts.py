"""The lab's kernels as artifacts, made by the ordinary builder. Blocking."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.lab.errors import LabError
from deploy.lab.paths import Lab
from orchestrator.artifacts.build import build
from orchestrator.errors import LiverollError

INIT_DIES = "initdies"


def build_all(lab: Lab, out: Path) -> Mapping[str, Path]:
    """One directory a kernel, linux-<release>, and kernel b with an init that dies.

    Returns: kernel's name, or initdies → directory. Raises LabError (ARTIFACT_FAILED).
    """
    made: dict[str, Path] = {}
    try:
        for name, kernel in lab.kernels.items():
            manifest = build(out, kernel=kernel.image, config=kernel.config)
            made[name] = out / manifest.name
        if "b" in lab.kernels:
            other = lab.kernels["b"]
            manifest = build(
                out,
                kernel=other.image,
                config=other.config,
                name=f"{made['b'].name}-{INIT_DIES}",
                remove=("init=",),
                append=("init=/bin/false",),
            )
            made[INIT_DIES] = out / manifest.name
    except LiverollError as error:
        raise LabError(error.message, reason="ARTIFACT_FAILED", remedy=error.remedy) from error
    return made


def content(directory: Path) -> dict[str, bytes]:
    """File name → content of an artifact."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
