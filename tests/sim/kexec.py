"""A kexec that is not the agent's own: somebody loads a kernel and calls reboot, whatever is preserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node_agent.kernel.emulated.inprocess import InProcessKernel
from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.node import _End
from node_agent.kernel.faults import FaultKind
from node_agent.ports import KexecImage

if TYPE_CHECKING:
    from tests.sim.node import SimNode


def foreign(node: SimNode, release: str) -> None:
    """With whatever is preserved at this moment."""
    model, phase = node.emulated.model, node.phase
    if model.hangs("reboot") or model.faults.at(FaultKind.REFUSE_FREEZE, model.reboots + 1):
        return
    node.tell(f"somebody else calls kexec, to {release}, while the agent is {phase}")
    kernel = InProcessKernel(model, lambda: None, lambda: None)
    model.load(KexecImage(f"/kernels/{release}", "", "quiet", release))
    try:
        LuoModel.freeze(model)
    except OSError as refusal:
        node.tell(f"that is refused: {refusal}")
        node.world.story.count("foreign kexec refused")
        model.unload()
        return
    node.world.story.count("foreign kexec")
    node.world.story.count(f"foreign kexec in {phase}")
    node.vanishing = True
    node.go_on()
    node.world.checks.foreign(node)
    if node.emulated._kernel is not None:
        node.emulated._kernel.die(jumped=True)
    kernel.die(jumped=True)
    node.emulated._end(_End.KEXEC)
