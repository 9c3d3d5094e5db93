"""Files whose recipe was trained again with other seeds."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "lmpareto_repeat",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("file", sa.String(16), primary_key=True),
        sa.Column("repeat", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(16), nullable=False),
    )
