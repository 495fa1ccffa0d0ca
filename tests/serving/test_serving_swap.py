"""Changing what is served while it is served: examination, refusal, variants, hosts that start late, no leak."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving_kit import BUCKETS, FieldReader, Kit, double, infer_body, table, triple, until

from flyball.errors import FlyballError
from flyball.records.types import Prediction
from flyball.rollout.routing import RoutingTable, Variant, cut
from flyball.serving.definitions import Segment
from flyball.serving.gateway import Gateway
from flyball.serving.routing.warming import Unlike, check_parity, matrix_of, newest_rows
from flyball.serving.shared.slots import Counter, VetoReason
from flyball.testing.in_process import async_client

INFER = "/v2/models/eta/infer"


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in an event loop of its own."""

    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


def browser(gateway: Gateway) -> httpx.AsyncClient:
    return async_client(gateway)


def value(answer: httpx.Response) -> float:
    assert answer.status_code == 200, answer.text
    return float(answer.json()["outputs"][0]["data"][0])


def routed(known: RoutingTable, **changes: object) -> RoutingTable:
    return RoutingTable(known.version, 1, 0, {"eta": replace(known.models["eta"], **changes)})


async def ask(
    http: httpx.AsyncClient, *, headers: dict[str, str] | None = None, **parameters: object
) -> httpx.Response:
    return await http.post(INFER, json={**infer_body(), "parameters": parameters}, headers=headers or {})


