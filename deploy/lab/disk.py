"""A node's disk: a sparse copy of the guest root with this node's own files put in.

debugfs(8) writes them, so nothing is mounted and root is not needed. It ends with 0 whatever
happened; therefore each file is looked at afterwards.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deploy.lab.errors import LabError


@dataclass(frozen=True, slots=True)
class GuestFile:
    """One regular file of root's. mode: permission bits."""

    data: bytes
    mode: int = 0o644


def copy_image(source: Path, target: Path) -> None:
    """A sparse copy, shared with its source where the file system can. Blocking.

    Raises LabError (DISK_FULL, DISK_FAILED).
    """
    _run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], "DISK_FAILED")


def put_files(image: Path, files: Mapping[str, GuestFile]) -> None:
    """Write files (absolute path → content) into an ext4 image that nobody has mounted. Blocking.

    Raises LabError (DISK_FAILED) naming the first that is not there as it should be.
    """
    with tempfile.TemporaryDirectory(prefix="liveroll-lab-") as scratch:
        sources: dict[str, Path] = {}
        for number, (path, file) in enumerate(files.items()):
            sources[path] = Path(scratch, str(number))
            sources[path].write_bytes(file.data)
        script = Path(scratch, "script")
        script.write_text("\n".join(commands(files, sources)) + "\n")
        _run(["debugfs", "-w", "-f", str(script), str(image)], "DISK_FAILED")
        script.write_text("\n".join(f"stat {path}" for path in files) + "\n")
        told = _run(["debugfs", "-f", str(script), str(image)], "DISK_FAILED")
    sizes = [int(size) for size in re.findall(r"Type: regular.*?Size: (\d+)", told, re.DOTALL)]
    for (path, file), size in zip(files.items(), [*sizes, *[-1] * len(files)], strict=False):
        if size != len(file.data):
            raise LabError(
                f"{path} could not be written into {image.name}",
                reason="DISK_FAILED",
                remedy="Is the guest root large enough? `make lab` builds it anew.",
            )


def commands(files: Mapping[str, GuestFile], sources: Mapping[str, Path]) -> list[str]:
    """debugfs' script: directories first, then each file in place of what was there."""
    lines = []
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"/"}
    for directory in sorted(parents, key=lambda name: (name.count("/"), name)):
        lines.append(f"mkdir {directory}")  # refused if it is there, which is as good
    for path, file in files.items():
        lines += [
            f"rm {path}",
            f'write "{sources[path]}" {path}',
            f"set_inode_field {path} mode 0{0o100000 | file.mode:o}",
            f"set_inode_field {path} uid 0",
            f"set_inode_field {path} gid 0",
        ]
    return lines


def _run(line: list[str], reason: str) -> str:
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise LabError(
            f"there is no {line[0]}", reason="TOOL_MISSING", remedy="Install e2fsprogs and coreutils."
        ) from error
    except subprocess.CalledProcessError as error:
        raise LabError(
            f"{line[0]} failed: {error.stderr.strip()}",
            reason=reason,
            remedy="Is there room for the nodes' disks? LIVEROLL_LAB_STATE names another place.",
        ) from error
    return done.stdout
