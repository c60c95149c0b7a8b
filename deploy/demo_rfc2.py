"""`make demo SCENARIO=rfc-v2`: a fleet of which two thirds have LUO as the seed's thread has it.

Ten emulated nodes: p-… run RFC v2 as posted (LUO is KHO's notifier), d-… as the thread concluded (LUO alone
drives KHO), s-… run LUO as merged, with sessions; k-01 is as posted, with a kernel, an agent and workloads
that are processes of their own. First one target for all of them, which RFC v2's nodes must refuse; then a
target of their own. Then nodes of both couplings tell what their kernels went through. All is emulated, the
times too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from liveroll.v1 import rollout_pb2 as pb

from deploy.demo_parts import foreground, get, say, stay_up, summarise, wait_for_links
from deploy.local import LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.client import Client

NODES_EACH = 3
WORKLOADS_EACH = 2
PROCESS_NODE = "k-01"
LOOK_S = 0.002
RFC2_ABI = ("kho=kho-v1", "luo=luo-v1", "memfd=memfd-v1")
MERGED_TARGET = "6.19.3"
RFC2_TARGET = "6.16.3-rfc2"
REFUSAL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Part:
    """A third of the fleet: one process of agents."""

    prefix: str
    model: str
    """As simulate's --luo-model has it."""
    release: str
    words: str


PARTS = (
    Part("p", "rfc-v2/notifier", "6.16.1-rfc2", "RFC v2 as posted: PREPARE is kho_finalize(), KHO calls LUO"),
    Part("d", "rfc-v2/luo-driven", "6.16.2-rfc2", "RFC v2 as concluded: LUO alone drives KHO"),
    Part("s", "sessions", "6.19.1", "LUO as merged: sessions"),
)

ROLLOUT = """\
name: {name}
target:
  artifact: linux-{release}
selection:
  selector: {selector}
canary:
  max_nodes: 4
waves:
  - name: all
budgets:
  max_unavailable: 4
  max_in_blackout: 4
  failures: {{max: 0}}
gates:
  - blackout: {{quantile: 0.99, max: 5s, hard_max: 10s, min_samples: 1}}
    on_fail: halt
rollback: {{max_unavailable: 4, max_in_blackout: 4}}
bake: {{node: 500ms, wave: 500ms}}
health_hold: 300ms
timeouts: {{verifying: 3s}}
silence_lease: 30s
"""

STATES = {
    "LOADING": "nothing is under way; files could be registered",
    "PRESERVED": "every file has a token and is serialised; workloads run on",
    "JUMPING": "workloads stand still; reboot(KEXEC) freezes, and hands the tree over",
    "RETRIEVING": "the new kernel found LUO's subtree; files are restored by their tokens",
    "FINISHING": "workloads run again; what nobody has asked for is given back",
    "BAKING": "FINISH: as if nothing had been; the next update may come",
}
"""What LUO's state means when a phase of the agent's begins."""


async def demo(keep: bool, directory: Path) -> int:
    """Returns the exit status: 0 if everything was as promised."""
    async with local_fleet(directory) as fleet:
        say(f"Liveroll demo: two models of LUO in one fleet; state in {directory}")
        print(f"  {'nodes':11}  {'kernel':12} model of LUO")
        for part in PARTS:
            print(f"  {part.prefix}-01 … {part.prefix}-{NODES_EACH:02d}  {part.release:12} {part.words}")
        print(f"  {PROCESS_NODE:11}  {PARTS[0].release:12} as posted; real processes, with luoctl and sysfs")
        await asyncio.to_thread(build_emulated, fleet.artifacts_dir, release=MERGED_TARGET)
        await asyncio.to_thread(build_emulated, fleet.artifacts_dir, release=RFC2_TARGET, abi=RFC2_ABI)
        await fleet.start_orchestrator()
        for seed, part in enumerate(PARTS):
            await fleet.start_agents(part.prefix, *agent_arguments(part, seed))
        await fleet.start_node(PROCESS_NODE, *node_arguments(PARTS[0]), workloads=WORKLOADS_EACH)
        await asyncio.to_thread(wait_for_links, fleet, NODES_EACH * len(PARTS) + 1)
        promises = [await one_target_for_all(fleet)]
        sysfs = asyncio.create_task(watch_sysfs(directory / PROCESS_NODE / "root"))
        promises.append(await a_target_of_their_own(fleet))
        for node_id, words in (("p-01", "as posted"), ("d-01", "as concluded")):
            promises.append(told_by(directory, node_id, words))
        sysfs.cancel()
        promises.append(await told_by_hand(fleet, await sysfs))
        kept = all(promises)
        say(
            "Refused where it would have lost memory, updated everywhere else."
            if kept
            else "NOT as promised."
        )
        if keep:
            await stay_up(fleet, "p-01", to_try(fleet))
        return 0 if kept else 4


