"""The whole loop on Redis and on PostgreSQL: apply, push, train, online, serve; the same answers as on LMDB."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from project_kit import HOUR, NOW, TOML, train_here, trips, write_project
from servers_kit import RedisServer, fresh_namespace, postgres_url, redis_server

from flyball.errors import FlyballError, Unavailable
from flyball.project import Project
from flyball.project.bootstrap import bootstrap
from flyball.records.log import follow
from flyball.records.types import Prediction
from flyball.testing.in_process import GatewayClient, client

redis = pytest.importorskip("redis")
pytest.importorskip("psycopg")
ASKED = [{"zone": z, "distance": 1.5 * z} for z in (1, 2, 3, 4, 99)]
NAMES = ["traffic"]


def online(store: str, url: str, **more: str) -> str:
    lines = [f'store = "{store}"', f'url = "{url}"', f'namespace = "{fresh_namespace()}"']
    return TOML + "\n[online]\n" + "\n".join(lines + [f'{k} = "{v}"' for k, v in more.items()]) + "\n"


def made(folder: Path, toml: str) -> Project:
    """Apply, train, promote, push three hours of trips."""
    write_project(folder, toml=toml)
    project = Project.open(folder)
    project.apply()
    project.models["eta"].promote(train_here(project))
    late = trips(0.2, start=NOW - 3 * HOUR, seed=5)
    ended = late.filter(pa.array(late["dropoff_at"].to_numpy() <= np.datetime64(NOW.replace(tzinfo=None), "us")))
    rows = [{k: v.isoformat() if hasattr(v, "isoformat") else v for k, v in r.items()} for r in ended.to_pylist()]
    project.features.push("trips", rows)
    project.clock.set(NOW + timedelta(minutes=1))  # type: ignore[attr-defined]
    return project


def answers(project: Project) -> tuple[Any, Any]:
    """What `online` and the gateway answer."""
    held = project.features.online([{"zone": row["zone"]} for row in ASKED], NAMES)
    with client(project) as http:
        return held.to_dicts(), http.infer("eta", ASKED)["predictions"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with made(tmp_path_factory.mktemp("lmdb") / "p", TOML) as project:
        pushed = answers(project)
        project.features.materialize("traffic", full=True)  # sums in another order
        return pushed, answers(project)


@pytest.mark.parametrize("store", ["redis", "postgres"])
def test_the_loop_answers_as_on_lmdb(store: str, tmp_path: Path, expected: Any) -> None:
    url = redis_server().url if store == "redis" else postgres_url()
    with made(tmp_path / "p", online(store, url)) as project:
        assert answers(project) == expected[0]
        assert not project.layout.online.exists()
        traffic = project.applied.view("traffic").spec
        assert project.features.count_online(traffic) == 6
        project.features.materialize("traffic", full=True)
        assert answers(project) == expected[1]
    with Project.open(tmp_path / "p") as again:
        assert again.features.count_online(traffic) == 6


@pytest.fixture
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    yield own
    own.close()


def ask(http: GatewayClient) -> dict[str, Any]:
    answer: dict[str, Any] = http.infer("eta", ASKED)
    return answer


def until(done: Any, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_redis_away_gives_flagged_defaults_and_then_comes_back(tmp_path: Path, server: RedisServer) -> None:
    toml = online("redis", server.url, on_failure="default", pause="20ms", budget="500ms")
    with made(tmp_path / "p", toml) as project, client(project) as http:
        well = ask(http)
        assert "features" not in well
        server.kill()
        away = ask(http)
        assert away["features"] == "defaulted"
        assert away["predictions"] != well["predictions"]
        v2 = {"inputs": [{"name": n, "shape": [1], "datatype": t, "data": [v]} for n, t, v in
                         (("zone", "INT64", 1), ("distance", "FP64", 1.0))]}  # fmt: skip
        body = http.post("/v2/models/eta/infer", json=v2).json()
        assert body["parameters"]["features"] == "defaulted"
        server.start()
        until(lambda: "features" not in ask(http))
        assert ask(http)["predictions"] == well["predictions"]
        text = http.get("/metrics").text
        assert 'flyball_store_read_seconds_count{worker="0",store="redis"}' in text
        assert 'flyball_store_defaulted_total{worker="0",store="redis"} 0\n' not in text
    logged = [r for batch in follow(project.layout.log, {}) for r in batch.records if isinstance(r, Prediction)]
    assert {r.read for r in logged} == {"", "defaulted"}


def test_redis_away_is_a_503_with_a_clear_sentence_by_default(tmp_path: Path, server: RedisServer) -> None:
    toml = online("redis", server.url, pause="20ms", budget="500ms", failures="2").replace('"2"', "2")
    with made(tmp_path / "p", toml) as project, client(project) as http:
        ask(http)
        server.kill()
        for _ in range(4):
            response = http.post("/predict", json={"model": "eta", "rows": ASKED})
            assert response.status_code == 503
            assert "the features cannot be read: " in response.json()["error"]
        assert "in a row" in response.json()["error"] or "cannot be reached" in response.json()["error"]
        server.start()

        def back() -> bool:
            return bool(http.post("/predict", json={"model": "eta", "rows": ASKED}).status_code == 200)

        until(back)


def test_values_read_before_serve_while_redis_is_away(tmp_path: Path, server: RedisServer) -> None:
    toml = online("redis", server.url, stale_limit="10m", budget="500ms")
    with made(tmp_path / "p", toml) as project, client(project) as http:
        well = ask(http)
        server.pause()  # it hangs: the budget ends the read
        away = ask(http)
        server.resume()
        assert (away["features"], away["predictions"]) == ("stale", well["predictions"])
        server.kill()
        with pytest.raises(FlyballError, match="the features cannot be read"):
            http.infer("eta", [{"zone": 6, "distance": 1.0}])  # never read before


def test_online_says_when_the_store_is_away(tmp_path: Path, server: RedisServer) -> None:
    with made(tmp_path / "p", online("redis", server.url)) as project:
        server.kill()
        with pytest.raises(Unavailable, match="Redis, the online store, cannot be reached"):
            project.features.online([{"zone": 1}], NAMES)


def test_async_online_is_online(tmp_path: Path) -> None:
    with made(tmp_path / "p", online("redis", redis_server().url)) as project:
        rows = [{"zone": row["zone"]} for row in ASKED]

        async def main() -> Any:
            return await project.features.aonline(rows, NAMES)

        assert asyncio.run(main()).to_dicts() == project.features.online(rows, NAMES).to_dicts()


def test_an_emptied_redis_is_filled_again_even_after_a_push(tmp_path: Path, server: RedisServer) -> None:
    with made(tmp_path / "p", online("redis", server.url)) as project:
        project.features.materialize("traffic", full=True)
        before = answers(project)
    redis.Redis(unix_socket_path=str(server.socket)).flushall()
    with Project.open(tmp_path / "p") as project:
        project.clock.set(NOW + timedelta(minutes=1))  # type: ignore[attr-defined]
        begun = {"zone": 6, "distance": 1.0, "pickup_at": "2020-03-12T00:00:10", "dropoff_at": "2020-03-12T00:05:00"}
        project.features.push("trips", [begun])  # what happened after the moment that is asked for
        bootstrap(project, say=lambda _: None, progress=lambda *_: None)
        assert answers(project) == before


@pytest.mark.slow
def test_workers_and_ingest_of_a_node_share_redis(tmp_path: Path, server: RedisServer) -> None:
    ports = [free_port(), free_port()]
    toml = online("redis", server.url, on_failure="default", pause="50ms", budget="500ms")
    toml = toml.replace("18080", str(ports[0])).replace("18081", str(ports[1]))
    folder = tmp_path / "p"
    with made(folder, toml) as project:
        expected = answers(project)[1]
    command = [sys.executable, "-c", "from flyball.cli import main; main()", "up", "-p", str(folder)]
    base = f"http://127.0.0.1:{ports[0]}"
    with (tmp_path / "up.log").open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as node:
        try:
            until(lambda: _status(base) == 200, 90)
            body = {"model": "eta", "rows": ASKED}
            httpx.post(f"http://127.0.0.1:{ports[1]}/v1/clock", json={"to": (NOW + timedelta(minutes=1)).isoformat()})
            assert httpx.post(f"{base}/predict", json=body).json()["predictions"] == pytest.approx(expected, rel=1e-12)
            server.kill()
            assert httpx.post(f"{base}/predict", json=body).json()["features"] == "defaulted"
            server.start()
            until(lambda: "features" not in httpx.post(f"{base}/predict", json=body).json())
            row = {"zone": 1, "distance": 1.0, "pickup_at": "2020-03-12T00:00:01", "dropoff_at": "2020-03-12T00:00:59"}
            pushed = httpx.post(f"{base}/v1/sources/trips/events", json=[row | {"dropoff_at": "2020-03-12T00:02:01"}])
            assert pushed.json()["accepted"] == 1, pushed.text
            until(lambda: 'flyball_store_write_seconds_count{store="redis"' in httpx.get(f"{base}/metrics").text)
        finally:
            node.terminate()
            node.wait(30)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _status(base: str) -> int:
    try:
        return int(httpx.get(f"{base}/v2/health/ready").status_code)
    except httpx.HTTPError:
        return 0
