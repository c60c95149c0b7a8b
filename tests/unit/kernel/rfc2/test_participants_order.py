"""The participants together: their order, what is missing or circular, and a failure at each position."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

import pytest

from node_agent.kernel.emulated.files import Inode
from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.rfc2.handlers import Handler
from node_agent.kernel.emulated.rfc2.states import LuoState
from tests.unit.kernel.rfc2.participants import IOVA, PAGE, Dma, Node, again, open_fds, raises

KINDS = ("memfd", "eventfd", "kvmfd", "iommufd", "vfiofd")
CALLBACKS = ("prepare", "freeze", "cancel", "retrieve", "finish")


class Listening:
    """A handler that tells of every call, and fails where it is told to."""

    def __init__(self, handler: Handler, calls: list[str], fails: set[str]) -> None:
        self._handler, self._calls, self._fails = handler, calls, fails
        self.kind, self.compatible = handler.kind, handler.compatible

    def can_preserve(self, fd: int) -> bool:
        return self._handler.can_preserve(fd)

    def depends_on(self, fd: int) -> tuple[Inode, ...]:
        return self._handler.depends_on(fd)

    def prepare(self, fd: int) -> int:
        self._tell("prepare")
        return self._handler.prepare(fd)

    def freeze(self, fd: int, data: int) -> int:
        self._tell("freeze")
        return self._handler.freeze(fd, data)

    def cancel(self, fd: int, data: int) -> None:
        self._tell("cancel")
        self._handler.cancel(fd, data)

    def retrieve(self, data: int) -> int:
        self._tell("retrieve")
        return self._handler.retrieve(data)

    def finish(self, data: int, *, reclaimed: bool) -> None:
        self._tell("finish")
        self._handler.finish(data, reclaimed=reclaimed)

    def _tell(self, what: str) -> None:
        self._calls.append(f"{what} {self.kind}")
        if f"{what} {self.kind}" in self._fails:
            raise OSError(errno.EREMOTEIO, what)


class Machine:
    """A node with one file of each kind, registered the wrong way round."""

    def __init__(self, **options: object) -> None:
        self.node = Node(**options)  # type: ignore[arg-type]
        self.calls: list[str] = []
        self.fails: set[str] = set()
        self.listen()
        node = self.node
        self.dma, self.kvm, self.event = Dma.start(node), node.kvm(), node.eventfd(3)
        node.objects.set_memory(self.kvm, 0, 0, PAGE, self.dma.ring)
        self.files: Sequence[int] = [*self.dma.files[:2], self.kvm, self.event, self.dma.ring]
        self.tokens = node.preserve(*self.files)

    def listen(self) -> None:
        """Also to the next kernel."""
        files = self.node.rfc2.files
        files.handlers = [Listening(handler, self.calls, self.fails) for handler in files.handlers]
        told = {handler.kind: handler for handler in files.handlers}
        for file in files.incoming.values():
            file.handler = told[file.handler.kind]

    def kexec(self) -> None:
        self.node.kexec()
        self.listen()

    def restore(self) -> None:
        fds = self.node.restore(*self.tokens)
        self.files = fds
        self.dma, self.kvm, self.event = again([*fds[:2], fds[4]]), fds[2], fds[3]


@pytest.fixture(params=["notifier", "luo-driven"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(image=EmulatedImage.rfc2("6.15", coupling=request.param))
    yield machine
    machine.node.close()


ORDER = ["eventfd", "memfd", "iommufd", "vfiofd", "kvmfd"]
"""By token, but what is needed first."""


def test_dependencies_come_first_and_everything_is_undone_in_reverse(machine: Machine) -> None:
    machine.node.luo.prepare()
    machine.node.luo.freeze()
    machine.node.luo.cancel()
    assert machine.calls == [
        *(f"prepare {kind}" for kind in ORDER),
        *(f"freeze {kind}" for kind in ORDER),
        *(f"cancel {kind}" for kind in reversed(ORDER)),
    ]
    assert len(machine.node.rfc2.memory) == 0


def test_each_callback_of_each_kind_is_called_once_and_a_second_hop_is_like_the_first(
    machine: Machine,
) -> None:
    for _ in range(2):
        machine.calls.clear()
        machine.node.luo.prepare()
        machine.kexec()
        assert len(machine.node.rfc2.memory) == 6  # one each, and the IOMMU's table
        machine.restore()
        assert machine.dma.lost(machine.node) == ()
        assert os.eventfd_read(machine.event) == 3
        os.eventfd_write(machine.event, 3)
        machine.node.luo.finish()
        assert len(machine.node.rfc2.memory) == 0
        assert machine.calls == [
            *(f"prepare {kind}" for kind in ORDER),
            *(f"freeze {kind}" for kind in ORDER),
            *(f"retrieve {kind}" for kind in ("vfiofd", "iommufd", "kvmfd", "eventfd", "memfd")),
            *(f"finish {kind}" for kind in ORDER),
        ]
        machine.tokens = machine.node.preserve(*machine.files)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepare_that_fails_leaves_nothing_behind(machine: Machine, kind: str) -> None:
    node, fds = machine.node, open_fds()
    machine.fails.add(f"prepare {kind}")
    with raises(errno.EREMOTEIO):
        node.luo.prepare()
    before = ORDER[: ORDER.index(kind)]
    assert machine.calls[len(before) + 1 :] == [f"cancel {other}" for other in reversed(before)]
    assert node.luo.state is LuoState.NORMAL
    assert (len(node.rfc2.memory), open_fds()) == (0, fds)
    machine.fails.clear()
    node.luo.prepare()  # the tokens are valid still
    machine.kexec()
    machine.restore()
    assert machine.dma.lost(node) == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_freeze_that_fails_leaves_nothing_behind(machine: Machine, kind: str) -> None:
    node, fds = machine.node, open_fds()
    node.luo.prepare()
    machine.calls.clear()
    machine.fails.add(f"freeze {kind}")
    node.load()
    with raises(errno.EREMOTEIO):
        node.model.freeze()
    asked = ORDER[: ORDER.index(kind) + 1]
    assert machine.calls == [
        *(f"freeze {other}" for other in asked),
        *(f"cancel {other}" for other in reversed(ORDER)),
    ]
    assert node.luo.state is LuoState.NORMAL
    assert (len(node.rfc2.memory), open_fds()) == (0, fds)
    assert sorted(node.rfc2.files.outgoing) == sorted(machine.tokens)
    # A kexec that goes on from here keeps nothing, and the device is reset.
    node.model.hardware.run()
    assert node.pci().bus_master
    node.kexec()
    assert not node.pci().bus_master
    if node.luo.state is LuoState.UPDATED:  # KHO was left finalized, with a subtree that points to nothing
        for token in machine.tokens:
            with raises(errno.EFAULT):
                node.luo.fd_restore(token)
        node.luo.finish()
    node.vfio()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancel_that_fails_keeps_no_other_from_its_own(machine: Machine, kind: str) -> None:
    node = machine.node
    node.luo.prepare()
    machine.fails.add(f"cancel {kind}")
    node.luo.cancel()
    assert machine.calls[len(ORDER) :] == [f"cancel {other}" for other in reversed(ORDER)]
    assert node.luo.state is LuoState.NORMAL
    # What it did not give back is what it left, and nothing else.
    assert len(node.rfc2.memory) == (2 if kind == "iommufd" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_retrieve_that_fails_fails_for_ever_and_for_that_file_only(machine: Machine, kind: str) -> None:
    node = machine.node
    node.luo.prepare()
    machine.kexec()
    machine.fails.add(f"retrieve {kind}")
    for token in machine.tokens:
        if node.rfc2.files.incoming[token].handler.kind == kind:
            for _ in range(2):
                with raises(errno.EREMOTEIO):
                    node.luo.fd_restore(token)
                machine.fails.clear()
        else:
            node.restore(token)
    node.luo.finish()
    assert len(node.rfc2.memory) == 0
    assert node.pci().bus_master == (kind != "vfiofd")


@pytest.mark.parametrize("kind", KINDS)
def test_a_finish_that_fails_keeps_no_other_from_its_own(machine: Machine, kind: str) -> None:
    node = machine.node
    node.luo.prepare()
    machine.kexec()
    machine.restore()
    machine.fails.add(f"finish {kind}")
    machine.calls.clear()
    node.luo.finish()
    assert machine.calls == [f"finish {other}" for other in ORDER]
    assert node.luo.state is LuoState.NORMAL
    assert len(node.rfc2.memory) == (2 if kind == "iommufd" else 1)


def test_memory_that_runs_out_at_any_position_leaves_nothing_behind() -> None:
    """Each handler keeps a page; the address space's two, so it may fail between them."""
    for pages in range(1, 6):
        machine = Machine(memory_bytes=pages * PAGE)
        node, fds = machine.node, open_fds()
        with raises(errno.ENOMEM):
            node.luo.prepare()
        assert node.luo.state is LuoState.NORMAL
        assert (len(node.rfc2.memory), open_fds()) == (0, fds)
        assert node.luo.fd_preserve(node.memfd()) == max(machine.tokens) + 1
        node.close()
    machine = Machine(memory_bytes=6 * PAGE)
    machine.node.luo.prepare()
    machine.node.close()


