"""A node with filesystems that can be frozen, and a reboot that can be refused."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from node_agent.kernel.failure import REBOOT
from node_agent.runtime.mounts import Mount


@dataclass
class FakeNode:
    """What happened, in order, and what is frozen."""

    told: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    reboot_meets: list[str] = field(default_factory=list)
    """What was frozen when reboot was called."""
    refuses: int = errno.EBUSY
    in_reboot: Callable[[], None] = lambda: None

    def reboot(self) -> None:
        self.told.append("reboot")
        self.reboot_meets = list(self.frozen)
        self.in_reboot()
        raise OSError(self.refuses, REBOOT)

    def sync(self) -> None:
        self.told.append("sync")


class FakeDisk:
    """One filesystem. kind: good, cannot (only written back), theirs (frozen by somebody else)."""

    def __init__(self, node: FakeNode, number: int, name: str, kind: str = "good") -> None:
        self.node, self.name, self.kind = node, name, kind
        self._mount = Mount(number, f"/{name}")
        self.hangs: threading.Event | None = None
        """A freeze waits for it."""
        self.reached = threading.Event()
        self.closed = False

    @property
    def mount(self) -> Mount:
        return self._mount

    def fileno(self) -> int:
        return 0

    def freeze(self) -> bool:
        self.reached.set()
        if self.hangs is not None:
            assert self.hangs.wait(20)
        self.node.told.append(f"freeze {self.name}")
        if self.kind != "good":
            return False
        self.node.frozen.append(self.name)
        return True

    def thaw(self) -> None:
        assert not self.closed
        self.node.told.append(f"thaw {self.name}")
        self.node.frozen.remove(self.name)

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeGuard:
    """Knows what is marked frozen."""

    marked: list[int] = field(default_factory=list)
    ended: bool = False
    is_alive: bool = True

    def tell(self, index: int, *, frozen: bool) -> None:
        if frozen:
            self.marked.append(index)
        elif index in self.marked:
            self.marked.remove(index)

    def alive(self) -> bool:
        return self.is_alive and not self.ended

    def end(self) -> None:
        self.ended = True
