"""What the blackout path must know before any settings are read: where the journal is, and the rest.

Sources, the first that says something:
- the environment: LIVEROLL_RESUME=JOURNAL:SOCKET and LIVEROLL_RESUME_ACCESS=MODE:GID (an emulated
  node, tests), with the keeper's socket beside the journal;
- a file of KEY=VALUE lines, written by the agent at each start: /var/lib/liveroll-agent/resume.conf,
  and where there is none, the one that the kernel's command line names (`liveroll.resume=PATH`).
  In this order, because the early init has no /proc yet, and mounting it is time.

The file's keys: JOURNAL, SOCKET, MODE (octal), GID, KEEPER, INIT, MOUNTS (of /run and the like, see
mounts.py; comma-separated). Others are ignored, so that an older early init reads a newer agent's
file. Only the file's owner can write it (mode 0600).
"""

from __future__ import annotations

import posix

from node_agent.resume.identity import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONF = "/var/lib/liveroll-agent/resume.conf"
CONF_WORD = "liveroll.resume="
INIT = "/sbin/init"
KEEPER_NAME = "keeper.sock"
CONF_BYTES_MAX = 16384


class Parameters:
    """journal, socket, mode, gid: as blackout.resume() takes them. keeper: the keeper's socket.
    init: what the early init becomes. mounts: what it must mount before."""

    __slots__ = ("gid", "init", "journal", "keeper", "mode", "mounts", "socket")

    def __init__(
        self,
        journal: str,
        socket: str,
        *,
        mode: int = 0o660,
        gid: int = -1,
        keeper: str = "",
        init: str = INIT,
        mounts: Sequence[str] = (),
    ) -> None:
        self.journal = journal
        self.socket = socket
        self.mode = mode
        self.gid = gid
        self.keeper = keeper or beside(journal)
        self.init = init
        self.mounts = tuple(mounts)

    def text(self) -> str:
        """The file's content."""
        return (
            f"JOURNAL={self.journal}\nSOCKET={self.socket}\nMODE={self.mode:o}\nGID={self.gid}\n"
            f"KEEPER={self.keeper}\nINIT={self.init}\nMOUNTS={','.join(self.mounts)}\n"
        )


def beside(journal: str) -> str:
    """The keeper's socket where nothing else is said."""
    return f"{journal.rpartition('/')[0]}/{KEEPER_NAME}"


def find(environ: Mapping[bytes, bytes]) -> Parameters | None:
    """Of this machine, or node; None where there are none."""
    return from_environment(environ) or of_machine()


def of_machine() -> Parameters | None:
    """What the file says."""
    return read(CONF) or read(named(command_line()))


def from_environment(environ: Mapping[bytes, bytes]) -> Parameters | None:
    """None if LIVEROLL_RESUME is not set, or makes no sense."""
    journal, _, socket = (
        environ.get(b"LIVEROLL_RESUME", b"").decode("utf-8", "surrogateescape").partition(":")
    )
    if not journal or not socket:
        return None
    mode, _, gid = environ.get(b"LIVEROLL_RESUME_ACCESS", b"660:-1").decode("ascii", "replace").partition(":")
    try:
        return Parameters(journal, socket, mode=int(mode, 8), gid=int(gid))
    except ValueError:
        return None


def named(command_line: str) -> str:
    """The file that a command line names, the last one if there are more; CONF if none."""
    for word in reversed(command_line.split()):
        if word.startswith(CONF_WORD):
            return word[len(CONF_WORD) :]
    return CONF


def read(path: str) -> Parameters | None:
    """None if the file is not there, not readable, makes no sense, or is not only root's (or ours) to
    write: it names what process 1 executes."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return None
    try:
        about = posix.fstat(fd)
        if about.st_uid not in (0, posix.geteuid()) or about.st_mode & 0o022:
            return None
        return parse(posix.read(fd, CONF_BYTES_MAX).decode("utf-8", "surrogateescape"))
    except OSError:
        return None
    finally:
        posix.close(fd)


def parse(text: str) -> Parameters | None:
    """The file's content; None if JOURNAL or SOCKET is missing, or MODE or GID is no number."""
    words = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            words[key.strip()] = value.strip()
    if not words.get("JOURNAL") or not words.get("SOCKET"):
        return None
    try:
        return Parameters(
            words["JOURNAL"],
            words["SOCKET"],
            mode=int(words.get("MODE") or "660", 8),
            gid=int(words.get("GID") or "-1"),
            keeper=words.get("KEEPER", ""),
            init=words.get("INIT") or INIT,
            mounts=[place for place in words.get("MOUNTS", "").split(",") if place],
        )
    except ValueError:
        return None


def write(path: str, parameters: Parameters) -> bool:
    """Make the file say this; whether it had to be written. Atomic, fsync'd: a jump may follow.

    Raises OSError; ValueError if a path has a newline.
    """
    data = parameters.text().encode("utf-8", "surrogateescape")
    for value in (parameters.journal, parameters.socket, parameters.keeper, parameters.init):
        if "\n" in value:
            raise ValueError(value)
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        pass
    else:
        try:
            if posix.read(fd, CONF_BYTES_MAX) == data:
                return False
        finally:
            posix.close(fd)
    beside_it = path + ".new"
    fd = posix.open(
        beside_it, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW, 0o600
    )
    try:
        posix.write(fd, data)
        posix.fsync(fd)
    finally:
        posix.close(fd)
    posix.replace(beside_it, path)
    directory = posix.open(path.rpartition("/")[0] or "/", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        posix.fsync(directory)
    finally:
        posix.close(directory)
    return True


def command_line() -> str:
    """The running kernel's; empty if it cannot be read."""
    return read_text("/proc/cmdline")
