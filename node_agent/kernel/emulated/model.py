"""LuoModel: the kernel of one node, from power-on to power-off, as a state machine.

Rules (each has a contract test of its own):
- /dev/liveupdate is single-open; sessions outlive its close.
- before a kexec, the last close of a session unpreserves its files; after it, the last close
  of a retrieved session finishes it.
- a kexec carries outgoing sessions only; whatever came in and was not finished is gone.
- the kernel checks nothing of the target's configuration; what then happens is the target's.
- a cold boot starts the default image, and keeps nothing.

An image may be of RFC v2's time instead (rfc2/): then `rfc2` is what it has of KHO and LUO, and there are no
sessions. No state crosses between the two: KHO ignores a tree of another version.

No clock, no I/O but the preserved descriptors. Calls raise OSError(errno, call) with the names
of kernel/failure.py. The caller passes the phases' time, kills userspace and serves fds.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable

from node_agent.kernel.emulated.calls import Calls
from node_agent.kernel.emulated.image import DEFAULT_COMMAND_LINE, RFC2, EmulatedImage, FileImages, Images
from node_agent.kernel.emulated.machine import Jump, Loaded, Machine, OutOfMemory, boot_id
from node_agent.kernel.emulated.rfc2.hardware import BOOT_WRITES, PURGATORY_WRITES, SHUTDOWN_WRITES, Hardware
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.kho import Handed
from node_agent.kernel.emulated.rfc2.lock import Hang, StateLock
from node_agent.kernel.emulated.rfc2.luo import SUBTREE
from node_agent.kernel.emulated.rfc2.objects import Objects
from node_agent.kernel.emulated.rfc2.reserve_mem import Reserved
from node_agent.kernel.emulated.rfc2.views import views
from node_agent.kernel.emulated.session import LuoSession
from node_agent.kernel.emulated.session_table import SessionTable, drop
from node_agent.kernel.emulated.telemetry import Page, Phase, Telemetry
from node_agent.kernel.failure import LOAD, OPEN, REBOOT
from node_agent.kernel.faults import FaultKind, FaultPlan
from node_agent.ports import BootFacts, KexecImage, KexecTelemetry

__all__ = ["Hang", "Jump", "Loaded", "LuoModel", "Machine", "OutOfMemory", "boot_id"]


class LuoModel:
    """One node's kernel.

    Args:
        default: what a cold boot starts, with its command line.
        images: how kexec_file_load reads an image.
        faults: what goes wrong.
        new_boot_id: a fresh boot id a boot, e.g. from a seeded generator.
    """

    rfc2: Rfc2 | None
    """KHO and LUO of a boot of RFC v2's time."""
    boot_id: str
    log: list[str]
    """This boot's kernel messages."""
    reserved: Reserved
    """Memory that the command line of a kernel of RFC v2's time sets aside, by label."""
    _telemetry: Telemetry | None
    _table: SessionTable
    _busy_opens: int
    _device_open: bool
    _poisoned: bool
    """Of this boot only: the next kernel reads what this one hands on, not what it was handed."""

    def __init__(
        self,
        default: EmulatedImage,
        *,
        new_boot_id: Callable[[], str],
        command_line: str = DEFAULT_COMMAND_LINE,
        images: Images | None = None,
        faults: FaultPlan | None = None,
        machine: Machine | None = None,
    ) -> None:
        self.machine = machine or Machine()
        self.faults = faults or FaultPlan()
        self.reboots = 0
        """reboot(KEXEC) calls so far, refused ones included."""
        self.leaked_bytes = 0
        self.hardware = Hardware(self.machine.pci_devices)
        """What outlives kernels."""
        self._images = images or FileImages()
        self._new_boot_id = new_boot_id
        self._default = Loaded(default, command_line)
        self._running = self._default
        self._loaded: Loaded | None = None
        self._calls = Calls()
        self._kexec_count = 0
        self._previous_release = ""
        self._start(self._default)

    # --- what this boot is

    @property
    def luo(self) -> bool:
        """Is there a /dev/liveupdate?"""
        return self._running.luo

    @property
    def release(self) -> str:
        return self._running.image.release

    @property
    def objects(self) -> Objects | None:
        """What this boot gives userspace of /dev/iommu, /dev/vfio and /dev/kvm; only RFC v2 preserves it."""
        return self.rfc2.objects if self.rfc2 is not None else None

    def facts(self) -> BootFacts:
        return BootFacts(
            boot_id=self.boot_id,
            release=self.release,
            command_line=self._running.command_line,
            hardware_model=self.machine.hardware_model,
            luo=self.luo and not self._poisoned,
            poisoned=self._poisoned,
            emulated=True,
            previous_release=self._previous_release,
            kexec_count=self._kexec_count,
            kho=self._running.kho_facts(self.machine),
            memory=self.machine.memory_facts(self._preserved_bytes()),
            luo_model=self._running.image.model,
            luo_state=str(self.rfc2.state) if self.rfc2 is not None and self.rfc2.luo is not None else "",
            coupling=self._running.image.coupling if self.rfc2 is not None else "",
            kho_finalized=self.rfc2 is not None and self.rfc2.kho.finalized,
        )

    def _preserved_bytes(self) -> int:
        if self.rfc2 is not None:
            return self.rfc2.memory.size_bytes
        return self._table.size_bytes

    def hangs(self, call: str) -> Hang:
        """See Calls. The caller asks before each call: the model itself never blocks."""
        return self._calls.hangs(call, self.faults, self._lock(call))

    def wait_killed(self, call: str) -> None:
        """Who waited for LUO's lock (Hang.WAITS) is killed; only the log shows that it was there."""
        if self.rfc2 is not None:
            self.rfc2.wait_killed(call)

    def _lock(self, call: str) -> StateLock | None:
        """The lock that a call takes, if any."""
        return self.rfc2.lock_of(call) if self.rfc2 is not None else None

    def calls(self, call: str) -> int:
        """How often this call was made, over all boots."""
        return self._calls.made(call)

    # --- /dev/liveupdate

    def open_device(self, uid: int = 0) -> None:
        """ENOENT, EACCES, EBUSY, EIO."""
        if not self.luo:
            raise OSError(errno.ENOENT, OPEN)
        if uid not in (0, self.machine.owner_uid):
            raise OSError(errno.EACCES, OPEN)
        if self._device_open and self.rfc2 is None:
            raise OSError(errno.EBUSY, OPEN)
        if self._busy_opens:
            self._busy_opens -= 1
            raise OSError(errno.EBUSY, OPEN)
        if self._poisoned:
            raise OSError(errno.EIO, OPEN)
        self._device_open = True

    def close_device(self) -> None:
        self._device_open = False

    def create_session(self, name: bytes) -> LuoSession:
        """See SessionTable.create."""
        return self._table.create(name, self._running.image.max_sessions)

    def retrieve_session(self, name: bytes) -> LuoSession:
        """See SessionTable.retrieve."""
        return self._table.retrieve(name)

    # --- sessions

    def preserve_fd(self, session: LuoSession, fd: int, token: int) -> None:
        """See LuoSession.preserve_fd. Raises OutOfMemory for the caller's end."""
        session.preserve_fd(fd, token, self._running.image)
        room = self.machine.memory_bytes
        if room and self._preserved_bytes() > room:
            raise OutOfMemory

    def close(self, session: LuoSession) -> None:
        """One descriptor of this session is closed."""
        self._table.close(session)

    def sessions(self) -> tuple[str, ...]:
        """Names of outgoing, then incoming sessions; no kernel tells this, tests may ask."""
        return tuple(session.name.decode(errors="replace") for session in self._table)

    @property
    def _outgoing(self) -> dict[bytes, LuoSession]:
        return self._table.outgoing

    @property
    def _incoming(self) -> dict[bytes, LuoSession]:
        return self._table.incoming

    # --- kexec

    def load(self, image: KexecImage, *, legacy: bool = False) -> None:
        """ENOENT, ENOEXEC, EADDRNOTAVAIL. An image loaded before is replaced on success."""
        found = self._images.open(image)
        if not legacy and 0 < self.machine.scratch_bytes < found.scratch_bytes:
            raise OSError(errno.EADDRNOTAVAIL, LOAD)
        self._loaded = Loaded(found, image.command_line, legacy)

    def unload(self) -> None:
        self._loaded = None

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def set_default(self, image: EmulatedImage, command_line: str | None = None) -> None:
        """What the next cold boot starts; the command line stays if None."""
        self._default = Loaded(image, self._default.command_line if command_line is None else command_line)

    def set_default_release(self, release: str, command_line: str | None = None) -> None:
        """The same for a healthy image of the running model."""
        self.set_default(self._running.image.healthy(release), command_line)

    def freeze(self) -> None:
        """reboot(KEXEC) up to the point of no return: EINVAL (no image), a refused freeze's
        errno. If it raises, nothing has changed but RFC v2's state; else the caller must jump()."""
        self.reboots += 1
        if self.rfc2 is not None:
            # LUO comes before kexec looks for an image: without one, FROZEN is what is left.
            self.rfc2.reboot()
        if self._loaded is None:
            raise OSError(errno.EINVAL, REBOOT)
        refused = self.faults.at(FaultKind.REFUSE_FREEZE, self.reboots)
        if refused and self.rfc2 is None:
            raise OSError(refused.errno, REBOOT)
        self._table.freeze()

    def jump(self) -> Jump:
        """Leave this kernel. What happens next is in the answer; call arrive() or cold_boot()."""
        n = self.reboots
        if self.rfc2 is not None:
            self.rfc2.shutdown()
        self.hardware.run(SHUTDOWN_WRITES)
        self.hardware.run(PURGATORY_WRITES)
        if self.faults.at(FaultKind.NEVER_BACK, n):
            return Jump(arrived=False, back=False)
        return Jump(arrived=not (self.faults.at(FaultKind.POWER_LOSS, n) or self._panics()))

    def _panics(self) -> bool:
        target, n = self._target(), self.reboots
        hands_over = self.luo and (self.rfc2 is None or self.rfc2.hands_luo_over)
        # RFC v2 has no EIO: what cannot be read panics.
        spoilt = self.rfc2 is not None and self.faults.at(FaultKind.POISON, n) is not None
        incompatible = spoilt or target.image.abi != self._running.image.abi
        incompatible = incompatible and hands_over and target.luo and target.reads(self._running)
        return target.image.panics or incompatible or self.faults.at(FaultKind.PANIC, n) is not None

    def _target(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("jump without a loaded image: freeze() was not called")
        return self._loaded

    def stamp(self, phase: Phase, tsc: int, tsc_hz: float) -> None:
        """A phase of a kexec begins: shutdown and purgatory in the kernel that is left, the others in the one
        that arrived. Kernels without telemetry take no notice."""
        if self._telemetry is not None:
            self._telemetry.stamp(phase, tsc, tsc_hz)

    def telemetry(self) -> KexecTelemetry | None:
        """Of the kexec that started this boot."""
        return self._telemetry.report() if self._telemetry is not None else None

    def views(self) -> dict[str, str]:
        """What this boot's sysfs and debugfs show, by path; see rfc2.views."""
        return views(self._running, self.rfc2, self.telemetry(), self.machine.scratch_bytes)

    def arrive(self) -> None:
        """Boot the loaded kernel with what crossed."""
        target, n = self._target(), self.reboots
        wrong = self.faults.at(FaultKind.WRONG_KERNEL, n)
        if wrong:
            target = dataclasses.replace(target, image=target.image.healthy(wrong.value))
        handed_over = self._running.kho and not target.legacy
        previous, count = self.release, self._kexec_count + 1
        reads = target.reads(self._running)
        crossing = self._table.leave()
        handed = self.rfc2.leave() if self.rfc2 is not None else None
        if handed is not None and not reads:
            lost, handed = handed.drop(), None
            self.leaked_bytes += lost if handed_over and target.image.kho else 0
        page = self._telemetry.page() if self._telemetry is not None and reads else None
        handed = self._after_faults(handed)
        self.hardware.run(BOOT_WRITES)
        self._start(target, handed, page)
        if handed_over and target.kho:
            self._previous_release, self._kexec_count = previous, count
            self.log.append(f"KHO: exec from: {previous} (count {count})")
            if not reads:
                self.log.append(f"KHO: setup: handover FDT is incompatible with '{target.image.kho_abi}'")
        if reads and self.luo:
            self._deserialise(crossing)
        elif handed_over and target.image.kho:
            self._leak(crossing)
        else:
            drop(crossing)
            if handed_over:
                self.log.append("Passed KHO data, but CONFIG_KEXEC_HANDOVER not set")

    def _after_faults(self, handed: Handed | None) -> Handed | None:
        """What arrives of what was handed over; RFC v2 knows no sessions: all of LUO's is lost, or none."""
        if handed is None or not self.faults.at(FaultKind.SESSION_LOST, self.reboots):
            return handed
        handed, lost = handed.without(SUBTREE)
        self.leaked_bytes += lost
        return handed

    def _deserialise(self, crossing: list[LuoSession]) -> None:
        n = self.reboots
        if self.rfc2 is not None:
            if failed := self.faults.at(FaultKind.RETRIEVE_ERROR, n):
                for file in self.rfc2.files.incoming.values():
                    file.errno = failed.errno
            return
        if not self._table.arrive(crossing, self.faults, n, self._running.image.handlers):
            self._poisoned = True
            self._leak(crossing)
            return
        self.log.append(f"luo: Retrieved live update data, liveupdate number: {self._kexec_count}")

    def cold_boot(self) -> None:
        """Firmware starts the default image; nothing of the past is left."""
        self.power_off()
        self.leaked_bytes = 0
        self._start(self._default)

    def power_off(self) -> None:
        """Give back every descriptor. The model must not be used afterwards but to cold boot."""
        drop(self._table.leave())
        if self.rfc2 is not None:
            self.rfc2.drop()
        self.hardware.reset()

    def _leak(self, crossing: list[LuoSession]) -> None:
        self.leaked_bytes += drop(crossing)

    def _start(self, kernel: Loaded, handed: Handed | None = None, page: Page | None = None) -> None:
        self._running = kernel
        self._loaded = None
        self._table = SessionTable()
        self._device_open = False
        self._poisoned = False
        busy = self.faults.at(FaultKind.BUSY, self.reboots)
        self._busy_opens = busy.count if busy else 0
        self._previous_release, self._kexec_count = "", 0
        self.boot_id = self._new_boot_id()
        self.log = [f"Linux version {self.release} (emulated)"]
        self.reserved = Reserved(kernel.command_line if kernel.image.model == RFC2 else "", self.log.append)
        self._telemetry = Telemetry(self.log.append) if kernel.image.telemetry and kernel.kho else None
        self.rfc2 = None
        if kernel.image.model == RFC2 and kernel.kho:
            self.rfc2 = Rfc2(
                kernel.image,
                handed,
                liveupdate=self.luo,
                refuses=self._refuses,
                memory_bytes=self.machine.memory_bytes,
                messages=self.log,
                reserved=self.reserved,
                telemetry=self._telemetry,
                hardware=self.hardware,
            )
            return
        self.hardware.reset()
        if page is not None and self._telemetry is not None:
            self._telemetry.arrive(page)

    def _refuses(self, what: str) -> int:
        """Whether a fault refuses prepare or freeze of the kexec that is under way, or comes next."""
        kind = FaultKind.REFUSE_PREPARE if what == "prepare" else FaultKind.REFUSE_FREEZE
        under_way = self.rfc2 is not None and self.rfc2.rebooting
        fault = self.faults.at(kind, self.reboots + (not under_way))
        return fault.errno if fault is not None else 0
