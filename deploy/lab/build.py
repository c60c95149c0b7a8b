"""`make lab`: everything that the lab boots, from nothing but this machine's Debian mirror.

    python -m deploy.lab.build [--refresh] [--kernels a,b | --root]

Packages that are missing are installed; kernel sources fetched through a private apt; the kernels
built; the guest's root made; the index written last. What is there already is kept, by keys of what went
into it: about a quarter of an hour the first time on two cores, seconds after. One build at a time.

Exit codes: 0 done, 1 failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from deploy.lab import children, kernels, packages, paths, root, sources
from deploy.lab.errors import LabError
from deploy.lab.paths import Lab, LabKernel

PROJECT = Path(__file__).resolve().parents[2]

ROOM_GIB = 9
"""A first build needs this: two sources of 2 GiB, their packages, objects, root and images."""


def build(cache: Path, *, names: Sequence[str] = (), refresh: bool = False, root_only: bool = False) -> Lab:
    """Make the lab in `cache`. Raises LabError.

    names: only these kernels, all if empty; the others stay as they are. root_only: all stay.
    """
    logs = cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    made: Mapping[str, LabKernel] = {}
    if not root_only:
        with _alone(cache, "kernels"):
            packages.install(logs / "packages.log")
            made = _kernels(cache, logs, names, refresh=refresh)
    # Apart, so that the root can be refreshed while kernels are built for minutes.
    with _alone(cache, "root"):
        guest = root.build(cache, logs, PROJECT)
        if root_only or names:
            made = {**_kept(cache), **made}
        lab = Lab(made, guest.tree, guest.image, cache)
        paths.save(lab)
    return lab


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m deploy.lab.build", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--refresh", action="store_true", help="look for newer kernel sources")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--kernels", default="", help="only these, separated by commas (default: all)")
    what.add_argument(
        "--root", action="store_true", help="only the guest's root, beside the kernels there are"
    )
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    started = time.monotonic()
    cache = paths.cache_dir()
    try:
        _admit(cache)
        names = [name for name in args.kernels.split(",") if name]
        lab = build(cache, names=names, refresh=args.refresh, root_only=args.root)
    except LabError as error:
        print(f"lab: {error.reason}: {error}", file=sys.stderr)
        if error.remedy:
            print(error.remedy, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    for kernel in lab.kernels.values():
        children.say(f"kernel {kernel.name:9} {kernel.release}")
    children.say(f"ready in {cache}, {time.monotonic() - started:.0f} s")
    return 0


def _kernels(cache: Path, logs: Path, names: Sequence[str], *, refresh: bool) -> dict[str, LabKernel]:
    choice = sources.settle(cache, logs, refresh=refresh)
    shelf = kernels.shelf(cache, logs)
    recipes = kernels.wanted(names, newer=choice.newer is not None)
    made: dict[str, LabKernel] = {}
    for offer, newer in ((choice.base, False), (choice.newer, True)):
        part = [recipe for recipe in recipes if recipe.newer is newer]
        if offer is not None and part:
            made |= kernels.build(part, sources.unpacked(offer, cache, logs), shelf)
    if not names:
        sources.prune(cache, choice)
    return made


def _kept(cache: Path) -> Mapping[str, LabKernel]:
    """The kernels of the last build. None of them is in the way of a part of the build."""
    try:
        return paths.load(cache).kernels
    except LabError:
        return {}


def _admit(cache: Path) -> None:
    """Raise LabError (NOT_ROOT, NO_ROOM) where the build could not come to its end."""
    if os.geteuid() != 0:
        raise LabError(
            "building the lab needs root: it installs packages and makes a Debian root",
            reason="NOT_ROOT",
            remedy="Run it as root, or with sudo --preserve-env=LIVEROLL_LAB_CACHE.",
        )
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free / 2**30
    if not (cache / paths.INDEX).exists() and free < ROOM_GIB:
        raise LabError(
            f"{cache} has {free:.1f} GiB free, a first build needs {ROOM_GIB}",
            reason="NO_ROOM",
            remedy="Make room, or point LIVEROLL_LAB_CACHE to a folder on a larger disk.",
        )


@contextmanager
def _alone(cache: Path, what: str) -> Iterator[None]:
    with (cache / f"{what}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            children.say(f"waiting for another build of {what} in this cache")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends the build as Ctrl-C does."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
