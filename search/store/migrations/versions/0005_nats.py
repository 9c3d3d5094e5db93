"""An effect says itself what it adds to ln perplexity: it need not be measured on all of a text."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("lmpareto_effect", sa.Column("nats", sa.Float(53)))
