"""Beside LUO, on a kernel process of RFC v2's model: sysfs, debugfs, telemetry, options."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from node_agent.kernel.emulated import synctokens
from tests.contract.conftest import StartRfc2
from tests.contract.rfc2_process import COMMAND_LINE, Node, preserved, refused


@pytest.fixture
async def node(start_rfc2: StartRfc2) -> Node:
    return await start_rfc2()


async def test_telemetry_is_told_after_a_plain_kexec_too(node: Node) -> None:
    kernel = node.kernel()
    assert await kernel.telemetry() is None
    await node.kexec()
    told = await kernel.telemetry()
    assert told is not None
    phases = [told.shutdown_tsc, told.purgatory_tsc, told.kernel_tsc, told.userspace_tsc]
    assert phases == sorted(phases)
    assert node.view("sys/kernel/kexec_telemetry").splitlines()[0] == f"shutdown_tsc {told.shutdown_tsc}"


async def test_kernels_without_telemetry_tell_nothing(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--telemetry", "off")
    await node.kexec(telemetry=False)
    assert await node.kernel().telemetry() is None


async def test_views_are_files_that_show_what_was_done_before_its_answer(node: Node) -> None:
    state, files = "sys/kernel/liveupdate/state", "sys/kernel/debug/liveupdate/files"
    assert node.view(state) == "normal\n"
    token = preserved(node)
    assert node.state == "normal"
    assert node.view(files) == f"{token} memfd registered\n"
    synctokens.prepare(node.device)
    assert node.view(state) == "prepared\n"
    assert node.view("sys/kernel/debug/kho/out/finalize") == "1\n"
    assert "memfd-v1" in node.view("sys/kernel/debug/kho/out/sub_fdts/LUO")
    assert node.control("view", "/" + state) == "prepared\n"
    assert json.loads(node.control("views"))["/" + state] == "prepared\n"
    assert refused(lambda: node.control("view", "/sys/nothing")) == "ENOENT"
    synctokens.cancel(node.device)
    assert not (node.path / "sys/kernel/debug/kho/out/sub_fdts/LUO").exists()
    synctokens.prepare(node.device)
    await node.kexec()
    assert node.view(state) == "updated\n"
    assert node.view(files) == f"{token} memfd arrived\n"
    os.close(synctokens.restore(node.device, token))
    synctokens.finish(node.device)
    assert (node.view(state), node.view(files)) == ("normal\n", "")


async def test_views_of_calls_on_files_follow_when_nothing_more_is_asked(node: Node) -> None:
    token = preserved(node)
    files = node.path / "sys/kernel/debug/liveupdate/files"
    while files.read_text() != f"{token} memfd registered\n":
        await asyncio.sleep(0)


async def test_no_view_outlives_its_kernel(start_rfc2: StartRfc2, tmp_path: Path) -> None:
    old = tmp_path / "node/sys/kernel/liveupdate/state"
    old.parent.mkdir(parents=True)
    old.write_text("of a kernel process that was killed")
    node = await start_rfc2()
    assert old.read_text() == "normal\n"
    await node.kexec(model="sessions")
    assert not old.exists()
    assert node.facts()["luo_model"] == "sessions"


async def test_kho_is_finalized_by_hand_where_it_calls_back(start_rfc2: StartRfc2) -> None:
    node = await start_rfc2("--coupling", "notifier")
    assert node.facts()["coupling"] == "notifier"
    node.control("debugfs_write", "kho/out/finalize", "1")
    assert (node.state, node.view("sys/kernel/liveupdate/state")) == ("prepared", "prepared\n")
    assert node.facts()["kho_finalized"] == "1"
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == "EEXIST"
    node.control("debugfs_write", "kho/out/finalize", "0")
    assert node.state == "normal"


@pytest.mark.parametrize(
    ("option", "error"), [(("--coupling", "luo-driven"), "EOPNOTSUPP"), (("--kho-debugfs", "off"), "ENOENT")]
)
async def test_kho_is_not_finalized_by_hand_elsewhere(
    start_rfc2: StartRfc2, option: tuple[str, str], error: str
) -> None:
    node = await start_rfc2(*option)
    assert refused(lambda: node.control("debugfs_write", "kho/out/finalize", "1")) == error
    assert node.state == "normal"


async def test_subsystems_are_chosen_by_options(start_rfc2: StartRfc2) -> None:
    line = f"{COMMAND_LINE} reserve_mem=4096:4096:mine"
    node = await start_rfc2("--auto-preserve", "reserve_mem", "--command-line", line)
    assert "reserve_mem auto" in node.view("sys/kernel/debug/liveupdate/subsystems")


async def test_the_default_kernel_is_of_the_same_model(node: Node) -> None:
    node.control("default", "6.16.7", COMMAND_LINE)
    with pytest.raises(OSError):
        node.control("power_loss")
    await node.boot()
    assert (node.facts()["release"], node.facts()["luo_model"], node.state) == ("6.16.7", "rfc-v2", "normal")
