"""The real backend without a real kernel: arguments, threads, cancellation, errors."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.errors import KernelError, Retry
from node_agent.kernel import abi, failure
from node_agent.kernel.emulated import syncclient
from node_agent.kernel.real import kernel as real
from node_agent.kernel.real import kexec
from node_agent.kernel.real.clock import BASE_S, LONG_BASE_S, RealClock
from node_agent.kernel.real.kernel import RealKernel
from node_agent.kernel.real.threads import Worker, alone
from node_agent.ports import KexecImage


class Libc:
    """Records system calls and fails them."""

    def __init__(self, number: int = 0) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.errno = number

    def syscall(self, *words: object) -> int:
        self.calls.append(tuple(getattr(word, "value", word) for word in words))
        ctypes.set_errno(self.errno)
        return -1 if self.errno else 0


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    fake = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name, use_errno: fake)
    monkeypatch.setattr(kexec.platform, "machine", lambda: "x86_64")
    return fake


@pytest.fixture
def image(tmp_path: Path) -> KexecImage:
    (tmp_path / "kernel").write_bytes(b"k")
    (tmp_path / "initrd").write_bytes(b"i")
    return KexecImage(str(tmp_path / "kernel"), "", "kho=on", "7.3.4")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[RealKernel]:
    kernel = RealKernel(str(tmp_path))
    yield kernel
    kernel.close()


# --- kexec


def test_load_without_initrd_says_so(libc: Libc, image: KexecImage) -> None:
    kexec.load(image)
    number, kernel_fd, initrd_fd, length, text, flags = libc.calls[0]
    assert (number, initrd_fd, length, text, flags) == (320, -1, 7, b"kho=on\0", 4)
    with pytest.raises(OSError):
        os.fstat(kernel_fd)  # type: ignore[arg-type]


def test_load_with_initrd(libc: Libc, image: KexecImage, tmp_path: Path) -> None:
    kexec.load(KexecImage(image.kernel_path, str(tmp_path / "initrd"), "", ""))
    _, _, initrd_fd, length, text, flags = libc.calls[0]
    assert initrd_fd != -1
    assert (length, text, flags) == (1, b"\0", 0)


def test_unload(libc: Libc) -> None:
    kexec.unload()
    assert libc.calls == [(320, -1, -1, 1, b"\0", abi.KEXEC_FILE_UNLOAD)]


def test_reboot_passes_the_magic_words(libc: Libc) -> None:
    libc.errno = errno.EINVAL
    with pytest.raises(OSError) as caught:
        kexec.reboot()
    assert libc.calls == [(169, 0xFEE1DEAD, 672274793, 0x45584543, None)]
    assert (caught.value.errno, caught.value.strerror) == (errno.EINVAL, failure.REBOOT)


def test_a_reboot_that_returns_success_is_an_error(libc: Libc) -> None:
    with pytest.raises(OSError) as caught:
        kexec.reboot()
    assert caught.value.errno == errno.EIO


def test_numbers_are_the_machines(libc: Libc, image: KexecImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kexec.platform, "machine", lambda: "aarch64")
    kexec.load(image)
    assert libc.calls[0][0] == 294
    monkeypatch.setattr(kexec.platform, "machine", lambda: "riscv64")
    for call in (kexec.unload, kexec.reboot):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENOSYS


def test_loaded_reads_either_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        kexec.loaded(str(tmp_path))
    assert caught.value.errno == errno.ENOSYS
    (tmp_path / "sys/kernel/kexec").mkdir(parents=True)
    (tmp_path / "sys/kernel/kexec_loaded").write_text("0\n")
    assert not kexec.loaded(str(tmp_path))
    (tmp_path / "sys/kernel/kexec/loaded").write_text("1\n")
    assert kexec.loaded(str(tmp_path))


@pytest.mark.parametrize(
    ("number", "reason", "retry"),
    [
        (errno.EPERM, "NO_PERMISSION", Retry.FIX_STATE),
        (errno.EBUSY, "KEXEC_BUSY", Retry.CALL),
        (errno.ENOEXEC, "IMAGE_INVALID", Retry.FIX_STATE),
        (errno.EKEYREJECTED, "IMAGE_NOT_TRUSTED", Retry.FIX_STATE),
        (errno.EADDRNOTAVAIL, "SCRATCH_TOO_SMALL", Retry.FIX_STATE),
        (errno.ENOSYS, "KEXEC_OFF", Retry.FIX_STATE),
        (errno.EDOM, "KERNEL_CALL_FAILED", Retry.REPLAN),
    ],
)
async def test_load_tells_its_errno(
    libc: Libc, kernel: RealKernel, image: KexecImage, number: int, reason: str, retry: Retry
) -> None:
    libc.errno = number
    with pytest.raises(KernelError) as caught:
        await kernel.load(image)
    assert (caught.value.errno, caught.value.reason, caught.value.retry) == (number, reason, retry)
    assert caught.value.call == failure.LOAD


async def test_load_of_no_file(kernel: RealKernel, libc: Libc) -> None:
    with pytest.raises(KernelError) as caught:
        await kernel.load(KexecImage("/no/such/kernel", "", "", ""))
    assert (caught.value.reason, libc.calls) == ("IMAGE_NOT_FOUND", [])


# --- threads


async def test_the_workers_calls_are_made_one_after_another() -> None:
    worker, order = Worker("test"), []

    def call(n: int) -> None:
        order.append((n, threading.current_thread().name))

    await asyncio.gather(*(worker.run(lambda n=n: call(n)) for n in (1, 2)))
    worker.close()
    assert order == [(1, "test"), (2, "test")]


async def test_a_threads_error_is_the_callers() -> None:
    def fail() -> None:
        raise LookupError("in a thread")

    with pytest.raises(LookupError):
        await alone("test", fail)


async def test_an_answer_that_nobody_waits_for_is_not_forgotten() -> None:
    worker, entered, go, lost = Worker("test"), threading.Event(), threading.Event(), asyncio.Queue()

    def call() -> int:
        entered.set()
        go.wait()
        return 7

    task = asyncio.ensure_future(worker.run(call, lost.put_nowait))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    go.set()
    assert await lost.get() == 7
    worker.close()


async def test_a_cancel_between_answer_and_turn_loses_nothing() -> None:
    worker, lost = Worker("test"), []
    task = asyncio.ensure_future(worker.run(lambda: 7, lost.append))
    await asyncio.sleep(0)
    waited_for = task.get_stack()[-1].f_locals["answer"]
    waited_for.add_done_callback(lambda _answer: task.cancel())
    await asyncio.wait([task])
    # The cancel came after the answer, before or after the task's turn.
    assert lost == [7] if task.cancelled() else task.result() == 7
    worker.close()


async def test_a_reboot_is_not_called_back_by_a_cancel(
    kernel: RealKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()

    def reboot() -> None:
        entered.set()
        go.wait()
        raise OSError(errno.EBUSY, failure.REBOOT)

    monkeypatch.setattr(kexec, "reboot", reboot)
    task = asyncio.ensure_future(kernel.reboot_kexec())
    await asyncio.to_thread(entered.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    go.set()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_refused_reboot_is_told_and_others_go_on_meanwhile(
    kernel: RealKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entered, go = threading.Event(), threading.Event()

    def reboot() -> None:
        entered.set()
        go.wait()
        raise OSError(errno.ENOMEM, failure.REBOOT)

    monkeypatch.setattr(kexec, "reboot", reboot)
    task = asyncio.ensure_future(kernel.reboot_kexec())
    await asyncio.to_thread(entered.wait)
    with pytest.raises(KernelError):
        await kernel.create_session("s")
    go.set()
    with pytest.raises(KernelError) as caught:
        await task
    assert (caught.value.reason, caught.value.retry) == ("FREEZE_REFUSED", Retry.REPLAN)


# --- sessions and facts


@pytest.mark.parametrize(
    ("number", "luo", "poisoned"),
    [(0, True, False), (errno.EBUSY, True, False), (errno.EIO, False, True), (errno.ENOENT, False, False)],
)
async def test_facts_say_what_the_device_says(
    kernel: RealKernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    luo: bool,
    poisoned: bool,
) -> None:
    for name, text in (("random/boot_id", "b\n"), ("osrelease", "7.2\n"), ("../../cmdline", "quiet\n")):
        path = tmp_path / "proc/sys/kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def open_device(_root: str) -> int:
        if number:
            raise OSError(number, failure.OPEN)
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(syncclient, "open_device", open_device)
    found = await kernel.facts()
    assert (found.luo, found.poisoned, found.emulated) == (luo, poisoned, False)
    assert (found.boot_id, found.release, found.command_line) == ("b", "7.2", "quiet")


async def test_a_session_of_a_cancelled_retrieve_waits_for_the_next(
    kernel: RealKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go = threading.Event(), threading.Event()
    made = []

    def retrieve(_root: str, _name: str) -> int:
        entered.set()
        go.wait()
        made.append(os.open("/dev/null", os.O_RDONLY))
        return made[-1]

    monkeypatch.setattr(syncclient, "retrieve_session", retrieve)
    task = asyncio.ensure_future(kernel.retrieve_session("s"))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await kernel._worker.run(lambda: None)
    session = await kernel.retrieve_session("s")
    assert [session.fileno()] == made
    await session.close()


async def test_a_session_of_a_cancelled_create_is_closed(
    kernel: RealKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go, made = threading.Event(), threading.Event(), []

    def create(_root: str, _name: str) -> int:
        entered.set()
        go.wait()
        made.append(os.open("/dev/null", os.O_RDONLY))
        return made[-1]

    monkeypatch.setattr(syncclient, "open_session_create", create)
    task = asyncio.ensure_future(kernel.create_session("s"))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await kernel._worker.run(lambda: None)
    with pytest.raises(OSError):
        os.fstat(made[0])


async def test_a_closed_session_says_so(kernel: RealKernel) -> None:
    session = real.RealSession(kernel._worker, "s", os.open("/dev/null", os.O_RDONLY))
    assert session.name == "s"
    await session.close()
    await session.close()
    for call in (session.preserve_fd(0, 1), session.retrieve_fd(1), session.finish()):
        with pytest.raises(KernelError) as caught:
            await call
        assert caught.value.errno == errno.EBADF
    with pytest.raises(KernelError):
        session.fileno()


async def test_what_is_no_device_is_told_by_its_call(kernel: RealKernel, tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        await kernel.create_session("s")
    assert (caught.value.reason, caught.value.call) == ("LUO_OFF", failure.OPEN)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/liveupdate").write_bytes(b"")
    with pytest.raises(KernelError) as caught:
        await kernel.create_session("s")
    assert (caught.value.errno, caught.value.call) == (errno.ENOTTY, failure.CREATE)


# --- clocks


def test_a_frequency_comes_with_its_base() -> None:
    now = [10**9]
    clock = RealClock(read_tsc=lambda: now[0] * 3, boottime_ns=lambda: now[0])
    assert (clock.tsc(), clock.boottime_s(), clock.tsc_hz) == (3 * 10**9, 1.0, 0.0)
    now[0] += int(BASE_S * 1e9) - 1
    assert clock.tsc_hz == 0.0
    now[0] += 1
    assert clock.tsc_hz == 3e9


@pytest.mark.parametrize(("known_hz", "early_hz"), [(3.001e9, 3.001e9), (2.4e9, 3e9), (0.0, 3e9)])
def test_the_old_kernels_frequency_holds_until_ours_is_better(known_hz: float, early_hz: float) -> None:
    now = [10**9]
    clock = RealClock(read_tsc=lambda: now[0] * 3, boottime_ns=lambda: now[0])
    clock.know_hz(known_hz)
    assert clock.tsc_hz == known_hz
    now[0] += int(BASE_S * 1e9)
    assert clock.tsc_hz == early_hz  # that of another counter is not believed
    now[0] += int(LONG_BASE_S * 1e9)
    assert clock.tsc_hz == 3e9


def test_a_pair_is_the_narrowest_of_its_readings() -> None:
    # Readings of 100, 2 and 50 ns, and so on: before and after each reading of the counter.
    widths = iter([100, 2, 50, 50, 50, 50, 50, 50])
    times = [t for width in widths for t in (1000, 1000 + width)]
    counter = iter(range(8))
    clock = RealClock(read_tsc=lambda: next(counter), boottime_ns=lambda: times.pop(0))
    assert clock._first == (1, 1001)


async def test_this_machines_clocks() -> None:
    clock = RealClock()
    assert clock.boottime_s() > 0
    assert clock.realtime().tzinfo is not None
    assert clock.tsc() <= clock.tsc()
    await clock.sleep(0)


def test_without_a_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.kernel.real.clock.open_tsc", lambda: None)
    clock = RealClock()
    assert (clock.tsc(), clock.tsc_hz) == (0, 0.0)
