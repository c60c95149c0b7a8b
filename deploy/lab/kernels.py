"""The lab's kernels, built once and kept by a key of everything that went into them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import children, edits, fragment
from deploy.lab.errors import LabError
from deploy.lab.paths import LabKernel
from deploy.lab.recipes import RECIPES, Recipe, key

FRAGMENT = Path(__file__).with_name("luo.fragment")

_IMAGE, _CONFIG, _RELEASE = "bzImage", "config", "release"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the cache keeps kernels, objects and logs, and how many jobs a build may have."""

    cache: Path
    logs: Path
    jobs: int
    compiler: str

    def built(self, recipe: Recipe, source: Path, asked: Mapping[str, str]) -> Path:
        """The folder of the finished kernel, whether it is there or not."""
        return self.cache / "kernels" / f"{recipe.name}-{key(recipe, source.name, asked, self.compiler)}"


def shelf(cache: Path, logs: Path) -> Shelf:
    """Raises LabError (NO_COMPILER)."""
    compiler = children.output(["gcc", "-dumpfullversion"], reason="NO_COMPILER").strip()
    return Shelf(cache, logs, os.cpu_count() or 1, compiler)


def wanted(names: Sequence[str], *, newer: bool) -> list[Recipe]:
    """The recipes of `names` (all if empty), without those of the newer source if there is none.

    Raises LabError (NO_SUCH_KERNEL).
    """
    unknown = set(names) - {recipe.name for recipe in RECIPES}
    if unknown:
        known = ", ".join(recipe.name for recipe in RECIPES)
        raise LabError(
            f"no kernel is called {', '.join(sorted(unknown))}",
            reason="NO_SUCH_KERNEL",
            remedy=f"There are: {known}.",
        )
    return [
        recipe for recipe in RECIPES if (not names or recipe.name in names) and (newer or not recipe.newer)
    ]


def build(recipes: Sequence[Recipe], source: Path, shelf: Shelf) -> dict[str, LabKernel]:
    """All of `recipes` from one source; those on the shelf are taken from there.

    Raises LabError: SOURCE_MOVED before anything is built, OPTION_LOST, BUILD_FAILED.
    """
    asked = fragment.parse(FRAGMENT.read_text())
    for recipe in RECIPES:
        # Of all: a killed build's edit would otherwise go into another kernel.
        edits.restore(source, recipe.edits)
    for recipe in recipes:
        edits.check(source, recipe.edits)
    made: dict[str, LabKernel] = {}
    for recipe in recipes:
        folder = shelf.built(recipe, source, asked)
        if not folder.is_dir():
            _make(recipe, source, asked, folder, shelf)
        release = (folder / _RELEASE).read_text().strip()
        made[recipe.name] = LabKernel(recipe.name, release, folder / _IMAGE, folder / _CONFIG)
    return made


def _make(recipe: Recipe, source: Path, asked: Mapping[str, str], folder: Path, shelf: Shelf) -> None:
    started = time.monotonic()
    objects = shelf.cache / "objects" / source.name
    objects.mkdir(parents=True, exist_ok=True)
    log = shelf.logs / f"kernel-{recipe.name}.log"
    children.say(f"kernel {recipe.name} from {source.name} ({shelf.jobs} jobs)")
    with edits.applied(source, recipe.edits):
        _configure(recipe, source, objects, asked, log)
        _run_make(source, objects, ["bzImage", f"-j{shelf.jobs}"], f"kernel {recipe.name}", log)
    _keep(objects, folder)
    children.say(f"kernel {recipe.name} is built, {time.monotonic() - started:.0f} s")


def _configure(recipe: Recipe, source: Path, objects: Path, asked: Mapping[str, str], log: Path) -> None:
    options = recipe.asked(asked)
    config = objects / ".config"
    what = f"configuration of {recipe.name}"
    _run_make(source, objects, ["tinyconfig"], what, log)
    config.write_text(fragment.overlay(config.read_text(), options))
    _run_make(source, objects, ["olddefconfig"], what, log)
    fragment.demand(config.read_text(), options, recipe.name)


def _run_make(source: Path, objects: Path, targets: Sequence[str], what: str, log: Path) -> None:
    environment = {
        # Of the machine's environment only what finds the tools: CFLAGS and the like would go unnoticed.
        **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")},
        "LC_ALL": "C",
        "KBUILD_BUILD_USER": "lab",
        "KBUILD_BUILD_HOST": "liveroll",
    }
    children.run(
        ["make", "-C", str(source), f"O={objects}", *targets],
        what=what,
        log=log,
        reason="BUILD_FAILED",
        environment=environment,
    )


def _keep(objects: Path, folder: Path) -> None:
    """Put the result on the shelf, as a whole, in place of the kernel's older ones."""
    name = folder.name.rsplit("-", 1)[0]
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    shutil.copyfile(objects / "arch/x86/boot/bzImage", fresh / _IMAGE)
    shutil.copyfile(objects / ".config", fresh / _CONFIG)
    shutil.copyfile(objects / "include/config/kernel.release", fresh / _RELEASE)
    for old in folder.parent.glob(f"{name}-*"):
        if old != fresh:
            shutil.rmtree(old)
    fresh.rename(folder)
