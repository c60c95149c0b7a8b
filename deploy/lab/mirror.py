"""Which Debian mirror this machine uses, read from its own apt sources.

The lab asks the same mirror for newer suites; the repository names none. Both formats are read:
one line a source (`.list`) and deb822 (`.sources`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.errors import LabError

_REMEDY = "Add a Debian mirror to /etc/apt/sources.list, or run the lab on Debian."
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")
_SIGNED_BY = re.compile(r"(?:^|\s)signed-by=(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mirror:
    """A mirror of Debian's own archive. signed_by: a keyring's path, empty for apt's default."""

    uri: str
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """One suite of one apt source."""

    uri: str
    suite: str
    signed_by: str


def one_line(text: str) -> Iterator[Source]:
    """The binary sources of a `.list` file."""
    for raw in text.splitlines():
        found = _LINE.fullmatch(raw.split("#", 1)[0].strip())
        if found:
            signed = _SIGNED_BY.search(found["options"] or "")
            yield Source(found["uri"], found["suite"], signed[1] if signed else "")


def deb822(text: str) -> Iterator[Source]:
    """The enabled binary sources of a `.sources` file."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed = fields.get("signed-by", "").strip()
        # A key may be given in place; then apt's default keyring has to do for us.
        keyring = signed if signed.startswith("/") and "\n" not in signed else ""
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, keyring)


def choose(sources: Iterable[Source], codename: str) -> Mirror:
    """The mirror that serves this machine's own release. Raises LabError (NO_MIRROR)."""
    for source in sources:
        if source.suite in (codename, "stable") and source.uri.startswith(
            ("http:", "https:", "file:", "mirror")
        ):
            return Mirror(source.uri.rstrip("/"), source.signed_by)
    raise LabError(
        f"no apt source of this machine has the suite {codename}", reason="NO_MIRROR", remedy=_REMEDY
    )


def codename(os_release: str) -> str:
    """The release's code name out of /etc/os-release. Raises LabError (NOT_DEBIAN)."""
    words = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    if words.get("ID", "").strip('"') != "debian" or not words.get("VERSION_CODENAME"):
        raise LabError("this is not a release of Debian", reason="NOT_DEBIAN", remedy="The lab needs Debian.")
    return words["VERSION_CODENAME"].strip('"')


def here(etc: Path = Path("/etc")) -> tuple[Mirror, str]:
    """This machine's mirror and code name. Raises LabError (NO_MIRROR, NOT_DEBIAN)."""
    name = codename((etc / "os-release").read_text())
    return choose(_all(etc / "apt"), name), name


def _all(apt: Path) -> Iterator[Source]:
    parts = apt / "sources.list.d"
    for path in [*sorted(parts.glob("*.sources")), apt / "sources.list", *sorted(parts.glob("*.list"))]:
        if path.is_file():
            text = path.read_text(errors="replace")
            yield from deb822(text) if path.suffix == ".sources" else one_line(text)


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            head, value = line.split(":", 1)
            name = head.strip().lower()
            fields[name] = value.strip()
    return fields
