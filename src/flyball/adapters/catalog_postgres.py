"""A shared catalog in PostgreSQL: two tables in the database that `[catalog] url` names.

The surprise: who only imports needs no right to write; the tables are made by the first project that publishes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from flyball.errors import ConfigError, MissingExtra, Unavailable, first_line
from flyball.features.shared import Entry, entry_from, taken

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise MissingExtra.of("the shared catalog on PostgreSQL", "postgres") from error

__all__ = ["PostgresCatalog"]

_CONNECT = 5  # seconds
_LOCK = 0x666C79C  # one publication at a time, and one maker of the tables
_TABLES = """
CREATE TABLE IF NOT EXISTS flyball_catalog_names (
    name text PRIMARY KEY, project text NOT NULL, digest text NOT NULL);
CREATE TABLE IF NOT EXISTS flyball_catalog_views (
    name text NOT NULL REFERENCES flyball_catalog_names, digest text NOT NULL, at bigint NOT NULL, body bytea NOT NULL,
    PRIMARY KEY (name, digest))
"""
_READ = """
SELECT v.digest, v.body, n.digest = v.digest FROM flyball_catalog_views v JOIN flyball_catalog_names n USING (name)
WHERE %(name)s::text IS NULL OR v.name = %(name)s ORDER BY v.name, v.at, v.digest
"""
_CLAIM = """
INSERT INTO flyball_catalog_names (name, project, digest) VALUES (%s, %s, %s)
ON CONFLICT (name) DO UPDATE SET digest = excluded.digest WHERE flyball_catalog_names.project = excluded.project
"""
_KEEP = """
INSERT INTO flyball_catalog_views (name, digest, at, body) VALUES (%s, %s, %s, %s)
ON CONFLICT (name, digest) DO UPDATE SET body = excluded.body
"""


class PostgresCatalog:
    """Share views through a database; a connection lasts for one call.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            parts: dict[str, Any] = conninfo_to_dict(url)
        except psycopg.ProgrammingError:  # it repeats the address, and the password in it
            raise ConfigError(
                "catalog.url is no address of PostgreSQL; write postgresql://USER:PASSWORD@HOST:PORT/NAME, with %25 "
                "for a % of the password and %40 for an @"
            ) from None
        self._place = f"{parts.get('dbname', 'postgres')} on {parts.get('host', 'localhost')}"

    @property
    def place(self) -> str:
        """Database and host."""
        return self._place

    def close(self) -> None:
        """Nothing is held."""

    def entries(self, name: str | None = None) -> list[Entry]:
        """Return published views, by name, then oldest first."""
        with self._transaction() as db:
            found = db.execute("SELECT to_regclass('flyball_catalog_views')").fetchone()
            if found is None or found[0] is None:
                return []
            rows = db.execute(_READ, {"name": name}).fetchall()
        return [
            replace(entry_from(bytes(body), digest, self._place), current=current) for digest, body, current in rows
        ]

    def publish(self, entries: Sequence[Entry]) -> None:
        """Claim names, keep views and make them current, in one transaction."""
        with self._transaction() as db:
            db.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            found = db.execute("SELECT to_regclass('flyball_catalog_views')").fetchone()
            if found is None or found[0] is None:
                for statement in _TABLES.split(";"):
                    db.execute(statement.encode())
            for entry in entries:
                if not db.execute(_CLAIM, [entry.name, entry.project, entry.digest]).rowcount:
                    raise taken(entry.name, self._owner(db, entry.name), entry.project)
                db.execute(_KEEP, [entry.name, entry.digest, entry.at, msgspec.json.encode(self._first(db, entry))])

    @staticmethod
    def _owner(db: Any, name: str) -> str:
        row = db.execute("SELECT project FROM flyball_catalog_names WHERE name = %s", [name]).fetchone()
        return str(row[0])

    @staticmethod
    def _first(db: Any, entry: Entry) -> Entry:
        """Return the entry with the time at which this digest was first published."""
        query = "SELECT at FROM flyball_catalog_views WHERE name = %s AND digest = %s"
        row = db.execute(query, [entry.name, entry.digest]).fetchone()
        return replace(entry, current=False, at=entry.at if row is None else row[0])

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with psycopg.connect(self._url, connect_timeout=_CONNECT) as db:
                yield db
        except psycopg.Error as error:
            said = first_line(error)
            raise Unavailable(f"the catalog {self._place} cannot be used ({said}); is the server up?") from error
