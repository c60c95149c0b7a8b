"""`liveroll-agent install-init`: the early init where the kernel's command line can name it.

What is installed stands alone: the launcher, and beside it the modules that it imports, as a copy. So the
boot of the node depends on neither a virtual environment nor an upgrade that is half done. To be done
again after each upgrade of the agent; a stale one works with the agent's files of before, or not at all,
and then process 1 becomes the real init all the same.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from node_agent.errors import SettingsError

DEST = Path("/usr/lib/liveroll")
INTERPRETER = Path("/usr/bin/python3")
"""The launcher's first line names it: there is no PATH and no env(1) yet that could be relied on."""


def install(dest: Path) -> Path:
    """Write it there; the launcher's path. Each file is replaced whole.

    Raises:
        SettingsError: INIT_NOT_INSTALLED.
    """
    from node_agent.resume import bundle

    try:
        # Where the whole agent lies already, its own modules are the ones to use.
        if not (dest / "node_agent" / "cli.py").exists():
            for package in bundle.PACKAGES:
                _put(dest.joinpath(*package.split("."), "__init__.py"), b"", 0o644)
            for name in bundle.closure(bundle.ENTRY):
                _put(dest.joinpath(*name.split(".")).with_suffix(".py"), _source(name), 0o644)
        launcher = dest / "init"
        _put(launcher, _source("node_agent.resume.init"), 0o755)
        os.sync()
    except OSError as error:
        raise SettingsError(
            f"cannot write below {dest}: {error.strerror}",
            reason="INIT_NOT_INSTALLED",
            remedy="run it as root, or name a directory on the root filesystem with --dest",
        ) from error
    return launcher


def _source(name: str) -> bytes:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_bytes()


def _put(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.chmod(mode)
    beside.replace(path)
