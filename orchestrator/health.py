"""`liveroll-orchestrator health`: asks a running orchestrator whether it is ready.

Rules
1. Without a URL it asks the one that runs with the same settings (the container's health check):
   its address is known, a wildcard is reached over loopback, and the certificate is not compared
   with a name, for it names what clients dial, not 127.0.0.1. Nothing is sent but a GET.
2. With a URL, https is verified as any client verifies it, against --ca or the system's authorities.
3. Where http.tls.ca asks clients for certificates, the server's own is shown unless another is given.
"""

from __future__ import annotations

import ipaddress
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SettingsError, StoreUnavailable
from orchestrator.settings import Listen, Settings

TIMEOUT_S = 3


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask. url has no path; context is of https only."""

    url: str
    context: ssl.SSLContext | None = None


def own(settings: Settings, cert: Path | None = None, key: Path | None = None) -> Target:
    """The orchestrator that runs with these settings. Raises SettingsError."""
    http = settings.http
    if http.port == 0:
        raise SettingsError(
            "http.address has port 0, so the running orchestrator chose one that is not known here",
            remedy="give its address with --http",
        )
    host = _reachable(http)
    if http.tls is None:
        return Target(f"http://{host}:{http.port}")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # rule 1
    if cert is not None or http.tls.ca is not None:
        _show(context, cert or http.tls.cert, key or (cert or http.tls.key))
    return Target(f"https://{host}:{http.port}", context)


def given(url: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> Target:
    """The orchestrator at a URL. Raises SettingsError."""
    url = url.rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{url} is no http URL", remedy="give --http http://127.0.0.1:7480")
    if url.startswith("http://"):
        return Target(url)
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SettingsError(
            f"cannot use {ca}: {_cause(error, 'it holds no certificate')}",
            remedy="give the CA's certificate in PEM with --ca",
        ) from error
    if cert is not None:
        _show(context, cert, key or cert)
    return Target(url, context)


def ask(target: Target) -> tuple[bool, str]:
    """(ready, what it says). Raises SettingsError for a connection that is not secure, StoreUnavailable
    (UNREACHABLE) if nobody answers."""
    try:
        with urllib.request.urlopen(  # noqa: S310 - the scheme is http or https
            f"{target.url}/readyz", timeout=TIMEOUT_S, context=target.context
        ) as answer:
            return True, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return False, error.read().decode().strip()
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            raise SettingsError(
                f"no secure connection to {target.url}: {reason}", remedy=_remedy(reason)
            ) from error
        raise StoreUnavailable(
            f"no orchestrator answers at {target.url}",
            reason="UNREACHABLE",
            remedy="start it, or give its address with --http, or its settings with --config",
        ) from error


def _remedy(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "give the CA's certificate with --ca, and the name that the server's certificate has"
    if error.reason and "WRONG_VERSION" in error.reason:
        return "it speaks plain http: give --http http://…"
    return "it may ask for a certificate that is good for clients, too: give --cert and --key"


def _reachable(listen: Listen) -> str:
    """The address as it is dialled."""
    try:
        address = ipaddress.ip_address(listen.host)
    except ValueError:
        return listen.host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{address}]" if address.version == 6 else str(address)


def _show(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise SettingsError(
            f"cannot use {cert} and {key}: {_cause(error, 'they are no certificate and its key')}",
            remedy="give a readable certificate and its key in PEM",
        ) from error


def _cause(error: OSError, of_contents: str) -> str:
    """Why a file is of no use; OpenSSL's own words help nobody."""
    return of_contents if isinstance(error, ssl.SSLError) else error.strerror or str(error)
