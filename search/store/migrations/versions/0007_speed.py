"""How fast a file runs against its dense model, where a study asked for it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("lmpareto_measurement", sa.Column("relative_speed", sa.Float(53)))
