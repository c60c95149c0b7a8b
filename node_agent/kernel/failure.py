"""What a kernel call's errno means to the agent: reason, retry class and remedy.

One table for every backend, real or emulated, so that the saga cannot tell them apart by their
errors. A pair that is not in the table keeps KernelError's defaults.
"""

from __future__ import annotations

import errno

from node_agent.errors import KernelError, Retry
from node_agent.kernel import rfc2_abi as rfc2

OPEN = "open(/dev/liveupdate)"
CREATE = "LIVEUPDATE_IOCTL_CREATE_SESSION"
RETRIEVE = "LIVEUPDATE_IOCTL_RETRIEVE_SESSION"
PRESERVE_FD = "LIVEUPDATE_SESSION_PRESERVE_FD"
RETRIEVE_FD = "LIVEUPDATE_SESSION_RETRIEVE_FD"
FINISH = "LIVEUPDATE_SESSION_FINISH"
GET_NAME = "LIVEUPDATE_SESSION_GET_NAME"
LOAD = "kexec_file_load"
REBOOT = "reboot(LINUX_REBOOT_CMD_KEXEC)"
FACTS = "facts"
"""Of an emulated kernel's process: what this boot is."""

FD_PRESERVE = rfc2.CALL_NAMES[rfc2.FD_PRESERVE]
FD_UNPRESERVE = rfc2.CALL_NAMES[rfc2.FD_UNPRESERVE]
FD_RESTORE = rfc2.CALL_NAMES[rfc2.FD_RESTORE]
PREPARE = rfc2.CALL_NAMES[rfc2.PREPARE]
FREEZE = rfc2.CALL_NAMES[rfc2.FREEZE]
CANCEL = rfc2.CALL_NAMES[rfc2.CANCEL]
LUO_FINISH = rfc2.CALL_NAMES[rfc2.FINISH]
"""Of RFC v2's device; FINISH is a session's."""

NOT_NORMAL = (
    "LUO_NOT_NORMAL",
    Retry.FIX_STATE,
    "another live update is under way; end it with `luoctl cancel`, or `luoctl finish` once it is updated",
)
"""An errno does not tell which state LUO is in. For a person app_luo_remedies finds out."""

COLD = (
    "a freeze that was refused has left KHO finalized, and this boot prepares nothing more: "
    "reboot in full (cold)"
)

_UNTRUSTED = (
    "IMAGE_NOT_TRUSTED",
    Retry.FIX_STATE,
    "this kernel starts signed images only; stage one that is signed with a key it knows",
)

