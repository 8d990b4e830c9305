"""The registry of models, and what is asked of studies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the tables."""
    big, text, whole = sa.BigInteger, sa.Text, sa.Integer
    op.create_table(
        "models",
        sa.Column("study", text, primary_key=True),
        sa.Column("number", whole, primary_key=True),
        sa.Column("model", text, nullable=False),
        sa.Column("parent", text, nullable=False),
        sa.Column("stage", text, nullable=False),
        sa.Column("since_round", whole, nullable=False),
        sa.Column("made_us", big, nullable=False),
        sa.Column("changed_us", big, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.create_table(
        "study_requests",
        sa.Column("request_id", text, primary_key=True),
        sa.Column("study", text, nullable=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("to_round", whole, nullable=False),
        sa.Column("who", text, nullable=False),
        sa.Column("reason", text, nullable=False),
        sa.Column("asked_us", big, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("answer", text, nullable=False),
    )
    op.create_index("study_requests_by_asked", "study_requests", ["asked_us"])


def downgrade() -> None:
    """Remove them."""
    for name in ("study_requests", "models"):
        op.drop_table(name)
