"""What the parts of a space do alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "lmpareto_effect",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        sa.Column("site_bytes", sa.JSON(), nullable=False),
    )
