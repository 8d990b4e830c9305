"""Every certificate that was issued to an edge: what is revoked, one by one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the table, with the certificates that edges hold now."""
    op.create_table(
        "certificates",
        sa.Column("serial", sa.Text, primary_key=True),
        sa.Column("edge", sa.Text, nullable=False),
        sa.Column("issued_us", sa.BigInteger, nullable=False),
        sa.Column("not_after_us", sa.BigInteger, nullable=False),
        sa.Column("revoked_us", sa.BigInteger),
    )
    op.create_index("certificates_by_edge", "certificates", ["edge", "not_after_us"])
    op.execute(
        "INSERT INTO certificates (serial, edge, issued_us, not_after_us, revoked_us) "
        "SELECT serial, name, joined_us, not_after_us, revoked_us FROM edges"
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("certificates")
