"""luoctl's completion for bash. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def completion(parser: argparse.ArgumentParser) -> list[str]:
    """A bash completion script."""
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    rows = [
        f'    {name}) words="{" ".join(sorted(w for a in sub._actions for w in _words(a)))}" ;;'
        for name, sub in verbs.choices.items()
    ]
    chosen = [
        f'    {"|".join(a.option_strings)}) words="{" ".join(a.choices)}" ;;'
        for a in parser._actions
        if a.option_strings and a.choices is not None
    ]
    flags = " ".join(sorted(o for a in parser._actions for o in a.option_strings))
    return [
        "_luoctl() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" word words=""',
        '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        f'    case "$word" in {"|".join(verbs.choices)}) break ;; esac',
        "  done",
        '  case "$word" in',
        *rows,
        f'    *) words="{" ".join(verbs.choices)} {flags}" ;;',
        "  esac",
        '  case "${COMP_WORDS[COMP_CWORD-1]}" in',
        *chosen,
        "  esac",
        '  COMPREPLY=( $(compgen -W "$words" -- "$cur") )',
        "}",
        "complete -o default -F _luoctl luoctl",
    ]


def _words(action: argparse.Action) -> Sequence[str]:
    """An option's names; of an argument, what it can be."""
    return list(action.option_strings or action.choices or ())
