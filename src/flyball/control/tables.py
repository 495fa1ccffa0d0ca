"""The tables. Values are JSON in `body`; columns beside it exist to be found, ordered or compared and set by.

Times are microseconds since 1970 UTC. `HEAD` is the newest migration: a database that carries it is opened without
Alembic, which takes longer to import than to use.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = ["HEAD", "complete", "metadata"]

HEAD = "0005"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Serial = BigInteger().with_variant(Integer, "sqlite")


def _seq() -> Column[int]:
    """Return the column that keeps the order in which rows were written."""
    return Column("seq", _Serial, primary_key=True, autoincrement=True)


def _body() -> Column[str]:
    return Column("body", Text, nullable=False)


version_names = Table(
    "version_names",
    metadata,
    Column("model", String, primary_key=True),
    Column("run", String, primary_key=True),
    Column("number", Integer, nullable=False),
    UniqueConstraint("model", "number"),
)

versions = Table(
    "versions",
    metadata,
    _seq(),
    Column("model", String, nullable=False),
    Column("version", String, nullable=False),
    Column("lifecycle", String, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("gate", String, nullable=False),
    _body(),
    UniqueConstraint("model", "version"),
)

datasets = Table(
    "datasets",
    metadata,
    _seq(),
    Column("digest", String, nullable=False, unique=True),
    Column("model", String, nullable=False, index=True),
    _body(),
)

poisoned = Table(
    "poisoned",
    metadata,
    _seq(),
    Column("model", String, nullable=False, index=True),
    Column("starts", BigInteger, nullable=False),
    Column("ends", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    _seq(),
    Column("id", String, nullable=False, unique=True),
    Column("model", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    _body(),
    Column("notes", Text, nullable=False),
)

stages = Table(
    "stages",
    metadata,
    Column("run", String, ForeignKey("runs.id"), primary_key=True),
    Column("stage", String, primary_key=True),
    Column("started", BigInteger, nullable=False),
    _body(),
)

rollouts = Table(
    "rollouts",
    metadata,
    _seq(),
    Column("id", String, nullable=False, unique=True),
    Column("model", String, nullable=False, index=True),
    Column("active", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    _body(),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    _seq(),
    Column("rollout", String, ForeignKey("rollouts.id"), nullable=False, index=True),
    _body(),
)

experiments = Table(
    "experiments",
    metadata,
    _seq(),
    Column("name", String, nullable=False, unique=True),
    Column("holds", String, nullable=False),  # "model:NAME" or "flag:NAME", which one at a time may hold; or empty
    Column("active", Boolean, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("spec", Text, nullable=False),
    _body(),
)

experiment_events = Table(
    "experiment_events",
    metadata,
    _seq(),
    Column("experiment", String, ForeignKey("experiments.name"), nullable=False, index=True),
    _body(),
)

drift_windows = Table(
    "drift_windows",
    metadata,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("starts", BigInteger, primary_key=True),
    _body(),
)

performance_windows = Table(
    "performance_windows",
    metadata,
    Column("model", String, primary_key=True),
    Column("version", String, primary_key=True),
    Column("metric", String, primary_key=True),
    Column("starts", BigInteger, primary_key=True),
    Column("ends", BigInteger, primary_key=True),
    Column("state", String, nullable=False),
    _body(),
)

alerts = Table(
    "alerts",
    metadata,
    _seq(),
    Column("key", String, nullable=False, unique=True),
    Column("at", BigInteger, nullable=False, index=True),
    _body(),
)

triggers = Table(
    "triggers",
    metadata,
    _seq(),
    Column("id", String, nullable=False, unique=True),
    Column("model", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    _body(),
)

loop_events = Table(
    "loop_events",
    metadata,
    _seq(),
    Column("model", String, nullable=False, index=True),
    _body(),
)

freezes = Table(
    "freezes",
    metadata,
    Column("model", String, primary_key=True),  # empty for every model
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("fence", BigInteger, nullable=False, unique=True),
    Column("expires", Float, nullable=False),
    Column("ttl", Float, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

routing = Table(
    "routing",
    metadata,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("fence", BigInteger, nullable=False),
    _body(),
)

deployments = Table(
    "deployments",
    metadata,
    _seq(),
    _body(),
)

watermarks = Table(
    "watermarks",
    metadata,
    Column("view", String, primary_key=True),
    Column("at", BigInteger, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    _seq(),
    Column("at", BigInteger, nullable=False, index=True),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False, index=True),
    Column("details", Text, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    _seq(),
    Column("topic", String, nullable=False),
    Column("key", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("done", BigInteger),
    _body(),
    UniqueConstraint("topic", "key"),
)

erasures = Table(
    "erasures",
    metadata,
    _seq(),
    Column("subject", String, nullable=False, index=True),  # a keyed hash; the subject itself is nowhere
    Column("state", String, nullable=False),  # running | done
    Column("at", BigInteger, nullable=False),
    _body(),
)

keys = Table(
    "keys",
    metadata,
    _seq(),
    Column("name", String, nullable=False, unique=True),
    Column("hash", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("scope", Text),  # JSON of models, rate, burst and expiry; null for keys of before
)


def complete() -> MetaData:
    """Return the metadata with its partial indexes: one champion, one active rollout and one experiment per model.

    They stand apart because they make SQLAlchemy import PostgreSQL's dialect, which only migrations need.
    """
    if not any(index.name == "one_champion" for index in versions.indexes):
        champion, active = text("lifecycle = 'champion'"), text("active")
        Index("one_champion", versions.c.model, unique=True, sqlite_where=champion, postgresql_where=champion)
        Index("one_active_rollout", rollouts.c.model, unique=True, sqlite_where=active, postgresql_where=active)
        holding = text("active AND holds <> ''")
        Index("one_experiment", experiments.c.holds, unique=True, sqlite_where=holding, postgresql_where=holding)
    return metadata
