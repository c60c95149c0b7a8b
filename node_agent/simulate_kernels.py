"""Which kernels a simulated fleet has: each node's model of LUO, and what is said of single releases.

Rules
1. --luo-model is what a node's kernels are of: sessions, or rfc-v2 with one of its two couplings.
2. --image adds traits to a release, several with + or one after the other. A model among them holds on every
   node; without one the release is of each node's own model.
3. A cold boot's default is of the model that runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node_agent.kernel.emulated.image import RFC2, SESSIONS, EmulatedImage, ImageTable
from node_agent.kernel.emulated.rfc2.states import Coupling

_Fault = Callable[[str, str, str], None]

MODELS: Mapping[str, Mapping[str, Any]] = {
    SESSIONS: {"model": SESSIONS},
    RFC2: {"model": RFC2},
    **{f"{RFC2}/{coupling}": {"model": RFC2, "coupling": str(coupling)} for coupling in Coupling},
}
"""Word → properties of an image."""
FLAWS: Mapping[str, Mapping[str, Any]] = {
    "panics": {"panics": True},
    "bad": {"bad": True},
    "no-kho": {"kho": False},
    "no-liveupdate": {"liveupdate": False},
}
UNHEALTHY = "unhealthy"
"""A trait that the kernel does not know: probes fail on a node that runs this release."""
TRAITS = (*FLAWS, UNHEALTHY, *MODELS)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What is said of single releases."""

    properties: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Release → properties of its image."""
    unhealthy: frozenset[str] = frozenset()

    def of(self, model: str) -> ImageTable:
        """All images, as a node finds them whose own model (a word of MODELS) is this."""
        own = MODELS[model]
        return ImageTable(
            {release: _image(release, {**own, **said}) for release, said in self.properties.items()},
            otherwise=_image("", own),
        )


def _image(release: str, properties: Mapping[str, Any]) -> EmulatedImage:
    if properties["model"] == RFC2:
        return EmulatedImage.rfc2(release, **properties)
    return EmulatedImage(release, **{key: said for key, said in properties.items() if key != "coupling"})


def read_kernels(specs: Sequence[str], fault: _Fault) -> Kernels:
    """--image, of which each is RELEASE=TRAIT[+TRAIT]."""
    properties: dict[str, dict[str, Any]] = {}
    unhealthy: set[str] = set()
    for spec in specs:
        release, _, words = spec.rpartition("=")
        traits = words.split("+")
        if not release or not set(traits) <= set(TRAITS):
            fault("--image", f"{spec!r} is not RELEASE=TRAIT", f"traits are {', '.join(TRAITS)}")
            continue
        for trait in traits:
            said = properties.setdefault(release, {})
            if trait == UNHEALTHY:
                unhealthy.add(release)
            elif trait in FLAWS:
                said.update(FLAWS[trait])
            elif "model" in said and said != {**said, **MODELS[trait]}:
                fault("--image", f"{release} is given two models of LUO", "give it one of them")
            else:
                said.update(MODELS[trait])
    return Kernels(properties, frozenset(unhealthy))


def read_models(words: Sequence[str], fault: _Fault) -> Sequence[str]:
    """--luo-model: what the nodes' kernels are of, in turn."""
    for word in words:
        if word not in MODELS:
            fault("--luo-model", f"{word!r} is no model of LUO", f"models are {', '.join(MODELS)}")
    return words
