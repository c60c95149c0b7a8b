"""What an emulated kernel image is, and where an image's properties come from.

Any file may stand for a kernel. What it can do is told by a sidecar file
`<kernel>.emulated.json` beside it, or by a table; a file without either is healthy. Of which model of LUO
it is, is told by the sidecar, else by its artifact's manifest beside it (the string in live_update.luo); a
file that has neither is of the node's own.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from node_agent.kernel.failure import LOAD
from node_agent.kernel.luo_models import RFC2 as RFC2
from node_agent.kernel.luo_models import SESSIONS as SESSIONS
from node_agent.kernel.luo_models import model_of
from node_agent.ports import KexecImage

LUO_ABI = "luo-v5"
"""The LUO ABI string of a healthy image; another one in the target panics it at boot."""

KHO_ABI = "kho-v4"
"""KHO's, of every emulated kernel: Linux 7.2's."""

MEMFD_HANDLER = "memfd-v2"
"""The one file handler of Linux 7.2."""

RFC2_LUO_ABI = "luo-v1"
RFC2_KHO_ABI = "kho-v1"
"""Their strings in RFC v2's time."""

CHOICES = {
    "model": (SESSIONS, RFC2),
    "coupling": ("luo-driven", "notifier"),
    "reserve_mem": ("luo", "kho"),
}
"""What these properties of an image may be."""

DEFAULT_COMMAND_LINE = "console=ttyS0 kho=on liveupdate=on panic=1"


@dataclass(frozen=True, slots=True)
class EmulatedImage:
    """What the kernel in an image can do. The defaults are a healthy kernel."""

    release: str
    kho: bool = True
    """CONFIG_KEXEC_HANDOVER."""
    liveupdate: bool = True
    """CONFIG_LIVEUPDATE."""
    handlers: tuple[str, ...] = (MEMFD_HANDLER,)
    abi: str = LUO_ABI
    panics: bool = False
    """Its init dies, or it has no root."""
    bad: bool = False
    """kexec_file_load gives ENOEXEC."""
    scratch_bytes: int = 0
    """What loading takes from KHO's scratch areas, beside the files' own sizes."""
    max_sessions: int = 0
    """0 is no limit; Linux 6.19 had about 744."""
    max_files: int = 0
    """A session; 0 is no limit; Linux 6.19 had 128."""
    model: str = SESSIONS
    coupling: str = "luo-driven"
    """Of RFC v2's LUO and KHO: `luo-driven` or `notifier`."""
    kho_debugfs: bool = True
    """CONFIG_KHO_DEBUGFS, of RFC v2's time: KHO can be finalized by hand."""
    reserve_mem: str = "luo"
    """Which carries reserve_mem's regions in RFC v2's time: `kho`, as a user of its own, or `luo`."""
    auto_preserve: tuple[str, ...] = ()
    """RFC v2's subsystems that every kexec carries, by name."""
    telemetry: bool = False
    """It tells when it was shut down, left and started."""

    def __post_init__(self) -> None:
        """Raises ValueError: a property with a few words to choose from has another one."""
        for name, words in CHOICES.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be one of {', '.join(words)}")

    @classmethod
    def rfc2(cls, release: str, **properties: Any) -> EmulatedImage:
        """A healthy kernel of RFC v2's time; properties as in the class."""
        return cls(
            **{"release": release, "model": RFC2, "abi": RFC2_LUO_ABI, "telemetry": True, **properties}
        )

    def healthy(self, release: str) -> EmulatedImage:
        """A healthy kernel of the same model and coupling."""
        if self.model == RFC2:
            return EmulatedImage.rfc2(release, coupling=self.coupling)
        return EmulatedImage(release)

    @property
    def kho_abi(self) -> str:
        """KHO's string; a kernel ignores a tree of another one."""
        return RFC2_KHO_ABI if self.model == RFC2 else KHO_ABI


