"""`luoctl`: drive this node's live update by hand, through the running agent's control socket.

Exit codes: 0 ok, 2 invalid, 3 refused in this state or undone again, 4 failed, 6 the agent is not
running, 7 denied. Standard library only; what one verb alone needs is imported by it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from node_agent.luoctl_terms import FD_ENV, TOKEN_ENV, Unusable
from node_agent.luoctl_view import RENDER, restored
from node_agent.luoctl_wire import SOCKET_ENV, Unreachable, ask, ask_with_fd

DEFAULT_SOCKET = "/run/liveroll-agent/control.sock"
OK, INVALID, BLOCKED, FAILED, UNREACHABLE, DENIED = 0, 2, 3, 4, 6, 7

LOCAL = frozenset({"cmd", "socket", "output", "fd", "memfd", "to", "shell"})
"""Of the command line, what is luoctl's own business. All else goes to the agent."""

EPILOG = """\
an attempt, as an orchestrator would make it:
  luoctl status                       where this node stands
  luoctl load /srv/artifacts/7.3.4    verify an artifact and keep it here
  luoctl prepare 3f2a…                load it, drain, preserve; the node then waits
  luoctl kexec                        jump, after prepare
  luoctl cancel                       undo a prepare
  luoctl commit                       make the new kernel what a cold boot starts
  luoctl story                        what happened on this node, and why

LUO itself, on a kernel of RFC v2's time (one state for the machine, tokens), where no attempt is under way:
  luoctl state                        normal, prepared, frozen or updated
  luoctl prepare                      LUO's PREPARE alone: enough for who wants only reserve_mem to cross
  luoctl preserve --memfd notes       a memfd with that file's content: prints the kernel's token
  luoctl preserve 3 3<>/proc/70/fd/9  a descriptor that the shell opened for luoctl
  luoctl kexec 3f2a…                  load that artifact and jump, with whatever is prepared; it asks no
                                      workload to preserve: refused while there are any
  luoctl list                         after it: what came in
  luoctl restore 0 --to -             a memfd's content to stdout
  luoctl restore 0 -- vmm --incoming  or the file itself: $LUOCTL_FD is its descriptor's number
  luoctl finish                       all is restored: back to normal
  luoctl telemetry                    how long the kexec took, in the kernels' own words

  luoctl -o json state                any of them for scripts

exit codes: 0 ok, 2 invalid, 3 refused in this state or undone again (prepare, kexec), 4 failed,
            6 the agent is not running, 7 denied
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run luoctl; returns the exit code."""
    parser = build_parser()
    arguments, command = _split(list(sys.argv[1:] if argv is None else argv))
    args = parser.parse_args(arguments)
    _check(parser, args, command)
    code = OK
    try:
        if args.cmd == "completion":
            from node_agent.luoctl_completion import completion

            print("\n".join(completion(parser)))
        else:
            code = _run(args, command)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Unusable as error:
        print(f"luoctl: {error}", file=sys.stderr)
        return INVALID
    except Unreachable as error:
        print(f"luoctl: {error}", file=sys.stderr)
        return UNREACHABLE
    except PermissionError:
        print(f"luoctl: may not open {args.socket}; run as root or as the agent's user", file=sys.stderr)
        return DENIED
    except KeyboardInterrupt:
        return 130
    return code


def _run(args: argparse.Namespace, command: Sequence[str] | None) -> int:
    request = {"cmd": args.cmd} | _for_the_agent(args)
    if args.cmd == "load":
        request["artifact_dir"] = os.path.abspath(args.artifact_dir)
    if args.cmd == "restore":
        return _restore(args, request, command)
    if args.cmd == "preserve":
        answer = _preserve(args, request)
    else:
        answer = ask(args.socket, request)
    if not answer.get("ok"):
        return _complain(answer.get("error", {}), args.output)
    result = answer.get("result")
    if args.output == "json":
        print(json.dumps(result, indent=2, sort_keys=True))
    else:
        for line in RENDER[args.cmd](result):
            print(line)
    return _came_to(args.cmd, args, result)


