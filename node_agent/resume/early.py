"""What the early init does as process 1, before the node's real init is there.

    init=/usr/lib/liveroll/init          on the target's command line

It forks, and process 1 becomes the real init at once, which starts the workloads. The child looks for a
JumpIntent; without one, or without sessions to retrieve, it ends. With them it does the blackout
path and is the keeper after it: it holds the sessions, answers CLAIMs and gives the whole Handover
to the first agent that asks (take.py).

Whatever goes wrong, process 1 becomes the real init: then the agent does the path when it starts.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix

from node_agent.resume import blackout, keeper
from node_agent.resume.mounts import mount_missing
from node_agent.resume.offer import Offer
from node_agent.resume.parameters import CONF, INIT, Parameters, command_line, named, read

LAST_RESORTS = (INIT, "/bin/init", "/bin/sh")
"""As the kernel itself would try. Source: init/main.c, kernel_init()."""


COERCED = (b"LC_CTYPE", b"C.UTF-8")


def main(argv: list[str]) -> None:
    """Never returns in process 1 while there is anything to become."""
    init = INIT
    try:
        parameters = read(CONF) or _from_command_line()
        if parameters is not None:
            init = parameters.init
            mount_missing(parameters.mounts)
            # The child does not wait until this memory is its own (our exec): the page copies that
            # saves are less than the wait, measured on one processor.
            if posix.fork() == 0:
                _be_child(parameters)
    except BaseException as error:  # noqa: BLE001 - see above
        complain(error)
    become(init, argv[1:])


def _from_command_line() -> Parameters | None:
    mount_missing(["/proc"])
    return read(named(command_line()))


def become(init: str, arguments: list[str]) -> None:
    """Execute the real init, or what else there is, as the kernel would have started it. Raises
    OSError if there is nothing."""
    # Python ignores these, and what is ignored stays ignored over an exec.
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    # Python's too, where no locale is set (PEP 538); every service would inherit it.
    environment = {key: value for key, value in posix.environ.items() if (key, value) != COERCED}
    for path in (init, *LAST_RESORTS):
        try:
            posix.execve(path, [path, *arguments], environment)
        except OSError:
            continue
    raise OSError(2, init)


def _be_child(parameters: Parameters) -> None:
    """Never returns."""
    try:
        run(parameters)
    except BaseException as error:  # noqa: BLE001 - the agent does the path itself
        complain(error)
    finally:
        posix._exit(0)


def complain(error: BaseException) -> None:
    """On the console: there is no other place yet."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else ""
    posix.write(2, f"liveroll init: {type(error).__name__}: {error} ({where})\n".encode())


def _fill_standard_fds() -> None:
    """A kernel without a console starts process 1 without them. What is opened then gets their
    numbers, and the keeper gives those to /dev/null: a session would be finished by it."""
    while (fd := posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)) <= 2:
        pass
    posix.close(fd)


def run(parameters: Parameters, root: str = "") -> None:
    """The blackout path, then the keeper, until nothing is left to keep."""
    _fill_standard_fds()
    handover = blackout.begin(root=root, journal_path=parameters.journal, first=not root)
    if not handover.attempt:
        return
    # Before anything is retrieved: what cannot be kept is left in the kernel, for the agent.
    listener = keeper.listen(parameters.keeper)
    sessions = blackout.retrieve(handover, root)
    if not sessions:
        # Nothing crossed: the agent finds that again, with the errors.
        posix.unlink(parameters.keeper)
        return
    blackout.confirm(handover)
    if handover.sessions:
        blackout.listen(handover, parameters.socket, parameters.mode, parameters.gid)
    offer = Offer(handover, blackout.DEADLINE_S)
    keeper.reap(handover.forked)
    keeper.settle(
        [
            fd
            for fd in (
                listener.fileno(),
                handover.journal_fd,
                handover.listener_fd,
                handover.token_fd,
                *sessions.values(),
            )
            if fd >= 0
        ]
    )
    keeper.Keeper(listener, sessions, offer).run()
