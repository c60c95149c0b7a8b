"""This node's certificate for HTTPS, where artifacts come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node_agent.errors import SettingsError
from node_agent.settings import TlsFiles

if TYPE_CHECKING:
    import ssl


def client_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """A context that trusts the orchestrator's authority only and shows this node's certificate; None
    without files. Raises SettingsError (TLS_UNREADABLE)."""
    if files is None:
        return None
    import ssl  # only where TLS is set; costs milliseconds otherwise

    try:
        context = ssl.create_default_context(cafile=files.ca)
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the TLS files cannot be used: {error}",
            reason="TLS_UNREADABLE",
            remedy="give PEM files: the authority, this node's certificate and the key that belongs to it",
        ) from error
    return context
