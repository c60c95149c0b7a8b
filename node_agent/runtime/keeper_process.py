"""The keeper, and the server of sessions made of tokens, started by the full agent, whose threads forbid it
to fork one itself.

Needed where the blackout path retrieved nothing: a busy device, or somebody else's kexec.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from node_agent.resume import keeper

_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from node_agent.resume.{module} import main
main(sys.argv[2:])
"""


def start(path: str, sessions: Mapping[str, int]) -> None:
    """As resume.keeper.start(). Blocks for a process's start, not for the keeper's end. Raises OSError."""
    listener = keeper.listen(path)
    try:
        fds = [listener.fileno(), *sessions.values()]
        words = [str(listener.fileno()), *(f"{fd}={name}" for name, fd in sessions.items())]
        _run("keeper", words, fds)
    finally:
        listener.close()


def serve_tokens(root: str, sessions: Mapping[str, Mapping[int, int]]) -> dict[str, int]:
    """As resume.tokens.start(), but that the caller has seen that LUO is updated. Raises OSError.

    Blocks for a process's start and its opening of the device.
    """
    with ExitStack() as stack:
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, socket.socket] = {}
        for name in sessions:
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours[name], theirs[name] = map(stack.enter_context, pair)
        fds = {name: sock.fileno() for name, sock in ours.items()}
        said = json.dumps({name: [fds[name], told] for name, told in sessions.items()})
        _run("tokens", [root], fds.values(), said)
        return {name: sock.detach() for name, sock in theirs.items()}


def _run(module: str, words: Sequence[str], fds: Iterable[int], said: str = "") -> None:
    """It daemonises itself, so that nobody has to wait for it. said: to its standard input, since a word of
    its command line may have 128 KiB (Source: MAX_ARG_STRLEN in execve(2))."""
    place = str(Path(keeper.__file__).resolve().parents[2])
    try:
        subprocess.run(
            [sys.executable, "-ISE", "-c", _CODE.format(module=module), place, *words],
            pass_fds=tuple(fds),
            check=True,
            env={},
            cwd="/",
            input=said.encode(),
        )
    except subprocess.CalledProcessError as error:
        raise OSError(error.returncode, os.strerror(5)) from error
