"""Group and mode of the broker's socket, from the settings to both sides of a kexec."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from node_agent.errors import SettingsError
from node_agent.resume import blackout
from node_agent.resume.handover import Handover
from node_agent.runtime import broker_listener
from node_agent.runtime.broker import Broker
from node_agent.settings import InvalidSettings
from node_agent.settings_load import load
from tests.unit.broker.support import running

OTHER = next(g for g in grp.getgrall() if g.gr_gid not in (0, os.getgid()))


def access(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_mode & 0o7777, found.st_gid


def settings(tmp_path: Path, text: str = "", **flags: object) -> tuple[int, int]:
    config = tmp_path / "agent.toml"
    config.write_text(text)
    made = load(config=config, environ={}, flags=flags)
    return made.broker_mode, made.broker_gid


def test_by_default_owner_and_group_and_the_group_is_left_alone(tmp_path: Path) -> None:
    assert settings(tmp_path) == (0o660, -1)


@pytest.mark.parametrize("group", [OTHER.gr_name, str(OTHER.gr_gid)])
@pytest.mark.parametrize("mode", ["0666", "600"])
def test_by_name_or_number_from_file_and_flag(tmp_path: Path, group: str, mode: str) -> None:
    wanted = (int(mode, 8), OTHER.gr_gid)
    assert settings(tmp_path, f'[broker]\ngroup = "{group}"\nmode = "{mode}"\n') == wanted
    assert settings(tmp_path, **{"broker.group": group, "broker.mode": mode}) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('mode = "0770"', "not the mode of a socket"),
        ('mode = "0060"', "not the mode of a socket"),
        ('mode = "1660"', "not the mode of a socket"),
        ('mode = "rw"', "not the mode of a socket"),
        ("mode = 432", "not a string"),
        ('group = "nobody-has-this"', "there is no group"),
        ("group = 4", "not a string"),
    ],
)
def test_what_makes_no_sense_is_a_violation(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        settings(tmp_path, f"[broker]\n{text}\n")
    (violation,) = caught.value.violations
    assert said in violation.problem
    assert violation.remedy


async def test_the_broker_gives_its_socket_away_before_anybody_can_connect(tmp_path: Path) -> None:
    path = str(tmp_path / "b.sock")
    async with running(Broker(path, socket_mode=0o666, socket_gid=OTHER.gr_gid)):
        assert access(path) == (0o666, OTHER.gr_gid)


def test_so_does_the_blackout_path(tmp_path: Path) -> None:
    path, handover = str(tmp_path / "b.sock"), Handover()
    assert blackout.listen(handover, path, 0o600, OTHER.gr_gid)
    assert access(path) == (0o600, OTHER.gr_gid)
    os.close(handover.listener_fd)


def test_a_group_that_it_may_not_give_to_is_said_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(SettingsError) as caught:
        broker_listener.listen(str(tmp_path / "b.sock"), 0o660, OTHER.gr_gid)
    assert caught.value.reason == "SOCKET_UNUSABLE"
    assert "SupplementaryGroups" in caught.value.remedy
