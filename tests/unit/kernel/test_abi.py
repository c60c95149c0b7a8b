"""The ABI's numbers and layouts, byte for byte."""

from __future__ import annotations

import struct

import pytest

from node_agent.kernel import abi

U32 = struct.Struct("=I")


def test_every_ioctl_has_its_number_size_and_name() -> None:
    assert {number: layout.size for number, layout in abi.STRUCTS.items()} == {
        0xBA00: 72,
        0xBA01: 72,
        0xBA40: 16,
        0xBA41: 16,
        0xBA42: 8,
        0xBA43: 72,
    }
    assert set(abi.CALL_NAMES) == set(abi.STRUCTS)


def test_layouts() -> None:
    assert abi.pack_session("ab") == struct.pack("=Ii64s", 72, -1, b"ab")
    assert abi.pack_fd(3, abi.TOKEN_MAX) == struct.pack("=IiQ", 16, 3, 2**64 - 1)
    assert abi.pack_finish() == struct.pack("=II", 8, 0)
    assert abi.pack_name() == struct.pack("=II64s", 72, 0, b"")


def test_what_is_packed_comes_out() -> None:
    assert abi.unpack_session(abi.pack_session("ab")) == (-1, b"ab" + bytes(62))
    assert abi.unpack_fd(abi.pack_fd(3, 9)) == (3, 9)
    assert abi.unpack_name(abi.pack_name(b"ab")) == b"ab"


def test_kexec_metadata() -> None:
    raw = struct.pack("=I65sI", 1, b"7.2.13", 3)
    assert abi.unpack_kexec_metadata(raw) == ("7.2.13", 3)
    with pytest.raises(ValueError, match="version 2"):
        abi.unpack_kexec_metadata(b"\2" + raw[1:])


def test_reboot_magic_spells_its_name() -> None:
    assert abi.REBOOT_CMD_KEXEC.to_bytes(4, "big") == b"EXEC"
    assert abi.SYS_KEXEC_FILE_LOAD == {"x86_64": 320, "aarch64": 294}


@pytest.mark.parametrize("body", [b"", b"\0" * 7, b"\xff" * 16])
def test_what_is_no_ioctl_is_einval(body: bytes) -> None:
    with pytest.raises(OSError, match="Errno 22"):
        abi.decode(body, *abi.SESSION_IOCTLS)


def test_a_struct_shorter_than_it_says_is_einval() -> None:
    body = U32.pack(abi.SESSION_FINISH) + U32.pack(8)
    with pytest.raises(OSError, match="Errno 22"):
        abi.decode(body, *abi.SESSION_IOCTLS)
    with pytest.raises(OSError, match="Errno 22"):
        abi.decode(U32.pack(abi.SESSION_FINISH) + U32.pack(2**32 - 1), abi.SESSION_FINISH)


def test_size_rule() -> None:
    argument = bytes(abi.pack_finish())
    number = U32.pack(abi.SESSION_FINISH)
    assert abi.decode(number + argument, abi.SESSION_FINISH) == (abi.SESSION_FINISH, argument)
    grown = U32.pack(12) + argument[4:]
    decoded = abi.decode(number + grown + bytes(4), abi.SESSION_FINISH)
    assert decoded == (abi.SESSION_FINISH, grown)
    with pytest.raises(OSError, match="Errno 7"):
        abi.decode(number + grown + b"\0\0\0\1", abi.SESSION_FINISH)