def _for_the_agent(args: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(args).items() if name not in LOCAL}


def _came_to(verb: str, args: argparse.Namespace, result: object) -> int:
    """The exit code of what was not refused: a prepare may have been undone, a kexec may not have jumped."""
    if not isinstance(result, dict) or "outcome" not in result:
        return OK
    if verb == "prepare" and not args.no_wait:
        return OK if result["phase"] == "PRESERVED" else BLOCKED
    if verb == "kexec":
        return BLOCKED if result["outcome"] == "ACCEPTED" or result.get("problem") else OK
    return OK


def _preserve(args: argparse.Namespace, request: Mapping[str, object]) -> dict[str, Any]:
    from node_agent import luoctl_files as files

    if args.memfd is None:
        return ask_with_fd(args.socket, request, files.inherited(args.fd))[0]
    fd = files.memfd_of(args.memfd)
    try:
        return ask_with_fd(args.socket, request, fd)[0]
    finally:
        os.close(fd)


def _restore(args: argparse.Namespace, request: Mapping[str, object], command: Sequence[str] | None) -> int:
    """Whatever can be wrong on this side is found before the file is asked for: the kernel gives it once."""
    from node_agent import luoctl_files as files

    if command is not None:
        files.find_command(command)
        answer, fd = ask_with_fd(args.socket, request)
        if fd < 0:
            return _complain(answer.get("error", {}), args.output)
        try:
            files.become(command, fd, args.token)
        except OSError as error:
            print(f"luoctl: {command[0]}: {error.strerror}; restore it again elsewhere", file=sys.stderr)
            return FAILED
    with files.Sink(args.to) as sink:
        answer, fd = ask_with_fd(args.socket, request)
        if fd < 0:
            return _complain(answer.get("error", {}), args.output)
        result = answer["result"]
        if not files.has_content(fd):
            os.close(fd)
            raise Unusable(
                f"token {args.token} is {result['kind'] or 'a file without content'}, which has no content; "
                f"hand it to a command: luoctl restore {args.token} -- COMMAND"
            )
        try:
            count = sink.write(fd)
        except OSError as error:
            print(f"luoctl: {args.to}: {error.strerror}; restore it again elsewhere", file=sys.stderr)
            return FAILED
        finally:
            os.close(fd)
    said = sys.stderr if args.to == "-" else sys.stdout
    if args.output == "json":
        print(json.dumps({**result, "to": args.to, "bytes": count}, indent=2, sort_keys=True), file=said)
    else:
        print(restored(result, args.to, count), file=said)
    return OK


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


