from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("psycopg")
sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))
from servers_kit import fresh_namespace, postgres_url

from flyball.adapters.postgres import PostgresStore
from flyball.features.ports import OnlineStore
from flyball.testing.laws_online import OnlineStoreLaws

_names: dict[Path, str] = {}


class TestPostgres(OnlineStoreLaws):
    def make_store(self, folder: Path) -> OnlineStore:
        return PostgresStore(postgres_url(), namespace=_names.setdefault(folder, fresh_namespace()))
