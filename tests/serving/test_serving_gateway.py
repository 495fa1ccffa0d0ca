from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from serving_kit import Kit, broken, double, infer_body, table, triple, until

from flyball.adapters.local.ipc import PeerGone
from flyball.errors import FlyballError
from flyball.records.types import Outcome, Prediction, Shadow
from flyball.serving.shared.slots import VetoReason
from flyball.testing.in_process import async_client, client

INFER = "/v2/models/eta/infer"


def run(work):
    return asyncio.run(work)


def test_one_row_is_answered_and_logged(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.gateway.shared.domain_time = 1_583_900_000_000_000
        http.call(http.gateway.swap(table(3, kit.ref("v1"))))
        answer = http.post(INFER, json=infer_body(2.5, unit="u1")).json()
    assert answer["model_name"] == "eta"
    assert answer["model_version"] == "v1"
    assert answer["outputs"] == [{"name": "prediction", "datatype": "FP64", "shape": [1], "data": [5.0]}]
    assert answer["parameters"]["table_version"] == 3
    [record] = kit.records()
    assert isinstance(record, Prediction)
    assert record.id == answer["parameters"]["prediction_id"] == answer["id"]
    assert (record.unit, record.at, record.value, record.features) == ("u1", 1_583_900_000_000_000, 5.0, [2.5, 74.0])
    assert (record.arm, record.why, record.inputs) == ("champion", "champion", {"distance": 2.5, "zone": 74})


def test_rows_of_one_request_have_ids_and_may_have_units(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    units = [f"u{i}" for i in range(40)]
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), share=0.5, pair=False)))
        answer = http.post(INFER, json=infer_body(2.0, rows=40, unit=units)).json()
    versions, values = answer["parameters"]["model_versions"], answer["outputs"][0]["data"]
    assert set(versions) == {"v1", "v2"}
    assert values == [4.0 if v == "v1" else 6.0 for v in versions]
    by_id = {r.id: r for r in kit.records()}
    pid = answer["parameters"]["prediction_id"]
    assert [by_id[pid if k == 0 else f"{pid}#{k}"].unit for k in range(40)] == units


def test_predict_takes_rows_or_one_object(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        rows = http.post("/predict", json={"rows": [{"distance": 1, "zone": 2}, {"distance": 2, "zone": 2}]}).json()
        one = http.post("/predict", json={"distance": 3, "zone": 2}).json()
        wrong = http.post("/predict", json={"model": "eta", "rows": [{"distance": 1}]})
        assert http.infer("eta", [{"distance": 1, "zone": 1}], unit="x")["predictions"] == [2.0]
        with pytest.raises(FlyballError, match="no model named 'etaa'"):
            http.infer("etaa", [{"distance": 1, "zone": 1}])
    assert (rows["predictions"], one["predictions"], one["model_version"]) == ([2.0, 4.0], [6.0], "v1")
    assert (wrong.status_code, wrong.json()["error"]) == (400, "row 0 misses the input 'zone' (INT64); send it")


def test_a_failing_candidate_is_answered_by_the_champion_and_vetoed(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=broken)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0)))
        answers = [http.post(INFER, json=infer_body(2.0, unit=f"u{i}")) for i in range(9)]
        veto = gateway.slot.veto
        info = http.get("/model_info").json()["models"]["eta"]
    assert [a.status_code for a in answers] == [200] * 9
    assert all(a.json()["outputs"][0]["data"] == [4.0] for a in answers)
    records = [r for r in kit.records() if isinstance(r, Prediction)]
    assert [r.arm for r in records] == ["candidate"] * 5 + ["champion"] * 4
    assert all(r.fallback and "zone not known" in r.error and r.version == "v1" for r in records[:5])
    assert [r.why for r in records[5:]] == ["veto"] * 4
    assert veto is not None
    assert (veto.reason, veto.table, info["vetoed"]) == (VetoReason.FAILURES, 1, True)
    assert (gateway.slot is not None, http.is_closed) == (True, True)


