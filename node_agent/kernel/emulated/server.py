"""KernelServer: the sockets of a kernel process, one loop, one thread.

Rules:
- `<root>/dev/liveupdate` (mode 0600, there only if this boot has LUO): connecting is opening;
  the first message from the kernel is the open's result, and which boot this is.
- session fds are socketpair ends: the end of one is the close of its last copy, anywhere.
- `<root>/dev/kexec`: one connection a call, words separated by NUL; see control.
- within a round, ends are seen before requests: what a process closed before it asked is closed.
- `<root>/dev/iommu`, `dev/kvm`, `dev/vfio/ADDRESS`, in a boot of RFC v2's time: see object_sockets.
- a call that hangs, and a reboot that succeeds, are never answered. One that waits for a lock of RFC v2's
  LUO is dropped with its caller.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node_agent.kernel import abi
from node_agent.kernel.emulated import wire
from node_agent.kernel.emulated.control import KernelControl
from node_agent.kernel.emulated.model import LuoModel, OutOfMemory
from node_agent.kernel.emulated.object_sockets import ObjectSockets
from node_agent.kernel.emulated.rfc2 import ioctls
from node_agent.kernel.emulated.rfc2.lock import Hang
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.emulated.syncclient import SOCKET_PATH_BYTES
from node_agent.kernel.emulated.view_files import ViewFiles
from node_agent.kernel.failure import OPEN

_HANG_UP = select.EPOLLHUP | select.EPOLLRDHUP

VIEWS_LAG_S = 0.005
"""So long after the last of a run of calls on files their views may be of before: a few thousand calls in a
row would else write as many files, each as long as all calls so far. Whatever else is asked sees them new."""
_OF_FILES = frozenset({"fd_preserve", "fd_unpreserve", "fd_restore"})
_EVENTS = frozenset({"prepare", "freeze", "cancel", "finish", "reboot", "debugfs_write"})


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One socket of the server: serve() reads one message and is False at the end."""

    sock: socket.socket
    serve: Callable[[socket.socket], bool]
    end: Callable[[], None]


