"""This machine's mirror, out of both formats of apt sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab import mirror
from deploy.lab.errors import LabError
from deploy.lab.mirror import Mirror

DEB822 = """\
Types: deb
# an older snapshot
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb https://tools.example/apt tools main
deb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main contrib # ours
"""


def machine(
    etc: Path, files: dict[str, str], release: str = "ID=debian\nVERSION_CODENAME=bookworm\n"
) -> Path:
    """An /etc with these apt sources."""
    (etc / "apt/sources.list.d").mkdir(parents=True)
    (etc / "os-release").write_text(release)
    for name, text in files.items():
        (etc / "apt" / name).write_text(text)
    return etc


def test_deb822_gives_the_mirror_of_the_release_with_its_keyring(tmp_path: Path) -> None:
    etc = machine(tmp_path, {"sources.list.d/debian.sources": DEB822})
    assert mirror.here(etc) == (
        Mirror("http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg"),
        "bookworm",
    )


def test_one_line_sources_are_read_with_their_options(tmp_path: Path) -> None:
    etc = machine(tmp_path, {"sources.list": ONE_LINE})
    assert mirror.here(etc) == (Mirror("http://one.example/debian", "/k.gpg"), "bookworm")


def test_a_disabled_source_does_not_count(tmp_path: Path) -> None:
    disabled = DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n")
    etc = machine(tmp_path, {"sources.list.d/a.sources": disabled, "sources.list.d/b.list": ONE_LINE})
    assert mirror.here(etc)[0].uri == "http://one.example/debian"


def test_a_key_given_in_place_leaves_the_keyring_to_apt(tmp_path: Path) -> None:
    inline = DEB822.replace(
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
        "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc",
    )
    assert mirror.here(machine(tmp_path, {"sources.list.d/a.sources": inline}))[0].signed_by == ""


def test_no_source_of_the_release_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        mirror.here(machine(tmp_path, {"sources.list": "deb cdrom:[disc]/ bookworm main\n"}))
    assert caught.value.reason == "NO_MIRROR"


def test_another_distribution_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError) as caught:
        mirror.here(machine(tmp_path, {}, "ID=ubuntu\nVERSION_CODENAME=noble\n"))
    assert caught.value.reason == "NOT_DEBIAN"
