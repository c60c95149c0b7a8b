"""A workload's memory as an outsider finds it: read through /proc, not by the workload, and not by the agent.

The layout is that of the lab's C workloads (deploy/lab/guest/client.h): page 0 is the header, tick n wrote n
into the first word of body page n mod pages, all else is a pattern that never changes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from deploy.lab.handle import Node

_SCRIPT = r"""
import hashlib, json, mmap, os, signal, struct, sys

PAGE, MAGIC = 4096, 0x4C41424D454D3031

def process(name):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if words[0].startswith(b"/usr/lib/liveroll/guest/") and name.encode() in words:
                for path in (f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")):
                    if is_memory(path):
                        return int(pid), path
        except OSError:
            continue
    raise SystemExit(f"no process holds the memory of {name}")

def is_memory(path):
    if os.stat(path).st_size < PAGE:
        return False
    with open(path, "rb") as file:
        return file.read(8) == MAGIC.to_bytes(8, "little")

def look(path):
    size = os.stat(path).st_size
    body, words, step = hashlib.sha512(), [], 256 * PAGE
    with open(path, "rb") as file:
        magic, seed, pages, ticks, suspended = struct.unpack("<5Q", file.read(40))
        file.seek(PAGE)
        while piece := bytearray(file.read(step)):
            count = len(piece) // PAGE
            rows = [piece[byte::PAGE] for byte in range(8)]
            words += [int.from_bytes(row, "little") for row in map(bytes, zip(*rows))]
            for byte in range(8):
                piece[byte::PAGE] = bytes(count)
            body.update(piece)
    at = ticks % pages
    expected = [max(0, ticks - (at - page) % pages) for page in range(pages)]
    return {"size": size, "ticks": ticks, "suspended": suspended, "consistent": words == expected,
            "body": body.hexdigest()}

pid, path = process(sys.argv[1])
os.kill(pid, signal.SIGSTOP)
try:
    print(json.dumps({"pid": pid, **look(path)}))
finally:
    os.kill(pid, signal.SIGCONT)
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """One look at it, while its process stood still.

    body: SHA-512 of all that must never change; in a guest under TCG it is the fastest of its kind.
    consistent: the words that do change are those of `ticks` ticks; so body and ticks together determine
    every byte behind the header.
    """

    pid: int
    size: int
    ticks: int
    suspended: int
    consistent: bool
    body: str


async def memory_of(node: Node, workload: str) -> Memory:
    """The memory of that workload on that node. Raises LabError if nobody holds it."""
    argv = ("/usr/bin/python3", "-I", "-S", "-", workload)
    ran = await node.exec(*argv, stdin=_SCRIPT, timeout_s=90.0, check=True)
    told: dict[str, Any] = json.loads(ran.stdout)
    return Memory(**told)


def check_same(before: Memory, after: Memory, mib: int) -> None:
    """It is the memory of `before`, which has lived on."""
    assert after.size == before.size == mib * 2**20
    assert (before.consistent, after.consistent) == (True, True), (before, after)
    assert after.body == before.body
    assert after.ticks > before.ticks
