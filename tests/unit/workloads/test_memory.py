"""Guest memory proves itself, and pauses are measured by the best clock there is."""

from __future__ import annotations

import os

import pytest

from node_agent.errors import BrokerError
from node_agent.workloads.memory import PAGE, GuestMemory
from node_agent.workloads.pause import REALTIME_UNCERTAINTY_S, Stamp, measure

BOOT = Stamp(realtime_ns=10**18, boottime_ns=5 * 10**9, tsc=1000, tsc_hz=1000.0, boot_id="a" * 36)


def stamp(seconds: float, *, boot_id: str = BOOT.boot_id, tsc: bool = True) -> Stamp:
    return Stamp(
        BOOT.realtime_ns + int(seconds * 1e9),
        BOOT.boottime_ns + int(seconds * 1e9),
        int(1000 + seconds * 1000) if tsc else 0,
        1000.0 if tsc else 0.0,
        boot_id,
    )


@pytest.fixture
def memory():
    memory = GuestMemory.create(16 * PAGE, seed=7, stamp=BOOT)
    yield memory
    memory.close()


def test_fresh_memory_is_intact(memory: GuestMemory) -> None:
    verified = memory.verify()
    assert verified.intact
    assert verified.bytes_checked == memory.size_bytes == 16 * PAGE


@pytest.mark.parametrize("ticks", [1, 2, 14, 15, 16, 100, 12345])
def test_ticks_at_once_are_ticks_one_by_one(ticks: int) -> None:
    at_once, by_one = (GuestMemory.create(8 * PAGE, 3, BOOT) for _ in range(2))
    at_once.advance(ticks, BOOT)
    for _ in range(ticks if ticks < 200 else 0):
        by_one.advance(1, BOOT)
    if ticks < 200:
        assert os.pread(at_once.fd, 8 * PAGE, 0) == os.pread(by_one.fd, 8 * PAGE, 0)
    assert at_once.verify().intact
    at_once.close()
    by_one.close()


def test_memory_is_rebuilt_from_its_fd_alone(memory: GuestMemory) -> None:
    memory.advance(41, stamp(3))
    memory.suspend()
    copy = GuestMemory.attach(os.dup(memory.fd))
    assert (copy.ticks, copy.seed, copy.suspended, copy.stamp) == (41, 7, True, stamp(3))
    assert copy.verify().intact
    copy.close()


@pytest.mark.parametrize("offset", [0, 9, 70, PAGE, PAGE + 8, 5 * PAGE + 100, 16 * PAGE - 1])
def test_any_flipped_bit_shows(memory: GuestMemory, offset: int) -> None:
    memory.advance(3, BOOT)
    byte = os.pread(memory.fd, 1, offset)[0]
    os.pwrite(memory.fd, bytes([byte ^ 1]), offset)
    assert not memory.verify().intact


def test_a_lost_tick_shows(memory: GuestMemory) -> None:
    memory.advance(3, BOOT)
    page = os.pread(memory.fd, PAGE, 4 * PAGE)
    memory.advance(15, BOOT)
    os.pwrite(memory.fd, page, 4 * PAGE)
    verified = memory.verify()
    assert not verified.intact
    assert verified.difference.startswith("byte ")


def test_truncated_memory_is_damaged(memory: GuestMemory) -> None:
    for size in (15 * PAGE, 10):
        os.ftruncate(memory.fd, size)
        with pytest.raises(BrokerError) as caught:
            GuestMemory.attach(memory.fd)
        assert caught.value.reason == "MEMORY_DAMAGED"


def test_within_one_boot_boottime_decides() -> None:
    measured = measure(stamp(0), stamp(2))
    assert (measured.duration_s, measured.clock, measured.rejected) == (2.0, "boottime", "")


def test_over_a_kexec_the_tsc_decides_with_the_old_kernels_frequency() -> None:
    after = Stamp(0, 0, 4000, 999.0, "b" * 36)
    measured = measure(stamp(0), after)
    assert (measured.duration_s, measured.clock) == (3.0, "tsc")
    assert 0 < measured.uncertainty_s < 0.01


def test_without_a_tsc_realtime_is_named_with_its_uncertainty() -> None:
    measured = measure(stamp(0, tsc=False), stamp(4, boot_id="b", tsc=False))
    assert (measured.duration_s, measured.clock) == (4.0, "realtime")
    assert measured.uncertainty_s == REALTIME_UNCERTAINTY_S


@pytest.mark.parametrize("after", [stamp(-1, boot_id="b"), stamp(-1, boot_id="b", tsc=False)])
def test_a_clock_that_went_backwards_is_rejected(after: Stamp) -> None:
    measured = measure(stamp(0), after)
    assert "backwards" in measured.rejected
    assert measured.duration_s == 0.0


def test_emulated_time_is_labelled() -> None:
    assert measure(stamp(0), stamp(1), emulated=True).clock == "emulated"
