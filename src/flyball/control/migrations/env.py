"""Alembic's entry: run the migrations on the connection that schema.py opened."""

from __future__ import annotations

from alembic import context

from flyball.control.tables import complete

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=complete(),
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
