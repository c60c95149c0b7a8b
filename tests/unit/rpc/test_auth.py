"""Who is who by certificate, and which listeners refuse to start. Handshakes: test_rpc_tls.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import PermissionDenied, SettingsError, Unauthenticated
from orchestrator.rpc.auth import (
    Peer,
    Role,
    check_listener,
    check_node,
    is_local,
    peer_of,
    server_credentials,
)
from orchestrator.rpc.pki import make_pki


def context(*sans: str, common_name: str = "") -> dict[str, list[bytes]]:
    made = {"transport_security_type": [b"ssl"], "x509_subject_alternative_name": [s.encode() for s in sans]}
    if common_name:
        made["x509_common_name"] = [common_name.encode()]
    return made


@dataclass(frozen=True)
class Tls:
    cert: Path
    key: Path
    ca: Path | None = None


def test_a_nodes_certificate_names_it() -> None:
    peer = peer_of(Role.AGENT, context("spiffe://example.org/agent/n1"), (), verified=True)
    assert peer == Peer(Role.AGENT, "n1", authenticated=True)


def test_spiffe_paths_may_be_longer() -> None:
    peer = peer_of(Role.OPERATOR, context("spiffe://example.org/site/a/operator/alice"), (), verified=True)
    assert (peer.name, peer.actor) == ("alice", "alice")


def test_a_common_name_will_do() -> None:
    assert peer_of(Role.OPERATOR, context(common_name="operator:ci"), (), verified=True).name == "ci"


def test_san_and_common_name_may_agree() -> None:
    both = context("spiffe://d/agent/n1", common_name="agent:n1")
    assert peer_of(Role.AGENT, both, (), verified=True).name == "n1"


@pytest.mark.parametrize(
    "certificate",
    [
        context(),
        context("spiffe://d/agent/"),
        context("spiffe://d/admin/x"),
        context("https://d/agent/n1"),
        context(common_name="n1"),
        context("spiffe://d/agent/n1/../n2"),
        context("spiffe://d/agent/a b"),
    ],
)
def test_a_certificate_of_nobody(certificate: dict[str, list[bytes]]) -> None:
    with pytest.raises(Unauthenticated):
        peer_of(Role.AGENT, certificate, (), verified=True)


@pytest.mark.parametrize(
    "certificate",
    [
        context("spiffe://d/agent/n1", "spiffe://d/operator/n1"),
        context("spiffe://d/agent/n1", "spiffe://d/agent/n2"),
        context("spiffe://d/agent/n1", common_name="operator:root"),
    ],
)
def test_a_certificate_of_more_than_one(certificate: dict[str, list[bytes]]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        peer_of(Role.AGENT, certificate, (), verified=True)
    assert refused.value.reason == "AMBIGUOUS_CERTIFICATE"


def test_roles_are_disjoint() -> None:
    with pytest.raises(PermissionDenied) as refused:
        peer_of(Role.OPERATOR, context("spiffe://d/agent/n1"), (), verified=True)
    assert refused.value.reason == "WRONG_ROLE"
    with pytest.raises(PermissionDenied):
        peer_of(Role.AGENT, context("spiffe://d/operator/alice"), (), verified=True)


def test_a_local_operator_is_called_what_it_says_and_marked_as_local() -> None:
    peer = peer_of(Role.OPERATOR, {}, (("liveroll-user", "alice"),), verified=False)
    assert (peer.actor, peer.authenticated) == ("local:alice", False)
    assert peer_of(Role.OPERATOR, {}, (), verified=False).actor == "local:unknown"
    assert peer_of(Role.OPERATOR, {}, (("liveroll-user", "a\nb"),), verified=False).actor == "local:unknown"


def test_on_a_verified_port_metadata_names_nobody() -> None:
    with pytest.raises(Unauthenticated):
        peer_of(Role.OPERATOR, {}, (("liveroll-user", "alice"),), verified=True)


def test_a_hello_speaks_for_its_certificates_node_only() -> None:
    peer = Peer(Role.AGENT, "n1", authenticated=True)
    check_node(peer, "n1")
    with pytest.raises(PermissionDenied) as refused:
        check_node(peer, "n2")
    assert refused.value.reason == "NODE_MISMATCH"
    check_node(Peer(Role.AGENT, "", authenticated=False), "n2")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:7443", True),
        ("127.9.9.9:1", True),
        ("[::1]:7443", True),
        ("localhost:7443", True),
        ("unix:/run/liveroll/operators.sock", True),
        ("0.0.0.0:7443", False),
        ("[::]:7443", False),
        ("10.0.0.1:7443", False),
        ("localhost.example.org:7443", False),
        (":7443", False),
    ],
)
def test_what_only_this_machine_reaches(address: str, local: bool) -> None:
    assert is_local(address) is local


def test_plaintext_beyond_loopback_is_refused(tmp_path: Path) -> None:
    check_listener("agents", "127.0.0.1:7444", None)
    with pytest.raises(SettingsError) as refused:
        check_listener("agents", "0.0.0.0:7444", None)
    assert refused.value.reason == "PLAINTEXT_REFUSED"
    assert "0.0.0.0:7444" in refused.value.message
    with pytest.raises(SettingsError) as open_to_all:
        check_listener("agents", "0.0.0.0:7444", Tls(tmp_path, tmp_path))
    assert open_to_all.value.reason == "CLIENT_CA_MISSING"
    check_listener("agents", "0.0.0.0:7444", Tls(tmp_path, tmp_path, tmp_path))


def test_unusable_certificate_files_are_told_apart(tmp_path: Path) -> None:
    pki = make_pki(tmp_path / "pki", ["n1"], [])
    server, other = pki.server, pki.agents["n1"]
    server_credentials(Tls(server.certificate, server.key, pki.ca))
    with pytest.raises(SettingsError, match="cannot read"):
        server_credentials(Tls(tmp_path / "none.pem", server.key))
    with pytest.raises(SettingsError, match="holds no PEM"):
        server_credentials(Tls(server.key, server.key))
    with pytest.raises(SettingsError, match="does not belong"):
        server_credentials(Tls(server.certificate, other.key))
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingsError, match="cannot parse"):
        server_credentials(Tls(broken, server.key))


def test_keys_are_for_their_owner_only_and_names_are_checked(tmp_path: Path) -> None:
    from orchestrator.errors import InvalidSpec

    pki = make_pki(tmp_path / "pki", ["n1"], ["alice"])
    assert pki.operators["alice"].key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidSpec) as refused:
        make_pki(tmp_path / "other", ["../n1", "ok"], ["al ice"])
    assert [v.path for v in refused.value.violations] == ["../n1", "al ice"]
    assert not (tmp_path / "other").exists()
