"""What a kernel says of the state that it hands over and takes: its ABI strings.

A kernel takes over what another one left only if both spell these strings alike: KHO ignores a tree
of another version, LUO panics at boot, a file without its handler leaves the device unusable. The
kernel before the jump checks none of it, so the artifact carries them.

Rules
1. A string counts where it stands alone between bytes that are no text, ended by NUL.
2. Two versions of one string in one kernel are an answer that nobody may guess from.
3. No string at all is an answer too: the kernel has no KHO, or no LUO, or not that handler. It is
   written as an empty string; only a kernel that was never looked at has no entry.

Source: Linux 7.2 include/linux/kho/abi/{kexec_handover,luo,memfd}.h: KHO_FDT_COMPATIBLE "kho-v4",
LUO_ABI_COMPATIBLE "luo-v5", MEMFD_LUO_FH_COMPATIBLE "memfd-v2".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.errors import Blocked

HANDLERS = ("memfd",)
"""File handlers known by name; Linux 7.2 has this one."""
_WORD = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*-v[0-9]{1,6}")
"""A version as the headers spell it."""
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
MAX_HANDLERS = 64
_KEYS = ("kho", "luo", *HANDLERS)


@dataclass(frozen=True, slots=True)
class LiveUpdate:
    """The ABI strings of one kernel. Empty: it does not have that."""

    kho: str
    luo: str
    handlers: Mapping[str, str] = field(default_factory=dict)
    """Name → string, of those that it has."""

    @property
    def is_whole(self) -> bool:
        """Nothing is left to be looked for."""
        return bool(self.kho and self.luo and all(name in self.handlers for name in HANDLERS))


def find(kernel: bytes, words: Sequence[str] = ()) -> LiveUpdate:
    """The strings in an unpacked kernel, but for those that a person says (see from_words).

    Raises Blocked (ABI_AMBIGUOUS) if one is there in two versions.
    """
    said = _said(words)
    found = {name: _only(kernel, name) for name in _KEYS if name not in said}
    return _made({**found, **said})


def _only(kernel: bytes, name: str) -> str:
    pattern = rb"(?<![ -~])" + re.escape(name.encode()) + rb"-v[0-9]{1,6}(?=\0)"
    found = sorted({match.group().decode() for match in re.finditer(pattern, kernel)})
    if len(found) > 1:
        raise Blocked(
            f"the kernel says {' and '.join(found)}: which one it speaks cannot be told from its bytes",
            reason="ABI_AMBIGUOUS",
            remedy=f"look it up in its source (include/linux/kho/abi) and say --abi {name}={found[-1]}",
        )
    return found[0] if found else ""


def from_words(words: Sequence[str], known: LiveUpdate | None = None) -> LiveUpdate:
    """What a person says of a kernel, over what is known of it: `kho=kho-v4`, several with commas.

    An empty value says that the kernel does not have it.

    Raises Blocked (ABI_INVALID) that names the word.
    """
    base = {"kho": known.kho, "luo": known.luo, **known.handlers} if known is not None else {}
    return _made({**base, **_said(words)})


def _made(strings: Mapping[str, str]) -> LiveUpdate:
    handlers = {name: text for name, text in strings.items() if name not in ("kho", "luo") and text}
    return LiveUpdate(strings.get("kho", ""), strings.get("luo", ""), handlers)


def _said(words: Sequence[str]) -> dict[str, str]:
    said: dict[str, str] = {}
    for word in (part for words_ in words for part in words_.split(",") if part):
        key, equals, text = word.partition("=")
        if key not in _KEYS or not equals or not (text == "" or _is_word(key, text)):
            raise Blocked(
                f"--abi {word} is none of {', '.join(f'{k}={k}-vN' for k in _KEYS)}",
                reason="ABI_INVALID",
                remedy="give each string as the kernel's source spells it, for instance --abi luo=luo-v5",
            )
        said[key] = text
    return said


def parse(value: object) -> LiveUpdate | None:
    """The manifest's `live_update`: an object with kho, luo and handlers; None for anything else."""
    if not isinstance(value, dict) or set(value) - {"kho", "luo", "handlers"}:
        return None
    kho, luo, handlers = value.get("kho"), value.get("luo"), value.get("handlers", {})
    if (
        not _is_text(kho)
        or not _is_text(luo)
        or not isinstance(handlers, dict)
        or len(handlers) > MAX_HANDLERS
    ):
        return None
    if not all(_is_name(name) and _is_text(text) and text for name, text in handlers.items()):
        return None
    return LiveUpdate(str(kho), str(luo), dict(handlers))


def render(known: LiveUpdate) -> dict[str, object]:
    """As it stands in the manifest."""
    return {"kho": known.kho, "luo": known.luo, "handlers": dict(sorted(known.handlers.items()))}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value == "" or (len(value) < 48 and bool(_WORD.fullmatch(value))))


def _is_word(key: str, text: str) -> bool:
    return text.startswith(f"{key}-v") and _is_text(text)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
