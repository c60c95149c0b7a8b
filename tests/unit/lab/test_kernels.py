"""Recipes, keys and edits of the lab's kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import edits, kernels
from deploy.lab.edits import Edit
from deploy.lab.errors import LabError
from deploy.lab.recipes import RECIPES, Recipe, key

FRAGMENT = {"KEXEC": "y"}
EDIT = Edit("kernel/x.c", "int delay;\n", "int delay = 1;\n")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/x.c").write_text("/* x */\nint delay;\n")
    return tmp_path


def test_a_key_changes_with_all_that_goes_in() -> None:
    recipe = Recipe("a")
    keys = [
        key(recipe, "s-1", FRAGMENT, "12.2"),
        key(recipe, "s-2", FRAGMENT, "12.2"),
        key(recipe, "s-1", {"KEXEC": "n"}, "12.2"),
        key(recipe, "s-1", FRAGMENT, "13.1"),
        key(Recipe("b"), "s-1", FRAGMENT, "12.2"),
        key(Recipe("a", options=(("KHO", "n"),)), "s-1", FRAGMENT, "12.2"),
        key(Recipe("a", edits=(EDIT,)), "s-1", FRAGMENT, "12.2"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_key_does_not_change_with_the_order_of_options() -> None:
    one, other = {"A": "y", "B": "y"}, {"B": "y", "A": "y"}
    assert key(Recipe("a"), "s", one, "12") == key(Recipe("a"), "s", other, "12")


def test_the_kernel_that_rebuilds_most_comes_last_of_its_source() -> None:
    names = [recipe.name for recipe in RECIPES if not recipe.newer]
    assert names[:2] == ["a", "b"]
    assert names[-1] == "nokho"


def test_without_a_newer_source_there_is_no_c() -> None:
    assert "c" not in [recipe.name for recipe in kernels.wanted((), newer=False)]
    assert [recipe.name for recipe in kernels.wanted(("c", "a"), newer=True)] == ["a", "c"]


def test_an_unknown_kernel_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(LabError) as caught:
        kernels.wanted(("a", "z"), newer=True)
    assert caught.value.reason == "NO_SUCH_KERNEL"
    assert "nomemfd" in caught.value.remedy


def test_an_edit_is_there_during_the_build_and_gone_after_it(source: Path) -> None:
    with edits.applied(source, (EDIT,)):
        assert "delay = 1" in (source / "kernel/x.c").read_text()
    assert (source / "kernel/x.c").read_text() == "/* x */\nint delay;\n"
    assert [path.name for path in (source / "kernel").iterdir()] == ["x.c"]


def test_an_edit_is_undone_when_the_build_fails(source: Path) -> None:
    with pytest.raises(RuntimeError), edits.applied(source, (EDIT,)):
        raise RuntimeError
    assert (source / "kernel/x.c").read_text() == "/* x */\nint delay;\n"


def test_what_a_killed_build_left_is_restored_with_a_time_that_make_sees(source: Path) -> None:
    path = source / "kernel/x.c"
    original = path.with_name("x.c.liveroll-original")
    original.write_text(path.read_text())
    path.write_text("half of an edi")
    before = path.stat().st_mtime_ns
    edits.restore(source, (EDIT,))
    assert path.read_text() == "/* x */\nint delay;\n"
    assert path.stat().st_mtime_ns >= before
    assert not original.exists()


def test_two_edits_of_one_file_add_up(source: Path) -> None:
    more = Edit("kernel/x.c", "/* x */\n", "/* y */\n")
    with edits.applied(source, (EDIT, more)):
        assert (source / "kernel/x.c").read_text() == "/* y */\nint delay = 1;\n"


@pytest.mark.parametrize("text", ["int speed;\n", "int delay;\nint delay;\n"])
def test_a_source_that_moved_is_an_error(source: Path, text: str) -> None:
    (source / "kernel/x.c").write_text(text)
    with pytest.raises(LabError) as caught:
        edits.check(source, (EDIT,))
    assert caught.value.reason == "SOURCE_MOVED"


def test_a_file_that_is_gone_is_a_source_that_moved(source: Path) -> None:
    (source / "kernel/x.c").unlink()
    with pytest.raises(LabError) as caught:
        edits.check(source, (EDIT,))
    assert caught.value.reason == "SOURCE_MOVED"


def test_an_edit_that_a_killed_build_left_does_not_go_into_another_kernel(tmp_path: Path) -> None:
    slow = next(recipe for recipe in RECIPES if recipe.name == "slow")
    path = tmp_path / slow.edits[0].file
    path.parent.mkdir(parents=True)
    path.write_text("edited")
    path.with_name(f"{path.name}.liveroll-original").write_text("as it was")
    kernels.build([], tmp_path, kernels.Shelf(tmp_path, tmp_path, 1, "12"))
    assert path.read_text() == "as it was"
