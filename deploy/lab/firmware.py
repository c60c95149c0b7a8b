"""What a node's firmware remembers and understands: which kernel a cold boot starts. Pure but for its file.

The guest says `default RELEASE` on its firmware port and is answered `ok RELEASE` once that is on
disk, or `no` and a reason. Anything else is answered `no`, too: half a line may be left of a guest
that jumped while it wrote.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.lab.errors import LabError

MAX_LINE_BYTES = 256


@dataclass(frozen=True, slots=True)
class Remembered:
    """What outlives the supervisor. default: release; power: on or off; boots: cold ones so far."""

    default: str
    power: str = "on"
    boots: int = 0


def load(path: Path) -> Remembered | None:
    """None if nothing is remembered yet. Raises LabError (FIRMWARE_CORRUPT)."""
    try:
        words = json.loads(path.read_text())
        return Remembered(str(words["default"]), str(words["power"]), int(words["boots"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(
            f"{path} is not what a firmware remembers",
            reason="FIRMWARE_CORRUPT",
            remedy="Remove it: the node then boots the kernel that it came with.",
        ) from error


def save(path: Path, remembered: Remembered) -> None:
    """Replace the file; on disk before this returns."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        json.dump(asdict(remembered), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Answer:
    """reply: a line for the guest. default: the release that it asked for, if it may have it."""

    reply: bytes
    default: str = ""


def answer(line: bytes, kernels: Mapping[str, object]) -> Answer:
    """What the firmware makes of one line of the guest. kernels: by release, those it can start."""
    words: list[str] = []
    with contextlib.suppress(UnicodeDecodeError):
        words = line.decode("ascii").split()
    if len(words) != 2 or words[0] != "default":
        return Answer(b"no such request\n")
    release = words[1]
    if release not in kernels:
        return Answer(f"no kernel {release}\n".encode())
    return Answer(f"ok {release}\n".encode(), release)


class Lines:
    """Cuts a byte stream into lines; what is longer than MAX_LINE_BYTES is dropped up to its end."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends."""
        self._rest += data
        *whole, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest[-MAX_LINE_BYTES - 1 :])
        return [line for line in whole if len(line) <= MAX_LINE_BYTES]
