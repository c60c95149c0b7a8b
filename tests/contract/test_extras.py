"""What each extra of the package installs is all that its commands need."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORTED = {
    "aiohttp": "aiohttp",
    "aiosqlite": "aiosqlite",
    "alembic": "alembic",
    "asyncpg": "asyncpg",
    "cryptography": "cryptography",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "grpcio-status": "grpc_status",
    "prometheus-client": "prometheus_client",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "rich": "rich",
    "SQLAlchemy": "sqlalchemy",
    "structlog": "structlog",
    "tenacity": "tenacity",
    "typer": "typer",
    "tzdata": "tzdata",
}
"""Distribution → what it is imported as: everything that some extra installs."""
COMMANDS = [
    ("agent", "node_agent.cli", ("--help",)),
    ("agent", "node_agent.cli", ("run", "--help")),
    ("agent", "node_agent.cli", ("simulate", "--help")),
    ("agent", "node_agent.luoctl", ("--help",)),
    ("cli", "orchestrator.cli.main", ("--help",)),
    ("cli", "orchestrator.cli.main", ("example",)),
    ("cli", "orchestrator.cli.main", ("artifact", "--help")),
    ("cli", "orchestrator.cli.main", ("artifact", "build", "--help")),
]
RUN = """
import importlib, sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None
module, sys.argv = sys.argv[1], ["x", *sys.argv[3:]]
sys.exit(importlib.import_module(module).main())
"""


def extras() -> dict[str, list[str]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, list[str]] = tomllib.load(file)["project"]["optional-dependencies"]
    return {extra: [re.split(r"[\[<>=]", d)[0] for d in wanted] for extra, wanted in found.items()}


def test_every_distribution_is_known_here() -> None:
    named = {d for extra in ("agent", "orchestrator", "cli") for d in extras()[extra]}
    assert named - {"liveroll"} == set(IMPORTED)


@pytest.mark.parametrize(("extra", "module", "arguments"), COMMANDS, ids=lambda v: str(v))
def test_a_command_needs_its_own_extra_only(extra: str, module: str, arguments: tuple[str, ...]) -> None:
    absent = sorted(name for d, name in IMPORTED.items() if d not in extras()[extra])
    done = subprocess.run(
        [sys.executable, "-c", RUN, module, ",".join(absent), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("package", ["node_agent", "orchestrator", "protos/liveroll"])
def test_types_are_for_users_too(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
