"""What an emulated kernel image is, and where an image's properties come from.

Any file may stand for a kernel. What it can do is told by a sidecar file
`<kernel>.emulated.json` beside it, or by a table; a file without either is healthy.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from node_agent.kernel.failure import LOAD
from node_agent.ports import KexecImage

LUO_ABI = "luo-v5"
"""The LUO ABI string of a healthy image; another one in the target panics it at boot."""

KHO_ABI = "kho-v4"
"""KHO's, of every emulated kernel: Linux 7.2's."""

MEMFD_HANDLER = "memfd-v2"
"""The one file handler of Linux 7.2."""

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


class Images(Protocol):
    """Reads an image as kexec_file_load does."""

    def open(self, image: KexecImage) -> EmulatedImage:
        """Raises OSError: ENOENT, ENOEXEC, EINVAL."""
        ...


@dataclass(frozen=True, slots=True)
class ImageTable:
    """Images known by release; no file is touched. An unknown release is healthy."""

    images: Mapping[str, EmulatedImage] = dataclasses.field(default_factory=dict)

    def open(self, image: KexecImage) -> EmulatedImage:
        found = self.images.get(image.release) or EmulatedImage(image.release)
        if found.bad:
            raise OSError(errno.ENOEXEC, LOAD)
        return found


@dataclass(frozen=True, slots=True)
class FileImages:
    """Images that are files; properties from `<kernel>.emulated.json`, or healthy.

    An empty file is EINVAL; one whose sidecar cannot be read is a bad image.
    """

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

    @staticmethod
    def _sidecar(image: KexecImage) -> EmulatedImage:
        try:
            with open(image.kernel_path + ".emulated.json", encoding="utf-8") as sidecar:
                properties = json.load(sidecar)
            properties["handlers"] = tuple(properties.get("handlers", (MEMFD_HANDLER,)))
            return EmulatedImage(**{"release": image.release, **properties})
        except FileNotFoundError:
            return EmulatedImage(image.release)
        except (ValueError, TypeError, AttributeError) as cause:
            raise OSError(errno.ENOEXEC, LOAD) from cause


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
