"""`liveroll artifact`: build, verify and look at kernel artifacts. Local files only, no server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.artifacts.live_update import LiveUpdate, render
from orchestrator.artifacts.manifest import Manifest
from orchestrator.cli.failure import Exit, Failed
from orchestrator.errors import AlreadyExists, LiverollError, NotFound

app = typer.Typer(
    no_args_is_help=True,
    help="Build and verify the kernels that rollouts install.",
    rich_markup_mode=None,
)

Output = Annotated[str, typer.Option("--output", "-o", help="table or json")]


@app.command("build")
def build_command(
    kernel: Annotated[Path, typer.Option("--kernel", help="The bzImage, for instance /boot/vmlinuz-6.19.3")],
    initrd: Annotated[Path | None, typer.Option("--initrd", help="Its initramfs")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Its .config; preflight reads KHO and LUO options from it")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The orchestrator's artifacts directory")] = Path(
        "/var/lib/liveroll/artifacts"
    ),
    name: Annotated[str, typer.Option("--name", help="Default: linux-<release>")] = "",
    append: Annotated[
        list[str] | None, typer.Option("--append", help="A word for every node's command line")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", help="A word, or a key that ends in =, to take off it")
    ] = None,
    vmlinux: Annotated[
        Path | None,
        typer.Option("--vmlinux", help="Its ELF file, if the kernel cannot be unpacked here; not kept"),
    ] = None,
    abi: Annotated[
        list[str] | None,
        typer.Option("--abi", help="Its ABI strings by hand: kho=kho-v4,luo=luo-v5,memfd=memfd-v2"),
    ] = None,
    output: Output = "table",
) -> None:
    """Make an artifact directory from a kernel's files.

    The release is read out of the kernel itself. A truncated kernel, or a file that is none, is
    refused.

    The kernel is also unpacked, and the ABI strings of KHO, LUO and the file handlers in it go into the
    manifest as live_update: a node's preflight compares them with those of the kernel that it runs, since
    a kernel with other strings loses what was preserved, or panics at boot. An lz4 or zstd kernel
    needs the program of that name.

    Example: liveroll artifact build --kernel /boot/vmlinuz-6.19.3 --initrd /boot/initrd.img-6.19.3
    --config /boot/config-6.19.3 --out ./artifacts
    """
    from orchestrator.artifacts.build import build  # heavy only for this command

    with _refusals():
        manifest = build(
            out,
            kernel=kernel,
            initrd=initrd,
            config=config,
            name=name,
            remove=tuple(remove or ()),
            append=tuple(append or ()),
            vmlinux=vmlinux,
            abi=tuple(abi or ()),
            warn=_warn,
        )
    _show(manifest, out / manifest.name, output)


@app.command("emulated")
def emulated_command(
    release: Annotated[str, typer.Argument(help="What `uname -r` will say on the emulated nodes")],
    out: Annotated[Path, typer.Option("--out", help="The orchestrator's artifacts directory")],
    name: Annotated[str, typer.Option("--name", help="Default: linux-<release>")] = "",
    abi: Annotated[
        list[str] | None,
        typer.Option(
            "--abi",
            help="Other ABI strings than Linux 7.2's: luo=luo-v9 is refused; "
            "kho=kho-v1,luo=luo-v1,memfd=memfd-v1 is a kernel of RFC v2's model",
        ),
    ] = None,
    output: Output = "table",
) -> None:
    """Make an artifact for emulated nodes: a placeholder kernel with KHO and LUO switched on.

    Example: liveroll artifact emulated 6.19.3-demo --out ./state/artifacts
    """
    from orchestrator.artifacts.build import build_emulated

    with _refusals():
        manifest = build_emulated(out, release=release, name=name, abi=tuple(abi or ()))
    _show(manifest, out / manifest.name, output)


@app.command("verify")
def verify_command(
    directory: Annotated[Path, typer.Argument(help="The artifact's directory")], output: Output = "table"
) -> None:
    """Read every file of an artifact and compare it with its manifest."""
    from orchestrator.artifacts.build import verify

    with _refusals():
        manifest = verify(directory)
    _show(manifest, directory, output)


@contextmanager
def _refusals() -> Iterator[None]:
    """What the artifact code refuses, told as the other commands tell it."""
    try:
        yield
    except LiverollError as error:
        wrong_call = isinstance(error, NotFound | AlreadyExists) or error.reason == "ABI_INVALID"
        status = Exit.INVALID if wrong_call else Exit.BLOCKED
        raise Failed(status, error.message, error.reason, error.remedy, fields=error.fields) from None
    except OSError as error:
        raise Failed(
            Exit.INVALID,
            f"cannot use {error.filename}: {error.strerror}",
            "FILE_UNUSABLE",
            "Give files that you may read, and a directory that you may write.",
        ) from None


def _warn(message: str, remedy: str) -> None:
    typer.echo(f"warning: {message}", err=True)
    typer.echo(f"to mend it: {remedy}", err=True)


def _abi(known: LiveUpdate | None) -> str:
    if known is None:
        return "not known"
    handlers = " ".join(known.handlers.values())
    return f"{known.kho or 'no KHO'}, {known.luo or 'no LUO'}, {handlers or 'no file handler'}"


def _show(manifest: Manifest, path: Path, output: str) -> None:
    if output == "json":
        typer.echo(
            json.dumps(
                {
                    "name": manifest.name,
                    "release": manifest.release,
                    "digest": manifest.digest,
                    "path": str(path),
                    "emulated": manifest.emulated,
                    "files": {
                        role: {"name": f.name, "sha256": f.sha256, "size": f.size}
                        for role, f in manifest.files.items()
                    },
                    "live_update": render(manifest.live_update) if manifest.live_update else None,
                },
                indent=2,
            )
        )
        return
    typer.echo(f"{manifest.name}: kernel release {manifest.release}")
    typer.echo(f"  path    {path}")
    typer.echo(f"  digest  {manifest.digest}")
    typer.echo(f"  abi     {_abi(manifest.live_update)}")
    for role, file in manifest.files.items():
        typer.echo(f"  {role:<7} {file.name} ({file.size} bytes, sha256 {file.sha256[:16]}…)")
