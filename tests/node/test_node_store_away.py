"""The remote feature store hangs, dies and loses a view's rows under a real node with callers; then it comes back."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from faults_kit import Callers, Up, ask, metrics
from node_under_load import until
from project_kit import DEFINITIONS, TOML, train_here, write_project
from servers_kit import RedisServer, fresh_namespace

from flyball.adapters.local.running import Running, read_running
from flyball.features.packing import namespace
from flyball.features.spec import Status
from flyball.project import Project
from flyball.records.log import follow
from flyball.records.types import Prediction

redis = pytest.importorskip("redis")
DEADLINE = 1.0
LATEST = """latest = fb.FeatureView("latest", entity=zone, source=trips, ttl="7d", features=[
    fb.Feature("distance_last", float, of="distance", default=0.0),
])


def train("""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    own = RedisServer()
    yield own
    own.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Path:
    """A project on Redis with two views and a champion that reads both."""
    definitions = DEFINITIONS.replace("def train(", LATEST, 1).replace(
        "[traffic, fb.Field", "[traffic, latest, fb.Field"
    )
    toml = re.sub(r"port = 1808\d", "port = 0", TOML).replace("[server]\n", "[server]\nworkers = 2\n")
    online = f'\n[online]\nstore = "redis"\nurl = "{server.url}"\nnamespace = "{fresh_namespace()}"\n'
    made = write_project(tmp_path_factory.mktemp("store") / "p", definitions=definitions, toml=toml + online)
    with Project.open(made) as project:
        project.apply()
        project.models["eta"].promote(train_here(project))
    return made


@pytest.fixture
def serve(folder: Path, server: RedisServer) -> Iterator[Callable[..., Running]]:
    """Serve the project with further settings of the store."""
    toml, ups = (folder / "flyball.toml").read_text(), []

    def up(**online: str) -> Running:
        (folder / "flyball.toml").write_text(toml + "".join(f"{k} = {json.dumps(v)}\n" for k, v in online.items()))
        ups.append(Up(folder, "--no-bootstrap"))
        with Project.open(folder) as project:
            layout = project.layout
        return until(lambda: read_running(layout), 60, "a node")  # type: ignore[no-any-return]

    yield up
    for one in ups:
        one.end()
    (folder / "flyball.toml").write_text(toml)
    if server.process.poll() is None:
        server.resume()
    else:
        server.start()


def body(distance: float, unit: str) -> bytes:
    values = (("zone", "INT64", 1 + int(distance) % 6), ("distance", "FP64", distance))
    inputs = [{"name": n, "shape": [1], "datatype": t, "data": [v]} for n, t, v in values]
    return json.dumps({"inputs": inputs, "parameters": {"unit": unit}}).encode()


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 120))  # type: ignore[arg-type]


async def turned(callers: Callers, state: str, more: int = 100) -> None:
    """Wait until answers have this state only, for so many of them."""
    end = time.monotonic() + 30
    while True:
        before, others = callers.states[state], callers.states.total() - callers.states[state] + callers.errors.total()
        await callers.more(more)
        if callers.states[state] - before >= more and others == (
            callers.states.total() - callers.states[state] + callers.errors.total()
        ):
            return
        assert time.monotonic() < end, (state, callers.states, callers.errors)


def logged(folder: Path) -> list[Prediction]:
    with Project.open(folder) as project:
        return [r for b in follow(project.layout.log, {}) for r in b.records if isinstance(r, Prediction)]


@pytest.mark.slow
def test_a_store_that_hangs_dies_and_loses_rows_costs_features_and_no_answer(
    folder: Path, server: RedisServer, serve: Callable[..., Running]
) -> None:
    running = serve(on_failure="default", pause="50ms", budget="100ms")

    async def story() -> None:
        async with Callers(running, 16, make=body) as callers:
            await turned(callers, "")
            server.pause()
            await turned(callers, "defaulted", 300)  # the breaker: most of them did not wait for the budget
            assert ask(running, "/v2/health/ready")[0] == 200
            server.resume()
            await turned(callers, "")
            server.kill()
            await turned(callers, "defaulted", 300)
            server.start()
            await turned(callers, "")
            gone = without_a_view(folder, server)
            assert gone > 0
            await turned(callers, "", 200)
        assert callers.wrong == []
        assert set(callers.statuses) == {200}
        assert callers.slowest < DEADLINE

    run(story)
    assert sum(v for k, v in metrics(running).items() if k.startswith("flyball_store_defaulted_total")) > 0
    records = logged(folder)
    assert {r.read for r in records} == {"", "defaulted"}
    newest = max((r for r in records if r.read == ""), key=lambda r: r.id)
    assert Status.MISSING in newest.statuses  # the lost view's rows
    assert Status.PRESENT in newest.statuses  # the other's


def without_a_view(folder: Path, server: RedisServer) -> int:
    """Have Redis lose all rows of one of the two views; return how many."""
    there = redis.Redis(unix_socket_path=str(server.socket))
    with Project.open(folder) as project:
        prefix = namespace(project.applied.view("latest").spec.digest)
    keys = [key for key in there.scan_iter(b"*", count=1000) if prefix in key]
    there.delete(*keys)
    there.close()
    return len(keys)


@pytest.mark.slow
def test_without_a_policy_a_store_that_is_away_is_a_503_in_time_and_heals(
    server: RedisServer, serve: Callable[..., Running]
) -> None:
    running = serve(pause="50ms", budget="100ms")

    async def story() -> None:
        async with Callers(running, 8, make=body) as callers:
            await turned(callers, "")
            for away, there in ((server.pause, server.resume), (server.kill, server.start)):
                refused = callers.statuses[503]
                away()
                while callers.statuses[503] < refused + 200:
                    await callers.more(50)
                there()
                await turned(callers, "")
        assert callers.wrong == []
        assert set(callers.statuses) == {200, 503}
        assert callers.slowest < DEADLINE
        assert all("the features cannot be read: " in text for text in callers.errors)
        assert any("in a row" in text for text in callers.errors)  # the breaker asked nobody

    run(story)


@pytest.mark.slow
def test_values_read_before_answer_while_the_store_is_away(server: RedisServer, serve: Callable[..., Running]) -> None:
    running = serve(stale_limit="10m", pause="50ms", budget="100ms")

    async def story() -> None:
        async with Callers(running, 8, make=body) as callers:
            await turned(callers, "", 300)  # every worker has read every zone
            server.pause()
            await turned(callers, "stale", 200)
            server.resume()
            await turned(callers, "")
        assert callers.wrong == []
        assert set(callers.statuses) == {200}
        assert callers.slowest < DEADLINE

    run(story)
