"""What luoctl does with files: makes a memfd to preserve; writes a restored one out, or hands it on.

Standard library only; imported by the verbs that need it.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from node_agent.luoctl_terms import FD_ENV, TOKEN_ENV, Unusable

CHUNK_BYTES = 1 << 20


def inherited(fd: int) -> int:
    """A descriptor that the shell opened for luoctl. Raises Unusable."""
    try:
        os.fstat(fd)
    except OSError as error:
        raise Unusable(
            f"descriptor {fd} is not open; open it for luoctl in the shell: luoctl preserve {fd} {fd}<>FILE"
        ) from error
    return fd


def memfd_of(path: str) -> int:
    """A memfd with that file's content, at its beginning; `-` is stdin. Raises Unusable."""
    fd = os.memfd_create(f"luoctl:{os.path.basename(path)}"[:200], os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as copy:
            if path == "-":
                shutil.copyfileobj(sys.stdin.buffer, copy, CHUNK_BYTES)
            else:
                with open(path, "rb") as source:
                    shutil.copyfileobj(source, copy, CHUNK_BYTES)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError as error:
        os.close(fd)
        raise Unusable(f"{path}: {error.strerror or error}") from error
    return fd


class Sink:
    """Somewhere to write a restored file's content: ready before the file is asked for, as a context manager.

    A file is replaced whole or not at all; `-` (stdout), and what is no regular file, is written to as it is.

    Raises (constructor): Unusable.
    """

    def __init__(self, path: str) -> None:
        self._path, self._temporary = path, ""
        try:
            if path == "-":
                self._out = os.dup(sys.stdout.fileno())
            elif os.path.exists(path) and not os.path.isfile(path):
                self._out = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            else:
                directory = os.path.dirname(os.path.abspath(path))
                self._out, self._temporary = tempfile.mkstemp(prefix=".luoctl-", dir=directory)
        except OSError as error:
            raise Unusable(f"{path}: {error.strerror or error}") from error

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        if self._temporary:
            os.unlink(self._temporary)

    def write(self, fd: int) -> int:
        """All of it, from its beginning whatever its offset is; how many bytes. Raises OSError."""
        at = 0
        while chunk := os.pread(fd, CHUNK_BYTES, at):
            at += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._out, view) :]
        if self._temporary:
            os.replace(self._temporary, self._path)
            self._temporary = ""
        return at


def has_content(fd: int) -> bool:
    """Is it a file that has bytes, or one that does something (an eventfd, a device)?"""
    return stat.S_ISREG(os.fstat(fd).st_mode)


def find_command(command: Sequence[str]) -> None:
    """Raises Unusable: there is no such command."""
    if not command:
        raise Unusable("name a COMMAND after --")
    if shutil.which(command[0]) is None:
        raise Unusable(f"{command[0]}: no such command")


def become(command: Sequence[str], fd: int, token: int) -> NoReturn:
    """Replace this process with a command that inherits the file, read from its beginning. Raises OSError."""
    with suppress(OSError):
        os.lseek(fd, 0, os.SEEK_SET)
    os.set_inheritable(fd, True)
    environ = {**os.environ, FD_ENV: str(fd), TOKEN_ENV: str(token)}
    sys.stdout.flush()
    os.execvpe(command[0], list(command), environ)  # noqa: S606 - what the operator said
