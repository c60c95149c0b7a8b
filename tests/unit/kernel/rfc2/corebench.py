"""KHO and LUO for tests: nodes to bring into a state, and a LUO whose participants fail when told to."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from node_agent.kernel.emulated.files import Inode, inode_of
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.model import Jump, LuoModel
from node_agent.kernel.emulated.rfc2.handlers import MemfdHandler
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.kho import Kho
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.emulated.rfc2.luo_files import LuoFiles
from node_agent.kernel.emulated.rfc2.memory import Blob, Memory
from node_agent.kernel.emulated.rfc2.states import Coupling, LuoState
from node_agent.kernel.emulated.rfc2.subsystems import Subsystems
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage

COMMAND_LINE = "kho=on liveupdate=on"
NORMAL, PREPARED, FROZEN, UPDATED = LuoState
COUPLINGS = tuple(Coupling)
FAILS_WITH = errno.EIO
"""Told apart from what LUO itself answers."""


@contextmanager
def raises(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def descriptors() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd"))


# --- nodes


def node(
    coupling: Coupling = Coupling.LUO_DRIVEN,
    *,
    faults: str = "",
    command_line: str = COMMAND_LINE,
    images: dict[str, EmulatedImage] | None = None,
    **properties: Any,
) -> LuoModel:
    """A node whose kernels are all of this kind, but for `images` by release. They carry nothing by
    themselves unless asked to."""
    numbers = itertools.count(1)
    image = EmulatedImage.rfc2("6.16-a", coupling=str(coupling), **{"telemetry": False, **properties})
    return LuoModel(
        image,
        new_boot_id=lambda: f"boot-{next(numbers)}",
        command_line=command_line,
        images=ImageTable(images or {}, otherwise=image),
        faults=FaultPlan.parse(faults),
    )


def rfc2_of(model: LuoModel) -> Rfc2:
    assert model.rfc2 is not None
    return model.rfc2


def luo_of(model: LuoModel) -> Luo:
    return rfc2_of(model).the_luo("test")


def load(model: LuoModel, release: str = "6.16-b", command_line: str = COMMAND_LINE) -> None:
    model.load(KexecImage("", "", command_line, release))


def kexec(model: LuoModel, release: str = "6.16-b", command_line: str = COMMAND_LINE) -> None:
    """Load, reboot, arrive."""
    load(model, release, command_line)
    model.freeze()
    assert model.jump() == Jump(arrived=True)
    model.arrive()


def bring(model: LuoModel, state: LuoState) -> Luo:
    """A node's LUO from NORMAL into a state, by the shortest way."""
    if state is not NORMAL:
        luo_of(model).prepare()
    if state is FROZEN:
        luo_of(model).freeze()
    if state is UPDATED:
        kexec(model)
    assert luo_of(model).state is state
    return luo_of(model)


def memfd(content: bytes = b"memory") -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


# --- a LUO alone, with participants that fail when told to


@dataclass
class Script:
    """What participants were called for, and which call fails."""

    called: list[tuple[str, str]] = field(default_factory=list)
    """(what, who)"""
    failing: set[tuple[str, str]] = field(default_factory=set)
    watch: Callable[[], None] = lambda: None
    """Called with each."""

    def step(self, what: str, who: str) -> None:
        self.called.append((what, who))
        self.watch()
        if (what, who) in self.failing:
            raise OSError(FAILS_WITH, f"{what} of {who}")

    def of(self, what: str) -> list[str]:
        """Who was called for it, in order."""
        return [who for called, who in self.called if called == what]


class Files(MemfdHandler):
    """Memory files by name. cancel and finish give back even when they fail."""

    def __init__(self, memory: Memory, script: Script) -> None:
        super().__init__(memory)
        self._script = script
        self.names: dict[Inode, str] = {}
        self.needs: dict[str, tuple[int, ...]] = {}
        """Name → descriptors of what it depends on."""

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return tuple(inode_of(other) for other in self.needs.get(self._name(fd), ()))

    def prepare(self, fd: int) -> int:
        self._script.step("prepare", self._name(fd))
        return super().prepare(fd)

    def freeze(self, fd: int, data: int) -> int:
        self._script.step("freeze", self._name(fd))
        return super().freeze(fd, data)

    def cancel(self, fd: int, data: int) -> None:
        super().cancel(fd, data)
        self._script.step("cancel", self._name(fd))

    def retrieve(self, data: int) -> int:
        self._script.step("retrieve", self._name_at(data))
        return super().retrieve(data)

    def finish(self, data: int, *, reclaimed: bool) -> None:
        name = self._name_at(data)
        super().finish(data, reclaimed=reclaimed)
        self._script.step("finish", name)

    def _name(self, fd: int) -> str:
        return self.names[inode_of(fd)]

    def _name_at(self, data: int) -> str:
        return self.names[self._at(data).inode]


