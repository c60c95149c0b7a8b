"""`make demo`: the main job, start to end, on this machine.

An orchestrator, 24 emulated nodes in 3 zones (an agent process each, gRPC on loopback, two kernel
releases, two hardware models), workloads with real memfds, and a rollout that is watched live.
All kernels are emulated, and so are the times of their kexecs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from liveroll.v1 import rollout_pb2 as pb

from deploy import demo_rfc2
from deploy.demo_parts import foreground, get, say, stay_up, summarise, wait_for_links
from deploy.local import ChildFailed, LocalFleet, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.cli.failure import Failed

ZONES = ("a", "b", "c")
NODES_PER_ZONE = 8
RUNNING = ("6.19.1", "6.19.2")
MODELS = ("r640", "r760")
TARGET = "6.19.3"
BAD = "6.19.4-rc1"

ROLLOUT = """\
name: {name}
target:
  artifact: linux-{release}
selection:
  selector: pool=demo
canary:
  max_nodes: 4
waves:
  - name: early
    size: 25%
  - name: broad
    size: 50%
  - name: rest
budgets:
  max_unavailable: 5
  max_in_blackout: 4
  domain: {{key: zone, max_unavailable: 2}}
  failures: {{max: 0}}
gates:
  - blackout: {{quantile: 0.99, max: 5s, hard_max: 10s, min_samples: 1}}
    on_fail: halt
rollback: {{max_unavailable: 4, max_in_blackout: 4}}
bake: {{node: 1s, wave: 1s}}
health_hold: 500ms
timeouts: {{verifying: 3s}}
retries:
  replan: {{attempts: 3, backoff: 1s, max_backoff: 5s}}
silence_lease: 30s
"""


async def demo(scenario: str, keep: bool, directory: Path) -> int:
    """Runs one scenario. Returns the exit status."""
    if scenario == "rfc-v2":
        return await demo_rfc2.demo(keep, directory)
    async with local_fleet(directory) as fleet:
        nodes = len(ZONES) * NODES_PER_ZONE
        say(f"Liveroll demo: {nodes} emulated nodes in {len(ZONES)} zones; state in {directory}")
        for release in (TARGET, BAD):
            await asyncio.to_thread(build_emulated, fleet.artifacts_dir, release=release)
        await fleet.start_orchestrator()
        for zone in ZONES:
            await fleet.start_agents(zone, *agent_arguments(zone))
        await asyncio.to_thread(wait_for_links, fleet, nodes)
        status = await (bad_kernel(fleet) if scenario == "bad-kernel" else rollout(fleet))
        if keep:
            await stay_up(fleet, "b-03")
        return status


def agent_arguments(zone: str) -> list[str]:
    """One zone's agent process. b-03's first suspended jump is refused its freeze."""
    arguments = [
        "--nodes", str(NODES_PER_ZONE), "--zones", "1", "--label", f"zone={zone}", "--label", "pool=demo",
        "--releases", ",".join(RUNNING), "--models", ",".join(MODELS), "--workloads", "2", "--mib", "1",
        "--kexec-s", "0.6", "--seed", str(ZONES.index(zone)), "--image", f"{BAD}=unhealthy",
    ]  # fmt: skip
    if zone == "b":
        arguments += ["--faults", "b-03=refuse_freeze@1"]
    return arguments


async def rollout(fleet: LocalFleet) -> int:
    """Canaries, three waves, one retry, success."""
    name = f"kernel-{TARGET}"
    file = write_rollout(fleet, name, TARGET)
    say(f"One node (b-03) will be refused its first freeze. Rollout file: {file}")
    status = await foreground(fleet, "create", str(file), "--watch")
    await asyncio.to_thread(summarise, fleet, name)
    return status


async def bad_kernel(fleet: LocalFleet) -> int:
    """A kernel whose probes fail: halted at the canary, explained, rolled back. 0 if just that happened."""
    name = f"kernel-{BAD}"
    file = write_rollout(fleet, name, BAD)
    say(f"Kernel {BAD} comes up with failing health probes. Rollout file: {file}")
    await foreground(fleet, "create", str(file), "--watch")
    halted = await asyncio.to_thread(get, fleet, name)
    say("Why it stands where it stands (liveroll why):")
    await foreground(fleet, "why", name)
    say("Rolling back (liveroll rollback):")
    await foreground(fleet, "rollback", name, "--reason", "bad kernel")
    await foreground(fleet, "watch", name)
    ended = await asyncio.to_thread(get, fleet, name)
    await asyncio.to_thread(summarise, fleet, name)
    touched = sum(wave.members - wave.pending - wave.left_out for wave in halted.waves[1:])
    as_promised = (
        halted.state == pb.ROLLOUT_STATE_HALTED
        and touched == 0
        and ended.state == pb.ROLLOUT_STATE_ROLLED_BACK
    )
    say("Halted at its canary, nothing beyond touched, rolled back." if as_promised else "NOT as promised.")
    return 0 if as_promised else 4


def write_rollout(fleet: LocalFleet, name: str, release: str) -> Path:
    file = fleet.directory / f"{name}.yaml"
    file.write_text(ROLLOUT.format(name=name, release=release))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenario", choices=("rollout", "bad-kernel", "rfc-v2"), default="rollout")
    parser.add_argument("--keep", action="store_true", help="stay up and print commands to try")
    parser.add_argument("--directory", type=Path, help="keep the state there (default: a temporary one)")
    options = parser.parse_args()
    try:
        if options.directory is not None:
            return asyncio.run(demo(options.scenario, options.keep, options.directory))
        with tempfile.TemporaryDirectory(prefix="liveroll-demo-", ignore_cleanup_errors=True) as directory:
            return asyncio.run(demo(options.scenario, options.keep, Path(directory)))
    except KeyboardInterrupt:
        say("Stopped; nothing is left running.")
        return 130
    except (ChildFailed, Failed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