def to_try(fleet: LocalFleet) -> list[list[str]]:
    """What this scenario has for a person at the keyboard beside the usual."""
    programs = Path(sys.executable).parent
    luoctl = [str(programs / "luoctl"), "--socket", str(fleet.directory / PROCESS_NODE / "control.sock")]
    why = [str(programs / "liveroll"), "--server", fleet.operators, "why", f"kernel-{RFC2_TARGET}"]
    return [why, *([*luoctl, verb] for verb in ("state", "list", "telemetry", "story"))]


def agent_arguments(part: Part, seed: int) -> list[str]:
    """One part's agent process."""
    return [
        "--nodes", str(NODES_EACH), "--zones", "1", "--label", "pool=demo", "--releases", part.release,
        "--luo-model", part.model, "--workloads", str(WORKLOADS_EACH), "--devices", "1", "--mib", "1",
        "--kexec-s", "0.6", "--seed", str(seed),
        "--image", f"{RFC2_TARGET}=rfc-v2", "--image", f"{MERGED_TARGET}=sessions",
    ]  # fmt: skip


def node_arguments(part: Part) -> list[str]:
    """Of the node that is processes of its own."""
    return [
        "--release", part.release, "--luo-model", part.model, "--kexec-s", "0.6",
        "--label", "pool=demo", "--label", "luo_model=rfc-v2", "--label", "zone=k",
    ]  # fmt: skip


async def one_target_for_all(fleet: LocalFleet) -> bool:
    """A merged kernel for everybody: preflight keeps RFC v2's nodes out, and they are left out by hand."""
    name = f"kernel-{MERGED_TARGET}"
    say(f"One target for all: {MERGED_TARGET}, which has sessions.")
    await foreground(fleet, "create", str(write(fleet, name, MERGED_TARGET, "pool=demo")))
    refused = [f"{part.prefix}-{i:02d}" for part in PARTS[:2] for i in range(1, NODES_EACH + 1)]
    refused.append(PROCESS_NODE)
    # One of each kind is tried first: the canary of its pair of kernels.
    found = await asyncio.to_thread(wait_for_refusals, fleet, name, 2)
    say("Why RFC v2's nodes stay where they are (liveroll why):")
    await foreground(fleet, "why", name)
    say("A node never jumps from one model into the other with memory preserved. Leaving them out:")
    await foreground(fleet, "exclude", name, *refused, "--reason", "another model of LUO")
    await foreground(fleet, "watch", name)
    rollout = await asyncio.to_thread(get, fleet, name)
    await asyncio.to_thread(summarise, fleet, name)
    updated = sum(wave.updated for wave in rollout.waves)
    return found and rollout.state == pb.ROLLOUT_STATE_SUCCEEDED and updated == NODES_EACH


