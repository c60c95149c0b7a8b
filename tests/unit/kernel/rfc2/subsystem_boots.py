"""Kernels of RFC v2's time, booted and kexec'd by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.emulated.model import Jump, LuoModel, Machine
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.luo import Luo
from node_agent.kernel.faults import FaultPlan
from node_agent.ports import KexecImage

ON = "kho=on liveupdate=on"
KHO_ONLY = "kho=on liveupdate=off"


def boot(
    command_line: str = ON,
    *,
    faults: str = "",
    memory_bytes: int = 0,
    others: tuple[EmulatedImage, ...] = (),
    **properties: Any,
) -> LuoModel:
    """A node whose kernels all have these properties, but for the `others`, known by release."""
    numbers = itertools.count(1)
    image = EmulatedImage.rfc2("6.16", **properties)
    return LuoModel(
        image,
        new_boot_id=lambda: f"boot-{next(numbers)}",
        command_line=command_line,
        images=ImageTable({other.release: other for other in others}, otherwise=image),
        faults=FaultPlan.parse(faults),
        machine=Machine(memory_bytes=memory_bytes),
    )


def kexec(
    model: LuoModel, command_line: str | None = None, *, release: str = "6.17", legacy: bool = False
) -> None:
    """reboot(KEXEC), as far as the next kernel's first process; the command line stays if None."""
    words = model.facts().command_line if command_line is None else command_line
    model.load(KexecImage("", "", words, release), legacy=legacy)
    model.freeze()
    assert model.jump() == Jump(arrived=True)
    model.arrive()


def rfc2(model: LuoModel) -> Rfc2:
    """What this boot has of KHO and LUO."""
    assert model.rfc2 is not None
    return model.rfc2


def luo(model: LuoModel) -> Luo:
    return rfc2(model).the_luo("test")


@contextmanager
def raises(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number
