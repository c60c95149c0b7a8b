"""Tells a service manager how the service stands.

Source: sd_notify(3): datagrams of NAME=VALUE lines to the Unix socket in NOTIFY_SOCKET; a
leading @ is the abstract namespace.
"""

from __future__ import annotations

import os
import socket


def notify_service_manager(state: str) -> None:
    """Sends one state, for instance READY=1. Silent where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(state.encode())
        except OSError:
            # The manager went away; the service works without it.
            return
