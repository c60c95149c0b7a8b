"""What the agent's runtime needs of the world, as Protocols.

The saga (core/) decides; the runner (runtime/runner.py) performs its effects through
these ports. Adapters live in kernel/, runtime/ and workloads/. Every method that may take
time is a coroutine; an adapter over a blocking call runs it in a thread of its own. In
simulation all of them are in-process and take virtual time only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn, Protocol

from node_agent.core.model import ArtifactRef as ArtifactRef
from node_agent.core.model import KexecTelemetry as KexecTelemetry
from node_agent.ports_sessions import Session as Session
from node_agent.ports_sessions import Sessions as Sessions
from node_agent.ports_sessions import TokenDevice as TokenDevice
from node_agent.ports_sessions import TokenFile as TokenFile
from node_agent.ports_sessions import Tokens as Tokens


@dataclass(frozen=True, slots=True)
class KhoFacts:
    """KHO and LUO as the running kernel has them: what a target must match. Empty: not known."""

    scratch_bytes: tuple[int, ...] = ()
    """Of each scratch area, in the kernel's order: low memory, global, one a NUMA node."""
    kho_abi: str = ""
    """Such as kho-v4."""
    luo_abi: str = ""
    """Such as luo-v5; empty also where liveupdate= is off."""
    debugfs: bool = False
    """Could KHO's directory in debugfs be read?"""


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """How much can be preserved: preserved pages must lie outside KHO's scratch, which takes the
    next kernel."""

    outside_scratch_bytes: int
    """Free or reclaimable now, outside scratch."""
    in_scratch_bytes: int
    """Used now within scratch: at most so much of what is preserved has to be moved out of it."""


@dataclass(frozen=True, slots=True)
class BootFacts:
    """What this boot is, as the kernel says it."""

    boot_id: str
    release: str
    command_line: str
    hardware_model: str
    luo: bool
    """/dev/liveupdate is there and opens."""
    poisoned: bool = False
    """Opening /dev/liveupdate gives EIO for as long as this boot lasts."""
    emulated: bool = False
    previous_release: str = ""
    """From KHO's kexec-metadata; empty after a cold boot. Advisory."""
    kexec_count: int = 0
    kho: KhoFacts | None = None
    """None: this kernel was not asked."""
    memory: MemoryFacts | None = None
    """None: there is no bound that is known."""
    luo_model: str = "sessions"
    """How LUO is driven: `sessions` as merged, or `rfc-v2`, one state for the machine."""
    luo_state: str = ""
    """Of RFC v2's LUO: normal, prepared, frozen or updated. Empty: the kernel has no such state."""
    coupling: str = ""
    """Of RFC v2's LUO and KHO: notifier or luo-driven; empty elsewhere."""
    kho_finalized: bool = False
    """Of RFC v2's KHO: a kexec hands its tree over."""


@dataclass(frozen=True, slots=True)
class KexecImage:
    """What kexec_file_load takes. Paths are on the node; initrd may be empty."""

    kernel_path: str
    initrd_path: str
    command_line: str
    release: str
    """What the artifact's manifest says `uname -r` will be; used by the emulated kernel."""


class Clock(Protocol):
    """The node's clocks. Monotonic ones restart at a kexec; the TSC does not."""

    def realtime(self) -> datetime: ...
    def boottime_s(self) -> float: ...
    def tsc(self) -> int:
        """Raw cycles, 0 if unknown."""
        ...

    @property
    def tsc_hz(self) -> float: ...
    async def sleep(self, seconds: float) -> None: ...


class Kernel(Sessions, Protocol):
    """LUO (Sessions), KHO and kexec of one node. Failures raise errors.KernelError."""

    async def facts(self) -> BootFacts: ...
    async def telemetry(self) -> KexecTelemetry | None:
        """Of the kexec that started this boot. None: none did, or this kernel does not tell."""
        ...

    async def load(self, image: KexecImage) -> None:
        """kexec_file_load(2)."""
        ...

    async def unload(self) -> None: ...
    async def loaded(self) -> bool: ...
    async def reboot_kexec(self) -> NoReturn:
        """reboot(LINUX_REBOOT_CMD_KEXEC), and nothing before it that takes time. Returns only by raising
        KernelError (refused); on success this process ends (emulated in-process: the caller's task is
        cancelled)."""
        ...


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One durable fact. seq rises from record to record; kind and body are the core's."""

    seq: int
    kind: str
    body: Mapping[str, object]


class Journal(Protocol):
    """Append-only, checksummed, fsync'd, flock'ed by the one process that may call reboot."""

    @property
    def installation_id(self) -> str: ...
    @property
    def records(self) -> Sequence[JournalRecord]: ...
    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """Durable when it returns. A failed fsync is never retried: the journal is closed
        and every later append raises."""
        ...

    def number_from(self, seq: int) -> None:
        """Later records have numbers above this one, whatever the last record's is."""
        ...

    async def ensure_room(self) -> None:
        """Room for one whole attempt is set aside. JournalUnavailable (JOURNAL_FULL) if the
        disk has none: nothing new may begin."""
        ...

    async def close(self) -> None:
        """Give the lock back. Later appends raise."""
        ...


