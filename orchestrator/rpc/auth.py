"""Who is calling: roles and names from certificates, and which listeners may be in the clear.

Rules
1. Two roles, disjoint: an agent's certificate says `spiffe://<any>/agent/<node id>` in its SAN
   (or `agent:<node id>` as its common name), an operator's `operator` in the same places. A
   certificate that says both, or neither, is nobody's.
2. A SAN goes before the common name; where both speak they must agree.
3. Each port serves one role. The other role's certificate is PERMISSION_DENIED there.
4. In the clear only on loopback or a Unix socket, where the machine's own users are the
   boundary; the caller then is `local:<name it gives>` and a node is whoever its Hello says.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from orchestrator.errors import PermissionDenied, SettingsError, Unauthenticated

USER_KEY = "liveroll-user"
"""Metadata in which a local caller gives a name for the audit trail."""
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_SPIFFE = re.compile(r"spiffe://[^/]+(?:/[^/]+)*?/(agent|operator)/([^/]+)")
_COMMON_NAME = re.compile(r"(agent|operator):(.+)")


class Role(enum.StrEnum):
    AGENT = "agent"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a call. name is "" for a local agent, which only its Hello names."""

    role: Role
    name: str
    authenticated: bool

    @property
    def actor(self) -> str:
        """For the audit trail."""
        return self.name if self.authenticated else f"local:{self.name or 'unknown'}"


class TlsFiles(Protocol):
    """PEM files (settings.Tls is one): this side's certificate chain and key, and the CA that
    vouches for peers; without it, on loopback only, nobody has to show a certificate."""

    @property
    def cert(self) -> Path: ...
    @property
    def key(self) -> Path: ...
    @property
    def ca(self) -> Path | None: ...


def peer_of(
    role: Role,
    auth_context: Mapping[str, Iterable[bytes]],
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    verified: bool,
) -> Peer:
    """Who calls a port that serves `role`. verified: the port asks for certificates.

    Raises: Unauthenticated (a certificate of nobody), PermissionDenied (of the other role).
    """
    if not verified:
        claimed = next((v for k, v in metadata if k == USER_KEY and isinstance(v, str)), "")
        name = claimed if NAME.fullmatch(claimed) and role is Role.OPERATOR else ""
        return Peer(role, name, authenticated=False)
    names = frozenset(_names(auth_context))
    if not names:
        raise Unauthenticated(
            "the certificate names neither a node nor an operator",
            remedy="use a certificate whose SAN is spiffe://<domain>/agent/<node id> or …/operator/<name>",
        )
    if len(names) > 1:
        raise Unauthenticated(
            "the certificate names more than one identity",
            reason="AMBIGUOUS_CERTIFICATE",
            remedy="issue one certificate for each node and each operator",
            names=", ".join(f"{r}:{n}" for r, n in sorted(names)),
        )
    ((found, name),) = names
    if found is not role:
        raise PermissionDenied(
            f"this port is for {role}s and the certificate is of an {found}",
            reason="WRONG_ROLE",
            remedy=f"call the {found}s' port, or present a certificate of the role {role}",
            role=found,
        )
    return Peer(role, name, authenticated=True)


def _names(auth_context: Mapping[str, Iterable[bytes]]) -> Iterable[tuple[Role, str]]:
    for san in auth_context.get("x509_subject_alternative_name", ()):
        match = _SPIFFE.fullmatch(san.decode("utf-8", "replace"))
        if match and NAME.fullmatch(match[2]):
            yield Role(match[1]), match[2]
    for common_name in auth_context.get("x509_common_name", ()):
        match = _COMMON_NAME.fullmatch(common_name.decode("utf-8", "replace"))
        if match and NAME.fullmatch(match[2]):
            yield Role(match[1]), match[2]


def check_node(peer: Peer, node_id: str) -> None:
    """A Hello speaks for its certificate's node only. Raises PermissionDenied (NODE_MISMATCH)."""
    if peer.authenticated and peer.name != node_id:
        raise PermissionDenied(
            f"the certificate is of node {peer.name}, the hello says {node_id}",
            reason="NODE_MISMATCH",
            remedy="set the agent's node_id to the name in its certificate, or issue it another",
            node_id=node_id,
            certificate=peer.name,
        )


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address (host:port, [v6]:port or unix:path)."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_listener(name: str, address: str, tls: TlsFiles | None) -> None:
    """Raises SettingsError (PLAINTEXT_REFUSED, CLIENT_CA_MISSING) for a port that others can
    reach in the clear, or without showing who they are."""
    if is_local(address):
        return
    if tls is None:
        raise SettingsError(
            f"the {name} listener {address} would serve in the clear beyond this machine",
            reason="PLAINTEXT_REFUSED",
            remedy="give it a certificate, a key and a client CA, or let it listen on 127.0.0.1",
            address=address,
        )
    if tls.ca is None:
        raise SettingsError(
            f"the {name} listener {address} would take anyone",
            reason="CLIENT_CA_MISSING",
            remedy="name the authority that signs its clients' certificates, or let it listen on 127.0.0.1",
            address=address,
        )


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """With a CA: clients without a certificate of it are refused in the handshake.

    Raises: SettingsError (TLS_FILES) for files that are missing, not PEM, or no pair.
    """
    certificate = _read(tls.cert, b"CERTIFICATE")
    key = _read(tls.key, b"PRIVATE KEY")
    client_ca = None if tls.ca is None else _read(tls.ca, b"CERTIFICATE")
    _check_pair(tls, certificate, key)
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
    )


def _read(path: Path, kind: bytes) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot read {path}: {error.strerror}",
            reason="TLS_FILES",
            remedy="make the file readable to the service, or name another",
            path=path,
        ) from error
    if b"-----BEGIN " not in pem or kind not in pem:
        raise SettingsError(
            f"{path} holds no PEM {kind.decode().lower()}",
            reason="TLS_FILES",
            remedy="name a PEM file",
            path=path,
        )
    return pem


def _check_pair(tls: TlsFiles, certificate: bytes, key: bytes) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        ours = load_pem_private_key(key, None).public_key()
        fits = x509.load_pem_x509_certificate(certificate).public_key() == ours
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"cannot parse {tls.cert} with {tls.key}",
            reason="TLS_FILES",
            remedy="name an unencrypted PEM key and its certificate",
        ) from error
    if not fits:
        raise SettingsError(
            f"the key {tls.key} does not belong to the certificate {tls.cert}",
            reason="TLS_FILES",
            remedy="name the key that the certificate was issued for",
        )
