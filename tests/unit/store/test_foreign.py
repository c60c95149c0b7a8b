"""Two releases side by side on one schema: the older one keeps what it does not know."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from orchestrator.core.model import Artifact, Change, DesiredStage, NodeRow
from orchestrator.errors import Conflict
from orchestrator.store import codec
from orchestrator.store.foreign import Foreign
from orchestrator.store.sql import SqlStore
from orchestrator.store.sqlite import Sqlite


@dataclass(frozen=True, slots=True)
class NewerArtifact(Artifact):
    """With a field that a later release may have added."""

    mirror: str = ""


@dataclass(frozen=True, slots=True)
class Power:
    """Fields that qualify each other lie in one object."""

    watts: int = 0
    meter: str = ""


@dataclass(frozen=True, slots=True)
class NewerNode(NodeRow):
    table: ClassVar[str] = "nodes"
    colour: str = ""
    stored_artifact: NewerArtifact | None = None
    power: Power = field(default_factory=Power)


def newer(node: NodeRow, **more: Any) -> NewerNode:
    """As the newer release reads it."""
    return replace(NewerNode(**{f.name: getattr(node, f.name) for f in fields(NodeRow)}), **more)


class Newer:
    """The newer release on the same file: its codec, and the store's way of writing."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> NewerNode:
        with sqlite3.connect(self._path) as connection:
            (text,) = connection.execute("SELECT doc FROM nodes").fetchone()
        connection.close()
        return codec.decode(NewerNode, text)

    def write(self, node: NewerNode) -> None:
        risen = replace(node, revision=node.revision + 1)
        with sqlite3.connect(self._path) as connection:
            (number,) = connection.execute("SELECT batch + 1 FROM meta").fetchone()
            connection.execute(
                "UPDATE nodes SET doc = ?, revision = ?, batch = ?",
                (codec.encode(risen), risen.revision, number),
            )
            connection.execute("UPDATE meta SET batch = ?", (number,))
            connection.execute("INSERT INTO batches VALUES (?, ?, ?)", (number, number, f"newer-{number}"))
        connection.close()


ARTIFACT = Artifact("kernel", "d", "r", "u")


async def test_they_write_one_row_in_turn_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "liveroll.db"
    old, new = SqlStore(Sqlite(path)), Newer(path)
    await old.open()
    try:
        first = await old.commit(None, Change((NodeRow("n1", release="1"),)))
        new.write(replace(new.read(), colour="green", power=Power(9, "m")))
        seen = await old.changes(first.batch)
        (node,) = seen.rows
        assert node == NodeRow("n1", revision=2, release="1")
        for release in ("2", "3"):
            committed = await old.commit(None, Change((replace(node, release=release),)))
            (node,) = committed.rows
        assert new.read() == newer(node, colour="green", power=Power(9, "m"))
        with pytest.raises(Conflict):
            await old.commit(None, Change((replace(node, revision=3, release="never"),)))
        new.write(replace(new.read(), colour="blue", release="4"))
        with pytest.raises(Conflict):  # it has to read the newer one's first
            await old.commit(None, Change((replace(node, release="5"),)))
        (node,) = (await old.changes(committed.batch)).rows
        assert isinstance(node, NodeRow)
        await old.commit(None, Change((replace(node, release="5"),)))
        assert (new.read().colour, new.read().release, new.read().revision) == ("blue", "5", 6)
    finally:
        await old.close()
    again = SqlStore(Sqlite(path))
    await again.open()
    try:
        (node,) = (await again.load()).rows
        assert isinstance(node, NodeRow)
        await again.commit(None, Change((replace(node, release="6"),)))
        assert (new.read().colour, new.read().release) == ("blue", "6")
    finally:
        await again.close()


def stored(node: NodeRow, **changed: Any) -> str:
    document = json.loads(codec.encode(node)) | changed
    return json.dumps(document)


class TestForeign:
    def test_within_a_field_it_is_kept_while_the_field_is_not_changed(self) -> None:
        foreign = Foreign()
        node = NodeRow("n1", 1, desired=DesiredStage(ARTIFACT))
        desired = json.loads(codec.encode(node))["desired"]
        desired["artifact"]["mirror"] = "m"
        assert foreign.decode(NodeRow, stored(node, desired=desired)) == node
        kept = json.loads(foreign.encode(replace(node, revision=2, release="2")))
        assert kept["desired"]["artifact"]["mirror"] == "m"
        other = DesiredStage(replace(ARTIFACT, name="other"))
        gone = json.loads(foreign.encode(replace(node, revision=2, desired=other)))
        assert "mirror" not in gone["desired"]["artifact"]
        foreign.written(replace(node, revision=2, desired=other), json.dumps(gone))
        back = json.loads(foreign.encode(replace(node, revision=3)))
        assert "mirror" not in back["desired"]["artifact"]  # what was replaced does not come back

    def test_a_row_of_one_release_is_written_as_it_always_was(self) -> None:
        foreign = Foreign()
        node = NodeRow("n1", 1, desired=DesiredStage(ARTIFACT))
        foreign.decode(NodeRow, codec.encode(node))
        assert foreign.encode(node) == codec.encode(node)
        assert foreign._rows == {}

    def test_what_was_read_before_the_newest_write_says_nothing(self) -> None:
        foreign = Foreign()
        old = stored(NodeRow("n1", 1), colour="green")
        foreign.decode(NodeRow, old)
        written = foreign.encode(NodeRow("n1", 2))
        foreign.written(NodeRow("n1", 2), written)
        assert foreign.decode(NodeRow, stored(NodeRow("n1", 1), colour="red")) == NodeRow("n1", 1)
        assert json.loads(foreign.encode(NodeRow("n1", 3)))["colour"] == "green"

    def test_a_newer_release_may_take_its_field_back(self) -> None:
        foreign = Foreign()
        foreign.decode(NodeRow, stored(NodeRow("n1", 1), colour="green"))
        foreign.decode(NodeRow, codec.encode(NodeRow("n1", 2)))
        assert foreign.encode(NodeRow("n1", 3)) == codec.encode(NodeRow("n1", 3))

    def test_another_stores_rows_are_forgotten(self) -> None:
        foreign = Foreign()
        foreign.decode(NodeRow, stored(NodeRow("n1", 9), colour="green"))
        foreign.forget()
        assert foreign.encode(NodeRow("n1", 1)) == codec.encode(NodeRow("n1", 1))
