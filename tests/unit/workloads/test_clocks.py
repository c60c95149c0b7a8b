"""The clocks of this machine and of an emulated node, and taking turns at the device."""

from __future__ import annotations

import errno
import platform
from pathlib import Path

import pytest

from node_agent.errors import KernelError
from node_agent.kernel import tsc
from node_agent.kernel.emulated import syncclient
from node_agent.workloads import device, example, node_clock
from node_agent.workloads.pause import measure


def test_the_machines_stamp_goes_back_to_its_instant() -> None:
    clock = node_clock.open_clock("")
    at = node_clock.instant()
    stamp = clock.stamp(at, 1e9)
    later = clock.stamp(at + 5_000_000, 1e9)
    assert (stamp.boottime_ns, len(stamp.boot_id), clock.emulated) == (at, 36, False)
    assert measure(stamp, later).duration_s == pytest.approx(0.005)
    assert later.realtime_ns - stamp.realtime_ns == pytest.approx(5_000_000, abs=50_000_000)


def test_a_machine_without_a_counter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc, "open_tsc", lambda: None)
    stamp = node_clock.MachineClock().stamp(node_clock.instant())
    assert (stamp.tsc, stamp.tsc_hz) == (0, 0.0)


def test_a_frequency_needs_a_base(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [10**9, 10**9 + 10**7, 2 * 10**9]
    instants, cycles = iter([at for at in pairs for _ in range(2)]), iter([100, 130, 3_000_000_100])
    monkeypatch.setattr(node_clock, "instant", lambda: next(instants))
    monkeypatch.setattr(tsc, "open_tsc", lambda: lambda: next(cycles))
    clock = node_clock.MachineClock()
    assert [clock.stamp(10**9).tsc_hz for _ in range(3)] == [0.0, 0.0, 3e9]


def test_a_pair_of_readings_that_met_a_preemption_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    instants, cycles = iter([10**9, 10**9 + 10**7, 2 * 10**9, 2 * 10**9 + 2000]), iter([7, 8])
    monkeypatch.setattr(node_clock, "instant", lambda: next(instants))
    assert node_clock._read_together(lambda: next(cycles)) == (2 * 10**9 + 1000, 8)


def test_the_counter_only_rises() -> None:
    read = tsc.open_tsc()
    assert read is None or 0 < read() < read()


@pytest.mark.parametrize("broken", ["machine", "flags"])
def test_no_counter_elsewhere(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    if broken == "machine":
        monkeypatch.setattr(tsc.platform, "machine", lambda: "riscv64")
    else:
        monkeypatch.setattr(tsc, "_invariant", lambda: False)
        monkeypatch.setattr(tsc, "_keeps_time", lambda: False)
    assert tsc.open_tsc() is None


def test_an_emulated_nodes_clock_is_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"boot_id": "b", "kernel_started_s": "2.0", "powered_on_s": "1.0", "tsc_hz": "1e9"}
    monkeypatch.setattr(syncclient, "facts", lambda root: facts)
    clock = node_clock.open_clock("/node")
    stamp = clock.stamp(3 * 10**9)
    assert (stamp.boottime_ns, stamp.tsc, stamp.boot_id, clock.emulated) == (10**9, 2 * 10**9, "b", True)


async def test_a_busy_device_is_waited_for_and_no_longer_than_said() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def busy(times: int, reason: str = "DEVICE_BUSY"):
        left = [times]

        async def call() -> str:
            left[0] -= 1
            if left[0] >= 0:
                raise KernelError(errno.EBUSY, "open", reason=reason)
            return "session"

        return call

    turns = device.Device(sleep)
    assert await turns.in_turn(busy(3)) == "session"
    assert waits == list(device.WAITS_S[:3])
    assert waits == sorted(waits)
    waits.clear()
    with pytest.raises(KernelError):
        await turns.in_turn(busy(device.TRIES))
    assert waits == list(device.WAITS_S)
    waits.clear()
    with pytest.raises(KernelError):
        await turns.in_turn(busy(1, "SESSION_EXISTS"))
    assert waits == []


def test_the_example_says_in_a_line_that_nobody_answers(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--socket", str(tmp_path / "none.sock"), "--id", "vm", "--answer-s", "0.01"]
    assert example.main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("vm: no broker answered")
    assert "Traceback" not in err
    with pytest.raises(SystemExit):
        example.main([*arguments, "--mib", "0"])


@pytest.mark.parametrize(("source", "trusted"), [("tsc", True), ("tsc-early", True), ("hpet", False)])
def test_a_counter_that_the_kernel_keeps_time_by_is_trusted(
    source: str, trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under QEMU's TCG the flags are missing and the counter goes on through a kexec all the same."""
    (tmp_path / "current").write_text(f"{source}\n")
    assert tsc._keeps_time(str(tmp_path / "current")) is trusted
    assert tsc._keeps_time(str(tmp_path / "none")) is False
    monkeypatch.setattr(tsc, "_invariant", lambda: False)
    monkeypatch.setattr(tsc, "_keeps_time", lambda: False)
    if platform.machine() == "x86_64":
        assert tsc.open_tsc(trust=True) is not None