@pytest.mark.parametrize("missing", ["memfd", "iommufd"])
def test_what_a_file_cannot_do_without_must_be_preserved_too(machine: Machine, missing: str) -> None:
    node, fds = machine.node, open_fds()
    files = node.rfc2.files
    (token,) = [t for t, file in files.outgoing.items() if file.handler.kind == missing]
    fd = machine.files[machine.tokens.index(token)]
    node.luo.fd_unpreserve(token)
    with raises(errno.ENOENT):
        node.luo.prepare()
    assert machine.calls == []
    assert (node.luo.state, len(node.rfc2.memory), open_fds()) == (LuoState.NORMAL, 0, fds - 1)
    node.luo.fd_preserve(fd)
    node.luo.prepare()


def test_an_address_space_that_maps_the_memory_of_its_own_device_is_a_cycle(machine: Machine) -> None:
    node, dma, fds = machine.node, machine.dma, open_fds()
    node.objects.map(dma.iommufd, 2 * IOVA, PAGE, dma.vfio)
    with raises(errno.ELOOP):
        node.luo.prepare()
    assert machine.calls == []
    assert node.luo.state is LuoState.NORMAL
    node.objects.unmap(dma.iommufd, 2 * IOVA)
    assert len(node.rfc2.memory) == 0
    # The device has made memory of its own for the mapping; nothing else is new.
    assert open_fds() == fds + 1
    node.luo.prepare()


