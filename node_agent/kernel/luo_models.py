"""The two models of LUO, and how it is told which of them a kernel has. Pure.

Rules
1. A kernel that runs says it itself (BootFacts.luo_model). Of one that does not, the LUO ABI string of its
   artifact says it; a string that is not in the table says nothing.
2. What speaks as the running kernel does is of its model, whatever the table says: strings are numbered
   along each line of development, and a house tree may number as it likes.

Source: luo-v1, kho-v1 and memfd-v1, the series "[RFC v2 00/16] Live Update Orchestrator", 15 May 2025;
luo-v5, Linux 7.2 include/linux/kho/abi/luo.h.
"""

from __future__ import annotations

from collections.abc import Mapping

from node_agent.ports import BootFacts, LiveUpdateAbi

SESSIONS, RFC2 = "sessions", "rfc-v2"
"""As merged; the seed's."""

MODELS: Mapping[str, str] = {"luo-v1": RFC2, "luo-v5": SESSIONS}
"""LUO's ABI string → model."""

RFC2_HANDLERS: Mapping[str, str] = {"memfd": "memfd-v1"}

RFC2_CAPABILITY = "luo-rfc-v2"
"""Of a node in Hello."""


def model_of(luo: str, running: BootFacts | None = None) -> str:
    """The model of the kernel that speaks `luo`; empty if nothing says it.

    Args:
        luo: its ABI string; empty if it is not known.
        running: the kernel that runs here (rule 2).
    """
    if luo and running is not None and running.kho is not None and running.kho.luo_abi == luo:
        return running.luo_model
    return MODELS.get(luo, "")


def others(running: BootFacts) -> tuple[str, ...]:
    """ABI strings of the other model: a target that speaks one is refused."""
    return tuple(sorted(luo for luo in MODELS if model_of(luo, running) != running.luo_model))


def capabilities_of(facts: BootFacts) -> tuple[str, ...]:
    """What Hello says of the node's LUO beside that it is there."""
    return (RFC2_CAPABILITY,) if facts.luo_model == RFC2 else ()


def spoken_by(facts: BootFacts) -> LiveUpdateAbi | None:
    """What the artifact of a running emulated kernel must say, so that there is a way back into it. None: as
    on sessions, nothing."""
    if facts.luo_model != RFC2 or facts.kho is None:
        return None
    return LiveUpdateAbi(facts.kho.kho_abi, facts.kho.luo_abi, RFC2_HANDLERS)
