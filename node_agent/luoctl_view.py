"""luoctl's answers as text. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

NEXT: Mapping[str, str] = {
    "normal": "luoctl preserve, then luoctl prepare; what is not prepared does not cross a kexec",
    "prepared": "a kexec, which freezes by itself (luoctl kexec DIGEST); or luoctl cancel",
    "frozen": "a kexec (luoctl kexec DIGEST); or luoctl cancel",
    "updated": "luoctl list, luoctl restore; then luoctl finish, which gives back whatever was not restored",
    "off": "boot with kho=on liveupdate=on on the kernel's command line",
}
"""By LUO's state."""

COUPLINGS: Mapping[str, str] = {
    "notifier": "LUO's prepare is KHO's finalize, whoever asks for it",
    "luo-driven": "LUO alone drives KHO",
}


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side; the last one is not padded."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _status(result: Mapping[str, Any]) -> list[str]:
    by_hand = ", by hand" if result.get("by_hand") else ""
    rows = [
        ("node", result["node_id"]),
        ("phase", result["phase"]),
        ("attempt", result["attempt"] or "none"),
        ("healthy", "yes" if result["healthy"] else "no"),
        ("kernel", result["release"] + (" (emulated)" if result["emulated"] else "")),
        ("boot", f"{result['boot_id']} ({result['verdict'] or 'unclassified'}{by_hand})"),
        (
            "link",
            f"up to {at}"
            if result["link"] == "up" and (at := result.get("orchestrator"))
            else result["link"],
        ),
        ("rollback", result["rollback_artifact"][:12] or "none: luoctl load the running kernel's artifact"),
        ("staged", ", ".join(d[:12] for d in result["staged"]) or "nothing"),
    ]
    if problem := result.get("problem"):
        rows.append(("problem", f"{problem['message']} [{problem['reason']}]"))
        if problem.get("remedy"):
            rows.append(("to mend", problem["remedy"]))
    return table(rows)


def _lines(empty: str) -> Callable[[Sequence[object]], list[str]]:
    return lambda result: [str(row) for row in result] or [empty]


def _sessions(result: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{row['session']}  {row['workload']}" for row in result] or ["no session is held"]


def _load(result: Mapping[str, Any]) -> list[str]:
    digest = result["digest"]
    return [f"staged {digest}", f"kernel {result['release']}; next: luoctl prepare {digest[:12]}"]


def _outcome(result: Mapping[str, Any]) -> list[str]:
    """Of an attempt's verb, or of LUO's event of the same name."""
    if "event" in result:
        return _event(result)
    if result["outcome"] == "JUMPED":
        return ["jumped; ask `luoctl status` once the node is back"]
    outcome = result["outcome"].lower().replace("_", " ")
    lines = [f"{outcome}: {result['phase']} ({result['attempt'] or 'no attempt'})"]
    if result["phase"] == "PRESERVED":
        if result.get("skipped"):
            lines.append(f"preflight was skipped; it would have refused: {', '.join(result['skipped'])}")
        lines.append("next: luoctl kexec, or luoctl cancel")
    if result.get("problem"):
        lines.append(f"{result['problem']['message']} [{result['problem']['reason']}]")
        if result["problem"].get("remedy"):
            lines.append(f"to mend it: {result['problem']['remedy']}")
    return lines


def _event(result: Mapping[str, Any]) -> list[str]:
    return [f"LUO is {result['state']}", f"next: {NEXT[result['state']]}"]


def _state(result: Mapping[str, Any]) -> list[str]:
    coupling = result["coupling"]
    rows = [
        ("state", result["state"]),
        ("kernel", result["release"] + (" (emulated)" if result["emulated"] else "")),
        ("coupling", f"{coupling}: {COUPLINGS[coupling]}" if coupling in COUPLINGS else coupling or "none"),
        ("KHO", "finalized: a kexec hands its tree over" if result["kho_finalized"] else "not finalized"),
    ]
    if result["attempt"]:
        rows.append(("attempt", f"{result['attempt']}: the agent drives LUO; see luoctl status"))
    elif result["state"] == "normal" and result["kho_finalized"]:
        rows.append(("next", "reboot in full (cold): a freeze that was refused has left KHO finalized"))
    else:
        rows.append(("next", NEXT[result["state"]]))
    return table(rows)


def _preserve(result: Mapping[str, Any]) -> list[str]:
    token = result["token"]
    return [f"token {token}", f"next: luoctl prepare, or luoctl unpreserve {token}"]


def _files(result: Sequence[Mapping[str, Any]]) -> list[str]:
    if not result:
        return ["no file has a token"]
    rows = [(str(row["token"]), row["kind"], row["state"], row["session"] or "-") for row in result]
    return table([("TOKEN", "KIND", "STATE", "SESSION"), *rows])


def _telemetry(result: Mapping[str, Any]) -> list[str]:
    tsc = result["tsc"]
    starts = {"shutdown": "shutdown_tsc", "purgatory": "purgatory_tsc", "boot": "kernel_tsc"}
    rows = [("PHASE", "MS", "FROM TSC")]
    rows += [(name, f"{ms:.3f}", str(tsc[starts[name]])) for name, ms in result["phases_ms"].items()]
    rows.append(("userspace", "", str(tsc["userspace_tsc"])))
    rows.append(("all", f"{result['total_ms']:.3f}", f"at {result['tsc_hz']:.0f} Hz"))
    return [*table(rows), f"source: {result['source']}" + (" (emulated)" if result["emulated"] else "")]


def restored(result: Mapping[str, Any], where: str, count: int) -> str:
    """What restore wrote."""
    return f"token {result['token']} ({result['kind']}): {count} bytes to {where}"


RENDER: Mapping[str, Callable[[Any], list[str]]] = {
    "status": _status,
    "sessions": _sessions,
    "subscribers": _lines("nobody is subscribed"),
    "load": _load,
    "prepare": _outcome,
    "kexec": _outcome,
    "cancel": _outcome,
    "commit": _outcome,
    "story": _lines("nothing has happened yet"),
    "state": _state,
    "freeze": _event,
    "finish": _event,
    "preserve": _preserve,
    "unpreserve": lambda result: [f"token {result['token']} is given up"],
    "list": _files,
    "telemetry": _telemetry,
}
"""By command; restore writes its own."""
