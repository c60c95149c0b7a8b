"""Alembic's entry: runs the migrations on the connection that migrate.py hands over."""

from alembic import context

from orchestrator.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,
)
# Not in a transaction of Alembic's: the caller has one, with its write lock already taken.
context.run_migrations()
