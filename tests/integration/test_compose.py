"""deploy/compose: the same commands with the same settings, as processes on loopback.

What only a container engine can tell (images, mounts, ports) is compared with what the commands use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.mortal_fleet import free_address
from tests.postgres import Postgres

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose" / "compose.yaml"
ORCHESTRATORS = [f"orchestrator-{i}" for i in (1, 2, 3)]
AGENTS = ["agent-a", "agent-b", "agent-c"]
WAIT_S = 120.0
BIN = Path(sys.executable).parent


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


SERVICES: dict[str, dict[str, Any]] = document()["services"]


def mounts(service: Mapping[str, Any]) -> dict[str, str]:
    """Place in the container → volume or file."""
    return {text.split(":")[1]: text.split(":")[0] for text in service.get("volumes", ())}


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


class TestText:
    def test_every_volume_that_is_mounted_is_declared_or_a_file_that_exists(self) -> None:
        declared = set(document()["volumes"])
        used = {source for service in SERVICES.values() for source in mounts(service).values()}
        assert {source for source in used if not source.startswith(".")} == declared
        for source in used - declared:
            assert (COMPOSE.parent / source).is_file()

    def test_everything_that_is_waited_for_exists(self) -> None:
        for service in SERVICES.values():
            assert set(service.get("depends_on", ())) <= set(SERVICES)

    def test_all_that_a_service_reads_is_mounted(self) -> None:
        for name, service in SERVICES.items():
            text = json.dumps([service.get("command", []), service.get("environment", {})])
            places = mounts(service)
            for place in ("/pki", "/artifacts"):
                assert place in places or place not in text, (name, place)

    def test_our_own_services_share_one_image_that_is_built_of_what_is_there(self) -> None:
        built = [service for service in SERVICES.values() if service["image"] == "liveroll"]
        assert len(built) == 8
        for service in built:
            build = service["build"]
            root = (COMPOSE.parent / build["context"]).resolve()
            assert (root / build["dockerfile"]).is_file()
            assert f"ARG {next(iter(build['args']))}" in (root / build["dockerfile"]).read_text()

    def test_ports_of_the_host_are_taken_once_and_from_loopback_only(self) -> None:
        ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
        assert all(port.startswith("127.0.0.1:") for port in ports)
        assert len({port.rpartition(":")[0] for port in ports}) == len(ports) == 7

    def test_prometheus_scrapes_every_replica(self) -> None:
        config = yaml.safe_load((COMPOSE.parent / "prometheus.yml").read_text())
        (job,) = config["scrape_configs"]
        assert job["static_configs"][0]["targets"] == [f"{name}:7480" for name in ORCHESTRATORS]
        assert {Path(place).name for place in mounts(SERVICES["prometheus"])} >= set(config["rule_files"])

    @pytest.mark.skipif(not has_compose(), reason="no docker compose here")
    def test_docker_compose_reads_it(self) -> None:
        command = ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"]
        assert subprocess.run(command, check=False).returncode == 0


class Local:
    """What the file says, with this machine's places for the containers' ones."""

    def __init__(self, directory: Path, database: str) -> None:
        """database: user@host:port/name."""
        self.directory = directory
        for place in ("pki", "artifacts"):
            (directory / place).mkdir()
        self.agents = {name: free_address() for name in ORCHESTRATORS}
        self.operators = {name: free_address() for name in ORCHESTRATORS}
        self.https = {name: free_address() for name in ORCHESTRATORS}
        self._database = database

    def words(self, text: str, own: str = "") -> str:
        """own: the service whose it is."""
        for name in ORCHESTRATORS:
            text = text.replace(f"{name}:7444", self.agents[name])
            text = text.replace(f"{name}:7443", self.operators[name])
        if own in ORCHESTRATORS:
            for port, address in ((7443, self.operators), (7444, self.agents), (7480, self.https)):
                text = text.replace(f"0.0.0.0:{port}", address[own])
        text = text.replace("liveroll:7480", self.https[ORCHESTRATORS[0]])
        text = text.replace("liveroll@postgres:5432/liveroll", self._database)
        for place in ("pki", "artifacts"):
            text = text.replace(f"/{place}", str(self.directory / place))
        return text.replace("/var/lib/liveroll/nodes", str(self.directory / f"nodes-{own}"))

    def command(self, name: str, *more: str) -> tuple[list[str], dict[str, str]]:
        service = SERVICES[name]
        words = [*service.get("entrypoint", ["liveroll-orchestrator"]), *service.get("command", ()), *more]
        settings = {key: self.words(str(v), name) for key, v in service.get("environment", {}).items()}
        if name in ORCHESTRATORS:
            settings["LIVEROLL_STATE_DIR"] = str(self.directory / name)  # the image's
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return [self.words(word, name) for word in words], {**os.environ, **settings, "PATH": path}

    def run(self, name: str, *more: str) -> str:
        command, environment = self.command(name, *more)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        command, environment = self.command(name)
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)

    def readiness(self, name: str) -> dict[str, Any]:
        """Empty while nobody answers."""
        context = ssl.create_default_context(cafile=self.directory / "pki" / "ca.pem")
        try:
            with urllib.request.urlopen(
                f"https://{self.https[name]}/readyz", timeout=5, context=context
            ) as answer:
                told: dict[str, Any] = json.load(answer)
                return told
        except OSError:
            return {}

    def nodes(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.run("cli", "nodes", "-o", "json"))["nodes"]
        return listed


@pytest.fixture
async def local(tmp_path: Path, postgres: Postgres, postgres_url: str) -> AsyncIterator[Local]:
    access, _, place = postgres_url.removeprefix("postgresql://").partition("@")
    user, _, actual = access.partition(":")
    made = Local(tmp_path, f"{user}@{place}")
    made.run("pki")
    password = (tmp_path / "pki" / "database-password").read_text()
    assert len(password.strip()) == 32
    made.run("pki")
    assert (tmp_path / "pki" / "database-password").read_text() == password
    (tmp_path / "pki" / "database-password").write_text(f"{actual}\n")
    with contextlib.ExitStack() as stack:
        for name in (*ORCHESTRATORS, *AGENTS):
            stack.enter_context(made.running(name))
        yield made


async def until(what: str, holds: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.1)


async def test_three_orchestrators_serve_three_nodes_and_one_of_them_plans(local: Local) -> None:
    def roles() -> list[str]:
        return sorted(local.readiness(name).get("role", "") for name in ORCHESTRATORS)

    await until("one plans", lambda: roles() == ["follower", "follower", "planner"])

    def linked() -> bool:
        return sorted(n["nodeId"] for n in local.nodes() if n["link"] == "up") == ["a-01", "b-01", "c-01"]

    await until("all are linked", linked)
    local.run("cli", "artifact", "emulated", "6.19.3", "--out", "/artifacts")
    assert (local.directory / "artifacts" / "linux-6.19.3" / "manifest.json").is_file()