def test_veto_stays_over_tables_and_ends_with_the_candidate(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=broken)
    gateway = kit.gateway()
    with client(gateway) as http:
        one, two = kit.ref("v1"), kit.ref("v2")
        http.call(gateway.swap(table(1, one, two, share=1.0)))
        for i in range(5):
            http.post(INFER, json=infer_body(unit=f"u{i}"))
        http.call(gateway.swap(table(2, one, two, share=1.0)))
        assert gateway.plans["eta"].vetoed
        assert gateway.slot.veto.table == 2
        http.call(gateway.swap(table(3, one)))
        assert gateway.slot.veto is None
        http.call(gateway.swap(table(4, one, two, share=1.0)))
        assert not gateway.plans["eta"].vetoed


def test_a_silent_host_costs_the_caller_no_more_than_the_deadline(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0, deadline=0.3)))
        kit.hosts["v2"].hang = True
        answer = http.post(INFER, json=infer_body(unit="u"))
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [4.0])
    assert kit.hosts["v2"].left < 0.28  # of 0.3 s: the champion still has time before the deadline
    [record] = [r for r in kit.records() if isinstance(r, Prediction)]
    assert record.error.startswith("DeadlineExceeded")


def test_a_host_that_is_gone_is_vetoed_at_once_and_comes_back(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()

    async def story():
        async with async_client(gateway) as http:
            await gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0, pair=False))
            kit.hosts["v2"].gone = True
            first = await http.post(INFER, json=infer_body(unit="u"))
            vetoed = gateway.slot.veto
            second = await http.post(INFER, json=infer_body(unit="u"))
            kit.hosts["v2"].gone = False
            await until(lambda: gateway.slot.veto is None)
            third = await http.post(INFER, json=infer_body(unit="u"))
            await gateway.close()
            return vetoed, [a.json()["outputs"][0]["data"][0] for a in (first, second, third)]

    vetoed, values = run(story())
    assert vetoed.reason is VetoReason.HOST_GONE
    assert values == [4.0, 4.0, 6.0]


def test_shadow_and_pair_are_logged_after_the_answer(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), shadow=1.0)))
        shadowed = http.post(INFER, json=infer_body(2.0, unit="a")).json()
        http.call(gateway.swap(table(2, kit.ref("v1"), kit.ref("v2"), share=1.0)))
        paired = http.post(INFER, json=infer_body(2.0, unit="b")).json()
    shadows = {r.id: r for r in kit.records() if isinstance(r, Shadow)}
    first, second = shadows[shadowed["id"]], shadows[paired["id"]]
    assert (first.version, first.value, first.table) == ("v2", 6.0, 1)
    assert (second.version, second.value, second.table) == ("v1", 4.0, 2)
    assert gateway.slot is not None


def test_shadow_rows_beyond_the_queue_are_dropped_and_counted(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    gateway._shadows._limit = 10

    async def story():
        async with async_client(gateway) as http:
            await gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), shadow=1.0))
            await http.post(INFER, json=infer_body(rows=25, unit=[f"u{i}" for i in range(25)]))
            await gateway._shadows.idle()
            counts = gateway.slot.shadow_sent, gateway.slot.shadow_dropped
            await gateway.close()
            return counts

    assert run(story()) == (10, 15)


def test_the_kill_switch_takes_effect_with_the_next_request(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"), share=1.0, pair=False)))
        before = http.post(INFER, json=infer_body(2.0, unit="a")).json()["model_version"]
        gateway.shared.kill_switch = True
        after = http.post(INFER, json=infer_body(2.0, unit="a")).json()["model_version"]
    assert (before, after) == ("v2", "v1")
    assert [r.why for r in kit.records()] == ["share", "kill switch"]


def test_a_failing_champion_is_a_500_with_a_record(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=broken)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        answer = http.post(INFER, json=infer_body(unit="u"))
    assert answer.status_code == 500
    assert answer.json()["error"] == "the model failed: RuntimeError: zone not known"
    [record] = kit.records()
    assert (record.value, record.fallback, record.error) == (None, False, "RuntimeError: zone not known")


def test_a_bad_row_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=broken)
    gateway = kit.gateway()

    async def story():
        async with async_client(gateway) as http:
            await gateway.swap(table(1, kit.ref("v1")))
            zones = [1, 1, 5, 1, 1, 1, 7, 1]
            answers = await asyncio.gather(*(http.post(INFER, json=infer_body(1.0, z, unit=str(z))) for z in zones))
            await gateway.close()
            return [a.status_code for a in answers]

    assert run(story()) == [200, 200, 500, 200, 200, 200, 500, 200]


