"""`make bench-lab`: what a live update costs on real kernels in QEMU, beside a bare kexec of the same run.

One node is sent from kernel to kernel and back by ordinary rollouts. Its workloads are C programs
(deploy/lab/guest/tickd.c) that measure their own pause by the TSC; the node's and the link's figures
are those that operators see. A bare kexec goes to a static C program as process 1, over the same disk
and with the same image (deploy/lab/guest/bare.c). All figures are medians; under TCG only ratios mean
anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab.alone import Guest
from deploy.lab.console import Console
from deploy.lab.disk import GuestFile
from deploy.lab.errors import LabError
from deploy.lab.fleet import Fleet
from deploy.lab.handle import Node
from deploy.lab.machine import command_line
from deploy.lab.wanted import BROKER, Wanted, example_workload
from tests.bench.result import Result

RUNS = int(os.environ.get("LIVEROLL_LAB_RUNS", "5"))
GUEST = "/usr/lib/liveroll/guest"
LOG = "/var/log/bench.log"
"""On the disk: what was said before the kexec is there after it."""
HOP_S = 300.0
POLL_S = 0.5

_BARE = re.compile(rb"bare: (\w+) tsc=(\d+) hz=(\d+)")


@dataclass(slots=True)
class Hops:
    """What the updates of one fleet gave, a value a hop."""

    workload_s: list[float] = field(default_factory=list)
    host_s: list[float] = field(default_factory=list)
    link_s: list[float] = field(default_factory=list)
    preserve_s: list[float] = field(default_factory=list)
    retrieve_s: list[float] = field(default_factory=list)


def run() -> list[Result]:
    """All of it; some ten minutes under TCG on two idle cores."""
    return asyncio.run(_run())


async def _run() -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="liveroll-bench-") as scratch:
        directory = Path(scratch)
        bare_s, errors_s = await bare(directory / "bare")
        small = await hops(directory / "small", tickd("vm", 64))
        chain = await hops(directory / "chain", tickd("vm", 64), runs=min(RUNS, 4), cold=False)
        large = await hops(directory / "large", tickd("vm", 256), memory_mib=1024)
        python = await hops(directory / "python", example_workload("vm", 64), runs=min(RUNS, 3))
    kexec = statistics.median(bare_s)

    def beside_bare(name: str, values: Sequence[float], aim: str = "") -> Result:
        return Result(name, statistics.median(values), "s", "bare kexec", kexec, aim)

    def alone(name: str, values: Sequence[float]) -> Result:
        return Result(f"{name} (n={len(values)})", statistics.median(values) * 1e3, "ms")

    return [
        Result(f"bare kexec to a static C init's first line (n={len(bare_s)})", kexec, "s"),
        beside_bare("… to the agent's first line (host)", small.host_s),
        beside_bare("… to the workload resumed (its own pause, C, 64 MiB)", small.workload_s, "≤ 1.4 ×"),
        Result(
            "the shortest of these pauses", min(small.workload_s), "s", "shortest bare kexec", min(bare_s)
        ),
        beside_bare("… the same with 256 MiB", large.workload_s),
        beside_bare("… the same from a kernel that itself came by kexec", chain.workload_s[1:]),
        beside_bare("… the same with the Python example workload, 64 MiB", python.workload_s),
        beside_bare("… to linked again (link)", small.link_s),
        alone("preserve 64 MiB", small.preserve_s),
        alone("preserve 256 MiB", large.preserve_s),
        alone("retrieve 64 MiB", small.retrieve_s),
        alone("retrieve 256 MiB", large.retrieve_s),
        alone("TSC against the host's clock over a bare kexec, median error", errors_s),
        Result("… its largest error", max(map(abs, errors_s)) * 1e3, "ms"),
    ]


def tickd(name: str, mib: int) -> str:
    """A line of the workloads file."""
    return f"exec {GUEST}/tickd {BROKER} {name} {mib} {LOG}"


async def bare(directory: Path) -> tuple[list[float], list[float]]:
    """(seconds by the TSC, TSC less the host's clock) of each bare kexec."""
    seconds: list[float] = []
    errors: list[float] = []
    wanted = Wanted(nodes=1, workloads=(), files={"/etc/liveroll/no-agent": GuestFile(b"")})
    line = command_line(init=f"{GUEST}/bare")
    async with Guest(directory, wanted) as guest:
        node = guest.node
        for number in range(RUNS):
            if number:
                await node.power("on")
            await node.wait_boot()
            tell(f"bare kexec {number + 1} of {RUNS}")
            with watched(node.console, {b"kexec", b"up"}) as seen:
                await node.exec(f"{GUEST}/bare", "kexec", "/etc/liveroll/artifact/vmlinuz", line, detach=True)
                await asyncio.to_thread(seen.wait, HOP_S)
            (tsc, hz, at_s), (up_tsc, _, up_s) = seen.found[b"kexec"], seen.found[b"up"]
            seconds.append((up_tsc - tsc) / hz)
            errors.append(seconds[-1] - (up_s - at_s))
            await power_is(node, "off")
    return seconds, errors


async def hops(
    directory: Path, workload: str, *, memory_mib: int = 512, runs: int = RUNS, cold: bool = True
) -> Hops:
    """Rollouts of one node from kernel a to b and back, `runs` of them.

    cold: each from a kernel that was booted by the firmware, as the bare kexec is. TCG is slower in a kernel
    that came by kexec itself: what it translated before lies where the next kernel is written.
    """
    found = Hops()
    wanted = Wanted(nodes=1, workloads=(workload,), memory_mib=memory_mib)
    async with Fleet(directory, wanted) as fleet:
        await fleet.wait_linked()
        node = fleet["node-01"]
        for number in range(runs):
            if number and cold:
                boot = await node.boot()
                await node.power("reset")
                await node.wait_boot(after=boot)
                await fleet.wait_linked()
            kernel = "ba"[number % 2]
            name = f"hop-{number + 1}"
            tell(f"{directory.name}: {name} of {runs}, to kernel {kernel}")
            told = await roll(fleet, directory / f"{name}.yaml", name, kernel)
            # Read now, and emptied: the reset before the next one forgets what nobody synced.
            for event in log_of(await node.sh(f"cat {LOG} 2>/dev/null; true > {LOG}; sync")):
                for step, values in (("preserve", found.preserve_s), ("retrieve", found.retrieve_s)):
                    if f"{step}_ns" in event:
                        values.append(event[f"{step}_ns"] / 1e9)
            for vantage in told["blackout"]["vantages"]:
                where = vantage["vantage"].rpartition("_")[2].lower()
                getattr(found, f"{where}_s").append(seconds_of(vantage["max"]))
    return found


async def roll(fleet: Fleet, file: Path, name: str, kernel: str) -> dict[str, Any]:
    """One rollout to its end; what `liveroll get` says of it.

    Raises LabError (ROLLOUT_FAILED) with the node's story.
    """
    file.write_text(
        f"name: {name}\ntarget: {{artifact: {fleet.artifacts[kernel].name}}}\n"
        "selection: {selector: pool=lab}\nwaves: [{name: rest}]\n"
        "budgets: {max_unavailable: 1, max_in_blackout: 1}\n"
        "bake: {node: 0s, wave: 0s}\nhealth_hold: 0s\n"
    )
    # Watched, not polled: each call of the CLI would take a core from the guest in its blackout.
    watched = await fleet.liveroll("create", str(file), "--watch", timeout_s=HOP_S)
    if watched.rc:
        why = await fleet.liveroll("story", "node-01")
        raise LabError(f"{name}: {watched.stderr}{why.stdout}", reason="ROLLOUT_FAILED")
    return dict((await fleet.liveroll("get", name, "-o", "json")).json)


def log_of(text: str) -> list[dict[str, float]]:
    """tickd's events."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def seconds_of(duration: str) -> float:
    """A proto Duration as JSON has it: 1.5s."""
    return float(duration.removesuffix("s"))


async def power_is(node: Node, wanted: str) -> None:
    """Until the supervisor says so."""
    async with asyncio.timeout(HOP_S):
        while (await node.status())["power"] != wanted:
            await asyncio.sleep(POLL_S)


@dataclass(slots=True)
class Seen:
    """Lines of bare that came: word → (tsc, hz, the host's clock when it was read)."""

    words: set[bytes]
    found: dict[bytes, tuple[int, int, float]] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout_s: float) -> None:
        if not self.done.wait(timeout_s):
            raise LabError(f"no line of {self.words - set(self.found)}", reason="CONSOLE_SILENT")


@contextlib.contextmanager
def watched(console: Console, words: set[bytes]) -> Iterator[Seen]:
    """Read what the console says from now on in a thread of its own, each half millisecond."""
    seen, stop, start = Seen(words), threading.Event(), console.size

    def watch() -> None:
        text = b""
        with console.path.open("rb") as file:
            file.seek(start)
            while not stop.is_set() and words - set(seen.found):
                if not (new := file.read()):
                    time.sleep(0.0005)
                    continue
                at_s, text = time.monotonic(), text + new
                for match in _BARE.finditer(text):
                    if text[match.end() : match.end() + 1] in (b"\r", b"\n"):
                        seen.found.setdefault(match[1], (int(match[2]), int(match[3]), at_s))
            seen.done.set()

    thread = threading.Thread(target=watch, name="console")
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def tell(what: str) -> None:
    """Progress; the figures come on stdout."""
    print(what, file=sys.stderr, flush=True)
