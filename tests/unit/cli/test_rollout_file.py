"""Rollout files: friendly words to the spec, and every violation at once with its line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from orchestrator.cli.example import EXAMPLE
from orchestrator.cli.failure import Exit, Failed, Violation
from orchestrator.cli.rollout_file import load, loads
from orchestrator.core import spec as core
from orchestrator.core.validate import check as validate
from orchestrator.wire.spec_in import read_spec
from tests.unit.cli.golden import GOLDEN, check

INVALID = sorted((GOLDEN / "invalid").glob("*.yaml"))


def refused(text: str) -> Failed:
    with pytest.raises(Failed) as caught:
        loads(text, "rollout.yaml")
    assert caught.value.exit is Exit.INVALID
    return caught.value


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_every_violation_at_once(path: Path) -> None:
    failed = refused(path.read_text())
    check(f"invalid/{path.stem}.txt", "\n".join(failed.lines()))


def test_there_are_invalid_files() -> None:
    assert len(INVALID) >= 5


def test_the_example_is_valid_and_says_what_it_says() -> None:
    spec = read_spec(loads(EXAMPLE, "x").spec)
    assert not validate(spec).violations
    assert spec.name == "kernel-6.19.3"
    assert spec.waves == (core.WaveSpec("early", core.Amount(percent=10)), core.WaveSpec("rest"))
    assert spec.budgets.failures.halt_on == {"lost", "state_lost"}
    assert isinstance(spec.gates[0], core.BlackoutGate)
    assert spec.gates[0].hard_max == timedelta(seconds=5)


def test_everything_that_the_example_has_commented_out_is_valid_too() -> None:
    lines = []
    for line in EXAMPLE.splitlines():
        body = line.lstrip()
        indent = line[: len(line) - len(body)]
        if body.startswith("# ") and any(c in body for c in ":") and not line.startswith("# A rollout"):
            if line.startswith(("# Check", "# Only")):
                continue
            line = indent + body[2:]
        lines.append(line)
    spec = read_spec(loads("\n".join(lines), "x").spec)
    assert spec.schedule.windows[0].time_zone == "Europe/Berlin"
    assert spec.schedule.embargoes[0].reason == "holidays"
    assert spec.target.command_line_append == ("loglevel=4",)
    assert spec.rollback.none


def test_the_smallest_file() -> None:
    spec = read_spec(loads("name: k\ntarget: {artifact: a}\n", "x").spec)
    assert spec == core.RolloutSpec("k", core.Target("a"))


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("silence_lease: 1m30s", "silence_lease", timedelta(seconds=90)),
        ("health_hold: 250ms", "health_hold", timedelta(milliseconds=250)),
        ("budgets: {max_unavailable: 7}", "budgets.max_unavailable", core.Amount(count=7)),
        ("budgets: {max_unavailable: 2.5%}", "budgets.max_unavailable", core.Amount(percent=2.5)),
        ("budgets: {failures: {halt_on: []}}", "budgets.failures.halt_on", frozenset()),
        ("late_nodes: last-wave", "late_nodes", core.LateNodes.LAST_WAVE),
        ("promotion: MANUAL", "promotion", core.Promotion.MANUAL),
        ("selection: {nodes: [no, 1e3, 007]}", "selection.nodes", ("no", "1e3", "007")),
        ("rollback: {none: true}", "rollback.none", True),
    ],
)
def test_words_mean_what_they_say(line: str, path: str, value: object) -> None:
    found: object = read_spec(loads(f"name: k\ntarget: {{artifact: a}}\n{line}\n", "x").spec)
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_times_of_day_are_no_numbers() -> None:
    text = "name: k\ntarget: {artifact: a}\nschedule: {windows: [{start: 22:00, end: 04:30}]}\n"
    window = read_spec(loads(text, "x").spec).schedule.windows[0]
    assert (window.start.hour, window.end.minute) == (22, 30)


def test_what_the_orchestrator_finds_gets_the_files_lines() -> None:
    text = "name: k\ntarget:\n  artifact: a\nselection:\n  selector: pool=prod\n"
    text += "retries:\n  call: {attempts: 2}\n"
    loaded = loads(text, "rollout.yaml")
    failed = Failed(
        Exit.INVALID,
        "x",
        violations=[
            Violation("retries.call.attempts", "c"),
            Violation("selection.selector", "a"),
            Violation("waves[3].size", "nowhere"),
            Violation("retries[0].attempts", "b"),
        ],
    )
    located = loaded.located(failed)
    assert [(v.path, v.line) for v in located.violations] == [
        ("waves[3].size", 1),
        ("selection.selector", 5),
        ("retries.call.attempts", 7),
        ("retries[0].attempts", 7),
    ]
    assert located.lines()[-1] == "4 problems; nothing was created"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for make, message in (
        (lambda p: None, "cannot read"),
        (lambda p: p.write_bytes(b"\xff\xfe"), "not text in UTF-8"),
        (lambda p: p.write_bytes(b"#" * (2 << 20)), "larger than"),
        (lambda p: p.mkdir(), "cannot read"),
    ):
        path = tmp_path / message.replace(" ", "") / "rollout.yaml"
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            path = path.with_name("other.yaml")
        make(path)
        with pytest.raises(Failed, match=message) as caught:
            load(path)
        assert caught.value.exit is Exit.INVALID
        assert caught.value.nothing == "nothing was created"


def test_hostile_yaml_is_refused_quickly() -> None:
    bomb = "a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(50))
    assert any(v.problem == "an alias" for v in refused(bomb).violations)
    assert "nested too deeply" in refused("[" * 5000).lines()[0] or refused("[" * 5000).violations
    assert refused("name: !!python/object/apply:os.system [x]\n").violations