def test_nan_and_wrong_shapes_are_errors_of_the_candidate(tmp_path: Path) -> None:
    outputs = {"nan": lambda m: m[:, 0] * np.nan, "shape": lambda m: np.ones((len(m) + 1,))}
    for name, predict in outputs.items():
        kit = Kit(tmp_path / name, v1=double, v2=predict)
        with client(kit.gateway()) as http:
            http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0)))
            assert http.post(INFER, json=infer_body(2.0, unit="u")).json()["outputs"][0]["data"] == [4.0]
        [record] = [r for r in kit.records() if isinstance(r, Prediction)]
        assert (record.arm, record.fallback) == ("candidate", True), name


def test_a_candidate_that_cannot_be_loaded_does_not_stop_a_swap(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway()
    with client(gateway) as http:
        bad = kit.ref("v2")
        kit.models["v2"] = lambda m: 1 / 0
        http.call(gateway.swap(table(1, kit.ref("v1"), bad, share=1.0)))
        assert gateway.slot.acknowledged == 1
        assert gateway.slot.veto.reason is VetoReason.LOAD_FAILED
        assert http.post(INFER, json=infer_body(unit="u")).json()["model_version"] == "v1"
    assert kit.records()[0].why == "veto"


def test_a_champion_that_cannot_be_loaded_leaves_the_old_table(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=lambda m: 1 / 0)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        with pytest.raises(FlyballError, match="cannot answer its own sample"):
            http.call(gateway.swap(table(2, kit.ref("v2"))))
        assert http.post(INFER, json=infer_body()).json()["parameters"]["table_version"] == 1
        assert gateway.slot.acknowledged == 1


def test_swaps_under_traffic_fail_no_request_and_unload_what_is_old(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()

    async def story():
        one, two = kit.ref("v1"), kit.ref("v2")
        await gateway.swap(table(1, one))
        seen: set[tuple[str, float]] = set()
        statuses: set[int] = set()
        done = False

        async def caller(http):
            while not done:
                answer = await http.post(INFER, json=infer_body(1.0))
                statuses.add(answer.status_code)
                seen.add((answer.json()["model_version"], answer.json()["outputs"][0]["data"][0]))

        async with async_client(gateway) as http, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(caller(http))
            for version in range(2, 22):
                await gateway.swap(table(version, two if version % 2 else one))
            done = True
        loaded = list(gateway.tables._models._loaded)
        await gateway.close()
        return seen, statuses, loaded, two

    seen, statuses, loaded, two = run(story())
    assert statuses == {200}
    assert seen <= {("v1", 2.0), ("v2", 3.0)}
    assert loaded == [(two.digest, True)]


def test_watch_follows_the_map_and_a_newer_table_ends_a_slow_swap(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()

    async def story():
        one = kit.ref("v1")
        slow = kit.ref("v2", trusted=False)
        kit.host(slow).hang = True
        tables = {1: table(1, one), 2: table(2, one, slow, share=0.5), 3: table(3, one)}
        watch = asyncio.create_task(gateway.watch(tables.__getitem__, interval=0.002))
        gateway.shared.table_version = 1
        await until(lambda: gateway.slot.acknowledged == 1)
        gateway.shared.table_version = 2
        await until(lambda: kit.hosts["v2"].calls > 0)
        gateway.shared.table_version = 3
        await until(lambda: gateway.slot.acknowledged == 3)  # long before the host would answer
        beat = gateway.slot.heartbeat
        await until(lambda: gateway.slot.heartbeat > beat)
        watch.cancel()
        await gateway.close()

    run(story())


def test_key_is_needed_except_for_health(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(key=b"secret")) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        codes = [
            http.post(INFER, json=infer_body(), headers=headers).status_code
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "Bearer secret"},
                {"x-api-key": "secret"},
            )
        ]
        assert codes == [401, 401, 200, 200]
        assert [http.get(p).status_code for p in ("/health", "/v2/health/ready", "/model_info")] == [200, 200, 401]


def test_paths_methods_types_and_sizes(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(max_body=2000)) as http:
        assert http.get("/v2/health/ready").status_code == 200  # nothing is wanted yet
        http.gateway.shared.table_version = 1
        assert http.get("/v2/health/ready").status_code == 503
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        got = {
            "unknown path": http.get("/nope").status_code,
            "unknown model": http.post("/v2/models/eat/infer", json=infer_body()).status_code,
            "method": http.get(INFER).status_code,
            "type": http.post(INFER, content=b"{}", headers={"content-type": "text/plain"}).status_code,
            "size": http.post(INFER, json=infer_body(rows=2000)).status_code,
            "json": http.post(INFER, content=b"{", headers={"content-type": "application/json"}).status_code,
        }
        hint = http.post("/v2/models/eat/infer", json=infer_body()).json()["error"]
        allow = http.delete("/predict").headers["allow"]
        meta = http.get("/v2/models/eta").json()
        assert [http.get(p).status_code for p in ("/v2", "/v2/health/live", "/v2/models/eta/ready")] == [200] * 3
    assert got == {"unknown path": 404, "unknown model": 404, "method": 405, "type": 415, "size": 413, "json": 400}
    assert hint == "no model named 'eat' is served; did you mean eta?"
    assert allow == "POST"
    assert [(i["name"], i["datatype"]) for i in meta["inputs"]] == [("distance", "FP64"), ("zone", "INT64")]


def test_a_pinned_version_is_served_and_kept_out_of_comparisons(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    with client(kit.gateway()) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"), kit.ref("v2"))))
        answer = http.post("/v2/models/eta/versions/v2/infer", json=infer_body(2.0)).json()
        missing = http.post("/v2/models/eta/versions/v9/infer", json=infer_body())
    assert (answer["model_version"], missing.status_code) == ("v2", 404)
    assert (kit.records()[0].arm, kit.records()[0].why) == ("pinned", "version")


def test_outcomes_are_in_the_log_when_acknowledged(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway()) as http:
        rows = [{"prediction_id": "abc#0", "value": 12, "event_time": "2020-03-11T08:00:00Z"},
                {"prediction_id": "abc#1", "value": 1.5, "event_time": 1583913600000000, "revision": 2}]  # fmt: skip
        assert http.post("/v1/outcomes", json=rows).json() == {"accepted": 2}
        written = [r for r in kit.records() if isinstance(r, Outcome)]
        bad = http.post("/v1/outcomes", json={"prediction_id": "x", "value": 1, "event_time": "soon"})
    assert [(o.id, o.value, o.event, o.revision) for o in written] == [
        ("abc", 12.0, 1583913600000000, 0),
        ("abc#1", 1.5, 1583913600000000, 2),
    ]
    assert (bad.status_code, "soon" in bad.json()["error"]) == (400, True)


def test_events_are_forwarded_as_list_or_lines(tmp_path: Path) -> None:
    seen = []

    async def push(source, rows):
        seen.append((source, rows))
        return {"accepted": len(rows)}

    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(push=push)) as http:
        lines = {"content-type": "application/x-ndjson"}
        first = http.post("/v1/sources/trips/events", json=[{"a": 1}, {"a": 2}])
        second = http.post("/v1/sources/trips/events", content=b'{"a": 3}\n{"a": 4}\n', headers=lines)
    assert [first.json(), second.json()] == [{"accepted": 2}] * 2
    assert seen == [("trips", [{"a": 1}, {"a": 2}]), ("trips", [{"a": 3}, {"a": 4}])]


def test_metrics_speak_for_all_slots(tmp_path: Path) -> None:
    from flyball.serving.shared.slots import SharedMap

    shared = SharedMap.create(tmp_path / "map", slots=3)
    shared.slot(2).claim()
    shared.slot(2).count(0, 100, 1)
    kit = Kit(tmp_path, v1=double)
    with client(kit.gateway(shared=shared, slot=0)) as http:
        http.call(http.gateway.swap(table(1, kit.ref("v1"))))
        http.post(INFER, json=infer_body(rows=3))
        text = http.get("/metrics").text
    assert 'flyball_requests_total{worker="0",arm="champion"} 1' in text
    assert 'flyball_rows_total{worker="0",arm="champion"} 3' in text
    assert 'flyball_requests_total{worker="2",arm="champion"} 1' in text
    assert 'worker="1"' not in text


def test_shadow_rows_for_a_host_that_is_away_are_dropped_and_blame_nobody(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()

    async def story():
        async with async_client(gateway) as http:
            await gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), shadow=1.0))
            answers = []
            for sent in (True, False):  # with the host when it died; no host to send them to
                kit.hosts["v2"].gone = PeerGone("the host is gone", sent=sent)
                answers.append((await http.post(INFER, json=infer_body(2.0, rows=3))).json()["id"])
                await gateway._shadows.idle()
            counts = gateway.slot.shadow_sent, gateway.slot.shadow_dropped
            await gateway.close()
            return answers, counts

    answers, counts = run(story())
    blamed = [r.id for r in kit.records() if isinstance(r, Shadow) and r.error]
    assert blamed == [answers[0]]  # one death is one failure, whatever was under way
    assert counts == (1, 5)


