"""What the answerer adds to a request's way: admission, the cache, answers at once, and the same answer twice."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from serving_kit import Kit, broken, double, infer_body, table, triple, until

from flyball.rollout.routing import ServingSpec
from flyball.serving.shared.slots import Counter
from flyball.testing.in_process import async_client, client

INFER = "/v2/models/eta/infer"


class Gated:
    """A slow model: every call waits for the gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        self.calls += 1
        self.gate.wait(5)
        return matrix[:, 0] * 2.0


def counted(predict):
    calls: list[int] = []

    def model(matrix: np.ndarray) -> np.ndarray:
        calls.append(len(matrix))
        return predict(matrix)

    return model, calls


def slow(http_gateway, a: float, b: float = 0.0) -> None:
    """Have the champion's batcher believe that a batch costs a + b * rows seconds."""
    costs = http_gateway.plans["eta"].champion.loaded.batcher.costs
    costs.a, costs.b = a, b


def test_equal_requests_are_answered_from_the_cache_and_the_log_says_so(tmp_path: Path) -> None:
    model, calls = counted(double)
    kit = Kit(tmp_path, v1=model)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), serving=ServingSpec(cache=30.0))))
        calls.clear()
        answers = [http.post(INFER, json=infer_body(2.5, unit=f"u{k}")).json() for k in range(3)]
        metrics = http.get("/metrics").text
        slot = http.gateway.slot
        assert (slot.total(Counter.CACHE_HITS), slot.total(Counter.CACHE_MISSES)) == (2, 1)
    assert [a["outputs"][0]["data"] for a in answers] == [[5.0]] * 3
    assert len({a["id"] for a in answers}) == 3
    assert calls == [1]
    assert [(r.cached, r.value, r.unit) for r in kit.records()] == [
        (False, 5.0, "u0"), (True, 5.0, "u1"), (True, 5.0, "u2")
    ]  # fmt: skip
    assert "cache_hits" in metrics


@pytest.mark.parametrize(("spec", "expected"), [(ServingSpec(cache=30.0), 6), (ServingSpec(), 6),
                                                (ServingSpec(cache=30.0, cache_in_experiments=True), 2)])  # fmt: skip
def test_randomised_experiments_are_not_answered_from_the_cache_unless_asked(tmp_path, spec, expected) -> None:
    first, a = counted(double)
    second, b = counted(triple)
    kit = Kit(tmp_path, v1=first, v2=second)
    with client(kit.gateway()) as http:
        route = table(1, kit.ref("v1"), kit.ref("v2"), share=0.5, pair=False, serving=spec)
        http.call(http.gateway.swap(route))
        a.clear(), b.clear()
        versions = [
            http.post(INFER, json=infer_body(2.0, unit=unit)).json()["model_version"]
            for unit in ("u0", "u1", "u2", "u3", "u4", "u5")
        ]
    assert set(versions) == {"v1", "v2"}
    assert len(a) + len(b) == expected


def test_shadow_rows_of_cached_answers_are_still_sent(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    with client(kit.gateway()) as http:
        spec = ServingSpec(cache=30.0)
        http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), shadow=1.0, serving=spec)))
        for _ in range(3):
            http.post(INFER, json=infer_body(2.0))
        http.call(until(lambda: http.gateway.slot.shadow_sent + http.gateway.slot.shadow_dropped == 3))
        assert http.gateway.slot.total(Counter.CACHE_HITS) == 2


def test_a_request_that_can_only_be_late_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = Gated()
    model.gate.set()
    kit = Kit(tmp_path, v1=model)

    async def story():
        gateway = kit.gateway()
        await gateway.swap(table(1, kit.ref("v1"), deadline=2.0))
        model.gate.clear()
        slow(gateway, 1.5)
        reader = gateway.plans["eta"].champion.reader
        async with async_client(gateway) as http:
            first = asyncio.create_task(http.post(INFER, json=infer_body()))
            await until(lambda: gateway.plans["eta"].champion.loaded.batcher._running == 1)
            reads = reader.calls
            refused = await http.post(INFER, json=infer_body())
            assert reader.calls == reads
            model.gate.set()
            answered = await first
        await gateway.close()
        return refused, answered

    refused, answered = asyncio.run(story())
    assert (refused.status_code, answered.status_code) == (503, 200)
    assert int(refused.headers["retry-after"]) >= 1
    assert "its deadline is 2 s" in refused.json()["error"]
    assert len(kit.records()) == 1


