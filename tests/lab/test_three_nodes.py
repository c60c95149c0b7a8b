"""Three nodes: what is refused untouched, a rollout that succeeds, and one whose canary dies."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from deploy.lab.fleet import Fleet
from deploy.lab.handle import Boot
from deploy.lab.paths import Lab
from deploy.lab.wanted import Wanted
from tests.lab import workloads
from tests.lab.hands import Hands
from tests.lab.memory import Memory, check_same, memory_of
from tests.lab.operator import Operator, phase_of, state_of
from tests.lab.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CANARY, *OTHERS = NAMES = ("node-01", "node-02", "node-03")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    wanted = Wanted(nodes=3, workloads=(workloads.line("tickd", "vm-1"),))
    async with Fleet(tmp_path_factory.mktemp("three") / "fleet", wanted, lab=lab) as fleet:
        await Operator(fleet).ready()
        yield fleet


async def boots(fleet: Fleet) -> dict[str, Boot]:
    return {name: await fleet[name].boot() for name in NAMES}


async def memories(fleet: Fleet) -> dict[str, Memory]:
    return {name: await memory_of(fleet[name], "vm-1") for name in NAMES}


@pytest.mark.parametrize(
    ("kernel", "reason", "words"),
    [
        ("nokho", "TARGET_CONFIG", "lacks CONFIG_KEXEC_HANDOVER=y, CONFIG_LIVEUPDATE=y"),
        ("nomemfd", "TARGET_CONFIG", "lacks CONFIG_LIVEUPDATE_MEMFD=y"),
        ("otherabi", "TARGET_ABI_DIFFERS", "speaks luo-v95, the running one luo-v5"),
    ],
)
async def test_a_target_that_cannot_take_over_is_refused_before_anything_is_touched(
    fleet: Fleet, kernel: str, reason: str, words: str
) -> None:
    operator, before = Operator(fleet), await boots(fleet)
    await operator.create(kernel, kernel)

    async def refused() -> bool:
        told = await operator.why(kernel)
        return "STAGE_FAILED" in told and words in told and CANARY in told

    await until(refused, f"why says {words}")
    assert reason in await operator.story(CANARY)
    assert (await fleet.liveroll("cancel", kernel)).rc == 0
    await operator.until_state(kernel, "CANCELLED")
    assert await boots(fleet) == before
    for name, node in (await operator.nodes()).items():
        assert (phase_of(node), int(node["highestGeneration"])) == ("IDLE", 0), name
        assert {event for event, _ in await Hands(fleet[name]).events()} <= {"BootClassified", "Staged"}
        log = await fleet[name].read("/var/log/agent.log")
        assert await workloads.events_of(fleet[name], "vm-1") == ["fresh"], log


async def test_a_canary_a_wave_success(fleet: Fleet, lab: Lab) -> None:
    operator = Operator(fleet)
    before, memory = await boots(fleet), await memories(fleet)
    await operator.create("all", "b", width=2)
    rollout = await operator.until_state("all", "SUCCEEDED")
    assert (rollout["memoryChecksPassed"], rollout["memoryChecksFailed"]) == (3, 0)
    now = await boots(fleet)
    for name in NAMES:
        assert now[name].release == lab.kernels["b"].release
        assert now[name].boot_id != before[name].boot_id
        check_same(memory[name], await memory_of(fleet[name], "vm-1"), workloads.MIB)
        assert (await fleet[name].status())["boots"] == 1
    # Nobody of the wave began before the canary had settled, healthy.
    order = [(event["kind"], event["nodeId"]) for event in await operator.events()]
    settled = order.index(("node.settled", CANARY))
    for name in OTHERS:
        assert order.index(("attempt.prepared", name)) > settled, name


async def test_metrics_of_orchestrator_and_agents(fleet: Fleet) -> None:
    pages = [await fleet.http("/metrics"), *[await fleet[name].metrics() for name in NAMES]]
    orchestrator, *agents = map(Scraped, pages)
    for vantage in ("workload", "host", "link"):
        assert orchestrator.total("liveroll_blackout_seconds_count", vantage=vantage) == len(NAMES), vantage
    assert orchestrator.total("liveroll_memory_checks_total", result="passed") == len(NAMES)
    assert orchestrator.total("liveroll_boot_verdicts_total", verdict="live_updated") == len(NAMES)
    assert orchestrator.total("liveroll_invariant_violations_total") == 0
    for agent in agents:
        assert agent.total("liveroll_blackout_seconds_count", vantage="workload") == 1
        assert agent.total("liveroll_blackout_seconds_count", vantage="host") == 1
        assert 0 < agent.total("liveroll_blackout_seconds_sum", vantage="host") < 60
        assert agent.total("liveroll_agent_links_up") == 1
    promtool = shutil.which("promtool")
    for page in pages if promtool else ():
        checked = await asyncio.create_subprocess_exec(
            str(promtool), "check", "metrics",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await checked.communicate(page.encode())
        assert (checked.returncode, said) == (0, b"")


async def test_an_init_that_dies(fleet: Fleet, lab: Lab) -> None:
    """The canary comes back by a cold boot, in the kernel that was committed; nobody follows it."""
    operator = Operator(fleet)
    before, memory = await boots(fleet), await memories(fleet)
    kernel = lab.kernels["a"]
    dead = fleet.artifacts["a"].name + "-dead"
    words = ("--remove", "init=", "--append", "init=/bin/false", "--name", dead)
    built = await fleet.liveroll(
        *("artifact", "build", "--kernel", str(kernel.image), "--config", str(kernel.config)),
        *("--out", str(fleet.service.artifacts), *words),
    )
    assert built.rc == 0, built.stderr
    console = fleet[CANARY].console.size
    await operator.create("dead", dead, width=2)
    rollout = await operator.until_state("dead", "HALTED")
    node = (await operator.nodes())[CANARY]
    assert phase_of(node) == "COLD_BOOTED", node
    assert node["bootVerdict"].endswith("COLD_BOOT")
    await fleet[CANARY].console.wait_for("Attempted to kill init", timeout_s=5, since=console)
    after = await boots(fleet)
    assert after[CANARY].release == lab.kernels["b"].release, "what was committed is what a cold boot starts"
    assert (await fleet[CANARY].status())["boots"] == 2
    assert rollout["haltReason"], rollout
    for name in OTHERS:
        assert after[name] == before[name], "nobody else was touched"
        check_same(memory[name], await memory_of(fleet[name], "vm-1"), workloads.MIB)
        assert len(await workloads.events_of(fleet[name], "vm-1")) == 5, "nor asked for anything"
    assert state_of(await operator.rollout("dead")) == "HALTED"


class Scraped:
    """A page of metrics."""

    def __init__(self, page: str) -> None:
        self._families = list(text_string_to_metric_families(page))

    def total(self, name: str, **labels: str) -> float:
        """Of all samples with that name and these labels; 0 if there is none."""
        return sum(
            sample.value
            for family in self._families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
