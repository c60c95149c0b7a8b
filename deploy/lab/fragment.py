"""Kernel configuration as values: a fragment laid over a .config, and whether it survived.

An option is `y`, `n`, a number or a quoted string, as in .config without its `CONFIG_` prefix. `n` and
absent mean the same to Kconfig, so an option asked to be `n` is content with being absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from deploy.lab.errors import LabError

RENAMED = {"PROC_SYSCTL": "SYSCTL"}
"""What a newer source calls an option of the fragment. Source: Linux 7.3 fs/proc/Kconfig has it no more."""

_SET = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.+)")
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")


def parse(text: str) -> dict[str, str]:
    """The options of a fragment or a .config; comments are skipped.

    Raises LabError (FRAGMENT_INVALID) for a line that is neither.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if found := _SET.fullmatch(words):
            options[found[1]] = found[2]
        elif found := _UNSET.fullmatch(words):
            options[found[1]] = "n"
        elif words and not words.startswith("#"):
            raise LabError(f"line {number} is no option: {words[:60]!r}", reason="FRAGMENT_INVALID")
    return options


def render(options: Mapping[str, str]) -> str:
    """The options as lines of a .config."""
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == "n" else f"CONFIG_{name}={value}\n"
        for name, value in options.items()
    )


def overlay(config: str, options: Mapping[str, str]) -> str:
    """A .config with `options` in place of its own lines for them."""
    return render({**parse(config), **options})


def lost(config: str, options: Mapping[str, str]) -> dict[str, str]:
    """Which of `options` the .config does not have, by its old or its new name, with what it has instead."""
    there = parse(config)
    return {
        name: there.get(name, "n")
        for name, value in options.items()
        if value not in (there.get(name, "n"), there.get(RENAMED.get(name, name), "n"))
    }


def demand(config: str, options: Mapping[str, str], kernel: str) -> None:
    """Raise LabError (OPTION_LOST) unless every option asked for survived."""
    missing = lost(config, options)
    if missing:
        words = ", ".join(f"{name}={options[name]} became {got}" for name, got in sorted(missing.items()))
        raise LabError(
            f"kernel {kernel}: {words}",
            reason="OPTION_LOST",
            remedy="This source renamed the option or gave it a dependency; mend deploy/lab/luo.fragment.",
        )
