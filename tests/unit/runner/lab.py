"""One node in virtual time: emulated kernel, in-process workloads, scripted trouble at any port call."""

from __future__ import annotations

import asyncio
import heapq
import inspect
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from node_agent.core import commands as cmd
from node_agent.core.model import ArtifactRef, AttemptKind, AttemptRef, StepTimeouts
from node_agent.core.phases import SETTLED, Phase
from node_agent.errors import AgentError, ArtifactError, BrokerError, HookFailed, KernelError
from node_agent.kernel.emulated.image import SESSIONS, EmulatedImage, ImageTable
from node_agent.kernel.emulated.node import Boot as NodeBoot
from node_agent.kernel.emulated.node import EmulatedNode
from node_agent.kernel.emulated.phases import PhaseTimes
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.ports import BootChoice, LiveUpdateAbi, StagedArtifact
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.runner import NodeRunner
from node_agent.runtime.runner_boot import Boot
from node_agent.runtime.runner_effects import Pace, Ports
from node_agent.runtime.runner_items import Identity
from node_agent.workloads.inprocess import InProcessWorkloads

OLD, NEW = "7.2.13", "7.3.4"
DIGESTS = {"o" * 64: OLD, "n" * 64: NEW}
COMMAND_LINE = "kho=on liveupdate=on panic=1"
TIMEOUTS = StepTimeouts(
    loading_s=10, draining_s=10, preserving_s=10, preserved_s=60, suspending_s=10, retrieving_s=10,
    resuming_s=10, verifying_s=10, finishing_s=20, unwinding_s=30,
)  # fmt: skip


NOTIFIER, LUO_DRIVEN = "notifier", "luo-driven"
"""RFC v2 in its couplings."""
KINDS = (SESSIONS, NOTIFIER, LUO_DRIVEN)
"""What a lab's kernels may be of: the merged model, and RFC v2 in each coupling."""


class Running:
    """Of which kind the labs of the running test are; set by the fixture `kernels`."""

    kind = SESSIONS


def image(release: str, **properties: Any) -> EmulatedImage:
    """A kernel of the kind that the running test is about; properties as in EmulatedImage."""
    if Running.kind == SESSIONS:
        return EmulatedImage(release, **properties)
    return EmulatedImage.rfc2(release, coupling=Running.kind, **properties)


