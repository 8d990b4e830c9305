"""Alembic's entry: the connection is handed in by `open_store`."""

from __future__ import annotations

from alembic import context

from wardround.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
