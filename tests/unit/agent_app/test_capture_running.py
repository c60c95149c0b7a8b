"""A way back that cannot be kept is a warning: an agent that did not start would be a lost node."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.app import capture_running
from node_agent.errors import ArtifactError
from node_agent.runtime.artifacts import ArtifactCache
from node_agent.runtime.supervisor_log import Log
from tests.unit.artifacts_agent.publish import publish


@pytest.mark.parametrize("case", ["gone", "of another release", "not set"])
async def test_the_agent_starts_without_a_way_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    """`artifacts.running` names the kernel of the enrolment: after an update it is of another release."""
    directory = tmp_path / "running"
    if case == "of another release":
        publish(directory, "7.2.13")
    cache = ArtifactCache(tmp_path / "cache", running_release="7.3.4", retry_wait_s=0.0)
    given = None if case == "not set" else directory
    await capture_running(cache, given, emulated=False, log=Log("json", "info"))
    assert "cannot be rolled back" in capsys.readouterr().err
    assert await cache.rollback_artifact() == ""


async def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", running_release="7.3.4")
    with pytest.raises(ArtifactError) as caught:
        await cache.capture_running(tmp_path / "gone", emulated=False)
    assert caught.value.reason == "ARTIFACT_NOT_FOUND"
