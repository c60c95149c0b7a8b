"""Settings: file, environment and flags; every violation at once."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from node_agent.app_emulated import luo_arguments
from node_agent.settings import (
    LUO_MODELS,
    AgentSettings,
    EmulatedKernel,
    InvalidSettings,
    is_loopback,
    split_address,
)
from node_agent.settings_load import certificate_names, load
from node_agent.simulate_kernels import MODELS


def read(
    tmp_path: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: object
) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load(config=path, environ=environ or {}, flags=flags)


def refused(
    tmp_path: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: object
) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        read(tmp_path, text, environ, **flags)
    assert caught.value.remedy
    assert all(v.remedy for v in caught.value.violations)
    assert list(caught.value.fields.values()) == [str(v) for v in caught.value.violations]
    return [f"{v.where}: {v.problem}" for v in caught.value.violations]


FULL = """
node_id = "n1"
state_dir = "/var/lib/x"
orchestrator = "127.0.0.1:7443"
kernel = "real"
[labels]
zone = "a"
[hooks.drain]
command = ["/usr/bin/drain", "--all"]
timeout_s = 30
[hooks.health]
command = ["/bin/true"]
[metrics]
listen = "127.0.0.1:9465"
[artifacts]
max_bytes = 1000
[log]
format = "json"
level = "debug"
"""


def test_how_a_real_node_jumps(tmp_path: Path) -> None:
    settings = read(tmp_path, 'kernel = "real"\n')
    assert (settings.quiesce, settings.clock_tsc) == ("freeze", "auto")
    assert settings.frozen_note == Path("/run/liveroll-agent/frozen")
    assert settings.resume_conf == Path("/var/lib/liveroll-agent/resume.conf")
    settings = read(tmp_path, 'quiesce = "sync"\n[clock]\ntsc = "off"\n')
    assert (settings.quiesce, settings.clock_tsc) == ("sync", "off")
    told = refused(tmp_path, "", {"LIVEROLL_AGENT_CLOCK_TSC": "maybe"}, quiesce="thaw")
    assert told == [
        "--quiesce: 'thaw' is none of freeze, sync",
        "LIVEROLL_AGENT_CLOCK_TSC: 'maybe' is none of auto, trust, off",
    ]


def test_a_whole_file(tmp_path: Path) -> None:
    settings = read(tmp_path, FULL)
    assert settings.node_id == "n1"
    assert dict(settings.labels) == {"zone": "a"}
    assert settings.hooks["drain"].argv == ("/usr/bin/drain", "--all")
    assert (settings.hooks["drain"].timeout_s, settings.hooks["health"].timeout_s) == (30.0, 60.0)
    assert settings.metrics_listen == "127.0.0.1:9465"
    assert settings.artifacts_max_bytes == 1000
    assert settings.broker_socket == Path("/run/luod/liveupdate.sock")
    assert settings.journal == Path("/var/lib/x/journal")
    assert settings.artifacts_dir == Path("/var/lib/x/artifacts")


def test_an_emulated_node_keeps_off_the_machines_own_sockets(tmp_path: Path) -> None:
    settings = read(tmp_path, state_dir=str(tmp_path))
    assert settings.broker_socket == tmp_path / "liveupdate.sock"
    assert settings.control_socket == tmp_path / "control.sock"
    assert settings.root == tmp_path / "root"


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    environ = {"LIVEROLL_AGENT_NODE_ID": "from-env", "LIVEROLL_AGENT_LABELS": "zone=b,rack=r1", "HOME": "/"}
    settings = read(tmp_path, FULL, environ)
    assert settings.node_id == "from-env"
    assert dict(settings.labels) == {"zone": "b", "rack": "r1"}
    settings = read(tmp_path, FULL, environ, node_id="from-flag", labels=["zone=c"], orchestrator=None)
    assert settings.node_id == "from-flag"
    assert dict(settings.labels) == {"zone": "c"}
    assert settings.orchestrator == ("127.0.0.1:7443",)


def test_several_orchestrators_as_a_list_or_with_commas(tmp_path: Path) -> None:
    three = ("127.0.0.1:1", "[::1]:2", "localhost:3")
    listed = read(tmp_path, 'orchestrator = ["127.0.0.1:1", "[::1]:2", "localhost:3", "127.0.0.1:1"]\n')
    assert listed.orchestrator == three
    assert read(tmp_path, 'orchestrator = "127.0.0.1:1, [::1]:2,localhost:3"\n').orchestrator == three
    environ = {"LIVEROLL_AGENT_ORCHESTRATOR": "127.0.0.1:1,[::1]:2,localhost:3"}
    assert read(tmp_path, "", environ).orchestrator == three
    assert read(tmp_path, "", orchestrator="127.0.0.1:1,[::1]:2,localhost:3").orchestrator == three
    assert read(tmp_path, "orchestrator = []\n").orchestrator == ()
    assert refused(tmp_path, 'orchestrator = ["127.0.0.1:1", "nowhere", "example.org:3"]\n') == [
        f"{tmp_path}/agent.toml: orchestrator: 'nowhere' is not host:port",
        f"{tmp_path}/agent.toml: orchestrator: nowhere is not on loopback and there is no [tls]",
        f"{tmp_path}/agent.toml: orchestrator: example.org:3 is not on loopback and there is no [tls]",
    ]
    assert refused(tmp_path, "orchestrator = 7\n") == [
        f"{tmp_path}/agent.toml: orchestrator: 7 is not a list of addresses"
    ]


def test_a_missing_default_file_is_no_violation_and_a_named_one_is(tmp_path: Path) -> None:
    assert load(environ={}, flags={"state_dir": str(tmp_path)}).state_dir == tmp_path
    with pytest.raises(InvalidSettings, match="1 violation"):
        load(config=tmp_path / "nowhere.toml", environ={})


def test_every_violation_at_once_each_with_its_place(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        """
node_id = "No Spaces"
orchestrator = "example.org:7443"
kernel = "mach"
colour = "red"
state_dir = 7
labels = 3
hooks = 5
[log]
level = "chatty"
colour = 1
[metrics]
listen = "nowhere"
[artifacts]
max_bytes = -1
running = "/nonexistent"
""",
        {"LIVEROLL_AGENT_NODEID": "x"},
    )
    text = "\n".join(found)
    for part in (
        "node_id: 'No Spaces'",
        "orchestrator: example.org:7443 is not on loopback",
        "kernel: 'mach'",
        "colour: is not a setting",
        "state_dir: 7 is not a path",
        "labels: 3 is not a table",
        "hooks: is not a table",
        "log.level: 'chatty'",
        "log.colour: is not a setting",
        "metrics.listen: 'nowhere' is not host:port",
        "artifacts.max_bytes: -1",
        "artifacts.running: /nonexistent holds no manifest.json",
        "LIVEROLL_AGENT_NODEID: is not a setting",
    ):
        assert part in text
    assert len(found) == 13
    assert str(tmp_path / "agent.toml") in found[0]


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        ('[hooks.drain]\ncommand = "rm -rf /"', "is not a list of words"),
        ("[hooks.drain]\ncommand = []", "is not a list of words"),
        ("[hooks.drain]\ntimeout_s = 5", "is not a list of words"),
        ('[hooks.drain]\ncommand = ["drain"]', "is not an absolute path"),
        ('[hooks.drain]\ncommand = ["/d"]\ntimeout_s = 0', "is not within"),
        ('[hooks.drain]\ncommand = ["/d"]\ntimeout_s = true', "is not within"),
        ('[hooks.drain]\ncommand = ["/d"]\nshell = true', "is not {command, timeout_s}"),
        ('[hooks.dran]\ncommand = ["/d"]', "is not a setting"),
    ],
)
def test_a_hook_that_cannot_work(tmp_path: Path, hook: str, problem: str) -> None:
    assert problem in refused(tmp_path, hook)[0]


def test_hooks_come_from_the_file_only(tmp_path: Path) -> None:
    assert "is not a setting" in refused(tmp_path, environ={"LIVEROLL_AGENT_HOOKS_DRAIN": "/bin/x"})[0]


def test_what_becomes_of_a_workload_that_cannot_be_preserved(tmp_path: Path) -> None:
    assert read(tmp_path).unpreservable == "refuse"
    command = '[hooks.drain_workload]\ncommand = ["/d"]'
    asked = read(tmp_path, '[broker]\nunpreservable = "drain"\n' + command)
    assert (asked.unpreservable, asked.hooks["drain_workload"].argv) == ("drain", ("/d",))
    (alone,) = refused(tmp_path, '[broker]\nunpreservable = "drain"')
    assert "needs a command that drains one workload" in alone
    assert "is none of refuse, drain" in refused(tmp_path, '[broker]\nunpreservable = "no"')[0]


@pytest.mark.parametrize("text", ["a = ", "\x00", "[labels"])
def test_what_is_not_toml(tmp_path: Path, text: str) -> None:
    assert "is not TOML" in refused(tmp_path, text)[0]


def test_what_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings) as caught:
        load(config=path, environ={})
    assert "cannot be read" in caught.value.violations[0].problem


def test_labels_that_no_orchestrator_would_take(tmp_path: Path) -> None:
    found = refused(tmp_path, labels=["zone", "-x=1", f"a={'b' * 64}"])
    assert len(found) == 3
    assert len(refused(tmp_path, '[labels]\nzone = 3\n"b d" = "x"')) == 2


def test_a_socket_path_too_long_to_bind(tmp_path: Path) -> None:
    found = refused(tmp_path, state_dir="/" + "x" * 120)
    assert [f.split(":")[0] for f in found] == ["broker.socket", "control.socket"]


def test_tls_files_come_together_and_must_be_readable(tmp_path: Path) -> None:
    found = refused(tmp_path, **{"tls.ca": str(tmp_path / "ca.pem")})
    assert found == [
        f"--tls-ca: {tmp_path / 'ca.pem'} cannot be read",
        "tls.certificate: is missing",
        "tls.key: is missing",
    ]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", "key.pem", "-out", "cert.pem", "-days", "1", "-subj", "/CN=someone"),
            *("-addext", "subjectAltName=URI:spiffe://liveroll/agent/n1,DNS:n1.example.org"),
        ],
        cwd=directory,
        check=True,
        capture_output=True,
    )
    return directory


def test_the_node_id_must_be_the_certificates(tmp_path: Path, certificate: Path) -> None:
    assert certificate_names(certificate / "cert.pem") == {"someone", "n1", "n1.example.org"}
    tls = {
        "tls.ca": str(certificate / "cert.pem"),
        "tls.certificate": str(certificate / "cert.pem"),
        "tls.key": str(certificate / "key.pem"),
    }
    settings = read(tmp_path, node_id="n1", orchestrator="example.org:7443", **tls)
    assert settings.tls is not None
    assert "is not whom" in refused(tmp_path, node_id="n2", **tls)[0]
    tls["tls.certificate"] = str(certificate / "key.pem")
    assert "is not a PEM certificate" in refused(tmp_path, node_id="n1", **tls)[0]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("nonsense", False),
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize("address", ["", ":1", "a", "a:", "a:b", "a:65536", "a:-1", "::1:1", "[::1:1", "a:١"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValueError):
        split_address(address)


@pytest.mark.parametrize("value", ["x", -1, True, 1e9, "nan"])
def test_an_emulated_kexec_takes_a_sensible_time(tmp_path: Path, value: object) -> None:
    assert refused(tmp_path, **{"emulated.kexec_s": value})[0].startswith("--kexec-s: ")


def test_emulated_faults_are_read_before_anything_starts(tmp_path: Path) -> None:
    assert "unknown fault" in refused(tmp_path, **{"emulated.faults": "explode"})[0]
    settings = read(tmp_path, **{"emulated.faults": "panic@1", "emulated.services": ["/bin/true"]})
    assert (settings.emulated.faults, settings.emulated.services) == ("panic@1", ("/bin/true",))
    assert "is not a list of commands" in refused(tmp_path, **{"emulated.services": [""]})[0]


def test_an_emulated_node_is_of_either_model_of_luo(tmp_path: Path) -> None:
    assert read(tmp_path).emulated.luo_model == "sessions"
    said = {
        "emulated.luo_model": "rfc-v2/notifier",
        "emulated.kho_debugfs": "off",
        "emulated.reserve_mem": "kho",
        "emulated.auto_preserve": ["ftrace", "pstore"],
    }
    emulated = read(tmp_path, **said).emulated
    assert (emulated.luo_model, emulated.kho_debugfs) == ("rfc-v2/notifier", "off")
    assert (emulated.reserve_mem, emulated.auto_preserve) == ("kho", ("ftrace", "pstore"))
    words = {"emulated.command_line_append": "reserve_mem=1M:4096:cache"}
    assert read(tmp_path, **words).emulated.command_line_append == "reserve_mem=1M:4096:cache"
    assert set(LUO_MODELS) == set(MODELS)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (
            {"emulated.luo_model": "rfc-v3"},
            "--luo-model: 'rfc-v3' is none of sessions, rfc-v2, rfc-v2/luo-driven, rfc-v2/notifier",
        ),
        (
            {"emulated.luo_model": "rfc-v2", "emulated.kho_debugfs": "maybe"},
            "--kho-debugfs: 'maybe' is none of on, off",
        ),
        (
            {"emulated.luo_model": "rfc-v2", "emulated.reserve_mem": "both"},
            "--reserve-mem: 'both' is none of luo, kho",
        ),
        (
            {"emulated.luo_model": "rfc-v2", "emulated.auto_preserve": 3},
            "--auto-preserve: 3 is not a list of names",
        ),
        (
            {"emulated.auto_preserve": ["ftrace"]},
            "--auto-preserve: the model sessions has none",
        ),
        (
            {"emulated.luo_model": "sessions", "emulated.kho_debugfs": "off"},
            "--kho-debugfs: the model sessions has none",
        ),
    ],
)
def test_what_no_model_of_luo_has_is_refused(tmp_path: Path, said: dict[str, object], problem: str) -> None:
    assert refused(tmp_path, **said) == [problem]


def test_the_kernel_gets_its_model_as_arguments() -> None:
    def words(**said: Any) -> list[str]:
        return luo_arguments(EmulatedKernel(**said))

    assert words() == ["--luo-model", "sessions"]
    assert words(luo_model="rfc-v2")[:4] == ["--luo-model", "rfc-v2", "--coupling", "luo-driven"]
    assert words(luo_model="rfc-v2/notifier", auto_preserve=("ftrace",))[2:] == [
        *("--coupling", "notifier", "--kho-debugfs", "on", "--reserve-mem", "luo"),
        *("--auto-preserve", "ftrace"),
    ]
