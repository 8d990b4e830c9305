"""Tokens of the API."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the table."""
    text, whole = sa.Text, sa.BigInteger
    op.create_table(
        "api_tokens",
        sa.Column("token_id", text, primary_key=True),
        sa.Column("person", text, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("scopes", text, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
        sa.Column("created_us", whole, nullable=False),
        sa.Column("expires_us", whole, nullable=False),
        sa.Column("used_us", whole),
        sa.Column("revoked_us", whole),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("api_tokens")
