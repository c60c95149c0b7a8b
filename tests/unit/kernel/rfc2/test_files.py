"""Files by token: who chooses it, how long it is valid, and in which order files are called."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from node_agent.kernel.emulated.files import inode_of
from node_agent.kernel.emulated.rfc2.states import Coupling
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import (
    COUPLINGS,
    FILES,
    NORMAL,
    PREPARED,
    Bench,
    bench,
    luo_of,
    memfd,
    raises,
)


@pytest.fixture
def memory() -> Iterator[int]:
    fd = memfd()
    yield fd
    os.close(fd)


@pytest.fixture
def model() -> Iterator[corebench.LuoModel]:
    before = corebench.descriptors()
    made = corebench.node()
    yield made
    made.power_off()
    assert corebench.descriptors() == before, "descriptors leak"


@pytest.fixture(params=COUPLINGS)
def b(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with bench(request.param) as made:
        yield made


# --- tokens


def test_the_kernel_chooses_the_token_and_uses_none_twice(model: corebench.LuoModel, memory: int) -> None:
    """RFC v2's table: "In RFC v2 the kernel chose the token": they count up."""
    luo = luo_of(model)
    fds = [memfd() for _ in range(3)]
    assert [luo.fd_preserve(fd) for fd in fds] == [0, 1, 2]
    luo.fd_unpreserve(2)
    luo.fd_unpreserve(0)
    assert luo.fd_preserve(fds[0]) == 3
    for fd in fds:
        os.close(fd)


def test_an_unknown_token(model: corebench.LuoModel, memory: int) -> None:
    """Asked for: "unknown token": ENOENT, also one that was given up."""
    luo = luo_of(model)
    token = luo.fd_preserve(memory)
    luo.fd_unpreserve(token)
    for unknown in (token, 99, -1):
        with raises(errno.ENOENT):
            luo.fd_unpreserve(unknown)
    luo.prepare()
    corebench.kexec(model)
    for unknown in (token, 99, -1):
        with raises(errno.ENOENT):
            luo_of(model).fd_restore(unknown)


def test_a_file_is_restored_once(model: corebench.LuoModel, memory: int) -> None:
    luo = luo_of(model)
    token = luo.fd_preserve(memory)
    luo.prepare()
    corebench.kexec(model)
    os.close(luo_of(model).fd_restore(token))
    for _ in range(2):
        with raises(errno.EINVAL):
            luo_of(model).fd_restore(token)


@pytest.mark.parametrize("again", [os.dup, lambda fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR)])
def test_a_double_preserve(model: corebench.LuoModel, memory: int, again: Callable[[int], int]) -> None:
    """Asked for: "double preserve": EEXIST, for whichever descriptor of the file; given up it may come
    again."""
    luo = luo_of(model)
    token = luo.fd_preserve(memory)
    other = again(memory)
    with raises(errno.EEXIST):
        luo.fd_preserve(memory)
    with raises(errno.EEXIST):
        luo.fd_preserve(other)
    luo.fd_unpreserve(token)
    luo.fd_preserve(other)
    os.close(other)


def test_what_is_no_descriptor(model: corebench.LuoModel) -> None:
    """Whatever the state is: the ioctl looks the descriptor up first."""
    fd = memfd()
    os.close(fd)
    for _ in range(2):
        for closed in (fd, -1):
            with raises(errno.EBADF):
                luo_of(model).fd_preserve(closed)
        if luo_of(model).state is NORMAL:
            luo_of(model).prepare()


def test_an_unsupported_kind_of_file(model: corebench.LuoModel) -> None:
    """The seed thread: "it should only support participants that are related to live update": any other is
    ENOENT."""
    one, two = os.pipe()
    try:
        for fd in (one, two):
            with raises(errno.ENOENT):
                luo_of(model).fd_preserve(fd)
    finally:
        os.close(one)
        os.close(two)
    with open(__file__, encoding="utf-8") as regular, raises(errno.ENOENT):
        luo_of(model).fd_preserve(regular.fileno())


def test_tokens_stay_valid_over_cancel(b: Bench) -> None:
    """RFC v2's table: "CANCEL kept tokens valid": after it they are prepared again, or given up one by
    one."""
    for _ in range(2):
        b.luo.prepare()
        b.luo.cancel()
    for name in FILES:
        b.luo.fd_unpreserve(b.tokens[name])
    b.heal()
    b.luo.prepare()
    assert not [who for who in b.script.of("prepare") if who in FILES]
    assert b.luo.subtree()["file-descriptors"].keys() == {"compatible"}


