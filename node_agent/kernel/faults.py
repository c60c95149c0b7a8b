"""The vocabulary of faults: what goes wrong on a node, and when.

A plan is a tuple of faults, written as `refuse_freeze@1,panic@2,slow_boot=3.0`:
`kind[=value][@n]`. n counts the node's reboot(KEXEC) calls from 1, refused ones included, over
all boots; @0 is the first boot, before any. Without @n the fault holds every time. A `hang` in
another call than reboot counts that call instead, and BOOT faults belong to the boot that
follows call n.

The kernel acts on the kernel's faults; the journal, the disk and the link each look up their
own. Nothing here reads a clock or draws unseeded numbers.
"""

from __future__ import annotations

import enum
import errno
import random
from collections.abc import Mapping
from dataclasses import dataclass


class FaultKind(enum.StrEnum):
    """What goes wrong. In brackets: the value, and its default."""

    REFUSE_FREEZE = "refuse_freeze"
    """reboot(KEXEC) returns an errno, all is unfrozen. [errno name, EBUSY]"""
    REFUSE_PREPARE = "refuse_prepare"
    """PREPARE returns an errno; n counts the kexec that would follow. [errno name, ENOMEM]"""
    HANG = "hang"
    """A call never returns. [reboot, or a LuoModel call such as retrieve_session; reboot]"""
    PANIC = "panic"
    """The new kernel panics; firmware resets and boots the default kernel. State lost."""
    POWER_LOSS = "power_loss"
    """Power fails during the jump; the node comes back by a cold boot. State lost."""
    NEVER_BACK = "never_back"
    """The node is not seen again until somebody presses its power button."""
    WRONG_KERNEL = "wrong_kernel"
    """Another release boots than was loaded; state crosses. [release, "wrong"]"""
    SESSION_LOST = "session_lost"
    """A session does not cross, or none does. [session name, all]"""
    POISON = "poison"
    """Deserialisation fails: opening /dev/liveupdate gives EIO until a cold boot."""
    RETRIEVE_ERROR = "retrieve_error"
    """Every RETRIEVE_FD in the boot that follows fails, for ever. [errno name, EIO]"""
    BUSY = "busy"
    """The first N opens of /dev/liveupdate in a boot give EBUSY. [N, 1]"""
    SLOW = "slow"
    """Seconds added to each phase. [seconds, 1]"""
    SLOW_SHUTDOWN = "slow_shutdown"
    SLOW_PURGATORY = "slow_purgatory"
    SLOW_BOOT = "slow_boot"
    """Seconds added to one phase. [seconds, 1]"""
    TORN_JOURNAL = "torn_journal"
    """Half a record follows the journal's last: a power loss in the middle of a write."""
    CORRUPT_JOURNAL = "corrupt_journal"
    """A full-length journal record has a wrong byte."""
    FULL_DISK = "full_disk"
    """The journal's disk fills up in the middle of an attempt. [seconds until there is room, 1]"""
    SLOW_LINK = "slow_link"
    """Seconds added to each message of the agent's link. [seconds, 1]"""
    CUT_LINK = "cut_link"
    """The agent's link breaks. [seconds before it can be dialled again, 1]"""


_SECONDS = frozenset(
    {
        FaultKind.SLOW,
        FaultKind.SLOW_SHUTDOWN,
        FaultKind.SLOW_PURGATORY,
        FaultKind.SLOW_BOOT,
        FaultKind.SLOW_LINK,
        FaultKind.CUT_LINK,
        FaultKind.FULL_DISK,
    }
)
_ERRNO = {
    FaultKind.REFUSE_FREEZE: "EBUSY",
    FaultKind.REFUSE_PREPARE: "ENOMEM",
    FaultKind.RETRIEVE_ERROR: "EIO",
}
_TEXT = {FaultKind.HANG: "reboot", FaultKind.WRONG_KERNEL: "wrong", FaultKind.SESSION_LOST: ""}
_COUNT = frozenset({FaultKind.BUSY})


class FaultSyntax(ValueError):
    """A fault that cannot be read; the message names it and what is allowed."""


