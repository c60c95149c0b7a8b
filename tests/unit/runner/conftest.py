"""Every test that runs a Lab runs over both models of LUO, and RFC v2 in both its couplings.

A test for which the models differ says which it is about: `@pytest.mark.kernels("sessions")`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from node_agent.kernel.emulated.image import SESSIONS
from tests.unit.runner.lab import KINDS, Running


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernels(*kinds): of which kinds a test of the runner is")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("kernels")
    if hasattr(metafunc.module, "Lab") and "kernels" in metafunc.fixturenames:
        metafunc.parametrize("kernels", marker.args if marker is not None else KINDS, indirect=True)


@pytest.fixture(autouse=True)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of which kind the labs of this test are."""
    Running.kind = getattr(request, "param", SESSIONS)
    yield Running.kind
    Running.kind = SESSIONS
