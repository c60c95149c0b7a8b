"""Which filesystems are made quiet before a kexec, and in which order."""

from __future__ import annotations

from pathlib import Path

from node_agent.runtime.mounts import Mount, to_quiesce

NODE = """\
21 1 254:0 / / ro,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
22 21 0:5 / /dev rw,nosuid shared:2 - devtmpfs devtmpfs rw,size=1k
23 21 0:21 / /run rw,nosuid shared:3 - tmpfs tmpfs rw,mode=755
24 21 254:16 / /srv rw - xfs /dev/vdb rw,attr2
25 24 7:0 / /srv/images\\040of\\134vms rw - ext4 /dev/loop0 rw
26 21 254:0 /var/lib/x /mnt/bound rw shared:1 - ext4 /dev/vda rw,errors=remount-ro
27 21 254:32 / /cdrom ro - iso9660 /dev/vdc ro
28 21 0:44 / /home rw - btrfs /dev/vdd rw,subvol=/home
29 21 0:45 / /net rw - nfs4 server:/export rw
30 21 0:46 / /merged rw - overlay overlay rw,lowerdir=/a
"""


def test_writable_block_backed_filesystems_those_in_files_and_then_the_last_mounted_first() -> None:
    found = to_quiesce(NODE)
    assert [(m.device, m.kind) for m in found] == [
        ("7:0", "ext4"),
        ("0:44", "btrfs"),
        ("254:16", "xfs"),
        ("254:0", "ext4"),
    ]


def test_a_filesystem_in_a_file_is_frozen_before_the_one_that_holds_the_file() -> None:
    """A unit's own namespace lists mounts as a tree: /mnt/x comes before /srv, mounted before it."""
    tree = (
        "21 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
        "22 21 8:3 / /mnt rw - ext4 /dev/sda3 rw\n"
        "25 22 7:0 / /mnt/x rw - ext4 /dev/loop0 rw\n"
        "24 21 8:4 / /srv rw - xfs /dev/sda4 rw\n"
    )
    assert [mounted.device for mounted in to_quiesce(tree)] == ["7:0", "8:4", "8:3", "8:2"]


def test_a_filesystem_that_is_mounted_twice_is_named_once_with_both_of_its_mounts() -> None:
    root = to_quiesce(NODE)[-1]
    assert root.mounts == (Mount(21, "/"), Mount(26, "/mnt/bound"))


def test_it_is_the_superblock_that_is_writable_not_the_mount() -> None:
    # As a service under ProtectSystem=strict sees it.
    assert to_quiesce("21 1 254:0 / / ro,relatime - ext4 /dev/vda rw\n")
    assert not to_quiesce("21 1 254:0 / / rw,relatime - ext4 /dev/vda ro\n")


def test_escapes_of_a_path_are_undone() -> None:
    assert to_quiesce(NODE)[0].mounts[0].path == "/srv/images of\\vms"


def test_lines_that_make_no_sense_are_left_out() -> None:
    bad = "\nnonsense\n21 1 254:0 / /\nx 1 254:0 / / rw - ext4 /dev/vda rw\n21 1 254:0 / / rw - ext4\n"
    assert to_quiesce(bad) == ()


def test_this_machine_can_be_read() -> None:
    to_quiesce(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
