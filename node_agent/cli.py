"""`liveroll-agent`: arguments in, exit code out.

On the other side of a kexec the blackout path comes first: before argparse, before anything
else of this package is imported. All imports here are made where they are needed.

Exit codes: 0 ok, 2 invalid input, 3 assess: not ready, 4 failed, 6 unreachable, 7 denied. An expected
error is a line or two on stderr that say how to mend it, never a traceback.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from node_agent.errors import AgentError
    from node_agent.resume.handover import Handover

OK, INVALID, FAILED, UNREACHABLE, DENIED = 0, 2, 4, 6, 7
_CODES: Mapping[str, int] = {
    "SETTINGS_INVALID": INVALID,
    "REAL_NODE": INVALID,
    "PLAINTEXT_REFUSED": INVALID,
    "FAULT_INVALID": INVALID,
    "NODE_NOT_RUNNING": INVALID,
    "ARTIFACT_NOT_FOUND": INVALID,
    "PORT_IN_USE": INVALID,
    "ALREADY_RUNNING": INVALID,
    "UNREACHABLE": UNREACHABLE,
    "HELLO_UNANSWERED": UNREACHABLE,
    "UNAUTHENTICATED": DENIED,
    "PERMISSION_DENIED": DENIED,
    "NODE_ID_CONFLICT": DENIED,
    "NOT_AN_AGENT": DENIED,
}

DESCRIPTION = "The Liveroll node agent: takes this node through live kernel updates as the orchestrator says."
EPILOG = """\
examples:
  liveroll-agent run --kernel real --config /etc/liveroll/agent.toml
  liveroll-agent run --orchestrator 127.0.0.1:7444 --state-dir /tmp/node --root /tmp/node --label zone=a
  liveroll-agent simulate --nodes 24 --zones 3 --orchestrator 127.0.0.1:7444 --workloads 2
  liveroll-agent assess --artifact /srv/artifacts/linux-7.3.4
  liveroll-agent completion bash > /etc/bash_completion.d/liveroll-agent

Every setting can stand in the TOML file, in the environment (LIVEROLL_AGENT_NODE_ID, …) or be a flag;
flags go before the environment, the environment before the file.
"""
ASSESS_DESCRIPTION = """\
Prints what this kernel offers (LUO, KHO, their ABI strings, scratch, memory) and everything for which
preflight would refuse an update, each with how to mend it. Changes nothing, needs no running agent; as
root it sees more. Exit code 0: ready, 3: not ready.
"""
SIMULATE_EPILOG = """\
examples:
  liveroll-agent simulate --nodes 8 --orchestrator 127.0.0.1:7444
  liveroll-agent simulate --nodes 8 --prefix b --releases 7.2.13,7.3.4 --models r640,r650 --seed 7
  liveroll-agent simulate --nodes 8 --faults node-03=refuse_freeze@1 --faults node-05=panic
  liveroll-agent simulate --nodes 8 --image 7.4.0-rc1=unhealthy
  liveroll-agent simulate --nodes 8 --luo-model sessions,rfc-v2/notifier --image 6.16.1=rfc-v2

