"""What holds for every test: how golden files are written anew, and how much hypothesis tries."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", deadline=None, max_examples=2000, phases=list(Phase))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write golden files anew instead of comparing; review the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--rewrite"):
        os.environ["LIVEROLL_REWRITE"] = "1"
