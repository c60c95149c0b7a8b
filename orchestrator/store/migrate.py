"""Brings a database to this program's schema when it is opened, and refuses a newer one.

There is no way down: to go back, restore the backup that was made before the upgrade.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from orchestrator.errors import Unsupported


def migrate(connection: Connection) -> None:
    """Within the connection's transaction: all of it or nothing. Unsupported (SCHEMA_NEWER)."""
    config = Config()
    config.set_main_option("script_location", "orchestrator.store:migrations")
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    here = MigrationContext.configure(connection).get_current_revision()
    if here == script.get_current_head():
        return
    if here is not None and here not in known:
        raise Unsupported(
            f"the database has schema {here}, this release knows none above {script.get_current_head()}",
            reason="SCHEMA_NEWER",
            remedy="run the release that last opened this database (or a newer one), "
            "or restore the backup that was made before its upgrade",
            schema=here,
        )
    command.upgrade(config, "head")