@in_loop
async def test_segments_variants_and_testers_reach_their_versions(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple, v3=lambda m: m[:, 0] * 5.0)
    gateway = kit.gateway()
    made = routed(
        table(1, kit.ref("v1"), kit.ref("v2", trusted=False)),
        segments=(Segment("de", where={"country": "DE"}, to="candidate"),),
        variants=(Variant("v3", kit.ref("v3", trusted=False), 0, BUCKETS // 2),),
        testers=True,
    )
    await gateway.swap(made)
    await until(lambda: not gateway.plans["eta"].off)
    async with browser(gateway) as http:
        assert value(await ask(http, unit="u", attributes={"country": "DE"})) == 6.0
        assert {value(await ask(http, unit=f"u{k}")) for k in range(40)} == {4.0, 10.0}
        assert value(await ask(http, unit="u", headers={"x-flyball-arm": "v3"})) == 10.0
        assert value(await ask(http, unit="u", headers={"x-flyball-arm": "champion"})) == 4.0
        wrong = await ask(http, unit="u", headers={"x-flyball-arm": "v9"})
        assert (wrong.status_code, wrong.json()["error"]) == (
            400, "there is no arm 'v9' of eta; it has candidate, champion, v3"
        )  # fmt: skip
    await gateway.close()
    records = kit.records()
    assert {(r.arm, r.why) for r in records} == {
        ("candidate", "segment de"), ("champion", "champion"), ("v3", "variant"), ("v3", "header"),
        ("champion", "header"),
    }  # fmt: skip
    assert gateway.slot.totals(2).requests == sum(r.arm == "v3" for r in records)


@in_loop
async def test_each_row_goes_where_its_own_attributes_say(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    made = table(1, kit.ref("v1"), kit.ref("v2", trusted=False))
    await gateway.swap(routed(made, segments=(Segment("de", where={"c": "DE"}, to="candidate"),)))
    await until(lambda: not gateway.plans["eta"].off)
    async with browser(gateway) as http:
        body = {**infer_body(rows=3), "parameters": {"unit": "u", "attributes": [{"c": "DE"}, {}, {"c": 1}]}}
        assert (await http.post(INFER, json=body)).json()["outputs"][0]["data"] == [6.0, 4.0, 4.0]
    await gateway.close()


@in_loop
async def test_a_failing_variant_is_answered_by_the_champion_and_loses_its_traffic_alone(tmp_path: Path) -> None:
    def fails(matrix: np.ndarray) -> np.ndarray:
        raise RuntimeError("no")

    kit = Kit(tmp_path, v1=double, v2=triple, v3=fails)
    gateway = kit.gateway()
    variant = kit.ref("v3", trusted=False)
    kit.host(variant)._predict = triple  # it comes up well, and fails later
    made = routed(
        table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=0.2),
        variants=(Variant("v3", variant, cut(0.5), BUCKETS),),
    )
    await gateway.swap(made)
    await until(lambda: not gateway.plans["eta"].off)
    kit.hosts["v3"]._predict = fails
    async with browser(gateway) as http:
        answers = {value(await ask(http, unit=f"u{k}")) for k in range(60)}
    assert answers == {4.0, 6.0}
    assert gateway.plans["eta"].off == {"v3"}
    assert gateway.slot.veto is None  # the rollout's candidate has done nothing wrong
    await gateway.close()
    records = [r for r in kit.records() if isinstance(r, Prediction)]
    assert {(r.arm, r.fallback, r.version) for r in records if r.error is not None} == {("v3", True, "v1")}
    assert {r.why for r in records if r.why.startswith("variant,")} == {"variant, veto"}


@in_loop
async def test_a_host_that_starts_late_holds_no_table_and_gets_its_traffic_when_it_answers(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    candidate = kit.ref("v2", trusted=False)
    kit.host(candidate).gone = True
    gateway = kit.gateway()
    async with asyncio.timeout(2):
        await gateway.swap(table(1, kit.ref("v1"), candidate, share=1.0))
    assert gateway.slot.acknowledged == 1
    assert gateway.slot.veto.reason is VetoReason.STARTING
    async with browser(gateway) as http:
        assert value(await ask(http, unit="u")) == 4.0
        kit.hosts["v2"].gone = False
        await until(lambda: gateway.slot.veto is None, within=1.0)
        assert value(await ask(http, unit="u")) == 6.0
    await gateway.close()


@in_loop
async def test_the_control_cohort_pays_the_way_to_a_host_and_loses_nothing_when_it_dies(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    made = table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=0.5)
    await gateway.swap(routed(made, control_hosted=True))
    plan = gateway.plans["eta"]
    await until(lambda: plan.control is not None and not plan.off)
    async with browser(gateway) as http:
        before = kit.hosts["v1"].calls
        for k in range(20):
            await ask(http, unit=f"u{k}")
        assert kit.hosts["v1"].calls > before
        kit.hosts["v1"].gone = True
        assert {value(await ask(http, unit=f"u{k}")) for k in range(20)} == {4.0, 6.0}
    await gateway.close()
    records = [r for r in kit.records() if isinstance(r, Prediction) and r.why == "control"]
    assert {r.control for r in records} == {True, False}  # after the death they are ordinary champion rows
    assert not any(r.error or r.fallback for r in records)
    assert gateway.slot.veto is None


@in_loop
async def test_a_candidate_loses_its_traffic_when_its_host_ends_and_before_a_request_meets_it(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    candidate = kit.ref("v2", trusted=False)
    host = kit.host(candidate)
    heard: list = []
    host.when_lost = heard.append
    gateway = kit.gateway()
    await gateway.swap(table(1, kit.ref("v1"), candidate, share=1.0))
    async with browser(gateway) as http:
        assert value(await ask(http, unit="u")) == 6.0
        host.gone = True
        calls = host.calls
        heard[-1]()
        assert gateway.plans["eta"].off == {"candidate"}
        assert gateway.slot.veto.reason is VetoReason.HOST_GONE
        assert value(await ask(http, unit="u")) == 4.0
        assert host.calls == calls
        host.gone = False
        await until(lambda: gateway.slot.veto is None, within=1.0)
        assert value(await ask(http, unit="u")) == 6.0
    await gateway.close()
    assert not [r for r in kit.records() if isinstance(r, Prediction) and r.error]  # nobody was asked in vain


# -- examination and refusal ----------------------------------------------------------------------------------------------


@in_loop
async def test_a_champion_that_cannot_answer_is_refused_and_the_former_one_serves_on(tmp_path: Path) -> None:
    def broken(matrix: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such column")

    kit = Kit(tmp_path, v1=double, v2=broken)
    gateway = kit.gateway()
    await gateway.swap(table(1, kit.ref("v1")))
    with pytest.raises(FlyballError, match="v2 cannot answer its own sample row"):
        await gateway.swap(table(2, kit.ref("v2")))
    assert gateway.slot.refused == (2, VetoReason.LOAD_FAILED)
    assert gateway.slot.total(Counter.SWAPS_REFUSED) == 1
    async with browser(gateway) as http:
        answer = await ask(http)
    assert (value(answer), answer.json()["parameters"]["table_version"]) == (4.0, 1)
    await gateway.swap(table(3, kit.ref("v1")))
    assert gateway.slot.refused is None
    await gateway.close()


@in_loop
async def test_a_champion_slower_than_a_request_may_be_is_refused(tmp_path: Path) -> None:
    idle = threading.Event()

    def slow(matrix: np.ndarray) -> np.ndarray:
        idle.wait(0.05)
        return matrix[:, 0]

    kit = Kit(tmp_path, v1=double, v2=slow)
    gateway = kit.gateway()
    await gateway.swap(table(1, kit.ref("v1")))
    with pytest.raises(FlyballError, match=r"v2 needs .* s for one row, and a whole request may take 0\.01 s"):
        await gateway.swap(table(2, kit.ref("v2"), deadline=0.01))
    assert gateway.slot.refused == (2, VetoReason.SLOW)
    await gateway.close()


def test_parity_is_judged_to_five_digits() -> None:
    check_parity("v1", [1.0, 2.0, float("nan")], np.array([1.000001, 2.0, float("nan")]))
    with pytest.raises(Unlike, match=r"v1 answers its own sample 0\.1 away"):
        check_parity("v1", [1.1], np.array([1.0]))
    with pytest.raises(Unlike, match="in shape"):
        check_parity("v1", [[1.0, 2.0]], np.array([1.0]))
    with pytest.raises(Unlike):
        check_parity("v1", [float("nan")], np.array([1.0]))


@in_loop
async def test_a_new_version_is_warmed_with_the_rows_that_were_served(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    def watched(matrix: np.ndarray) -> np.ndarray:
        seen.append(matrix.copy())
        return matrix[:, 0] * 3.0

    kit = Kit(tmp_path, v1=double, v2=watched)
    gateway = kit.gateway()
    await gateway.swap(table(1, kit.ref("v1")))
    async with browser(gateway) as http:
        for k in range(300):
            await http.post(INFER, json=infer_body(distance=float(k)))
        await gateway.swap(table(2, kit.ref("v2")))
    warmed = max(seen, key=len)
    assert warmed[:, 0].tolist() == [float(k) for k in range(44, 300)]
    await gateway.close()


@in_loop
async def test_the_end_of_a_segment_is_read_from_its_middle(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway()
    await gateway.swap(table(1, kit.ref("v1")))
    async with browser(gateway) as http:
        for k in range(20):
            await http.post(INFER, json=infer_body(distance=float(k)))
    await gateway.close()
    folder = tmp_path / "log" / "w0"
    [path] = folder.glob("*.seg")
    whole = newest_rows(folder, "eta")
    path.write_bytes(path.read_bytes()[37:-5])  # begins and ends within a frame
    cut_ = newest_rows(folder, "eta")
    assert [r.id for r in cut_] == [r.id for r in whole][1:-1]
    assert newest_rows(folder, "other") == []
    matrix = matrix_of(cut_, {"v1": ("distance", "zone")}, ("zone", "new", "distance"), np.full((1, 3), 7.0))
    assert matrix[0].tolist() == [74.0, 7.0, 1.0]


# -- models out of service and asleep -------------------------------------------------------------------------------------


@in_loop
async def test_a_model_taken_out_of_service_answers_503_and_comes_back(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway()
    made = table(1, kit.ref("v1"))
    await gateway.swap(routed(made, unloaded=True))
    async with browser(gateway) as http:
        answer = await ask(http)
        assert answer.status_code == 503
        assert "taken out of service" in answer.json()["error"]
        await gateway.swap(table(2, kit.ref("v1")))
        assert value(await ask(http)) == 4.0
    await gateway.close()


@in_loop
async def test_a_model_asleep_is_loaded_once_by_its_first_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = Kit(tmp_path, v1=double)
    cache = kit.cache()
    monkeypatch.setattr(cache, "eager", lambda refs: [])
    gateway = Gateway(cache, read_with=FieldReader)
    await gateway.swap(table(1, kit.ref("v1")))
    assert gateway.plans == {}
    assert gateway.slot.acknowledged == 1
    plans = await asyncio.gather(*(gateway.tables.plan("eta") for _ in range(5)))
    assert kit.loads == ["v1"]
    assert len({id(plan) for plan in plans}) == 1
    async with browser(gateway) as http:
        assert value(await ask(http)) == 4.0
    with pytest.raises(KeyError):
        await gateway.tables.plan("nope")
    gateway.tables._evicted(plans[0].champion.loaded.ref)
    assert gateway.plans == {}
    assert INFER not in gateway.tables.infer
    kit.models["v2"] = triple
    await gateway.swap(table(2, kit.ref("v2")))  # asleep or not: another champion is loaded before it is in force
    assert gateway.plans["eta"].champion.version == "v2"
    await gateway.close()


# -- leaks and load -------------------------------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@in_loop
async def test_fifty_swaps_there_and_back_leave_nothing_behind(tmp_path: Path) -> None:
    heavy: weakref.WeakSet[Heavy] = weakref.WeakSet()

    class Heavy:
        def __init__(self, factor: float) -> None:
            self.weights = np.full(500_000, factor)
            heavy.add(self)

        def predict(self, matrix: np.ndarray) -> np.ndarray:
            return matrix[:, 0] * self.weights[0]

    kit = Kit(tmp_path, v1=double)
    refs = [kit.ref("v1"), kit.ref("v2")]
    kit.load = lambda ref: Heavy(2.0 if ref.version == "v1" else 3.0)
    gateway = kit.gateway()
    async with browser(gateway) as http:
        for n in range(1, 11):
            await gateway.swap(table(n, refs[n % 2]))
        gc.collect()
        memory, threads, files = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
        for n in range(11, 61):
            await gateway.swap(table(n, refs[n % 2]))
            assert value(await ask(http)) == (4.0 if n % 2 == 0 else 6.0)
        gc.collect()
        assert threading.active_count() <= threads + 1
        assert len(os.listdir("/proc/self/fd")) <= files + 1
        assert len(heavy) <= 2
        assert resident() - memory < 20 * 4_000_000  # of the 200 MB that came and went
    await gateway.close()


@in_loop
async def test_swaps_under_load_fail_no_request_and_each_value_is_of_the_version_named(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    refs = [kit.ref("v1"), kit.ref("v2")]
    gateway = kit.gateway()
    await gateway.swap(table(1, refs[1]))
    wanted = {"v1": 4.0, "v2": 6.0}
    answers: list[tuple[str, float]] = []
    done = False

    async def caller(http: httpx.AsyncClient) -> None:
        while not done:
            answer = await ask(http)
            answers.append((answer.json()["model_version"], value(answer)))

    async with browser(gateway) as http:
        callers = [asyncio.create_task(caller(http)) for _ in range(8)]
        for n in range(2, 22):
            await gateway.swap(table(n, refs[n % 2]))
            seen = len(answers)
            await until(lambda seen=seen: len(answers) >= seen + 20)
        done = True
        await asyncio.gather(*callers)
    assert len(answers) >= 400
    assert all(wanted[version] == got for version, got in answers)
    assert {version for version, _ in answers} == {"v1", "v2"}
    await gateway.close()
