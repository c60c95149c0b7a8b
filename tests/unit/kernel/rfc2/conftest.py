"""What the tests of an RFC v2 kernel share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.unit.kernel.rfc2 import corebench


@pytest.fixture
def memory() -> Iterator[int]:
    """A memfd. Nothing is open after the test that was not before."""
    before = corebench.descriptors()
    fd = corebench.memfd()
    yield fd
    os.close(fd)
    assert corebench.descriptors() == before, "descriptors leak"
