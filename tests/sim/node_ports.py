"""What an agent of the simulation is given: ports that crash, dawdle, fail and keep their own account."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from node_agent.core.model import ArtifactRef
from node_agent.errors import AgentError, ArtifactError, HookFailed
from node_agent.kernel.emulated.inprocess import InProcessKernel, InProcessSession
from node_agent.ports import BootChoice, BootFacts, Kernel, KexecImage, StagedArtifact, WorkloadPause
from node_agent.workloads.inprocess import InProcessWorkloads, _Workload

if TYPE_CHECKING:
    from tests.sim.node import SimNode


def digest_of(release: str) -> str:
    """The artifact of a release: the same everywhere."""
    return hashlib.sha256(release.encode()).hexdigest()


async def for_ever() -> NoReturn:
    """Where a dead process's code waits until it is cancelled."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody can resolve this")


class SimKernel:
    """ports.Kernel: the emulated one, with points to crash at and the kernel's own checks."""

    def __init__(self, node: SimNode, kernel: InProcessKernel) -> None:
        self._node, self._kernel = node, kernel

    async def facts(self) -> BootFacts:
        return await self._kernel.facts()

    async def create_session(self, name: str) -> InProcessSession:
        return await self._node.passing("create_session", lambda: self._kernel.create_session(name))

    async def retrieve_session(self, name: str) -> InProcessSession:
        return await self._node.passing("retrieve_session", lambda: self._kernel.retrieve_session(name))

    async def load(self, image: KexecImage) -> None:
        self._node.world.checks.loading(self._node, image)
        await self._node.passing("load", lambda: self._kernel.load(image))

    async def unload(self) -> None:
        await self._node.passing("unload", self._kernel.unload)

    async def loaded(self) -> bool:
        return await self._kernel.loaded()

    async def reboot_kexec(self) -> NoReturn:
        node = self._node
        await node.point("reboot")
        node.world.checks.rebooting(node)
        node.vanishing = True
        try:
            await self._kernel.reboot_kexec()
        except AgentError as error:
            node.vanishing = False
            node.world.checks.reboot_refused(node)
            node.tell(f"reboot refused: {error.message}")
            node.world.story.count("freeze refused")
            raise


class SimWorkloads(InProcessWorkloads):
    """Workloads that tell what became of their memory."""

    node: SimNode

    def _running(self) -> dict[str, _Workload]:
        fresh = not self._started
        found = super()._running()
        if fresh:
            self.node.tell("workloads start with fresh memory")
        return found

    async def retrieve(self, kernel: Kernel, sessions: Mapping[str, str]) -> None:
        await self.node.point("retrieve")
        await super().retrieve(kernel, sessions)
        for workload in self._workloads.values():
            if self.node.take_chance(self.node.world.rates.memory_spoilt):
                self.node.spoil(workload)

    async def resume(self) -> Sequence[WorkloadPause]:
        pauses = await self.node.passing("resume", super().resume)
        intact = all(w.memory.verify().intact for w in self._workloads.values())
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

    async def healthy(self) -> tuple[bool, str]:
        node = self._node
        if self._release in node.sick_on:
            return False, f"sick on {self._release}"
        if asyncio.get_running_loop().time() < node.sick_until_s:
            return False, "a spell of ill health"
        return True, ""


class SimFirmware:
    """ports.DefaultKernel of an emulated node."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    async def choose(self, choice: BootChoice) -> None:
        await self._node.point("set_default")
        self._node.emulated.set_default(choice.release)


class SimArtifacts:
    """ports.Artifacts: a cache that survives boots; fetching takes a moment and may fail."""

    def __init__(self, node: SimNode, release: str) -> None:
        self._node, self._release = node, release
        node.cache[digest_of(release)] = release

    async def stage(self, ref: ArtifactRef) -> StagedArtifact:
        node = self._node
        await asyncio.sleep(node.rng.uniform(0.1, 3))
        if node.take_chance(node.world.rates.staging_fails):
            node.world.story.count("staging failed")
            raise ArtifactError("the download broke off", reason="ARTIFACT_FETCH_FAILED")
        node.cache[ref.digest] = ref.release
        return await self.get(ref.digest)

    async def get(self, digest: str) -> StagedArtifact:
        release = self._node.cache.get(digest)
        if release is None:
            raise ArtifactError("the artifact is not staged", reason="ARTIFACT_NOT_STAGED")
        return StagedArtifact(digest, release, f"/kernels/{release}", "", {})

    async def staged(self) -> Sequence[str]:
        return tuple(self._node.cache)

    async def rollback_artifact(self) -> str:
        return digest_of(self._release)
