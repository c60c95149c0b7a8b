"""The composition of a real node, as far as it does not touch this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import pytest

from node_agent import app, app_real
from node_agent.errors import JournalLocked, SettingsError
from node_agent.ports import BootChoice, BootFacts
from node_agent.resume import bundle, parameters
from node_agent.runtime.mounts import Mount
from node_agent.runtime.quiesce_marker import Marker
from node_agent.settings import AgentSettings, HookCommand
from node_agent.workloads.default_kernel import HookDriver, NoDriver
from node_agent.workloads.hooks import CommandHooks

FACTS = BootFacts("boot-1", "7.2.13", "kho=on", "r640", luo=True)


class Said:
    """A log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, what: str, **_fields: object) -> None:
        self.lines.append(what)


def settings(directory: Path, **more: Any) -> AgentSettings:
    run = directory / "run"
    run.mkdir(exist_ok=True)
    return AgentSettings(
        node_id="n1",
        state_dir=directory / "state",
        kernel="real",
        broker_socket=run / "liveupdate.sock",
        broker_mode=0o666,
        control_socket=run / "control.sock",
        **more,
    )


def test_what_the_blackout_path_must_know_is_written_down(tmp_path: Path) -> None:
    said = Said()
    app_real.note_for_resume(settings(tmp_path), cast(Any, said))
    read = parameters.read(str(tmp_path / "state/resume.conf"))
    assert read is not None
    assert (read.journal, read.mode) == (str(tmp_path / "state/journal"), 0o666)
    assert said.lines == ["the state directory is not the usual one: every kernel must be told of it"]


def test_a_state_directory_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(SettingsError) as caught:
        app_real.note_for_resume(settings(tmp_path), cast(Any, Said()))
    assert caught.value.reason == "STATE_DIR"


def test_the_bundle_is_written_where_the_early_init_looks_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    app_real.bundle_early_init(settings(tmp_path), cast(Any, Said()))
    assert list((tmp_path / "state").iterdir()) == []
    wrote: list[bool] = []
    monkeypatch.setattr(bundle, "BUNDLE", str(tmp_path / "state/resume.bundle"))
    monkeypatch.setattr(bundle, "write", lambda: wrote.append(True))
    app_real.bundle_early_init(settings(tmp_path), cast(Any, Said()))
    assert wrote == [True]

    def full() -> None:
        raise OSError(28, "No space left on device")

    said = Said()
    monkeypatch.setattr(bundle, "write", full)
    app_real.bundle_early_init(settings(tmp_path), cast(Any, said))
    assert said.lines == ["no bundle for the early init"]


@pytest.mark.parametrize(
    ("root", "facts", "word"),
    [
        (False, FACTS, "not root"),
        (
            True,
            BootFacts("b", "r", "", "m", luo=False, poisoned=True),
            "/dev/liveupdate answers EIO in this boot",
        ),
        (True, BootFacts("b", "r", "", "m", luo=False), "this kernel takes part in no live update"),
    ],
)
def test_what_is_missing_is_said_at_the_start(
    root: bool, facts: BootFacts, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    said = Said()
    app_real.warn_of_what_is_missing(settings(tmp_path), facts, cast(Any, said))
    assert said.lines == [word, "nothing says what a cold boot starts"]


def test_a_node_that_has_everything_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said = Said()
    hooks = {"set_default_kernel": HookCommand(("/bin/true",), 1.0)}
    app_real.warn_of_what_is_missing(settings(tmp_path, hooks=hooks), FACTS, cast(Any, said))
    assert said.lines == []


async def test_what_a_dead_agent_left_frozen_is_thawed_before_the_journal_is_opened(tmp_path: Path) -> None:
    node = settings(tmp_path)
    await app_real.thaw_left_over(node, "boot-1")  # there is nothing
    marker = Marker(node.frozen_note, "boot-1")
    marker.write([Mount(2**31, "/nowhere")])
    with pytest.raises(JournalLocked):
        await app_real.thaw_left_over(node, "boot-1")
    os.close(marker._fd)  # its author's last thread is gone
    async with asyncio.timeout(20):
        while node.frozen_note.exists():
            await asyncio.sleep(0)
    await app_real.thaw_left_over(node, "boot-1")


async def test_a_note_whose_author_is_gone_is_dealt_with_at_once(tmp_path: Path) -> None:
    node = settings(tmp_path)
    marker = Marker(node.frozen_note, "boot-1")
    marker.write([])
    os.close(marker._fd)
    await app_real.thaw_left_over(node, "boot-1")
    assert not node.frozen_note.exists()


def test_which_counter_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def open_tsc(*, trust: bool = False) -> Any:
        asked.append(trust)
        return (lambda: 7) if trust else None

    monkeypatch.setattr("node_agent.kernel.tsc.open_tsc", open_tsc)
    assert [app_real.tsc_reader(choice)() for choice in ("auto", "trust", "off")] == [0, 7, 0]
    assert asked == [False, True]


async def test_the_command_that_changes_the_default_is_told_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = "HOOK ARTIFACT RELEASE KERNEL INITRD COMMAND_LINE"
    script = f"for n in {names}; do eval echo \\$LIVEROLL_$n; done >{out}"
    hooks = CommandHooks({"set_default_kernel": HookCommand(("/bin/sh", "-c", script), 20.0)})
    driver = app_real._default_kernel(hooks)
    assert isinstance(driver, HookDriver)
    await driver.choose(BootChoice("d1", "7.3.4", "/k", "", "kho=on quiet"))
    assert out.read_text().splitlines() == ["set_default_kernel", "d1", "7.3.4", "/k", "", "kho=on quiet"]
    nothing = app_real._default_kernel(CommandHooks({}))
    assert isinstance(nothing, NoDriver)
    await nothing.choose(BootChoice("d1", "7.3.4", "/k", "", ""))


def test_an_emulated_node_is_not_started_over_a_real_ones_state(tmp_path: Path) -> None:
    class Handed:
        attempt, parked = "a1", ()

    node = AgentSettings(node_id="n1", state_dir=tmp_path)
    with pytest.raises(SettingsError) as caught:
        app.run(node, arguments=[], handover=cast(Any, Handed()))
    assert caught.value.reason == "REAL_NODE"