@dataclass(frozen=True, slots=True)
class WorkloadPause:
    """What one workload measured of its own stand-still."""

    workload: str
    duration_s: float
    uncertainty_s: float
    clock: str
    memory_intact: bool | None
    """None where the workload does not check."""
    bytes_checked: int = 0
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadPeer:
    """A workload that takes part, for preflight."""

    workload: str
    pid: int = 0
    """Of the connected process, whose memory will be preserved; 0: it is in this process, or gone."""
    session: str = ""
    """The session that the broker still holds of it; empty between attempts."""


class Workloads(Protocol):
    """The node's workloads behind the broker: luo-agent's protocol plus SUSPEND and RESUME."""

    async def subscribers(self) -> Sequence[str]: ...
    async def peers(self) -> Sequence[WorkloadPeer]:
        """Every workload that is known, connected or with a session still held."""
        ...

    async def preserve(self, kernel: Kernel, attempt: str) -> Mapping[str, str]:
        """START_PRESERVATION to each subscriber with a session of its own; waits for READY.

        Returns workload id → session name. Raises BrokerError naming who did not answer or
        refused. The broker keeps the session fds until release() or after_kexec finish().
        """
        ...

    async def suspend(self) -> None:
        """Stops all; blackout starts. A workload that ignores SUSPEND is taken at its word
        (luo-agent clients do not know the verb)."""
        ...

    async def retrieve(self, kernel: Kernel, sessions: Mapping[str, str]) -> None:
        """After the kexec: retrieve each session, hold its fd for CLAIM."""
        ...

    async def resume(self) -> Sequence[WorkloadPause]:
        """Hand back (CLAIM) and resume all; blackout ends. Also used by unwinding."""
        ...

    async def finish(self) -> None:
        """Finish and close every session; the workloads run on their retrieved fds."""
        ...

    async def release(self) -> None:
        """Before the kexec: close every session (unpreserves). Raises BrokerError
        (SESSION_STILL_HELD) if a process will not let go of its copy."""
        ...


class Hooks(Protocol):
    """Commands configured on the node only. Each is bounded by its own timeout."""

    async def drain(self) -> None: ...
    async def undrain(self) -> None: ...
    async def healthy(self) -> tuple[bool, str]:
        """(healthy, why not)."""
        ...


@dataclass(frozen=True, slots=True)
class BootChoice:
    """What a cold boot is to start. Paths are on the node; initrd_path may be empty."""

    digest: str
    release: str
    kernel_path: str
    initrd_path: str
    command_line: str
    """As the running kernel was given it, without what names the attempt."""


class DefaultKernel(Protocol):
    """What a cold boot starts: a boot loader's default entry, or a firmware's."""

    async def choose(self, choice: BootChoice) -> None:
        """From now on this one; called at COMMIT only, and again after a crash. AgentError if it
        cannot be: the node then keeps the one it had, and COMMIT is tried again."""
        ...


class Disks(Protocol):
    """The node's filesystems on the way into a kexec."""

    async def settle(self) -> None:
        """Write back, and get ready for jump(). Called while workloads still run, and once more before
        the jump; both may take as long as the disks do. AgentError."""
        ...

    async def jump(self, kernel: Kernel, last: Callable[[], None], left_s: float) -> NoReturn:
        """Make the filesystems quiet, call last(), and then the kernel's reboot.

        Returns by raising, with everything as it was before; on success as Kernel.reboot_kexec() does.

        Args:
            last: the last act before reboot, in any thread; what it raises stops the jump.
            left_s: how long all that comes before reboot may take.

        Raises:
            KernelError: refused.
            TimeoutError: given up before reboot.
        """
        ...

    async def let_go(self) -> None:
        """No jump comes: undo what settle() has got ready. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class LiveUpdateAbi:
    """A kernel's ABI strings, as its artifact's manifest has them. Empty: it does not have that."""

    kho: str
    luo: str
    handlers: Mapping[str, str] = field(default_factory=dict)
    """File handler → string."""


@dataclass(frozen=True, slots=True)
class StagedArtifact:
    """An artifact verified and kept on this node."""

    digest: str
    release: str
    kernel_path: str
    initrd_path: str
    kernel_config: Mapping[str, str]
    """CONFIG_… → value, for preflight."""
    live_update: LiveUpdateAbi | None = None
    """None: whoever built the artifact did not look."""
    init_bytes: int = 0
    """Memory that the kernel takes to start, which is what a kexec needs of KHO's scratch."""
    initrd_bytes: int = 0
    command_line_max: int = 0
    """The longest command line, with its NUL; 0: not known."""


class Artifacts(Protocol):
    """The node's artifact cache."""

    async def stage(self, ref: ArtifactRef) -> StagedArtifact:
        """Fetch (resuming a partial download), verify, keep. Idempotent. ArtifactError."""
        ...

    async def get(self, digest: str) -> StagedArtifact:
        """A staged artifact, verified again. ArtifactError (ARTIFACT_NOT_STAGED)."""
        ...

    async def staged(self) -> Sequence[str]: ...
    async def rollback_artifact(self) -> str:
        """Digest that boots the running release; empty if there is none. Captured at
        enrolment and kept."""
        ...
