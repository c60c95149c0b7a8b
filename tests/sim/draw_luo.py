"""Which model of LUO each node's kernels are of, and what goes wrong with RFC v2's.

All of it comes of a stream of its own, so that what a seed draws otherwise stays what it was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from node_agent.kernel.emulated.image import RFC2, SESSIONS, EmulatedImage, ImageTable
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.faults import Fault, FaultKind, FaultPlan
from node_agent.kernel.luo_models import RFC2_HANDLERS
from node_agent.ports import LiveUpdateAbi

SHARES = (0.0, 0.0, 0.3, 0.5, 1.0)
"""Of a world's nodes that are RFC v2's; a third of all."""
OF_ONE_MODEL = 0.15
"""How often the newest target of a mixed fleet is there for one of its models only."""
WORSE = (
    ("luo_driven_s",),
    ("luo_driven_s", "callbacks_refuse"),
    ("luo_driven_s", "callbacks_refuse"),
    ("luo_driven_s", "callbacks_refuse"),
    ("luo_driven_s", "luoctl_s"),
    ("callbacks_refuse",),
    ("callbacks_refuse",),
    ("luo_driven_s", "callbacks_refuse", "luoctl_s"),
)
"""Rates that came later, and go together in one world: all of them at once let few updates succeed."""
HANGS = ("prepare", "cancel", "finish", "fd_preserve", "fd_restore")


def models(rng: random.Random, count: int) -> list[str]:
    """Of each node."""
    share = rng.choice(SHARES)
    return [RFC2 if rng.random() < share else SESSIONS for _ in range(count)]


def couplings(rng: random.Random, releases: Sequence[str]) -> dict[str, str]:
    """Release → coupling, where it is built for RFC v2. A kexec may lead from the one into the other."""
    return {release: str(rng.choice(tuple(Coupling))) for release in releases}


def of_one_model(rng: random.Random, release: str, models: Sequence[str]) -> dict[str, str]:
    """Release → the only model that it is there for; seldom, and in mixed fleets."""
    chance, model = rng.random(), rng.choice((RFC2, SESSIONS))
    return {release: model} if chance < OF_ONE_MODEL and len(set(models)) > 1 else {}


def faults(rng: random.Random, model: str, *, likely: bool) -> FaultPlan:
    """Of RFC v2's own calls. What counts a kexec counts one that would follow: @1 ends only when all is
    mended."""
    drawn = tuple(_faults(rng)) if likely else ()
    return FaultPlan(drawn if model == RFC2 else ())


def _faults(rng: random.Random) -> Iterator[Fault]:
    for at in (1, 2, 3):
        if rng.random() < 0.04:
            yield Fault(FaultKind.REFUSE_PREPARE, at)
    for call in HANGS:
        if rng.random() < 0.03:
            yield Fault(FaultKind.HANG, rng.choice((1, 2, 3)), call)


def by_hand_s(rng: random.Random, *, likely: bool) -> float:
    """How often somebody uses LUO by hand."""
    every_s = rng.choice((0.0, 0.0, 20.0, 60.0))
    return every_s if likely else 0.0


def later(rng: random.Random, profile: str) -> dict[str, float]:
    """What came later: Rates by name, from a stream of their own."""
    driven_s, luoctl_s, refuse = rng.choice((1.0, 3.0)), rng.choice((10.0, 40.0)), rng.choice((0.4, 0.8))
    chosen = rng.choice(WORSE)
    if profile == "calm":
        return {}
    found = {"luo_driven_s": driven_s, "luoctl_s": luoctl_s, "callbacks_refuse": refuse}
    return {name: rate for name, rate in found.items() if name in chosen}


def images(model: str, couplings: Mapping[str, str], only: Mapping[str, str]) -> ImageTable:
    """As a node of this model finds them: a release is of that, unless it is there for one model only."""

    def image(release: str, of: str) -> EmulatedImage:
        if of == RFC2:
            return EmulatedImage.rfc2(release, coupling=couplings.get(release, Coupling.LUO_DRIVEN))
        return EmulatedImage(release)

    found = {release: image(release, only.get(release, model)) for release in {*couplings, *only}}
    return ImageTable(found, otherwise=image("", model))


def says(release: str, model: str, only: Mapping[str, str]) -> LiveUpdateAbi | None:
    """The ABI strings in a release's artifact, as a node of this model gets it. None: it says nothing."""
    if only.get(release, model) == RFC2:
        return LiveUpdateAbi("kho-v1", "luo-v1", RFC2_HANDLERS)
    return LiveUpdateAbi("kho-v4", "luo-v5", {"memfd": "memfd-v2"}) if release in only else None
