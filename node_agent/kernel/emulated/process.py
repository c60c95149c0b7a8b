"""The process that is the kernel of one emulated node.

`python -m node_agent.kernel.emulated.process --root DIR [options] -- COMMAND…` starts COMMAND as
the node's userspace, with LIVEROLL_NODE_ROOT=DIR. On a kexec it kills all of userspace with
SIGKILL, passes the phases and starts it again under a new boot_id. SIGTERM or SIGINT ends the
node (its services get SIGTERM first), SIGUSR1 is a power loss (and the power button of a node
that never came back). COMMAND ending with 0 ends the node with 0; any other end restarts it
within the same boot.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import shlex
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from node_agent.kernel.emulated.clock import TSC_HZ, HostBase
from node_agent.kernel.emulated.image import DEFAULT_COMMAND_LINE, RFC2, SESSIONS, EmulatedImage, FileImages
from node_agent.kernel.emulated.model import LuoModel, Machine, boot_id
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.emulated.rfc2.hardware import pci_address
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.emulated.server import KernelServer
from node_agent.kernel.emulated.telemetry import Phase
from node_agent.kernel.emulated.userspace import Userspace
from node_agent.kernel.faults import FaultPlan, FaultSyntax

GRACE_S = 3.0
"""From SIGTERM to SIGKILL at the node's end: enough to flush a journal, short for who waits."""


ENDING_S = GRACE_S + 2.0
"""So long a kernel that was told to end may take, and the next one waits for it."""


class KernelProcess:
    """One node's kernel and userspace.

    Args:
        root: the node's root directory.
        model: its kernel.
        phases: how long things take.
        commands: argv of each service, COMMAND first.
        notify_fd: gets a line `BOOT_ID RELEASE` each time userspace is started; -1 for none.
    """

    def __init__(
        self,
        root: Path,
        model: LuoModel,
        phases: PhaseTimes,
        commands: Sequence[Sequence[str]],
        *,
        notify_fd: int = -1,
        rtc_grain_s: float = 0.0,
    ) -> None:
        self._model, self._phases, self._notify_fd = model, phases, notify_fd
        self._rtc_grain_s = rtc_grain_s
        self._base = HostBase()
        self._powered_s = self._started_s = self._base.now()
        self._userspace = Userspace(commands, {**os.environ, "LIVEROLL_NODE_ROOT": str(root)}, self._base)
        self._server = KernelServer(root, model, self._facts)
        self._stopping = False
        self._power_button = False
        self._wake, self._woken = socket.socketpair()
        self._server.watch(self._woken)
        self._wake.setblocking(False)

    def run(self) -> None:
        """Until the node ends; nothing of it is left then."""
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGUSR1, self._press_power)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        try:
            self._pass(self._phases.boot_s)
            while not self._stopping:
                self._server.listen()
                self._userspace.start()
                self._notify()
                if not self._live():
                    break
        finally:
            self._power_down()
            self._userspace.kill_all()
            self._server.close()
            self._model.power_off()
            signal.set_wakeup_fd(-1)
            self._wake.close()

    def _live(self) -> bool:
        """One boot, from userspace's start to the next one's; False if the node ends."""
        while self._userspace.tend():
            if self._stopping:
                return False
            if self._power_button or self._server.power_lost:
                self._leave()
                self._cold_boot(0.0)
                return True
            if self._server.rebooting:
                self._stamp(Phase.SHUTDOWN)
                self._leave()
                self._kexec()
                return True
            self._server.poll(self._userspace.wait_s())
        return False

    def _power_down(self) -> None:
        """Services get SIGTERM and a little time, with their kernel still there."""
        until = self._base.now() + GRACE_S
        self._userspace.terminate()
        while not self._userspace.ended() and (left_s := until - self._base.now()) > 0:
            self._server.poll(left_s)

    def _leave(self) -> None:
        """Userspace dies while its sessions are still held; then the sockets go."""
        self._power_button = False  # first: whoever sees the boot end may press it again
        self._userspace.kill_all()
        self._server.sever(keep=self._woken)

    def _kexec(self) -> None:
        n, faults, jump = self._model.reboots, self._model.faults, self._model.jump()
        self._pass(self._phases.shutdown_with_s(faults, n))
        self._stamp(Phase.PURGATORY)
        self._pass(self._phases.purgatory_with_s(faults, n))
        if not jump.back:
            self._model.power_off()
            while not (self._stopping or self._power_button):
                self._server.poll(None)
        if self._power_button or not jump.arrived:
            self._cold_boot(self._phases.panic_s if jump.back else 0.0)
            return
        self._started_s = self._base.now()
        self._model.arrive()
        self._stamp(Phase.KERNEL)
        self._pass(self._phases.boot_with_s(faults, n))
        self._stamp(Phase.USERSPACE)

    def _cold_boot(self, before_s: float) -> None:
        self._power_button = False
        self._pass(before_s)
        self._powered_s = self._base.now()
        self._pass(self._phases.firmware_s)
        self._started_s = self._base.now()
        self._model.cold_boot()
        self._pass(self._phases.boot_s)

    def _stamp(self, phase: Phase) -> None:
        """By the counter that this node's clocks show."""
        self._model.stamp(phase, int((self._base.now() - self._powered_s) * TSC_HZ), TSC_HZ)

    def _pass(self, seconds: float) -> None:
        """Let time go by; only the end of the node cuts it short."""
        until = self._base.now() + seconds
        while not self._stopping and (left_s := until - self._base.now()) > 0:
            self._server.poll(left_s)

    def _facts(self) -> Mapping[str, str]:
        return {
            "kernel_started_s": repr(self._started_s),
            "powered_on_s": repr(self._powered_s),
            "tsc_hz": repr(TSC_HZ),
            "rtc_grain_s": repr(self._rtc_grain_s),
        }

    def _notify(self) -> None:
        if self._notify_fd >= 0:
            with suppress(BrokenPipeError):  # whoever wanted to know is gone
                os.write(self._notify_fd, f"{self._model.boot_id} {self._model.release}\n".encode())

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _press_power(self, _number: int, _frame: object) -> None:
        self._power_button = True


