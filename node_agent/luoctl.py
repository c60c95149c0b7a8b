"""`luoctl`: drive this node's live update by hand, through the running agent's control socket.

Exit codes: 0 ok, 2 invalid, 3 refused in this state, 4 failed, 6 the agent is not running,
7 denied. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

DEFAULT_SOCKET = "/run/liveroll-agent/control.sock"
SOCKET_ENV = "LIVEROLL_AGENT_CONTROL_SOCKET"
OK, INVALID, BLOCKED, FAILED, UNREACHABLE, DENIED = 0, 2, 3, 4, 6, 7
ANSWER_S = 3600.0
"""An attempt's slowest step; the agent itself bounds each of them far below."""

EPILOG = """\
examples:
  luoctl status                       where this node stands
  luoctl load /srv/artifacts/7.3.4    verify an artifact and keep it here
  luoctl prepare 3f2a…                load it, drain, preserve; the node then waits
  luoctl kexec                        jump, after prepare
  luoctl cancel                       undo a prepare
  luoctl commit                       make the new kernel what a cold boot starts
  luoctl story                        what happened on this node, and why
  luoctl -o json status               the same for scripts
"""


class Unreachable(Exception):
    """No agent answers on the socket."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run luoctl; returns the exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    request = {k: v for k, v in vars(args).items() if k not in ("socket", "output")}
    if request.get("artifact_dir"):
        request["artifact_dir"] = os.path.abspath(request["artifact_dir"])
    try:
        answer = ask(args.socket, request)
    except Unreachable as error:
        print(f"luoctl: {error}", file=sys.stderr)
        return UNREACHABLE
    except PermissionError:
        print(f"luoctl: may not open {args.socket}; run as root or as the agent's user", file=sys.stderr)
        return DENIED
    except KeyboardInterrupt:
        return 130
    if not answer.get("ok"):
        return _complain(answer.get("error", {}), args.output)
    result = answer.get("result")
    if args.output == "json":
        print(json.dumps(result, indent=2, sort_keys=True))
    else:
        for line in RENDER[args.cmd](result):
            print(line)
    return OK


def ask(path: str, request: Mapping[str, object]) -> dict[str, Any]:
    """One request, one answer. Raises Unreachable, PermissionError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_S)
        try:
            sock.connect(path)
        except PermissionError:
            raise
        except OSError as error:
            raise Unreachable(
                f"no agent answers on {path} ({error.strerror or error}); start liveroll-agent, "
                f"or name its socket with --socket or {SOCKET_ENV}"
            ) from error
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as file:
                line = file.readline()
        except OSError:
            line = b""
        if not line:
            if request.get("cmd") == "kexec":
                return {"ok": True, "result": {"outcome": "JUMPED"}}
            raise Unreachable("the agent went away before it answered; ask `luoctl status` once it is back")
    answer = json.loads(line)
    return answer if isinstance(answer, dict) else {}


def _complain(error: Mapping[str, Any], output: str) -> int:
    reason = str(error.get("reason", "UNKNOWN"))
    if output == "json":
        print(json.dumps({"error": error}, indent=2, sort_keys=True))
    else:
        remedy = error.get("remedy")
        print(f"luoctl: {error.get('message', 'refused')} [{reason}]", file=sys.stderr)
        if remedy:
            print(f"luoctl: to mend it: {remedy}", file=sys.stderr)
    if reason == "PERMISSION_DENIED":
        return DENIED
    if reason in ("BAD_REQUEST", "MANIFEST_INVALID", "DIGEST_INVALID"):
        return INVALID
    return FAILED if reason.startswith("ARTIFACT") else BLOCKED


def _status(result: Mapping[str, Any]) -> list[str]:
    rows = [
        ("node", result["node_id"]),
        ("phase", result["phase"]),
        ("attempt", result["attempt"] or "none"),
        ("healthy", "yes" if result["healthy"] else "no"),
        ("kernel", result["release"] + (" (emulated)" if result["emulated"] else "")),
        ("boot", f"{result['boot_id']} ({result['verdict'] or 'unclassified'})"),
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
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _list(empty: str) -> Any:
    return lambda result: [str(row) for row in result] or [empty]


def _sessions(result: Sequence[Mapping[str, str]]) -> list[str]:
    return [f"{row['session']}  {row['workload']}" for row in result] or ["no session is held"]


def _load(result: Mapping[str, Any]) -> list[str]:
    digest = result["digest"]
    return [f"staged {digest}", f"kernel {result['release']}; next: luoctl prepare {digest[:12]}"]


def _outcome(result: Mapping[str, Any]) -> list[str]:
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


RENDER: Mapping[str, Any] = {
    "status": _status,
    "sessions": _sessions,
    "subscribers": _list("nobody is subscribed"),
    "load": _load,
    "prepare": _outcome,
    "kexec": _outcome,
    "cancel": _outcome,
    "commit": _outcome,
    "story": _list("nothing has happened yet"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="luoctl",
        description="Drive this node's live update by hand, through the running liveroll-agent.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--socket",
        default=os.environ.get(SOCKET_ENV, DEFAULT_SOCKET),
        help=f"the agent's control socket (default ${SOCKET_ENV} or {DEFAULT_SOCKET})",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to answer")
    verbs = parser.add_subparsers(dest="cmd", required=True, metavar="COMMAND")
    verbs.add_parser("status", help="where this node stands")
    verbs.add_parser("sessions", help="LUO sessions of the current attempt")
    verbs.add_parser("subscribers", help="workloads that take part in a live update")
    load = verbs.add_parser("load", help="verify an artifact directory and keep it on this node")
    load.add_argument("artifact_dir", metavar="ARTIFACT_DIR", help="a directory with manifest.json")
    prepare = verbs.add_parser("prepare", help="begin a local attempt: load, drain, preserve, wait")
    prepare.add_argument("artifact", metavar="DIGEST", help="a staged artifact; its first digits do")
    prepare.add_argument("--command-line", default="", help="of the target (default: the running kernel's)")
    prepare.add_argument("--rollback", action="store_true", help="go back to the previous kernel")
    prepare.add_argument(
        "--rollback-none", action="store_true", help="go on although there is no artifact to go back to"
    )
    prepare.add_argument(
        "--force", action="store_true", help="an operator's word: also from QUARANTINED or COLD_BOOTED"
    )
    prepare.add_argument(
        "--skip-preflight",
        action="store_true",
        help="load it whatever preflight finds: the kernel itself checks nothing, so expect to lose what is "
        "preserved, or a panic",
    )
    prepare.add_argument(
        "--health-hold-s", type=float, default=0.0, help="probes must hold this long (default 0)"
    )
    for verb, text in (
        ("kexec", "jump: suspend the workloads and start the prepared kernel"),
        ("cancel", "undo what was prepared"),
        ("commit", "make the running kernel what a cold boot starts"),
    ):
        verbs.add_parser(verb, help=text)
    for verb in ("prepare", "cancel", "commit"):
        verbs.choices[verb].add_argument(
            "--no-wait", action="store_true", help="answer at once, not when the node is done"
        )
    story = verbs.add_parser("story", help="what happened on this node")
    story.add_argument("--lines", type=int, default=50, help="how many of the newest (default 50)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