class KernelServer:
    """Serves one boot after another of a model.

    Args:
        root: the node's root directory; dev/ is made in it.
        facts: what else `facts` tells, beside the model's.
    """

    def __init__(self, root: Path, model: LuoModel, facts: Callable[[], Mapping[str, str]]) -> None:
        self._dev = root / "dev"
        self._dev.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._control = KernelControl(model, facts)
        self._epoll = select.epoll()
        self._endpoints: dict[int, _Endpoint] = {}
        self._waiting: list[wire.Request | socket.socket] = []
        self._paths: list[Path] = []
        """Of this boot's sockets."""
        self._views = ViewFiles(root)
        self._views_are_old = False

    @property
    def rebooting(self) -> bool:
        """A reboot is past its point of no return: the caller kills userspace, then sever()."""
        return self._control.rebooting

    @property
    def power_lost(self) -> bool:
        """Somebody pulled the plug: the caller does the same, then a cold boot."""
        return self._control.power_lost

    def watch(self, sock: socket.socket) -> None:
        """End a poll() when this socket can be read; it is read empty, and stays the caller's."""
        self._add(sock, _drain, lambda: None)

    def listen(self) -> None:
        """Make this boot's sockets, and its views."""
        self._show()
        self._listen("kexec", self._accept_control)
        if self._model.luo:
            self._listen("liveupdate", self._accept_device)
        if self._model.objects is not None:
            ObjectSockets(self._model.objects, self._listen, self._add, self._serve_request)

    def sever(self, keep: socket.socket | None = None) -> None:
        """The boot is over: every socket but `keep` becomes a dead end, nothing is closed in
        the model."""
        for endpoint in tuple(self._endpoints.values()):
            if endpoint.sock is not keep:
                self._forget(endpoint.sock)
        for waiting in self._waiting:
            waiting.close()
        self._waiting.clear()
        while self._paths:
            self._paths.pop().unlink(missing_ok=True)
        self._control.rebooting = self._control.power_lost = False
        self._views_are_old = False
        self._views.show({})

    def close(self) -> None:
        self.sever()
        self._views.close()
        self._epoll.close()

    def poll(self, timeout_s: float | None) -> None:
        """Wait for messages and serve one round of them; a reboot or power loss ends the round."""
        if self._views_are_old:
            timeout_s = VIEWS_LAG_S if timeout_s is None else min(timeout_s, VIEWS_LAG_S)
        ready = self._epoll.poll(timeout_s, len(self._endpoints) + 1)
        if self._views_are_old and not ready:
            self._show()
        for fd, events in sorted(ready, key=lambda event: not event[1] & _HANG_UP):
            open_still = self._serve(fd)
            while open_still and events & _HANG_UP and not self.rebooting:
                open_still = self._serve(fd)
            if self.rebooting or self.power_lost:
                return

    def _serve(self, fd: int) -> bool:
        """One message of one socket; False at its end."""
        endpoint = self._endpoints.get(fd)
        if endpoint is None:
            return False
        if endpoint.serve(endpoint.sock):
            return True
        self._forget(endpoint.sock)
        endpoint.end()
        return False

    # --- views

    def _show(self) -> None:
        self._views_are_old = False
        with suppress(OSError):  # no room: a view that is not there is no matter of the kernel's
            self._views.show(self._model.views())

    def _seen(self, call: str) -> None:
        """A call was made: before its answer, what it changed can be read."""
        if call in _OF_FILES:
            self._views_are_old = True
        elif call in _EVENTS or self._views_are_old:
            self._show()

    # --- sockets

    def _listen(self, name: str, accept: Callable[[socket.socket], bool]) -> None:
        path = self._dev / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with _short(path) as short:
            listener.bind(short)
        path.chmod(0o600)
        listener.listen(128)
        self._paths.append(path)
        self._add(listener, accept, lambda: None)

    def _add(
        self, sock: socket.socket, serve: Callable[[socket.socket], bool], end: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._endpoints[sock.fileno()] = _Endpoint(sock, serve, end)
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)

    def _wait(self, sock: socket.socket, killed: Callable[[], None]) -> None:
        """Nothing is read from this socket any more but its end."""
        self._endpoints[sock.fileno()] = _Endpoint(sock, _listens, killed)

    def _forget(self, sock: socket.socket) -> None:
        del self._endpoints[sock.fileno()]
        self._epoll.unregister(sock)
        sock.close()

    # --- /dev/liveupdate

    def _accept_device(self, listener: socket.socket) -> bool:
        try:
            device, _ = listener.accept()
        except BlockingIOError:
            return True
        peer = device.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, wire.CREDENTIALS.size)
        _, uid, _ = wire.CREDENTIALS.unpack(peer)
        if self._model.hangs("open_device"):
            self._waiting.append(device)
            return True
        try:
            self._model.open_device(uid)
        except OSError as cause:
            _tell(device, -(cause.errno or errno.EIO))
            device.close()
            return True
        serve = self._serve_device if self._model.rfc2 is None else self._serve_tokens
        self._add(device, serve, self._model.close_device)
        _tell(device, 0, self._model.boot_id.encode())
        return True

    def _serve_tokens(self, sock: socket.socket) -> bool:
        """RFC v2's device."""

        def call(request: wire.Request) -> None:
            number, argument = ioctls.decode(request.body)
            name = ioctls.CALLS[number]
            if hang := self._model.hangs(name):
                self._waiting.append(request)
                if hang is Hang.WAITS and request.reply is not None:
                    self._add(request.reply, _listens, lambda: self._wait_killed(request, name))
                return
            try:
                answer = ioctls.call(self._luo(), number, argument, request.fd)
            finally:
                self._seen(name)
            wire.answer(request, *answer)

        return self._serve_request(sock, call)

    def _luo(self) -> Luo:
        assert self._model.rfc2 is not None, "a device of RFC v2 in a boot that has none"
        return self._model.rfc2.the_luo(OPEN)

    def _wait_killed(self, request: wire.Request, call: str) -> None:
        self._waiting.remove(request)
        request.close()
        self._model.wait_killed(call)

    def _serve_device(self, sock: socket.socket) -> bool:
        def call(request: wire.Request) -> None:
            number, argument = abi.decode(request.body, *abi.DEVICE_IOCTLS)
            if self._model.hangs(wire.CALLS[number]):
                self._waiting.append(request)
                return
            session = wire.device_call(self._model, number, argument)
            userspace, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._add(kernel, self._session_server(session), lambda: self._model.close(session))
            with userspace:
                request.answer(0, argument, userspace.fileno())

        return self._serve_request(sock, call)

    def _session_server(self, session: LuoSession) -> Callable[[socket.socket], bool]:
        def call(request: wire.Request) -> None:
            number, argument = wire.decode_session(request.body, incoming=session.incoming)
            if self._model.hangs(wire.CALLS[number]):
                self._waiting.append(request)
                return
            wire.answer(request, *wire.session_call(self._model, session, number, argument, request.fd))

        return lambda sock: self._serve_request(sock, call)

    def _serve_request(self, sock: socket.socket, call: Callable[[wire.Request], None]) -> bool:
        try:
            request = wire.receive(sock)
        except BlockingIOError:
            return True
        if request is None:
            return False
        try:
            call(request)
        except OSError as cause:
            request.answer(-(cause.errno or errno.EIO))
        except OutOfMemory:
            self._waiting.append(request)
            request.kill_caller()
        return True

    # --- /dev/kexec

    def _accept_control(self, listener: socket.socket) -> bool:
        try:
            caller, _ = listener.accept()
        except BlockingIOError:
            return True
        self._add(caller, self._serve_control, lambda: None)
        return True

    def _serve_control(self, sock: socket.socket) -> bool:
        try:
            body = sock.recv(wire.MESSAGE_BYTES)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not body:
            return False
        word, *arguments = body.decode(errors="replace").split("\0")
        if hang := self._model.hangs(word):
            if hang is Hang.WAITS:
                self._wait(sock, lambda: self._model.wait_killed(word))
            return True
        try:
            answer = self._control.answer(word, arguments).encode()
            if wire.RESULT.size + len(answer) > wire.MESSAGE_BYTES:
                raise OSError(errno.EMSGSIZE, word)  # sent all the same, its end would be missing
        except OSError as cause:
            self._seen(word)
            _tell(sock, -(cause.errno or errno.EIO))
            return False
        if self.rebooting or self.power_lost:
            return True
        self._seen(word)
        _tell(sock, 0, answer)
        return False


def _drain(sock: socket.socket) -> bool:
    with suppress(BlockingIOError):
        sock.recv(4096)
    return True


def _listens(reply: socket.socket) -> bool:
    """Is there still somebody who waits for this answer?"""
    try:
        return bool(reply.recv(1))
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def _tell(sock: socket.socket, result: int, body: bytes = b"") -> None:
    with suppress(OSError):  # a caller that is gone is seen as this socket's end
        sock.send(wire.RESULT.pack(result) + body, socket.MSG_NOSIGNAL)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A spelling of a socket's path that fits in sun_path."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
