"""docs/luo-models.md states what each step of the saga asks of the kernel: kernels are asked just that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node_agent.core.phases import Phase
from node_agent.kernel.luo_calls import BOOT, CLOSE, STEPS, table
from node_agent.kernel.luo_models import MODELS
from tests.unit.runner.lab import Lab, Running, Trouble

P = Phase
PAGE = Path(__file__).resolve().parents[3] / "docs" / "luo-models.md"

SPOKEN = {
    "load": "kexec_file_load",
    "unload": "kexec_file_load(UNLOAD)",
    "reboot": "reboot(KEXEC)",
    "create_session": "CREATE_SESSION",
    "retrieve_session": "RETRIEVE_SESSION",
    "preserve_fd": "PRESERVE_FD",
    "retrieve_fd": "RETRIEVE_FD",
    "fd_preserve": "FD_PRESERVE",
    "fd_unpreserve": "FD_UNPRESERVE",
    "fd_restore": "FD_RESTORE",
    "prepare": "PREPARE",
    "cancel": "CANCEL",
}
"""A call as the emulated kernel counts it → as the table has it. `finish` is either's."""
NO_EFFECT = {"open_device", "get_state"}


@contextmanager
def listening(lab: Lab) -> Iterator[dict[str, list[str]]]:
    """State → what was called in it, each call where it was first made."""
    model: Any = lab.node.model
    heard: dict[str, list[str]] = {}
    boot = model.boot_id

    def hear(call: str) -> None:
        state = lab.phase.value
        if state == "JUMPING" and model.boot_id != boot:
            state = BOOT
        calls = heard.setdefault(state, [])
        if call not in calls:
            calls.append(call)

    hangs, close = model.hangs, model.close

    def counted(call: str) -> Any:
        if call not in NO_EFFECT:
            finish = "FINISH" if model.rfc2 is not None else "SESSION_FINISH"
            hear(finish if call == "finish" else SPOKEN[call])
        return hangs(call)

    def closed(session: Any) -> None:
        hear(CLOSE)
        close(session)

    model.hangs, model.close = counted, closed
    yield heard
    model.hangs, model.close = hangs, close


def expected(*states: str) -> dict[str, list[str]]:
    kind = "sessions" if Running.kind == "sessions" else "rfc2"
    found = {step.state: list(getattr(step, kind)) for step in STEPS if step.state in states or not states}
    return {state: calls for state, calls in found.items() if calls}


async def test_a_whole_update_asks_what_the_table_says() -> None:
    async with Lab() as lab:
        with listening(lab) as heard:
            assert await lab.update() is P.BAKING
        whole = expected()
        del whole["UNWINDING"]
        assert heard == whole


async def test_an_unwinding_asks_what_the_table_says() -> None:
    async with Lab(Trouble("workloads.suspend", 1, "after", "fail")) as lab:
        with listening(lab) as heard:
            assert await lab.update() is P.ABORTED
        assert heard == expected("LOADING", "PRESERVING", "UNWINDING")


@pytest.mark.kernels("sessions")
def test_every_state_of_an_attempt_is_in_the_table() -> None:
    settled = {P.IDLE, P.COMMITTED, P.ABORTED, P.AWAITING_ROLLBACK, P.QUARANTINED, P.COLD_BOOTED}
    assert {step.state for step in STEPS} - {BOOT} == {phase.value for phase in P} - {
        p.value for p in settled
    }


@pytest.mark.kernels("sessions")
def test_the_page_has_the_table() -> None:
    assert table() in PAGE.read_text(), "put in what `python -m node_agent.kernel.luo_calls` prints"


@pytest.mark.kernels("sessions")
def test_the_page_has_the_strings_that_tell_the_models() -> None:
    rows = "".join(f"| `{luo}` | `{model}` |\n" for luo, model in MODELS.items())
    assert f"| string | model |\n|---|---|\n{rows}" in PAGE.read_text()