async def a_target_of_their_own(fleet: LocalFleet) -> bool:
    """RFC v2's nodes, of both couplings, into a kernel of RFC v2's."""
    name = f"kernel-{RFC2_TARGET}"
    say(f"A target of their own: {RFC2_TARGET}, for luo_model=rfc-v2, from both couplings.")
    print("On p-… and d-… one workload each drives a device that goes on writing into its memory meanwhile.")
    file = write(fleet, name, RFC2_TARGET, "luo_model=rfc-v2")
    status = await foreground(fleet, "create", str(file), "--watch")
    rollout = await asyncio.to_thread(get, fleet, name)
    await asyncio.to_thread(summarise, fleet, name)
    updated, nodes = sum(wave.updated for wave in rollout.waves), 2 * NODES_EACH + 1
    checks = (rollout.memory_checks_passed, rollout.memory_checks_failed)
    return status == 0 and updated == nodes and checks == (WORKLOADS_EACH * nodes, 0)


def write(fleet: LocalFleet, name: str, release: str, selector: str) -> Path:
    """The rollout's file."""
    file = fleet.directory / f"{name}.yaml"
    file.write_text(ROLLOUT.format(name=name, release=release, selector=selector))
    return file


def wait_for_refusals(fleet: LocalFleet, name: str, wanted: int) -> bool:
    """Until so many nodes have refused the target for its ABI strings; False after a while."""
    give_up_s = time.monotonic() + REFUSAL_TIMEOUT_S
    with Client(fleet.connection) as client:
        while time.monotonic() < give_up_s:
            blockers = client.get(name).blockers
            if sum(b.node_count for b in blockers if b.reason == "STAGE_FAILED") >= wanted:
                return True
            # A person would look again, too; `watch` tells of waves, not of who refuses.
            time.sleep(0.1)
    return False


async def watch_sysfs(root: Path) -> list[str]:
    """LUO's states as the node's sysfs shows them one after the other, until cancelled. A kernel that is on
    its way shows nothing."""
    seen: list[str] = []
    try:
        while True:
            try:
                state = (root / "sys/kernel/liveupdate/state").read_text().strip()
            except FileNotFoundError:
                state = "(no kernel)"
            if not seen or seen[-1] != state:
                seen.append(state)
            # Nobody tells of a change in sysfs, here as there.
            await asyncio.sleep(LOOK_S)
    except asyncio.CancelledError:
        return seen


async def told_by_hand(fleet: LocalFleet, states: list[str]) -> bool:
    """What a person finds on the node that is processes of its own; whether its sysfs has shown the way."""
    say(f"{PROCESS_NODE}, a kernel process: /sys/kernel/liveupdate/state showed {' → '.join(states)}")
    for verb in ("state", "telemetry"):
        print(f"  luoctl {verb}", flush=True)
        socket = fleet.directory / PROCESS_NODE / "control.sock"
        words = [sys.executable, "-m", "node_agent.luoctl", "--socket", str(socket), verb]
        process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        print("\n".join(f"    | {line}" for line in out.decode().splitlines()), flush=True)
    kept = [state for state in states if state in ("normal", "prepared", "updated")]
    return kept == ["normal", "prepared", "updated", "normal"]


def told_by(directory: Path, node_id: str, words: str) -> bool:
    """LUO's states on one node, phase by phase, from its kernel's log; whether they are all there."""
    lines = (directory / node_id.partition("-")[0] / node_id / "kernel.log").read_text().splitlines()
    say(f"What {node_id} ({words}) went through, by its kernel's log:")
    seen: dict[str, str] = {}
    for line in lines:
        if line.startswith("agent: "):
            phase, _, how = line.removeprefix("agent: ").partition(" ")
            seen.setdefault(phase, how.strip("()"))
    for phase, meaning in STATES.items():
        print(f"  {phase:11} {seen.get(phase, 'not reached'):27} {meaning}")
    print("\n".join(f"    | {line}" for line in lines if not line.startswith("agent: ")), flush=True)
    luo = [seen.get(phase, "").partition(",")[0].removeprefix("luo ") for phase in STATES]
    return luo == ["normal", "prepared", "prepared", "updated", "updated", "normal"]
