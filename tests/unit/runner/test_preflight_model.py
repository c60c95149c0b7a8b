"""Preflight: no kexec into the other model of LUO, and nothing begins beside another update."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from node_agent.core import commands as cmd
from node_agent.core.phases import Phase
from node_agent.errors import Retry
from node_agent.kernel.emulated.image import EmulatedImage, ImageTable
from node_agent.kernel.luo_models import MODELS, RFC2_HANDLERS, others
from node_agent.ports import BootFacts, KhoFacts, LiveUpdateAbi, StagedArtifact
from node_agent.runtime.preflight import Facts, ahead, at_rest, findings
from tests.unit.runner.lab import NEW, Lab, Running, Trouble
from tests.unit.runner.test_preflight import ATTEMPT, GOOD, reasons
from tests.unit.runner.test_preflight import FACTS as MERGED

P = Phase
SEEDS = LiveUpdateAbi("kho-v1", "luo-v1", RFC2_HANDLERS)
BOOT = BootFacts(
    *("boot-a", "6.16.1", "", "model"),
    luo=True,
    emulated=True,
    kho=KhoFacts((), "kho-v1", "luo-v1", debugfs=True),
    luo_model="rfc-v2",
    luo_state="normal",
    coupling="notifier",
)
OLD = StagedArtifact("o" * 64, "6.16.1", "/old", "", GOOD, SEEDS)
NEWER = StagedArtifact("n" * 64, "7.3.4", "/new", "", GOOD, SEEDS)
FACTS = Facts(BOOT, NEWER, OLD)
ONLY = pytest.mark.kernels("sessions")


def boot(**changes: Any) -> Facts:
    return replace(FACTS, boot=replace(BOOT, **changes))


def new(abi: LiveUpdateAbi | None) -> Facts:
    return replace(FACTS, target=replace(NEWER, live_update=abi))


@ONLY
def test_a_node_with_rfc_v2_that_is_ready() -> None:
    assert reasons(findings(FACTS, ATTEMPT)) == reasons(ahead(FACTS)) == []
    assert reasons(at_rest(FACTS, whole=False)) == []


@ONLY
@pytest.mark.parametrize("emulated", [True, False])
def test_a_target_of_the_other_model_is_told_as_that_alone(emulated: bool) -> None:
    merged = replace(MERGED.target, init_bytes=0).live_update
    facts = new(merged)
    (found,) = ahead(replace(facts, boot=replace(BOOT, emulated=emulated)))
    assert (found.reason, found.retry) == ("TARGET_MODEL_DIFFERS", Retry.NEVER)
    assert found.message == (
        "the target's LUO is of the model sessions (luo-v5), this node's of rfc-v2: nothing that is "
        "preserved would cross"
    )
    assert found.remedy.startswith(
        "Drain this node and reboot it into the target, or pick a target of the same"
    )


@ONLY
def test_a_node_with_sessions_refuses_rfc_v2_and_else_is_as_it_was() -> None:
    seeds = replace(MERGED, target=replace(MERGED.target, live_update=SEEDS))
    assert reasons(ahead(seeds)) == ["TARGET_MODEL_DIFFERS"]
    silent = replace(MERGED, target=replace(MERGED.target, live_update=None))
    assert reasons(ahead(silent)) == ["TARGET_ABI_UNKNOWN"]
    later = replace(MERGED.target, live_update=LiveUpdateAbi("kho-v4", "luo-v6", {"memfd": "memfd-v2"}))
    assert reasons(ahead(replace(MERGED, target=later))) == ["TARGET_ABI_DIFFERS"]


@ONLY
@pytest.mark.parametrize(
    ("abi", "expected", "says"),
    [
        (None, ["TARGET_MODEL_UNKNOWN"], "does not say its LUO's model"),
        (replace(SEEDS, luo="luo-v77"), ["TARGET_MODEL_UNKNOWN"], "says luo-v77, a string of no model"),
        (replace(SEEDS, luo=""), ["TARGET_ABI_MISSING"], "the target kernel has no LUO"),
    ],
)
def test_on_rfc_v2_a_target_must_say_its_model(
    abi: LiveUpdateAbi | None, expected: list[str], says: str
) -> None:
    found = ahead(new(abi))
    assert reasons(found) == expected
    assert says in found[0].message


@ONLY
def test_and_so_must_the_way_back() -> None:
    silent = replace(FACTS, running=replace(OLD, live_update=None))
    assert reasons(findings(silent, ATTEMPT)) == ["ROLLBACK_MODEL_UNKNOWN"]
    assert reasons(at_rest(silent, whole=False)) == ["ROLLBACK_MODEL_UNKNOWN"]
    excused = replace(ATTEMPT, rollback_none=True)
    assert reasons(findings(silent, excused)) == []
    other = replace(FACTS, running=replace(OLD, live_update=replace(SEEDS, luo="luo-v5")))
    assert reasons(findings(other, ATTEMPT)) == ["ROLLBACK_ABI_DIFFERS"]


@ONLY
@pytest.mark.parametrize(
    ("changes", "expected", "remedy"),
    [
        ({"luo_state": "prepared", "kho_finalized": True}, "LUO_NOT_NORMAL", "luoctl cancel"),
        ({"luo_state": "frozen", "kho_finalized": True}, "LUO_NOT_NORMAL", "luoctl cancel"),
        ({"luo_state": "updated"}, "LUO_NOT_NORMAL", "luoctl finish"),
        ({"kho_finalized": True}, "KHO_FINALIZED", "cold"),
    ],
)
def test_an_attempt_finds_luo_as_it_must_be(changes: dict[str, Any], expected: str, remedy: str) -> None:
    for found in (findings(boot(**changes), ATTEMPT), at_rest(boot(**changes), whole=True)):
        assert reasons(found)[0] == expected
        assert remedy in found[0].remedy
    # Ahead of its turn another attempt may be under way.
    assert reasons(ahead(boot(**changes))) == []


@ONLY
def test_files_that_somebody_prepared_by_hand_are_told_at_once() -> None:
    """Mending it takes both: CANCEL, then giving each of them up."""
    by_hand = replace(boot(luo_state="prepared", kho_finalized=True), registered=(3, 4))
    assert reasons(findings(by_hand, ATTEMPT)) == ["LUO_NOT_NORMAL", "PRESERVED_BY_HAND"]
    assert reasons(findings(replace(FACTS, registered=(3,)), ATTEMPT)) == ["PRESERVED_BY_HAND"]


@ONLY
def test_what_hello_says_of_the_other_model_is_what_preflight_would_refuse() -> None:
    """The orchestrator warns by it; the table stays here."""
    for facts in (FACTS, MERGED):
        for luo in (*MODELS, "luo-v99"):
            abi = LiveUpdateAbi("kho-v0", luo, {})
            found = reasons(ahead(replace(facts, target=replace(NEWER, live_update=abi))))
            assert (luo in others(facts.boot)) == ("TARGET_MODEL_DIFFERS" in found), (
                luo,
                facts.boot.luo_model,
            )
    assert (others(FACTS.boot), others(MERGED.boot)) == (("luo-v5",), ("luo-v1",))
    # A house tree numbers as it likes: what the running kernel speaks is of its model.
    kho = FACTS.boot.kho
    assert kho is not None
    house = replace(FACTS.boot, kho=replace(kho, luo_abi="luo-v5"))
    assert others(house) == ()


# --- on a node


def merged_kernel() -> ImageTable:
    return ImageTable({NEW: EmulatedImage(NEW)}, otherwise=EmulatedImage.rfc2("", coupling=Running.kind))


RFC2 = pytest.mark.kernels("notifier", "luo-driven")


@RFC2
async def test_a_node_never_kexecs_into_the_other_model() -> None:
    async with Lab(images=merged_kernel()) as lab:
        lab.artifacts.says = MERGED.target.live_update
        assert await lab.update(rollback_none=True) is P.ABORTED
        assert lab.problem() == "TARGET_MODEL_DIFFERS"
        assert not any(lab.calls[call] for call in ("hooks.drain", "kernel.load", "kernel.create_session"))


@RFC2
async def test_who_went_on_in_spite_of_it_has_lost_the_memory_and_is_told_so() -> None:
    """What preflight is for: KHO ignores the tree of another version."""
    async with Lab(images=merged_kernel()) as lab:
        lab.artifacts.says = MERGED.target.live_update
        lab.runner.submit(cmd.LocalPrepare("here", "n" * 64, skip_preflight=True, rollback_none=True))
        await lab.reach(P.PRESERVED)
        lab.runner.submit(cmd.LocalKexec("go"))
        assert await lab.reach(P.COLD_BOOTED, P.QUARANTINED) is P.COLD_BOOTED
        assert lab.problem() == "STATE_LOST"


@RFC2
async def test_what_somebody_prepared_by_hand_is_left_to_them() -> None:
    async with Lab() as lab:
        luo = lab.luo
        luo.prepare()
        assert await lab.update() is P.ABORTED
        assert lab.problem() == "LUO_NOT_NORMAL"
        assert str(luo.state) == "prepared"
        assert lab.calls["hooks.drain"] == 0
        luo.cancel()
        assert await lab.update(2) is P.BAKING


@RFC2
async def test_an_update_that_is_not_finished_is_finished_first() -> None:
    """Finishing fails for good: the node is quarantined, and nothing is begun beside what is left."""
    troubles = [Trouble("kernel.finish", n, "before", "fail") for n in (1, 2, 3)]
    async with Lab(*troubles) as lab:
        assert await lab.update() is P.QUARANTINED
        luo = lab.luo
        assert str(luo.state) == "updated"
        assert await lab.update(2, operator_word=True) is P.QUARANTINED
        assert lab.problem() == "LUO_NOT_NORMAL"
        luo.finish()
        assert await lab.update(3, operator_word=True) is P.BAKING
