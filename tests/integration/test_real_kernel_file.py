"""An artifact from a kernel as a distribution ships it; truncated or altered, it is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=100)


def liveroll(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "orchestrator.cli.main", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/boot of Debian's smallest kernel package."""
    directory = tmp_path_factory.mktemp("kernel")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("no apt-get here: a Debian kernel package cannot be had")
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64", cwd=directory).stdout
    package = next((w for w in depends.split() if w.startswith("linux-image-") and w[12].isdigit()), "")
    fetched = run("apt-get", "download", "-q", package, cwd=directory) if package else None
    if fetched is None or fetched.returncode:
        pytest.skip("the package archive does not offer linux-image-cloud-amd64 (run apt-get update)")
    (deb,) = directory.glob("*.deb")
    assert run("dpkg-deb", "-x", str(deb), "tree", cwd=directory).returncode == 0
    return directory / "tree" / "boot"


def test_the_release_comes_out_of_the_kernel_itself(boot: Path, tmp_path: Path) -> None:
    (kernel,) = boot.glob("vmlinuz-*")
    (config,) = boot.glob("config-*")
    made = liveroll(
        "artifact", "build", "--kernel", str(kernel), "--config", str(config), "--out", "out", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    release = kernel.name.removeprefix("vmlinuz-")
    assert f"kernel release {release}" in made.stdout
    artifact = tmp_path / "out" / f"linux-{release}"
    assert liveroll("artifact", "verify", str(artifact), cwd=tmp_path).returncode == 0

    altered = artifact / "vmlinuz"
    raw = bytearray(altered.read_bytes())
    raw[len(raw) // 2] ^= 1
    altered.write_bytes(raw)
    refused = liveroll("artifact", "verify", str(artifact), cwd=tmp_path)
    assert refused.returncode == 3
    assert "was altered" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_truncated_kernel_is_refused(boot: Path, tmp_path: Path) -> None:
    (kernel,) = boot.glob("vmlinuz-*")
    (tmp_path / "short").write_bytes(kernel.read_bytes()[:-4096])
    refused = liveroll("artifact", "build", "--kernel", "short", "--out", "out", cwd=tmp_path)
    assert refused.returncode == 3
    assert "truncated" in refused.stderr
    assert not list((tmp_path / "out").glob("*"))
