"""QEMU's command line and a node's kernel command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab.machine import Machine, argv, command_line, option


def line_of(**changes: object) -> list[str]:
    given = {"name": "node-01", "disk": Path("/s/disk.img"), "console": Path("/s/console.log"), **changes}
    machine = Machine(**given)  # type: ignore[arg-type]
    return argv(machine, kernel=Path("/k/bzImage"), append="a b", monitor_fd=5, firmware_fd=7)


def value_after(line: list[str], flag: str) -> str:
    return line[line.index(flag) + 1]


def test_a_reset_ends_it_and_what_the_guest_has_synced_is_on_disk() -> None:
    line = line_of()
    assert "-no-reboot" in line
    assert "file=/s/disk.img,format=raw,if=none,id=disk,cache=writeback" in line


def test_kernel_and_command_line_are_one_word_each() -> None:
    line = line_of()
    assert value_after(line, "-kernel") == "/k/bzImage"
    assert value_after(line, "-append") == "a b"


def test_forwards_listen_on_loopback_only() -> None:
    line = line_of(forwards={7490: 20_001, 7000: 20_000})
    assert value_after(line, "-netdev") == (
        "user,id=net,hostfwd=tcp:127.0.0.1:20000-10.0.2.15:7000,hostfwd=tcp:127.0.0.1:20001-10.0.2.15:7490"
    )


def test_monitor_and_firmware_port_are_inherited_sockets() -> None:
    line = line_of()
    assert "socket,id=monitor,fd=5" in line
    assert "socket,id=firmware,fd=7" in line
    assert "virtserialport,chardev=firmware,name=liveroll.firmware" in line


@pytest.mark.parametrize(
    ("accel", "memory", "words"), [("tcg", 256, ("tcg", "256M")), ("kvm", 1024, ("kvm", "1024M"))]
)
def test_size_and_accelerator(accel: str, memory: int, words: tuple[str, str]) -> None:
    line = line_of(accel=accel, memory_mib=memory)
    assert (value_after(line, "-accel"), value_after(line, "-m")) == words


def test_commas_in_names_do_not_open_options() -> None:
    assert option("a,b") == "a,,b"
    line = line_of(disk=Path("/s,id=x/disk.img"), model="r,640")
    assert any("file=/s,,id=x/disk.img,format" in word for word in line)
    assert any(word.endswith("product=r,,640") for word in line)


def test_a_nodes_command_line() -> None:
    words = command_line(("luo_lab_reboot_delay_ms=500",)).split()
    assert {"console=ttyS0", "root=/dev/vda", "kho=on", "liveupdate=on", "rw"} <= set(words)
    assert "init=/usr/lib/liveroll/init" in words
    assert words[-1] == "luo_lab_reboot_delay_ms=500"
    assert "init=/bin/sh" in command_line(init="/bin/sh").split()
