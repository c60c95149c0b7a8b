"""The command lines as a person meets them: real processes, exit codes, no tracebacks."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from node_agent.cli import build_parser, exit_code
from node_agent.errors import AgentError, LinkError, SettingsError
from node_agent.luoctl import build_parser as luoctl_parser
from node_agent.luoctl import main as luoctl


def agent(*arguments: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node_agent.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **(environ or {})},
    )


@pytest.mark.parametrize("verb", [[], ["run"], ["simulate"], ["completion"]])
def test_help_teaches(verb: list[str]) -> None:
    done = agent(*verb, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: liveroll-agent" in done.stdout
    if verb in ([], ["simulate"]):
        assert "examples:" in done.stdout


def test_version_and_completion() -> None:
    assert agent("version").stdout.startswith("liveroll-agent ")
    script = agent("completion", "bash").stdout
    assert "complete -o default -F _liveroll_agent liveroll-agent" in script
    assert "--nodes" in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["required: COMMAND"]),
        (["dance"], ["invalid choice"]),
        (["simulate"], ["--nodes"]),
        (["simulate", "--nodes", "0"], ["--nodes: 0 is not within 1", "--orchestrator: is missing"]),
        (
            [
                *("simulate", "--nodes", "2", "--orchestrator", "example.org:1", "--prefix", "A B"),
                *("--faults", "node-09=panic", "--faults", "x", "--image", "7.4=ugly", "--zones", "0"),
                *("--releases", ",", "--label", "zone", "--mib", "-1", "--tls-ca", "x"),
            ],
            [
                *(
                    "--prefix",
                    "--faults: 'node-09=panic'",
                    "--faults: 'x'",
                    "--image",
                    "--zones",
                    "--releases",
                ),
                *("--label", "--mib", "--tls-key: is missing", "--tls-certificate: is missing"),
            ],
        ),
        (
            ["simulate", "--nodes", "2", "--orchestrator", "example.org:1", "--faults", "*=explode"],
            ["not on loopback", "unknown fault 'explode'"],
        ),
        (["run", "--config", "/nonexistent.toml"], ["there is no such file"]),
        (["run", "--node-id", "Not Me", "--orchestrator", "x"], ["--node-id", "--orchestrator: 'x'"]),
    ],
)
def test_bad_input_is_named_with_its_remedy_and_ends_with_2(arguments: list[str], words: list[str]) -> None:
    done = agent(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_directory_that_cannot_be_made() -> None:
    done = agent("run", "--state-dir", "/proc/nowhere", "--node-id", "n1")
    assert done.returncode == 4
    assert "cannot make /proc/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_orchestrator_that_is_not_there_is_one_line_and_6() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "node_agent.cli", "simulate", "--nodes", "3"),
                *("--orchestrator", address, "--log-level", "warning"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.stderr.close()
    assert process.wait(30) == 6
    assert "no link yet" in line
    assert "cannot reach the orchestrator" in line
    assert f"no node ever reached the orchestrator at {address} [UNREACHABLE]" in rest
    assert len(rest.splitlines()) == 2, "the fault and its remedy"


def test_exit_codes_of_expected_errors() -> None:
    assert exit_code(SettingsError("x")) == 2
    assert exit_code(LinkError("x", reason="UNREACHABLE")) == 6
    assert exit_code(LinkError("x", reason="NODE_ID_CONFLICT")) == 7
    assert exit_code(AgentError("x")) == 4


def test_start_up_is_light() -> None:
    """Neither help nor the way to the first Hello may import what only metrics and rollouts need."""
    code = (
        "import sys, node_agent.cli as c, node_agent.app, node_agent.settings_load;"
        "import node_agent.runtime.supervisor, node_agent.runtime.link_grpc, node_agent.app_control;"
        "import node_agent.runtime.broker, node_agent.runtime.artifacts;"
        "c.build_parser();"
        "print(*[m for m in ('pydantic','aiohttp','prometheus_client','structlog','tenacity','sqlalchemy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_command_line_itself_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import node_agent.cli; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"__future__", "node_agent", "node_agent.cli"}


def test_luoctl_imports_what_its_verb_needs(tmp_path: Path) -> None:
    """Of what a few verbs need: files are preserve's and restore's."""
    code = (
        "import sys; before = set(sys.modules); from node_agent.luoctl import main;"
        "main(['--socket', sys.argv[1], *sys.argv[2:]]); print(*(set(sys.modules) - before))"
    )
    rare = {"tempfile", "node_agent.luoctl_files", "node_agent.luoctl_completion"}
    for verb, needed in {
        "status": set(),
        "story": set(),
        "preserve --memfd /dev/null": {"tempfile", "node_agent.luoctl_files"},
        "completion bash": {"node_agent.luoctl_completion"},
    }.items():
        asked = [sys.executable, "-I", "-c", code, str(tmp_path / "no.sock"), *verb.split()]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert set(done.stdout.splitlines()[-1].split()) & rare == needed, verb


def test_luoctl_without_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "control.sock"
    assert luoctl(["--socket", str(path), "status"]) == 6
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert str(path) in said
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert luoctl(["--socket", str(path), "-o", "json", "story"]) == 6
    assert "Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["load"],
        ["prepare", "--rollback"],
        ["kexec", "--command-line", "quiet"],
        ["preserve"],
        ["preserve", "x"],
        ["preserve", "-3"],
        ["preserve", "3", "--memfd", "file"],
        ["unpreserve"],
        ["restore", "1"],
        ["restore", "1", "--to", "x", "--", "cat"],
        ["status", "--", "cat"],
        ["-o", "xml", "status"],
    ],
)
def test_luoctl_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        luoctl(arguments)
    assert ended.value.code == 2
    assert "usage: luoctl" in capsys.readouterr().err


PLAIN = ("status", "sessions", "subscribers", "state", "freeze", "finish", "list", "telemetry")
PREPARE = {
    "artifact": "n",
    "command_line": "",
    "rollback": False,
    "rollback_none": False,
    "force": False,
    "skip_preflight": False,
    "health_hold_s": 0.0,
    "no_wait": False,
}
KEXEC = {"artifact": "n", "command_line": "", "skip_preflight": False}
SENT: list[tuple[str, dict[str, object]]] = [
    *((verb, {}) for verb in PLAIN),
    ("load /srv/7.3.4", {"artifact_dir": "/srv/7.3.4"}),
    ("prepare", {**PREPARE, "artifact": ""}),
    ("prepare n --command-line quiet", {**PREPARE, "command_line": "quiet"}),
    ("prepare n --rollback --force", {**PREPARE, "rollback": True, "force": True}),
    ("prepare n --rollback-none --no-wait", {**PREPARE, "rollback_none": True, "no_wait": True}),
    ("prepare n --skip-preflight", {**PREPARE, "skip_preflight": True}),
    ("prepare n --health-hold-s 3", {**PREPARE, "health_hold_s": 3.0}),
    ("kexec", {**KEXEC, "artifact": ""}),
    ("kexec n --command-line a --skip-preflight", {**KEXEC, "command_line": "a", "skip_preflight": True}),
    ("cancel", {"no_wait": False}),
    ("cancel --no-wait", {"no_wait": True}),
    ("commit --no-wait", {"no_wait": True}),
    ("story", {"lines": 50}),
    ("story --lines 3", {"lines": 3}),
    ("preserve 0", {}),
    ("preserve --memfd /dev/null", {}),
    ("unpreserve 4", {"token": 4}),
    ("restore 4 --to /dev/null", {"token": 4}),
    ("restore 0x10 -- cat", {"token": 16}),
    ("-o json status -o text", {}),
]


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What luoctl sends, to nobody."""
    found: list[object] = []

    def asked(_path: str, request: object, _fd: int = -1) -> tuple[dict[str, object], int]:
        found.append(request)
        return {}, -1

    monkeypatch.setattr("node_agent.luoctl.ask_with_fd", asked)
    monkeypatch.setattr("node_agent.luoctl.ask", lambda *call: asked(*call)[0])
    return found


