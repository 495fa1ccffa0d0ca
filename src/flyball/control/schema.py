"""Bring a database to the schema of this release, once, whoever comes first.

The surprise: Alembic is only imported when there is something to migrate.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from flyball.control.tables import HEAD
from flyball.errors import SchemaTooNew, Unavailable, first_line

__all__ = ["ensure_schema", "schema_version"]

_MIGRATION_LOCK = 0x666C7A


def ensure_schema(engine: Engine) -> None:
    """Create or migrate the tables under a lock; do nothing when they are current.

    Raises:
        SchemaTooNew: a newer release wrote the database.
        Unavailable: it cannot be opened.
    """
    if _is_current(engine):
        return
    with _only_one(engine):
        if not _is_current(engine):
            _migrate(engine)


def schema_version(engine: Engine) -> str | None:
    """Return the migration a database stands at, None for a new one."""
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (OperationalError, ProgrammingError) as error:
        cause = str(error.orig)
        if "no such table" in cause or ("does not exist" in cause and "alembic_version" in cause):
            return None
        raise _unavailable(engine, error) from error
    except DBAPIError as error:
        raise _unavailable(engine, error) from error


def _is_current(engine: Engine) -> bool:
    found = schema_version(engine)
    if found is not None and found > HEAD:
        raise SchemaTooNew(
            f"the control database {engine.url.render_as_string(hide_password=True)} has schema {found}, this flyball "
            f"knows up to {HEAD}; install the flyball that wrote it, or a newer one"
        )
    return found == HEAD


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.connection.driver_connection.execute("PRAGMA journal_mode=WAL")  # type: ignore[union-attr]
    with engine.execution_options(flyball_write=True).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextmanager
def _only_one(engine: Engine) -> Iterator[None]:
    """Let one process at a time look and migrate."""
    if engine.dialect.name != "sqlite":
        with engine.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION_LOCK})"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})"))
        return
    with Path(f"{engine.url.database}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unavailable(engine: Engine, error: DBAPIError) -> Unavailable:
    cause = first_line(error.orig)
    name = engine.url.render_as_string(hide_password=True)
    return Unavailable(f"the control database {name} cannot be opened: {cause}; check control.database in flyball.toml")
