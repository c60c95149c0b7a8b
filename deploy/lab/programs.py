"""The lab's C programs for a guest, linked statically: guest/*.c becomes /usr/lib/liveroll/guest/NAME."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deploy.lab import children
from deploy.lab.code import PLACE

_SOURCES = Path(__file__).with_name("guest")
_FLAGS = ("-static", "-Os", "-s", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror")


def key() -> str:
    """Changes with a source or a flag."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for source in _sources():
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def install(tree: Path, made: Path, logs: Path) -> None:
    """Compile into `made` and copy into `tree`. Raises LabError (COMPILE_FAILED)."""
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    place = tree / PLACE / "guest"
    place.mkdir(parents=True, exist_ok=True)
    for source in _sources():
        if source.suffix != ".c":
            continue
        children.run(
            ["gcc", *_FLAGS, "-o", str(made / source.stem), str(source)],
            what=f"compiling {source.name}",
            log=logs / f"{source.stem}.log",
            reason="COMPILE_FAILED",
        )
        shutil.copy(made / source.stem, place / source.stem)


def _sources() -> list[Path]:
    return sorted([*_SOURCES.glob("*.c"), *_SOURCES.glob("*.h")])
