"""Descriptions, control sockets, consoles, answers: what crosses between the lab's processes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import accel, control, description, guest_exec
from deploy.lab.console import Console
from deploy.lab.description import Description, NodeFiles
from deploy.lab.errors import LabError
from deploy.lab.fleet import Fleet, is_lab, state_dir
from deploy.lab.machine import EXEC_PORT, METRICS_PORT
from deploy.lab.ports import free_ports

DESCRIBED = Description(
    name="node-01",
    kernel="a",
    kernels={"a": Path("/k/a"), "b": Path("/k/b")},
    command_line="x y",
    accel="tcg",
    memory_mib=512,
    model="r640",
    exec_port=20_001,
    metrics_port=20_002,
)


def test_a_description_comes_back_and_makes_the_machine(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    description.save(files.description, DESCRIBED)
    found = description.load(files.description)
    assert found == DESCRIBED
    machine = found.machine(files)
    assert machine.disk == tmp_path / "disk.img"
    assert machine.forwards == {EXEC_PORT: 20_001, METRICS_PORT: 20_002}


@pytest.mark.parametrize("text", ["", "[]", '{"name": "x"}', '{"name": "x", "kernels": []}'])
def test_a_spoilt_description_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(LabError) as caught:
        description.load(tmp_path / "node.json")
    assert caught.value.reason == "NODE_UNREADABLE"


async def test_the_control_socket_works_at_the_end_of_any_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    path = deep / "control.sock"

    async def perform(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("do") == "fail":
            raise LabError("no", reason="REFUSED", remedy="ask nicely")
        return {"said": request.get("do")}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await control.answer(await reader.readline(), perform))
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(serve, sock=control.listen(path)):
        assert await asyncio.to_thread(control.ask, path, {"do": "status"}) == {"said": "status"}
        with pytest.raises(LabError) as caught:
            await asyncio.to_thread(control.ask, path, {"do": "fail"})
    assert (caught.value.reason, caught.value.remedy) == ("REFUSED", "ask nicely")
    with pytest.raises(LabError) as caught:
        await asyncio.to_thread(control.ask, path, {"do": "status"})
    assert caught.value.reason == "NODE_DOWN"


async def test_rubbish_on_the_control_socket_is_answered() -> None:
    async def perform(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"request": dict(request)}

    assert json.loads(await control.answer(b"{", perform))["reason"] == "REQUEST_INVALID"
    assert json.loads(await control.answer(b"[1]", perform)) == {"request": {}}


async def test_a_console_is_waited_for_from_a_place_on(tmp_path: Path) -> None:
    console = Console(tmp_path / "console.log")
    assert (console.size, console.text(), console.tail()) == (0, "", "")
    console.path.write_bytes(b"one\r\nLinux version 7\r\n")
    assert (await console.wait_for(r"^Linux version (\d)", timeout_s=1.0))[1] == "7"
    here = console.size
    with pytest.raises(LabError, match="Linux version 7") as caught:
        await console.wait_for("^Linux version", timeout_s=0.01, since=here)
    assert caught.value.reason == "CONSOLE_SILENT"
    waiting = asyncio.create_task(console.wait_for("^two", timeout_s=10.0, since=here))
    with console.path.open("ab") as file:
        file.write(b"two\r\n")
    await waiting


def test_the_guests_answers() -> None:
    assert guest_exec.decode({"rc": 1, "stdout": "o", "stderr": "e"}) == guest_exec.Ran(1, "o", "e")
    assert guest_exec.decode({"rc": -9, "stdout": "", "stderr": "", "timed_out": True}).timed_out
    assert guest_exec.decode({"pid": 7}).pid == 7
    with pytest.raises(LabError, match="no such file"):
        guest_exec.decode({"error": "no such file"})


async def test_a_guest_that_does_not_listen_is_said() -> None:
    with pytest.raises(LabError) as caught:
        await guest_exec.run(free_ports(1)[0], ["true"], timeout_s=1.0)
    assert caught.value.reason == "GUEST_UNREACHABLE"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


async def test_the_accelerator_can_be_said(tmp_path: Path) -> None:
    assert await accel.choose(tmp_path / "k", tmp_path, {"LIVEROLL_LAB_ACCEL": "kvm"}) == "kvm"
    with pytest.raises(LabError) as caught:
        await accel.choose(tmp_path / "k", tmp_path, {"LIVEROLL_LAB_ACCEL": "xen"})
    assert caught.value.reason == "ACCEL_UNKNOWN"


def test_where_the_state_is(tmp_path: Path) -> None:
    assert state_dir({"LIVEROLL_LAB_STATE": "/x/y"}) == Path("/x/y")
    assert state_dir({}).name == "lab-state"
    assert not is_lab(tmp_path)
    (tmp_path / "nodes").mkdir()
    assert is_lab(tmp_path)


async def test_no_lab_is_down_and_taking_it_down_removes_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(LabError) as caught:
        Fleet.attach(tmp_path)
    assert caught.value.reason == "LAB_DOWN"
    assert await Fleet(tmp_path).down() == 0
    assert (tmp_path / "precious").exists()