def test_more_requests_under_way_than_allowed_are_refused(tmp_path: Path) -> None:
    model = Gated()
    model.gate.set()
    kit = Kit(tmp_path, v1=model)

    async def story():
        gateway = kit.gateway(max_waiting=3)
        await gateway.swap(table(1, kit.ref("v1"), deadline=5.0))
        model.gate.clear()
        slow(gateway, 0.002)
        async with async_client(gateway) as http:
            calls = [asyncio.create_task(http.post(INFER, json=infer_body())) for _ in range(8)]
            await until(lambda: sum(call.done() for call in calls) == 5)
            model.gate.set()
            codes = sorted(answer.status_code for answer in await asyncio.gather(*calls))
            again = await http.post(INFER, json=infer_body())
        await gateway.close()
        return codes, again.status_code, gateway.slot.total(Counter.REFUSED_BUSY)

    assert asyncio.run(story()) == ([200] * 3 + [503] * 5, 200, 5)


def test_a_caller_who_left_takes_its_rows_out_of_the_queue(tmp_path: Path) -> None:
    model = Gated()
    model.gate.set()
    kit = Kit(tmp_path, v1=model)

    async def story():
        gateway = kit.gateway()
        await gateway.swap(table(1, kit.ref("v1"), deadline=5.0))
        model.gate.clear()
        model.calls = 0
        slow(gateway, 0.002)
        batcher = gateway.plans["eta"].champion.loaded.batcher
        async with async_client(gateway) as http:
            first = asyncio.create_task(http.post(INFER, json=infer_body()))
            await until(lambda: batcher._running == 1)
            gone = [asyncio.create_task(http.post(INFER, json=infer_body())) for _ in range(4)]
            await until(lambda: batcher.waiting == 4)
            for task in gone:
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
            model.gate.set()
            answered = await first
            await until(lambda: not batcher.busy)
        inflight = gateway.plans["eta"].inflight
        await gateway.close()
        return answered.status_code, inflight

    assert asyncio.run(story()) == (200, 0)
    assert model.calls == 1
    assert len(kit.records()) == 1


@pytest.mark.parametrize(("path", "body"), [(INFER, infer_body()), ("/predict", {"distance": 2.0, "zone": 1}),
                                            ("/batch_predict", {"instances": [{"distance": 2.0, "zone": 1}]})])  # fmt: skip
def test_a_repeated_request_gets_the_same_answer_and_no_second_record(tmp_path: Path, path: str, body) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        send = {"idempotency-key": "order-7"}
        first = http.post(path, json=body, headers=send)
        second = http.post(path, json=body, headers=send)
        other = http.post(path, json=body, headers={"idempotency-key": "order-8"})
        changed = http.post(path, json={**body, "id": "x"} if path == INFER else {**body, "distance": 3.0, "zone": 1},
                            headers=send)  # fmt: skip
    assert (first.status_code, second.status_code, other.status_code) == (200, 200, 200)
    assert first.content == second.content
    assert second.headers["idempotent-replayed"] == "true"
    assert other.content != first.content
    assert changed.status_code in {400, 422}
    assert len(kit.records()) == 2


def test_keys_of_different_callers_are_different_keys(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        ids = {
            http.post(INFER, json=infer_body(), headers={"idempotency-key": "k", "x-api-key": key}).json()["id"]
            for key in ("ada", "bob")
        }
    assert len(ids) == 2


def test_a_batcher_that_broke_is_visible_in_readiness_until_it_works_again(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        batcher = http.gateway.plans["eta"].champion.loaded.batcher
        batcher.broken = True
        assert http.get("/v2/health/ready").status_code == 503
        http.call(_submit(batcher))
        assert http.get("/v2/health/ready").status_code == 200


async def _submit(batcher):
    return await batcher.submit(np.ones((1, 2)), float("inf"))


def test_batches_are_counted_in_the_workers_slot(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        http.post(INFER, json=infer_body(rows=3))
        slot = http.gateway.slot
        assert (slot.total(Counter.BATCHES), slot.total(Counter.BATCH_ROWS)) == (1, 3)


def test_a_failing_candidate_under_load_hurts_no_caller(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=broken)

    async def story():
        gateway = kit.gateway()
        await gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), share=0.5))
        async with async_client(gateway) as http:
            calls = [http.post(INFER, json=infer_body(k, unit=f"u{k}")) for k in range(200)]
            answers = await asyncio.gather(*calls)
        await gateway.close()
        return [(a.status_code, a.json()["outputs"][0]["data"]) for a in answers]

    assert asyncio.run(story()) == [(200, [2.0 * k]) for k in range(200)]
