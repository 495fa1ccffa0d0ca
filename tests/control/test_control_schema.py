from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flyball.control import connect
from flyball.control.engine import engine_for
from flyball.control.schema import schema_version
from flyball.control.tables import HEAD, complete
from flyball.errors import ConfigError, SchemaTooNew, Unavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "control.db"


def test_a_new_database_is_created_with_its_folder_in_wal_mode(path: Path) -> None:
    connect(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert schema_version(engine_for(str(path))) == HEAD


def test_a_database_of_a_newer_flyball_is_refused_in_one_sentence(path: Path) -> None:
    connect(str(path)).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew, match=r"has schema 9999, this flyball knows up to 0005; install") as caught:
        connect(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 50)
    with pytest.raises(Unavailable, match=r"control\.db cannot be opened: file is not a database"):
        connect(str(path))


@pytest.mark.parametrize("url", ["mysql://somewhere/x", "sqlite://", "://"])
def test_an_unusable_address_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="write sqlite:///PATH or postgresql"):
        connect(url)


def test_the_migrations_lead_to_the_tables_of_this_release(path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    connect(str(path)).close()
    with engine_for(str(path)).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), complete()) == []


def test_the_newest_migration_is_the_one_the_tables_name() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from flyball.control import schema

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_opening_a_current_database_does_not_import_alembic(path: Path) -> None:
    connect(str(path)).close()
    script = "import sys; from flyball.control import connect; connect(sys.argv[1]); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_migration_that_dies_halfway_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    real = op.create_table

    def failing(name: str, *args: Any, **options: Any) -> object:
        if name == "runs":
            raise RuntimeError("the power went")
        return real(name, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(op, "create_table", failing)
        with pytest.raises(RuntimeError, match="the power went"):
            connect(str(path))
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == []
    connect(str(path)).close()
