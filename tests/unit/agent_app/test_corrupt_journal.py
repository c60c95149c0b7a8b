"""A corrupt journal is never forgotten: whatever crashes after it was found, the node stands still."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from node_agent.core.attempt import NodeState
from node_agent.core.history import NODE, body_of, replay
from node_agent.core.phases import Phase
from node_agent.errors import JournalUnavailable
from node_agent.runtime import journal as module
from node_agent.runtime.journal import FileJournal
from node_agent.runtime.supervisor import open_journal


async def written(path: Path, **words: object) -> str:
    """A journal with a floor of 7, and a last record of these words."""
    journal, _ = open_journal(path)
    await journal.append(NODE, body_of(node=NodeState(highest_generation=7)))
    await journal.append(NODE, words)
    await journal.close()
    return journal.installation_id


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)


async def test_a_crash_right_after_it_was_set_aside_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    installation = await written(path, n=1)
    damage(path)
    journal, problem = open_journal(path)
    assert problem is not None
    # The process dies here: nothing was journalled by anybody yet.
    await journal.close()
    journal, again = open_journal(path)
    node = replay(journal.records).node
    assert again is None
    assert (node.phase, node.highest_generation, node.healthy) == (Phase.QUARANTINED, 7, False)
    assert node.quarantine == problem
    assert journal.installation_id == installation
    await journal.close()


async def test_a_crash_before_the_rename_finds_it_corrupt_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    await written(path, n=1)
    damage(path)
    damaged = path.read_bytes()

    def dies(path: Path, data: bytes) -> int:
        raise OSError(5, "gone")

    with monkeypatch.context() as patched, pytest.raises(JournalUnavailable):
        patched.setattr(module, "_write_file", dies)
        open_journal(path)
    assert path.read_bytes() == damaged
    journal, problem = open_journal(path)
    assert problem is not None
    assert replay(journal.records).node.highest_generation == 7
    await journal.close()


@pytest.mark.parametrize(
    "node", [{"highest_generation": "many"}, {"attempt": 3}, {"verdict": "NEVER_HEARD_OF"}]
)
async def test_a_record_without_sense_quarantines_too(tmp_path: Path, node: object) -> None:
    """Else every start of the agent ends at it, and nobody hears of the node any more."""
    path = tmp_path / "journal"
    installation = await written(path, node=node)
    checksum = zlib.crc32(path.read_bytes())
    journal, problem = open_journal(path)
    assert problem is not None
    assert problem.reason == "JOURNAL_CORRUPT"
    assert zlib.crc32(Path(problem.fields["kept"]).read_bytes()) == checksum
    state = replay(journal.records).node
    assert (state.phase, state.highest_generation) == (Phase.QUARANTINED, 7)
    assert journal.installation_id == installation
    await journal.close()
    await FileJournal.open(path).close()