class FakeSubsystem:
    """Keeps a page from prepare on; a freeze keeps it anew, elsewhere."""

    automatic = False

    def __init__(self, name: str, memory: Memory, script: Script) -> None:
        self.name = name
        self._memory, self._script = memory, script

    def prepare(self) -> int:
        self._script.step("prepare", self.name)
        return self._memory.keep(Blob({"of": self.name}))

    def freeze(self, data: int) -> int:
        self._script.step("freeze", self.name)
        self._memory.free(data)
        return self._memory.keep(Blob({"of": self.name, "frozen": True}))

    def cancel(self, data: int) -> None:
        self._memory.free(data)
        self._script.step("cancel", self.name)

    def boot(self, data: int | None) -> None:
        self._script.step("boot", self.name)

    def finish(self, data: int | None) -> None:
        if data is not None:
            self._memory.free(data)
        self._script.step("finish", self.name)


class KhoUser:
    """On KHO's notifier chain, as reserve_mem was: keeps a page while KHO is finalized."""

    def __init__(self, name: str, kho: Kho, script: Script) -> None:
        self.name = name
        self._kho, self.script = kho, script
        self._data = 0

    def on_finalize(self) -> None:
        self.script.step("finalize", self.name)
        self._data = self._kho.memory.keep(Blob({"of": self.name}))
        self._kho.add_subtree(self.name, {"data": self._data})

    def on_abort(self) -> None:
        """Gives back even when it fails, and may be asked again."""
        self._kho.remove_subtree(self.name)
        self._kho.memory.discard([self._data])
        self.script.step("abort", self.name)


FILES, SUBSYSTEMS, BEFORE, AFTER = ("f0", "f1", "f2"), ("s0", "s1", "s2"), "k0", "k1"
USERS = {Coupling.NOTIFIER: (BEFORE, AFTER), Coupling.LUO_DRIVEN: ()}
"""Of KHO, beside LUO."""


class Bench:
    """A LUO with three files and three subsystems. Where KHO has a notifier chain, LUO is on it between two
    other users of KHO.

    Args:
        before: the bench of the kernel before, which leaves.
    """

    def __init__(self, coupling: Coupling, before: Bench | None = None) -> None:
        handed = before.leave() if before is not None else None
        self.script: Script = before.script if before is not None else Script()
        self.log: list[str] = []
        self.memory = Memory(handed.kept, first_address=handed.next_address) if handed else Memory()
        self.kho = Kho(self.memory, handed.tree if handed else {}, log=self.log.append)
        chained = coupling is Coupling.NOTIFIER
        if chained:
            self.kho.chain.append(KhoUser(BEFORE, self.kho, self.script))
        self.handler = Files(self.memory, self.script)
        self.files = LuoFiles([self.handler], self.log.append)
        self.subsystems = Subsystems(
            [FakeSubsystem(name, self.memory, self.script) for name in SUBSYSTEMS],
            self.log.append,
            self.memory,
        )
        self.luo = Luo(
            self.kho, coupling, self.files, self.subsystems, compatible="luo-v1", log=self.log.append
        )
        if chained:
            self.kho.chain.append(KhoUser(AFTER, self.kho, self.script))
        self.fds: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        if before is not None:
            self.handler.names, self.tokens = before.handler.names, before.tokens

    def start(self) -> Bench:
        """Before userspace."""
        self.luo.boot()
        return self

    def register(self) -> Bench:
        """Three files of userspace."""
        for name in FILES:
            fd = self.fds[name] = memfd(name.encode())
            self.handler.names[inode_of(fd)] = name
            self.tokens[name] = self.luo.fd_preserve(fd)
        return self

    def fail(self, what: str, who: str) -> None:
        self.script.failing.add((what, who))

    def heal(self) -> None:
        """From now on nothing fails; what was called is forgotten."""
        self.script.failing.clear()
        self.script.called.clear()

    def leave(self) -> Any:
        """The kexec."""
        self.files.close()
        self._close_fds()
        return self.kho.hand_over()

    def close(self) -> None:
        """The kernel's end without one."""
        self.files.close()
        self.memory.drop()
        self._close_fds()

    def _close_fds(self) -> None:
        while self.fds:
            os.close(self.fds.popitem()[1])


@contextmanager
def bench(coupling: Coupling) -> Iterator[Bench]:
    """One that has files registered, and leaves no descriptor behind."""
    before = descriptors()
    made = Bench(coupling).start().register()
    made.heal()
    try:
        yield made
    finally:
        made.close()
    assert descriptors() == before, "descriptors leak"
