"""The process that thaws what a dead agent has left frozen.

    python -I -S quiesce_guard.py FD…

Started before anything is frozen, with an fd of each filesystem. Standard input is the agent: a line `+N`
says that the filesystem of the N-th fd is about to be frozen, `-N` that it is not, or not any more. At the
end of input, which is the end of the agent's last thread, one inside reboot(2) included, what is still
marked is thawed, last first.

It is a process of its own because nobody else can: the agent is dead, and whoever would start it again
may itself wait for a frozen filesystem. Nothing here writes to a file, and nothing is imported that was
not needed: this starts while workloads run degraded.
"""

from __future__ import annotations

import fcntl
import posix
import signal
import sys

FITHAW = 0xC0045878
READY = b"\n"


def main(fds: list[int]) -> None:
    """Until the end of standard input."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever ends the agent's service asks the whole of it to end: this ends with the agent anyway.
        signal.signal(number, signal.SIG_IGN)
    posix.write(1, READY)
    frozen: list[int] = []
    pending = b""
    while data := posix.read(0, 4096):
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            index = int(line[1:])
            if line[:1] == b"+":
                frozen.append(index)
            elif index in frozen:
                frozen.remove(index)
    for index in reversed(frozen):
        try:
            fcntl.ioctl(fds[index], FITHAW, 0)
        except OSError:  # it was not frozen yet
            continue


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
