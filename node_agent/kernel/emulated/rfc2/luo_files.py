"""The files that LUO preserves, by token, and what came in from the kernel before.

Rules
1. The kernel chooses tokens, counting up; none is used twice in one boot, nor one that came in.
2. Files are prepared in the order of their dependencies, then of their tokens, and undone in reverse. A
   dependency that is not preserved is ENOENT, a cycle ELOOP; both are found by PREPARE.
3. A file that came in is restored once: a second time is EINVAL. A handler's failure is its answer for ever;
   a caller that has no room for a descriptor (EMFILE, ENFILE) may come again.
4. Tokens stay valid over CANCEL.
5. cancel and finish cannot fail: what a handler raises is logged, and the others are called.

RFC v2 itself knew no order but the tokens' and let a file be registered twice; the order is the one that
the thread's participants need (memfd, iommufd, vfiofd), and the double registration is EEXIST here.

Source: luo_files.c of RFC v2.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from node_agent.kernel import failure as calls
from node_agent.kernel.emulated.rfc2.handlers import Handler, Inode, inode_of
from node_agent.kernel.emulated.rfc2.kho import Tree


@dataclass(slots=True)
class LuoFile:
    """One registered file. The descriptor is the kernel's own reference; -1 for one that came in."""

    token: int
    handler: Handler
    fd: int = -1
    inode: Inode = (0, 0)
    data: int = 0
    """Where its state is kept; 0 before it is prepared."""
    reclaimed: bool = False
    errno: int = 0
    """With which restoring it failed."""


class LuoFiles:
    """All of one boot.

    Args:
        handlers: in the order of registration; the first that can preserve a file gets it.
        log: gets what went wrong where nothing can be refused.
    """

    def __init__(self, handlers: Sequence[Handler], log: Callable[[str], None]) -> None:
        self.handlers = list(handlers)
        self._log = log
        self.outgoing: dict[int, LuoFile] = {}
        self.incoming: dict[int, LuoFile] = {}
        self._inodes: set[Inode] = set()
        """Of outgoing."""
        self._next_token = 0
        self._prepared: list[LuoFile] = []
        """In the order in which they were."""

    def look_up(self, fd: int) -> Inode:
        """fget(), as far as anybody sees it. Raises OSError: EBADF."""
        try:
            return inode_of(fd)
        except OSError as cause:
            raise OSError(cause.errno, calls.FD_PRESERVE) from cause

    def preserve(self, fd: int, inode: Inode) -> int:
        """A token. inode: what fd was looked up as. Raises OSError: ENOENT (no handler), EEXIST (it has a
        token), EMFILE."""
        handler = next((h for h in self.handlers if h.can_preserve(fd)), None)
        if handler is None:
            raise OSError(errno.ENOENT, calls.FD_PRESERVE)
        if inode in self._inodes:
            raise OSError(errno.EEXIST, calls.FD_PRESERVE)
        try:
            own = os.dup(fd)
        except OSError as cause:
            raise OSError(cause.errno, calls.FD_PRESERVE) from cause
        token, self._next_token = self._next_token, self._next_token + 1
        self.outgoing[token] = LuoFile(token, handler, own, inode)
        self._inodes.add(inode)
        return token

    def unpreserve(self, token: int) -> None:
        """Raises OSError: ENOENT."""
        file = self.outgoing.pop(token, None)
        if file is None:
            raise OSError(errno.ENOENT, calls.FD_UNPRESERVE)
        self._inodes.discard(file.inode)
        os.close(file.fd)

    def restore(self, token: int) -> int:
        """A new descriptor, the caller's. Raises OSError: ENOENT, EINVAL (a second time), its handler's."""
        file = self.incoming.get(token)
        if file is None:
            raise OSError(errno.ENOENT, calls.FD_RESTORE)
        if file.errno:
            raise OSError(file.errno, calls.FD_RESTORE)
        if file.reclaimed:
            raise OSError(errno.EINVAL, calls.FD_RESTORE)
        try:
            fd = file.handler.retrieve(file.data)
        except OSError as cause:
            number = cause.errno or errno.EIO
            if number not in (errno.EMFILE, errno.ENFILE):
                file.errno = number
            raise OSError(number, calls.FD_RESTORE) from cause
        file.reclaimed = True
        return fd

    # --- what LUO's events do

    def prepare(self) -> None:
        """Raises OSError; nothing is prepared then."""
        for file in _in_order(self.outgoing.values()):
            try:
                file.data = file.handler.prepare(file.fd)
            except OSError:
                self.cancel()
                raise
            self._prepared.append(file)

    def freeze(self) -> None:
        """Raises OSError: then some are frozen, and the caller cancels."""
        for file in self._prepared:
            file.data = file.handler.freeze(file.fd, file.data)

    def cancel(self) -> None:
        """Undo prepare, last first."""
        while self._prepared:
            file = self._prepared.pop()
            data, file.data = file.data, 0
            self._safely("cancel", file, partial(file.handler.cancel, file.fd, data))

    def finish(self) -> None:
        """Give back what came in, restored or not."""
        for file in self.incoming.values():
            self._safely("finish", file, partial(file.handler.finish, file.data, reclaimed=file.reclaimed))
        self.incoming = {}

    def _safely(self, what: str, file: LuoFile, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            self._log(
                f"luo_files: {what} failed for file token {file.token:#x} handler "
                f"'{file.handler.compatible}' [{-(error.errno or 0)}]"
            )

    # --- over the kexec

    def subtree(self) -> Tree:
        """What the node `file-descriptors` lists, in the order of prepare, with the newest addresses."""
        return {
            hex(file.token): {"compatible": file.handler.compatible, "data": file.data}
            for file in self._prepared
        }

    def arrive(self, tree: Tree) -> list[str]:
        """Take what came in; a message for each that has no handler here and is left alone."""
        complaints = []
        handlers: Mapping[str, Handler] = {handler.compatible: handler for handler in self.handlers}
        for name, node in tree.items():
            token = int(name, 16)
            self._next_token = max(self._next_token, token + 1)
            handler = handlers.get(node["compatible"])
            if handler is None:
                complaints.append(
                    f"luo_files: Skipping FDT node '{name}': No registered handler for compatible "
                    f"'{node['compatible']}'"
                )
                continue
            self.incoming[token] = LuoFile(token, handler, data=node["data"])
        return complaints

    def close(self) -> None:
        """The kernel is gone, and its open files with it; what is kept of them is not."""
        while self.outgoing:
            os.close(self.outgoing.popitem()[1].fd)
        self.incoming = {}


def _in_order(files: Iterable[LuoFile]) -> list[LuoFile]:
    """Dependencies first, else as given: by token. Raises OSError: ENOENT, ELOOP."""
    waiting = list(files)
    known = {file.inode for file in waiting}
    needs = {file.token: set(file.handler.depends_on(file.fd)) for file in waiting}
    if any(need - known for need in needs.values()):
        raise OSError(errno.ENOENT, calls.PREPARE)
    order: list[LuoFile] = []
    done: set[Inode] = set()
    while waiting:
        ready = next((file for file in waiting if needs[file.token] <= done), None)
        if ready is None:
            raise OSError(errno.ELOOP, calls.PREPARE)
        waiting.remove(ready)
        order.append(ready)
        done.add(ready.inode)
    return order
