"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def document() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("revision", BIG, nullable=False),
        sa.Column("doc", sa.Text, nullable=False),
    )


def upgrade() -> None:
    op.create_table("nodes", sa.Column("node_id", sa.String, primary_key=True), *document())
    op.create_table(
        "attempts",
        sa.Column("node_id", sa.String, primary_key=True),
        sa.Column("generation", BIG, primary_key=True, autoincrement=False),
        sa.Column("rollout_id", sa.String, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        *document(),
    )
    is_open = sa.column("open", sa.Boolean)
    op.create_index(
        "attempts_one_open",
        "attempts",
        ["node_id"],
        unique=True,
        sqlite_where=is_open,
        postgresql_where=is_open,
    )
    op.create_index("attempts_by_rollout", "attempts", ["rollout_id"])
    op.create_table(
        "members",
        sa.Column("rollout_id", sa.String, primary_key=True),
        sa.Column("node_id", sa.String, primary_key=True),
        *document(),
    )
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("ended", sa.Boolean, nullable=False),
        *document(),
    )
    op.create_table("fleet", sa.Column("id", sa.String, primary_key=True), *document())
    op.create_table(
        "idempotency",
        sa.Column("actor", sa.String, primary_key=True),
        sa.Column("idempotency_key", sa.String, primary_key=True),
        sa.Column("at_us", BIG, nullable=False),
        *document(),
    )
    op.create_index("idempotency_by_time", "idempotency", ["at_us"])
    op.create_table(
        "events",
        sa.Column("seq", BIG, primary_key=True, autoincrement=False),
        sa.Column("at_us", BIG, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("rollout_id", sa.String, nullable=False),
        sa.Column("node_id", sa.String, nullable=False),
        sa.Column("doc", sa.Text, nullable=False),
    )
    op.create_index("events_by_rollout", "events", ["rollout_id", "seq"])
    op.create_index("events_by_node", "events", ["node_id", "seq"])
    op.create_table(
        "fence",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", BIG, nullable=False),
        sa.Column("holder", sa.String, nullable=False),
        sa.Column("until_us", BIG, nullable=False),
    )
    op.create_table(
        "meta",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("incarnation", sa.String, nullable=False),
        sa.Column("serial", BIG, nullable=False),
        sa.Column("event_seq", BIG, nullable=False),
        sa.Column("batch", BIG, nullable=False),
    )