RFC2_CHOICES = {
    "coupling": ([str(Coupling.LUO_DRIVEN), str(Coupling.NOTIFIER)], "who drives whom, LUO and KHO"),
    "kho-debugfs": (["on", "off"], "can KHO be finalized by hand"),
    "reserve-mem": (["luo", "kho"], "which of them carries reserve_mem's regions"),
    "telemetry": (["on", "off"], "does it tell when it was shut down, left and started"),
}
"""The first of each is the default, a healthy kernel's."""


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m node_agent.kernel.emulated.process")
    parser.add_argument("--root", type=Path, required=True, help="the node's root directory")
    parser.add_argument("--release", default="7.2.13-emulated", help="what a cold boot starts")
    parser.add_argument("--command-line", default=DEFAULT_COMMAND_LINE, help="of a cold boot")
    parser.add_argument("--hardware-model", default="emulated")
    parser.add_argument(
        "--pci-device",
        type=pci_address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a device that does DMA, for example 0000:01:00.0",
    )
    parser.add_argument("--luo-model", choices=(SESSIONS, RFC2), default=SESSIONS, help="of LUO")
    for name, (choices, meaning) in RFC2_CHOICES.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0], help=f"of {RFC2}: {meaning}")
    parser.add_argument(
        "--auto-preserve",
        action="append",
        default=[],
        help=f"of {RFC2}: a subsystem that every kexec carries",
    )
    parser.add_argument("--faults", default="", help="for example refuse_freeze@1,slow_boot=3.0")
    parser.add_argument("--memory-bytes", type=int, default=0, help="what preserved files may take")
    parser.add_argument("--scratch-bytes", type=int, default=0, help="what an image may take")
    for phase in ("shutdown", "purgatory", "boot", "panic", "firmware"):
        parser.add_argument(f"--{phase}-s", type=float, default=0.0, help=f"seconds of {phase}")
    parser.add_argument("--rtc-grain-s", type=float, default=0.0, help="realtime's error at boot")
    parser.add_argument("--notify-fd", type=int, default=-1, help="gets a line for each userspace start")
    parser.add_argument("--service", action="append", default=[], help="another command of userspace")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="userspace, after --")
    return parser.parse_args(argv)


def default_image(options: argparse.Namespace) -> EmulatedImage:
    """What a cold boot starts."""
    if options.luo_model == SESSIONS:
        return EmulatedImage(options.release)
    return EmulatedImage.rfc2(
        options.release,
        coupling=options.coupling,
        kho_debugfs=options.kho_debugfs == "on",
        reserve_mem=options.reserve_mem,
        auto_preserve=tuple(options.auto_preserve),
        telemetry=options.telemetry == "on",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 the node ended, 1 it is running already, 2 a wrong argument."""
    options = _arguments(sys.argv[1:] if argv is None else argv)
    try:
        faults = FaultPlan.parse(options.faults)
    except FaultSyntax as cause:
        print(f"error: --faults: {cause}", file=sys.stderr)
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:  # a session and a preserved file take one descriptor each
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.notify_fd >= 0:
        os.set_inheritable(options.notify_fd, False)
    model = LuoModel(
        default_image(options),
        new_boot_id=lambda: boot_id(int.from_bytes(os.urandom(16))),
        command_line=options.command_line,
        images=FileImages(default_image(options)),
        faults=faults,
        machine=Machine(
            options.hardware_model,
            options.memory_bytes,
            options.scratch_bytes,
            os.geteuid(),
            tuple(options.pci_device),
        ),
    )
    phases = PhaseTimes(
        options.shutdown_s, options.purgatory_s, options.boot_s, options.panic_s, options.firmware_s
    )
    commands = [options.command, *(shlex.split(service) for service in options.service)]
    root = options.root.absolute()
    held = _hold(root)
    if held < 0:
        print(f"error: another process is the kernel of the node in {root}: end that first", file=sys.stderr)
        return 1
    try:
        KernelProcess(
            root, model, phases, commands, notify_fd=options.notify_fd, rtc_grain_s=options.rtc_grain_s
        ).run()
    finally:
        os.close(held)
    return 0


def _hold(root: Path) -> int:
    """The node's directory, locked; -1 if another process has it and does not end. A second kernel would take
    the first one's sockets over, and what is preserved there would be where nobody can ask for it."""
    root.mkdir(parents=True, exist_ok=True)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    base = HostBase()
    until = base.now() + ENDING_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if base.now() >= until:
                os.close(fd)
                return -1
            time.sleep(0.05)  # a lock has no event for its release
        else:
            return fd


if __name__ == "__main__":
    sys.exit(main())
