"""Mutual TLS on all three ports, with the certificates that `liveroll-orchestrator pki` makes."""

from __future__ import annotations

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from liveroll.v1 import rollout_pb2 as pb

from deploy.local import LocalFleet, Pair, Tls, local_fleet
from orchestrator.artifacts.build import build_emulated
from orchestrator.rpc.pki import Pki, make_pki
from tests.integration.conftest import NEW, OLD, Done, Operator, module, run
from tests.integration.real_node import RealNode

ROLLOUT = f"""
name: k
target: {{artifact: linux-{NEW}}}
budgets: {{max_unavailable: 2, max_in_blackout: 2}}
bake: {{node: 100ms, wave: 100ms}}
health_hold: 100ms
"""


def tls_of(pki: Pki) -> Tls:
    server, alice = pki.server, pki.operators["alice"]
    return Tls(pki.ca, Pair(server.certificate, server.key), Pair(alice.certificate, alice.key))


def agent_files(pki: Pki, node: str) -> list[str]:
    pair = pki.agents[node]
    return ["--tls-ca", str(pki.ca), "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)]


@asynccontextmanager
async def secured(directory: Path) -> AsyncIterator[tuple[LocalFleet, Pki]]:
    """A serving orchestrator; nobody gets in without a certificate of its authority."""
    pki = make_pki(directory / "pki", ["one", "sim-01", "other"], ["alice"])
    async with local_fleet(directory, heartbeat_s=0.3, grace_s=1, tls=tls_of(pki)) as fleet:
        build_emulated(fleet.artifacts_dir, release=NEW)
        await fleet.start_orchestrator()
        yield fleet, pki


@pytest.mark.integration
async def test_a_rollout_over_mutual_tls(directory: Path) -> None:
    async with secured(directory) as (fleet, pki):
        one = RealNode(
            await fleet.start_node("one", "--release", OLD, "--kexec-s", "0.3", *agent_files(pki, "one")),
            directory / "one",
        )
        await fleet.start_agents("sim", "--nodes", "1", "--kexec-s", "0.3", *agent_files(pki, "sim-01"))
        operator = Operator(fleet)
        await asyncio.to_thread(operator.wait_for_links, 2)
        await one.until_subscribed(1)
        await asyncio.to_thread(operator.create, ROLLOUT)
        rollout = await asyncio.to_thread(operator.wait_for_end, "k")
        assert rollout.state == pb.ROLLOUT_STATE_SUCCEEDED, [b.message for b in rollout.blockers]
        assert rollout.created_by == "alice"
        assert {e.actor for e in operator.events() if e.kind == "node.enrolled"} == {
            "agent:one",
            "agent:sim-01",
        }
        await asyncio.to_thread(check_http, fleet, pki)


def check_http(fleet: LocalFleet, pki: Pki) -> None:
    """HTTPS, for those who have a certificate only."""
    for url in (f"https://{fleet.http}/metrics", f"https://{fleet.http}/artifacts/linux-{NEW}/manifest.json"):
        known = ssl.create_default_context(cafile=str(pki.ca))
        with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
            urllib.request.urlopen(url, timeout=5, context=known).read()
        pair = pki.agents["one"]
        known.load_cert_chain(pair.certificate, pair.key)
        with urllib.request.urlopen(url, timeout=30, context=known) as answer:
            assert answer.status == 200
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{fleet.http}/metrics", timeout=5)


@pytest.mark.integration
async def test_operators_without_the_right_certificate_are_denied(directory: Path) -> None:
    async with secured(directory) as (fleet, pki):
        alice, agent = pki.operators["alice"], pki.agents["one"]
        strangers = make_pki(directory / "strangers", ["one"], ["alice"])
        mallory = strangers.operators["alice"]

        async def list_with(*files: str, server: str = fleet.operators) -> Done:
            command = module("orchestrator.cli.main", "--server", server, "--timeout", "30", *files, "list")
            return await asyncio.to_thread(run, command)

        ca = ("--ca", str(pki.ca))
        good, wrong_role, no_certificate, other_ca, trusts_other, plain, wrong_port = await asyncio.gather(
            list_with(*ca, "--cert", str(alice.certificate), "--key", str(alice.key)),
            list_with(*ca, "--cert", str(agent.certificate), "--key", str(agent.key)),
            list_with(*ca),
            list_with(*ca, "--cert", str(mallory.certificate), "--key", str(mallory.key)),
            list_with("--ca", str(strangers.ca), "--cert", str(alice.certificate), "--key", str(alice.key)),
            list_with(),
            list_with(*ca, "--cert", str(alice.certificate), "--key", str(alice.key), server=fleet.agents),
        )
        assert good.status == 0, good.err
        assert wrong_role.status == 7
        assert wrong_role.lines == [
            "liveroll: this port is for operators and the certificate is of an agent",
            "    call the agents' port, or present a certificate of the role operator",
        ]
        for refused in (no_certificate, other_ca, trusts_other, plain):
            assert refused.status == 7, refused.err
            assert "no secure connection to the orchestrator" in refused.err
            assert "--ca, --cert and --key" in refused.err
        assert wrong_port.status == 2, wrong_port.err
        assert "Use the operators' port" in wrong_port.err


@pytest.mark.integration
async def test_agents_without_the_right_certificate_are_denied(directory: Path) -> None:
    async with secured(directory) as (fleet, pki):
        alice = pki.operators["alice"]
        strangers = make_pki(directory / "strangers", ["one", "sim-01"], ["alice"])
        as_operator = ["--tls-ca", str(pki.ca), "--tls-certificate", str(alice.certificate)]
        as_operator += ["--tls-key", str(alice.key)]
        # The simulator does not compare names itself, so the orchestrator has to.
        cases = {
            "role": (as_operator, "this port is for agents and the certificate is of an operator"),
            "name": (agent_files(pki, "other"), "the certificate is of node other, the hello says name-01"),
            "ca": (agent_files(strangers, "sim-01"), "that each side trusts the other's certificate"),
        }
        children = {
            name: await fleet.start_agents(name, "--nodes", "1", *files) for name, (files, _) in cases.items()
        }
        for name, (_, said) in cases.items():
            node = RealNode(children[name], directory / name)
            await node.until(lambda node=node, said=said: said in node.log, f"said: {said}")  # type: ignore[misc]
        # The agent itself compares before it dials.
        command = module(
            "node_agent.cli", "run", "--orchestrator", fleet.agents, "--state-dir", str(directory / "x"),
            "--node-id", "one", *agent_files(pki, "other"),
        )  # fmt: skip
        done = await asyncio.to_thread(run, command)
        assert done.status == 2
        assert "one is not whom" in done.err
        assert "set node_id to the certificate's name" in done.err
        assert not Operator(fleet).nodes()


@pytest.mark.integration
@pytest.mark.parametrize("port", ["operators", "agents", "http"])
async def test_plaintext_beyond_loopback_does_not_start(directory: Path, port: str) -> None:
    done = await asyncio.to_thread(
        run,
        module("orchestrator.app", "run", "--state-dir", str(directory), f"--{port}", "0.0.0.0:0"),
    )
    assert done.status == 2
    assert f"{port}.address 0.0.0.0:0 is not loopback and has no tls" in done.err
    assert "to mend it: " in done.err
    assert not (directory / "liveroll.db").exists()
