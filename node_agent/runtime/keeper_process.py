"""A keeper that is started by the full agent, whose threads forbid it to fork one itself.

Needed where the blackout path retrieved nothing: a busy device, or somebody else's kexec.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from node_agent.resume import keeper

_IMPORT = "import sys; sys.path.insert(0, sys.argv[1]); from node_agent.resume.keeper import main"
_CODE = f"{_IMPORT}; main(sys.argv[2:])"


def start(path: str, sessions: Mapping[str, int]) -> None:
    """As resume.keeper.start(). Blocks for a process's start, not for the keeper's end. Raises OSError."""
    listener = keeper.listen(path)
    try:
        fds = [listener.fileno(), *sessions.values()]
        words = [str(listener.fileno()), *(f"{fd}={name}" for name, fd in sessions.items())]
        place = str(Path(keeper.__file__).resolve().parents[2])
        # It daemonises itself, so that nobody has to wait for it.
        subprocess.run(
            [sys.executable, "-ISE", "-c", _CODE, place, *words],
            pass_fds=fds,
            check=True,
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        raise OSError(error.returncode, os.strerror(5)) from error
    finally:
        listener.close()
