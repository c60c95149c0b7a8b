"""A kernel of RFC v2's as far as the blackout path asks one: files by token, each given out once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from node_agent.kernel import rfc2_abi
from node_agent.kernel.emulated import wire
from tests.descriptors import descriptors

WAIT_S = 10.0


class Kernel:
    """Serves devices, each on a thread of its own. Waits where it is told to.

    files: content by token.
    """

    def __init__(self, files: dict[int, bytes]) -> None:
        self.asked: list[int] = []
        """Tokens, in the order of FD_RESTORE."""
        self.state = rfc2_abi.UPDATED
        self.busy = 0
        """Opens to refuse."""
        self.opens = 0
        self.without_fd: set[int] = set()
        """Tokens whose answer is a success, and nothing comes with it."""
        self.go = threading.Event()
        self.go.set()
        self.was_asked = threading.Semaphore(0)
        self._files = files
        self._given: set[int] = set()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def open(self) -> int:
        """A device's fd, the caller's."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._serve(ours)
        return theirs.detach()

    def listen(self, root: Path) -> None:
        """Be there for whoever opens the device below this root."""
        path = root / "dev" / "liveupdate"
        path.parent.mkdir(parents=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(path))
        listener.listen()
        self._ends.append(listener)
        self._start(threading.Thread(target=self._accept, args=(listener,)))

    def end(self) -> None:
        """Everybody sees it."""
        self.go.set()
        for end in self._ends:
            # One whose other end is closed already is no more connected.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """It ends, and nothing of it is left."""
        self.end()
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        for end in self._ends:
            end.close()

    def _start(self, thread: threading.Thread) -> None:
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                device, _ = listener.accept()
            except OSError:
                return
            self.opens += 1
            if self.busy:
                self.busy -= 1
                device.send(wire.RESULT.pack(-errno.EBUSY))
                device.close()
                continue
            device.send(wire.RESULT.pack(0))
            self._serve(device)

    def _serve(self, device: socket.socket) -> None:
        self._ends.append(device)
        self._start(threading.Thread(target=self._answer_all, args=(device,)))

    def _answer_all(self, device: socket.socket) -> None:
        while (request := wire.receive(device)) is not None:
            (number,) = wire.NUMBER.unpack_from(request.body)
            argument = request.body[wire.NUMBER.size :]
            if number == rfc2_abi.GET_STATE:
                request.answer(0, rfc2_abi.STATE_STRUCT.pack(self.state))
                continue
            assert number == rfc2_abi.FD_RESTORE
            _, flags, token = rfc2_abi.FD_STRUCT.unpack(argument)
            assert flags == 0
            self.asked.append(token)
            self.was_asked.release()
            self.go.wait(WAIT_S)
            self._restore(request, token, argument)

    def _restore(self, request: wire.Request, token: int, argument: bytes) -> None:
        if token not in self._files or token in self._given:
            request.answer(-(errno.EINVAL if token in self._given else errno.ENOENT))
            return
        self._given.add(token)
        if token in self.without_fd:
            request.answer(0, argument)
            return
        fd = os.memfd_create("restored")
        os.write(fd, self._files[token])
        request.answer(0, argument, fd)
        os.close(fd)


@contextlib.contextmanager
def listening(root: Path) -> Iterator[Kernel]:
    """One with two files, below root. What was forked must not keep anything of ours, nor we of its."""
    before = descriptors()
    kernel = Kernel({50: b"vm's memory", 60: b"other's"})
    kernel.listen(root)
    yield kernel
    kernel.close()
    assert not descriptors() - before
