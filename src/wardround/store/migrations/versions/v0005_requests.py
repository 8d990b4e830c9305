"""What people ask of a running hub from elsewhere, and its answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the table."""
    text = sa.Text
    op.create_table(
        "requests",
        sa.Column("request_id", text, primary_key=True),
        sa.Column("topic", text, nullable=False),
        sa.Column("act", text, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("who", text, nullable=False),
        sa.Column("asked_us", sa.BigInteger, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("answer", text, nullable=False),
    )
    op.create_index("requests_by_asked", "requests", ["asked_us"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("requests")
