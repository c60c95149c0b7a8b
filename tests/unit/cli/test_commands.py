"""What commands say, with a client that answers from a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb
from typer.testing import CliRunner

from orchestrator.cli import follow
from orchestrator.cli.example import EXAMPLE
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.main import app
from tests.unit.cli import samples
from tests.unit.cli.fake_time import Time

NAME = "kernel-6.19.3"


class Answers:
    """A Client that knows some rollouts, and whose event streams are listed, one list a call."""

    def __init__(self) -> None:
        self.known: dict[str, pb.Rollout] = {}
        self.failing: Failed | None = None
        self.streams: list[list[Any]] = []
        self.asked: list[dict[str, Any]] = []

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def get(self, name: str) -> pb.Rollout:
        if self.failing is not None:
            raise self.failing
        if name not in self.known:
            raise Failed(Exit.INVALID, "no such rollout", "NOT_FOUND")
        return self.known[name]

    def create(self, spec: pb.RolloutSpec, *, key: str = "") -> pb.Rollout:
        return self.known.setdefault(spec.name, samples.rollout())

    def list(self) -> list[pb.Rollout]:
        if self.failing is not None:
            raise self.failing
        return list(self.known.values())

    def events(self, **asked: Any) -> Iterator[pb.ListEventsResponse]:
        self.asked.append(asked)
        for item in self.streams.pop(0):
            if isinstance(item, Failed):
                raise item
            yield pb.ListEventsResponse(events=item)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers()
    monkeypatch.setattr("orchestrator.cli.client.Client", lambda connection: made)
    return made


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rollout.yaml"
    path.write_text(EXAMPLE)
    return str(path)


def test_creating_what_exists_says_so(answers: Answers, file: str) -> None:
    first = CliRunner().invoke(app, ["create", file])
    assert "exists already" not in first.output
    assert f"watch it: liveroll watch {NAME}" in first.output

    again = CliRunner().invoke(app, ["create", file])
    assert again.exit_code == Exit.OK
    assert again.stdout.splitlines()[0] == f"{NAME} exists already, nothing was created"
    assert "RUNNING" in again.stdout.splitlines()[1]
    assert f"watch it: liveroll watch {NAME}" in again.stdout

    answers.known[NAME] = samples.cancelled()
    ended = CliRunner().invoke(app, ["create", file])
    assert "CANCELLED" in ended.stdout
    assert "watch it" not in ended.stdout


def test_creating_what_exists_as_json_is_the_rollout(answers: Answers, file: str) -> None:
    answers.known[NAME] = samples.rollout()
    result = CliRunner().invoke(app, ["create", file, "-o", "json"])
    assert json.loads(result.stdout)["rolloutId"] == NAME
    assert result.stderr.strip() == f"{NAME} exists already, nothing was created"


def test_an_orchestrator_that_is_not_there_creates_nothing(answers: Answers, file: str) -> None:
    answers.failing = Failed(Exit.UNREACHABLE, "cannot reach it", "UNREACHABLE")
    assert CliRunner().invoke(app, ["create", file]).exit_code == Exit.UNREACHABLE
    assert not answers.known


def completed(words: str) -> list[str]:
    environ = {
        "_LIVEROLL_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    return CliRunner().invoke(app, [], prog_name="liveroll", env=environ).stdout.split()


@pytest.mark.parametrize(
    "words", ["liveroll watch ker", "liveroll pause ker", "liveroll story n1 --rollout ker"]
)
def test_the_shell_completes_rollouts(answers: Answers, words: str) -> None:
    answers.known = {NAME: samples.rollout()}
    assert completed(words) == [NAME]
    assert completed(words.replace(" ker", " other")) == []


def test_completion_is_silent_without_an_orchestrator(answers: Answers) -> None:
    answers.failing = Failed(Exit.UNREACHABLE, "cannot reach it", "UNREACHABLE")
    assert completed("liveroll watch ker") == []


def test_events_go_on_from_their_cursor(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "time", Time())
    lost = Failed(Exit.UNREACHABLE, "cannot reach it", "UNREACHABLE")
    one, two, *_ = samples.events()
    answers.streams = [[[one], lost], [lost], [[two]]]
    result = CliRunner().invoke(app, ["events", "--follow", "--limit", "2", "-o", "json"])
    assert result.exit_code == Exit.OK
    assert [json.loads(line)["cursor"] for line in result.stdout.splitlines()] == ["i:1", "i:2"]
    assert result.stderr.splitlines() == [follow.LOST]
    assert [(a["cursor"], a["limit"]) for a in answers.asked] == [("", 2), ("i:1", 1), ("i:1", 1)]


def test_events_say_where_to_go_on_when_they_give_up(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "time", Time(nap_s=follow.PATIENCE_S))
    lost = Failed(Exit.UNREACHABLE, "cannot reach it", "UNREACHABLE")
    answers.streams = [[[samples.events()[0]], lost], [lost], [lost]]
    result = CliRunner().invoke(app, ["events", "--follow", "--node", "n3"])
    assert result.exit_code == Exit.UNREACHABLE
    assert result.stderr.splitlines()[-1].endswith("liveroll events --follow --node n3 --since i:1")


def test_the_version_as_json() -> None:
    assert set(json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).stdout)) == {"version"}
    assert CliRunner().invoke(app, ["version", "-o", "yaml"]).stdout.startswith("version: ")