def test_a_device_is_prepared_after_its_address_space_only(machine: Machine) -> None:
    """Whatever the order was that its caller thought of."""
    files = machine.node.rfc2.files
    (vfio,) = [handler for handler in files.handlers if handler.kind == "vfiofd"]
    with raises(errno.ENOENT):
        vfio.prepare(machine.dma.vfio)
    assert len(machine.node.rfc2.memory) == 0


def test_closing_a_cycle_frees_both(machine: Machine) -> None:
    node, dma = machine.node, machine.dma
    node.objects.map(dma.iommufd, 2 * IOVA, PAGE, dma.vfio)
    for token in machine.tokens:
        node.luo.fd_unpreserve(token)
    node.close_now(*machine.files)
    node.objects.reap()
    assert node.objects._all == []


def test_tokens_are_the_kernels_and_valid_over_cancel(machine: Machine) -> None:
    node = machine.node
    assert machine.tokens == [0, 1, 2, 3, 4]
    node.luo.prepare()
    for token in (*machine.tokens, 99):
        with raises(errno.EBUSY):
            node.luo.fd_unpreserve(token)
    with raises(errno.EBUSY):
        node.luo.fd_preserve(node.eventfd())
    node.luo.cancel()
    with raises(errno.ENOENT):
        node.luo.fd_unpreserve(99)
    node.luo.fd_unpreserve(machine.tokens[3])
    with raises(errno.ENOENT):
        node.luo.fd_unpreserve(machine.tokens[3])
    assert node.luo.fd_preserve(machine.event) == 5
    machine.tokens[3] = 5
    node.luo.prepare()
    machine.kexec()
    machine.restore()
    assert os.eventfd_read(machine.event) == 3
    for token in machine.tokens:
        with raises(errno.EINVAL):
            node.luo.fd_restore(token)
