"""What sysfs, debugfs, tracefs and pstore of one boot would show, as text by path, for people who know them.

Rules
1. A path is there if the kernel would have it: no KHO, no kho/; no CONFIG_KHO_DEBUGFS, none either; no LUO,
   no liveupdate/.
2. Reading changes nothing. Writing is not here: KHO by hand is debugfs.
3. Our own additions, which no kernel has: debug/liveupdate/, last_boot_trace, /sys/kernel/kexec_telemetry,
   and trees as source where a kernel has blobs. KHO's root tree holds its subtrees, not their addresses.

Source: Documentation/admin-guide/mm/kho.rst and kexec_handover_debugfs.c; luo_sysfs.c of RFC v2;
Documentation/admin-guide/ramoops.rst for the names in pstore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from node_agent.core.model import KexecTelemetry
from node_agent.kernel.emulated.image import kho_on
from node_agent.kernel.emulated.machine import Loaded
from node_agent.kernel.emulated.rfc2.dts import dts
from node_agent.kernel.emulated.rfc2.kernel import Rfc2
from node_agent.kernel.emulated.rfc2.listing import listing

STATE = "/sys/kernel/liveupdate/state"
LUO_DEBUGFS = "/sys/kernel/debug/liveupdate"
KHO_DEBUGFS = "/sys/kernel/debug/kho"
TELEMETRY = "/sys/kernel/kexec_telemetry"
TRACE = "/sys/kernel/tracing/instances/boot_map"
PSTORE = "/sys/fs/pstore/dmesg-ramoops-0"

SCRATCH_PHYS = 0x4000_0000
"""Where an emulated scratch area lies: at 1 GiB, beneath all that is preserved."""


def views(
    running: Loaded, rfc2: Rfc2 | None, telemetry: KexecTelemetry | None, scratch_bytes: int
) -> dict[str, str]:
    """Path → content.

    Args:
        rfc2: what this boot has of RFC v2's KHO and LUO.
        telemetry: of the kexec that started it.
        scratch_bytes: KHO's scratch area; 0 is no bound that is known.
    """
    found: dict[str, str] = {}
    if running.image.telemetry and kho_on(running.image, running.command_line):
        found[TELEMETRY] = _telemetry(telemetry)
    if rfc2 is None:
        return found
    if rfc2.luo is not None:
        found[STATE] = f"{rfc2.luo.state}\n"
        found[f"{LUO_DEBUGFS}/files"] = _lines(
            f"{token} {kind} {state}" for token, kind, state in listing(rfc2)
        )
        found[f"{LUO_DEBUGFS}/subsystems"] = _lines(_subsystems(rfc2))
    if running.image.kho_debugfs:
        found |= {f"{KHO_DEBUGFS}/{path}": text for path, text in _kho(rfc2, scratch_bytes).items()}
    return found | _buffers(rfc2)


def _telemetry(told: KexecTelemetry | None) -> str:
    if told is None:
        return ""
    return _lines(
        (
            f"shutdown_tsc {told.shutdown_tsc}",
            f"purgatory_tsc {told.purgatory_tsc}",
            f"kernel_tsc {told.kernel_tsc}",
            f"userspace_tsc {told.userspace_tsc}",
            f"tsc_hz {told.tsc_hz:.0f}",
        )
    )


def _subsystems(rfc2: Rfc2) -> list[str]:
    """Name, whether every kexec carries it, and where what it keeps stands, going out and having come in."""
    outgoing, incoming = rfc2.subsystems.outgoing, rfc2.subsystems.incoming
    return [
        f"{s.name} {'auto' if s.automatic else 'manual'}"
        f" out={_address(outgoing.get(s.name))} in={_address(incoming.get(s.name))}"
        for s in rfc2.subsystems.all
    ]


def _address(data: int | None) -> str:
    return "-" if data is None else f"{data:#x}"


def _kho(rfc2: Rfc2, scratch_bytes: int) -> dict[str, str]:
    kho, compatible = rfc2.kho, {"compatible": rfc2.image.kho_abi}
    found = {
        "out/finalize": f"{int(kho.finalized)}\n",
        "out/scratch_phys": f"{SCRATCH_PHYS:#x}\n" if scratch_bytes else "",
        "out/scratch_len": f"{scratch_bytes:#x}\n" if scratch_bytes else "",
        **_sub_fdts("out", kho.tree),
        **_sub_fdts("in", kho.incoming),
    }
    if kho.finalized:
        found["out/fdt"] = dts({**compatible, **kho.tree})
    if kho.incoming:
        found["in/fdt"] = dts({**compatible, **kho.incoming})
    return found


def _sub_fdts(way: str, trees: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {f"{way}/sub_fdts/{name}": dts(tree) for name, tree in trees.items()}


def _buffers(rfc2: Rfc2) -> dict[str, str]:
    found = {}
    if rfc2.builtin.ftrace is not None and rfc2.builtin.ftrace.buffer is not None:
        trace = rfc2.builtin.ftrace.buffer
        found[f"{TRACE}/trace"] = _lines(trace.lines())
        found[f"{TRACE}/last_boot_trace"] = _lines(trace.last_boot)
    if rfc2.builtin.pstore is not None and rfc2.builtin.pstore.buffer.last_boot:
        found[PSTORE] = _lines(rfc2.builtin.pstore.buffer.last_boot)
    return found


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
