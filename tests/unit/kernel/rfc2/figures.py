"""The figures of docs/rfc-v2.md: the same calls on a kernel of each coupling, and what they leave.

Each kernel has one file registered and one region of reserve_mem, which crosses as the coupling has it: as a
user of KHO's with the notifier, as a subsystem of LUO's where LUO alone drives KHO.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.debugfs import FINALIZE_PATH
from node_agent.kernel.emulated.rfc2.states import Coupling
from node_agent.kernel.faults import FaultPlan
from tests.unit.kernel.rfc2 import corebench
from tests.unit.kernel.rfc2.corebench import COUPLINGS, luo_of, rfc2_of

COMMAND_LINE = f"{corebench.COMMAND_LINE} reserve_mem=4K:4096:region"

Call = Callable[[LuoModel], object]


def prepare(model: LuoModel) -> object:
    return luo_of(model).prepare()


def freeze(model: LuoModel) -> object:
    return luo_of(model).freeze()


def cancel(model: LuoModel) -> object:
    return luo_of(model).cancel()


def finalize(model: LuoModel) -> object:
    return rfc2_of(model).debugfs_write(FINALIZE_PATH, "1")


def abort(model: LuoModel) -> object:
    return rfc2_of(model).debugfs_write(FINALIZE_PATH, "0")


def reboot(model: LuoModel) -> object:
    return model.freeze()


def update(model: LuoModel) -> object:
    prepare(model)
    return corebench.kexec(model, command_line=COMMAND_LINE)


def refused(call: Call) -> Call:
    """The same while a participant refuses it."""

    def refusing(model: LuoModel) -> object:
        model.faults = FaultPlan.parse("refuse_prepare=EIO,refuse_freeze=EIO")
        try:
            return call(model)
        finally:
            model.faults = FaultPlan()

    return refusing


IN_ONE_KERNEL: dict[str, tuple[Call, ...]] = {
    "PREPARE": (prepare,),
    "PREPARE, CANCEL": (prepare, cancel),
    "PREPARE that a subsystem refuses": (refused(prepare),),
    "finalize by hand": (finalize,),
    "finalize by hand, CANCEL": (finalize, cancel),
    "finalize by hand twice": (finalize, finalize),
    "PREPARE, abort by hand": (prepare, abort),
    "PREPARE, FREEZE": (prepare, freeze),
    "PREPARE, FREEZE that a subsystem refuses": (prepare, refused(freeze)),
    "… and then PREPARE": (prepare, refused(freeze), prepare),
    "… or CANCEL": (prepare, refused(freeze), cancel),
    "… or abort by hand": (prepare, refused(freeze), abort),
    "PREPARE, reboot without an image": (prepare, reboot),
}
OVER_A_KEXEC: dict[str, tuple[Call, ...]] = {
    "nothing": (),
    "PREPARE": (prepare,),
    "finalize by hand": (finalize,),
    "PREPARE, FREEZE that a subsystem refuses": (prepare, refused(freeze)),
    "… and then PREPARE": (prepare, refused(freeze), prepare),
    "an update that is not finished": (update,),
}


@contextmanager
def kernel(coupling: Coupling) -> Iterator[LuoModel]:
    model = corebench.node(
        coupling,
        command_line=COMMAND_LINE,
        reserve_mem="kho" if coupling is Coupling.NOTIFIER else "luo",
    )
    fd = corebench.memfd()
    luo_of(model).fd_preserve(fd)
    model.reserved.region("region").write(0, b"region")
    try:
        yield model
    finally:
        model.power_off()
        os.close(fd)


def answers(model: LuoModel, calls: tuple[Call, ...]) -> str:
    """The last call's: ok, or the errno's name."""
    said = ""
    for call in calls:
        try:
            call(model)
            said = "ok"
        except OSError as cause:
            said = name_of(cause)
    return said


def name_of(error: OSError) -> str:
    """EOPNOTSUPP has another name of the same number."""
    return errno.errorcode[error.errno or 0].replace("ENOTSUP", "EOPNOTSUPP")


def left(model: LuoModel) -> list[str]:
    """LUO's state, whether KHO is final, LUO's subtree, and how many things are kept."""
    rfc2 = rfc2_of(model)
    tree = "no"
    if "LUO" in rfc2.kho.tree:
        tree = "stale" if rfc2.state is corebench.NORMAL else "yes"
    return [str(rfc2.state), "yes" if rfc2.kho.finalized else "no", tree, str(len(rfc2.memory))]


def crossed(model: LuoModel) -> list[str]:
    """The next kernel's state, whether the file comes back, and whether the region's content did."""
    corebench.kexec(model, "6.16-next", COMMAND_LINE)
    luo = luo_of(model)
    state = str(luo.state)
    try:
        os.close(luo.fd_restore(0))
        file = "yes"
    except OSError as cause:
        file = name_of(cause)
    region = "yes" if model.reserved.region("region").read(0, 6) == b"region" else "no"
    return [state, file, region]


def in_one_kernel(calls: tuple[Call, ...]) -> Iterator[str]:
    for coupling in COUPLINGS:
        with kernel(coupling) as model:
            yield from (answers(model, calls), *left(model))


def over_a_kexec(calls: tuple[Call, ...]) -> Iterator[str]:
    for coupling in COUPLINGS:
        with kernel(coupling) as model:
            answers(model, calls)
            yield from crossed(model)


def table(
    first: str, columns: list[str], rows: dict[str, tuple[Call, ...]], of: Callable[..., Iterator[str]]
) -> str:
    """Markdown; the columns once for each coupling, of which the first names it."""
    heads = [name for coupling in COUPLINGS for name in (f"{coupling}: {columns[0]}", *columns[1:])]
    lines = [[first, *heads], ["---"] * (len(heads) + 1)]
    lines += [[name, *of(calls)] for name, calls in rows.items()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def tables() -> dict[str, str]:
    """By the name of its place in the page."""
    return {
        "in one kernel": table(
            "calls", ["answer", "LUO", "KHO final", "subtree", "kept"], IN_ONE_KERNEL, in_one_kernel
        ),
        "over a kexec": table("before the kexec", ["LUO", "file", "reserve_mem"], OVER_A_KEXEC, over_a_kexec),
    }
