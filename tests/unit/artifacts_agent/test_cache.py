"""The artifact cache: fetched with resume, verified, kept for the way back."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from node_agent.errors import ArtifactError, Retry
from node_agent.ports import ArtifactRef
from node_agent.runtime import artifacts_download
from node_agent.runtime.artifacts import ArtifactCache
from tests.unit.artifacts_agent.publish import bzimage, publish, served

RUNNING = "7.2.13"


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return open_cache(tmp_path)


def open_cache(tmp_path: Path, running: str = RUNNING, **options: object) -> ArtifactCache:
    return ArtifactCache(tmp_path / "cache", running_release=running, retry_wait_s=0.0, **options)  # type: ignore[arg-type]


def left(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "store").iterdir())


async def refused(cache: ArtifactCache, ref: ArtifactRef) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        await cache.stage(ref)
    assert caught.value.remedy
    assert await cache.staged() == ()
    return caught.value


async def test_stage_verifies_keeps_and_is_idempotent(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    staged = await cache.stage(ref)
    assert staged.release == "7.3.4"
    assert Path(staged.kernel_path).read_bytes() == bzimage("7.3.4")
    assert Path(staged.initrd_path).name == "initrd.img"
    assert staged.kernel_config == {"CONFIG_KEXEC_HANDOVER": "y", "CONFIG_FOO": "n"}
    assert await cache.staged() == (ref.digest,)
    for path in (tmp_path / "src").iterdir():
        path.unlink()
    assert await cache.stage(ref) == staged
    assert await cache.get(ref.digest) == staged


def test_opened_again_it_writes_nothing(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filesystem may be frozen, and whoever thaws it may be this very process, after it."""

    def frozen(*_: object, **__: object) -> None:
        raise AssertionError("it would wait for the thaw")

    monkeypatch.setattr(os, "mkdir", frozen)
    open_cache(tmp_path)


async def test_http_with_resume_after_a_cut(tmp_path: Path) -> None:
    counted: list[int] = []
    cache = open_cache(tmp_path, on_bytes=counted.append)
    # Beyond what the client buffers: what is cut off there is rightly fetched again.
    ref = publish(tmp_path / "src", initrd=os.urandom(3_000_000))
    async with served(tmp_path / "src") as server:
        server.cut["initrd.img"] = [1_500_000, 700_000]
        await cache.stage(dataclasses.replace(ref, url=server.base))
    ranges = [wanted for name, wanted in server.requests if name == "initrd.img"]
    assert ranges[0] == "", ranges
    assert len(ranges) == 3
    assert all(r.startswith("bytes=") for r in ranges[1:]), ranges
    assert sum(counted) == 3_000_000 + 4096 + 48, "no byte is fetched twice"


async def test_a_partial_file_survives_a_restart(tmp_path: Path) -> None:
    ref = publish(tmp_path / "src", initrd=os.urandom(200_000))
    async with served(tmp_path / "src") as server:
        ref = dataclasses.replace(ref, url=server.base)
        partial = tmp_path / "cache" / "partial" / ref.digest
        partial.mkdir(parents=True)
        (partial / "initrd.img").write_bytes((tmp_path / "src" / "initrd.img").read_bytes()[:150_000])
        await open_cache(tmp_path).stage(ref)
    assert ("initrd.img", "bytes=150000-") in server.requests
    assert not partial.exists()


