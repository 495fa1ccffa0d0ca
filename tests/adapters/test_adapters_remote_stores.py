"""Redis and PostgreSQL away, slow, restarted; threads, forks and event loops; how the settings open a store."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("redis")
pytest.importorskip("psycopg")
sys.path.insert(0, str(Path(__file__).parents[1] / "testing_helpers"))
from servers_kit import RedisServer, fresh_namespace, postgres_url, redis_server

from flyball.adapters.postgres import PostgresStore
from flyball.adapters.redis import RedisStore
from flyball.adapters.stores import guarded, open_store
from flyball.errors import ConfigError, Unavailable
from flyball.features.guarded import CLOSED, Guard, GuardedStore, read_state
from flyball.layout import Layout
from flyball.settings import OnlineSettings, ProjectSettings, Settings

Make = Callable[..., Any]


@pytest.fixture(params=["redis", "postgres"])
def make(request: pytest.FixtureRequest) -> Make:
    name = fresh_namespace()
    if request.param == "redis":
        return lambda **how: RedisStore(redis_server().url, namespace=how.pop("namespace", name), **how)
    return lambda **how: PostgresStore(postgres_url(), namespace=how.pop("namespace", name), **how)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    yield own
    own.close()


def test_projects_on_one_server_do_not_meet(make: Make) -> None:
    name = fresh_namespace()
    a, b = make(namespace=name), make(namespace=name + "-2")
    a.write(puts=[(b"k", b"a")])
    b.write(puts=[(b"k", b"b"), (b"m", b"b")])
    assert a.get_many([b"k", b"m"]) == [b"a", None]
    assert a.keys(b"") == [b"k"]
    assert a.drop(b"") == 1
    assert b.keys(b"") == [b"k", b"m"]


def test_a_reader_refuses_to_write(make: Make) -> None:
    make().write(puts=[(b"k", b"1")])
    reader = make(readonly=True)
    assert reader.get_many([b"k"]) == [b"1"]
    with pytest.raises(Unavailable, match="reading only"):
        reader.write(puts=[(b"k", b"2")])
    with pytest.raises(Unavailable, match="reading only"):
        reader.drop(b"k")


def test_many_threads_share_few_connections(make: Make) -> None:
    store = make(connections=3)
    store.write(puts=[(b"%d" % i, b"v%d" % i) for i in range(50)])
    wrong: list[object] = []

    def read(seed: int) -> None:
        for i in range(60):
            k = (seed * 7 + i) % 50
            if store.get_many([b"%d" % k]) != [b"v%d" % k]:
                wrong.append(k)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tasks_read_at_once_and_each_loop_has_its_own_connections(make: Make) -> None:
    store = make(connections=4)
    store.write(puts=[(b"%d" % i, b"v%d" % i) for i in range(50)])

    async def main() -> list[list[bytes | None]]:
        found = await asyncio.gather(*(store.aget_many([b"%d" % i, b"none"]) for i in range(50)))
        assert await store.aget_many([]) == []
        await store.aclose()
        return list(found)

    for _ in range(2):
        assert asyncio.run(main()) == [[b"v%d" % i, None] for i in range(50)]


def test_a_cancelled_read_leaves_no_answer_for_the_next(make: Make) -> None:
    store = make(connections=1)
    store.write(puts=[(b"a", b"1"), (b"b", b"2")])

    async def main() -> None:
        for _ in range(30):
            task = asyncio.ensure_future(store.aget_many([b"a"]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await store.aget_many([b"b"]) == [b"2"]
        await store.aclose()

    asyncio.run(main())


def test_a_forked_child_uses_connections_of_its_own(make: Make) -> None:
    store = make()
    store.write(puts=[(b"k", b"1")])
    assert store.get_many([b"k"]) == [b"1"]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.write(puts=[(b"k2", b"2")])
            code = 0 if store.get_many([b"k", b"k2"]) == [b"1", b"2"] else 2
        finally:
            os._exit(code)
    for _ in range(20):
        assert store.get_many([b"k"]) == [b"1"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    store.write(puts=[(b"k", b"3")])
    assert store.get_many([b"k", b"k2"]) == [b"3", b"2"]


def test_flushed_scripts_are_sent_again() -> None:
    import redis

    store = RedisStore(redis_server().url, namespace=fresh_namespace())
    store.write(puts=[(b"k", b"1")])
    redis.Redis(unix_socket_path=str(redis_server().socket)).script_flush()
    store.write(puts=[(b"k", b"2")])
    assert store.get_many([b"k"]) == [b"2"]


def test_a_slow_redis_costs_no_more_than_the_time_a_read_has(server: RedisServer) -> None:
    store = RedisStore(server.url, timeout=0.05)
    store.write(puts=[(b"k", b"1")])
    server.pause()
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in time"):
        store.get_many([b"k"])
    assert time.monotonic() - begun < 5.0
    server.resume()
    assert store.get_many([b"k"]) == [b"1"]  # on a new connection: the late answer is nobody's


def test_redis_killed_under_load_serves_defaults_and_recovers(server: RedisServer) -> None:
    store = RedisStore(server.url, timeout=0.5)
    store.write(puts=[(b"k", b"1")])
    guarded = GuardedStore(store, Guard(budget=0.5, failures=3, pause=0.02, on_failure="default"))
    states: set[str] = set()

    async def read_until(wanted: str) -> None:
        until = time.monotonic() + 20
        while True:
            found = await guarded.aget_many([b"k"])
            state = read_state.get()
            assert found == ([None] if state == "defaulted" else [b"1"])
            states.add(guarded.breaker.state)
            if state == wanted:
                return
            assert time.monotonic() < until
            await asyncio.sleep(0.001)

    async def load(wanted: str) -> None:
        await asyncio.gather(*(read_until(wanted) for _ in range(8)))

    async def main() -> None:
        await load("")
        server.kill()
        await load("defaulted")
        while guarded.breaker.state == "closed":
            await guarded.aget_many([b"k"])
        server.start()
        await load("")
        await guarded.aclose()

    asyncio.run(main())
    assert guarded.breaker is CLOSED
    assert "open" in states


def test_postgres_that_ends_its_connections_is_met_again() -> None:
    import psycopg

    store = PostgresStore(postgres_url(), namespace=fresh_namespace())
    store.write(puts=[(b"k", b"1")])
    assert store.get_many([b"k"]) == [b"1"]
    with psycopg.connect(postgres_url(), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                      " AND backend_type = 'client backend'")  # fmt: skip
    assert store.get_many([b"k"]) == [b"1"]
    store.write(puts=[(b"k", b"2")])
    assert store.get_many([b"k"]) == [b"2"]


def test_a_slow_postgres_is_given_up_and_its_late_answer_is_nobodys() -> None:
    import psycopg

    store = PostgresStore(postgres_url(), namespace=fresh_namespace(), timeout=0.1)
    store.write(puts=[(b"k", b"1")])
    with psycopg.connect(postgres_url()) as blocker:
        blocker.execute("LOCK TABLE flyball_online IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match=r"no answer within 0\.1 s"):
            store.get_many([b"k"])
        blocker.rollback()
    assert store.get_many([b"k"]) == [b"1"]


def test_a_reader_before_the_table_says_what_to_do() -> None:
    import psycopg

    with psycopg.connect(postgres_url(), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA IF NOT EXISTS empty_one")
    url = postgres_url() + ("&" if "?" in postgres_url() else "?") + "options=-csearch_path%3Dempty_one"
    with pytest.raises(Unavailable, match="flyball apply"):
        PostgresStore(url, readonly=True).get_many([b"k"])


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_a_store_that_is_not_there_is_one_clear_sentence(store: str, tmp_path: Path) -> None:
    url = "redis://127.0.0.1:9/0" if store == "redis" else "postgresql://127.0.0.1:9/none"
    settings = Settings(online=OnlineSettings(store=store, url=url))  # type: ignore[arg-type]
    reader = open_store(settings, Layout(tmp_path, tmp_path), readonly=True, secret=str)
    with pytest.raises(Unavailable, match="cannot be reached"):
        reader.get_many([b"k"])


def _settings(**online: Any) -> Settings:
    return Settings(project=ProjectSettings(name="shop"), online=OnlineSettings(**online))


def test_a_remote_store_needs_an_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs online\.url; write redis://"):
        open_store(_settings(store="redis"), Layout(tmp_path, tmp_path), readonly=True, secret=str)


def test_a_namespace_is_a_plain_name(tmp_path: Path) -> None:
    bad = _settings(store="redis", url="redis://x", namespace="a:b")
    with pytest.raises(ConfigError, match=r"online\.namespace is 'a:b'"):
        open_store(bad, Layout(tmp_path, tmp_path), readonly=True, secret=str)


def test_an_address_by_reference_is_resolved(tmp_path: Path) -> None:
    settings = _settings(store="redis", url="env:ADDRESS", namespace=fresh_namespace())
    layout = Layout(tmp_path, tmp_path)
    store: Any = open_store(
        settings, layout, readonly=False, secret=lambda name: {"env:ADDRESS": redis_server().url}[name]
    )
    store.write(puts=[(b"k", b"1")])
    serving: Any = guarded(settings, layout, secret=lambda _: redis_server().url)
    assert isinstance(serving, GuardedStore)
    assert serving.get_many([b"k"]) == [b"1"]


def test_the_password_is_never_said() -> None:
    store = RedisStore("redis://:hunter2@127.0.0.1:9/0", readonly=True)
    with pytest.raises(Unavailable) as said:
        store.get_many([b"k"])
    assert "hunter2" not in str(said.value)


def test_lmdb_is_served_unguarded(tmp_path: Path) -> None:
    settings = _settings()
    layout = Layout(tmp_path, tmp_path)
    open_store(settings, layout, readonly=False, secret=str).close()
    store: Any = guarded(settings, layout, secret=str)
    assert store.remote is False
    store.close()
