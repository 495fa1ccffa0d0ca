"""Experiments and what happened to them"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "experiments",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holds", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", name=op.f("uq_experiments_name")),
    )
    holding = sa.text("active AND holds <> ''")
    op.create_index(
        "one_experiment", "experiments", ["holds"], unique=True, sqlite_where=holding, postgresql_where=holding
    )
    op.create_table(
        "experiment_events",
        sa.Column("seq", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("experiment", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiments.name"], name=op.f("fk_experiment_events_experiment_experiments")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_experiment_events")),
    )
    op.create_index(op.f("ix_experiment_events_experiment"), "experiment_events", ["experiment"])