class VirtualBase:
    """Time that passes only when nothing else can happen."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float, /) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, future))
        await future

    async def until(self, done: Callable[[], bool], *, limit_s: float = 3600.0) -> None:
        """Let things happen until done(); AssertionError after limit_s of virtual time."""
        end = self._now + limit_s
        while True:
            for _ in range(250):
                await asyncio.sleep(0)
                if done():
                    return
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            assert self._sleepers, "nothing will ever happen any more"
            assert self._sleepers[0][0] <= end, f"not within {limit_s} s"
            self._now, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)


@dataclass
class Trouble:
    """What happens at the n-th call of a name, before or after it: fail, hang, crash, power, spoil."""

    call: str
    n: int
    moment: str
    action: str


@dataclass
class Hooks:
    health: Callable[[], tuple[bool, str]] = lambda: (True, "")
    drained: bool = False
    default: str = ""

    async def drain(self) -> None:
        self.drained = True

    async def undrain(self) -> None:
        self.drained = False

    async def healthy(self) -> tuple[bool, str]:
        return self.health()

    async def choose(self, choice: BootChoice) -> None:
        """ports.DefaultKernel too: one object to script."""
        self.default = choice.digest


SESSIONS_ABI = LiveUpdateAbi("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
RFC2_ABI = LiveUpdateAbi("kho-v1", "luo-v1", {"memfd": "memfd-v1"})


def spoken() -> LiveUpdateAbi | None:
    """What the artifacts of the running test say: on sessions nothing need be said."""
    return None if Running.kind == SESSIONS else RFC2_ABI


@dataclass
class Artifacts:
    rollback: str = "o" * 64
    config: dict[str, str] = field(
        default_factory=lambda: {"CONFIG_KEXEC_HANDOVER": "y", "CONFIG_LIVEUPDATE": "y"}
    )
    says: LiveUpdateAbi | None = field(default_factory=spoken)

    async def stage(self, ref: Any) -> StagedArtifact:
        return await self.get(ref.digest)

    async def get(self, digest: str) -> StagedArtifact:
        if digest not in DIGESTS:
            raise ArtifactError("not staged", reason="ARTIFACT_NOT_STAGED")
        return StagedArtifact(digest, DIGESTS[digest], "/kernel", "", self.config, self.says)

    async def staged(self) -> list[str]:
        return list(DIGESTS)

    async def rollback_artifact(self) -> str:
        return self.rollback


class Watched:
    """A port whose calls are counted, and troubled as the script says."""

    def __init__(self, lab: Lab, name: str, target: Any) -> None:
        self._lab, self._name, self._target = lab, name, target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not inspect.iscoroutinefunction(value):
            return value

        async def call(*args: Any, **kwargs: Any) -> Any:
            await self._lab.at(f"{self._name}.{name}", "before")
            result = await value(*args, **kwargs)
            await self._lab.at(f"{self._name}.{name}", "after")
            return result

        return call


ERRORS: dict[str, Callable[[], AgentError]] = {
    "kernel": lambda: KernelError(5, "ioctl"),
    "device": lambda: KernelError(5, "ioctl"),
    "workloads": lambda: BrokerError("a workload said no"),
    "hooks": lambda: HookFailed("the hook failed"),
    "artifacts": lambda: ArtifactError("damaged"),
}


class Lab:
    """The node, its disk and its script. Use as an async context manager."""

    def __init__(self, *troubles: Trouble, workloads: int = 2, **node: Any) -> None:
        self.base = VirtualBase()
        times = PhaseTimes(shutdown_s=0.1, purgatory_s=0.2, boot_s=0.7, panic_s=1, firmware_s=30)
        self.node = EmulatedNode(
            OLD,
            base=self.base,
            phases=times,
            command_line=COMMAND_LINE,
            **{"image": image(OLD), "images": ImageTable(otherwise=image("")), **node},
        )
        self.disk = MemoryDisk()
        self.hooks, self.artifacts = Hooks(), Artifacts()
        if self.node.model.rfc2 is not None:
            self.artifacts.says = RFC2_ABI
        self.workload_count = workloads
        self.workloads: InProcessWorkloads | None = None
        self.troubles = list(troubles)
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, int]] = []
        self.runner: NodeRunner
        self.pace = Pace(probe_s=1, watch_s=5)
        self.quarantine: Any = None
        self.linked = True
        self.given_up = False
        """The test expects the agent's end."""
        self.reboots: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Lab:
        self._task = asyncio.create_task(self.node.run(self._userspace))
        await self.base.until(lambda: hasattr(self, "runner") and self.runner.ready.is_set())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        if self._task.done() and not self.given_up:
            self._task.result()
        self._task.cancel()
        await asyncio.wait([self._task])
        if self.workloads is not None:
            self.workloads.node_died()

    async def at(self, call: str, moment: str) -> None:
        if moment == "before":
            self.calls[call] += 1
            self.log.append((call, self.calls[call]))
        for trouble in self.troubles:
            if (trouble.call, trouble.n, trouble.moment) != (call, self.calls[call], moment):
                continue
            self.troubles.remove(trouble)
            if trouble.action == "fail":
                raise ERRORS[call.partition(".")[0]]()
            if trouble.action == "spoil":
                self._spoil()
                return
            if trouble.action == "power":
                self.node.power_loss()
            elif trouble.action == "crash":
                self.crash()
            await asyncio.get_running_loop().create_future()

    def crash(self) -> None:
        """kill -9 of the agent: the kernel closes what it had open, workloads go on, and it starts again."""
        self.node.kill_userspace()

    def held(self) -> list[str]:
        """What the kernel keeps for somebody: sessions, or tokens and what came in and is not finished."""
        model = self.node.model
        if model.rfc2 is None:
            return list(model.sessions())
        files = model.rfc2.files
        came = [f"incoming {token}" for token in files.incoming]
        return [f"outgoing {token}" for token in files.outgoing] + came

    def _spoil(self) -> None:
        assert self.workloads is not None
        memory = self.workloads._workloads["vm-0"].memory
        os.pwrite(memory.fd, b"\xff" * 16, os.fstat(memory.fd).st_size - 16)

    async def _userspace(self, boot: NodeBoot) -> None:
        if self.workloads is None:
            self.workloads = InProcessWorkloads(boot.clock, count=self.workload_count, size_bytes=8192)
        elif boot.starts == 1:
            self.workloads.node_died()
            self.workloads.clock = boot.clock
            self.disk.power_loss()
        else:
            await self.workloads.agent_died()
        self.disk.process_died()
        ports = Ports(
            Watched(self, "kernel", boot.kernel),
            Watched(self, "journal", MemoryJournal(self.disk, "installation")),
            boot.clock,
            Watched(self, "workloads", self.workloads),
            Watched(self, "hooks", self.hooks),
            Watched(self, "artifacts", self.artifacts),
            Watched(self, "hooks", self.hooks),
        )
        facts = await boot.kernel.facts()
        identity = Identity("node-1", linked=self.linked)
        self.runner = NodeRunner(identity, ports, Boot(facts, quarantine=self.quarantine), self.pace)
        await self.runner.run()

    # -- an operator of few words

    @property
    def phase(self) -> Phase:
        return self.runner.status().phase

    def ref(self, generation: int = 1) -> AttemptRef:
        return AttemptRef("node-1", generation, "incarnation")

    def prepare(self, generation: int = 1, *, back: bool = False, **changes: Any) -> cmd.Prepare:
        digest = ("o" if back else "n") * 64
        command = cmd.Prepare(
            f"prepare-{generation}",
            self.ref(generation),
            AttemptKind.ROLLBACK if back else AttemptKind.FORWARD,
            ArtifactRef("linux", digest, "", DIGESTS[digest]),
            COMMAND_LINE,
            timeouts=TIMEOUTS,
            health_hold_s=3.0,
        )
        return replace(command, **changes)

    def proceed(self, generation: int = 1, valid_for_s: float = 30.0) -> cmd.Proceed:
        return cmd.Proceed(f"proceed-{generation}", self.ref(generation), self.runner.stamp(), valid_for_s)

    @property
    def luo(self) -> Luo:
        """RFC v2's, of the running boot, as a hand on the node has it."""
        rfc2 = self.node.model.rfc2
        assert rfc2 is not None
        assert rfc2.luo is not None
        return rfc2.luo

    def problem(self) -> str:
        problem = self.runner.status().problem
        return problem.reason if problem is not None else ""

    async def reach(self, *phases: Phase) -> Phase:
        await self.base.until(lambda: self.phase in phases and self.runner.ready.is_set())
        return self.phase

    async def settle(self) -> Phase:
        return await self.reach(*SETTLED)

    async def update(self, generation: int = 1, **changes: Any) -> Phase:
        """PREPARE and PROCEED, each again for as long as it stands, until the attempt settles."""
        prepare = self.prepare(generation, **changes)

        def settled() -> bool:
            if not self.runner.ready.is_set():
                return False
            status = self.runner.status()
            if status.attempt == prepare.attempt and status.phase in SETTLED:
                return True
            if status.attempt != prepare.attempt and status.phase in SETTLED:
                self.runner.submit(prepare)
            elif status.phase is Phase.PRESERVED:
                self.runner.submit(self.proceed(generation))
            return False

        await self.base.until(settled)
        return self.phase

    def suspended(self) -> list[str]:
        assert self.workloads is not None
        return [w.id for w in self.workloads._workloads.values() if w.memory.suspended]

    def intact(self) -> bool:
        assert self.workloads is not None
        return all(w.memory.verify().intact for w in self.workloads._workloads.values())
