"""What makes a copy of the guest root a node."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deploy.lab.disk import GuestFile, commands
from deploy.lab.errors import LabError
from deploy.lab.wanted import Link, Wanted, agent_toml, example_workload, node_files

LINK = Link("10.0.2.2:7444", b"CA", b"CERT", b"KEY")


def test_names_are_numbered() -> None:
    assert Wanted(nodes=2, prefix="hv").names() == ["hv-01", "hv-02"]


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"nodes": 17}, {"memory_mib": 128}, {"models": ()}])
def test_impossible_labs_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LabError) as caught:
        Wanted(**wrong).checked()  # type: ignore[arg-type]
    assert caught.value.reason == "WANTED_INVALID"


def test_the_agents_settings_name_everything() -> None:
    table = tomllib.loads(agent_toml("node-01", {"zone": "a", "x/y": '"q"'}, LINK, artifact=True))
    assert table["kernel"] == "real"
    assert table["orchestrator"] == "10.0.2.2:7444"
    assert table["labels"] == {"zone": "a", "x/y": '"q"'}
    assert table["tls"]["key"] == "/etc/liveroll/tls/agent.key"
    assert table["artifacts"]["running"] == "/etc/liveroll/artifact"
    assert table["hooks"]["set_default_kernel"]["command"][0].startswith("/")
    assert table["broker"]["mode"] == "0666"


def test_without_an_orchestrator_there_is_no_link() -> None:
    table = tomllib.loads(agent_toml("node-01", {}, None, artifact=False))
    assert "orchestrator" not in table
    assert "tls" not in table
    assert "artifacts" not in table


def test_more_settings_go_over_ours_table_by_table() -> None:
    more = 'state_dir = "/elsewhere"\n[broker]\nmode = "0600"\n[hooks.health]\ncommand = ["/bin/true"]\n'
    table = tomllib.loads(agent_toml("node-01", {}, None, artifact=False, more=more))
    assert table["state_dir"] == "/elsewhere"
    assert table["broker"] == {"mode": "0600"}
    assert set(table["hooks"]) == {"health", "set_default_kernel"}


def test_a_nodes_files() -> None:
    wanted = Wanted(
        nodes=4,
        models=("r640", "r760"),
        workloads=("one", "two"),
        files={"/etc/motd": GuestFile(b"hello")},
        labels={"pool": "x"},
    )
    files = node_files(wanted, 3, LINK, {"manifest.json": b"{}"}, b"#!hook")
    table = tomllib.loads(files["/etc/liveroll/agent.toml"].data.decode())
    assert table["labels"] == {"zone": "a", "hardware_model": "r760", "pool": "x"}
    assert files["/etc/hostname"].data == b"node-04\n"
    assert files["/etc/liveroll/workloads"].data == b"one\ntwo\n"
    assert files["/etc/liveroll/tls/agent.key"] == GuestFile(b"KEY", 0o600)
    assert files["/etc/liveroll/artifact/manifest.json"].data == b"{}"
    assert files["/usr/lib/liveroll/guest/set-default"].mode == 0o755
    assert files["/etc/motd"].data == b"hello"


def test_the_example_workload_is_one_line_of_an_ordinary_user() -> None:
    line = example_workload("vm-7", 16)
    assert "\n" not in line
    assert line.startswith("/usr/bin/setpriv --reuid=1000")
    assert line.endswith("--id vm-7 --mib 16")


def test_the_disks_script_makes_directories_first_and_replaces_files() -> None:
    lines = commands({"/a/b/c": GuestFile(b"x", 0o600)}, {"/a/b/c": Path("/tmp/x 1")})
    assert lines == [
        "mkdir /a",
        "mkdir /a/b",
        "rm /a/b/c",
        'write "/tmp/x 1" /a/b/c',
        "set_inode_field /a/b/c mode 0100600",
        "set_inode_field /a/b/c uid 0",
        "set_inode_field /a/b/c gid 0",
    ]