def test_an_outcome_is_not_acknowledged_when_the_disk_is_full(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double)
    gateway = kit.gateway()

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"))))
        gateway.log._segments.append, append = full, gateway.log._segments.append
        predicted = http.post(INFER, json=infer_body())
        row = {"prediction_id": predicted.json()["id"], "value": 1.0, "event_time": "2026-01-01T00:00:00Z"}
        refused = http.post("/v1/outcomes", json=[row])
        gateway.log._segments.append = append
        taken = http.post("/v1/outcomes", json=[row])
    assert (predicted.status_code, refused.status_code, taken.status_code) == (200, 503, 200)
    assert [r.id for r in kit.records() if isinstance(r, Outcome)] == [row["prediction_id"]]


def test_a_request_for_a_host_that_is_away_is_the_first_vetoed_one_and_no_failure(tmp_path: Path) -> None:
    kit = Kit(tmp_path, v1=double, v2=triple)
    gateway = kit.gateway()

    async def story():
        async with async_client(gateway) as http:
            await gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0, pair=False))
            kit.hosts["v2"].gone = PeerGone("there is no host", sent=False)
            answers = [await http.post(INFER, json=infer_body(2.0, unit=f"u{i}")) for i in range(3)]
            veto = gateway.slot.veto
            await gateway.close()
            return [a.json()["outputs"][0]["data"] for a in answers], veto

    values, veto = run(story())
    assert values == [[4.0]] * 3
    assert veto.reason is VetoReason.HOST_GONE
    records = [r for r in kit.records() if isinstance(r, Prediction)]
    assert [(r.arm, r.why, r.error) for r in records] == [("champion", "veto", None)] * 3


@pytest.mark.parametrize(
    "answer", [lambda m: np.ones((len(m), 3)), lambda m: np.full(len(m), 1 + 2j), lambda m: np.array(["1.0"] * len(m)),
               lambda m: 3.0, lambda m: None, lambda m: np.ma.masked_all(len(m)), lambda m: np.ones(len(m) + 1), lambda m: np.full(len(m), np.inf)],
    ids=["wide", "complex", "text", "scalar", "nothing", "masked", "too many", "infinite"],
)  # fmt: skip
def test_callers_never_see_a_candidate_answer_of_another_kind(tmp_path: Path, answer) -> None:
    kit = Kit(tmp_path, v1=double, v2=answer)
    gateway = kit.gateway()
    with client(gateway) as http:
        http.call(gateway.swap(table(1, kit.ref("v1"), kit.ref("v2", trusted=False), share=1.0, pair=False)))
        got = [http.post(INFER, json=infer_body(2.0, unit=f"u{i}", rows=2)).json() for i in range(3)]
    assert [a["outputs"][0]["data"] for a in got] == [[4.0, 4.0]] * 3
    records = [r for r in kit.records() if isinstance(r, Prediction)]
    assert all(r.arm == "candidate" and r.fallback and r.error for r in records)
