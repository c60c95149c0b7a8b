"""Where the lab's kernels and its guest root are: the index that `make lab` writes, read back.

The cache is $LIVEROLL_LAB_CACHE, or ~/.cache/liveroll-lab. `lab.json` in it is replaced as a whole
and only when everything it names is there, so a reader needs no lock.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.lab.errors import LabError

INDEX = "lab.json"

_REMEDY = "Run `make lab` as root; it builds what is missing."


@dataclass(frozen=True, slots=True)
class LabKernel:
    """One kernel to boot: `release` is what uname -r says in it."""

    name: str
    release: str
    image: Path
    config: Path


@dataclass(frozen=True, slots=True)
class Lab:
    """What was built.

    kernels: by name. `a` and `b` differ in their LOCALVERSION only; `c` is another source version
    and missing if only one was on offer; the others each break one thing, see `recipes`.
    root_tree: the guest's root as a directory, never to be written to by a user of the lab.
    root_image: the same as an ext4 image, to be copied for each node.
    """

    kernels: Mapping[str, LabKernel]
    root_tree: Path
    root_image: Path
    cache: Path


def cache_dir(environment: Mapping[str, str] | None = None) -> Path:
    """The cache's place, whether it exists or not."""
    words = os.environ if environment is None else environment
    chosen = words.get("LIVEROLL_LAB_CACHE", "")
    return Path(chosen).absolute() if chosen else Path.home() / ".cache" / "liveroll-lab"


def load(cache: Path | None = None) -> Lab:
    """The lab that was built last.

    Raises LabError: NOT_BUILT, INDEX_INVALID, or FILE_MISSING if a file that it names is gone.
    """
    where = cache_dir() if cache is None else cache
    index = where / INDEX
    try:
        words = json.loads(index.read_text())
    except FileNotFoundError:
        raise LabError(f"there is no lab in {where}", reason="NOT_BUILT", remedy=_REMEDY) from None
    except (OSError, ValueError) as error:
        raise LabError(f"cannot read {index}", reason="INDEX_INVALID", remedy=_REMEDY) from error
    lab = _decode(words, where)
    for path in _files(lab):
        if not path.exists():
            raise LabError(f"{path} is gone", reason="FILE_MISSING", remedy=_REMEDY)
    return lab


def save(lab: Lab) -> None:
    """Write the index of `lab` into its cache, as a whole."""

    def inside(path: Path) -> str:
        return str(path.relative_to(lab.cache))

    words = {
        "kernels": {
            kernel.name: {
                "release": kernel.release,
                "image": inside(kernel.image),
                "config": inside(kernel.config),
            }
            for kernel in lab.kernels.values()
        },
        "root_tree": inside(lab.root_tree),
        "root_image": inside(lab.root_image),
    }
    fresh = lab.cache / f"{INDEX}.new"
    fresh.write_text(json.dumps(words, indent=2) + "\n")
    fresh.replace(lab.cache / INDEX)


def _decode(words: Any, cache: Path) -> Lab:
    try:
        kernels = {
            str(name): LabKernel(
                str(name), str(row["release"]), cache / str(row["image"]), cache / str(row["config"])
            )
            for name, row in words["kernels"].items()
        }
        return Lab(kernels, cache / str(words["root_tree"]), cache / str(words["root_image"]), cache)
    except (KeyError, TypeError, AttributeError) as error:
        raise LabError(f"{cache / INDEX} is not an index", reason="INDEX_INVALID", remedy=_REMEDY) from error


def _files(lab: Lab) -> list[Path]:
    images = [path for kernel in lab.kernels.values() for path in (kernel.image, kernel.config)]
    return [*images, lab.root_tree, lab.root_image]
