"""KernelControl: what an emulated node's kernel is asked beside LUO, through `<root>/dev/kexec`.

kexec's calls, and what tests, demonstrations and debugfs ask for. A word and its arguments in, a text out.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence

from node_agent.kernel.emulated.model import LuoModel
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.listing import listing, page
from node_agent.kernel.emulated.syncclient import WIRE
from node_agent.kernel.faults import FaultPlan, FaultSyntax
from node_agent.ports import KexecImage

ARGUMENTS = {
    "facts": "",
    "load": "KERNEL INITRD COMMAND_LINE RELEASE",
    "unload": "",
    "loaded": "",
    "reboot": "",
    "telemetry": "",
    "files": "[WAY TOKEN]",
    "debugfs_write": "PATH VALUE",
    "view": "PATH",
    "views": "",
    "reserve_mem_read": "LABEL OFFSET COUNT",
    "reserve_mem_write": "LABEL OFFSET HEX",
    "default": "RELEASE [COMMAND_LINE]",
    "faults": "PLAN",
    "sessions": "",
    "calls": "NAME",
    "descriptors": "",
    "log": "",
    "power_loss": "",
}
"""Each word's. From `default` on they are for tests and demonstrations."""


class KernelControl:
    """One node's.

    Args:
        facts: what else `facts` tells, beside the model's.
    """

    def __init__(self, model: LuoModel, facts: Callable[[], Mapping[str, str]]) -> None:
        self._model, self._facts = model, facts
        self.rebooting = False
        """A reboot is past its point of no return."""
        self.power_lost = False
        """Somebody pulled the plug."""

    def answer(self, word: str, arguments: Sequence[str]) -> str:
        """Raises OSError: the call's own, EINVAL for wrong arguments, ENOSYS for another word, ENOTTY for
        what only RFC v2's kernels have."""
        model = self._model
        match [word, *arguments]:
            case ["facts"]:
                return self._told()
            case ["load", kernel, initrd, command_line, release]:
                model.load(KexecImage(kernel, initrd, command_line, release))
            case ["unload"]:
                model.unload()
            case ["loaded"]:
                return str(int(model.loaded))
            case ["reboot"]:
                model.freeze()
                self.rebooting = True
            case ["files"]:
                return self._files(())
            case ["files", "out" | "in" as way, token]:
                return self._files((way, str(_number(token, word))))
            case ["debugfs_write", path, value]:
                self._rfc2(word).debugfs_write(path, value)
            case ["telemetry"]:
                told = model.telemetry()
                return json.dumps(None if told is None else dataclasses.asdict(told))
            case ["view", path]:
                try:
                    return model.views()[path]
                except KeyError:
                    raise OSError(errno.ENOENT, word) from None
            case ["views"]:
                return json.dumps(model.views())
            case ["reserve_mem_read", label, offset, count]:
                region = model.reserved.region(label)
                return region.read(_number(offset, word), _number(count, word)).hex()
            case ["reserve_mem_write", label, offset, content]:
                model.reserved.region(label).write(_number(offset, word), _bytes(content, word))
            case ["default", release, *command_line_too] if len(command_line_too) < 2:
                model.set_default_release(release, next(iter(command_line_too), None))
            case ["faults", plan]:
                try:
                    model.faults = FaultPlan.parse(plan)
                except FaultSyntax as cause:
                    raise OSError(errno.EINVAL, word) from cause
            case ["sessions"]:
                return "\n".join(model.sessions())
            case ["calls", name]:
                return str(model.calls(name))
            case ["descriptors"]:
                return str(len(os.listdir("/proc/self/fd")))
            case ["log"]:
                return "\n".join(model.log)
            case ["power_loss"]:
                self.power_lost = True
            case _:
                raise OSError(errno.EINVAL if word in ARGUMENTS else errno.ENOSYS, word)
        return ""

    def _files(self, after: Sequence[str]) -> str:
        """One page (listing.page)."""
        return "\n".join(" ".join(map(str, row)) for row in page(listing(self._rfc2("files")), after))

    def _told(self) -> str:
        told = {"wire": WIRE, **dataclasses.asdict(self._model.facts()), **self._facts()}
        told.update({key: json.dumps(told[key]) for key in ("kho", "memory")})
        return "".join(f"{k}={int(v) if isinstance(v, bool) else v}\n" for k, v in told.items())

    def _rfc2(self, word: str) -> Rfc2:
        if self._model.rfc2 is None:
            raise OSError(errno.ENOTTY, word)
        return self._model.rfc2


def _number(text: str, word: str) -> int:
    """Not negative. Raises OSError(EINVAL)."""
    if not text.isdecimal():
        raise OSError(errno.EINVAL, word)
    return int(text)


def _bytes(text: str, word: str) -> bytes:
    """Raises OSError(EINVAL)."""
    try:
        return bytes.fromhex(text)
    except ValueError as cause:
        raise OSError(errno.EINVAL, word) from cause
