"""The same store tests run on SQLite and, where its wheel is installed, on a real PostgreSQL."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.control import Database, connect

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server; give its address without a database name's suffix."""
    if importlib.util.find_spec("psycopg") is None or importlib.util.find_spec("pgserver") is None:
        pytest.skip("needs psycopg and pgserver: pip install -e '.[dev]'")
    import pgserver

    server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'control.db'}"
    import psycopg

    server = request.getfixturevalue("postgres")
    name = f"control_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?") if "/postgres?" in server else f"{server.rsplit('/', 1)[0]}/{name}"


@pytest.fixture
def db(url: str) -> Iterator[Database]:
    with connect(url) as database:
        yield database