Faults are `NODE=KIND[=VALUE][@N],…`: refuse_freeze, refuse_prepare (rfc-v2), hang, panic, power_loss,
never_back, wrong_kernel, session_lost, poison, retrieve_error, busy, slow, torn_journal, corrupt_journal,
full_disk, slow_link, cut_link; @N is the N-th kexec of that node. All timings are emulated and say nothing
of a real kernel.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run liveroll-agent; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    handover = resume(arguments)
    # gRPC's own lines are about its sockets; what matters of them is in our errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from node_agent.errors import AgentError

    args = build_parser().parse_args(arguments)
    try:
        if args.verb == "run":
            return _run(args, arguments, handover)
        return int(args.run(args))
    except AgentError as error:
        complain(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output went away; nothing is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def resume(arguments: Sequence[str]) -> Handover | None:
    """The blackout path, if this is the userspace of a node that says where its journal is: of an
    emulated one, or of this machine, where its agent of before has left word of it."""
    root = os.environ.get("LIVEROLL_NODE_ROOT", "")
    if not root and (arguments[:1] != ["run"] or "emulated" in arguments):
        return None
    from node_agent.resume.take import take

    return take(root)


def exit_code(error: AgentError) -> int:
    """Which status an expected error ends the process with."""
    return _CODES.get(error.reason, FAILED)


def complain(error: AgentError) -> None:
    """Say what is wrong and how to mend it, on stderr."""
    print(f"liveroll-agent: {error.message} [{error.reason}]", file=sys.stderr)
    for key, value in error.fields.items():
        if key.startswith("violation_"):
            print(f"  {value}", file=sys.stderr)
    if error.remedy:
        print(f"liveroll-agent: to mend it: {error.remedy}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="liveroll-agent",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    _run_parser(verbs.add_parser("run", help="be the agent of this node"))
    _simulate_parser(
        verbs.add_parser(
            "simulate",
            help="host emulated nodes in this process, each with its own link",
            epilog=SIMULATE_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _assess_parser(
        verbs.add_parser(
            "assess",
            help="what stands between this node, at rest, and a live update",
            description=ASSESS_DESCRIPTION,
        )
    )
    init = verbs.add_parser(
        "install-init",
        help="install the early init, which brings workloads back before anything else of the boot",
        description="Install the early init as DIR/init, with the modules that it needs beside it. Name it "
        "on the node's kernel command line (init=DIR/init); it becomes the real init after it has begun. "
        "Do it again after each upgrade of the agent.",
    )
    init.add_argument("--dest", metavar="DIR", default="/usr/lib/liveroll", help="default: %(default)s")
    init.set_defaults(run=_install_init)
    version = verbs.add_parser("version", help="print the version")
    version.set_defaults(run=_version)
    completion = verbs.add_parser("completion", help="print a shell completion script")
    completion.add_argument("shell", choices=("bash",))
    completion.set_defaults(run=_completion)
    return parser


def _link_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--orchestrator",
        metavar="HOST:PORT[,…]",
        help="where to link to; of several, with commas, any that answers",
    )
    parser.add_argument("--tls-ca", metavar="FILE", dest="tls.ca", help="the orchestrator's authority, PEM")
    parser.add_argument(
        "--tls-certificate", metavar="FILE", dest="tls.certificate", help="own certificate, PEM"
    )
    parser.add_argument("--tls-key", metavar="FILE", dest="tls.key", help="its private key, PEM")
    parser.add_argument(
        "--metrics-listen", metavar="HOST:PORT", dest="metrics.listen", help="serve /metrics there"
    )
    parser.add_argument("--log-format", choices=("console", "json"), dest="log.format")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), dest="log.level")
    parser.add_argument("--state-dir", metavar="DIR", help="journal and artifacts")


def _run_parser(parser: argparse.ArgumentParser) -> None:
    from node_agent.settings import LUO_MODELS

    parser.add_argument("--config", metavar="FILE", help="TOML file (default /etc/liveroll/agent.toml)")
    parser.add_argument("--node-id", metavar="NAME", help="default: the host name")
    parser.add_argument(
        "--label", action="append", dest="labels", metavar="KEY=VALUE", help="may be given several times"
    )
    parser.add_argument(
        "--kernel", choices=("emulated", "real"), help="default: emulated; real: this machine"
    )
    parser.add_argument(
        "--quiesce",
        choices=("freeze", "sync"),
        help="filesystems before a kexec: freeze (default), or write back only",
    )
    parser.add_argument(
        "--clock-tsc",
        choices=("auto", "trust", "off"),
        dest="clock.tsc",
        help="does the TSC measure across a kexec? auto (default) looks at the processor and the kernel",
    )
    parser.add_argument("--root", metavar="DIR", help="of the emulated kernel that is a process of its own")
    for flag, text in (
        ("release", "its first kernel"),
        ("model", "its hardware model"),
        ("faults", "what goes wrong, see simulate --help"),
    ):
        parser.add_argument(f"--{flag}", dest=f"emulated.{flag}", help=f"of the emulated node: {text}")
    parser.add_argument(
        "--command-line-append",
        metavar="WORDS",
        dest="emulated.command_line_append",
        help="of the emulated node: on a cold boot's command line beside the usual ones, "
        "for instance reserve_mem=1M:4096:cache",
    )
    parser.add_argument(
        "--kexec-s", type=float, dest="emulated.kexec_s", help="of the emulated node: time of a kexec"
    )
    parser.add_argument(
        "--service",
        action="append",
        dest="emulated.services",
        metavar="COMMAND",
        help="of the emulated node: what else starts with each boot, a workload for instance",
    )
    parser.add_argument(
        "--luo-model",
        choices=LUO_MODELS,
        dest="emulated.luo_model",
        help="of the emulated node: LUO as merged (default), or the seed's, in one of its couplings with KHO",
    )
    for flag, words, text in (
        ("kho-debugfs", ("on", "off"), "can KHO be finalized by hand"),
        ("reserve-mem", ("luo", "kho"), "which carries reserve_mem's regions"),
    ):
        parser.add_argument(
            f"--{flag}",
            choices=words,
            dest=f"emulated.{flag.replace('-', '_')}",
            help=f"of rfc-v2: {text} (default {words[0]})",
        )
    parser.add_argument(
        "--auto-preserve",
        action="append",
        dest="emulated.auto_preserve",
        metavar="SUBSYSTEM",
        help="of rfc-v2: what every kexec carries, whatever LUO's state",
    )
    parser.add_argument(
        "--broker-socket", metavar="PATH", dest="broker.socket", help="where workloads subscribe"
    )
    parser.add_argument("--broker-group", metavar="GROUP", dest="broker.group", help="who may connect to it")
    parser.add_argument("--broker-mode", metavar="OCTAL", dest="broker.mode", help="default: 0660")
    parser.add_argument("--control-socket", metavar="PATH", dest="control.socket", help="where luoctl asks")
    parser.add_argument(
        "--running-artifact", metavar="DIR", dest="artifacts.running", help="the running kernel's artifact"
    )
    _link_arguments(parser)


def _assess_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--artifact", metavar="DIR", help="a target's artifact: can this node go there?")
    parser.add_argument(
        "--config", metavar="FILE", help="the agent's TOML file (default /etc/liveroll/agent.toml)"
    )
    parser.add_argument(
        "--kernel", choices=("emulated", "real"), help="default: as the settings say, real without any"
    )
    parser.add_argument("--root", metavar="DIR", help="of the emulated node")
    parser.add_argument("--state-dir", metavar="DIR", help="journal and artifacts")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to answer")
    parser.set_defaults(run=_assess)


def _simulate_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, required=True, metavar="N", help="how many (1 … 10000)")
    parser.add_argument(
        "--zones", type=int, default=3, help="failure domains, label zone=a, b, … (default 3)"
    )
    parser.add_argument("--prefix", default="node", help="names are PREFIX-01, PREFIX-02, … (default node)")
    parser.add_argument("--releases", default="7.2.13", metavar="R,R", help="running kernels, in turn")
    parser.add_argument("--models", default="emulated", metavar="M,M", help="hardware models, in turn")
    parser.add_argument(
        "--label", action="append", dest="labels", metavar="KEY=VALUE", default=[], help="of every node"
    )
    parser.add_argument(
        "--faults",
        action="append",
        default=[],
        metavar="NODE=SPEC",
        help="what goes wrong where; * is every node",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="RELEASE=TRAIT",
        help="what a kernel is like, several with +: unhealthy, panics, bad, no-kho, no-liveupdate, or a "
        "model as below",
    )
    parser.add_argument(
        "--luo-model",
        default="sessions",
        metavar="W,W",
        help="models of LUO, in turn: sessions, as merged (default), rfc-v2, rfc-v2/luo-driven (the same), "
        "rfc-v2/notifier",
    )
    parser.add_argument("--workloads", type=int, default=1, metavar="K", help="on each node (default 1)")
    parser.add_argument(
        "--devices",
        type=int,
        default=0,
        metavar="D",
        help="PCI devices of each node, each driven by a workload and preserved with it, writing into its "
        "memory all the while; rfc-v2 only (default 0)",
    )
    parser.add_argument("--mib", type=float, default=0.25, metavar="M", help="memory of each (default 0.25)")
    parser.add_argument("--seed", type=int, default=0, help="of boot ids, memory patterns and jitter")
    parser.add_argument(
        "--kexec-s", type=float, default=0.6, metavar="S", help="an emulated kexec (default 0.6)"
    )
    parser.add_argument(
        "--drain-s", type=float, default=0.0, metavar="S", help="an emulated drain (default 0)"
    )
    _link_arguments(parser)
    parser.set_defaults(run=_simulate)


