"""The lab's workloads: how a node is told to run them, and what they wrote."""

from __future__ import annotations

import json
from typing import Any

from deploy.lab.handle import Node
from deploy.lab.wanted import BROKER, WORKER

PROGRAMS = "/usr/lib/liveroll/guest"
MIB = 64


def line(program: str, name: str, *, mib: int = MIB, uid: int = WORKER) -> str:
    """A line of the workloads file. program: tickd, with options or without, or luoclient."""
    return (
        f"exec /usr/bin/setpriv --reuid={uid} --regid={uid} --clear-groups "
        f"{PROGRAMS}/{program} {BROKER} {name} {mib} {log_path(name)}"
    )


def log_path(name: str) -> str:
    """Where it writes, on the disk: what it wrote outlives the boot."""
    return f"/var/tmp/{name}.jsonl"


async def log_of(node: Node, name: str) -> list[dict[str, Any]]:
    """Every line that it wrote, over all boots."""
    ran = await node.exec("cat", log_path(name))
    return [json.loads(text) for text in ran.stdout.splitlines()]


async def events_of(node: Node, name: str) -> list[str]:
    """fresh, preserved, suspended, claimed, resumed …"""
    return [entry["event"] for entry in await log_of(node, name)]
