"""The guest's root: Debian with Python, the agent's dependencies, and the project's code.

Three layers, each with a key of its own, in one tree:

    base   debootstrap, trimmed; the lab's users            a minute
    site   third-party wheels for the guest's Python        seconds
    code   node_agent, protos, guest programs, wrappers     a second

A change makes its layer and those after it anew, and then the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import base, children, code, programs, site

IMAGE_MIB = 1024
"""Sparse: what counts is room for a few kernels, journals and logs beside the tree."""


@dataclass(frozen=True, slots=True)
class Root:
    """The finished root, as a tree and as an image."""

    tree: Path
    image: Path


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its own key, and how it is made."""

    name: str
    key: str
    make: Callable[[], None]


def build(cache: Path, logs: Path, project: Path) -> Root:
    """The root, of whose layers only those are made that changed.

    project: a checkout's top folder. Raises LabError: NO_MIRROR, NOT_DEBIAN, DEBOOTSTRAP_FAILED,
    WHEELS_FAILED, COMPILE_FAILED, IMAGE_FAILED.
    """
    folder = cache / "root"
    folder.mkdir(parents=True, exist_ok=True)
    tree, image = folder / "tree", folder / "root.ext4"

    def make_site() -> None:
        site.install(tree, project, logs)
        code.compile_in(tree, logs, "site")

    def make_code() -> None:
        code.install(tree, project)
        programs.install(tree, folder / "programs", logs)
        code.compile_in(tree, logs, "node_agent", "liveroll", "guest")

    settle(
        folder,
        [
            Layer("base", base.key(), lambda: base.install(tree, logs)),
            Layer("site", site.key(project), make_site),
            Layer("code", code.key(project) + programs.key(), make_code),
            Layer("image", str(IMAGE_MIB), lambda: _make_image(tree, image, logs)),
        ],
    )
    return Root(tree, image)


def settle(folder: Path, layers: list[Layer]) -> None:
    """Make the first layer whose key changed, and all after it."""
    key, stale = "", False
    for number, layer in enumerate(layers):
        key = hashlib.sha256(f"{key} {layer.key}".encode()).hexdigest()[:16]
        stamp = folder / f"{layer.name}.key"
        if not stale and (not stamp.exists() or stamp.read_text() != key):
            stale = True
            # First, so that a build that is cut off leaves no stamp on what it had begun to change.
            for later in layers[number:]:
                (folder / f"{later.name}.key").unlink(missing_ok=True)
        if stale:
            children.say(f"guest root: {layer.name}")
            layer.make()
            stamp.write_text(key)


def _make_image(tree: Path, image: Path, logs: Path) -> None:
    fresh = image.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    # Everything is initialised now: nothing is left to a thread of the guest's kernel.
    whole = ["-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0", "-J", "size=16"]
    sizes = ["-m", "0", "-I", "256", "-N", "65536"]
    children.run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-L",
            "lab",
            *sizes,
            *whole,
            "-d",
            str(tree),
            str(fresh),
            f"{IMAGE_MIB}M",
        ],
        what="guest image",
        log=logs / "image.log",
        reason="IMAGE_FAILED",
    )
    # Only now: a running guest may have been copied from the old one a moment ago.
    fresh.replace(image)
