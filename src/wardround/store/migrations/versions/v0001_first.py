"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables as they were in 0.1; later changes are migrations of their own."""
    big, text, blob = sa.BigInteger, sa.Text, sa.LargeBinary
    op.create_table(
        "edges",
        sa.Column("name", text, primary_key=True),
        sa.Column("joined_us", big, nullable=False),
        sa.Column("serial", text, nullable=False),
        sa.Column("not_after_us", big, nullable=False),
        sa.Column("revoked_us", big),
    )
    op.create_table(
        "tokens",
        sa.Column("token_id", text, primary_key=True),
        sa.Column("name", text, nullable=False),
        sa.Column("secret_sha256", blob, nullable=False),
        sa.Column("expires_us", big, nullable=False),
        sa.Column("used_by", blob),
    )
    op.create_table(
        "people",
        sa.Column("name", text, primary_key=True),
        sa.Column("role", text, nullable=False),
        sa.Column("password_hash", text, nullable=False),
        sa.Column("seen_us", big),
    )
    op.create_table(
        "studies",
        sa.Column("name", text, primary_key=True),
        sa.Column("toml", text, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("detail", text, nullable=False),
        sa.Column("created_us", big, nullable=False),
        sa.Column("changed_us", big, nullable=False),
    )
    op.create_table(
        "rounds",
        sa.Column("study", text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("committed_us", big, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("model", text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("alert_id", text, primary_key=True),
        sa.Column("state", text, nullable=False),
        sa.Column("raised_us", big, nullable=False),
        sa.Column("changed_us", big, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
    )
    op.create_index("alerts_by_raised", "alerts", ["raised_us"])
    op.create_table(
        "happenings",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("t_us", big, nullable=False),
        sa.Column("title", text, nullable=False),
        sa.Column("detail", text, nullable=False),
    )
    op.create_table(
        "quarantine",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("t_us", big, nullable=False),
        sa.Column("edge", text, nullable=False),
        sa.Column("what", text, nullable=False),
        sa.Column("reason", text, nullable=False),
        sa.Column("detail", text, nullable=False),
    )
    op.create_table("state", sa.Column("key", text, primary_key=True), sa.Column("value", blob, nullable=False))


def downgrade() -> None:
    """Remove them."""
    for name in ("state", "quarantine", "happenings", "alerts", "rounds", "studies", "people", "tokens", "edges"):
        op.drop_table(name)