def settings_flags(args: argparse.Namespace) -> dict[str, object]:
    """The settings among the arguments, as settings.load() takes them."""
    return {k: v for k, v in vars(args).items() if k not in ("verb", "run", "config") and v is not None}


def _run(args: argparse.Namespace, arguments: Sequence[str], handover: Handover | None) -> int:
    from pathlib import Path

    from node_agent import app, settings_load

    config = Path(args.config) if args.config else None
    settings = settings_load.load(config=config, flags=settings_flags(args))
    return app.run(settings, arguments=arguments, handover=handover)


def _assess(args: argparse.Namespace) -> int:
    from node_agent import assess

    return assess.run(args)


def _simulate(args: argparse.Namespace) -> int:
    from node_agent import simulate

    return simulate.run(simulate.options(args))


def _install_init(args: argparse.Namespace) -> int:
    from pathlib import Path

    from node_agent import install_init

    launcher = install_init.install(Path(args.dest).absolute())
    print(f"installed {launcher}; next: add init={launcher} to the node's kernel command line")
    if not install_init.INTERPRETER.exists():
        print(f"liveroll-agent: there is no {install_init.INTERPRETER}, which runs it", file=sys.stderr)
    return OK


def _version(_args: argparse.Namespace) -> int:
    from node_agent.version import version

    print(f"liveroll-agent {version()}")
    return OK


def _completion(_args: argparse.Namespace) -> int:
    import argparse

    parser = build_parser()
    verbs = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    print("_liveroll_agent() {")
    print('  local cur="${COMP_WORDS[COMP_CWORD]}" words=""')
    print('  case "${COMP_WORDS[1]}" in')
    for name, sub in verbs.choices.items():
        flags = " ".join(sorted(o for a in sub._actions for o in a.option_strings if o.startswith("--")))
        print(f'    {name}) words="{flags}" ;;')
    print(f'    *) words="{" ".join(verbs.choices)} --help" ;;')
    print("  esac")
    print('  COMPREPLY=( $(compgen -W "$words" -- "$cur") )')
    print("}")
    print("complete -o default -F _liveroll_agent liveroll-agent")
    return OK


if __name__ == "__main__":
    sys.exit(main())
