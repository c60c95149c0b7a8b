"""The binary interface of LUO as RFC v2 had it: ioctl numbers, struct layouts, states.

One device, no sessions: files are registered under tokens that the kernel chooses, and the whole
machine goes through one state. Numbers carry direction and size (`_IOWR` and the like), so that none is
also one of the merged interface's (abi), whose numbers are bare. Errors are not here.

Source: include/uapi/linux/liveupdate.h of the series "[RFC v2 00/16] Live Update Orchestrator",
15 May 2025.
"""

# _struct, not struct: the blackout path may import interpreter builtins only.
from _struct import Struct

FD_PRESERVE = 0xC010BA00
"""_IOWR(0xBA, 0x00, struct liveupdate_fd): fd in, token out."""
FD_UNPRESERVE = 0x4008BA01
"""_IOW(0xBA, 0x01, __u64): a token."""
FD_RESTORE = 0xC010BA02
"""_IOWR(0xBA, 0x02, struct liveupdate_fd): token in, fd out."""
GET_STATE = 0x8004BA03
"""_IOR(0xBA, 0x03, enum liveupdate_state)."""
PREPARE = 0xBA04
FREEZE = 0xBA05
CANCEL = 0xBA06
FINISH = 0xBA07
"""_IO(0xBA, …): LIVEUPDATE_IOCTL_EVENT_PREPARE and so on."""

CALL_NAMES = {
    FD_PRESERVE: "LIVEUPDATE_IOCTL_FD_PRESERVE",
    FD_UNPRESERVE: "LIVEUPDATE_IOCTL_FD_UNPRESERVE",
    FD_RESTORE: "LIVEUPDATE_IOCTL_FD_RESTORE",
    GET_STATE: "LIVEUPDATE_IOCTL_GET_STATE",
    PREPARE: "LIVEUPDATE_IOCTL_EVENT_PREPARE",
    FREEZE: "LIVEUPDATE_IOCTL_EVENT_FREEZE",
    CANCEL: "LIVEUPDATE_IOCTL_EVENT_CANCEL",
    FINISH: "LIVEUPDATE_IOCTL_EVENT_FINISH",
}

FD_STRUCT = Struct("=iIQ")
"""s32 fd; u32 flags, 0; u64 token. Source: struct liveupdate_fd."""

TOKEN_STRUCT = Struct("=Q")
STATE_STRUCT = Struct("=I")

STRUCTS = {
    FD_PRESERVE: FD_STRUCT,
    FD_UNPRESERVE: TOKEN_STRUCT,
    FD_RESTORE: FD_STRUCT,
    GET_STATE: STATE_STRUCT,
    PREPARE: Struct(""),
    FREEZE: Struct(""),
    CANCEL: Struct(""),
    FINISH: Struct(""),
}

NORMAL, PREPARED, FROZEN, UPDATED = 0, 1, 2, 3
STATE_NAMES = ("normal", "prepared", "frozen", "updated")
"""As /sys/kernel/liveupdate/state spells them. Source: enum liveupdate_state, luo_state_str."""
