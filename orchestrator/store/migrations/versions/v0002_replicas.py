"""Several orchestrators on one database: rows carry their batch, replicas have leases."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
READ_BY_OTHERS = ("nodes", "attempts", "members", "rollouts", "fleet")


def upgrade() -> None:
    for table in (*READ_BY_OTHERS, "idempotency"):
        op.add_column(table, sa.Column("batch", BIG, nullable=False, server_default="0"))
    op.create_table(
        "capacity",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("revision", BIG, nullable=False),
        sa.Column("batch", BIG, nullable=False, server_default="0"),
        sa.Column("doc", sa.Text, nullable=False),
    )
    for table in (*READ_BY_OTHERS, "capacity"):
        op.create_index(f"{table}_by_batch", table, ["batch"])
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String, primary_key=True),
        sa.Column("until_us", BIG, nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", BIG, nullable=False),
        sa.Column("token", sa.String, nullable=False),
    )
    op.add_column("meta", sa.Column("regressed", sa.Text, nullable=False, server_default=""))
