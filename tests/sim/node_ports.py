"""What an agent of the simulation is given: ports that crash, dawdle, fail and keep their own account."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from node_agent.core.model import ArtifactRef
from node_agent.errors import AgentError, ArtifactError, HookFailed
from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.tokens import TokenSessions
from node_agent.ports import (
    BootChoice,
    BootFacts,
    JournalRecord,
    Kernel,
    KexecImage,
    KexecTelemetry,
    Session,
    StagedArtifact,
    TokenDevice,
    Tokens,
    WorkloadPause,
)
from node_agent.runtime.journal_memory import MemoryJournal
from node_agent.runtime.journal_over import JournalOver
from node_agent.workloads.inprocess import InProcessWorkloads, _Workload
from tests.sim import draw_luo, preserved
from tests.sim.node_luo import SimTokens

if TYPE_CHECKING:
    from tests.sim.node import SimNode


def digest_of(release: str) -> str:
    """The artifact of a release: the same everywhere."""
    return hashlib.sha256(release.encode()).hexdigest()


async def for_ever() -> NoReturn:
    """Where a dead process's code waits until it is cancelled."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody can resolve this")


class SimJournal(JournalOver):
    """A point before and after each record, and an account of what each stood for."""

    def __init__(self, node: SimNode, journal: MemoryJournal) -> None:
        super().__init__(journal)
        self._node = node

    async def append(self, kind: str, body: Mapping[str, object]) -> JournalRecord:
        """A crash at its sync may find the record written, whole or in part, or not."""
        node = self._node
        node.row = _row(node, body)
        record = await super().append(kind, body)
        node.world.checks.promises.written(node, record)
        if node.row:
            node.world.story.count(f"saga {node.row}")
            phase, verdict = node.row.rpartition(" → ")[2], node.row.split(" ")[2]
            node.world.checks.promises.journalled(node, phase, verdict)
        await node.point("journal done")
        node.row = ""
        return record

    async def ensure_room(self) -> None:
        await self._node.passing("ensure_room", super().ensure_room)


def _row(node: SimNode, body: Mapping[str, object]) -> str:
    """The row of the saga that a record stands for: from, event, to. Empty: of none."""
    report, after = body.get("report"), body.get("node")
    attempt = after.get("attempt") if isinstance(after, Mapping) else None
    if not isinstance(report, Mapping) or not isinstance(after, Mapping) or node.life is None:
        return ""
    if not isinstance(attempt, Mapping):
        return ""
    before = node.life.runner.attempt
    phase = before.phase.value if before is not None else "IDLE"
    if report.get("event") == "BootClassified":
        return f"{phase} × {after.get('verdict') or 'SAME_BOOT'} → {attempt.get('phase')}"
    return f"{phase} × {report.get('event')} → {attempt.get('phase')}"


class SimSession:
    """ports.Session, with points."""

    def __init__(self, node: SimNode, session: Session) -> None:
        self._node, self._session = node, session

    @property
    def name(self) -> str:
        return self._session.name

    def fileno(self) -> int:
        return self._session.fileno()

    async def preserve_fd(self, fd: int, token: int) -> None:
        await self._node.passing("preserve_fd", lambda: self._session.preserve_fd(fd, token))

    async def retrieve_fd(self, token: int) -> int:
        await self._node.point("retrieve_fd")
        fd = await self._session.retrieve_fd(token)
        try:
            await self._node.point("retrieve_fd done")
        except asyncio.CancelledError:
            os.close(fd)
            raise
        return fd

    async def finish(self) -> None:
        await self._node.passing("finish session", self._session.finish)

    async def close(self) -> None:
        await self._session.close()


class SimKernel:
    """ports.Kernel: the emulated one, with points to crash at and the kernel's own checks."""

    def __init__(self, node: SimNode, kernel: InProcessKernel) -> None:
        self._node, self._kernel = node, kernel
        self._waiting: dict[str, Session] = {}
        if isinstance(kernel.sessions, TokenSessions):
            kernel.sessions.device = SimTokens(node, kernel.sessions.device)

    async def facts(self) -> BootFacts:
        return await self._kernel.facts()

    async def create_session(self, name: str) -> SimSession:
        """As the real one, whoever is cancelled here has made nothing."""
        node = self._node
        await node.point("create_session")
        session = await self._kernel.create_session(name)
        try:
            await node.point("create_session done")
        except asyncio.CancelledError:
            await session.close()
            raise
        return SimSession(node, session)

    async def retrieve_session(self, name: str) -> SimSession:
        """As with the real one, what a cancelled call has retrieved waits for the next that asks."""
        node = self._node
        await node.point("retrieve_session")
        session = self._waiting.pop(name, None) or await self._kernel.retrieve_session(name)
        try:
            await node.point("retrieve_session done")
        except asyncio.CancelledError:
            self._waiting[name] = session
            raise
        return SimSession(node, session)

    async def is_free(self, name: str) -> bool:
        return await self._kernel.is_free(name)

    async def prepare(self) -> Tokens:
        return await self._node.passing("prepare", self._kernel.prepare)

    async def cancel(self) -> None:
        await self._node.passing("cancel", self._kernel.cancel)

    async def finish(self) -> None:
        await self._node.passing("finish all", self._kernel.finish)

    async def recall(self, tokens: Tokens) -> None:
        await self._kernel.recall(tokens)

    async def telemetry(self) -> KexecTelemetry | None:
        return await self._kernel.telemetry()

    def luo(self) -> TokenDevice | None:
        return self._kernel.luo()

    async def load(self, image: KexecImage) -> None:
        self._node.world.checks.loading(self._node, image)
        self._node.stuck.check_image()
        await self._node.passing("load", lambda: self._kernel.load(image))

    async def unload(self) -> None:
        self._node.stuck.check_image()
        await self._node.passing("unload", self._kernel.unload)

    async def loaded(self) -> bool:
        return await self._node.passing("loaded", self._kernel.loaded)

    async def ready_to_jump(self) -> None:
        await self._kernel.ready_to_jump()

    async def reboot_kexec(self) -> NoReturn:
        node = self._node
        await node.point("reboot", at_once=True)
        node.world.checks.rebooting(node)
        await node.stuck.hold()
        node.vanishing = True
        try:
            await self._kernel.reboot_kexec()
        except AgentError as error:
            node.vanishing = False
            node.world.checks.reboot_refused(node)
            node.tell(f"reboot refused: {error.message}")
            node.world.story.count("freeze refused")
            if node.stuck.killed:
                # Its SIGKILL has waited for it.
                node.emulated.kill_userspace()
                await for_ever()
            await node.point("reboot done")
            raise


