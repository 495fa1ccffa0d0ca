"""Online equals batch on Redis and PostgreSQL too, also when Redis dies, comes back older, or comes back empty."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from online_world import DAY, HOUR, MINUTE, START, World, row

pytest.importorskip("redis")
pytest.importorskip("psycopg")
sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))
from servers_kit import RedisServer, fresh_namespace, postgres_url, redis_server

from flyball.adapters.postgres import PostgresStore
from flyball.adapters.redis import RedisStore
from flyball.errors import Unavailable
from flyball.features.ingest import Ingest


def on(world: World, store: Any) -> World:
    """The same world over another store."""
    world.ingest.close()
    world.store.close()
    world.store = store
    world.ingest = Ingest(store, world.log, world.views, clock=world.clock, root=world.folder)
    return world


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    yield own
    own.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_online_equals_batch_while_events_arrive(kind: str, seed: int, tmp_path: Path) -> None:
    name = fresh_namespace()
    store = RedisStore(redis_server().url, namespace=name) if kind == "redis" else PostgresStore(
        postgres_url(), namespace=name)  # fmt: skip
    world, rng, arrival = on(World.open(tmp_path), store), random.Random(seed), START
    world.ingest.push("trips", [{**row(rng, START), "made": START, "v": 1.5, "n": 2, "word": "a", "flag": True}], START)
    for _ in range(6):
        arrival += rng.choice([0, 1, 500_000, MINUTE, 17 * MINUTE, HOUR, 20 * HOUR])
        world.ingest.push("trips", [row(rng, arrival) for _ in range(rng.randrange(1, 12))], arrival)
        for later in (0, 1, rng.randrange(2 * HOUR), rng.randrange(2 * DAY)):
            world.check(arrival + later)
    world.close()


def push_until_taken(world: World, rows: list[dict[str, Any]], arrival: int) -> None:
    for _ in range(3):
        try:
            world.ingest.push("trips", rows, arrival)
        except Unavailable:
            continue
        return
    raise AssertionError("never taken")


def test_rows_logged_while_redis_was_away_are_applied_when_it_is_back(server: RedisServer, tmp_path: Path) -> None:
    world, rng = on(World.open(tmp_path), RedisStore(server.url)), random.Random(9)
    for k in range(6):
        at = START + k * MINUTE
        if k in {2, 4}:
            server.kill()
            with contextlib.suppress(Unavailable):  # logged in any case; whether it says so is ingest's choice
                world.ingest.push("trips", [row(rng, at) for _ in range(5)], at)
            server.start()
        push_until_taken(world, [row(rng, at) for _ in range(5)], at)
        world.check(at)
    world.close()


def test_a_redis_that_comes_back_empty_is_brought_up_from_the_log(server: RedisServer, tmp_path: Path) -> None:
    import redis

    world, rng = on(World.open(tmp_path), RedisStore(server.url)), random.Random(11)
    for k in range(3):
        world.ingest.push("trips", [row(rng, START + k * MINUTE) for _ in range(8)], START + k * MINUTE)
    redis.Redis(unix_socket_path=str(server.socket)).flushall()
    push_until_taken(world, [row(rng, START + 9 * MINUTE)], START + 9 * MINUTE)
    world.check(START + 9 * MINUTE)
    world.close()
