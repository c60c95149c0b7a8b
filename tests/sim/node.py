"""One simulated node over all its boots: emulated kernel, journal disk, workloads, agent and link.

Wired as node_agent/simulate.py wires its nodes, with everything in memory and on the virtual
clock. Every call that the agent makes of a port passes a point at which the node may crash.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from node_agent.core.attempt import NodeState
from node_agent.core.history import INSTALLATION, body_of
from node_agent.core.phases import SETTLED, Phase
from node_agent.errors import AgentError, JournalCorrupt
from node_agent.kernel.emulated.model import LuoModel, Machine
from node_agent.kernel.emulated.node import Boot, EmulatedNode
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import BootFacts, JournalRecord
from node_agent.runtime.journal_format import MAGIC, decode_file, encode_record
from node_agent.runtime.journal_memory import MemoryDisk, MemoryJournal
from node_agent.runtime.metrics import Meter
from node_agent.runtime.runner_boot import Boot as BootFound
from node_agent.runtime.runner_effects import Pace, Ports
from node_agent.runtime.runner_items import Identity
from node_agent.runtime.supervisor import NodeLife, _floor, corrupt_problem
from node_agent.workloads.inprocess import WorkloadFaults, _Workload
from tests.sim import chaos_hands, chaos_luo, draw_luo, participants, preserved
from tests.sim.draw import NodeDraw
from tests.sim.logs import QuietLog
from tests.sim.node_ports import (
    SimArtifacts,
    SimFirmware,
    SimHooks,
    SimJournal,
    SimKernel,
    SimWorkloads,
    for_ever,
)
from tests.sim.stuck import StuckReboot
from tests.sim.virtual import EPOCH, PROCESS, Process, VirtualBase

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")

PACE = Pace(probe_s=1.0, watch_s=10.0)
MEMORY_BYTES = 8192
RECORDS = 10
RESTART_S = 1.0
"""How long a service manager takes to start a dead agent again."""


class SimNode:
    """See the module. All that lasts beyond a boot is here."""

    def __init__(self, world: World, spec: NodeDraw, *, name: str = "", installation: str = "") -> None:
        self.world, self.spec, self.node_id = world, spec, spec.node_id
        self.name = name or spec.node_id
        """The machine's own, which a clone does not share."""
        self.installation = installation or f"installation-{self.name}"
        self.zone = spec.zone
        self.rng = random.Random(f"node {world.scenario.seed} {self.name}")
        self.process: Process | None = None
        """Of the agent that runs now."""
        self.set_aside = 0
        """Journals that were corrupt."""
        self.flipped = False
        self.coupling = ""
        """Of the last boot's LUO and KHO; empty where it has sessions."""
        self.by_hand = False
        """Somebody has put something into LUO past the agent, and it may be there yet (chaos_hands.py)."""
        self.spoilt = False
        """Bits of its workloads' memory have flipped; that crosses, too."""
        self.forgotten: set[str] = set()
        """Sessions that were in the kernel when the journal that knew them was lost."""
        self.row = ""
        """Of the saga, whose record is being written: from, event, to."""
        self.stuck = StuckReboot(self)
        self.disk = MemoryDisk()
        self.disk.before_sync = self._syncing
        self.cache: dict[str, str] = {}
        self.sick_on: set[str] = set()
        self.sick_until_s = 0.0
        self.vanishing = False
        """Its userspace is about to go without a word: power, or a kexec."""
        self.boots = 0
        self.life: NodeLife | None = None
        self.workloads: SimWorkloads | None = None
        images = draw_luo.images(spec.luo, world.scenario.couplings, world.scenario.only)
        self.emulated = EmulatedNode(
            image=images.named(spec.release),
            images=images,
            faults=spec.faults,
            machine=Machine(spec.model, pci_devices=("0000:01:00.0",) * spec.devices),
            phases=world.scenario.phases,
            base=VirtualBase(),
            seed=zseed(world.scenario.seed, self.name),
            restart_s=RESTART_S,
            epoch=EPOCH + timedelta(seconds=self.rng.choice((0, 0, -3, 20, -4000, 86400))),
        )
        self.emulated.model.freeze = self._freeze  # type: ignore[method-assign]

    # --- what the world does to it

    async def run(self) -> None:
        """Power on at its time, until cancelled."""
        await asyncio.sleep(self.spec.joins_at_s)
        try:
            await self.emulated.run(self._userspace)
        finally:
            if self.workloads is not None:
                self.workloads.node_died()

    def crash_agent(self) -> None:
        """SIGKILL; the workloads live."""
        if self.stuck.inside:
            self.stuck.kill()
        elif self.emulated.running:
            self.world.story.count("agent crashed")
            self.tell("the agent is killed")
            self.go_on()
            self.emulated.kill_userspace()

    def lose_power(self) -> None:
        """Power fails and returns; also the power button of a node that is off."""
        self.world.story.count("power lost" if self.emulated.running else "power button")
        self.tell(
            "power is lost, and returns" if self.emulated.running else "somebody presses the power button"
        )
        self.vanishing = True
        self.go_on()
        self.emulated.power_loss()

    def go_on(self) -> None:
        """Who is killed need not be let go first; our loop cannot end what it does not run."""
        if self.process is not None:
            self.process.go()

    def set_clock(self, by_s: float) -> None:
        """Its wall clock, now and after every boot."""
        self.emulated._epoch += timedelta(seconds=by_s)
        if self.life is not None:
            self.life.ports.clock._epoch += timedelta(seconds=by_s)  # type: ignore[attr-defined]

    def flip_bit(self, at: int) -> None:
        """Of the journal."""
        data = bytearray(self.disk.data)
        data[at // 8] ^= 1 << at % 8
        self.tell(f"bit {at} of its journal's {len(data)} bytes flips")
        self.disk.data = bytes(data)
        self.flipped = True

    @property
    def release(self) -> str:
        """Of the kernel that runs."""
        return self.emulated.model.release

    def _freeze(self) -> None:
        """reboot(KEXEC) of the agent's, at the kernel. Raises OSError: refused."""
        model = self.emulated.model
        try:
            LuoModel.freeze(model)
        finally:
            if model.rfc2 is not None:
                self.world.story.count(f"LUO is {model.rfc2.state} after reboot, {model.facts().coupling}")
        self.world.checks.promises.frozen(self)

    def heal(self) -> None:
        """Nothing goes wrong here any more; what is broken stays so until somebody mends it."""
        self.emulated.model.faults = FaultPlan()
        self.disk.full = self.disk.tight = self.disk.fail_sync = False
        self.sick_on.clear()
        self.sick_until_s = 0.0
        self.go_on()
        if self.workloads is not None:
            self.workloads.faults.clear()

    def spoil(self, workload: _Workload) -> None:
        """A bit flips in the new kernel."""
        self.world.story.count("memory spoilt")
        self.tell(f"memory of {workload.id} is spoilt")
        self.spoilt = True
        size = os.fstat(workload.memory.fd).st_size
        os.pwrite(workload.memory.fd, b"\xff" * 8, size - 8)

    # --- points

    def tell(self, text: str) -> None:
        self.world.story.tell(self.node_id, text)

    def take_chance(self, rate: float) -> bool:
        return rate > 0 and self.world.chaos and self.rng.random() < rate

    async def point(self, name: str, *, at_once: bool = False) -> None:
        """The agent passes here, and may not get beyond. at_once: no time passes, for there is none
        between two instructions."""
        rates = self.world.rates
        self.world.checks.standing(self)
        self.world.ambushes.passing(self)
        if name == "cancel" or (name == "finish all" and chaos_luo.is_updated(self)):
            # Now all that LUO has is the agent's to end.
            self.by_hand = False
        if not at_once:
            chaos_luo.passing(self)
            chaos_hands.passing(self)
        if rates.step_s and not at_once:
            await asyncio.sleep(self.rng.uniform(0, rates.step_s))
        # Records are few, and each is a row of the saga: they are struck more often.
        if self.take_chance(min(0.3, rates.agent_crash * RECORDS) if self.row else rates.agent_crash):
            self.world.story.count(f"agent crashed at {name}")
            self.world.story.count(f"agent crashed in {self.phase}")
            if self.row:
                self.world.story.count(f"agent crashed at {self.row}")
            self.crash_agent()
            await for_ever()
        if self.take_chance(rates.power_loss):
            self.lose_power()
            await for_ever()

    async def passing(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        """A call with a point on either side."""
        await self.point(name)
        result = await call()
        await self.point(f"{name} done")
        return result

    async def _syncing(self) -> None:
        """Between a journal's write and its fsync."""
        if self.take_chance(self.world.rates.sync_slow):
            self.world.story.count("slow fsync")
            await asyncio.sleep(self.rng.uniform(1, 8))
        await self.point("journal")
        if self.take_chance(self.world.rates.sync_fails):
            self.world.story.count("fsync failed")
            self.disk.fail_sync = True

    # --- its userspace

    async def _userspace(self, boot: Boot) -> None:
        self.process = Process(self.name)
        PROCESS.set(self.process)
        self.stuck.boot = boot
        self.vanishing = False
        self.world.checks.booted(self, boot)
        if boot.boots != self.boots:
            self.boots = boot.boots
            if boot.boots > 1:
                self.disk.power_loss(self.rng.randint(0, 200))
                if decode_file(self.disk.data).good_bytes < len(self.disk.data):
                    self.world.story.count("record torn")
            self.by_hand = self.by_hand and self.emulated.model.facts().kexec_count > 0
            participants.join(self)
            await self._start_workloads(boot)
        else:
            self.disk.process_died()
            assert self.workloads is not None
            await self.workloads.agent_died()
        self.disk.process_died()
        self.disk.fail_sync = False
        facts = await boot.kernel.facts()
        self.tell(f"userspace {boot.starts} of boot {boot.boots} on {facts.release}")
        if boot.starts == 1 and self.take_chance(self.world.rates.unhealthy) and "6.19" in facts.release:
            self.world.story.count("sick on the new kernel")
            self.sick_on.add(facts.release)
        try:
            await self._live(boot, facts)
        except BaseExceptionGroup as group:
            errors = leaves(group)
            if not all(isinstance(e, AgentError) for e in errors):
                raise
            self.tell(f"the agent ended: {errors[0]}")
            self.world.story.count("agent ended by itself")
            asyncio.get_running_loop().call_later(1.0, self.emulated.kill_userspace)
            await for_ever()

    async def _live(self, boot: Boot, facts: BootFacts) -> None:
        assert self.workloads is not None
        journal, quarantine = self._journal()
        self.life = NodeLife(
            identity=Identity(
                node_id=self.node_id,
                labels={"zone": self.zone, "hardware_model": self.spec.model},
                capabilities=("luo", "kho", "emulated"),
                agent_version="sim",
            ),
            ports=Ports(
                kernel=SimKernel(self, boot.kernel),
                journal=journal,
                clock=boot.clock,
                workloads=self.workloads,
                hooks=SimHooks(self, facts.release),
                artifacts=SimArtifacts(self, facts.release),
                default_kernel=SimFirmware(self),
            ),
            boot=BootFound(facts, quarantine=quarantine),
            meter=Meter(),
            log=QuietLog(),
            connect=lambda: self.world.network.connect(self.node_id, lambda: self.vanishing),
            pace=PACE,
            rng=random.Random(self.rng.random()),
            complain=False,
        )
        await self.life.live()

    def _journal(self) -> tuple[SimJournal, Any]:
        try:
            journal = MemoryJournal(self.disk, self.installation)
            self.world.checks.promises.opened(self, journal.records)
            return SimJournal(self, journal), None
        except JournalCorrupt as error:
            problem = corrupt_problem(error, "memory")
            self.tell(f"its journal is corrupt: {error.message}")
            self.world.story.count("journal set aside")
            self.world.checks.journal_lost(self)
            self.forgotten.update(preserved.left(self.emulated.model))
            self.world.checks.promises.set_aside(self)
            self.disk.data = MAGIC + encode_record(self._first_record(problem))
            return SimJournal(self, MemoryJournal(self.disk, self.installation)), problem

    def _first_record(self, problem: Any) -> JournalRecord:
        """Of the journal that takes the corrupt one's place, as FileJournal.set_aside makes it."""
        self.set_aside += 1
        readable = decode_file(self.disk.data).records
        node = NodeState(highest_generation=_floor(readable), healthy=False, quarantine=problem)
        body: Mapping[str, object] = {**body_of(node=node), "installation_id": self.installation}
        return JournalRecord((self.set_aside << 32) + 1, INSTALLATION, body)

    async def _start_workloads(self, boot: Boot) -> None:
        if self.workloads is not None:
            self.workloads.node_died()
        seed = zseed(self.world.scenario.seed, self.node_id)
        self.workloads = SimWorkloads(
            clock=boot.clock,
            count=self.spec.workloads,
            size_bytes=MEMORY_BYTES,
            tick_s=1.0,
            seed=seed,
            devices=lambda: self.emulated.model.objects,
        )
        self.workloads.node = self
        for number in range(self.spec.workloads):
            faults = WorkloadFaults()
            for name in ("refuse_ready", "hang_suspend", "hang_resume", "keep_session"):
                if self.take_chance(self.world.rates.workloads_fail):
                    self.world.story.count(f"workload: {name}")
                    setattr(faults, name, self.rng.randint(1, 3))
            self.workloads.faults[f"vm-{number}"] = faults

    # --- how it stands

    @property
    def phase(self) -> Phase | None:
        """None while no agent is up."""
        if not self.emulated.running or self.life is None:
            return None
        with suppress(AttributeError):
            if self.life.runner.ready.is_set():
                return self.life.runner.status().phase
        return None

    @property
    def linked(self) -> bool:
        """Or off, where nobody waits for it."""
        if not self.emulated.running or self.life is None:
            return True
        return self.life.link is not None and self.life.link.view.up

    @property
    def settled(self) -> bool:
        return self.phase in SETTLED


def leaves(group: BaseException) -> list[BaseException]:
    """The errors inside groups of groups."""
    if not isinstance(group, BaseExceptionGroup):
        return [group]
    return [leaf for error in group.exceptions for leaf in leaves(error)]


def zseed(seed: int, name: str) -> int:
    """A seed of something's own."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7])