def _split(arguments: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before `--`, and the command after it, if there is one."""
    if "--" not in arguments:
        return arguments, None
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace, command: Sequence[str] | None) -> None:
    """What argparse cannot say. Ends the process with 2."""
    if args.cmd == "restore":
        if (args.to is None) == (command is None):
            parser.error("restore takes either --to FILE or -- COMMAND")
    elif command is not None:
        parser.error("only restore takes a COMMAND after --")
    if args.cmd == "preserve" and (args.fd is None) == (args.memfd is None):
        parser.error("preserve takes either FD or --memfd FILE")
    if args.cmd in ("prepare", "kexec") and not args.artifact and any(_for_the_agent(args).values()):
        parser.error(
            "these options are an attempt's: give the DIGEST of a staged artifact, too"
            if args.cmd == "prepare"
            else "these options go with the DIGEST of a staged artifact"
        )


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
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
    _output(parser, "text")
    verbs = parser.add_subparsers(dest="cmd", required=True, metavar="COMMAND")
    _attempt_verbs(verbs)
    _luo_verbs(verbs)
    verbs.add_parser("completion", help="print a shell completion script").add_argument(
        "shell", choices=("bash",)
    )
    for verb in verbs.choices.values():
        _output(verb, argparse.SUPPRESS)
    return parser


def _output(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default=default, help="how to answer")


Verbs = Any
"""argparse has no public name for what add_subparsers() gives."""


def _attempt_verbs(verbs: Verbs) -> None:
    verbs.add_parser("status", help="where this node stands")
    verbs.add_parser("sessions", help="LUO sessions of the current attempt")
    verbs.add_parser("subscribers", help="workloads that take part in a live update")
    load = verbs.add_parser("load", help="verify an artifact directory and keep it on this node")
    load.add_argument("artifact_dir", metavar="ARTIFACT_DIR", help="a directory with manifest.json")
    prepare = verbs.add_parser(
        "prepare",
        help="begin a local attempt: load, drain, preserve, wait; without DIGEST LUO's own PREPARE (RFC v2)",
    )
    prepare.add_argument(
        "artifact", metavar="DIGEST", nargs="?", default="", help="a staged artifact; its first digits do"
    )
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
        "--health-hold-s", type=_seconds, default=0.0, help="probes must hold this long (default 0)"
    )
    kexec = verbs.add_parser(
        "kexec",
        help="jump: suspend the workloads and start the prepared kernel; with DIGEST by hand, with whatever "
        "LUO is prepared for (RFC v2)",
        description="Without DIGEST: the jump of the attempt that `luoctl prepare DIGEST` began, which "
        "preserves the workloads. With DIGEST: a kexec by hand, which preserves none: refused while any "
        "is subscribed (`luoctl subscribers`), unless --skip-preflight says to lose their memory.",
    )
    kexec.add_argument("artifact", metavar="DIGEST", nargs="?", default="", help="a staged artifact")
    kexec.add_argument("--command-line", default="", help="of the target (default: the running kernel's)")
    kexec.add_argument(
        "--skip-preflight",
        action="store_true",
        help="go whatever preflight finds, and whoever is subscribed: expect to lose the workloads' memory "
        "and what is preserved, or a panic",
    )
    verbs.add_parser("cancel", help="undo what was prepared: the attempt, or LUO's PREPARE if there is none")
    verbs.add_parser("commit", help="make the running kernel what a cold boot starts")
    for verb in ("prepare", "cancel", "commit"):
        verbs.choices[verb].add_argument(
            "--no-wait", action="store_true", help="answer at once, not when the node is done"
        )
    story = verbs.add_parser("story", help="what happened on this node")
    story.add_argument("--lines", type=_number, default=50, help="how many of the newest (default 50)")


def _luo_verbs(verbs: Verbs) -> None:
    verbs.add_parser("state", help="LUO's state, its coupling to KHO, and what comes next (RFC v2)")
    verbs.add_parser("freeze", help="LUO's FREEZE; a kexec does it by itself (RFC v2)")
    verbs.add_parser("finish", help="LUO's FINISH: what came in is restored, or not wanted (RFC v2)")
    preserve = verbs.add_parser(
        "preserve",
        help="have LUO preserve a file; prints its token (RFC v2)",
        description="The file is the kernel's until it is given up with unpreserve; closing it changes "
        "nothing. It crosses the next kexec if LUO is prepared by then.",
    )
    preserve.add_argument(
        "fd", metavar="FD", nargs="?", type=_number, help="open in the shell: luoctl preserve 3 3<>FILE"
    )
    preserve.add_argument("--memfd", metavar="FILE", help="make a memfd with FILE's content; - is stdin")
    unpreserve = verbs.add_parser("unpreserve", help="give a token up; before prepare only (RFC v2)")
    unpreserve.add_argument("token", metavar="TOKEN", type=_number)
    restore = verbs.add_parser(
        "restore",
        help="get back a file that came in with the kexec (RFC v2)",
        usage="luoctl restore TOKEN (--to FILE | -- COMMAND…)",
        description=f"COMMAND inherits the file; {FD_ENV} in its environment is the descriptor's "
        f"number, {TOKEN_ENV} the token. The agent keeps a copy until finish: it can be had again.",
    )
    restore.add_argument("token", metavar="TOKEN", type=_number)
    restore.add_argument("--to", metavar="FILE", help="write a memfd's content to FILE; - is stdout")
    verbs.add_parser("list", help="all files that have a token, and their state (RFC v2)")
    verbs.add_parser("telemetry", help="phases of the last kexec, in the kernels' own words (RFC v2)")


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds of 0 or more")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
