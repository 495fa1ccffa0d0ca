"""Engines and transactions: how SQLite and PostgreSQL are made to behave alike.

The surprise: writes are serialised on both. SQLite begins them IMMEDIATE, PostgreSQL takes one advisory lock per
transaction; control data changes a few times a second, and every store may then read before it writes without races.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError

from flyball.errors import ConfigError, MissingExtra, Unavailable, first_line

__all__ = ["Gate", "engine_for"]

_BUSY_MS = 15_000
_WRITE_LOCK = 0x666C79  # "fly"


class Gate:
    """The two ways into the database: `read()` and `write()` transactions, errors named in one sentence."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(flyball_write=True)

    @property
    def name(self) -> str:
        """What to call the database in a message; no password in it."""
        return self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a connection inside one consistent read transaction."""
        with self._named(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a connection inside the one write transaction; commits at the end, rolls back on any error."""
        with self._named(), self._writer.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            cause = first_line(error.orig)
            raise Unavailable(
                f"the control database {self.name} failed: {cause}; is it up, and its disk not full?"
            ) from error


def engine_for(url: str, *, create: bool = True) -> Engine:
    """Return the engine of a URL: sqlite:///PATH, a bare path, or postgresql://USER@HOST/NAME.

    Without `create` a file of SQLite must exist when it is used.

    Raises:
        ConfigError: no such kind of database.
        MissingExtra: PostgreSQL without its driver.
    """
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError:
        parsed = None
    match parsed.get_backend_name() if parsed is not None else "":
        case "sqlite" if parsed is not None and parsed.database not in (None, "", ":memory:"):
            return _sqlite(Path(str(parsed.database)), create=create)
        case "postgresql" | "postgres" if parsed is not None:
            if importlib.util.find_spec("psycopg") is None:
                raise MissingExtra.of("a control database on PostgreSQL", "postgres")
            return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        case _:
            raise ConfigError(
                "control.database is no database flyball can use; write sqlite:///PATH or postgresql://USER@HOST/NAME"
            )


def _sqlite(path: Path, *, create: bool) -> Engine:
    """Return an engine on a file, which is never made again when it disappears: that would be an empty database."""
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def opened() -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(path))}?mode=rw", uri=True, check_same_thread=False, timeout=_BUSY_MS / 1000
        )

    engine = create_engine(f"sqlite:///{path}", creator=opened, pool_size=5)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def same_file(_: sqlite3.Connection, record: Any, __: Any) -> None:
        if record.info.get("file") != _identity(path):
            raise DisconnectionError("the file was replaced")  # the pool connects again

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("flyball_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file is at a path: one that was removed or replaced would take our writes with it."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
