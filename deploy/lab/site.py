"""The third-party packages of the agent, as wheels for the guest's Python.

What they are is read from pyproject.toml: there is no second list.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

from deploy.lab import base, children

PLACE = "usr/lib/liveroll/site"

_PLATFORMS = (
    "manylinux_2_34_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)


def requirements(pyproject: str) -> list[str]:
    """What the agent needs: the project's own dependencies and those of the extra `agent`."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["agent"]]


def key(project: Path) -> str:
    """Changes when the packages have to be installed anew."""
    return repr((requirements((project / "pyproject.toml").read_text()), _PLATFORMS))


def install(tree: Path, project: Path, logs: Path) -> None:
    """Put the packages into `tree`. Raises LabError (WHEELS_FAILED)."""
    place = tree / PLACE
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    platforms = [word for name in _PLATFORMS for word in ("--platform", name)]
    target = ["--implementation", "cp", "--python-version", base.python_version(tree), *platforms]
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary=:all:", *target]
    wanted = requirements((project / "pyproject.toml").read_text())
    children.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(place), *wanted],
        what="wheels for the guest",
        log=logs / "wheels.log",
        reason="WHEELS_FAILED",
        remedy="pip must reach a package index that has wheels for Linux on x86-64.",
    )
    shutil.rmtree(place / "bin", ignore_errors=True)
