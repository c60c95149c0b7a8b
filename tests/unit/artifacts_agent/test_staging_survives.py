"""Whatever is wrong with an artifact, STAGE ends with a result: its task belongs to the runner."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from node_agent.core.commands import Stage
from node_agent.core.model import ArtifactRef
from node_agent.ports import StagedArtifact
from node_agent.runtime import artifacts
from node_agent.runtime.artifacts import ArtifactCache
from node_agent.runtime.runner_stages import Stages
from tests.unit.artifacts_agent.publish import publish


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", running_release="7.2.13", retry_wait_s=0.0)


@pytest.mark.parametrize("url", ["http://[bad/x", "file:///%00", "http://..../x", "https://", "ftp://x/y"])
async def test_a_url_that_makes_no_sense_is_refused(cache: ArtifactCache, url: str) -> None:
    result = await Stages(cache).stage(Stage("c", ArtifactRef("k", "a" * 64, url, "7.3.4")))
    assert result.problem is not None
    assert result.problem.reason == "UNSUPPORTED_URL"


async def test_a_manifest_that_is_too_deep_is_refused(cache: ArtifactCache, tmp_path: Path) -> None:
    data = b"[" * 100_000
    (tmp_path / "manifest.json").write_bytes(data)
    ref = ArtifactRef("k", hashlib.sha256(data).hexdigest(), tmp_path.as_uri(), "7.3.4")
    result = await Stages(cache).stage(Stage("c", ref))
    assert result.problem is not None
    assert result.problem.reason == "MANIFEST_INVALID"


@pytest.mark.parametrize("gone", ["manifest.json", "vmlinuz"])
async def test_what_was_deleted_underneath_is_fetched_again(
    cache: ArtifactCache, tmp_path: Path, gone: str
) -> None:
    """Also what a crash in the middle of a removal leaves."""
    ref = publish(tmp_path / "src")
    await cache.stage(ref)
    (tmp_path / "cache" / "store" / ref.digest / gone).unlink()
    result = await Stages(cache).stage(Stage("c", ref))
    assert result.verified
    assert (await cache.get(ref.digest)).digest == ref.digest


async def test_an_error_that_nobody_foresaw_is_a_result_too() -> None:
    class Broken:
        async def stage(self, ref: ArtifactRef) -> StagedArtifact:
            raise ZeroDivisionError

        async def get(self, digest: str) -> StagedArtifact:
            raise NotImplementedError

        async def staged(self) -> Sequence[str]:
            return ()

        async def rollback_artifact(self) -> str:
            return ""

    stages = Stages(Broken())
    command = Stage("c", ArtifactRef("k", "a" * 64, "file:///x", "7.3.4"))
    result = await stages.stage(command)
    assert result.problem is not None
    assert (result.problem.reason, result.verified) == ("INTERNAL", False)
    assert not stages.needless(command)


async def test_what_is_being_staged_is_no_garbage_of_another(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published, not yet looked through once more, and another stage ends just then."""
    slow = publish(tmp_path / "slow", "7.3.4")
    published, go_on = threading.Event(), threading.Event()
    verify = artifacts.verify_directory

    def held(directory: Path, digest: str) -> StagedArtifact:
        if digest == slow.digest:
            published.set()
            go_on.wait(10)
        return verify(directory, digest)

    monkeypatch.setattr(artifacts, "verify_directory", held)
    staging = asyncio.create_task(cache.stage(slow))
    await asyncio.to_thread(published.wait, 10)
    await cache.stage(publish(tmp_path / "quick", "7.3.5"))
    go_on.set()
    assert (await staging).release == "7.3.4"
    assert (await cache.get(slow.digest)).release == "7.3.4"


async def test_what_preflight_looks_at_is_no_garbage(
    cache: ArtifactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [publish(tmp_path / release, release) for release in ("7.3.1", "7.3.2")]
    for ref in refs:
        await cache.stage(ref)
    looking, go_on = threading.Event(), threading.Event()
    verify = artifacts.verify_directory

    def held(directory: Path, digest: str) -> StagedArtifact:
        if digest == refs[0].digest:
            looking.set()
            go_on.wait(10)
        return verify(directory, digest)

    monkeypatch.setattr(artifacts, "verify_directory", held)
    getting = asyncio.create_task(cache.get(refs[0].digest))
    await asyncio.to_thread(looking.wait, 10)
    await cache.stage(publish(tmp_path / "newer", "7.3.3"))
    go_on.set()
    assert (await getting).release == "7.3.1"
