"""What a node is made of, what is loaded into it, and how a kexec may end."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from node_agent.kernel.emulated.image import RFC2, EmulatedImage, kho_on, liveupdate_on
from node_agent.ports import KhoFacts, MemoryFacts


class OutOfMemory(Exception):
    """Preserving more than there is memory for: the OOM killer kills the calling process."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a node is made of. Zeros are no limit."""

    hardware_model: str = "emulated"
    memory_bytes: int = 0
    """Memory that preserved files may take."""
    scratch_bytes: int = 0
    """KHO scratch that an image may take."""
    owner_uid: int = 0
    """Who may open /dev/liveupdate (mode 0600), besides root."""
    pci_devices: tuple[str, ...] = ()
    """Addresses of devices that do DMA; a kernel of RFC v2's time gives them to userspace."""

    def memory_facts(self, preserved_bytes: int) -> MemoryFacts | None:
        """All that is preserved counts against the room, wherever its pages are now."""
        if not self.memory_bytes:
            return None
        return MemoryFacts(max(self.memory_bytes - preserved_bytes, 0), in_scratch_bytes=sys.maxsize)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that kexec_file_load took, or that firmware started."""

    image: EmulatedImage
    command_line: str
    legacy: bool = False
    """Loaded by kexec_load(2): KHO is not told, and everything preserved is lost."""

    @property
    def kho(self) -> bool:
        """Does it take part in kexec handover?"""
        return kho_on(self.image, self.command_line)

    @property
    def luo(self) -> bool:
        """Is there a /dev/liveupdate?"""
        return liveupdate_on(self.image, self.command_line)

    def kho_facts(self, machine: Machine) -> KhoFacts:
        """What this kernel tells of KHO on this machine."""
        return KhoFacts(
            scratch_bytes=(machine.scratch_bytes,) if machine.scratch_bytes else (),
            kho_abi=self.image.kho_abi if self.kho else "",
            luo_abi=self.image.abi if self.luo else "",
            debugfs=self.image.model != RFC2 or self.image.kho_debugfs,
        )

    def reads(self, before: Loaded) -> bool:
        """Does it look at the tree that the kernel before hands over?"""
        return before.kho and not self.legacy and self.kho and self.image.kho_abi == before.image.kho_abi


@dataclass(frozen=True, slots=True)
class Jump:
    """How a kexec ended. Only `arrived` boots the loaded kernel; else a cold boot follows."""

    arrived: bool
    back: bool = True
    """False: nothing happens until somebody presses the power button."""


def boot_id(bits: int) -> str:
    """A boot id of 128 random bits, in the kernel's spelling (a version 4 UUID)."""
    text = f"{bits & ~(0xF << 76) & ~(0x3 << 62) | (0x4 << 76) | (0x2 << 62):032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
