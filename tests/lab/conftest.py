"""Real kernels in guests: these tests run with LIVEROLL_LAB=1 (`make test-lab`), and nowhere else.

A module's tests share its machines and run in the order in which they are written; each leaves them as the
next one wants them. Modules run side by side (--dist loadfile).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from deploy.lab.errors import LabError
from deploy.lab.machine import QEMU
from deploy.lab.paths import Lab, load

HERE = Path(__file__).parent
TEST_S = 420
"""Of one test, its module's machines included: alone far less, yet the machine may be shared."""


def why_not() -> str:
    """Why these tests cannot run here; empty if they can."""
    if os.environ.get("LIVEROLL_LAB", "") != "1":
        return "real kernels: run `make test-lab`, which sets LIVEROLL_LAB=1"
    if shutil.which(QEMU) is None:
        return f"there is no {QEMU}; `make lab` installs it"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.lab)
        item.add_marker(pytest.mark.timeout(TEST_S))
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def lab() -> Lab:
    """What `make lab` has built; a lab that is missing fails, it does not skip."""
    try:
        return load()
    except LabError as error:
        pytest.fail(f"{error}; {error.remedy}", pytrace=False)