_TABLE: dict[tuple[str, int], tuple[str, Retry, str]] = {
    (OPEN, errno.EBUSY): (
        "DEVICE_BUSY",
        Retry.CALL,
        "another process has /dev/liveupdate open (systemd does so briefly); try again",
    ),
    (OPEN, errno.EIO): (
        "POISONED",
        Retry.FIX_STATE,
        "this boot could not read what was handed to it; reboot the node in full",
    ),
    (OPEN, errno.ENOENT): (
        "LUO_OFF",
        Retry.FIX_STATE,
        "boot a kernel with CONFIG_LIVEUPDATE and kho=on liveupdate=on on its command line",
    ),
    (OPEN, errno.ENXIO): (
        "LUO_OFF",
        Retry.FIX_STATE,
        "boot a kernel with CONFIG_LIVEUPDATE and kho=on liveupdate=on on its command line",
    ),
    (OPEN, errno.EACCES): ("NO_PERMISSION", Retry.FIX_STATE, "run the agent as root"),
    (OPEN, errno.EPERM): (
        "NO_PERMISSION",
        Retry.FIX_STATE,
        "run the agent as root, in a unit whose device policy allows /dev/liveupdate",
    ),
    (CREATE, errno.EINVAL): ("SESSION_NAME_INVALID", Retry.NEVER, "use a name of 1 to 63 bytes"),
    (CREATE, errno.EEXIST): (
        "SESSION_EXISTS",
        Retry.REPLAN,
        "close the session of that name first; a process may still hold it",
    ),
    (CREATE, errno.ENOMEM): ("TOO_MANY_SESSIONS", Retry.REPLAN, "preserve in fewer sessions"),
    (CREATE, errno.ENOSPC): ("TOO_MANY_SESSIONS", Retry.REPLAN, "preserve in fewer sessions"),
    (RETRIEVE, errno.ENOENT): (
        "SESSION_NOT_FOUND",
        Retry.NEVER,
        "no such session crossed, or it was finished; its state is lost",
    ),
    (RETRIEVE, errno.EINVAL): (
        "SESSION_HELD",
        Retry.FIX_STATE,
        "another process has retrieved the session and holds it; end that process",
    ),
    (PRESERVE_FD, errno.EEXIST): ("TOKEN_USED", Retry.NEVER, "use another token in this session"),
    (PRESERVE_FD, errno.EBUSY): (
        "FILE_ALREADY_PRESERVED",
        Retry.REPLAN,
        "finish or close the session that has this file",
    ),
    (PRESERVE_FD, errno.ENOENT): (
        "FILE_UNPRESERVABLE",
        Retry.NEVER,
        "only memfds (unlinked shmem files) can be preserved; drain this workload instead",
    ),
    (PRESERVE_FD, errno.EINVAL): (
        "SESSION_NOT_FINISHED",
        Retry.REPLAN,
        "finish the session of the last update and preserve in a new one",
    ),
    (PRESERVE_FD, errno.ENOSPC): ("TOO_MANY_FILES", Retry.REPLAN, "preserve in more sessions"),
    (PRESERVE_FD, errno.EOPNOTSUPP): (
        "FILE_UNPRESERVABLE",
        Retry.NEVER,
        "the file has a seal that the kernel does not carry over; drain this workload instead",
    ),
    (PRESERVE_FD, errno.EFBIG): (
        "FILE_TOO_LARGE",
        Retry.NEVER,
        "spread the workload's memory over more files",
    ),
    (PRESERVE_FD, errno.ENOMEM): (
        "NOT_ENOUGH_MEMORY",
        Retry.REPLAN,
        "free memory on the node, or drain a workload that holds much of it",
    ),
    (RETRIEVE_FD, errno.ENOENT): ("TOKEN_NOT_FOUND", Retry.NEVER, "no file has this token"),
    (LOAD, errno.ENOENT): ("IMAGE_NOT_FOUND", Retry.FIX_STATE, "stage the artifact again"),
    (LOAD, errno.ENOEXEC): ("IMAGE_INVALID", Retry.FIX_STATE, "stage a kernel that can be booted"),
    (LOAD, errno.EINVAL): (
        "IMAGE_INVALID",
        Retry.FIX_STATE,
        "stage a kernel that is not empty, with a command line of less than 2,048 bytes",
    ),
    (LOAD, errno.EPERM): (
        "NO_PERMISSION",
        Retry.FIX_STATE,
        "run the agent with CAP_SYS_BOOT, and with kernel.kexec_load_disabled=0",
    ),
    (LOAD, errno.EBUSY): ("KEXEC_BUSY", Retry.CALL, "another process loads a kernel; try again"),
    (LOAD, errno.ENOSYS): ("KEXEC_OFF", Retry.FIX_STATE, "boot a kernel with CONFIG_KEXEC_FILE"),
    (LOAD, errno.EKEYREJECTED): _UNTRUSTED,
    (LOAD, errno.ENODATA): _UNTRUSTED,
    (LOAD, errno.ENOKEY): _UNTRUSTED,
    (LOAD, errno.EBADMSG): _UNTRUSTED,
    (LOAD, errno.EADDRNOTAVAIL): (
        "SCRATCH_TOO_SMALL",
        Retry.FIX_STATE,
        "cold boot the node with a larger kho_scratch=",
    ),
    (REBOOT, errno.EINVAL): ("NO_IMAGE", Retry.REPLAN, "load a kernel first"),
    (FD_PRESERVE, errno.EBUSY): NOT_NORMAL,
    (FD_PRESERVE, errno.EEXIST): (
        "FILE_ALREADY_PRESERVED",
        Retry.REPLAN,
        "give up the token that this file has already",
    ),
    (FD_PRESERVE, errno.ENOENT): (
        "FILE_UNPRESERVABLE",
        Retry.NEVER,
        "no file handler of this kernel takes this kind of file; drain this workload instead",
    ),
    (FD_UNPRESERVE, errno.EBUSY): NOT_NORMAL,
    (FD_UNPRESERVE, errno.ENOENT): (
        "TOKEN_NOT_FOUND",
        Retry.NEVER,
        "no file has this token; `luoctl list` shows which there are",
    ),
    (FD_RESTORE, errno.EBUSY): (
        "LUO_NOT_UPDATED",
        Retry.NEVER,
        "nothing came in with a live update, or it is finished; its state is lost",
    ),
    (FD_RESTORE, errno.ENOENT): (
        "TOKEN_NOT_FOUND",
        Retry.NEVER,
        "no file has this token; `luoctl list` shows which there are",
    ),
    (FD_RESTORE, errno.EINVAL): (
        "ALREADY_RESTORED",
        Retry.NEVER,
        "this kernel restores a file once; whoever has it must pass it on",
    ),
    (PREPARE, errno.EINVAL): NOT_NORMAL,
    (PREPARE, errno.EEXIST): (
        "KHO_FINALIZED",
        Retry.FIX_STATE,
        COLD,
    ),
    (PREPARE, errno.ENOENT): (
        "DEPENDENCY_NOT_PRESERVED",
        Retry.FIX_STATE,
        "preserve all the files that a preserved one depends on (memfd, then iommufd, then vfiofd)",
    ),
    (PREPARE, errno.ELOOP): (
        "DEPENDENCY_CYCLE",
        Retry.NEVER,
        "preserved files depend on each other in a circle; preserve them without one of the links",
    ),
    (PREPARE, errno.ENOMEM): (
        "NOT_ENOUGH_MEMORY",
        Retry.REPLAN,
        "free memory on the node, or drain a workload that holds much of it",
    ),
    (CANCEL, errno.EINVAL): ("LUO_STATE", Retry.NEVER, "there is nothing to cancel: LUO is not prepared"),
    (FREEZE, errno.EINVAL): (
        "LUO_STATE",
        Retry.NEVER,
        "only a prepared LUO can be frozen; `luoctl state` says what it is",
    ),
    (FACTS, errno.EPROTO): (
        "KERNEL_PROCESS_DIFFERS",
        Retry.FIX_STATE,
        "this node's kernel process was started by another version; end the node, and start it anew",
    ),
    (LUO_FINISH, errno.EINVAL): ("LUO_STATE", Retry.NEVER, "there is nothing to finish: LUO is not updated"),
}


_FREEZE = ("FREEZE_REFUSED", Retry.REPLAN, "something preserved cannot be frozen now; try again later")
_REFUSED: dict[str, tuple[str, Retry, str]] = {
    REBOOT: _FREEZE,
    FREEZE: _FREEZE,
    PREPARE: ("PREPARE_REFUSED", Retry.REPLAN, "something cannot be preserved now; try again later"),
}
"""Of each call, what a participant makes it return."""


def failure(cause: OSError) -> KernelError:
    """The KernelError of an OSError whose strerror is the call's name (see the constants).

    Anything that is not in the table and was returned by reboot, or by an event of RFC v2's LUO, is a
    participant's refusal.
    """
    number, call = cause.errno or errno.EIO, cause.strerror or "unknown call"
    row = _TABLE.get((call, number)) or _REFUSED.get(call)
    if row is None:
        return KernelError(number, call)
    reason, retry, remedy = row
    return KernelError(number, call, reason=reason, retry=retry, remedy=remedy)
