"""Measurements and baselines. Databases from before there were versions have them."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "lmpareto_measurement",
        sa.Column("key", sa.String(16), primary_key=True),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("valid_perplexity", sa.Float(53), nullable=False),
        sa.Column("tokens_per_second", sa.Float(53), nullable=False),
        sa.Column("updates", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "lmpareto_baseline",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("key", sa.String(16), nullable=False),
        if_not_exists=True,
    )
