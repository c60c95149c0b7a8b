"""What `liveroll lab status` tells: each node's power, kernels, link and ports."""

from __future__ import annotations

import asyncio
from typing import Any

from deploy.lab.errors import LabError
from deploy.lab.fleet import Fleet
from deploy.lab.handle import PROBE_S, Node


async def report(fleet: Fleet) -> dict[str, Any]:
    """JSON-ready. What cannot be learnt is "unknown"; nothing of that is an error."""
    running = fleet.service.is_running
    try:
        linked = await fleet.linked() if running else None
    except LabError:
        linked = None
    return {
        "directory": str(fleet.directory),
        "orchestrator": {
            "running": running,
            "operators": fleet.service.address("operators"),
            "http": f"https://{fleet.service.address('http')}",
            "log": str(fleet.service.log),
        },
        "nodes": await asyncio.gather(*(_node(node, linked) for node in fleet.nodes.values())),
    }


async def _node(node: Node, linked: set[str] | None) -> dict[str, Any]:
    described = node.described
    told: dict[str, Any] = {
        "node": node.name,
        "power": "unsupervised",
        "default": described.kernel,
        "booted": "",
        "running": "unknown",
        "boots": 0,
        "why": "",
        "link": "unknown" if linked is None else "up" if node.name in linked else "down",
        "accel": described.accel,
        "console": str(node.files.console),
        "exec_port": described.exec_port,
        "metrics_port": described.metrics_port,
    }
    try:
        told |= await node.status()
        if told["power"] == "on":
            async with asyncio.timeout(PROBE_S):
                told["running"] = (await node.boot()).release
    except (LabError, TimeoutError):
        pass
    return told
