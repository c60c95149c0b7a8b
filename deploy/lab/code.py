"""The project's own code in the guest, with its wrappers and the lab's init.

    /usr/lib/liveroll/node_agent, liveroll   the packages
    /usr/lib/liveroll/guest/execd.py         the exec server
    /usr/lib/liveroll/init                   the product's early init
    /usr/bin/liveroll-agent, luoctl          wrappers
    /sbin/init                               the lab's init

Everything is compiled in the guest's own Python with unchecked hashes: a start needs no look at the
sources' times.
"""

from __future__ import annotations

import hashlib
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

from deploy.lab import children

PLACE = "usr/lib/liveroll"
_GUEST = Path(__file__).with_name("guest")
_EARLY = Path("node_agent/resume/init.py")
_SKIPPED = ("__pycache__", ".mypy_cache")

_WRAPPER = """\
#!/usr/bin/python3 -ISE
import sys
sys.path[0:0] = ["/{place}", "/{place}/site"]
sys.argv[0] = "{name}"
from {module} import main
sys.exit(main())
"""
"""-S: no site-packages are wanted, and looking for them costs tens of milliseconds."""

_WRAPPERS = {"liveroll-agent": "node_agent.cli", "luoctl": "node_agent.luoctl"}

_PLAIN_INIT = """\
#!/bin/sh
exec /sbin/init "$@"
"""


def key(project: Path) -> str:
    """Changes with any file that is copied, and with this module."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name, path in _files(project):
        digest.update(f"{name} {path.stat().st_mode & 0o111}\n".encode())
        digest.update(path.read_bytes())
    digest.update(_version(project).encode())
    return digest.hexdigest()[:16]


def install(tree: Path, project: Path) -> None:
    """Replace the project's code in `tree`."""
    place = tree / PLACE
    place.mkdir(parents=True, exist_ok=True)
    for old in ("node_agent", "liveroll", "guest"):
        shutil.rmtree(place / old, ignore_errors=True)
    for name, path in _files(project):
        to = place / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    _write_version(place, _version(project))
    for name, module in _WRAPPERS.items():
        _write(tree / "usr/bin" / name, _WRAPPER.format(place=PLACE, name=name, module=module))
    early = project / _EARLY
    _write(place / "init", early.read_text() if early.exists() else _PLAIN_INIT)
    _write(tree / "sbin/init", (_GUEST / "init.sh").read_text())


def compile_in(tree: Path, logs: Path, *names: str) -> None:
    """Byte-compile these folders of PLACE. Raises LabError (COMPILE_FAILED)."""
    compiler = ["/usr/bin/python3", "-I", "-m", "compileall", "-q", "-j", "0"]
    places = [f"/{PLACE}/{name}" for name in names]
    children.run(
        ["chroot", str(tree), *compiler, "--invalidation-mode", "unchecked-hash", *places],
        what="byte code of the guest",
        log=logs / "compile.log",
        reason="COMPILE_FAILED",
    )


def _files(project: Path) -> Iterator[tuple[str, Path]]:
    """Name under PLACE, and path, of every file that is copied."""
    for top in (project / "node_agent", project / "protos" / "liveroll"):
        for path in sorted(top.rglob("*")):
            if path.is_file() and path.suffix in (".py", ".typed") and not set(_SKIPPED) & set(path.parts):
                yield str(path.relative_to(top.parent)), path
    for path in sorted(_GUEST.glob("*")):
        if path.suffix in (".py", ".sh"):
            yield f"guest/{path.name}", path


def _version(project: Path) -> str:
    return str(tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"])


def _write_version(place: Path, version: str) -> None:
    """What importlib.metadata needs to say the agent's version, as an installed package has it."""
    for old in place.glob("liveroll-*.dist-info"):
        shutil.rmtree(old)
    info = place / f"liveroll-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: liveroll\nVersion: {version}\n")


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)
