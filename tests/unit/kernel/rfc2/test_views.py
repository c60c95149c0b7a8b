"""sysfs, debugfs, tracefs and pstore of one boot as text by path."""

from __future__ import annotations

import os
import textwrap

import pytest

from node_agent.kernel.emulated.image import EmulatedImage
from node_agent.kernel.emulated.model import LuoModel, Machine
from node_agent.kernel.emulated.rfc2 import views
from node_agent.kernel.emulated.rfc2.builtin import LAST_WORDS
from node_agent.kernel.emulated.rfc2.dts import dts
from node_agent.kernel.emulated.telemetry import Phase
from tests.unit.kernel.rfc2.subsystem_boots import KHO_ONLY, ON, boot, kexec, luo, rfc2

WORDS = f"{ON} reserve_mem=4K:4096:trace reserve_mem=4K:4096:pstore"
KHO = "/sys/kernel/debug/kho"


def beneath(model: LuoModel, folder: str) -> dict[str, str]:
    found = model.views().items()
    return {path.removeprefix(f"{folder}/"): text for path, text in found if path.startswith(f"{folder}/")}


def test_dts() -> None:
    tree = {"compatible": "x-v1", "LUO": {"data": 0x1_0000_1000, "empty": {}}, "quoted": 'a "b" \\'}
    assert dts(tree) == textwrap.dedent(
        """\
        /dts-v1/;

        / {
        \tcompatible = "x-v1";
        \tquoted = "a \\"b\\" \\\\";
        \tLUO {
        \t\tdata = <0x00000001 0x00001000>;
        \t\tempty {
        \t\t};
        \t};
        };
        """
    )


def test_at_rest() -> None:
    model = boot(telemetry=False)
    assert model.views() == {
        "/sys/kernel/liveupdate/state": "normal\n",
        "/sys/kernel/debug/liveupdate/files": "",
        "/sys/kernel/debug/liveupdate/subsystems": "faults manual out=- in=-\n",
        f"{KHO}/out/finalize": "0\n",
        f"{KHO}/out/scratch_phys": "",
        f"{KHO}/out/scratch_len": "",
    }


def test_prepared_and_handed_over() -> None:
    model = boot(telemetry=False)
    fd = os.memfd_create("memory")
    luo(model).fd_preserve(fd)
    os.close(fd)
    luo(model).prepare()
    shown = model.views()
    assert shown["/sys/kernel/liveupdate/state"] == "prepared\n"
    assert shown["/sys/kernel/debug/liveupdate/files"] == "0 memfd prepared\n"
    assert shown["/sys/kernel/debug/liveupdate/subsystems"] == "faults manual out=0x0 in=-\n"
    assert shown[f"{KHO}/out/finalize"] == "1\n"
    assert shown[f"{KHO}/out/sub_fdts/LUO"] == dts(luo(model).subtree())
    assert shown[f"{KHO}/out/fdt"].count('compatible = "luo-v1";') == 1
    assert '\tcompatible = "kho-v1";\n\tLUO {\n' in shown[f"{KHO}/out/fdt"]
    assert shown[f"{KHO}/out/sub_fdts/LUO"] == textwrap.dedent(
        """\
        /dts-v1/;

        / {
        \tcompatible = "luo-v1";
        \tfile-descriptors {
        \t\tcompatible = "file-descriptors-v1";
        \t\t0x0 {
        \t\t\tcompatible = "memfd-v1";
        \t\t\tdata = <0x00000001 0x00000000>;
        \t\t};
        \t};
        \tsubsystems {
        \t\tcompatible = "subsystems-v1";
        \t\tfaults = <0x00000000 0x00000000>;
        \t};
        };
        """
    )
    luo(model).freeze()
    out = beneath(model, f"{KHO}/out")
    kexec(model)
    assert beneath(model, f"{KHO}/in") == {"fdt": out["fdt"], "sub_fdts/LUO": out["sub_fdts/LUO"]}
    shown = model.views()
    assert shown["/sys/kernel/liveupdate/state"] == "updated\n"
    assert shown["/sys/kernel/debug/liveupdate/files"] == "0 memfd arrived\n"
    assert shown["/sys/kernel/debug/liveupdate/subsystems"] == "faults manual out=- in=0x0\n"
    assert f"{KHO}/out/fdt" not in shown
    luo(model).finish()
    shown = model.views()
    assert shown["/sys/kernel/debug/liveupdate/files"] == ""
    assert shown["/sys/kernel/debug/liveupdate/subsystems"] == "faults manual out=- in=-\n"
    model.power_off()


def test_the_scratch_area() -> None:
    model = LuoModel(
        EmulatedImage.rfc2("6.16"), new_boot_id=lambda: "boot", machine=Machine(scratch_bytes=0x800_0000)
    )
    shown = model.views()
    assert shown[f"{KHO}/out/scratch_phys"] == "0x40000000\n"
    assert shown[f"{KHO}/out/scratch_len"] == "0x8000000\n"


def test_without_debugfs_luo_still_shows_its_state() -> None:
    """The seed thread: "On production machine, without KHO_DEBUGFS, only LUO can control KHO state"."""
    model = boot(kho_debugfs=False)
    assert beneath(model, KHO) == {}
    assert model.views()["/sys/kernel/liveupdate/state"] == "normal\n"


def test_without_luo_and_without_kho() -> None:
    shown = boot(KHO_ONLY).views()
    assert "/sys/kernel/liveupdate/state" not in shown
    assert f"{KHO}/out/finalize" in shown
    assert boot("kho=off").views() == {}


def test_by_hand_and_in_the_file_are_the_same() -> None:
    model = boot(coupling="notifier")
    rfc2(model).debugfs_write("kho/out/finalize", "1")
    assert model.views()[f"{KHO}/out/finalize"] == rfc2(model).debugfs_read("kho/out/finalize")
    assert model.views()["/sys/kernel/liveupdate/state"] == "prepared\n"


@pytest.mark.parametrize("image", [EmulatedImage.rfc2("6.16"), EmulatedImage("7.2", telemetry=True)])
def test_telemetry(image: EmulatedImage) -> None:
    model = LuoModel(image, new_boot_id=lambda: "boot", command_line=ON)
    assert model.views()[views.TELEMETRY] == ""
    other = EmulatedImage("7.2")
    assert LuoModel(other, new_boot_id=lambda: "boot", command_line=ON).views() == {}
    model = boot()
    model.stamp(Phase.SHUTDOWN, 1, 1e9)
    model.stamp(Phase.PURGATORY, 2, 1e9)
    kexec(model)
    model.stamp(Phase.KERNEL, 3, 1e9)
    model.stamp(Phase.USERSPACE, 4, 1e9)
    assert model.views()[views.TELEMETRY] == (
        "shutdown_tsc 1\npurgatory_tsc 2\nkernel_tsc 3\nuserspace_tsc 4\ntsc_hz 1000000000\n"
    )


def test_trace_and_pstore() -> None:
    model = boot(WORDS, auto_preserve=("reserve_mem",))
    log = model.log
    assert views.PSTORE not in model.views()
    kexec(model)
    shown = model.views()
    assert shown[views.PSTORE] == "".join(f"{line}\n" for line in (*log, LAST_WORDS))
    assert shown[f"{views.TRACE}/trace"] == "liveupdate: boot\n"
    assert shown[f"{views.TRACE}/last_boot_trace"] == "liveupdate: boot\nliveupdate: kexec\n"
    assert "reserve_mem auto out=- in=-\n" in shown["/sys/kernel/debug/liveupdate/subsystems"]