def _checked(kind: FaultKind, value: str) -> str:
    """The value with its default filled in. Raises FaultSyntax."""
    try:
        if kind in _SECONDS:
            seconds = float(value or "1")
            if not 0 <= seconds < float("inf"):
                raise ValueError(value)
            return value or "1"
        if kind in _COUNT:
            if int(value or "1") < 1:
                raise ValueError(value)
            return value or "1"
        if kind in _ERRNO:
            name = value or _ERRNO[kind]
            if name not in errno.errorcode.values():
                raise ValueError(value)
            return name
    except ValueError as cause:
        raise FaultSyntax(f"fault {kind}={value}: the value is not a number or errno in range") from cause
    if kind in _TEXT:
        return value or _TEXT[kind]
    if value:
        raise FaultSyntax(f"fault {kind}={value}: {kind} takes no value")
    return ""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Args:
        at: which kexec call, boot or hung call (see the module); None is every one.
        value: by kind; an empty one becomes the kind's default. Raises FaultSyntax.
    """

    kind: FaultKind
    at: int | None = None
    value: str = ""

    def __post_init__(self) -> None:
        if self.at is not None and self.at < 0:
            raise FaultSyntax(f"fault {self.kind}@{self.at}: the count must be 0 or more")
        object.__setattr__(self, "value", _checked(self.kind, self.value))

    @property
    def seconds(self) -> float:
        return float(self.value)

    @property
    def count(self) -> int:
        return int(self.value)

    @property
    def errno(self) -> int:
        return int(getattr(errno, self.value))

    def __str__(self) -> str:
        value = f"={self.value}" if self.value else ""
        return f"{self.kind}{value}" + ("" if self.at is None else f"@{self.at}")


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """All that will go wrong on one node, in the order written."""

    faults: tuple[Fault, ...] = ()

    @classmethod
    def parse(cls, text: str) -> FaultPlan:
        """Read "refuse_freeze@1,panic@2,slow_boot=3.0"; empty is no fault. Raises FaultSyntax."""
        return cls(tuple(_parse_one(part.strip()) for part in text.split(",") if part.strip()))

    @classmethod
    def seeded(cls, seed: int, rates: Mapping[FaultKind, float], *, kexecs: int = 8) -> FaultPlan:
        """The same plan for the same seed: each kind strikes each of the first `kexecs` calls
        with its rate (0 … 1), values at their defaults. Raises ValueError for another rate."""
        draw = random.Random(seed)  # noqa: S311 - a schedule of faults, no secret
        faults = []
        for at in range(1, kexecs + 1):
            for kind in sorted(rates):
                if not 0 <= rates[kind] <= 1:
                    raise ValueError(f"the rate of {kind} must be 0 … 1, not {rates[kind]}")
                if draw.random() < rates[kind]:
                    faults.append(Fault(kind, at))
        return cls(tuple(faults))

    def at(self, kind: FaultKind, n: int) -> Fault | None:
        """The first fault of this kind that strikes the n-th time, if any."""
        for fault in self.faults:
            if fault.kind is kind and fault.at in (None, n):
                return fault
        return None

    def hang(self, call: str, n: int) -> bool:
        """Does the n-th call of this name never return?"""
        return any(
            fault.kind is FaultKind.HANG and fault.value == call and fault.at in (None, n)
            for fault in self.faults
        )

    def added_s(self, phase: str, n: int) -> float:
        """Seconds to add to a phase ("shutdown", "purgatory" or "boot") of the n-th kexec."""
        slow = (FaultKind.SLOW, FaultKind(f"slow_{phase}"))
        return sum(f.seconds for f in self.faults if f.kind in slow and f.at in (None, n))

    def __str__(self) -> str:
        return ",".join(str(fault) for fault in self.faults)


def _parse_one(part: str) -> Fault:
    head, mark, at = part.partition("@")
    name, _, value = head.partition("=")
    try:
        kind = FaultKind(name.strip())
    except ValueError as cause:
        allowed = ", ".join(sorted(FaultKind))
        raise FaultSyntax(f"unknown fault {name!r}; known are {allowed}") from cause
    if mark and not at.strip().isdecimal():
        raise FaultSyntax(f"fault {part}: what follows @ must be a count")
    return Fault(kind, int(at) if mark else None, value.strip())
