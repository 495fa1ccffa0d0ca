from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("redis")
sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))
from servers_kit import fresh_namespace, redis_server

from flyball.adapters.redis import RedisStore
from flyball.features.ports import OnlineStore
from flyball.testing.laws_online import OnlineStoreLaws

_names: dict[Path, str] = {}


class TestRedis(OnlineStoreLaws):
    def make_store(self, folder: Path) -> OnlineStore:
        return RedisStore(redis_server().url, namespace=_names.setdefault(folder, fresh_namespace()))
