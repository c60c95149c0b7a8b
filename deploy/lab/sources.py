"""Kernel sources out of Debian's newer suites, without touching the machine's own apt.

apt works on lists, a cache and a sources file of the lab's own (`-o Dir::…`), with the mirror that
the machine's own sources name; packages are downloaded and unpacked, never installed. The choice is
remembered in the cache, so that a second build asks nobody; `refresh` asks again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from deploy.lab import children, mirror
from deploy.lab.errors import LabError
from deploy.lab.offers import Choice, Offer, choose, parse_madison

SUITES = ("sid", "experimental", "trixie-backports", "stable-backports", "forky", "testing")
"""Where new kernels appear. By name and by role, because names grow old; what a mirror lacks is skipped."""

_CHOICE = "sources.json"


class PrivateApt:
    """apt with nothing of the machine's but its mirror."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        for part in ("lists/partial", "cache/archives/partial", "none", "suites"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def offers(self, source: mirror.Mirror) -> list[Offer]:
        """All kernel sources in SUITES. Raises LabError (MIRROR_FAILED) if no suite can be read."""
        signed = f"[signed-by={source.signed_by}] " if source.signed_by else ""
        offers: list[Offer] = []
        failed: list[str] = []
        for suite in SUITES:
            line = f"deb {signed}{source.uri} {suite} main\n"
            self._suite(suite).write_text(line)
            try:
                self._apt("apt-get", suite, "update", "-qq", "--allow-releaseinfo-change")
            except LabError as error:
                failed.append(f"{suite}: {str(error).splitlines()[-1]}")
                continue
            names = self._apt("apt-cache", suite, "search", "--names-only", r"^linux-source-[0-9]+\.[0-9]+$")
            packages = [name.split()[0] for name in names.splitlines() if name.strip()]
            if packages:
                offers += parse_madison(self._apt("apt-cache", suite, "madison", *packages))
        if len(failed) == len(SUITES):
            raise LabError(
                "the mirror gave none of the suites; " + failed[0],
                reason="MIRROR_FAILED",
                remedy="Check the network, and the mirror in /etc/apt.",
            )
        return offers

    def download(self, offer: Offer, into: Path) -> Path:
        """The package's file. Raises LabError (DOWNLOAD_FAILED)."""
        into.mkdir(parents=True, exist_ok=True)
        every = self._folder / "every.list"
        every.write_text(
            "".join(self._suite(suite).read_text() for suite in SUITES if self._suite(suite).exists())
        )
        children.run(
            ["apt-get", *self._options(every), "download", f"{offer.package}={offer.version}"],
            what=f"download of {offer.package} {offer.version}",
            log=self._logs / "download.log",
            reason="DOWNLOAD_FAILED",
            remedy="Run `make lab` again; if the version is gone from the mirror, add REFRESH=1.",
            cwd=into,
        )
        found = sorted(into.glob(f"{offer.package}_*.deb"))
        if not found:
            raise LabError(f"apt-get left no package in {into}", reason="DOWNLOAD_FAILED")
        return found[0]

    def _suite(self, suite: str) -> Path:
        return self._folder / "suites" / f"{suite}.list"

    def _apt(self, program: str, suite: str, *words: str) -> str:
        return children.output([program, *self._options(self._suite(suite)), *words], reason="MIRROR_FAILED")

    def _options(self, sources: Path) -> list[str]:
        none = self._folder / "none"
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": none,
            "Dir::Etc::preferences": none / "preferences",
            "Dir::Etc::preferencesparts": none,
            "Dir::State::lists": self._folder / "lists",
            "Dir::Cache": self._folder / "cache",
            # The lab's cache may be where apt's own user cannot go.
            "APT::Sandbox::User": "root",
            # One suite's update must not throw the others' lists away.
            "APT::Get::List-Cleanup": "false",
            "Acquire::Languages": "none",
        }
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def settle(cache: Path, logs: Path, *, refresh: bool = False) -> Choice:
    """Which sources to build: as remembered, else asked for.

    Raises LabError: NO_MIRROR, NOT_DEBIAN, MIRROR_FAILED, NO_SOURCE.
    """
    memory = cache / _CHOICE
    if memory.exists() and not refresh:
        return _decode(memory)
    source, _ = mirror.here()
    children.say(f"looking for kernel sources in {', '.join(SUITES)}")
    choice = choose(PrivateApt(cache / "apt", logs).offers(source))
    words = {"base": _words(choice.base), "newer": choice.newer and _words(choice.newer)}
    memory.write_text(json.dumps(words, indent=2) + "\n")
    return choice


def unpacked(offer: Offer, cache: Path, logs: Path) -> Path:
    """The folder of the source, fetched and unpacked if it is not there yet.

    Raises LabError: DOWNLOAD_FAILED, UNPACK_FAILED.
    """
    tree = cache / "sources" / offer.key
    if tree.is_dir():
        return tree
    children.say(f"fetching {offer.package} {offer.version}")
    part = cache / "sources" / f"{offer.key}.part"
    shutil.rmtree(part, ignore_errors=True)
    package = PrivateApt(cache / "apt", logs).download(offer, part / "deb")
    children.say(f"unpacking {package.name}")
    log = logs / "unpack.log"
    (part / "out").mkdir()
    children.run(
        ["dpkg-deb", "-x", str(package), str(part / "out")],
        what="unpacking the package",
        log=log,
        reason="UNPACK_FAILED",
    )
    archives = sorted((part / "out" / "usr" / "src").glob("linux-source-*.tar.*"))
    if not archives:
        raise LabError(f"{package.name} holds no source", reason="UNPACK_FAILED")
    (part / "tree").mkdir()
    children.run(
        ["tar", "-xf", str(archives[0]), "-C", str(part / "tree"), "--strip-components=1"],
        what="unpacking the source",
        log=log,
        reason="UNPACK_FAILED",
    )
    (part / "tree").rename(tree)
    shutil.rmtree(part)
    return tree


def prune(cache: Path, choice: Choice) -> None:
    """Remove sources and objects that are not of `choice`: each takes more than a gigabyte."""
    wanted = {offer.key for offer in (choice.base, choice.newer) if offer is not None}
    for shelf in ("sources", "objects"):
        for folder in (cache / shelf).glob("*"):
            if folder.name not in wanted:
                children.say(f"removing {shelf}/{folder.name}")
                shutil.rmtree(folder)


def _words(offer: Offer) -> dict[str, str]:
    return {"package": offer.package, "version": offer.version}


def _decode(memory: Path) -> Choice:
    try:
        words = json.loads(memory.read_text())
        newer = words["newer"]
        return Choice(Offer(**words["base"]), Offer(**newer) if newer else None)
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{memory} is damaged", reason="CACHE_DAMAGED", remedy="Remove it.") from error
