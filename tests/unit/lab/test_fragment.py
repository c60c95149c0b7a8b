"""The kernel configuration's fragment, and the check that all of it survived."""

from __future__ import annotations

import pytest

from deploy.lab import fragment
from deploy.lab.errors import LabError
from deploy.lab.kernels import FRAGMENT
from deploy.lab.recipes import RECIPES

CONFIG = """\
#
# Automatically generated file
#
CONFIG_64BIT=y
CONFIG_LOCALVERSION=""
# CONFIG_KEXEC is not set
CONFIG_NR_CPUS=1
"""


def test_options_are_read_and_comments_are_not() -> None:
    assert fragment.parse(CONFIG) == {"64BIT": "y", "LOCALVERSION": '""', "KEXEC": "n", "NR_CPUS": "1"}


def test_a_line_that_is_no_option_is_an_error() -> None:
    with pytest.raises(LabError) as caught:
        fragment.parse("CONFIG_A=y\nCONFIG_B y\n")
    assert caught.value.reason == "FRAGMENT_INVALID"
    assert "line 2" in str(caught.value)


def test_an_overlay_replaces_and_adds() -> None:
    merged = fragment.overlay(CONFIG, {"KEXEC": "y", "64BIT": "n", "LIVEUPDATE": "y"})
    assert merged.splitlines() == [
        "# CONFIG_64BIT is not set",
        'CONFIG_LOCALVERSION=""',
        "CONFIG_KEXEC=y",
        "CONFIG_NR_CPUS=1",
        "CONFIG_LIVEUPDATE=y",
    ]


def test_what_kconfig_dropped_is_named_with_what_it_became() -> None:
    assert fragment.lost(CONFIG, {"64BIT": "y", "KEXEC": "y", "NR_CPUS": "4", "GONE": "y"}) == {
        "KEXEC": "n",
        "NR_CPUS": "1",
        "GONE": "n",
    }
    with pytest.raises(LabError) as caught:
        fragment.demand(CONFIG, {"KEXEC": "y"}, "a")
    assert caught.value.reason == "OPTION_LOST"
    assert "KEXEC=y became n" in str(caught.value)


def test_an_option_that_is_absent_is_off() -> None:
    fragment.demand(CONFIG, {"KEXEC": "n", "LIVEUPDATE": "n"}, "nokho")


def test_the_fragment_of_the_lab_asks_for_live_update_without_an_initramfs() -> None:
    asked = fragment.parse(FRAGMENT.read_text())
    for name in ("KEXEC_FILE", "KEXEC_HANDOVER", "LIVEUPDATE", "LIVEUPDATE_MEMFD", "EXT4_FS", "VIRTIO_BLK"):
        assert asked[name] == "y", name


def test_each_kernel_says_its_name_in_its_release() -> None:
    for recipe in RECIPES:
        assert recipe.asked({"LOCALVERSION": '"-x"'})["LOCALVERSION"] == f'"-luo-{recipe.name}"'


def test_an_option_that_a_newer_source_renamed_is_not_lost() -> None:
    asked = {"PROC_SYSCTL": "y"}
    assert fragment.lost("CONFIG_SYSCTL=y\n", asked) == {}
    assert fragment.lost("CONFIG_PROC_SYSCTL=y\n", asked) == {}
    assert fragment.lost("# CONFIG_SYSCTL is not set\n", asked) == {"PROC_SYSCTL": "n"}
