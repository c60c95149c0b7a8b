"""What a node says of an update that would begin now: preflight's words, ahead of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from node_agent.core import commands as cmd
from node_agent.core.phases import Phase as P
from node_agent.errors import Retry
from node_agent.runtime import convert, readiness
from node_agent.runtime.readiness import not_ready
from tests.unit.runner.lab import Lab, Trouble
from tests.unit.runner.test_preflight_model import FACTS

ONLY = pytest.mark.kernels("sessions")
RFC2 = pytest.mark.kernels("notifier", "luo-driven")
BOOT = replace(FACTS.boot, coupling="notifier")


@ONLY
@pytest.mark.parametrize(
    ("changes", "registered", "reason", "fields"),
    [
        ({"luo_state": "prepared", "kho_finalized": True}, (), "LUO_NOT_NORMAL", ("prepared", "true")),
        ({"luo_state": "frozen", "kho_finalized": True}, (), "LUO_NOT_NORMAL", ("frozen", "true")),
        ({"luo_state": "updated"}, (), "LUO_NOT_NORMAL", ("updated", None)),
        ({"kho_finalized": True}, (), "KHO_FINALIZED", ("normal", "true")),
        ({}, (7,), "PRESERVED_BY_HAND", ("normal", None)),
        ({"poisoned": True}, (), "DEVICE_POISONED", ("normal", None)),
    ],
)
def test_it_is_what_preflight_would_say(
    changes: dict[str, Any], registered: tuple[int, ...], reason: str, fields: tuple[str, str | None]
) -> None:
    found = not_ready(replace(BOOT, **changes), registered)
    assert found is not None
    assert (found.reason, found.retry) == (reason, Retry.FIX_STATE)
    assert (found.fields["luo_state"], found.fields.get("kho_finalized")) == fields
    assert (found.fields["luo_model"], found.fields["coupling"]) == ("rfc-v2", "notifier")
    assert found.remedy


@ONLY
def test_a_normal_luo_is_ready_and_all_findings_are_told_at_once() -> None:
    assert not_ready(BOOT, ()) is None
    both = not_ready(replace(BOOT, luo_state="prepared"), (3, 4))
    assert both is not None
    assert both.fields["findings"] == "LUO_NOT_NORMAL,PRESERVED_BY_HAND"
    assert "luoctl cancel" in both.remedy
    assert "luoctl unpreserve" in both.remedy


@RFC2
async def test_it_follows_luo_at_rest_and_is_silent_in_an_attempt_of_the_orchestrators() -> None:
    async with Lab() as lab:
        runner = lab.runner
        hello = await runner.hello()
        assert (hello.status.not_ready, hello.other_luo) == (None, ("luo-v5",))
        assert list(convert.hello(hello).hello.other_luo) == ["luo-v5"]
        lab.luo.prepare()
        assert runner.status().not_ready is None, "nobody has looked"
        await runner.look()
        assert reason(lab) == "LUO_NOT_NORMAL"
        hello = await runner.hello()
        assert hello.status.not_ready == runner.status().not_ready
        lab.luo.cancel()
        await runner.look()
        assert reason(lab) == ""
        runner.submit(lab.prepare())
        await lab.reach(P.PRESERVED)
        assert str(lab.luo.state) == "prepared"
        await runner.look()
        assert reason(lab) == ""


@RFC2
async def test_an_attempt_that_luoctl_began_stands_in_the_way() -> None:
    async with Lab() as lab:
        lab.runner.submit(cmd.LocalPrepare("here", "n" * 64))
        await lab.reach(P.PRESERVED)
        await lab.runner.look()
        found = lab.runner.status().not_ready
        assert found is not None
        assert (found.reason, found.message) == (
            "ATTEMPT_UNDER_WAY",
            "attempt 1-local, which luoctl began, is under way",
        )
        lab.runner.submit(cmd.LocalCancel("undo"))
        await lab.reach(P.ABORTED)
        await lab.runner.look()
        assert reason(lab) == ""


@RFC2
async def test_a_kernel_that_fails_or_hangs_says_what_it_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Lab() as lab:
        lab.luo.prepare()
        await lab.runner.look()
        lab.luo.cancel()
        monkeypatch.setattr(readiness, "LOOK_S", 0.01)
        lab.troubles = [Trouble("kernel.facts", lab.calls["kernel.facts"] + 1, "before", "fail")]
        await lab.runner.look()
        assert reason(lab) == "LUO_NOT_NORMAL"
        lab.troubles = [Trouble("kernel.facts", lab.calls["kernel.facts"] + 1, "before", "hang")]
        async with asyncio.timeout(5):
            await lab.runner.look()
        assert reason(lab) == "LUO_NOT_NORMAL"
        await lab.runner.look()
        assert reason(lab) == ""


@ONLY
async def test_sessions_are_not_asked() -> None:
    async with Lab() as lab:
        asked = lab.calls["kernel.facts"]
        await lab.runner.look()
        assert (lab.calls["kernel.facts"], reason(lab)) == (asked, "")


def reason(lab: Lab) -> str:
    found = lab.runner.status().not_ready
    return found.reason if found is not None else ""