def test_what_luoctl_sends(sent: list[object]) -> None:
    """The agent reads nothing else, and takes what does not come for its default."""
    verbs = verbs_of(luoctl_parser())
    fd = os.open("/dev/null", os.O_RDONLY)
    for line, told in SENT:
        luoctl(["--socket", "none", *line.replace("preserve 0", f"preserve {fd}").split()])
        assert sent.pop() == {"cmd": next(w for w in line.split() if w in verbs), **told}, line
    os.close(fd)
    said = {word for line, _ in SENT for word in line.split()}
    for verb, parser in verbs.items():
        assert verb in said or verb == "completion"
        options = {option for action in parser._actions for option in action.option_strings[-1:]}
        assert options - {"--help", "--output"} <= said, f"an option of {verb} that is not looked at"


def test_an_option_that_is_new_is_sent(sent: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    parser = luoctl_parser()
    for verb in ("story", "prepare"):
        verbs_of(parser)[verb].add_argument("--since", default="")
    monkeypatch.setattr("node_agent.luoctl.build_parser", lambda: parser)
    luoctl(["--socket", "none", "story", "--since", "noon"])
    assert sent == [{"cmd": "story", "lines": 50, "since": "noon"}]
    with pytest.raises(SystemExit):
        luoctl(["--socket", "none", "prepare", "--since", "noon"])


def test_every_setting_flag_is_a_setting() -> None:
    from node_agent.cli import settings_flags
    from node_agent.settings_sources import SCALARS

    args = build_parser().parse_args(["run"])
    names = set(vars(args)) - {"verb", "config"}
    assert names <= set(SCALARS)
    assert settings_flags(args) == {}
    assert json.dumps(sorted(names))
