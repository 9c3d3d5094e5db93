"""Rungs that trials were measured at; slots, and who works on them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "lmpareto_rung",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("trial", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("rung", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(16), nullable=False),
    )
    op.create_table(
        "lmpareto_slot",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=True),
        sa.Column("worker", sa.String(128), nullable=True),
        sa.Column("expires_at", sa.Float(53), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("fraction", sa.Float(53), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.UniqueConstraint("study", "trial"),
    )
