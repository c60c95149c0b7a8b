"""What the real backend reads: identity, KHO's debugfs and its trees, from files and recorded bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node_agent.kernel import abi
from node_agent.kernel.real import facts, fdt, kho

IN_FDT = bytes.fromhex(
    "d00dfeed0000011d00000038000000e400000028000000110000001000000000000000390000"
    "00ac0000000000000000000000000000000000000001000000000000000300000007000000156b686f2d7634000000000003"
    "000000080000000000d04c0000000000000000014c554f0000000003000000080000002f2000000000000000000000030000"
    "00080000002000d09b000000000000000002000000016b657865632d6d65746164617461000000000003000000080000002f"
    "490000000000000000000003000000080000002000804d000000000000000002000000020000000970726573657276"
    "65642d6d656d6f72792d6d617000636f6d70617469626c65007072657365727665642d6461746100626c6f622d73697a6500"
)
"""/sys/kernel/debug/kho/in/fdt of a Linux 7.2.13 that another 7.2.13 had started."""

OUT_FDT = IN_FDT[:233]
"""The same kernel's out/fdt, of a cold boot: sub-trees were added, and the names no longer fit."""

LUO = b"luo-v5\0\0" + bytes(24)
METADATA = b"\1\0\0\0" + b"7.2.13-luo-a".ljust(65, b"\0") + b"\1\0\0\0"


def tree(root: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(root)


PROC = {
    "proc/sys/kernel/random/boot_id": b"4638519a-9a64-46d1-bf3a-e00d180ad285\n",
    "proc/sys/kernel/osrelease": b"7.2.13-luo-b\n",
    "proc/cmdline": b"console=ttyS0 kho=on\n",
}


def test_identity_of_a_boot_by_kexec(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        PROC
        | {
            "sys/class/dmi/id/product_name": b"Standard PC (Q35 + ICH9, 2009)\n",
            "sys/kernel/debug/kho/in/sub_fdts/kexec-metadata": METADATA,
        },
    )
    assert facts.read_identity(root) == facts.Identity(
        "4638519a-9a64-46d1-bf3a-e00d180ad285",
        "7.2.13-luo-b",
        "console=ttyS0 kho=on",
        "Standard-PC-Q35-ICH9-2009",
        "7.2.13-luo-a",
        1,
    )


def test_identity_without_firmware_and_debugfs(tmp_path: Path) -> None:
    found = facts.read_identity(tree(tmp_path, PROC))
    assert (found.hardware_model, found.previous_release, found.kexec_count) == ("unknown", "", 0)


@pytest.mark.parametrize("blob", [b"", METADATA[:72], b"\2" + METADATA[1:]])
def test_metadata_that_is_not_understood_is_not_known(tmp_path: Path, blob: bytes) -> None:
    assert len(METADATA) == abi.KEXEC_METADATA_STRUCT.size
    root = tree(tmp_path, {"sys/kernel/debug/kho/in/sub_fdts/kexec-metadata": blob})
    assert facts.read_metadata(root) == ("", 0)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("PowerEdge R760\n", "PowerEdge-R760"),
        ("", "unknown"),
        ("To Be Filled By O.E.M.", "unknown"),
        ("System Product Name", "unknown"),
        ("\x1b[31m\0evil,=\n", "31m-evil"),
        ("…", "unknown"),
        ("x" * 200, "x" * 63),
        ("x" * 62 + " y", "x" * 62),
    ],
)
def test_a_product_name_becomes_a_label(name: str, label: str) -> None:
    assert facts.model_label(name) == label


def test_kho_of_a_cold_boot_whose_trees_names_are_cut_off(tmp_path: Path) -> None:
    out = "sys/kernel/debug/kho/out"
    root = tree(
        tmp_path,
        {
            f"{out}/scratch_len": b"0x3000000\n0x0\n0x9000000\n",
            f"{out}/fdt": OUT_FDT,
            f"{out}/sub_fdts/LUO": LUO,
        },
    )
    assert kho.read_kho(root) == kho.KhoFacts((48 << 20, 0, 144 << 20), "kho-v4", "luo-v5", True)
    assert kho.read_kho(root + "/") == kho.read_kho(root)


def test_kho_of_a_boot_by_kexec_is_told_by_what_it_was_given(tmp_path: Path) -> None:
    base = "sys/kernel/debug/kho"
    root = tree(tmp_path, {f"{base}/out/scratch_len": b"0x10\n", f"{base}/in/fdt": IN_FDT})
    assert kho.read_kho(root) == kho.KhoFacts((16,), "kho-v4", "", True)


def test_in_sub_fdts_luo_is_never_opened(tmp_path: Path) -> None:
    base = "sys/kernel/debug/kho"
    root = tree(tmp_path, {f"{base}/out/scratch_len": b"", f"{base}/in/sub_fdts/LUO": LUO})
    assert kho.read_kho(root) == kho.KhoFacts((), "", "", True)


def test_kho_without_debugfs(tmp_path: Path) -> None:
    assert kho.read_kho(str(tmp_path)) == kho.KhoFacts()


@pytest.mark.parametrize("blob", [b"\xff" * 64, b"luo-v5x\0", IN_FDT[:20], IN_FDT[:70], IN_FDT[:84]])
def test_kho_does_not_trust_a_blob(tmp_path: Path, blob: bytes) -> None:
    out = "sys/kernel/debug/kho/out"
    root = tree(tmp_path, {f"{out}/scratch_len": b"many\n", f"{out}/fdt": blob, f"{out}/sub_fdts/LUO": blob})
    assert kho.read_kho(root) == kho.KhoFacts((), "", "", True)


def test_a_trees_own_properties_and_no_others() -> None:
    names = [name for name, _ in fdt.root_properties(IN_FDT)]
    assert names == ["compatible", "preserved-memory-map"]
    assert dict(fdt.root_properties(IN_FDT))["compatible"] == b"kho-v4\0"
    assert [name for name, _ in fdt.root_properties(OUT_FDT)] == ["", ""]


def test_a_tree_cut_anywhere_raises_one_error_only() -> None:
    for length in range(len(IN_FDT)):
        try:
            fdt.root_properties(IN_FDT[:length])
        except fdt.FdtInvalid:
            continue
        assert length >= 108  # the word after its two properties
    with pytest.raises(fdt.FdtInvalid):
        fdt.root_properties(b"\xd0\x0d\xfe\xee" + IN_FDT[4:])


def test_a_property_longer_than_its_tree() -> None:
    blob = bytearray(IN_FDT)
    blob[68:72] = b"\x7f\xff\xff\xff"
    with pytest.raises(fdt.FdtInvalid):
        fdt.root_properties(bytes(blob))
