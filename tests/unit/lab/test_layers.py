"""Layers of the guest's root, children of the build, and what is thrown away."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.lab import children, code, sources
from deploy.lab.errors import LabError
from deploy.lab.offers import Choice, Offer
from deploy.lab.root import Layer, settle


class Builder:
    """Layers that only note that they were made; `fails` names one that cannot be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []
        self.fails = ""

    def settle(self, **keys: str) -> list[str]:
        """Which layers were made, for these keys."""
        self.made.clear()
        settle(self.folder, [Layer(name, key, self._make(name)) for name, key in keys.items()])
        return list(self.made)

    def _make(self, name: str) -> Callable[[], None]:
        def make() -> None:
            if name == self.fails:
                raise LabError("no", reason="NO")
            self.made.append(name)

        return make


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def test_a_second_build_makes_nothing(builder: Builder) -> None:
    assert builder.settle(base="1", site="1", code="1") == ["base", "site", "code"]
    assert builder.settle(base="1", site="1", code="1") == []


@pytest.mark.parametrize(
    ("keys", "made"),
    [
        ({"base": "2", "site": "1", "code": "1"}, ["base", "site", "code"]),
        ({"base": "1", "site": "2", "code": "1"}, ["site", "code"]),
        ({"base": "1", "site": "1", "code": "2"}, ["code"]),
    ],
)
def test_a_change_makes_its_layer_and_those_after_it(
    builder: Builder, keys: dict[str, str], made: list[str]
) -> None:
    builder.settle(base="1", site="1", code="1")
    assert builder.settle(**keys) == made


def test_what_was_cut_off_is_made_again_with_all_after_it(builder: Builder) -> None:
    builder.settle(base="1", site="1", code="1")
    builder.fails = "site"
    with pytest.raises(LabError):
        builder.settle(base="1", site="2", code="1")
    builder.fails = ""
    # Back to the first key: the layer was touched, so it counts as not made.
    assert builder.settle(base="1", site="1", code="1") == ["site", "code"]


def test_a_child_that_fails_says_how_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LabError) as caught:
        children.run(
            ["sh", "-c", "echo one; echo the cause >&2; exit 3"],
            what="a step",
            log=tmp_path / "log",
            reason="STEP_FAILED",
        )
    assert caught.value.reason == "STEP_FAILED"
    assert "status 3" in str(caught.value)
    assert "the cause" in capsys.readouterr().err
    assert (tmp_path / "log").read_text() == "one\nthe cause\n"


def test_progress_is_shown_while_a_child_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "PROGRESS_S", 0.05)
    children.run(["sh", "-c", "echo; echo; sleep 0.5"], what="a step", log=tmp_path / "log", reason="NO")
    assert "a step: 0 s, 2 steps" in capsys.readouterr().out


def test_an_interrupted_build_ends_its_child(tmp_path: Path) -> None:
    """The child's pid is its first line; when the build is gone, so is the child."""
    script = (
        "import sys; from pathlib import Path; from deploy.lab import children\n"
        "children.run(['sh', '-c', 'echo $$; exec sleep 60'], what='x', log=Path(sys.argv[1]), reason='NO')"
    )
    log = tmp_path / "log"
    build = subprocess.Popen([sys.executable, "-c", script, str(log)], stderr=subprocess.PIPE)
    wait = threading.Event()
    while not (log.exists() and log.read_text().endswith("\n")):
        assert build.poll() is None
        wait.wait(0.01)
    build.send_signal(2)
    build.communicate(timeout=30)
    stat = Path(f"/proc/{log.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


def test_output_is_given_or_the_reason(tmp_path: Path) -> None:
    assert children.output(["echo", "x"], reason="NO") == "x\n"
    for argv in (["sh", "-c", "exit 1"], [str(tmp_path / "none")]):
        with pytest.raises(LabError) as caught:
            children.output(argv, reason="NO")
        assert caught.value.reason == "NO"


def test_only_what_belongs_to_the_choice_is_kept(tmp_path: Path) -> None:
    choice = Choice(Offer("linux-source-7.2", "7.2.13-1"), Offer("linux-source-7.3", "7.3.4-1"))
    for shelf in ("sources", "objects"):
        for key in ("linux-source-7.1_7.1.9-1", "linux-source-7.2_7.2.13-1", "linux-source-7.3_7.3.4-1"):
            (tmp_path / shelf / key).mkdir(parents=True)
    sources.prune(tmp_path, choice)
    for shelf in ("sources", "objects"):
        left = sorted(path.name for path in (tmp_path / shelf).iterdir())
        assert left == ["linux-source-7.2_7.2.13-1", "linux-source-7.3_7.3.4-1"]


def project(folder: Path) -> Path:
    """A checkout with as little as possible in it."""
    for name in ("node_agent/core", "protos/liveroll/v1"):
        (folder / name).mkdir(parents=True)
    (folder / "node_agent/core/saga.py").write_text("x = 1\n")
    (folder / "protos/liveroll/v1/agent_pb2.py").write_text("y = 1\n")
    (folder / "protos/liveroll/v1/agent.proto").write_text("message Y {}\n")
    (folder / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    return folder


def test_the_codes_key_changes_with_code_alone(tmp_path: Path) -> None:
    top = project(tmp_path)
    first = code.key(top)
    (top / "README.md").write_text("new")
    (top / "protos/liveroll/v1/agent.proto").write_text("message Z {}\n")
    assert code.key(top) == first
    (top / "node_agent/core/saga.py").write_text("x = 2\n")
    assert code.key(top) != first


def test_code_is_laid_out_for_the_guest(tmp_path: Path) -> None:
    top, tree = project(tmp_path / "project"), tmp_path / "tree"
    for name in ("usr/bin", "sbin"):
        (tree / name).mkdir(parents=True)
    stale = tree / "usr/lib/liveroll/node_agent/gone.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    code.install(tree, top)
    assert (tree / "usr/lib/liveroll/node_agent/core/saga.py").read_text() == "x = 1\n"
    assert (tree / "usr/lib/liveroll/liveroll/v1/agent_pb2.py").exists()
    assert (tree / "usr/lib/liveroll/guest/execd.py").exists()
    assert not stale.exists()
    assert "Version: 1.2.3" in (tree / "usr/lib/liveroll/liveroll-1.2.3.dist-info/METADATA").read_text()
    for name in ("usr/bin/liveroll-agent", "usr/bin/luoctl", "usr/lib/liveroll/init", "sbin/init"):
        assert (tree / name).stat().st_mode & 0o111, name
    # Without the product's early init the kernel's init= still leads to the lab's.
    assert "exec /sbin/init" in (tree / "usr/lib/liveroll/init").read_text()
