"""Free TCP ports on 127.0.0.1."""

from __future__ import annotations

import socket

from deploy.lab.errors import LabError
from deploy.lab.machine import candidate_port

_TRIES = 200


def free_ports(count: int) -> list[int]:
    """That many different ports that nobody listens on now.

    Nothing holds them: whoever is told to listen must be ready to hear that one was taken since.
    Raises LabError (NO_PORT).
    """
    held: list[socket.socket] = []
    try:
        for _ in range(_TRIES):
            if len(held) == count:
                return [taken.getsockname()[1] for taken in held]
            probe = socket.socket()
            try:
                probe.bind(("127.0.0.1", candidate_port()))
            except OSError:
                probe.close()
            else:
                held.append(probe)
        raise LabError(
            f"found no {count} free ports on 127.0.0.1",
            reason="NO_PORT",
            remedy="End what listens on ports 20000 to 32000.",
        )
    finally:
        for taken in held:
            taken.close()
