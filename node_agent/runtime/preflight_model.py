"""Whether the target's LUO is of the running kernel's model, and LUO's one state as an update needs it. Pure.

Rules
1. A node never kexecs from one model of LUO into the other with preserved state: KHO ignores a tree of
   another version, or LUO panics on a subtree that it cannot read.
2. Of the two kernels' artifacts on a node with RFC v2 the model must be known; one with sessions asks for no
   more than the ABI strings (preflight_kernels).
3. State is for an attempt that begins, and for a node at rest: ahead of its turn another may be under way.

Source: luo_core.c and kexec_handover.c of RFC v2: luo_prepare() is for NORMAL only, and kho_finalize()
answers EEXIST where a freeze that failed has left KHO final; kho_abort() then fails in LUO's notifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from node_agent.errors import Retry
from node_agent.kernel.luo_models import RFC2, model_of
from node_agent.kernel.tokens import READY, UPDATED
from node_agent.ports import BootFacts, StagedArtifact
from node_agent.runtime.preflight_findings import Finding
from node_agent.runtime.preflight_kernels import TARGET, Side


def check_model(side: Side, artifact: StagedArtifact, boot: BootFacts) -> Iterator[Finding]:
    """Whether state can be handed over to, or taken from, this kernel at all."""
    abi = artifact.live_update
    luo = abi.luo if abi is not None else ""
    model = model_of(luo, boot)
    if not model:
        # One without LUO is told as such.
        if boot.luo_model == RFC2 and (abi is None or luo):
            said = (
                f"says {luo}, a string of no model that is known" if luo else "does not say its LUO's model"
            )
            yield Finding(
                f"{side.prefix}_MODEL_UNKNOWN",
                f"{side.name} {said}, and this node runs {boot.luo_model}",
                "Build the artifact again with its ABI strings: `liveroll artifact build --abi luo=luo-v1` "
                "for a kernel of RFC v2's model.",
                Retry.NEVER,
            )
    elif model != boot.luo_model and side is TARGET:
        yield Finding(
            "TARGET_MODEL_DIFFERS",
            f"the target's LUO is of the model {model} ({luo}), this node's of {boot.luo_model}: nothing "
            "that is preserved would cross",
            "Drain this node and reboot it into the target, or pick a target of the same model.",
            Retry.NEVER,
        )


def check_state(boot: BootFacts, registered: Sequence[int]) -> Iterator[Finding]:
    """Whether LUO and KHO are as an update finds them, where they have a state.

    Args:
        registered: tokens of files that are to be preserved, though no attempt has begun.
    """
    if boot.luo_state in READY:
        yield Finding(
            "LUO_NOT_NORMAL",
            f"LUO is {boot.luo_state}: another live update has begun",
            "Undo it with `luoctl cancel`.",
        )
    elif boot.luo_state == UPDATED:
        yield Finding(
            "LUO_NOT_NORMAL",
            "LUO is updated: the last live update is not finished",
            "Let whoever has files in it restore them, then end it with `luoctl finish`: it gives up what "
            "nobody has restored.",
        )
    elif boot.kho_finalized:
        yield Finding(
            "KHO_FINALIZED",
            "KHO is finalized though LUO is not prepared: a freeze that was refused has left it so",
            "Reboot the node in full (cold): this boot can prepare no other update.",
        )
    if registered:
        tokens = ", ".join(str(token) for token in registered)
        yield Finding(
            "PRESERVED_BY_HAND",
            f"LUO is to preserve files that are no workload's (tokens {tokens})",
            "See `luoctl list`, and give each of them up with `luoctl unpreserve TOKEN`.",
        )
