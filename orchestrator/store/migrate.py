"""Brings a database to this program's schema when it is opened, and refuses a newer one.

There is no way down: to go back, restore the backup that was made before the upgrade. Releases
run side by side only on one schema: once a newer one has migrated the database, an older one that
still runs is refused at its next write or read (lineage.py).
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from orchestrator.errors import Unsupported

HEAD = "0002"
"""The newest migration. Here too, so that every transaction may compare without reading a directory;
a test compares it with migrations/versions."""


def migrate(connection: Connection) -> None:
    """Within the connection's transaction: all of it or nothing. Unsupported (SCHEMA_NEWER)."""
    here = MigrationContext.configure(connection).get_current_revision()
    if here == HEAD:
        return
    config = Config()
    config.set_main_option("script_location", "orchestrator.store:migrations")
    config.attributes["connection"] = connection
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    if here is not None and here not in known:
        raise schema_newer(here)
    command.upgrade(config, "head")


def schema_newer(here: str) -> Unsupported:
    return Unsupported(
        f"the database has schema {here}, this release knows none above {HEAD}",
        reason="SCHEMA_NEWER",
        remedy="run the release that last opened this database (or a newer one), "
        "or restore the backup that was made before its upgrade",
        schema=here,
    )
