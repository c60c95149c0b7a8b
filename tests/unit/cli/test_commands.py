"""What commands say, with a client that answers from a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from liveroll.v1 import rollout_pb2 as pb
from typer.testing import CliRunner

from orchestrator.cli import cmd_events, follow
from orchestrator.cli.example import EXAMPLE
from orchestrator.cli.failure import Exit, Failed
from orchestrator.cli.main import app
from tests.unit.cli import samples
from tests.unit.cli.fake_time import Time
from tests.unit.cli.golden import check

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
            yield item if isinstance(item, pb.ListEventsResponse) else pb.ListEventsResponse(events=item)

    def node(self, name: str) -> pb.Node:
        return pb.Node(node_id=name)

    def nodes(self) -> list[pb.Node]:
        return [self.node("n3"), self.node("n7")]


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


def test_events_as_json_are_a_line_each(answers: Answers) -> None:
    answers.streams = [[samples.events()[:3], samples.events()[3:5]]]
    result = CliRunner().invoke(app, ["events", "-o", "json"])
    assert result.exit_code == Exit.OK
    assert len(result.stdout.splitlines()) == 5
    check("events.jsonl", result.stdout)


def test_events_ask_for_what_the_options_say(answers: Answers) -> None:
    answers.streams = [[]]
    words = "events --kind attempt --kind rollout.halted --actor alice --node n3 --rollout k --limit 7 -f"
    result = CliRunner().invoke(app, [*words.split(), "--since", "i:4", "--until", "i:9"])
    assert (result.exit_code, result.output) == (Exit.OK, "")
    (asked,) = answers.asked
    assert asked == {
        "cursor": "i:4",
        "rollout": "k",
        "node": "n3",
        "follow": True,
        "limit": 7,
        "kinds": ["attempt", "rollout.halted"],
        "actor": "alice",
        "since": None,
        "until": None,
        "until_cursor": "i:9",
        "progress": True,
    }


def test_events_from_and_until_an_instant_or_so_long_ago(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmd_events, "now", lambda: datetime(2026, 8, 1, 12, tzinfo=UTC))
    answers.streams = [[]]
    result = CliRunner().invoke(app, ["events", "--since", "10m", "--until", "2026-08-01T11:58:00+00:00"])
    assert result.exit_code == Exit.OK
    (asked,) = answers.asked
    assert asked["since"] == datetime(2026, 8, 1, 11, 50, tzinfo=UTC)
    assert asked["until"] == datetime(2026, 8, 1, 11, 58, tzinfo=UTC)
    assert (asked["cursor"], asked["until_cursor"]) == ("", "")


@pytest.mark.parametrize("place", ["yesterday", "i:x", ":3", "2026-08-01T11:58:00"])
def test_what_is_no_place_in_the_log_is_told(answers: Answers, place: str) -> None:
    result = CliRunner().invoke(app, ["events", "--since", place])
    assert (result.exit_code, answers.asked) == (Exit.INVALID, [])
    assert "is no place in the log" in result.stderr
    assert "Give an event's cursor" in result.stderr


def out_of_range(why: str) -> Failed:
    fields = {"why": why, "first_available": "i:40", "head": "i:90"}
    return Failed(Exit.INVALID, "events after i:3 are no longer kept", "OUT_OF_RANGE", fields=fields)


def test_a_cursor_that_is_out_of_range_is_a_sentence_with_the_commands_that_go_on(answers: Answers) -> None:
    answers.streams = [[out_of_range("TRIMMED")]]
    words = ["events", "--follow", "--kind", "attempt", "--actor", "a b", "--since", "i:3", "-o", "json"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (Exit.INVALID, "")
    check("events-out-of-range.txt", result.stderr)


def test_a_page_without_events_moves_the_cursor_on(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "time", Time())
    lost = Failed(Exit.UNREACHABLE, "cannot reach it", "UNREACHABLE")
    answers.streams = [[pb.ListEventsResponse(cursor="i:500"), lost], []]
    result = CliRunner().invoke(app, ["events", "--follow", "--kind", "never", "-o", "json"])
    assert (result.exit_code, result.stdout) == (Exit.OK, "")
    assert [a["cursor"] for a in answers.asked] == ["", "i:500"]


def test_a_story_of_one_attempt_and_as_json(answers: Answers) -> None:
    answers.streams = [[samples.events()]] * 3
    whole = json.loads(CliRunner().invoke(app, ["story", "n3", "-o", "json"]).stdout)
    assert [e["seq"] for e in whole["events"]] == [str(e.seq) for e in samples.events()]
    result = CliRunner().invoke(app, ["story", "n3", "--attempt", "2"])
    check("story-attempt.txt", result.stdout)
    result = CliRunner().invoke(app, ["story", "n3", "--attempt", "9"])
    assert result.exit_code == Exit.INVALID
    assert "the log has no attempt 9 of n3" in result.stderr
    assert "It has: 1, 2" in result.stderr


def test_a_story_whose_beginning_is_gone_says_so(answers: Answers) -> None:
    answers.streams = [[samples.events()[1:]]]
    told = CliRunner().invoke(app, ["story", "n3"]).stdout.splitlines()
    assert told[1] == "its beginning is no longer kept"


def test_the_shell_completes_nodes_and_kinds(answers: Answers) -> None:
    assert completed("liveroll events --node n") == ["n3", "n7"]
    assert completed("liveroll story n3") == ["n3"]
    assert completed("liveroll events --kind rollout.pa") == ["rollout.paused"]
    assert completed("liveroll events --kind wav")[0] == "wave"


def test_the_version_as_json() -> None:
    assert set(json.loads(CliRunner().invoke(app, ["version", "-o", "json"]).stdout)) == {"version"}
    assert CliRunner().invoke(app, ["version", "-o", "yaml"]).stdout.startswith("version: ")
