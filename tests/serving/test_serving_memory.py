"""One gateway registers a thousand models and holds as many as memory allows."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_kit import FieldReader, Kit, double

from flyball.errors import Refused
from flyball.rollout.routing import ModelRoute, RoutingTable, VersionRef
from flyball.serving.gateway import Gateway
from flyball.serving.models import loading as cache_module
from flyball.serving.models.memory import Held, available, estimate, victims
from flyball.testing import async_client

EACH = 1000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "estimate", lambda folder, manifest, trusted: EACH if trusted else 1)


def held(name: str, memory: int, used: int, *, stays: bool = False) -> Held:
    return Held((name, True), memory, used, stays)


def test_what_was_not_asked_for_longest_goes_first() -> None:
    loaded = [held("a", 40, 3), held("b", 40, 1), held("c", 40, 2)]
    assert victims(0, 120, loaded) == []
    assert victims(10, 120, loaded) == [("b", True)]
    assert victims(50, 120, loaded) == [("b", True), ("c", True)]
    assert victims(121, 120, loaded) is None


def test_what_must_stay_is_never_let_go() -> None:
    loaded = [held("a", 60, 1, stays=True), held("b", 60, 2)]
    assert victims(50, 120, loaded) == [("b", True)]
    assert victims(70, 120, loaded) is None


def test_a_lowered_version_is_counted_by_its_kernel(tmp_path: Path) -> None:
    from flyball.registry.artifacts import read_manifest
    from flyball.registry.types import Lowered

    kit = Kit(tmp_path, v1=double)
    ref = kit.ref("v1")
    manifest = read_manifest(Path(ref.path), ref.digest)
    folder = Path(ref.path)
    (folder / "model.skops").write_bytes(bytes(1_000_000))
    (folder / "lowered.linear").write_bytes(bytes(100))
    whole = estimate(folder, manifest, trusted=True)
    low = estimate(folder, replace(manifest, lowered=Lowered("linear", "lowered.linear", 1000, 0.0)), trusted=True)
    assert low < 200_000
    assert whole > 1_000_000
    assert estimate(folder, manifest, trusted=False) < low


def test_the_machine_says_what_it_has_left() -> None:
    assert available({"MemAvailable": 5}) == 5
    assert available({}) is None
    assert (available() or 1) > 0


def test_admission_refuses_what_does_not_fit_beside_the_one_that_serves(tmp_path: Path, small: None) -> None:
    async def story() -> None:
        kit = Kit(tmp_path, v1=double, v2=double, v3=double)
        v1, v2, v3 = (kit.ref(v) for v in ("v1", "v2", "v3"))
        cache = kit.cache(memory=2 * EACH)
        assert cache.admit(v1) == EACH
        await cache.get(v1)
        assert cache.admit(v1) == 0
        assert cache.admit(v2, beside=[v1]) == EACH
        await cache.get(v2)
        assert cache.admit(v3, beside=[v1]) == EACH  # v2 may go
        cache.pin([v1, v2])
        with pytest.raises(Refused, match="v3 needs 0.001 MB beside what must stay"):
            cache.admit(v3)

    asyncio.run(story())


def test_a_version_larger_than_the_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = Kit(tmp_path, v1=double)
    monkeypatch.setattr(cache_module, "available", lambda: 10)
    with pytest.raises(Refused, match="this machine has"):
        kit.cache().admit(kit.ref("v1"))


def test_one_load_serves_all_who_wait_for_it_and_a_failed_one_is_tried_again(tmp_path: Path) -> None:
    async def story() -> None:
        kit = Kit(tmp_path, v1=double)
        ref = kit.ref("v1")
        cache = kit.cache()
        found = await asyncio.gather(*(cache.get(ref) for _ in range(20)))
        assert kit.loads == ["v1"]
        assert all(each is found[0] for each in found)

    asyncio.run(story())


def many(kit: Kit, count: int) -> RoutingTable:
    routes = {}
    for k in range(count):
        version = f"v{k}"
        kit.models[version] = lambda matrix, k=k: matrix[:, 0] + k
        name = f"m{k}"
        routes[name] = ModelRoute(name, "s", kit.ref(version), deadline=20.0)
    return RoutingTable(1, 1, 0, routes)


def body(distance: float) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "distance", "shape": [1], "datatype": "FP64", "data": [distance]},
            {"name": "zone", "shape": [1], "datatype": "INT64", "data": [1]},
        ]
    }


def test_a_thousand_models_are_served_with_memory_for_fifty(tmp_path: Path, small: None) -> None:
    async def story() -> None:
        kit = Kit(tmp_path)
        table = many(kit, 1000)
        cache = kit.cache(memory=50 * EACH)
        gateway = Gateway(cache, read_with=FieldReader)
        await gateway.tables.swap(table)
        assert len(kit.loads) <= 25  # a warm set, the others sleep
        async with async_client(gateway) as http:
            most = 0
            for start in range(0, 1000, 20):
                names = range(start, start + 20)
                answers = await asyncio.gather(*(http.post(f"/v2/models/m{k}/infer", json=body(2.0)) for k in names))
                assert [a.status_code for a in answers] == [200] * 20, answers[0].text
                assert [a.json()["outputs"][0]["data"] for a in answers] == [[2.0 + k] for k in names]
                most = max(most, cache.memory)
            assert most <= 50 * EACH
            again = await http.post("/v2/models/m0/infer", json=body(1.0))  # let go long ago, and brought again
            assert again.json()["outputs"][0]["data"] == [1.0]
            loads = len(kit.loads)
            for _ in range(3):
                await http.post("/v2/models/m0/infer", json=body(1.0))
            assert len(kit.loads) == loads

    asyncio.run(story())


def test_a_slow_load_holds_up_nobody_else(tmp_path: Path, small: None) -> None:
    async def story() -> None:
        kit = Kit(tmp_path)
        table = many(kit, 80)
        held_up = threading.Event()
        plain = kit.load

        def load(ref: VersionRef) -> Any:
            if ref.version == "v79":
                held_up.wait(10)
            return plain(ref)

        kit.load = load  # type: ignore[method-assign]
        gateway = Gateway(kit.cache(memory=70 * EACH), read_with=FieldReader)
        await gateway.tables.swap(table)
        async with async_client(gateway) as http:
            slow = asyncio.create_task(http.post("/v2/models/m79/infer", json=body(2.0)))
            while "flyball-load" not in {t.name.rpartition("_")[0] for t in threading.enumerate()}:
                await asyncio.sleep(0.001)
            quick = await http.post("/v2/models/m78/infer", json=body(2.0))
            assert quick.status_code == 200
            assert not slow.done()
            held_up.set()
            assert (await slow).json()["outputs"][0]["data"] == [81.0]

    asyncio.run(story())


def test_a_request_among_three_hundred_models_takes_as_many_steps_as_among_one(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_warm", lambda *_: (1e-6, None))
    monkeypatch.setattr("flyball.serving.models.batcher._TINY", 10.0)  # the way must not depend on what was measured
    monkeypatch.setattr("flyball.serving.models.batcher._LEARN_EVERY", 1000)
    data = json.dumps(body(2.0)).encode()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    async def send(_: dict[str, Any]) -> None:
        pass

    async def steps(count: int) -> int:
        kit = Kit(tmp_path / str(count))
        gateway = Gateway(kit.cache(memory=2 * count * EACH), read_with=FieldReader)
        await gateway.tables.swap(many(kit, count))
        scope = {"type": "http", "method": "POST", "path": "/v2/models/m0/infer", "headers": [], "query_string": b""}
        calls = []
        for _ in range(5):
            made = [0]
            sys.setprofile(lambda frame, event, _, made=made: made.__setitem__(0, made[0] + (event == "call")))
            try:
                await gateway(dict(scope), receive, send)
            finally:
                sys.setprofile(None)
            calls.append(made[0])
        return min(calls)

    assert asyncio.run(steps(1)) == asyncio.run(steps(300))


def test_a_rollout_keeps_its_versions_whatever_is_asked(tmp_path: Path, small: None) -> None:
    async def story() -> None:
        kit = Kit(tmp_path, c1=double, c2=double)
        table = many(kit, 30)
        watched = ModelRoute("w", "s", kit.ref("c1"), kit.ref("c2"), 500_000, rollout="r1", deadline=20.0)
        table = RoutingTable(1, 1, 0, {**table.models, "w": watched})
        cache = kit.cache(memory=6 * EACH)
        gateway = Gateway(cache, read_with=FieldReader)
        await gateway.tables.swap(table)
        async with async_client(gateway) as http:
            for k in range(30):
                assert (await http.post(f"/v2/models/m{k}/infer", json=body(2.0))).status_code == 200
        assert cache.resident(watched.champion) is not None
        assert cache.resident(watched.candidate) is not None
        assert cache.memory <= 6 * EACH

    asyncio.run(story())


def test_the_newest_answer_decides_who_was_asked_lately(tmp_path: Path, small: None) -> None:
    async def story() -> None:
        kit = Kit(tmp_path, v1=double, v2=double, v3=double)
        v1, v2, v3 = (kit.ref(v) for v in ("v1", "v2", "v3"))
        cache = kit.cache(memory=2 * EACH)
        gone: list[str] = []
        cache.on_evict = lambda ref: gone.append(ref.version)
        one, _ = await cache.get(v1), await cache.get(v2)
        await one.batcher.submit(np.ones((1, 2)), time.monotonic() + 5)
        await cache.get(v3)
        assert gone == ["v2"]
        item = await one.batcher.submit(np.ones((1, 2)), time.monotonic() + 5)
        assert item.values == [2.0]

    asyncio.run(story())