async def test_a_stale_partial_file_is_fetched_again_from_the_start(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    ref = publish(tmp_path / "src")
    partial = tmp_path / "cache" / "partial" / ref.digest
    partial.mkdir(parents=True)
    (partial / "vmlinuz").write_bytes(b"\xff" * 1000)
    (partial / "initrd.img").write_bytes(b"\xff" * 100_000)
    await cache.stage(ref)


async def test_a_server_that_ignores_range_starts_over(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src", initrd=os.urandom(100_000))
    async with served(tmp_path / "src") as server:
        server.no_range = True
        server.cut["initrd.img"] = [30_000]
        await cache.stage(dataclasses.replace(ref, url=server.base))


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_transient_answers_are_tried_again(tmp_path: Path, cache: ArtifactCache, status: int) -> None:
    ref = publish(tmp_path / "src")
    async with served(tmp_path / "src") as server:
        server.fail = {"manifest.json": [status, status], "vmlinuz": [status]}
        await cache.stage(dataclasses.replace(ref, url=server.base))
        assert [name for name, _ in server.requests].count("manifest.json") == 3


async def test_lasting_trouble_is_given_up_with_what_to_do(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    async with served(tmp_path / "src") as server:
        server.fail = {"manifest.json": [503] * 50}
        error = await refused(cache, dataclasses.replace(ref, url=server.base))
        assert (error.reason, error.retry) == ("ARTIFACT_UNREACHABLE", Retry.CALL)
        assert len(server.requests) == artifacts_download.FETCH_TRIES
    error = await refused(cache, dataclasses.replace(ref, url=server.base))
    assert error.reason == "ARTIFACT_UNREACHABLE"


async def test_what_is_not_there_is_not_tried_again(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    async with served(tmp_path / "src") as server:
        (tmp_path / "src" / "vmlinuz").unlink()
        error = await refused(cache, dataclasses.replace(ref, url=server.base))
    assert error.reason == "ARTIFACT_NOT_FOUND"
    assert [name for name, _ in server.requests].count("vmlinuz") == 1
    (tmp_path / "src" / "manifest.json").unlink()
    assert (await refused(cache, ref)).reason == "ARTIFACT_NOT_FOUND"


@pytest.mark.parametrize("over_http", [False, True])
async def test_an_altered_file_is_refused_by_name(
    tmp_path: Path, cache: ArtifactCache, over_http: bool
) -> None:
    ref = publish(tmp_path / "src")
    path = tmp_path / "src" / "initrd.img"
    path.write_bytes(b"X" + path.read_bytes()[1:])
    async with served(tmp_path / "src") as server:
        error = await refused(cache, dataclasses.replace(ref, url=server.base) if over_http else ref)
    assert error.reason == "ARTIFACT_ALTERED"
    assert error.fields["file"] == "initrd.img"
    assert error.fields["expected"] != error.fields["got"]


@pytest.mark.parametrize("over_http", [False, True])
@pytest.mark.parametrize("change", [-1, 1])
async def test_a_truncated_or_grown_file_is_refused_with_its_sizes(
    tmp_path: Path, cache: ArtifactCache, over_http: bool, change: int
) -> None:
    ref = publish(tmp_path / "src")
    path = tmp_path / "src" / "initrd.img"
    path.write_bytes(path.read_bytes()[:-1] if change < 0 else path.read_bytes() + b"x")
    async with served(tmp_path / "src") as server:
        error = await refused(cache, dataclasses.replace(ref, url=server.base) if over_http else ref)
    assert error.reason == "ARTIFACT_TRUNCATED"
    assert (error.fields["file"], error.fields["expected"]) == ("initrd.img", "600")


async def test_another_manifest_than_was_asked_for(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    publish(tmp_path / "src", "7.3.5")
    error = await refused(cache, ref)
    assert (error.reason, error.fields["file"]) == ("ARTIFACT_ALTERED", "manifest.json")


async def test_another_release_than_was_asked_for(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    assert (await refused(cache, dataclasses.replace(ref, release="9.9"))).reason == "RELEASE_MISMATCH"
    await cache.stage(ref)
    with pytest.raises(ArtifactError, match=r"not 9\.9"):
        await cache.stage(dataclasses.replace(ref, release="9.9"))
    assert await cache.staged() == (ref.digest,), "asking wrongly destroys nothing"


async def test_the_kernels_own_header_must_agree(tmp_path: Path, cache: ArtifactCache) -> None:
    wrong = publish(tmp_path / "wrong", kernel=bzimage("6.1.0"))
    error = await refused(cache, wrong)
    assert (error.reason, error.fields["got"]) == ("RELEASE_MISMATCH", "6.1.0")
    nothing = publish(tmp_path / "nothing", kernel=b"not a kernel" * 1000)
    assert (await refused(cache, nothing)).reason == "NOT_A_BZIMAGE"
    emulated = publish(tmp_path / "emulated", kernel=b"placeholder", emulated=True)
    assert (await cache.stage(emulated)).release == "7.3.4"


async def test_a_file_altered_in_the_cache_is_seen_and_staged_again(
    tmp_path: Path, cache: ArtifactCache
) -> None:
    ref = publish(tmp_path / "src")
    staged = await cache.stage(ref)
    Path(staged.kernel_path).write_bytes(b"rotten" * 1000)
    with pytest.raises(ArtifactError) as caught:
        await cache.get(ref.digest)
    assert caught.value.fields["file"] == "vmlinuz"
    assert await cache.stage(ref) == staged
    Path(staged.kernel_path).unlink()
    with pytest.raises(ArtifactError, match="no file"):
        await cache.get(ref.digest)


@pytest.mark.parametrize("digest", ["", "x", "a" * 63, "A" * 64, "../../../etc/passwd"])
async def test_a_digest_that_is_none(cache: ArtifactCache, digest: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        await cache.get(digest)
    assert caught.value.reason == "ARTIFACT_NOT_STAGED"
    assert (await refused(cache, ArtifactRef("k", digest, "file:///x", ""))).reason == "DIGEST_INVALID"


@pytest.mark.parametrize("url", ["ftp://host/k", "nonsense", "http://", "file://host/k"])
async def test_a_url_that_is_none(cache: ArtifactCache, url: str) -> None:
    assert (await refused(cache, ArtifactRef("k", "a" * 64, url, ""))).reason == "UNSUPPORTED_URL"


async def test_too_large_is_refused_before_a_byte(tmp_path: Path) -> None:
    cache = open_cache(tmp_path, max_bytes=4000)
    ref = publish(tmp_path / "src")
    async with served(tmp_path / "src") as server:
        error = await refused(cache, dataclasses.replace(ref, url=server.base))
        assert error.reason == "ARTIFACT_TOO_LARGE"
        assert [name for name, _ in server.requests] == ["manifest.json"]


async def test_free_space_is_looked_at_first(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node_agent.runtime.artifacts.free_bytes", lambda _path: 1000)
    assert (await refused(cache, publish(tmp_path / "src"))).reason == "NO_SPACE"


async def test_a_disk_that_fails_is_named(
    tmp_path: Path, cache: ArtifactCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = publish(tmp_path / "src")

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts_download.os, "fsync", fail)
        error = await refused(cache, ref)
    assert (error.reason, error.fields["errno"]) == ("ARTIFACT_STORE_FAILED", "EIO")
    await cache.stage(ref)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only root may mount one."""
    where = tmp_path / "small"
    where.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(where)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    yield where
    subprocess.run(["umount", str(where)], check=True)


async def test_a_full_disk_on_a_real_file_system(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ArtifactCache(small_disk, running_release=RUNNING, retry_wait_s=0.0)
    ref = publish(tmp_path / "src", initrd=bytes(3 << 20))
    error = await refused(cache, ref)
    assert error.reason == "NO_SPACE"
    monkeypatch.setattr("node_agent.runtime.artifacts.free_bytes", lambda _path: 1 << 40)
    error = await refused(cache, ref)
    assert error.reason == "NO_SPACE", "found out while writing"
    small = publish(tmp_path / "fits")
    assert (await cache.stage(small)).digest == small.digest


async def test_kept_is_what_the_way_back_needs(tmp_path: Path) -> None:
    releases = {r: publish(tmp_path / r, r) for r in ("1.0", "2.0", "3.0", "4.0", "5.0")}
    cache = open_cache(tmp_path, "1.0")
    await cache.capture_running(tmp_path / "1.0", emulated=False)
    await cache.stage(releases["2.0"])
    cache = open_cache(tmp_path, "2.0")
    assert await cache.rollback_artifact() == releases["2.0"].digest
    for release in ("3.0", "4.0", "5.0"):
        await cache.stage(releases[release])
    kept = sorted(releases[r].digest for r in ("1.0", "2.0", "4.0", "5.0"))
    assert left(tmp_path) == kept
    assert sorted(await open_cache(tmp_path, "2.0").staged()) == kept


async def test_the_running_kernel_is_captured_once(tmp_path: Path, cache: ArtifactCache) -> None:
    assert await cache.rollback_artifact() == ""
    assert await cache.capture_running(None, emulated=False) == ""
    made = await cache.capture_running(None, emulated=True)
    assert made == await cache.rollback_artifact()
    assert (await cache.get(made)).release == RUNNING
    other = open_cache(tmp_path / "other")
    assert await other.capture_running(None, emulated=True) == made, "the same release, the same artifact"
    given = publish(tmp_path / "given", RUNNING)
    assert await cache.capture_running(tmp_path / "given", emulated=True) == made
    assert (
        await open_cache(tmp_path / "third").capture_running(tmp_path / "given", emulated=True)
        == given.digest
    )


async def test_capturing_another_kernel_is_refused(tmp_path: Path, cache: ArtifactCache) -> None:
    publish(tmp_path / "given", "9.9")
    with pytest.raises(ArtifactError) as caught:
        await cache.capture_running(tmp_path / "given", emulated=False)
    assert caught.value.reason == "RELEASE_MISMATCH"


async def test_a_lost_index_costs_nothing_but_the_order(tmp_path: Path, cache: ArtifactCache) -> None:
    ref = publish(tmp_path / "src")
    await cache.stage(ref)
    for text in ("", "{}", "[1]", '{"order": 3}'):
        (tmp_path / "cache" / "index.json").write_text(text)
        assert await open_cache(tmp_path).staged() == (ref.digest,)
