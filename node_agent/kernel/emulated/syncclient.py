"""LUO's calls, blocking, from interpreter builtins only: for the blackout path and workloads.

The same functions work on a real kernel and on an emulated one: a device or session fd that is
a socket is spoken to over the wire (see wire), any other by ioctl(2). Failures are OSError with
the errno and, as strerror, the call's name (kernel/failure.py turns one into a KernelError).
The descriptors returned are CLOEXEC and the caller's.

Not here: why the wire looks as it does (wire), RFC v2's calls (synctokens), loading and jumping on a
real node.
"""

# _socket and posix, not socket and os: the blackout path may import interpreter builtins only.
import _socket
import errno
import fcntl
import posix
import sys

from node_agent.kernel import abi

OPEN = "open(/dev/liveupdate)"
MESSAGE_BYTES = 65536
SOCKET_PATH_BYTES = 107
"""Source: sun_path in unix(7), less its NUL. A longer path is reached through /proc/self/fd."""

FD_AT = 4
"""Where all of LUO's structs, as merged, have their descriptor. Source: abi."""

WIRE = "1"
"""Of control's words and answers: another number where one of them gets another meaning, or is gone. A node's
kernel is the program that the node was started with, its agents are what is installed when they start.
Session and device fds need no such number: what they carry is LUO's own ABI (abi.decode)."""

_S_IFMT, _S_IFSOCK = 0o170000, 0o140000
_KIND = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC


def open_session_create(root: str, name: str) -> int:
    """Open the device, CREATE_SESSION, close the device: a session fd.

    Args:
        root: the node's root directory; "" is this machine's real device.
        name: 1 to 63 bytes in UTF-8.
    """
    return _session(root, abi.CREATE_SESSION, name)


def retrieve_session(root: str, name: str) -> int:
    """Open the device, RETRIEVE_SESSION, close the device: a session fd. Closing its last copy
    finishes the session."""
    return _session(root, abi.RETRIEVE_SESSION, name)


def preserve_fd(session_fd: int, fd: int, token: int) -> None:
    """SESSION_PRESERVE_FD. The fd stays the caller's."""
    ioctl(session_fd, abi.SESSION_PRESERVE_FD, abi.pack_fd(fd, token), fd)


def retrieve_fd(session_fd: int, token: int) -> int:
    """SESSION_RETRIEVE_FD: a new fd on the preserved file."""
    argument = abi.pack_fd(-1, token)
    ioctl(session_fd, abi.SESSION_RETRIEVE_FD, argument)
    return abi.unpack_fd(argument)[0]


def finish(session_fd: int) -> None:
    """SESSION_FINISH."""
    ioctl(session_fd, abi.SESSION_FINISH, abi.pack_finish())


def session_name(session_fd: int) -> str:
    """SESSION_GET_NAME."""
    argument = abi.pack_name()
    ioctl(session_fd, abi.SESSION_GET_NAME, argument)
    return abi.unpack_name(argument).decode()


def open_device(root: str) -> int:
    """An fd on /dev/liveupdate, the only one on the node while it is open. EBUSY is normal."""
    path = root + "/dev/liveupdate"
    try:
        if posix.stat(path).st_mode & _S_IFMT != _S_IFSOCK:
            return posix.open(path, posix.O_RDWR | posix.O_CLOEXEC)
        device = connect(path)
    except OSError as cause:
        raise OSError(cause.errno, OPEN) from cause
    try:
        opened(device)
        return device.detach()
    finally:
        device.close()


def opened(device: _socket.socket) -> str:
    """Wait for what an emulated kernel says to a fresh connection to its device: its boot id."""
    return _receive(device, OPEN)[0].decode()


def ioctl(
    fd: int,
    number: int,
    argument: bytearray,
    passed_fd: int | None = None,
    *,
    call: str = "",
    fd_at: int = FD_AT,
) -> None:
    """One LUO ioctl on a real or an emulated fd; the argument is updated in place.

    Args:
        passed_fd: the descriptor to preserve, which an emulated kernel must be sent.
        call: its name, where it is not one of abi's.
        fd_at: where in the argument a new descriptor is put.
    """
    call = call or abi.CALL_NAMES.get(number, "ioctl")
    if posix.fstat(fd).st_mode & _S_IFMT != _S_IFSOCK:
        try:
            fcntl.ioctl(fd, number, argument, True)
        except OSError as cause:
            raise OSError(cause.errno, call) from cause
        return
    reply = ask(fd, number, argument, passed_fd, call)
    try:
        take(reply, argument, call, fd_at)
    finally:
        reply.close()


