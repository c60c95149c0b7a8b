"""Builds an artifact directory from a kernel's files, and verifies one.

A kernel without a readable header, a truncated or an altered file is refused here, long
before a node would see it. Writes into a temporary sibling and renames, so that a half-built
artifact never has the artifact's name.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestrator.artifacts import live_update
from orchestrator.artifacts.bzimage import BzImage, read_bzimage
from orchestrator.artifacts.live_update import LiveUpdate
from orchestrator.artifacts.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    ArtifactFile,
    Manifest,
    digest_file,
    invalid,
    parse,
    render,
)
from orchestrator.artifacts.payload import NoUnpacker, unpack
from orchestrator.errors import AlreadyExists, NotFound

EMULATED = LiveUpdate("kho-v4", "luo-v5", {"memfd": "memfd-v2"})
"""What an emulated kernel speaks: Linux 7.2's strings."""


def build(
    out_dir: Path,
    *,
    kernel: Path,
    initrd: Path | None = None,
    config: Path | None = None,
    name: str = "",
    remove: tuple[str, ...] = (),
    append: tuple[str, ...] = (),
    vmlinux: Path | None = None,
    abi: Sequence[str] = (),
    warn: Callable[[str, str], None] = lambda _message, _remedy: None,
) -> Manifest:
    """Makes `<out_dir>/<name>/` from the given files; name defaults to "linux-" + release.

    Args:
        vmlinux: the kernel's ELF file, to look for its ABI strings in; it is not kept.
        abi: what a person says of them, see live_update.from_words.
        warn: told (message, remedy) if the strings cannot be found; the manifest then has none.

    Raises NotFound for a missing file, Blocked for one that is no kernel, truncated or damaged,
    AlreadyExists if the directory is there with other content (same content: returns it).
    """
    sources = {
        role: path for role, path in (("kernel", kernel), ("initrd", initrd), ("config", config)) if path
    }
    for role, path in sources.items():
        if not path.is_file():
            raise NotFound(f"no {role} at {path}", remedy=f"give the path of an existing file with --{role}")
    if vmlinux is not None and not vmlinux.is_file():
        raise NotFound(f"no vmlinux at {vmlinux}", remedy="give the path of an existing file with --vmlinux")
    image = read_bzimage(kernel)
    known = _live_update(kernel, image, config, vmlinux, abi, warn)
    release = image.release
    return _assemble(
        out_dir, name or f"linux-{release}".lower(), release, sources, remove, append, known, emulated=False
    )


def _live_update(
    kernel: Path,
    image: BzImage,
    config: Path | None,
    vmlinux: Path | None,
    abi: Sequence[str],
    warn: Callable[[str, str], None],
) -> LiveUpdate | None:
    """The kernel's ABI strings; None, and a warning, if they cannot be known."""
    said = live_update.from_words(abi)
    if said.is_whole:
        return said
    try:
        raw = vmlinux.read_bytes() if vmlinux is not None else unpack(kernel, image)
    except NoUnpacker as cannot:
        warn(
            f"the ABI strings of this kernel are not known: {cannot.message}",
            f"{cannot.remedy}, or say them with --abi kho=…,luo=…,memfd=…; "
            "a real node's preflight refuses a kernel that it knows nothing of",
        )
        return None
    found = live_update.find(raw, abi)
    if not found.luo and config is not None and _has_luo(config):
        warn(
            "the config has CONFIG_LIVEUPDATE=y, yet the kernel holds no LUO ABI string",
            "see that the config belongs to this kernel, or say the string with --abi luo=…",
        )
        return None
    return found


def _has_luo(config: Path) -> bool:
    return "CONFIG_LIVEUPDATE=y" in config.read_text("utf-8", "replace").splitlines()


def build_emulated(out_dir: Path, *, release: str, name: str = "", abi: Sequence[str] = ()) -> Manifest:
    """An artifact for emulated nodes: a placeholder kernel, and a configuration with KHO and LUO on.

    abi: other strings than the emulated kernel's own, for a target that preflight must refuse.
    """
    with tempfile.TemporaryDirectory() as scratch:
        kernel, config = Path(scratch, "vmlinuz"), Path(scratch, "config")
        kernel.write_bytes(f"emulated kernel {release}\n".encode() * 64)
        config.write_text(
            "CONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_HANDOVER=y\nCONFIG_LIVEUPDATE=y\nCONFIG_LIVEUPDATE_MEMFD=y\n"
        )
        return _assemble(
            out_dir,
            name or f"linux-{release}".lower(),
            release,
            {"kernel": kernel, "config": config},
            (),
            (),
            live_update.from_words(abi, EMULATED),
            emulated=True,
        )


def verify(directory: Path) -> Manifest:
    """The manifest of `directory` after every file was read and compared.

    Raises NotFound without a manifest, Blocked (ARTIFACT_INVALID, KERNEL_TRUNCATED …) otherwise.
    """
    path = directory / MANIFEST_NAME
    if not path.is_file():
        raise NotFound(
            f"{directory} holds no {MANIFEST_NAME}", remedy="build one with `liveroll artifact build`"
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise invalid(f"the manifest is larger than {MAX_MANIFEST_BYTES} bytes", path=path)
    manifest = parse(path.read_bytes())
    for role, file in manifest.files.items():
        _check_file(directory / file.name, role, file)
    if not manifest.emulated:
        header = read_bzimage(directory / manifest.files["kernel"].name)
        if header.release != manifest.release:
            raise invalid(
                f"the kernel says it is {header.release}, the manifest says {manifest.release}",
                path=directory,
            )
    return manifest


def _check_file(path: Path, role: str, expected: ArtifactFile) -> None:
    if not path.is_file():
        raise invalid(f"{role} {expected.name} is missing", path=path)
    sha256, size = digest_file(path)
    if size != expected.size:
        raise invalid(
            f"{role} {expected.name} has {size} bytes, the manifest says {expected.size}",
            path=path,
            size=size,
            expected=expected.size,
        )
    if sha256 != expected.sha256:
        raise invalid(
            f"{role} {expected.name} was altered: its sha256 differs from the manifest's",
            path=path,
            sha256=sha256,
            expected=expected.sha256,
        )


def _assemble(
    out_dir: Path,
    name: str,
    release: str,
    sources: Mapping[str, Path],
    remove: tuple[str, ...],
    append: tuple[str, ...],
    known: LiveUpdate | None,
    *,
    emulated: bool,
) -> Manifest:
    out_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=out_dir))
    try:
        files: dict[str, ArtifactFile] = {}
        for role, source in sources.items():
            target = scratch / {"kernel": "vmlinuz", "initrd": "initrd.img", "config": "config"}[role]
            shutil.copyfile(source, target)
            _sync(target)
            sha256, size = digest_file(target)
            files[role] = ArtifactFile(target.name, sha256, size)
        raw = render(
            name=name,
            release=release,
            files=files,
            emulated=emulated,
            command_line_remove=remove,
            command_line_append=append,
            known=known,
        )
        manifest = parse(raw)
        (scratch / MANIFEST_NAME).write_bytes(raw)
        _sync(scratch / MANIFEST_NAME)
        scratch.chmod(0o755)
        final = out_dir / name
        if final.exists():
            if (final / MANIFEST_NAME).is_file() and (final / MANIFEST_NAME).read_bytes() == raw:
                return verify(final)
            raise AlreadyExists(
                f"{final} is there already with other content",
                remedy="choose another --name, or remove the directory if no rollout uses it",
            )
        scratch.rename(final)
        _sync(out_dir)
        return manifest
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
