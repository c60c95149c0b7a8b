"""The lab's index, packages and the guest's dependencies."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import packages, paths, site
from deploy.lab.errors import LabError
from deploy.lab.paths import Lab, LabKernel


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A cache with one kernel and a root."""
    folder = tmp_path / "kernels/a-1"
    folder.mkdir(parents=True)
    (tmp_path / "root/tree").mkdir(parents=True)
    for path in (folder / "bzImage", folder / "config", tmp_path / "root/root.ext4"):
        path.write_text("x")
    kernel = LabKernel("a", "7.2.13-luo-a", folder / "bzImage", folder / "config")
    return Lab({"a": kernel}, tmp_path / "root/tree", tmp_path / "root/root.ext4", tmp_path)


def test_what_was_saved_is_loaded(lab: Lab) -> None:
    paths.save(lab)
    assert paths.load(lab.cache) == lab


def test_the_index_holds_no_absolute_path(lab: Lab) -> None:
    paths.save(lab)
    assert str(lab.cache) not in (lab.cache / paths.INDEX).read_text()


def test_no_lab_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        paths.load(tmp_path)
    assert caught.value.reason == "NOT_BUILT"
    assert "make lab" in caught.value.remedy


@pytest.mark.parametrize("text", ["{", "[]", '{"kernels": {"a": {}}}', '{"kernels": 1}'])
def test_a_damaged_index_is_told_from_a_missing_one(tmp_path: Path, text: str) -> None:
    (tmp_path / paths.INDEX).write_text(text)
    with pytest.raises(LabError) as caught:
        paths.load(tmp_path)
    assert caught.value.reason == "INDEX_INVALID"


def test_a_file_that_is_gone_is_named(lab: Lab) -> None:
    paths.save(lab)
    lab.kernels["a"].image.unlink()
    with pytest.raises(LabError) as caught:
        paths.load(lab.cache)
    assert caught.value.reason == "FILE_MISSING"
    assert "bzImage" in str(caught.value)


def test_the_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    assert paths.cache_dir({"LIVEROLL_LAB_CACHE": str(tmp_path)}) == tmp_path
    assert paths.cache_dir({}) == Path.home() / ".cache/liveroll-lab"


def test_only_packages_that_are_not_installed_are_missing() -> None:
    listing = "".join(f"{name} installed\n" for name in packages.NEEDED if name not in ("flex", "bc"))
    assert packages.missing(listing + "bc config-files\nother installed\n") == ["flex", "bc"]
    assert packages.missing(listing + "flex:amd64 installed\nbc installed\n") == []


def test_the_guest_gets_what_the_agent_declares() -> None:
    project = """
        [project]
        dependencies = ["grpcio>=1"]
        [project.optional-dependencies]
        agent = ["structlog"]
        orchestrator = ["SQLAlchemy"]
    """
    assert site.requirements(project) == ["grpcio>=1", "structlog"]