def ask(
    fd: int, number: int, argument: bytearray, passed_fd: int | None = None, call: str = "ioctl"
) -> _socket.socket:
    """The first half of an emulated ioctl: the socket on which the answer will come."""
    if passed_fd is not None:
        try:  # before a socket of ours takes the number of an fd that is not open
            posix.fstat(passed_fd)
        except OSError as cause:
            raise OSError(cause.errno, call) from cause
    mine, theirs = _socket.socketpair(_socket.AF_UNIX, _KIND, 0)
    with_fds = theirs.fileno().to_bytes(4, sys.byteorder)
    if passed_fd is not None:
        with_fds += passed_fd.to_bytes(4, sys.byteorder, signed=True)
    carrier = _socket.socket(_socket.AF_UNIX, _KIND, 0, fileno=fd)
    try:
        carrier.sendmsg(
            [number.to_bytes(4, sys.byteorder), argument],
            [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, with_fds)],
            _socket.MSG_NOSIGNAL,
        )
    except OSError as cause:
        mine.close()
        gone = cause.errno in (errno.EPIPE, errno.ECONNRESET)
        raise OSError(errno.ESHUTDOWN if gone else cause.errno, call) from cause
    finally:
        carrier.detach()
        theirs.close()
    return mine


def take(reply: _socket.socket, argument: bytearray, call: str = "ioctl", fd_at: int = FD_AT) -> None:
    """The second half: wait for the answer and write it to the argument, a new fd included."""
    answer, fd = _receive(reply, call)
    argument[: len(answer)] = answer
    if fd:
        argument[fd_at : fd_at + 4] = fd


def control(root: str, *words: str) -> str:
    """One word to an emulated node's kernel beside LUO (see process): its answer.

    Blocks as long as the kernel does; "reboot" does not return unless it is refused, or the
    caller is no part of the node's userspace (ESHUTDOWN, once the node has gone).
    """
    sock = ask_control(root, *words)
    try:
        return take_control(sock, words[0])
    finally:
        sock.close()


def ask_control(root: str, *words: str) -> _socket.socket:
    """The first half of control(). Raises OSError(EMSGSIZE): the kernel would not read all of it."""
    message = "\0".join(words).encode()
    if len(message) > MESSAGE_BYTES:
        raise OSError(errno.EMSGSIZE, words[0])
    try:
        sock = connect(root + "/dev/kexec")
    except OSError as cause:
        raise OSError(cause.errno, CONTROL_CALLS.get(words[0], words[0])) from cause
    sock.send(message, _socket.MSG_NOSIGNAL)
    return sock


def take_control(sock: _socket.socket, word: str) -> str:
    """The second half of control()."""
    return _receive(sock, CONTROL_CALLS.get(word, word))[0].decode()


FACTS = "facts"
CONTROL_CALLS = {"load": "kexec_file_load", "reboot": "reboot(LINUX_REBOOT_CMD_KEXEC)"}
"""The kernel's name of what a control word stands for, where it has one."""


def facts(root: str) -> dict[str, str]:
    """What this boot of an emulated node is: BootFacts' fields, kernel_started_s, powered_on_s
    (seconds of the host's CLOCK_BOOTTIME), tsc_hz and rtc_grain_s, as text.

    Raises OSError(EPROTO): its kernel process is another program than this one.
    """
    return read_facts(control(root, FACTS))


def read_facts(answer: str) -> dict[str, str]:
    """See facts()."""
    pairs = (line.partition("=") for line in answer.splitlines())
    told = {key: value for key, _, value in pairs}
    if told.get("wire") != WIRE:
        raise OSError(errno.EPROTO, FACTS)
    return told


def connect(path: str) -> _socket.socket:
    """A SEQPACKET connection to a socket file, however long its path. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _KIND, 0)
    directory = -1
    try:
        if len(path.encode()) > SOCKET_PATH_BYTES:
            head, _, tail = path.rpartition("/")
            directory = posix.open(head, posix.O_PATH | posix.O_CLOEXEC)
            path = f"/proc/self/fd/{directory}/{tail}"
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    finally:
        if directory >= 0:
            posix.close(directory)
    return sock


def _session(root: str, number: int, name: str) -> int:
    raw = name.encode()
    if len(raw) >= abi.SESSION_NAME_BYTES:
        raise OSError(errno.EINVAL, abi.CALL_NAMES[number])
    device = open_device(root)
    try:
        argument = abi.pack_session(name)
        ioctl(device, number, argument)
        return abi.unpack_session(argument)[0]
    finally:
        posix.close(device)


def _receive(sock: _socket.socket, call: str) -> tuple[bytes, bytes]:
    """(what follows the result, a raw fd or nothing). Raises OSError for an answer that is an
    error, EMFILE for one whose fd found no room here, and ESHUTDOWN for the connection's end: that
    boot, or that kernel, is over."""
    try:
        body, ancillary, flags, _ = sock.recvmsg(
            MESSAGE_BYTES, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        body, ancillary, flags = b"", [], 0
    if len(body) < 4:
        raise OSError(errno.ESHUTDOWN, call)
    result = int.from_bytes(body[:4], sys.byteorder, signed=True)
    if result < 0:
        raise OSError(-result, call)
    # Source: scm_detach_fds() in net/core/scm.c: what cannot be installed is dropped, and this is all that
    # tells it.
    if flags & _socket.MSG_CTRUNC:
        raise OSError(errno.EMFILE, call)
    return body[4:], ancillary[0][2][:4] if ancillary else b""