class SimWorkloads(InProcessWorkloads):
    """Workloads that tell what became of their memory."""

    node: SimNode

    def _running(self) -> dict[str, _Workload]:
        fresh = not self._started
        found = super()._running()
        if fresh:
            self.node.spoilt = False
            self.node.tell("workloads start with fresh memory")
        return found

    async def preserve(self, kernel: Kernel, attempt: str) -> Mapping[str, str]:
        call = super().preserve
        return await self.node.passing("preserve", lambda: call(kernel, attempt))

    async def suspend(self) -> None:
        await self.node.passing("suspend", super().suspend)

    async def finish(self) -> None:
        self.node.world.checks.promises.finishing(self.node)
        await self.node.passing("finish", super().finish)

    async def release(self) -> None:
        await self.node.passing("release", super().release)

    async def retrieve(self, kernel: Kernel, sessions: Mapping[str, str]) -> None:
        call = super().retrieve
        await self.node.passing("retrieve", lambda: call(kernel, sessions))
        for workload in self._workloads.values():
            if self.node.take_chance(self.node.world.rates.memory_spoilt):
                self.node.spoil(workload)

    async def resume(self) -> Sequence[WorkloadPause]:
        pauses = await self.node.passing("resume", super().resume)
        intact = all(w.memory.verify().intact for w in self._workloads.values())
        for pause in pauses:
            excused = self.node.spoilt or preserved.refused(self.node.emulated.model)
            if not pause.memory_intact and not excused:
                what = (
                    f"memory of {pause.workload} on {self.node.name} is not what it was, and nobody spoilt it"
                )
                self.node.world.violated("I8", what, self.node.node_id)
        crossed = sum(1 for w in self._workloads.values() if w.crossed)
        self.node.world.checks.resumed(self.node, crossed=crossed, intact=intact)
        return pauses

    def suspended(self) -> list[str]:
        """Workloads that stand still."""
        return [w.id for w in self._workloads.values() if w.memory.fd >= 0 and w.memory.suspended]


class SimHooks:
    """ports.Hooks: fails, dawdles and sickens as the seed says."""

    def __init__(self, node: SimNode, release: str) -> None:
        self._node, self._release = node, release

    async def drain(self) -> None:
        await self._act("drain")

    async def undrain(self) -> None:
        await self._act("undrain")

    async def _act(self, what: str) -> None:
        node, rates = self._node, self._node.world.rates
        await node.point(what)
        if node.take_chance(rates.hooks_slow):
            node.world.story.count("slow hook")
            await asyncio.sleep(node.rng.uniform(5, 60))
        if node.take_chance(rates.hooks_fail):
            node.world.story.count("hook failed")
            raise HookFailed(f"{what} failed")
        await node.point(f"{what} done")

    async def healthy(self) -> tuple[bool, str]:
        why = self._sick()
        self._node.world.checks.promises.probed(self._node, healthy=not why)
        return not why, why

    def _sick(self) -> str:
        node = self._node
        if self._release in node.sick_on:
            return f"sick on {self._release}"
        if asyncio.get_running_loop().time() < node.sick_until_s:
            return "a spell of ill health"
        return ""


class SimFirmware:
    """ports.DefaultKernel of an emulated node."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    async def choose(self, choice: BootChoice) -> None:
        await self._node.point("set_default")
        self._node.emulated.set_default(choice.release)
        await self._node.point("set_default done")


class SimArtifacts:
    """ports.Artifacts: a cache that survives boots; fetching takes a moment and may fail."""

    def __init__(self, node: SimNode, release: str) -> None:
        self._node, self._release = node, release
        node.cache[digest_of(release)] = release

    async def stage(self, ref: ArtifactRef) -> StagedArtifact:
        node = self._node
        await node.point("stage")
        await asyncio.sleep(node.rng.uniform(0.1, 3))
        if node.take_chance(node.world.rates.staging_fails):
            node.world.story.count("staging failed")
            raise ArtifactError("the download broke off", reason="ARTIFACT_FETCH_FAILED")
        node.cache[ref.digest] = ref.release
        await node.point("stage done")
        return await self.get(ref.digest)

    async def get(self, digest: str) -> StagedArtifact:
        release = self._node.cache.get(digest)
        if release is None:
            raise ArtifactError("the artifact is not staged", reason="ARTIFACT_NOT_STAGED")
        abi = draw_luo.says(release, self._node.spec.luo, self._node.world.scenario.only)
        return StagedArtifact(digest, release, f"/kernels/{release}", "", {}, abi)

    async def staged(self) -> Sequence[str]:
        return tuple(self._node.cache)

    async def rollback_artifact(self) -> str:
        return digest_of(self._release)
