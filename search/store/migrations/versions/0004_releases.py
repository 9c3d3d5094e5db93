"""Which release of lmpareto brought the tables to which version."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "lmpareto_release",
        sa.Column("version", sa.String(32), primary_key=True),
        sa.Column("release", sa.String(64), nullable=False),
    )
