"""The HTTP port: what it serves, and that it serves nothing else."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from orchestrator.artifacts.build import build_emulated
from orchestrator.artifacts.catalogue import DirectoryCatalogue
from orchestrator.errors import SettingsError
from orchestrator.settings import Listen
from orchestrator.web.server import make_app, serving

STATE = {"ready": (True, ())}


@pytest.fixture
async def base(tmp_path: Path) -> AsyncIterator[str]:
    build_emulated(tmp_path, release="6.19.0-a", name="k")
    (tmp_path / "secret").write_text("no")
    (tmp_path / "k" / "notes").write_text("no")
    registry = CollectorRegistry()
    Counter("liveroll_test", "a test", registry=registry).inc()
    app = make_app(
        registry, DirectoryCatalogue(tmp_path, "http://x"), lambda: STATE["ready"], lambda: "follower"
    )  # type: ignore[arg-type,return-value]
    async with serving(app, Listen(address="127.0.0.1:0")) as (host, port):
        yield f"http://{host}:{port}"


async def get(url: str, **headers: str) -> tuple[int, bytes]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.read()


async def test_metrics_and_health(base: str) -> None:
    status, body = await get(f"{base}/metrics")
    assert status == 200
    assert b"liveroll_test_total 1.0" in body
    assert (await get(f"{base}/healthz"))[0] == 200
    status, body = await get(f"{base}/readyz")
    assert status == 200
    assert json.loads(body) == {"status": "ready", "role": "follower", "reasons": []}


async def test_not_ready_says_why(base: str) -> None:
    STATE["ready"] = (False, ("no lease",))  # type: ignore[assignment]
    try:
        status, body = await get(f"{base}/readyz")
    finally:
        STATE["ready"] = (True, ())
    assert status == 503
    assert b"no lease" in body


async def test_artifact_files_with_ranges(base: str) -> None:
    status, whole = await get(f"{base}/artifacts/k/vmlinuz")
    assert status == 200
    status, tail = await get(f"{base}/artifacts/k/vmlinuz", Range="bytes=100-")
    assert status == 206
    assert tail == whole[100:]
    assert (await get(f"{base}/artifacts/k/manifest.json"))[0] == 200


@pytest.mark.parametrize(
    "path", ["k/notes", "k/..%2Fsecret", "..%2Fk/vmlinuz", "absent/vmlinuz", "k/", "%2e%2e/secret"]
)
async def test_nothing_else_is_served(base: str, path: str) -> None:
    assert (await get(f"{base}/artifacts/{path}"))[0] == 404


async def test_a_port_in_use_says_so(tmp_path: Path) -> None:
    app = make_app(
        CollectorRegistry(), DirectoryCatalogue(tmp_path, "http://x"), lambda: (True, ()), lambda: "none"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            async with serving(app, Listen(address=f"127.0.0.1:{port}")):
                pass
    assert caught.value.reason == "PORT_IN_USE"
