"""Settings: where they come from, and that nothing insecure starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.spec import Amount
from orchestrator.errors import SettingsError
from orchestrator.settings import load


def test_defaults_are_loopback_and_sqlite() -> None:
    settings = load(None, {}, {})
    assert settings.operators.is_loopback()
    assert settings.store_url == "sqlite+aiosqlite:////var/lib/liveroll/liveroll.db"
    assert settings.fleet.policy().max_unavailable is None


def test_flags_go_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "o.toml"
    file.write_text('state_dir = "/a"\nlog_level = "debug"\n[fleet]\nmax_unavailable = "5%"\n')
    settings = load(
        file, {"state_dir": "/c"}, {"LIVEROLL_STATE_DIR": "/b", "LIVEROLL_AGENTS__ADDRESS": "127.0.0.1:1"}
    )
    assert settings.state_dir == Path("/c")
    assert settings.log_level == "debug"
    assert settings.agents.port == 1
    assert settings.fleet.policy().max_unavailable == Amount(percent=5)


def test_the_clis_own_variables_are_not_ours() -> None:
    load(None, {}, {"LIVEROLL_SERVER": "host:1"})


@pytest.mark.parametrize("port", ["operators", "agents", "http"])
def test_plaintext_beyond_loopback_is_refused(port: str) -> None:
    with pytest.raises(SettingsError, match="is not loopback and has no tls"):
        load(None, {f"{port}.address": "0.0.0.0:7000"}, {})


def test_a_port_for_all_without_a_client_authority_is_refused(tmp_path: Path) -> None:
    for name in ("c", "k"):
        (tmp_path / name).write_text("pem")
    tls = {"agents.address": "0.0.0.0:1", "agents.tls.cert": tmp_path / "c", "agents.tls.key": tmp_path / "k"}
    with pytest.raises(SettingsError, match=r"agents\.tls\.ca"):
        load(None, tls, {})


def test_all_violations_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            None,
            {"log_level": "loud", "operators.address": "nowhere", "fleet.max_staging": 0, "unknown": 1},
            {},
        )
    for word in ("log_level", "operators.address", "fleet.max_staging", "unknown"):
        assert word in caught.value.message


@pytest.mark.parametrize("value", ["0%", "101%", "many", -1])
def test_bad_amounts(value: object) -> None:
    with pytest.raises(SettingsError, match="max_unavailable"):
        load(None, {"fleet.max_unavailable": value}, {})


def test_unreadable_and_malformed_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read"):
        load(tmp_path / "absent", {}, {})
    bad = tmp_path / "bad.toml"
    bad.write_text("= 1")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(bad, {}, {})
