"""Nodes, job runs and what is asked of processing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables."""
    big, text = sa.BigInteger, sa.Text
    op.create_table(
        "nodes",
        sa.Column("name", text, primary_key=True),
        sa.Column("url", text, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("memory_bytes", big, nullable=False),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("lake", text, nullable=False),
        sa.Column("drained", sa.Boolean, nullable=False),
        sa.Column("added_us", big, nullable=False),
    )
    op.create_table(
        "job_runs",
        sa.Column("run_id", text, primary_key=True),
        sa.Column("job", text, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("started_us", big, nullable=False),
        sa.Column("changed_us", big, nullable=False),
        sa.Column("parts_done", sa.Integer, nullable=False),
        sa.Column("parts", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("rows", big, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.create_index("job_runs_by_started", "job_runs", ["started_us"])
    op.create_table(
        "job_requests",
        sa.Column("request_id", text, primary_key=True),
        sa.Column("kind", text, nullable=False),
        sa.Column("job", text, nullable=False),
        sa.Column("asked_us", big, nullable=False),
    )


def downgrade() -> None:
    """Remove them."""
    for name in ("job_requests", "job_runs", "nodes"):
        op.drop_table(name)