class Images(Protocol):
    """Reads an image as kexec_file_load does."""

    def open(self, image: KexecImage) -> EmulatedImage:
        """Raises OSError: ENOENT, ENOEXEC, EINVAL."""
        ...


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Images known by release; no file is touched. An unknown release is healthy."""

    images: Mapping[str, EmulatedImage] = dataclasses.field(default_factory=dict)
    otherwise: EmulatedImage = dataclasses.field(default_factory=lambda: EmulatedImage(""))
    """What a release that is not in the table is like, but for its name."""

    def open(self, image: KexecImage) -> EmulatedImage:
        found = self.named(image.release)
        if found.bad:
            raise OSError(errno.ENOEXEC, LOAD)
        return found

    def named(self, release: str) -> EmulatedImage:
        """The image of a release."""
        return self.images.get(release) or dataclasses.replace(self.otherwise, release=release)


@dataclass(frozen=True, slots=True)
class FileImages:
    """Images that are files; properties from `<kernel>.emulated.json`, or healthy.

    An empty file is EINVAL; one whose sidecar cannot be read is a bad image.
    """

    otherwise: EmulatedImage = dataclasses.field(default_factory=lambda: EmulatedImage(""))
    """What a file of this one's model is like, but for its name, if it does not say more."""

    def open(self, image: KexecImage) -> EmulatedImage:
        size = self._size(image.kernel_path)
        if size == 0:
            raise OSError(errno.EINVAL, LOAD)
        if image.initrd_path:
            size += self._size(image.initrd_path)
        found = self._sidecar(image)
        if found.bad:
            raise OSError(errno.ENOEXEC, LOAD)
        return dataclasses.replace(found, scratch_bytes=found.scratch_bytes + size)

    @staticmethod
    def _size(path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError as cause:
            raise OSError(cause.errno, LOAD) from cause

    def _sidecar(self, image: KexecImage) -> EmulatedImage:
        model = _model_in_manifest(image.kernel_path) or self.otherwise.model
        try:
            with open(image.kernel_path + ".emulated.json", encoding="utf-8") as sidecar:
                properties = json.load(sidecar)
            properties["handlers"] = tuple(properties.get("handlers", (MEMFD_HANDLER,)))
            properties["auto_preserve"] = tuple(properties.get("auto_preserve", ()))
            make = EmulatedImage.rfc2 if properties.setdefault("model", model) == RFC2 else EmulatedImage
            return make(**{"release": image.release, **properties})
        except FileNotFoundError:
            if model == self.otherwise.model:
                return dataclasses.replace(self.otherwise, release=image.release)
            return EmulatedImage.rfc2(image.release) if model == RFC2 else EmulatedImage(image.release)
        except (ValueError, TypeError, AttributeError) as cause:
            raise OSError(errno.ENOEXEC, LOAD) from cause


def _model_in_manifest(kernel_path: str) -> str:
    """What the manifest beside a kernel says of its LUO's model; empty: there is none, or it says nothing."""
    try:
        with open(os.path.join(os.path.dirname(kernel_path), "manifest.json"), encoding="utf-8") as manifest:
            return model_of(json.load(manifest)["live_update"]["luo"])
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def liveupdate_on(image: EmulatedImage, command_line: str) -> bool:
    """Does this kernel with this command line have /dev/liveupdate?

    kho= and liveupdate= are both off by default; the last word counts.
    """
    return kho_on(image, command_line) and image.liveupdate and _switch(command_line, "liveupdate")


def kho_on(image: EmulatedImage, command_line: str) -> bool:
    """Does this kernel with this command line take part in kexec handover?"""
    return image.kho and _switch(command_line, "kho")


def _switch(command_line: str, name: str) -> bool:
    values = [w.partition("=")[2] for w in command_line.split() if w.startswith(f"{name}=")]
    return bool(values) and values[-1] in {"on", "1", "y", "yes", "true"}
