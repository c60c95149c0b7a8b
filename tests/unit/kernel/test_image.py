"""EmulatedImage: properties that a sidecar or a caller may get wrong."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from node_agent.kernel.emulated.image import RFC2, EmulatedImage, FileImages
from node_agent.ports import KexecImage


@pytest.mark.parametrize("name", ["model", "coupling", "reserve_mem"])
def test_a_word_that_is_no_choice(name: str, tmp_path: Path) -> None:
    """A kernel with it would not come up: refused when it is loaded, not after the jump."""
    with pytest.raises(ValueError, match=f"^{name} must be one of "):
        EmulatedImage(**{"release": "6.16", name: "none"})
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    (tmp_path / "vmlinuz.emulated.json").write_text(json.dumps({name: "none"}))
    with pytest.raises(OSError, match=r"kexec_file_load") as caught:
        FileImages().open(KexecImage(str(kernel), "", "", "6.16"))
    assert caught.value.errno == errno.ENOEXEC


def test_a_sidecar_of_rfc_v2(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"kernel")
    properties = {"model": RFC2, "coupling": "notifier", "auto_preserve": ["reserve_mem"]}
    (tmp_path / "vmlinuz.emulated.json").write_text(json.dumps(properties))
    assert FileImages().open(KexecImage(str(kernel), "", "", "6.16")) == EmulatedImage.rfc2(
        "6.16", coupling="notifier", auto_preserve=("reserve_mem",), scratch_bytes=6
    )
