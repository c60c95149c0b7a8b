"""A small PKI of one CA, for a first use, the demo and tests: `make_pki(dir, nodes, operators)`.

Production certificates come from where the site's certificates come from; this shows their
shape. Names in each certificate: auth.py, rule 1. Keys are P-256, readable to the owner only.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.errors import InvalidSpec, Violation
from orchestrator.rpc.auth import NAME

DOMAIN = "liveroll.local"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Paths of one PEM certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Pki:
    """What make_pki wrote."""

    ca: Path
    server: KeyPair
    agents: dict[str, KeyPair]
    operators: dict[str, KeyPair]


def make_pki(
    directory: Path,
    nodes: Sequence[str],
    operators: Sequence[str],
    *,
    hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1"),
    valid_days: int = 365,
    now: dt.datetime | None = None,
) -> Pki:
    """Write ca.pem, server.pem/.key, agents/<node>.pem/.key and operators/<name>.pem/.key.

    Args:
        hosts: DNS names and addresses by which clients reach the server.
        now: start of the validity, aware; the present if omitted.

    Raises: InvalidSpec for a name that no certificate of ours may carry, or a directory that has an
    authority.
    """
    bad = [n for n in (*nodes, *operators) if not NAME.fullmatch(n)]
    if bad:
        raise InvalidSpec(
            [Violation(n, "not a name", "Use letters, digits, dots, dashes and underscores.") for n in bad]
        )
    ca = directory / "ca.pem"
    if ca.exists():
        raise InvalidSpec(
            [
                Violation(
                    str(directory),
                    "holds an authority whose key was not kept; a new one would end its certificates",
                    "Give an empty directory, and all nodes and operators in one call.",
                )
            ]
        )
    directory.mkdir(parents=True, exist_ok=True)
    start = (now or dt.datetime.now(dt.UTC)) - dt.timedelta(minutes=5)
    maker = _Maker(start, start + dt.timedelta(days=valid_days))
    ca.write_bytes(maker.ca_pem)
    server = maker.issue(directory / "server", "server", [_host(h) for h in hosts], server=True)
    agents = {n: maker.identity(directory / "agents" / n, "agent", n) for n in nodes}
    people = {n: maker.identity(directory / "operators" / n, "operator", n) for n in operators}
    return Pki(ca, server, agents, people)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class _Maker:
    """One CA, its key in memory only: nobody can issue more from what is on disk."""

    def __init__(self, start: dt.datetime, end: dt.datetime) -> None:
        self._start, self._end = start, end
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "liveroll first-use CA")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self._ca = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_pem = self._ca.public_bytes(serialization.Encoding.PEM)

    def identity(self, path: Path, role: str, name: str) -> KeyPair:
        uri = x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/{role}/{name}")
        return self.issue(path, "", [uri], server=False)

    def issue(
        self, path: Path, common_name: str, names: Sequence[x509.GeneralName], *, server: bool
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]  # a server's, too: it asks itself for its health
        if server:
            purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pair = KeyPair(path.parent / f"{path.name}.pem", path.parent / f"{path.name}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(secret)
        return pair

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._start)
            .not_valid_after(self._end)
        )
