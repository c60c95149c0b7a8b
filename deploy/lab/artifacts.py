"""The lab's kernels as artifacts, made by the ordinary builder. Blocking.

To unpack a kernel and look for its ABI strings costs seconds under load, so what was built is kept in
the lab's cache, by the kernel's file and the builder's own source.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.lab.errors import LabError
from deploy.lab.paths import Lab, LabKernel
from orchestrator.artifacts import build as builder
from orchestrator.errors import LiverollError

INIT_DIES = "initdies"
_KEPT = "artifacts"


def build_all(lab: Lab, out: Path) -> Mapping[str, Path]:
    """One directory a kernel, linux-<release>, and kernel b with an init that dies.

    Returns: kernel's name, or initdies → directory. Raises LabError (ARTIFACT_FAILED).
    """
    rules: dict[str, tuple[LabKernel, dict[str, Sequence[str]]]] = {
        name: (kernel, {}) for name, kernel in lab.kernels.items()
    }
    if "b" in lab.kernels:
        dies: dict[str, Sequence[str]] = {"remove": ("init=",), "append": ("init=/bin/false",)}
        rules[INIT_DIES] = (lab.kernels["b"], dies)
    made: dict[str, Path] = {}
    try:
        for name, (kernel, rule) in rules.items():
            directory = out / _directory(name, kernel)
            kept = lab.cache / _KEPT / _key(name, kernel)
            if not kept.is_dir():
                _keep(kept, name, kernel, rule)
            shutil.copytree(kept, directory, dirs_exist_ok=True)
            made[name] = directory
    except LiverollError as error:
        raise LabError(error.message, reason="ARTIFACT_FAILED", remedy=error.remedy) from error
    except OSError as error:
        raise LabError(
            f"artifacts cannot be written: {error}",
            reason="ARTIFACT_FAILED",
            remedy="Make room, and see that this user may write to the lab's cache.",
        ) from error
    return made


def content(directory: Path) -> dict[str, bytes]:
    """File name → content of an artifact."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def _directory(name: str, kernel: LabKernel) -> str:
    plain = f"linux-{kernel.release}".lower()
    return f"{plain}-{INIT_DIES}" if name == INIT_DIES else plain


def _keep(kept: Path, name: str, kernel: LabKernel, rule: Mapping[str, Sequence[str]]) -> None:
    """Build it there, as a whole or not at all; two at a time make the same twice."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        manifest = builder.build(
            Path(scratch),
            kernel=kernel.image,
            config=kernel.config,
            name=_directory(name, kernel),
            remove=tuple(rule.get("remove", ())),
            append=tuple(rule.get("append", ())),
        )
        try:
            Path(scratch, manifest.name).rename(kept)
        except OSError:
            if not kept.is_dir():
                raise
    for older in kept.parent.glob(f"{name}-*"):
        if older != kept:
            shutil.rmtree(older, ignore_errors=True)


def _key(name: str, kernel: LabKernel) -> str:
    """Changes with the kernel's files and with how an artifact is built."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for source in sorted(Path(builder.__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    for path in (kernel.image, kernel.config):
        facts = os.stat(path)
        digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return f"{name}-{digest.hexdigest()[:16]}"