def test_a_caller_without_room_for_a_descriptor_may_come_again(
    model: corebench.LuoModel, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE is the caller's, not the file's: no token is used up, and the restore is not spoilt."""

    def full(fd: int) -> int:
        raise OSError(errno.EMFILE, "dup")

    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", full)
        with raises(errno.EMFILE):
            luo_of(model).fd_preserve(memory)
    assert luo_of(model).fd_preserve(memory) == 0
    luo_of(model).prepare()
    corebench.kexec(model)
    with monkeypatch.context() as patched:
        patched.setattr(os, "dup", full)
        for _ in range(2):
            with raises(errno.EMFILE):
                luo_of(model).fd_restore(0)
    os.close(luo_of(model).fd_restore(0))


def test_many_files(model: corebench.LuoModel) -> None:
    fds = [memfd() for _ in range(200)]
    assert [luo_of(model).fd_preserve(fd) for fd in fds] == list(range(200))
    luo_of(model).prepare()
    for fd in fds:
        os.close(fd)
    corebench.kexec(model)
    for token in range(200):
        os.close(luo_of(model).fd_restore(token))
    luo_of(model).finish()


# --- order


@pytest.mark.parametrize("registered", list(itertools.permutations(FILES)))
def test_dependencies_come_first_whatever_the_order_of_registration(
    b: Bench, registered: tuple[str, ...]
) -> None:
    """RFC v2's table: "memfd → iommufd → vfiofd": f2 needs f1, which needs f0. Undone in reverse."""
    for name in FILES:
        b.luo.fd_unpreserve(b.tokens[name])
    for name in registered:
        b.tokens[name] = b.luo.fd_preserve(b.fds[name])
    b.handler.needs = {"f1": (b.fds["f0"],), "f2": (b.fds["f1"],)}
    b.luo.prepare()
    assert b.script.of("prepare")[:3] == ["f0", "f1", "f2"]
    b.luo.freeze()
    assert b.script.of("freeze")[:3] == ["f0", "f1", "f2"]
    b.luo.cancel()
    assert b.script.of("cancel")[-3:] == ["f2", "f1", "f0"]


def test_two_that_need_the_same(b: Bench) -> None:
    b.handler.needs = {"f0": (b.fds["f2"],), "f1": (b.fds["f2"], b.fds["f0"])}
    b.luo.prepare()
    assert b.script.of("prepare")[:3] == ["f2", "f0", "f1"]


def test_a_dependency_that_is_missing(b: Bench) -> None:
    """ENOENT by PREPARE, before anybody is called; preserved too, all is well."""
    other = memfd()
    b.handler.names[inode_of(other)] = "other"
    b.handler.needs = {"f1": (other,)}
    with raises(errno.ENOENT):
        b.luo.prepare()
    assert not [who for who in b.script.of("prepare") if who in FILES]
    assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)
    b.luo.fd_preserve(other)
    b.heal()
    b.luo.prepare()
    assert b.script.of("prepare")[:4] == ["f0", "f2", "other", "f1"]
    os.close(other)


@pytest.mark.parametrize("circle", [("f0",), ("f0", "f1"), ("f0", "f2", "f1")])
def test_a_dependency_cycle(b: Bench, circle: tuple[str, ...]) -> None:
    """ELOOP by PREPARE, before anybody is called; without one of the links all is well."""
    b.handler.needs = {
        name: (b.fds[other],) for name, other in zip(circle, circle[1:] + circle[:1], strict=True)
    }
    with raises(errno.ELOOP):
        b.luo.prepare()
    assert not [who for who in b.script.of("prepare") if who in FILES]
    assert (b.luo.state, b.kho.finalized, len(b.memory)) == (NORMAL, False, 0)
    del b.handler.needs[circle[0]]
    b.luo.prepare()
    assert b.luo.state is PREPARED


def test_a_file_that_was_unpreserved_is_missed(b: Bench) -> None:
    b.handler.needs = {"f1": (b.fds["f0"],)}
    b.luo.fd_unpreserve(b.tokens["f0"])
    with raises(errno.ENOENT):
        b.luo.prepare()
    b.luo.fd_unpreserve(b.tokens["f1"])
    b.luo.prepare()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_files_come_back_in_any_order(coupling: Coupling) -> None:
    for order in itertools.permutations(FILES):
        with bench(coupling) as b:
            b.luo.prepare()
            b.luo.freeze()
            after = Bench(coupling, b).start()
            for name in order:
                fd = after.luo.fd_restore(after.tokens[name])
                assert os.pread(fd, 10, 0) == name.encode()
                os.close(fd)
            after.luo.finish()
            after.close()
